//! The command line as a stranger uses it: the real program, without privilege.

mod routing_tests;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use redirector_tests::page::steps;
use redirector_tests::redirector::Answer;
use redirector_tests::terminal::Terminal;
use tempfile::TempDir;

fn redirector(args: &[&str]) -> Answer {
    let program = env!("CARGO_BIN_EXE_redirector-under-test");
    let output = Command::new(program)
        .env_clear()
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    output.into()
}

/// A file with this text; the directory has to be kept.
fn file(text: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("rules.yaml");
    fs::write(&path, text).expect("a file is written");
    let path = path.to_string_lossy().into_owned();
    (directory, path)
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  clusterIP: 10.96.0.10
  selector: {app: echo}
  ports:
  - {name: tcp, port: 19000, targetPort: 9000}
";

const RULE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo]
  tcp:
  - route:
    - destination: {host: echo}
      weight: 100
";

const ENTRY: &str = "apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: echo-1}
spec: {address: 10.0.0.1, labels: {app: echo}}
";

#[test]
fn bad_documents_are_refused_with_place_and_reason() {
    let bad: &[(&str, String, &str, &[&str])] = &[
        ("not YAML", "kind: [half\n".into(), ":2:1", &["not YAML"]),
        ("port 70000", SERVICE.replace("19000", "70000"), ":8:23", &["70000", "65535"]),
        ("a negative weight", RULE.replace("100", "-1"), ":9:15", &["weight"]),
        ("a list that is a word", RULE.replace("[echo]", "echo"), ":5:10", &["hosts"]),
    ];
    for (what, text, place, words) in bad {
        let (_directory, path) = file(text);
        let answer = redirector(&["check", &path]);
        assert_eq!(answer.exit, 1, "{what}: {answer:?}");
        assert!(answer.out.contains(&format!("{path}{place}")), "{what}: {}", answer.out);
        for word in *words {
            assert!(answer.out.contains(word), "{what}: {}", answer.out);
        }
        let json = redirector(&["check", "--output", "json", &path]).json();
        assert!(json["errors"].as_u64() > Some(0), "{what}: {json:#}");
    }
}

#[test]
fn an_alias_bomb_and_a_huge_file_are_refused_by_name() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        let all = vec![below; 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{all}]\n"));
    }
    let (_directory, path) = file(&bomb);
    let answer = redirector(&["check", &path]);
    assert_eq!(answer.exit, 1, "{answer:?}");
    assert!(answer.out.contains(&path) && answer.out.contains("1000000 values"), "{}", answer.out);

    let (_directory, path) = file("");
    let huge = fs::File::create(&path).expect("the file");
    huge.set_len(200 << 20).expect("a sparse file");
    let answer = redirector(&["check", &path]);
    assert_eq!(answer.exit, 1, "{answer:?}");
    assert!(answer.out.contains(&path) && answer.out.contains("200 MiB"), "{}", answer.out);
    let answer = redirector(&["hosts", &path]);
    assert_eq!(answer.exit, 1, "{answer:?}");
}

#[test]
fn the_same_object_twice_is_a_warning_and_an_unknown_field_names_the_nearest() {
    let (_directory, path) = file(&format!("{SERVICE}---\n{ENTRY}---\n{SERVICE}"));
    let json = redirector(&["check", "--output", "json", &path]);
    assert_eq!(json.exit, 0, "{json:?}");
    assert!(json.json()["warnings"].as_u64() > Some(0), "{json:?}");

    let (_directory, path) = file(&RULE.replace("weight", "wieght"));
    let answer = redirector(&["check", &path]);
    assert!(answer.out.contains("wieght") && answer.out.contains("weight"), "{}", answer.out);
}

