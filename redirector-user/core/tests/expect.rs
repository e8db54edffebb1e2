//! Routing tests: what is read, what is refused and where, and what passes.

use std::sync::Arc;

use redirector_core::expect::{Outcome, read};
use redirector_core::registry::Registry;

use crate::support::world;

const DOCUMENTS: &str = "
Service shop/web:
  clusterIPs: [10.96.0.10, fd00::10]
  selector: {app: web}
  ports: [{name: tcp, port: 80}]
Service other/web: {clusterIP: 10.96.0.20, selector: {app: web}, ports: [{name: tcp, port: 80}]}
ServiceEntry shop/db:
  hosts: [db.example.com]
  addresses: [10.97.0.1]
  resolution: DNS
  ports: [{number: 80, name: tcp, protocol: TCP}]
WorkloadEntry shop/v1: {address: 10.0.0.1, labels: {app: web, version: v1}}
WorkloadEntry shop/v1-6: {address: 'fd00::1', labels: {app: web, version: v1}}
WorkloadEntry shop/v2: {address: 10.0.0.2, labels: {app: web, version: v2}}
WorkloadEntry shop/client: {address: 10.0.0.9, labels: {app: client}}
DestinationRule shop/web:
  host: web
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
VirtualService shop/web:
  hosts: [web]
  tcp:
  - match: [{sourceLabels: {app: canary}}]
    route: [{destination: {host: web, subset: v2}}]
  - match: [{sourceLabels: {app: lost}}]
    route:
    - {destination: {host: web, subset: v1}, weight: 2}
    - {destination: {host: web, subset: v3}, weight: 1}
  - route:
    - {destination: {host: web, subset: v1}, weight: 2}
    - {destination: {host: web, subset: v2}, weight: 1}
";

/// What comes of tests; each is written as its fields behind a name.
fn outcomes(tests: &[&str]) -> Vec<Outcome> {
    let tests: Vec<String> = (tests.iter().enumerate())
        .map(|(number, fields)| format!("- name: test {number}\n  {fields}\n"))
        .collect();
    let text = format!("tests:\n{}", tests.concat());
    let suites = read(&"tests.yaml".into(), &text).unwrap_or_else(|error| panic!("{error:?}"));
    let world = world(DOCUMENTS);
    let registry = Registry::new(&world);
    suites.iter().flat_map(|suite| suite.run(&world, &registry)).collect()
}

/// What is not as expected, `expectation: expected | got`.
fn differences(test: &str) -> Vec<String> {
    let [outcome] = outcomes(&[test]).try_into().expect("one test");
    assert_eq!(outcome.passed, outcome.differences.is_empty());
    let told = |one: &redirector_core::expect::Difference| {
        format!("{}: {} | {}", one.expectation, one.expected, one.got)
    };
    outcome.differences.iter().map(told).collect()
}

const CANARY: &str = "from: {namespace: shop, labels: {app: canary}}\n  to: 10.96.0.10:80\n  ";
const CLIENT: &str = "from: {workload: shop/client}\n  to: 10.96.0.10:80\n  ";
const LOST: &str = "from: {namespace: shop, labels: {app: lost}}\n  to: 10.96.0.10:80\n  ";

#[test]
fn what_connections_get_is_as_expected() {
    for (who, expect) in [
        (CANARY, "rule: 'VirtualService/shop/web tcp[0]', shares: {web/v2: 100%}"),
        (CANARY, "rule: VirtualService/shop/web, endpoints: ['10.0.0.2:80'], passthrough: false"),
        (CLIENT, "shares: {web.shop/v1: 66.67%, 'web.shop.svc.cluster.local:80/v2': 33.33%}"),
        (CLIENT, "shares: {web: 1, web/v1: 60%, web/v2: 0.4}, tolerance: 7%"),
        (CLIENT, "shares: {10.0.0.1:80: 66.67%, 10.0.0.2:80: 33.33%}, refused: 0"),
        (LOST, "shares: {web/v1: 66.67%, web/v3: 33.33%}, refused: 33.33%"),
        (LOST, "rule: 'VirtualService/shop/web tcp[1]', refused: any"),
        ("to: web.shop:80\n  gateway: none/none\n  ", "refused: any, rule: none"),
        ("to: 10.1.1.1:80\n  ", "passthrough: true, rule: none"),
    ] {
        let found = differences(&format!("{who}expect: {{{expect}}}"));
        if who.contains("gateway") {
            let expected = "gateway: none/none | there is no Gateway none/none";
            assert_eq!(found, [expected], "nothing passes without an answer");
            continue;
        }
        assert_eq!(found, [] as [&str; 0], "{expect}");
    }
}

