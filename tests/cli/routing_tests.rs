//! `redirector test`: exit codes, and what people, scripts and CI systems read.

use std::fs;
use std::path::Path;

use super::{ENTRY, RULE, SERVICE, file, redirector};

/// A file with these tests.
fn tests(text: &str) -> (tempfile::TempDir, String) {
    let (directory, path) = file(text);
    let tests = path.replace("rules.yaml", "tests.yaml");
    fs::rename(path, &tests).expect("renamed");
    (directory, tests)
}

const PASSES: &str = "tests:
- name: <all> go to \"echo\"
  to: echo:19000
  expect: {rule: 'VirtualService/default/echo tcp[0]', endpoints: ['10.0.0.1:9000']}
";

const FAILS: &str = "- name: and none elsewhere
  from: {namespace: default, labels: {app: client}}
  to: 10.96.0.10:19000
  expect:
    shares: {echo: 70%}
";

#[test]
fn the_sections_of_the_demo_pass() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo/routing-tests.yaml");
    let answer = redirector(&["test", &demo.to_string_lossy()]);
    assert_eq!(answer.exit, 0, "{answer:?}");
    let (_, end) = answer.out.trim_end().rsplit_once('\n').expect("several lines");
    assert!(end.ends_with(" tests, 0 failed") && !end.starts_with("0 "), "{}", answer.out);
}

#[test]
fn a_failing_test_is_explained_and_exits_with_1() {
    let (_rules, rules) = file(&format!("{SERVICE}---\n{RULE}---\n{ENTRY}"));
    let (_directory, path) = tests(PASSES);
    let answer = redirector(&["test", &path, "--config", &rules]);
    assert_eq!((answer.exit, answer.err.as_str()), (0, ""), "{answer:?}");
    assert!(answer.out.contains("ok    <all> go") && answer.out.contains("1 test, 0 failed"));

    fs::write(&path, format!("{PASSES}{FAILS}")).expect("written");
    let answer = redirector(&["test", &path, "--config", &rules]);
    assert_eq!(answer.exit, 1, "{answer:?}");
    for words in [
        "FAIL  and none elsewhere",
        "tests.yaml:5",
        "shares: expected echo 70%, got 100%",
        "match VirtualService/default/echo tcp[0]",
        "2 tests, 1 failed",
    ] {
        assert!(answer.out.contains(words), "{words}: {}", answer.out);
    }

    let json = redirector(&["test", &path, "--config", &rules, "--output", "json"]);
    assert_eq!(json.exit, 1);
    let json = json.json();
    assert_eq!((&json["passed"], &json["failed"]), (&1.into(), &1.into()), "{json:#}");
    let failed = &json["tests"][1];
    assert_eq!((&failed["passed"], &failed["line"]), (&false.into(), &5.into()), "{json:#}");
    assert_eq!(failed["differences"][0]["expectation"], "shares", "{json:#}");
    assert_eq!(failed["explanations"][0]["endpoints"]["10.0.0.1:9000"], 1.0, "{json:#}");
    assert_eq!(json["tests"][0]["explanations"], serde_json::json!([]), "{json:#}");

    let junit = redirector(&["test", &path, "--config", &rules, "-o", "junit"]);
    assert_eq!(junit.exit, 1);
    for words in [
        "<testsuites name=\"redirector\" tests=\"2\" skipped=\"0\" failures=\"1\" errors=\"0\">",
        "<testcase name=\"&lt;all&gt; go to &quot;echo&quot;\"",
        "line=\"5\"",
        "<failure message=\"shares: expected echo 70%, got 100%\">",
        "match VirtualService/default/echo tcp[0]",
    ] {
        assert!(junit.out.contains(words), "{words}: {}", junit.out);
    }
}

#[test]
fn a_file_that_is_no_test_runs_none_and_exits_with_2() {
    let (_rules, rules) = file(&format!("{SERVICE}---\n{RULE}---\n{ENTRY}"));
    let (directory, path) = tests(&PASSES.replace("endpoints", "endpiont"));
    let good = directory.path().join("good.yaml");
    fs::write(&good, PASSES).expect("written");
    let all = directory.path().to_string_lossy().into_owned();
    let answer = redirector(&["test", &all, "--config", &rules]);
    assert_eq!((answer.exit, answer.out.as_str()), (2, ""), "{answer:?}");
    for words in [&format!("{path}:4:56"), "did you mean endpoints?", "none was run"] {
        assert!(answer.err.contains(words), "{words}: {}", answer.err);
    }
    // Rules in place of tests, nothing at all, and nothing to decide by.
    for args in [
        ["test", &rules, "--config", &rules].as_slice(),
        &["test", "/no/such/file", "--config", &rules],
        &["test", &good.to_string_lossy()],
        &["test"],
    ] {
        assert_eq!(redirector(args).exit, 2, "{args:?}");
    }
    let answer = redirector(&["test", &good.to_string_lossy(), "--config", "/no/such/file"]);
    assert_eq!(answer.exit, 1, "{answer:?}");
    assert!(answer.err.contains("/no/such/file cannot be read"), "{answer:?}");
}

#[test]
fn tests_bring_documents_of_their_own_which_lie_beside_them() {
    let (directory, rules) = file(&format!("{SERVICE}---\n{RULE}"));
    let below = directory.path().join("tests");
    fs::create_dir(&below).expect("a directory");
    fs::write(below.join("entry.yml"), ENTRY).expect("written");
    let path = below.join("tests.yaml");
    let with = |config: &str| {
        fs::write(&path, format!("config: [{config}]\n{PASSES}")).expect("written");
        redirector(&["test", &path.to_string_lossy(), "--config", &rules])
    };
    assert_eq!(with("entry.yml").exit, 0);
    let without = with("");
    assert_eq!(without.exit, 1, "{without:?}");
    assert!(without.out.contains("refused: expected nothing refused, got 100%"), "{without:?}");
}