#[test]
fn thousands_of_findings_are_shown_with_their_lines() {
    let rule = |at: usize| {
        format!(
            r#"{{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":
            {{"name":"ü{at}"}},"spec":{{"hosts":["h{at}.x"],"tcp":[{{"route":[{{"destination":
            {{"host":"h{at}.x"}}}}]}}]}}}}"#
        )
        .replace(['\n', ' ', 'ü'], "")
        .replace(
            "\"name\":\"",
            "\"labels\":{\"l\":\"\"},\"annotations\":{\"a\":\"ä\"},\"name\":\"v",
        )
    };
    // Once with a line each, once all on one line: neither may cost more for
    // what stands before it.
    for separator in ["\n---\n", ","] {
        // Where there is a Service, a name of none may be misspelt.
        let service = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"clusterIP":"10.96.0.1","ports":[{"name":"tcp","port":80}]}}"#;
        let items: Vec<String> = (0..5_000).map(rule).chain([service.to_owned()]).collect();
        let mut text = items.join(separator);
        if separator == "," {
            text = format!("{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{text}]}}");
        }
        let (_directory, path) = file(&text);
        let answer = redirector(&["check", &path]);
        let (_, end) = answer.out.trim_end().rsplit_once('\n').unwrap_or_default();
        assert_eq!(end, "5001 documents, 0 errors, 10000 warnings", "{}", answer.err);
        let carets = answer.out.lines().filter(|line| line.trim_end().ends_with('^')).count();
        assert_eq!(carets, 10_000);
        assert_eq!(answer.exit, 0);
    }
}