#[test]
fn what_is_not_as_expected_is_told_with_what_is_there() {
    let third = "33.3333% refused (web.shop.svc.cluster.local:80/v3: ";
    for (who, expect, told) in [
        (
            CANARY,
            "rule: 'VirtualService/shop/web tcp[2]'",
            "rule: VirtualService/shop/web tcp[2] | VirtualService/shop/web tcp[0]",
        ),
        (CANARY, "rule: none", "rule: no rule | VirtualService/shop/web tcp[0]"),
        (CANARY, "shares: {web/v1: 0}", "nothing else | web.shop.svc.cluster.local:80/v2 100%"),
        (CANARY, "shares: {web/v2: 100%, web/v1: 1%}", "shares: web/v1 1% | 0%"),
        (CANARY, "shares: {we/v2: 100%, web/v2: 100%}", "shares: we/v2 100% | 0%"),
        (CLIENT, "shares: {web/v1: 66%, web/v2: 34%}", "shares: web/v1 66% | 66.6667%"),
        (CLIENT, "shares: {10.0.0.1:80: 66.67%}", "shares: nothing else | 10.0.0.2:80 33.3333%"),
        (CLIENT, "endpoints: ['10.0.0.1:80']", "endpoints: 10.0.0.1:80 | 10.0.0.1:80, 10.0.0.2"),
        (CLIENT, "refused: true", "refused: 100% refused | 0% refused"),
        (CLIENT, "passthrough: true", "passthrough: passed through | routed"),
        // Who says nothing of refusals expects none.
        (LOST, "shares: {web/v1: 66.67%, web/v3: 33.33%}", third),
        (LOST, "rule: VirtualService/shop/web", third),
        ("to: 10.1.1.1:80\n  ", "shares: {web: 100%}", "shares: web 100% | passed through"),
        ("to: 10.1.1.1:80\n  ", "passthrough: false", "not passed through | passed through"),
        // What names decide is neither.
        ("to: 10.97.0.1:80\n  ", "passthrough: true", "passed through | undecided until names"),
        ("to: 10.97.0.1:80\n  ", "passthrough: false", "not passed through | undecided until"),
        ("to: nowhere:80\n  ", "refused: any, rule: none", "to: nowhere:80 | no service is called"),
        (
            "from: {workload: shop/nobody}\n  to: 10.96.0.10:80\n  ",
            "refused: any, rule: none",
            "from: shop/nobody | there is no Pod or WorkloadEntry shop/nobody",
        ),
    ] {
        let found = differences(&format!("{who}expect: {{{expect}}}"));
        assert!(found.iter().any(|one| one.contains(told)), "{expect}: {found:#?}");
    }
}

#[test]
fn all_addresses_of_a_name_answer_as_expected() {
    // v2 has no IPv6 endpoint.
    let [both] =
        outcomes(&["from: {workload: shop/client}\n  to: web:80\n  expect: {shares: {web: 1}}"])
            .try_into()
            .expect("one test");
    let [difference] = both.differences.as_slice() else { panic!("{both:#?}") };
    assert_eq!(difference.destination.as_deref(), Some("[fd00::10]:80"));
    assert_eq!(both.explanations.len(), 1, "the other needs no explanation");
    // A name is completed with the namespace of the one who looks it up.
    let elsewhere = "from: {namespace: other}\n  to: web:80\n  expect: {rule: none, refused: any}";
    assert_eq!(differences(elsewhere), [] as [&str; 0]);
}

#[test]
fn same_as_compares_what_becomes_of_connections_and_not_why() {
    let same = |who: &str, other: &str| {
        let first = format!("{other}expect: {{rule: VirtualService/shop/web, refused: any}}");
        let second = format!("{who}expect: {{sameAs: test 0}}");
        outcomes(&[&first, &second]).remove(1)
    };
    assert!(same(CLIENT, CLIENT).passed);
    let unlike = same(LOST, CLIENT);
    let [difference] = unlike.differences.as_slice() else { panic!("{unlike:#?}") };
    assert!(difference.expected.contains("as \"test 0\": 10.0.0.2:80 33.3333%"), "{difference:?}");
    assert!(difference.got.contains("refused 33.3333%"), "{difference:?}");
    assert!(!difference.got.contains("10.0.0.1"), "what is alike is not told: {difference:?}");
    assert!(!same("to: 10.1.1.1:80\n  ", CLIENT).passed);
}

