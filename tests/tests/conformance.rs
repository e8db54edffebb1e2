//! The conformance samples (tests/conformance), each a test of its own: what
//! `redirector check` and `redirector explain --config` say about them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Failed, Trial};
use redirector::cli::{self, Context, Env};
use serde::Deserialize;
use serde_json::Value;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::from_args();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let mut trials = Vec::new();
    for entry in samples.join("documents").read_dir()? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        trials.push(Trial::test(format!("documents::{name}"), move || judge_document(&path)));
    }
    for line in std::fs::read_to_string(samples.join("routing.jsonl"))?.lines() {
        let case: Case = serde_json::from_str(line)?;
        trials.push(Trial::test(format!("routing::{}", case.name), move || judge_case(&case)));
    }
    trials.sort_by(|one, other| one.name().cmp(other.name()));
    libtest_mimic::run(&arguments, trials).exit();
}

/// What the command answers: exit code, standard output, standard error.
fn redirector<S: Into<OsString>>(args: impl IntoIterator<Item = S>) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut context = Context { env: Env::default(), out: &mut out, err: &mut err };
    let args = std::iter::once("redirector".into()).chain(args.into_iter().map(Into::into));
    let exit = cli::run(args, &mut context).code();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (exit, text(out), text(err))
}

/// The comment on top of a document.
#[derive(Debug, Default)]
struct Verdict {
    expect: String,
    scope: String,
    codes: Vec<String>,
}

impl Verdict {
    fn read(text: &str) -> Self {
        let mut verdict = Self::default();
        for line in text.lines().map_while(|line| line.strip_prefix("# ")) {
            match line.split_once(": ") {
                Some(("expect", value)) => verdict.expect = value.trim().to_owned(),
                Some(("scope", value)) => verdict.scope = value.trim().to_owned(),
                Some(("code", value)) => {
                    verdict.codes = value.split(',').map(|code| code.trim().to_owned()).collect();
                }
                _ => {}
            }
        }
        verdict
    }
}

fn judge_document(path: &Path) -> Result<(), Failed> {
    let verdict = Verdict::read(&std::fs::read_to_string(path)?);
    let args = ["check".into(), "--output".into(), "json".into(), path.as_os_str().to_owned()];
    let (exit, out, err) = redirector(args);
    let answer: Value = serde_json::from_str(&out)
        .map_err(|error| format!("no JSON ({error}), exit code {exit}\n{out}{err}"))?;
    let diagnostics = answer["diagnostics"].as_array().cloned().unwrap_or_default();
    let count =
        |severity: &str| diagnostics.iter().filter(|one| one["severity"] == severity).count();
    let codes: Vec<_> = diagnostics.iter().filter_map(|one| one["istio"].as_str()).collect();
    let stricter_is_fine = verdict.scope != "l4";
    let good = match verdict.expect.as_str() {
        "reject" => count("error") > 0 && exit == 1,
        _ if stricter_is_fine && count("error") > 0 => exit == 1,
        "warn" => {
            let has = |code: &String| codes.contains(&code.as_str());
            exit == 0
                && count("error") == 0
                && count("warning") > 0
                && verdict.codes.iter().all(has)
        }
        "accept" => exit == 0 && count("error") == 0 && (codes.is_empty() || stricter_is_fine),
        other => return Err(format!("the sample expects \"{other}\"").into()),
    };
    if good {
        return Ok(());
    }
    Err(format!("expected {verdict:?}, exit code {exit}, got\n{answer:#}").into())
}

/// A line of routing.jsonl.
#[derive(Deserialize)]
struct Case {
    name: String,
    why: String,
    config: String,
    source: Option<Source>,
    gateway: Option<String>,
    destination: String,
    expect: Expect,
}

#[derive(Deserialize)]
struct Source {
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Expect {
    #[serde(default)]
    endpoints: BTreeMap<String, f64>,
    reset_fraction: Option<f64>,
    #[serde(default)]
    passthrough: bool,
    #[serde(default)]
    default_endpoints: BTreeMap<String, f64>,
    #[serde(default)]
    reset: bool,
}

/// A file that goes away.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // A file left in the temporary directory is no reason to fail.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn judge_case(case: &Case) -> Result<(), Failed> {
    let file = format!("redirector-conformance-{}-{}.yaml", std::process::id(), case.name);
    let file = Scratch(std::env::temp_dir().join(file));
    std::fs::write(&file.0, &case.config)?;
    let mut args: Vec<OsString> =
        ["explain", "--output", "json", "--config"].map(Into::into).into();
    args.push(file.0.as_os_str().to_owned());
    args.extend(["--to".into(), (&case.destination).into()]);
    match (&case.gateway, &case.source) {
        (Some(gateway), _) => args.extend(["--gateway".into(), gateway.into()]),
        (None, Some(source)) => {
            args.extend(["--from-namespace".into(), (&source.namespace).into()]);
            for (key, value) in &source.labels {
                args.extend(["--from-label".into(), format!("{key}={value}").into()]);
            }
        }
        (None, None) => {}
    }
    let (exit, out, err) = redirector(args);
    let answer: Value = serde_json::from_str(&out)
        .map_err(|error| format!("no JSON ({error}), exit code {exit}\n{out}{err}"))?;
    if exit == 0 && agrees(&case.expect, &answer) {
        return Ok(());
    }
    let expected = &case.expect;
    Err(format!("{}\nexpected {expected:?}, exit code {exit}, got\n{answer:#}\n{err}", case.why)
        .into())
}

fn agrees(expect: &Expect, answer: &Value) -> bool {
    let verdict = &answer["verdict"];
    let refused = answer["refusedShare"].as_f64().unwrap_or(f64::NAN);
    if expect.reset {
        return verdict == "refuse" && same(refused, 1.0);
    }
    if expect.passthrough {
        return verdict == "passthrough"
            || (verdict == "route" && same_shares(&expect.default_endpoints, answer));
    }
    same_shares(&expect.endpoints, answer)
        && expect.reset_fraction.is_none_or(|fraction| same(refused, fraction))
}

fn same_shares(expected: &BTreeMap<String, f64>, answer: &Value) -> bool {
    let Some(got) = answer["endpoints"].as_object() else { return false };
    let has = |(endpoint, share): (&String, &f64)| {
        got.get(endpoint).and_then(Value::as_f64).is_some_and(|got| same(got, *share))
    };
    got.len() == expected.len() && expected.iter().all(has)
}

/// Equal to six decimals.
fn same(one: f64, other: f64) -> bool {
    (one - other).abs() < 1.5e-6
}