#[test]
fn a_reader_who_has_seen_enough_does_not_change_the_answer() {
    let (_directory, path) = file(&SERVICE.replace("19000", "70000"));
    for output in ["text", "json", "yaml", "sarif"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_redirector-under-test"))
            .env_clear()
            .args(["check", "--output", output, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        // Nobody reads: it cannot have written yet, since it waits for its input.
        drop(child.stdout.take());
        let mut stdin = child.stdin.take().expect("a pipe");
        std::io::copy(&mut fs::File::open(&path).expect("the file"), &mut stdin).expect("written");
        drop(stdin);
        assert_eq!(child.wait().expect("it ends").code(), Some(1), "{output}");
    }
}

#[test]
fn yaml_says_what_json_says() {
    let (_directory, path) = file(&format!("{SERVICE}---\n{RULE}---\n{ENTRY}"));
    for args in [
        ["check", &path].as_slice(),
        &["check", "--code", "RD3008"],
        &["hosts", &path],
        &["explain", "--config", &path, "--from-namespace", "default", "--to", "10.96.0.10:19000"],
        &["version"],
    ] {
        let json = redirector(&[args, &["--output", "json"]].concat());
        let yaml = redirector(&[args, &["-o", "yaml"]].concat());
        let read: serde_json::Value = serde_yaml::from_str(&yaml.out).expect("YAML");
        assert_eq!((yaml.exit, read), (json.exit, json.json()), "{args:?}: {}", yaml.out);
        assert!(!yaml.out.starts_with(['{', '[']), "{args:?}: {}", yaml.out);
    }
}

#[test]
fn a_form_of_one_command_is_refused_elsewhere() {
    let answer = redirector(&["version", "-o", "sarif"]);
    assert_eq!(answer.exit, 2, "{answer:?}");
    assert!(answer.err.contains("only check") && answer.err.contains("sarif"), "{}", answer.err);
}

#[test]
fn strict_takes_warnings_for_errors_and_other_forms_say_the_same_findings() {
    let (_directory, path) =
        file(&format!("{SERVICE}---\n{}", RULE.replace("host: echo", "host: ehco")));
    assert_eq!(redirector(&["check", &path]).exit, 0);
    let json = redirector(&["check", "--strict", "--output", "json", &path]);
    assert_eq!((json.exit, &json.json()["warnings"]), (1, &0.into()), "{json:?}");
    let told = json.json()["diagnostics"].as_array().map_or(0, Vec::len);
    for (form, begins) in [("line", format!("{path}:")), ("github", "::".to_owned())] {
        let answer = redirector(&["check", "--output", form, &path]);
        assert_eq!(answer.exit, 0, "{answer:?}");
        assert_eq!(answer.out.lines().count(), told, "{answer:?}");
        assert!(answer.out.lines().all(|line| line.starts_with(&begins)), "{answer:?}");
        assert!(answer.err.contains("2 documents, 0 errors"), "{answer:?}");
    }
    assert_eq!(redirector(&["status", "--output", "line"]).exit, 2);
}

#[test]
fn documents_that_are_a_part_are_completed_and_what_completes_them_is_not_judged() {
    let (_directory, rules) = file(&RULE.replace("host: echo", "host: ehco"));
    let alone = redirector(&["check", "--output", "json", &rules]).json();
    let codes = |answer: &serde_json::Value| -> Vec<String> {
        let all = answer["diagnostics"].as_array().expect("a list");
        all.iter().map(|one| one["code"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(codes(&alone), ["RD3024"], "{alone:#}");
    let bad =
        format!("{SERVICE}---\n{}", SERVICE.replace("19000", "70000").replace("echo", "other"));
    let (_directory, around) = file(&bad);
    let answer =
        redirector(&["check", "--output", "json", &rules, "--with-cluster", &around]).json();
    assert_eq!((&answer["errors"], &answer["documents"]), (&0.into(), &1.into()), "{answer:#}");
    assert!(codes(&answer).contains(&"RD3005".to_owned()), "{answer:#}");
    let twice = redirector(&["check", "-", "--with-cluster", "-"]);
    assert_eq!(twice.exit, 2, "{twice:?}");
}

#[test]
fn a_code_is_explained_for_scripts_too() {
    let page = redirector(&["check", "--code", "rd3008", "--output", "json"]).json();
    assert_eq!((&page["code"], &page["istio"]), (&"RD3008".into(), &"IST0101".into()));
    assert!(page["meaning"].as_str().is_some_and(|text| text.contains("subset")), "{page:#}");
}

#[test]
fn a_kind_that_is_no_string_is_called_so() {
    let (_directory, path) = file("apiVersion: v1\nkind: 5\n");
    let answer = redirector(&["check", &path]);
    assert!(answer.out.contains("kind is a string, this is the number 5"), "{}", answer.out);
}

#[test]
fn what_needs_a_daemon_or_what_one_left_says_that_nothing_is_loaded() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let below = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    for command in
        [["rollback", "1"], ["log-level", "info"], ["rollback", "--list"], ["history", "--all"]]
    {
        let answer = redirector(
            &[&command[..], &["--bpffs", &below("pins"), "--state-dir", &below("state")]].concat(),
        );
        assert_eq!(answer.exit, 4, "{command:?}: {answer:?}");
    }
}

#[test]
fn a_path_that_is_missing_is_named() {
    for args in [
        ["check", "/no/such/file"].as_slice(),
        &["hosts", "/no/such/file"],
        &["explain", "--config", "/no/such/file", "--from-namespace", "a", "--to", "1.2.3.4:5"],
    ] {
        let answer = redirector(args);
        assert_eq!(answer.exit, 1, "{args:?}: {answer:?}");
        let said = format!("{}{}", answer.out, answer.err);
        assert!(said.contains("/no/such/file cannot be read"), "{args:?}: {said}");
    }
}

#[test]
fn no_answer_is_given_from_documents_of_which_one_cannot_be_read() {
    let (_directory, good) = file(&format!("{SERVICE}---\n{RULE}---\n{ENTRY}"));
    let (_tests, tests) =
        file("tests: [{name: any, to: 'echo:19000', expect: {passthrough: true}}]");
    let explain = ["--from-namespace", "default", "--to", "10.96.0.10:19000"];
    for (text, code, place) in [
        ("kind: Service\n\tname: x\n", "RD1001", "2:1"),
        ("kind: Servce\napiVersion: v1\nmetadata: {name: x}\n", "RD1008", "1:7"),
    ] {
        let (_bad, bad) = file(text);
        for command in [
            [&["explain", "--config", &good, &bad][..], &explain].concat(),
            vec!["test", &tests, "--config", &good, &bad],
            vec!["hosts", &good, &bad],
        ] {
            let answer = redirector(&command);
            assert_eq!((answer.exit, answer.out.as_str()), (1, ""), "{command:?}: {answer:?}");
            for words in [&format!("error[{code}"), &format!("{bad}:{place}")] {
                assert!(answer.err.contains(words), "{words}: {answer:?}");
            }
        }
        let answer = redirector(&["check", &good, "--with-cluster", &bad]);
        assert_eq!(answer.exit, 1, "{answer:?}");
        let said = answer.out.split_whitespace().collect::<String>();
        assert!(said.contains(&format!("{bad}:{place}")), "{answer:?}");
        let answer = redirector(&["check", "--output", "json", &good, "--with-cluster", &bad]);
        let json = answer.json();
        assert_eq!((&json["errors"], &json["documents"]), (&1.into(), &3.into()), "{json:#}");
        assert_eq!(json["diagnostics"][0]["code"], code, "{json:#}");
    }
}

#[test]
fn a_share_without_endpoints_is_explained_as_refused() {
    let (_directory, path) = file(&format!("{SERVICE}---\n{RULE}"));
    let args = ["explain", "--config", &path, "--from-namespace", "default", "--to"];
    let answer = redirector(&[&args[..], &["10.96.0.10:19000", "--output", "json"]].concat());
    let json = answer.json();
    assert_eq!(json["verdict"], "refuse", "{json:#}");
    assert_eq!(json["refusedShare"], 1.0);
    assert_eq!(json["rule"]["object"], "VirtualService/default/echo");
    assert_eq!(json["rule"]["line"], 16, "{json:#}");
}

#[test]
fn a_cgroup_that_is_no_workloads_and_not_there_is_said_to_be_so() {
    let (_directory, path) = file(&format!("{SERVICE}---\n{RULE}---\n{ENTRY}"));
    let to = ["--config", &path, "--to", "10.96.0.10:19000", "-o", "json"];
    let explain = |cgroup| redirector(&[&["explain", "--from-cgroup", cgroup], &to[..]].concat());
    let said = explain("/no/such.slice").json()["notes"].to_string();
    assert!(said.contains("has the cgroup /no/such.slice, which is not there"), "{said}");
}

#[test]
fn documents_come_from_standard_input_and_directories_too() {
    use std::io::Write;
    let (directory, _) = file(SERVICE);
    let nested = directory.path().join("below");
    fs::create_dir(&nested).expect("a directory");
    fs::write(nested.join("more.yml"), ENTRY).expect("a file");
    let json = redirector(&["check", "--output", "json", &directory.path().to_string_lossy()]);
    assert_eq!(json.json()["documents"], 2, "{json:?}");

    let mut child = Command::new(env!("CARGO_BIN_EXE_redirector-under-test"))
        .args(["check", "-", "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(SERVICE.as_bytes()).expect("it reads");
    let answer = Answer::from(child.wait_with_output().expect("it ends"));
    assert_eq!(answer.json()["documents"], 1, "{answer:?}");
}

#[test]
fn usage_errors_have_their_own_exit_code() {
    for args in [
        ["explain", "--to", "10.0.0.1:80"].as_slice(),
        &["explain", "--to", "10.0.0.1", "--from-namespace", "a"],
        &["explain", "--to", "10.0.0.1:80", "--from-workload", "nameless"],
        &["check"],
        &["run"],
        &["maps", "everything"],
        &["no-such-command"],
    ] {
        let answer = redirector(args);
        assert_eq!(answer.exit, 2, "{args:?}: {answer:?}");
        assert!(answer.out.is_empty() && answer.err.contains("error"), "{args:?}: {answer:?}");
    }
}

#[test]
fn a_filter_that_can_be_nobodys_name_is_a_usage_error_that_says_what_was_expected() {
    for command in ["connections", "flows"] {
        for (flag, value, expected) in [
            ("--workload", "reports", "NAMESPACE/NAME"),
            ("--workload", "Pod/default/reports", "NAMESPACE/NAME"),
            ("--route", "k1", "VirtualService/NAMESPACE/NAME"),
            ("--route", "VirtualService//k1", "VirtualService/NAMESPACE/NAME"),
            ("--route", "Gateway/shop/k1", "VirtualService/NAMESPACE/NAME"),
            ("--route", "VirtualService/shop/k1 tcp[0]", "VirtualService/NAMESPACE/NAME"),
        ] {
            let answer = redirector(&[command, flag, value]);
            assert_eq!(answer.exit, 2, "{command} {flag} {value}: {answer:?}");
            let said = answer.err.contains(flag) && answer.err.contains(expected);
            assert!(said && answer.out.is_empty(), "{command} {flag} {value}: {answer:?}");
        }
        for (flag, value) in [
            ("--workload", "shop/web-0.two"),
            ("--route", "shop/db.example"),
            ("--route", "VirtualService/shop/k1"),
        ] {
            let answer = redirector(&[command, "--bpffs", "/no/such/pins", flag, value]);
            assert_ne!(answer.exit, 2, "{command} {flag} {value}: {answer:?}");
        }
    }
}

#[test]
fn a_table_of_no_entries_is_a_usage_error_that_says_what_was_expected() {
    for table in [
        "frontends",
        "prefixes",
        "workloads",
        "routes",
        "legs",
        "destinations",
        "endpoints",
        "connections",
    ] {
        let flag = format!("--max-{table}");
        let answer = redirector(&["run", "--config", "/no/such/file", &flag, "0"]);
        assert_eq!(answer.exit, 2, "{flag}: {answer:?}");
        let said = &answer.err;
        assert!(said.contains(&flag) && said.contains("1..=4294967295"), "{said}");
    }
}

#[test]
fn a_bypass_of_nothing_is_told_all_that_it_could_be_of() {
    let answer = redirector(&["bypass"]);
    assert_eq!(answer.exit, 2, "{answer:?}");
    for flag in ["--workload", "--rule", "--end"] {
        let (what, _) = answer.err.split_once("Usage").unwrap_or_default();
        assert!(what.contains(flag), "{flag}: {}", answer.err);
    }
}

#[test]
fn a_directory_without_documents_is_said_to_have_none() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("rules.txt"), SERVICE).expect("a file");
    let path = directory.path().to_string_lossy().into_owned();
    let answer = redirector(&["check", &path]);
    assert_eq!(answer.exit, 0, "{answer:?}");
    assert!(answer.err.contains("no document") && answer.err.contains(&path), "{answer:?}");
    assert!(answer.err.contains(".yaml"), "{answer:?}");
    let json = redirector(&["check", "--output", "json", &path]);
    assert_eq!((json.exit, &json.json()["documents"]), (0, &0.into()), "{json:?}");
    let (_directory, path) = file(SERVICE);
    assert_eq!(redirector(&["check", &path]).err, "");
}

/// A file whose name clears the screen, begins a line and is no UTF-8.
#[test]
fn a_file_name_neither_moves_the_cursor_nor_begins_a_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let name = std::ffi::OsStr::from_bytes(b"a\x1b[2J\nb\xff.yaml");
    fs::write(directory.path().join(name), format!("{SERVICE}---\n{RULE}")).expect("a file");
    let path = directory.path().to_string_lossy().into_owned();
    let args = ["explain", "--config", &path, "--from-namespace", "default"];
    let args = [&args[..], &["--to", "10.96.0.10:19000"]].concat();
    let text = redirector(&args);
    assert!(text.out.contains("a\\u{1b}[2J\\nb\u{fffd}.yaml:"), "{text:?}");
    assert!(!text.out.contains('\x1b'), "{text:?}");
    let json = redirector(&[&args[..], &["--output", "json"]].concat()).json();
    let file = json["rule"]["file"].as_str().expect("a name");
    assert!(file.ends_with("/a\x1b[2J\nb\u{fffd}.yaml"), "{file}");

    let gone = directory.path().join(std::ffi::OsStr::from_bytes(b"\x1b[2Jgone"));
    let answer = redirector(&["hosts", &gone.to_string_lossy()]);
    assert_eq!(answer.exit, 1);
    assert!(!answer.err.contains('\x1b') && answer.err.contains("gone"), "{answer:?}");
}

#[test]
fn nothing_loaded_has_its_own_exit_code() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let pins: PathBuf = directory.path().join("pins");
    for command in ["status", "maps"] {
        let answer = redirector(&[command, "--bpffs", &pins.to_string_lossy()]);
        assert_eq!(answer.exit, 4, "{command}: {answer:?}");
    }
}

/// What of the tour needs root is played by `cargo xtask test package`.
#[test]
fn the_tour_of_the_readme_answers_as_printed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).expect("it is there");
    let clone = tempfile::tempdir().expect("a temporary directory");
    let program = clone.path().join("target/debug/redirector");
    fs::create_dir_all(clone.path().join("target/debug")).expect("a directory");
    symlink(env!("CARGO_BIN_EXE_redirector-under-test"), program).expect("a link");
    symlink(root.join("deploy/examples"), clone.path().join("examples")).expect("a link");
    let steps = steps(&readme, "## A quick tour");
    let steps: Vec<_> = steps.iter().take_while(|one| !one.command.contains("sudo")).collect();
    assert!(steps.len() > 1, "{steps:?}");
    for step in steps {
        let mut shell = Command::new("sh");
        shell.args(["-ec", &step.command]).current_dir(clone.path()).env("COLUMNS", "80");
        let answer = Answer::from(shell.output().expect("a shell"));
        assert_eq!(answer.exit, 0, "{}: {answer:?}", step.command);
        step.compare(&answer.out).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn a_line_is_as_long_as_the_terminal_is_wide_and_a_record_in_a_pipe() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let examples = root.to_string_lossy();
    let long = format!("metadata: {{name: {}}}", "echo-".repeat(12) + "1");
    let (_directory, refused) = file(
        &SERVICE.replace("metadata: {name: echo}", &long).replace("port: 19000", "port: 190000"),
    );
    let from = ["--from-workload", "default/telnet-client-2", "--to", "10.96.0.10:19000"];
    let explain = [&["explain", "--config", &*examples][..], &from].concat();
    let programs = [&explain[..], &["check", &refused], &["explain", "--to", "x"]];
    let program = env!("CARGO_BIN_EXE_redirector-under-test");
    for args in programs {
        let piped = redirector(args);
        let words = |text: &str| text.split_whitespace().collect::<String>();
        let lines = |answer: &Answer| answer.out.lines().count() + answer.err.lines().count();
        let mut before = usize::MAX;
        for columns in [60, 80, 120, 200] {
            let mut command = Command::new(program);
            command.env_clear().env("NO_COLOR", "1").args(args);
            let answer = Terminal::answer(command, columns);
            assert_eq!(answer.exit, piped.exit, "{args:?}: {answer:?}");
            let widest = answer.out.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(columns.into()), "{args:?}: {columns}: {}", answer.out);
            assert!(lines(&answer) <= before, "{args:?}: {columns}: {}", answer.out);
            before = lines(&answer);
            let shown = words(&answer.out);
            for line in piped.out.lines().filter(|line| !line.contains('^')) {
                assert!(shown.contains(&words(line)), "{columns}: {line} in {}", answer.out);
            }
        }
        assert!(lines(&piped) <= before, "{args:?}: {piped:?}");
    }
    assert!(redirector(&explain).out.lines().any(|line| line.len() > 120), "not folded");
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let answer = redirector(&["completions", shell]);
        assert_eq!(answer.exit, 0);
        assert!(answer.out.contains("REDIRECTOR_COMPLETE"), "{shell}: {}", answer.out);
    }
    // As the script of bash has it asked.
    let program = env!("CARGO_BIN_EXE_redirector-under-test");
    let output = Command::new(program)
        .env_clear()
        .envs([("REDIRECTOR_COMPLETE", "bash"), ("_CLAP_COMPLETE_INDEX", "1")])
        .args(["--", "redirector", ""])
        .output();
    let answer = Answer::from(output.expect("the program starts"));
    for command in ["run", "check", "explain", "maps", "status", "unload"] {
        assert!(answer.out.lines().any(|line| line == command), "{command}: {answer:?}");
    }
}
