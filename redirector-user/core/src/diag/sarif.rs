//! Findings as SARIF 2.1.0, which code hosts and CI systems read.

use serde_json::{Value, json};

use super::{Diagnostic, Severity, codes};

/// A SARIF log of one run. `version` is that of this program.
pub fn log(diagnostics: &[Diagnostic], version: &str) -> Value {
    let mut used: Vec<&str> = diagnostics.iter().map(|finding| finding.code).collect();
    used.sort_unstable();
    used.dedup();
    let rules: Vec<Value> = used.iter().filter_map(|id| codes::find(id)).map(rule).collect();
    let results: Vec<Value> = diagnostics
        .iter()
        .map(|finding| result(finding, used.binary_search(&finding.code).ok()))
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "redirector", "version": version, "rules": rules}},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

fn rule(code: &'static codes::Code) -> Value {
    let mut rule = json!({
        "id": code.id,
        "shortDescription": {"text": code.title},
        "fullDescription": {"text": code.meaning},
        "help": {"text": code.mend, "markdown": code.page()},
        "defaultConfiguration": {"level": level(code.severity)},
    });
    if let Some(istio) = code.istio {
        rule["properties"] = json!({"istio": istio});
    }
    rule
}

fn result(finding: &Diagnostic, rule: Option<usize>) -> Value {
    let mut text = finding.message.clone();
    if let Some(help) = &finding.help {
        text.push_str("\nHelp: ");
        text.push_str(help);
    }
    let mut result = json!({
        "ruleId": finding.code,
        "level": level(finding.severity),
        "message": {"text": text},
    });
    if let Some(rule) = rule {
        result["ruleIndex"] = rule.into();
    }
    let mut location = json!({});
    if let Some(file) = &finding.file {
        let mut physical = json!({"artifactLocation": {"uri": uri(file)}});
        if finding.line > 0 {
            physical["region"] = json!({"startLine": finding.line});
            if finding.column > 0 {
                physical["region"]["startColumn"] = finding.column.into();
            }
        }
        location["physicalLocation"] = physical;
    }
    if let Some(object) = &finding.object {
        let name = if finding.path.is_empty() {
            object.to_string()
        } else {
            format!("{object} {}", finding.path)
        };
        location["logicalLocations"] = json!([{"fullyQualifiedName": name}]);
    }
    if location != json!({}) {
        result["locations"] = json!([location]);
    }
    result
}

/// A path as a URI: relative ones stay relative to where the command ran.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    if path.starts_with('/') {
        uri.push_str("file://");
    }
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::super::Subject;
    use super::*;

    #[test]
    fn a_finding_becomes_a_result_with_its_rule_and_place() {
        let mut finding =
            Diagnostic::new(&codes::admission::BAD_PORT, "port 70000").help("write a port");
        finding.file = Some("rules/a b.yaml".into());
        (finding.line, finding.column) = (3, 7);
        finding.object = Some(Subject::Other("VirtualService/default/echo".into()));
        finding.path = "spec.tcp[0]".to_owned();
        let log = log(&[finding], "1.2.3");
        let run = &log["runs"][0];
        assert_eq!(run["tool"]["driver"]["rules"][0]["id"], "RD2009");
        let result = &run["results"][0];
        assert_eq!(result["level"], "error");
        assert_eq!(result["ruleIndex"], 0);
        let physical = &result["locations"][0]["physicalLocation"];
        assert_eq!(physical["artifactLocation"]["uri"], "rules/a%20b.yaml");
        assert_eq!(physical["region"], json!({"startLine": 3, "startColumn": 7}));
    }
}
