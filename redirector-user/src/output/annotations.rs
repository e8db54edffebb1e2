//! Findings a line each, for programs that show them beside the text.

use redirector_core::diag::{Diagnostic, Severity};

use super::{plain, short};

/// `file:line:column: severity[code]: message`, as compilers write it; what
/// concerns a whole file is told of its beginning.
pub fn line(finding: &Diagnostic) -> String {
    let place = match &finding.file {
        Some(file) => {
            format!("{}:{}:{}: ", plain(file), finding.line.max(1), finding.column.max(1))
        }
        None => String::new(),
    };
    format!("{place}{}[{}]: {}\n", finding.severity.as_str(), finding.code, short(&finding.message))
}

/// A workflow command of GitHub, which shows the finding at its line.
pub fn github(finding: &Diagnostic) -> String {
    let command = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "notice",
    };
    let mut properties = Vec::new();
    if let Some(file) = &finding.file {
        properties.push(format!("file={}", property(file)));
        if finding.line > 0 {
            properties.push(format!("line={}", finding.line));
            if finding.column > 0 {
                properties.push(format!("col={}", finding.column));
            }
        }
    }
    properties.push(format!("title={}", property(finding.code)));
    let help = finding.help.as_ref().map_or_else(String::new, |help| format!("\nhelp: {help}"));
    let message = data(&format!("{}{help}", finding.message));
    format!("::{command} {}::{message}\n", properties.join(","))
}

/// What stands behind a workflow command: it ends with the line.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// The value of a property, which also ends at a comma or a colon.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use redirector_core::diag::codes::references::UNKNOWN_HOST;

    fn finding(message: &str, file: Option<&str>) -> Diagnostic {
        let mut finding = Diagnostic::new(&UNKNOWN_HOST, message);
        finding.file = file.map(Into::into);
        (finding.line, finding.column) = (3, 7);
        finding
    }

    #[test]
    fn editors_get_one_line_for_each_finding() {
        let one = finding("no\nhost", Some("rules/a.yaml"));
        let text = line(&one);
        assert!(text.starts_with("rules/a.yaml:3:7: warning[RD3005]: no"), "{text}");
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let whole = Diagnostic { line: 0, column: 0, ..one };
        assert!(line(&whole).starts_with("rules/a.yaml:1:1: "));
        assert!(line(&finding("none", None)).starts_with("warning[RD3005]: none"));
    }

    #[test]
    fn nothing_in_a_finding_ends_a_workflow_command_or_begins_another() {
        let mut one = finding("50% of\r\n::error::it", Some("a,b:c\n.yaml"));
        one.help = Some("try\nthis".to_owned());
        assert_eq!(
            github(&one),
            "::warning file=a%2Cb%3Ac%0A.yaml,line=3,col=7,title=RD3005::\
             50%25 of%0D%0A::error::it%0Ahelp: try%0Athis\n"
        );
    }
}
