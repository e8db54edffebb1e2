//! Documents that a person mistypes or an enemy writes: never a panic, never a
//! hang, never silence.

use proptest::prelude::*;
use redirector_core::check::{Report, check};
use redirector_core::model::Spec;
use redirector_core::world::Settings;
use redirector_core::{documents, yaml};

const GOOD: &str = include_str!("corpus/surroundings.yaml");

fn judge(bytes: &[u8]) -> Report {
    match yaml::decode_bytes(bytes) {
        Ok(text) => {
            check(&[documents::read(Some("a.yaml".into()), &text)], &[], &[], &Settings::default())
        }
        Err(error) => check(
            &[],
            &[],
            &[documents::not_text(Some("a.yaml".into()), error)],
            &Settings::default(),
        ),
    }
}

/// Severity, code, line and column of what is found first.
fn first(text: &str) -> (&'static str, u32, u32) {
    let report = judge(text.as_bytes());
    let found = report.diagnostics.iter().find(|d| d.severity.as_str() == "error");
    let found = found.unwrap_or_else(|| panic!("nothing is wrong: {:#?}", report.diagnostics));
    (found.code, found.line, found.column)
}

const HEAD: &str =
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: a\n";

#[test]
fn a_tab_in_the_indentation_is_named_with_its_place() {
    let text = format!("{HEAD}spec:\n\thosts: [a]\n");
    assert_eq!(first(&text), ("RD1001", 6, 1));
    assert!(judge(text.as_bytes()).diagnostics[0].message.contains("tab"));
}

#[test]
fn a_key_that_stands_twice_is_refused_at_the_second() {
    let rest = "  tcp: [{route: [{destination: {host: b}}]}]\n";
    let text = format!("{HEAD}spec:\n  hosts: [a]\n  hosts: [b]\n{rest}");
    assert_eq!(first(&text), ("RD1004", 7, 3));
}

#[test]
fn a_syntax_error_leaves_the_other_documents_alone() {
    let text = format!("{GOOD}---\nspec: [\n---\n{GOOD}");
    let reading = documents::read(None, &text);
    assert!(!reading.complete);
    let whole = documents::read(None, GOOD).objects.len();
    assert_eq!(reading.objects.len(), 2 * whole);
}

#[test]
fn a_word_that_yaml_takes_for_a_boolean_is_explained() {
    let text = format!(
        "{HEAD}spec:\n  hosts: [a]\n  tcp:\n    - route:\n        - destination:\n            host: y\n"
    );
    assert_eq!(first(&text), ("RD1009", 10, 19));
    let report = judge(text.as_bytes());
    let help = report.diagnostics.iter().find(|d| d.code == "RD1009").unwrap().help.clone();
    assert_eq!(help.as_deref(), Some("quote it to make it a string: \"y\""));
}

#[test]
fn wrong_kinds_and_api_versions_are_named() {
    let of = |api: &str, kind: &str| {
        judge(format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: a}}\n").as_bytes())
            .diagnostics
            .iter()
            .map(|d| d.code)
            .next()
    };
    assert_eq!(of("v1", "VirtualService"), Some("RD1006"));
    assert_eq!(of("networking.istio.io/v2", "VirtualService"), Some("RD1006"));
    assert_eq!(of("networking.k8s.io/v1", "VirtualService"), Some("RD1006"));
    assert_eq!(of("istio.io/v1", "DestinationRule"), Some("RD1006"));
    assert_eq!(of("istio.networking.io/v1", "VirtualService"), Some("RD1006"));
    assert_eq!(of("networking.istio.io/v1", "Virtualservice"), Some("RD1008"));
    assert_eq!(of("gateway.networking.k8s.io/v1", "Gateway"), Some("RD1023"));
    assert_eq!(of("gateway.networking.k8s.io/v1", "GatewayClass"), Some("RD1007"));
    assert_eq!(of("networking.istio.io/v1", "EnvoyFilter"), Some("RD1023"));
    assert_eq!(of("networking.istio.io/v1", "HTTPProxy"), Some("RD1008"));
    assert_eq!(of("v1", "list"), Some("RD1008"));
    assert_eq!(of("serving.knative.dev/v1", "Service"), Some("RD1007"));
    assert_eq!(of("apps/v1", "Deployment"), Some("RD1007"));
    assert_eq!(of("networking.istio.io/v1", "Sidecar"), Some("RD4028"));
}