#[test]
fn a_mistake_is_told_with_its_place() {
    let good = "tests:\n- name: web\n  from: {namespace: shop}\n  to: web:80\n  expect:\n    \
                shares:\n      web/v1: 100%\n";
    assert!(read(&"tests.yaml".into(), good).is_ok());
    let other = "- name: other\n  to: web:80\n  expect: {sameAs: webb}\n";
    for (from, to, line, column, words) in [
        ("shares:", "shres:", 6, 5, "unknown field `shres`|did you mean shares?"),
        ("expect:", "expects:", 5, 3, "unknown field `expects`|did you mean expect?"),
        ("tests:", "test:", 1, 1, "unknown field `test`|did you mean tests?"),
        ("namespace: shop", "namespce: shop", 3, 10, "did you mean namespace?"),
        ("{namespace: shop}", "{labels: {a: b}}", 3, 9, "has a namespace"),
        ("{namespace: shop}", "", 3, 8, "from says nothing"),
        ("{namespace: shop}", "{workload: shop}", 3, 20, "NAMESPACE/NAME"),
        ("{namespace: shop}", "{workload: a/b, namespace: a}", 3, 9, "remove one of the two"),
        ("web:80", "web", 4, 7, "expected IP:PORT or HOST:PORT"),
        ("web:80", "fd00::1:80", 4, 7, "[fd00::10]:80"),
        ("100%", "120%", 7, 15, "120% is no share"),
        ("100%", "100", 7, 15, "100 is no share: expected a share, such as 80% or 0.8"),
        ("100%", "most", 7, 15, "expected a share"),
        ("web/v1: 100%", "web/v1: 1\n      web/v1: 0", 7, 7, "stands here twice"),
        ("web/v1:", "web/v1/v2:", 7, 7, "HOST:PORT/SUBSET"),
        ("shares:\n      web/v1: 100%", "rule: web", 6, 11, "as explain writes it"),
        ("shares:\n      web/v1: 100%", "rule:", 6, 10, "as explain writes it"),
        ("shares:\n      web/v1: 100%", "endpoints: []", 6, 5, "a list of nothing"),
        ("shares:\n      web/v1: 100%", "refused: any", 6, 5, "nothing is expected"),
        ("shares:\n      web/v1: 100%", "passthrough: true\n    refused: 1", 6, 5, "not refused"),
        ("to: web:80", "to: web:80\n  sni: a.b", 2, 3, "add gateway"),
        ("  to: web:80\n", "", 2, 3, "missing field `to`"),
        ("name: web", "name: ''", 2, 3, "has no name"),
        ("tests:", "config: rules\ntests:", 1, 9, "expected a sequence"),
        ("tests:", other, 1, 1, ""),
    ] {
        let mut text = good.replace(from, to);
        let (mut line, mut column, mut words) = (line, column, words);
        if to == other {
            text = format!("{good}{other}");
            (line, column, words) =
                (10, 20, "no other test of this document is called \"webb\"|did you mean \"web\"?");
        }
        let error = read(&"tests.yaml".into(), &text).expect_err(&text);
        let told = format!("{}|{}", error.message, error.help.clone().unwrap_or_default());
        for words in words.split('|') {
            assert!(told.contains(words), "{to}: {told}");
        }
        assert_eq!((error.line, error.column), (line, column), "{to}: {told}\n{text}");
        assert_eq!(error.file, Some(Arc::from("tests.yaml")));
    }
    let twice = format!("{good}- name: web\n  to: web:80\n  expect: {{rule: none}}\n");
    let error = read(&"tests.yaml".into(), &twice).expect_err("two of a name");
    assert_eq!((error.line, error.column), (8, 9), "{error:?}");
    for empty in ["", "# nothing\n", "tests: []\n", "---\n---\n"] {
        let error = read(&"tests.yaml".into(), empty).expect_err(empty);
        assert!(error.message.contains("no routing test"), "{error:?}");
    }
}

#[test]
fn documents_of_one_file_are_suites_with_lines_of_their_own() {
    let one = "config: [a.yaml]\ndefaults: {tolerance: 5%, refused: any}\ntests:\n- name: one\n  \
               to: web:80\n  expect: {shares: {web: 1}}\n";
    let suites = read(&"t.yaml".into(), &format!("---\n{one}---\n\n---\n{one}")).expect("tests");
    let lines: Vec<u32> = suites.iter().flat_map(|suite| &suite.cases).map(|c| c.line).collect();
    assert_eq!(lines, [5, 14]);
    assert!(suites.iter().all(|suite| suite.config == ["a.yaml"]));
}
