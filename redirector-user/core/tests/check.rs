//! `check` over the project's own corpus: one case for every sentence of the
//! rules that it follows, accepting and refusing ones; and over the conformance
//! samples.

use std::path::{Path, PathBuf};

use redirector_core::budget::{Amounts, Budgets};
use redirector_core::check::{Report, check};
use redirector_core::diag::{Diagnostic, Severity};
use redirector_core::documents;
use redirector_core::world::{ServiceAddresses, Settings};

/// What stands around every case: services with endpoints, gateways, rules.
const SURROUNDINGS: &str = include_str!("corpus/surroundings.yaml");

#[test]
fn as_many_endpoints_as_an_object_may_have_can_be_counted_on() {
    let endpoints: Vec<String> =
        (0..33_000).map(|at| format!("{{address: 10.0.{}.{}}}", at / 256, at % 256)).collect();
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: big}}\nspec: \
         {{hosts: [big.example], addresses: [10.99.0.1], resolution: STATIC, ports: [{{number: 80, \
         name: a, protocol: TCP}}, {{number: 81, name: b, protocol: TCP}}], endpoints: \
         [{}]}}\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: \
         big}}\nspec: {{host: big.example, trafficPolicy: {{loadBalancer: {{simple: \
         LEAST_REQUEST}}}}}}\n",
        endpoints.join(", ")
    );
    let Budgets { object, namespace } = Budgets::default();
    assert_eq!(with_limits(&text, object, namespace), [""; 0]);
}

fn with_limits(text: &str, object: Amounts, namespace: Amounts) -> Vec<String> {
    let settings = Settings { budgets: Budgets { object, namespace }, ..Settings::default() };
    let readings = [documents::read(None, text)];
    let report = check(&readings, &[], &[], &settings);
    let errors = report.diagnostics.into_iter().filter(|one| one.severity == Severity::Error);
    errors.map(|one| format!("{} {}", one.code, one.object_name().unwrap_or_default())).collect()
}

#[test]
fn what_asks_for_more_than_its_budget_is_named() {
    let entry = |name: &str, created: u32, addresses: &str, ports: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, \
             creationTimestamp: '2026-01-0{created}T00:00:00Z'}}\nspec: {{hosts: \
             [{name}.example.com], addresses: [{addresses}], ports: [{ports}], resolution: STATIC, \
             endpoints: [{{address: 10.0.0.1}}]}}\n"
        )
    };
    let port = |number: u32| format!("{{number: {number}, name: tcp-{number}, protocol: TCP}}");
    let two = [port(80), port(81)].join(", ");
    let text =
        [entry("a", 2, "10.1.0.1, 10.1.0.2", &port(80)), entry("b", 1, "10.1.0.3, 10.1.0.4", &two)]
            .concat();
    let Budgets { object, namespace } = Budgets::default();
    let most = |frontends| Amounts { frontends, ..namespace };
    let none: [&str; 0] = [];
    assert_eq!(with_limits(&text, most(4), most(6)), none);
    assert_eq!(with_limits(&text, most(3), most(6)), ["RD1018 ServiceEntry/default/b"]);
    // The newest is the one that was made last, whatever its name.
    assert_eq!(with_limits(&text, object, most(5)), ["RD1026 ServiceEntry/default/a"]);
}

/// ServiceEntries of one namespace and host.
fn of_one_host(
    count: usize,
    address: impl Fn(usize) -> usize,
    port: impl Fn(usize) -> usize,
) -> String {
    let entry = |at: usize| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: \
             e{at:04}}}\nspec: {{hosts: [db.example.com], addresses: [10.1.{}.1], ports: \
             [{{number: {}, name: tcp, protocol: TCP}}], resolution: STATIC, endpoints: \
             [{{address: 10.0.0.1}}]}}\n",
            address(at),
            1000 + port(at)
        )
    };
    (1..=count).map(entry).collect()
}