#[test]
fn the_same_documents_are_read_in_every_form_they_come_in() {
    let objects = |bytes: &[u8]| {
        let text = yaml::decode_bytes(bytes).unwrap();
        let reading = documents::read(None, &text);
        assert!(reading.complete, "{:#?}", reading.diagnostics);
        reading
            .objects
            .iter()
            .map(|read| {
                let mut object = (**read.object.as_ref().unwrap()).clone();
                // Lines differ, and nothing else.
                if let Spec::Gateway(gateway) = &mut object.spec {
                    gateway.servers.iter_mut().for_each(|server| server.line = 0);
                }
                object.spec
            })
            .collect::<Vec<_>>()
    };
    let expected = objects(GOOD.as_bytes());
    assert!(expected.len() > 10);
    let crlf = GOOD.replace('\n', "\r\n");
    assert_eq!(objects(crlf.as_bytes()), expected, "CRLF");
    assert_eq!(objects(format!("\u{feff}{GOOD}").as_bytes()), expected, "byte order mark");
    let utf16: Vec<u8> =
        std::iter::once(0xFEFF).chain(GOOD.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    assert_eq!(objects(&utf16), expected, "UTF-16");
    let empty = format!("---\n# nothing\n---\n{GOOD}---\n---\n");
    assert_eq!(objects(empty.as_bytes()), expected, "empty documents");
    let items: String = GOOD
        .split("---\n")
        .map(|document| {
            let mut lines = document.lines();
            let first = lines.next().unwrap_or_default();
            let rest: String = lines.map(|line| format!("    {line}\n")).collect();
            format!("  - {first}\n{rest}")
        })
        .collect();
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{items}");
    assert_eq!(objects(list.as_bytes()), expected, "a List");
}

#[test]
fn json_is_read_with_tabs_and_one_object_behind_the_other() {
    let object = "{\n\t\"apiVersion\": \"v1\", \"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"a\\ud83d\\ude00\"}\n}";
    let fine = object.replace("\\ud83d\\ude00", "");
    assert_eq!(documents::read(None, &fine).objects.len(), 1);
    assert_eq!(documents::read(None, &format!("{fine}\n{fine}")).objects.len(), 2);
    let report = judge(object.as_bytes());
    assert_eq!(report.diagnostics[0].code, "RD1013", "an escape that only JSON has is read");
}

#[test]
fn anchors_and_merges_are_followed_and_bombs_are_refused() {
    let text = "x: &meta\n  name: a\napiVersion: v1\nkind: Namespace\nmetadata:\n  <<: *meta\n  labels: {a: b}\n";
    let reading = documents::read(None, text);
    assert_eq!(&*reading.objects[0].object.as_ref().unwrap().meta.name, "a");
    let mut bomb = String::from("a0: &a0 [x, x]\n");
    for i in 1..60 {
        bomb.push_str(&format!("a{i}: &a{i} [*a{}, *a{}]\n", i - 1, i - 1));
    }
    assert_eq!(first(&bomb).0, "RD1003");
    assert_eq!(first(&"[".repeat(100_000)).0, "RD1003");
}

/// Ten megabytes without a line break, as text, as names, as documents: said
/// to be wrong, shortly.
#[test]
fn ten_megabytes_in_one_line_are_answered_shortly() {
    const SIZE: usize = 10_000_000;
    let host = |host: &str| {
        format!("{HEAD}spec: {{hosts: [{host}], tcp: [{{route: [{{destination: {{host: b}}}}]}}]}}")
    };
    let fill = |with: &str| with.repeat(SIZE / with.len());
    for text in [
        fill("a"),
        fill("\""),
        fill("a: "),
        fill("&a "),
        fill("[]"),
        fill("- "),
        fill("{}{\"a\":1}"),
        host(&fill("a")),
        host(&fill("a.b, ")),
        host(&format!("\"{}\"", fill("\\x41"))),
        format!("{{\"a\": \"{}\"}}", fill("x")),
    ] {
        let report = judge(text.as_bytes());
        assert!(report.errors > 0, "nothing is said of {}", &text[..40]);
        assert!(report.diagnostics.len() < 3000, "{} findings", report.diagnostics.len());
        for finding in &report.diagnostics {
            assert!(finding.message.len() < 500, "a message of {} bytes", finding.message.len());
        }
    }
}

#[test]
fn a_document_without_anything_useful_is_never_passed_over_in_silence() {
    for text in ["a", "[]", "- a", "{}", "kind: Service", "apiVersion: v1", "1", "\"\"", "!!x y"] {
        assert!(!judge(text.as_bytes()).diagnostics.is_empty(), "nothing is said of {text}");
    }
}

#[test]
fn a_list_without_items_is_refused_where_its_items_belong() {
    let list = "apiVersion: v1\nkind: List\n";
    assert_eq!(first(&format!("{list}items: {{a: b}}\n")), ("RD1009", 3, 8));
    assert_eq!(first(list), ("RD1009", 2, 7));
    assert_eq!(first(&format!("{list}items: [null, 5]\n")).0, "RD1005");
    assert_eq!(judge(format!("{list}items: []\n").as_bytes()).errors, 0, "kubectl writes that");
}

#[test]
fn a_file_without_documents_is_told_so() {
    for text in ["", "# nothing\n---\n", "---\n---\n", "   \n", "\u{feff}"] {
        let codes: Vec<_> = judge(text.as_bytes()).diagnostics.iter().map(|d| d.code).collect();
        assert_eq!(codes, ["RD1020"], "{text:?}");
    }
    for example in ["# nothing", "\n  # an example\n#\n# ---\n# kind: Service\n"] {
        assert_eq!(judge(example.as_bytes()).diagnostics, [], "{example:?}");
    }
}

#[test]
fn a_colon_without_a_space_is_explained() {
    let text = format!(
        "{HEAD}spec:\n  hosts: [a]\n  tcp:\n    - route:\n        - destination:\n            host:b\n"
    );
    let report = judge(text.as_bytes());
    let found = report.diagnostics.iter().find(|d| d.code == "RD1009").unwrap();
    assert_eq!(found.help.as_deref(), Some("a colon needs a space behind it"));
}

#[test]
fn an_object_with_endless_findings_is_told_a_thousand_of_them() {
    let hosts: Vec<String> = (0..20_000).map(|n| format!("h{n}.example.com")).collect();
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: b}}\nspec: {{clusterIP: 10.96.0.1, ports: \
         [{{name: tcp, port: 80}}]}}\n---\n{HEAD}spec: {{hosts: [{}], tcp: [{{route: [{{destination: \
         {{host: b}}}}]}}]}}\n",
        hosts.join(", ")
    );
    let report = judge(text.as_bytes());
    let of_objects = report.diagnostics.iter().filter(|d| d.object.is_some());
    assert_eq!(of_objects.count(), 1001);
    assert!(report.diagnostics.iter().any(|d| d.code == "RD1016"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        judge(&bytes);
    }

    #[test]
    fn yaml_like_text_gets_an_answer(text in "([-?:,{}\\[\\]&*!|>'\"%@` \\n\\ta-c0]|<<|---|\\.\\.\\.){0,200}") {
        judge(text.as_bytes());
    }

    /// A good text with a few bytes changed: read or refused, and what is
    /// refused is said.
    #[test]
    fn a_changed_document_is_read_or_complained_of(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..8)
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (at, byte, insert) in changes {
            let at = at.index(bytes.len());
            if insert { bytes.insert(at, byte) } else { bytes[at] = byte }
        }
        if let Ok(text) = yaml::decode_bytes(&bytes) {
            let reading = documents::read(None, &text);
            let refused = reading.objects.iter().filter(|read| read.object.is_none()).count();
            let errors = reading.diagnostics.iter().filter(|d| d.severity.as_str() == "error").count();
            prop_assert!(refused <= errors);
            prop_assert!(reading.complete || errors > 0);
        }
        judge(&bytes);
    }

    /// Every value of a good document replaced by another type.
    #[test]
    fn wrong_types_anywhere_are_survived(
        which in any::<prop::sample::Index>(),
        replacement in prop::sample::select(vec!["y", "[]", "{}", "[null]", "-1", "0x10", "'5'", "{a: {b: [c]}}", "1.5", "~"])
    ) {
        let places: Vec<usize> = GOOD.match_indices(": ").map(|(at, _)| at + 2).collect();
        let at = places[which.index(places.len())];
        let end = GOOD[at..].find([',', '}', ']', '\n']).map_or(GOOD.len(), |n| at + n);
        let text = format!("{}{replacement}{}", &GOOD[..at], &GOOD[end..]);
        judge(text.as_bytes());
    }
}