#[test]
fn entries_of_one_host_count_as_the_service_that_they_are() {
    let Budgets { object, namespace } = Budgets::default();
    let most = |frontends| Amounts { frontends, ..namespace };
    let none: [&str; 0] = [];
    // Each address has each port.
    let both = of_one_host(4, |at| at, |at| at);
    assert_eq!(with_limits(&both, object, most(16)), none);
    assert_eq!(with_limits(&both, object, most(15)), ["RD1026 ServiceEntry/default/e0004"]);
    // What they have in common is there once.
    assert_eq!(with_limits(&of_one_host(9, |_| 1, |at| at), object, most(9)), none);
    assert_eq!(with_limits(&of_one_host(9, |at| at, |_| 1), object, most(9)), none);
    // Those of other namespaces are other services.
    let apart = both.replacen("name: e0004", "name: e0004, namespace: other", 1);
    assert_eq!(with_limits(&apart, object, most(9)), none);
}

fn report(texts: &[(&str, &str)]) -> Report {
    let readings: Vec<_> =
        texts.iter().map(|(name, text)| documents::read(Some((*name).into()), text)).collect();
    let settings = Settings { services: ServiceAddresses::Own, ..Settings::default() };
    check(&readings, &[], &[], &settings)
}

/// Documents that people copy from pages.
const PAGES: [(&str, &str); 2] = [
    ("cookbook.md", include_str!("../../../docs/cookbook.md")),
    ("names.md", include_str!("../../../docs/names.md")),
];

#[test]
fn documents_that_pages_print_have_no_warning_but_istios_about_names() {
    let mut recipes = 0;
    for (page, text) in PAGES {
        for (place, block) in text.split("```yaml\n").skip(1).enumerate() {
            let (yaml, _) = block.split_once("```").expect("it ends");
            if !yaml.contains("\nkind: ") {
                continue;
            }
            let report = report(&[("printed.yaml", yaml)]);
            // Istio's own warning: what its hosts resolve to is an entry's only here.
            let warns = report.diagnostics.iter().filter(|one| one.severity != Severity::Info);
            let by_name = |one: &&Diagnostic| {
                one.code == "RD2109" && one.message.contains("those that its hosts resolve to")
            };
            let warned: Vec<_> = warns.filter(|one| !by_name(one)).collect();
            assert!(warned.is_empty(), "{page}, block {place}: {warned:#?}");
            recipes += usize::from(page == "cookbook.md");
        }
    }
    assert_eq!(recipes, PAGES[0].1.matches("\n## ").count(), "one of each recipe");
}

struct Case<'t> {
    section: &'t str,
    kind: &'t str,
    expected: &'t str,
    path: &'t str,
    title: &'t str,
    spec: String,
}

fn cases(text: &str) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for block in text.split("\n\n") {
        let mut lines = block.lines().filter(|line| !line.starts_with('#'));
        let Some(head) = lines.next() else { continue };
        let parts: Vec<&str> = head.splitn(5, '|').map(str::trim).collect();
        let [section, kind, expected, path, title] = parts[..] else {
            panic!("a case begins with five parts: {head}")
        };
        let many = vec!["{destination: {host: echo}, weight: 1}"; 65].join(", ");
        let spec = lines
            .collect::<Vec<_>>()
            .join("\n")
            .replace("@65", &many)
            .replace("@R", "route: [{destination: {host: echo-2}}]")
            .replace("@S", "selector: {istio: own}")
            .replace("@P", "ports: [{number: 5432, name: tcp-db, protocol: TCP}]");
        cases.push(Case { section, kind, expected, path, title, spec });
    }
    cases
}

/// What is wrong with the answer to a case.
fn judge(case: &Case<'_>) -> Result<(), String> {
    let kind = match case.kind {
        "vs" => "VirtualService",
        "gw" => "Gateway",
        "dr" => "DestinationRule",
        "se" => "ServiceEntry",
        "we" => "WorkloadEntry",
        other => return Err(format!("unknown kind {other}")),
    };
    let spec: String = case.spec.lines().map(|line| format!("\n  {line}")).collect();
    let document = format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: case}}\nspec:{spec}\n"
    );
    let object = format!("{kind}/default/case");
    let report = report(&[("surroundings.yaml", SURROUNDINGS), ("case.yaml", &document)]);
    let own: Vec<&Diagnostic> =
        report.diagnostics.iter().filter(|d| d.object_name().as_ref() == Some(&object)).collect();
    let said = || {
        own.iter()
            .map(|d| {
                format!("\n    {:?} {} {:?} {}: {}", d.severity, d.code, d.istio, d.path, d.message)
            })
            .collect::<String>()
    };
    if report.diagnostics.iter().any(|d| d.file.as_deref() == Some("case.yaml") && d.line == 0) {
        return Err(format!("a finding has no place:{}", said()));
    }
    let words: Vec<&str> = case.expected.split_whitespace().collect();
    let errors = own.iter().any(|d| d.severity.as_str() == "error");
    match words[..] {
        ["ok"] if errors => Err(format!("refused:{}", said())),
        ["ok"] => Ok(()),
        ["lacks", code] if own.iter().any(|d| d.code == code) => {
            Err(format!("has {code}:{}", said()))
        }
        ["lacks", _] => Ok(()),
        [severity, code, ref istio @ ..] => {
            if errors != (severity == "error") {
                return Err(format!("errors: {errors}:{}", said()));
            }
            let found = own.iter().any(|d| {
                d.severity.as_str() == severity
                    && d.code == code
                    && d.path == case.path
                    && istio.iter().all(|istio| d.istio == Some(*istio))
            });
            if found { Ok(()) } else { Err(format!("lacks {code} at {}:{}", case.path, said())) }
        }
        _ => Err("the expectation cannot be read".to_owned()),
    }
}

fn run(text: &str) {
    let cases = cases(text);
    assert!(cases.len() > 20, "the corpus is not read");
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let why = judge(case).err()?;
            Some(format!("section {}, {}: {why}", case.section, case.title))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} wrong\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn virtual_services_are_judged_as_the_rules_say() {
    run(include_str!("corpus/virtual_service.txt"));
}

#[test]
fn gateways_are_judged_as_the_rules_say() {
    run(include_str!("corpus/gateway.txt"));
}

#[test]
fn destination_rules_are_judged_as_the_rules_say() {
    run(include_str!("corpus/destination_rule.txt"));
}

#[test]
fn entries_are_judged_as_the_rules_say() {
    run(include_str!("corpus/entries.txt"));
}

#[test]
fn what_stands_around_the_cases_is_sound() {
    let report = report(&[("surroundings.yaml", SURROUNDINGS)]);
    assert_eq!(report.errors, 0, "{:#?}", report.diagnostics);
}

/// A Deployment of `app: echo` in a namespace with a sidecar, and two Services.
fn deployment(sidecar: &str, second: &str, ports: &str) -> Report {
    report(&[(
        "deployment.yaml",
        &format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: a, labels: {{istio-injection: enabled}}}}\n\
             ---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: echo\n  namespace: a\n\
             spec: {{template: {{metadata: {{labels: {{app: echo{sidecar}}}}}}}}}\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {{name: one, namespace: a}}\n\
             spec: {{clusterIP: 10.96.0.1, selector: {{app: echo}}, ports: [{{name: tcp, port: 80, targetPort: 8080}}]}}\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {{name: two, namespace: {second}}}\n\
             spec: {{clusterIP: 10.96.0.2, selector: {{app: echo}}, ports: {ports}}}\n"
        ),
    )])
}

#[test]
fn services_of_one_deployment_that_disagree_are_told_at_its_name() {
    let told = |report: &Report| {
        let ours = report.diagnostics.iter().filter(|d| matches!(d.code, "RD3022" | "RD3023"));
        ours.map(|d| (d.istio.unwrap(), d.object_name().unwrap(), d.line, d.column))
            .collect::<Vec<_>>()
    };
    let at = |istio| vec![(istio, "Deployment/a/echo".to_owned(), 8, 9)];
    let (udp, other) = (
        "[{name: udp, port: 80, protocol: UDP, targetPort: 9}]",
        "[{name: tcp, port: 81, targetPort: 8080}]",
    );
    assert_eq!(told(&deployment("", "a", udp)), at("IST0116"), "section 16");
    assert_eq!(told(&deployment("", "a", other)), at("IST0137"), "section 16");
    let same = "[{name: tcp-b, port: 80, targetPort: 8080}]";
    assert_eq!(told(&deployment("", "a", same)), [], "they agree");
    assert_eq!(told(&deployment("", "b", other)), [], "another namespace");
    let without = ", sidecar.istio.io/inject: 'false'";
    assert_eq!(told(&deployment(without, "a", other)), [], "Istio looks at sidecars only");
}

/// Where the conformance samples lie: what the environment says, else beside
/// the tests.
fn samples() -> PathBuf {
    std::env::var_os("REDIRECTOR_CONFORMANCE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance"),
        PathBuf::from,
    )
}

#[test]
fn the_conformance_samples_are_judged_right() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in samples().join("documents").read_dir().unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let head = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("# {name}: ")));
            line.unwrap_or_default().trim().to_owned()
        };
        let report = report(&[("sample.yaml", &text)]);
        let has = |code: &str| report.diagnostics.iter().any(|d| d.istio == Some(code));
        let stricter = head("scope") != "l4" && report.errors > 0;
        let good = match head("expect").as_str() {
            "reject" => report.errors > 0,
            "warn" => {
                let codes = head("code");
                let mut codes = codes.split(',').map(str::trim).filter(|code| !code.is_empty());
                stricter || report.errors == 0 && report.warnings > 0 && codes.all(has)
            }
            "accept" => {
                stricter
                    || report.errors == 0 && report.diagnostics.iter().all(|d| d.istio.is_none())
            }
            other => panic!("{}: expect is {other:?}", path.display()),
        };
        count += 1;
        if !good {
            wrong.push(format!("{}: {:#?}", path.display(), report.diagnostics));
        }
    }
    assert!(count > 0, "there are no samples");
    println!("{} of {count} conformance documents right", count - wrong.len());
    assert!(wrong.is_empty(), "{} of {count} wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_server_that_no_workload_can_serve_is_left_out_with_the_reason() {
    const DOCUMENTS: &str = "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: edge, annotations: {redirector.io/gateway: 'true'}}
spec: {address: 192.0.2.1, labels: {istio: edge}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: here}
spec:
  selector: {istio: edge}
  servers:
  - {port: {number: 80, name: tcp-80, protocol: TCP}, hosts: ['*'], bind: 192.0.2.1}
  - {port: {number: 81, name: tcp-81, protocol: TCP}, hosts: ['*'], bind: 192.0.2.7}
  - {port: {number: 82, name: tcp-82, protocol: TCP}, hosts: ['*'], bind: 0.0.0.0}
";
    let world = crate::support::world(DOCUMENTS);
    let plan = redirector_core::compile::compile(&world).plan.gateways;
    let dropped: Vec<String> =
        plan.dropped.iter().map(|one| format!("{}: {}", one.server, one.reason)).collect();
    assert_eq!(
        dropped,
        ["1: bind 192.0.2.7 is no address of WorkloadEntry/default/edge, which has 192.0.2.1"]
    );
    let report = report(&[("edge.yaml", DOCUMENTS)]);
    let told: Vec<_> = report.diagnostics.iter().filter(|d| d.code == "RD4039").collect();
    let [one] = told[..] else { panic!("{told:?}") };
    assert_eq!((one.path.as_str(), one.line), ("spec.servers[1].bind", 14), "{one:?}");
}
