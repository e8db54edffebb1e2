//! What people mistype: the first thing that `check` says is the mistake, and not what
//! follows from it; and a condition that cannot be read never makes a rule wider.

use std::sync::Arc;

use redirector_core::check::{Report, check};
use redirector_core::documents;
use redirector_core::model::{L4Match, Spec};
use redirector_core::world::Settings;

use crate::support::random::Random;

fn judge(file: &str, text: &str) -> Report {
    check(&[documents::read(Some(file.into()), text)], &[], &[], &Settings::default())
}

/// All findings but infos, as `code@line:column message`, without those that the
/// documents had before the mistake.
fn told(text: &str) -> Vec<String> {
    let report = judge("a.yaml", text);
    let findings = report.diagnostics.iter().filter(|d| d.severity.as_str() != "info");
    findings.map(|d| format!("{}@{}:{} {}", d.code, d.line, d.column, d.message)).collect()
}

/// Documents in which nothing is wrong.
const GOOD: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: shop}
spec:
  hosts: [db.shop.internal]
  addresses: [10.0.0.10]
  ports:
  - {number: 5432, name: tcp, protocol: TCP}
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: db
  namespace: shop
spec:
  hosts:
  - db.shop.internal
  tcp:
  - match:
    - sourceLabels:
        app: web
    route:
    - destination:
        host: db.shop.internal
      weight: 90
  - route:
    - destination:
        host: db.shop.internal
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 10.9.9.9}
";

#[test]
fn the_first_finding_is_the_mistake_and_often_the_only_one() {
    assert_eq!(told(GOOD), [""; 0]);
    let mut wrongly = Vec::new();
    // What is written instead of what, what is said first, and how much in all.
    for (right, wrong, first, findings) in [
        (
            "    - sourceLabels:",
            "    - sourceLabel:",
            "RD1021@22:7 there is no condition \"sourceLabel\"",
            1,
        ),
        (
            "        app: web\n    route:",
            "        app: web\n      route:",
            "RD1021@24:7 \"route\" stands inside of the match block",
            1,
        ),
        (
            "    - sourceLabels:\n        app: web",
            "    - port: 5432\n    sourceLabels:\n        app: web",
            "RD1021@23:5 \"sourceLabels\" stands outside of a match block",
            1,
        ),
        (
            "  - match:\n    - sourceLabels:\n        app: web",
            "  - sourceLabel:\n        app: web",
            "RD1021@21:5 \"sourceLabel\" stands outside of a match block",
            1,
        ),
        ("  - match:", "  - mach:", "RD1021@21:5 \"mach\" decides nothing here", 1),
        (
            "  hosts:\n  - db.shop.internal",
            "  sourceNamespace: shop\n  hosts:\n  - db.shop.internal",
            "RD1021@18:3 \"sourceNamespace\" stands outside of a match block",
            1,
        ),
        (
            "spec:\n  hosts:\n  - db.shop.internal",
            "sourceNamespace: shop\nspec:\n  hosts:\n  - db.shop.internal",
            "RD1021@17:1 \"sourceNamespace\" stands outside of a match block",
            1,
        ),
        (
            "      weight: 90",
            "      weight: 90\n      sourceNamespace: shop",
            "RD1021@28:7 \"sourceNamespace\" stands outside of a match block",
            1,
        ),
        (
            "        host: db.shop.internal\n      weight: 90",
            "        host: db.shop.internal\n      subset: one\n      weight: 90",
            "RD1010@27:7 \"subset\" stands beside the destination",
            1,
        ),
        (
            "        host: db.shop.internal\n      weight: 90",
            "        host: db.shop.internal\n        weight: 90",
            "RD1010@27:9 \"weight\" stands below the destination",
            1,
        ),
        ("      weight: 90", "      weight: 90\n      sort: a", "RD1010@28:7 there is no field", 1),
        (
            "metadata:\n  name: db\n  namespace: shop",
            "metadata:\nname: db\nnamespace: shop",
            "RD1013@15:1 this VirtualService has no name: it stands beside metadata",
            1,
        ),
        (
            "  namespace: shop\nspec:\n  hosts",
            "  namepsace: shop\nspec:\n  hosts",
            "RD1010@16:3 there is no field \"namepsace\"",
            1,
        ),
        (
            "  endpoints: [{address: 192.0.2.1}]\n",
            "  endpoints: [{address: 192.0.2.1}]\nexportTo: ['.']\n",
            "RD1010@11:1 there is no field \"exportTo\" beside metadata",
            1,
        ),
        ("weight: 90", "weight: 90%", "RD1009@27:15 expected a whole number", 1),
        ("weight: 90", "weight: -90", "RD2012@27:15 weight -90 is out of range", 1),
        (
            "  hosts:\n  - db.shop.internal",
            "  hosts: db.shop.internal",
            "RD1009@18:10 expected a list, found the string",
            1,
        ),
        (
            "    route:\n    - destination:\n        host: db.shop.internal\n      weight: 90",
            "    route:\n      destination:\n        host: db.shop.internal\n      weight: 90",
            "RD1009@25:7 expected a list, found a map",
            1,
        ),
        (
            "        host: db.shop.internal\n      weight",
            "      weight",
            "RD2001@25:7 the destination is missing",
            1,
        ),
        (
            "        host: db.shop.internal\n      weight",
            "      host: db.shop.internal\n      port: {number: 5432}\n      weight",
            "RD2001@26:7 the destination is missing: \"host\" belongs below it",
            1,
        ),
        (
            "    - destination:\n        host: db.shop.internal\n      weight",
            "    - host: db.shop.internal\n      weight",
            "RD2001@25:7 the destination is missing: \"host\" belongs below it",
            1,
        ),
        ("kind: VirtualService", "kind: VirtualServices", "RD1008@13:7", 1),
        ("kind: VirtualService", "kind: HTTPProxy", "RD1008@13:7 networking.istio.io/v1 has no", 1),
        ("[10.0.0.10]", "[10.0.0.010]", "RD2008@6:15 \"10.0.0.010\" is not a subnet", 1),
        ("number: 5432", "number: '5432'", "RD1009@8:14 expected a whole number", 1),
        (
            "name: db, namespace: shop}\n",
            "name: db, namespace: shop, annotations: {redirector.io/drian: 5s}}\n",
            "RD1022@3:53 there is no annotation redirector.io/drian",
            1,
        ),
        (
            "  namespace: shop\nspec:",
            "namespace: shop\nspec:",
            "RD1010@16:1 \"namespace\" stands beside metadata",
            1,
        ),
        (
            "      weight: 90\n",
            "      weight: 90\n      weight: 10\n",
            "RD1004@28:7 the key \"weight\" stands twice",
            1,
        ),
        (
            "    route:\n    - destination:\n        host: db.shop.internal\n      weight: 90",
            "    route:\n      destination:\n        host: db.shop.internal\n      weight: 90\n      \
             destination:\n        host: db.shop.internal\n      weight: 10",
            "RD1009@25:7 expected a list, found a map",
            1,
        ),
        ("      weight: 90", "      wieght: 90", "RD1010@27:7 there is no field \"wieght\"", 1),
        (
            "  tcp:\n",
            "  tpc:\n",
            "RD2005@20:3 the VirtualService has no tcp, tls or http rule: there is no field \"tpc\"",
            1,
        ),
        (
            "  tcp:\n",
            "tcp:\n",
            "RD2005@21:3 the VirtualService has no tcp, tls or http rule: tcp is beside it",
            1,
        ),
        (
            "    route:\n",
            "    routes:\n",
            "RD2001@24:5 the route of a tcp rule is missing: there is no field \"routes\"",
            1,
        ),
        (
            "    - destination:\n        host: db.shop.internal\n      weight",
            "    - destinations:\n        host: db.shop.internal\n      weight",
            "RD2001@25:7 the destination is missing: there is no field \"destinations\"",
            1,
        ),
        (
            "  hosts: [db.shop.internal]\n",
            "  host: [db.shop.internal]\n",
            "RD2001@5:3 the list of the ServiceEntry's hosts is missing: there is no field \"host\"",
            1,
        ),
        ("STATIC", "static", "RD1012@9:15 \"static\" is not one of NONE, STATIC,", 1),
        (
            "    - sourceLabels:\n        app",
            "    - sourceLabels:\n      app",
            "RD1021@23:7 there is no condition \"app\"",
            1,
        ),
        (
            "    route:\n    - dest",
            "\u{a0}   route:\n    - dest",
            "RD1001@24:1 a no-break space (U+00A0) indents this line; YAML allows only spaces",
            1,
        ),
        (
            "  hosts:\n  - db.shop.internal",
            "  hosts:\n  - *.shop.internal",
            "RD1001@19:5 this is not YAML: a word that begins so",
            1,
        ),
        ("app: web\n    route", "on: web\n    route", "RD1015@23:9 YAML reads the key on as", 2),
        (
            "labels: {app: web}",
            "labels: {app: web, on: a, yes: b}",
            "RD1015@34:59 YAML reads the key on as \"true\"",
            3,
        ),
        (
            "  tcp:\n",
            "  gateway: [edge]\n  tcp:\n",
            "RD1010@20:3 there is no field \"gateway\" here: it has no effect, and without gateways \
             the rules are for every workload of the mesh",
            1,
        ),
        (
            "kind: VirtualService",
            "Kind: VirtualService",
            "RD1005@13:1 the document has no kind: there is no field \"Kind\"",
            1,
        ),
        ("[10.0.0.10]", "['10.0.0.10 ']", "RD2008@6:15 \"10.0.0.10 \" is not a subnet: a space", 1),
        ("[10.0.0.10]", "['10.0.0.10,::1']", "RD2008@6:15 \"10.0.0.10,::1\" is not one subnet", 1),
        (
            "        host: db",
            "        host: \u{201c}db",
            "RD2002@26:15 \"\u{201c}db.shop.internal\" is not a host name: \"\u{201c}\" is not \
             allowed in it: YAML's quotes",
            1,
        ),
        (
            "  hosts:\n  - db.shop.internal",
            "  host:\n  - db.shop.internal",
            "RD2001@18:3 the list of the VirtualService's hosts is missing",
            1,
        ),
        (
            "resolution: STATIC",
            "resolution: DYNAMIC_DNS",
            "RD2040@5:11 \"db.shop.internal\": resolution DYNAMIC_DNS is for wildcard hosts",
            2,
        ),
    ] {
        assert!(GOOD.contains(right), "{right}");
        let told = told(&GOOD.replacen(right, wrong, 1));
        if !told.first().is_some_and(|told| told.starts_with(first)) || told.len() != findings {
            wrongly.push((first, findings, told));
        }
    }
    assert!(wrongly.is_empty(), "{wrongly:#?}");
}

#[test]
fn help_names_what_was_meant() {
    let help = |right: &str, wrong: &str| {
        let report = judge("a.yaml", &GOOD.replacen(right, wrong, 1));
        report.diagnostics[0].help.clone().unwrap_or_default()
    };
    assert_eq!(help("sourceLabels", "sourceLabel"), "did you mean \"sourceLabels\"?");
    assert_eq!(
        help("app: web\n    route", "app: web\n      route"),
        "indent route: by as much as match:"
    );
    assert_eq!(
        help("  host: db.shop.internal\n      weight", "host: db.shop.internal\n      weight"),
        "indent it further than destination:"
    );
    assert_eq!(help("weight: 90", "weight: 90%"), "write it without the percent sign: 90");
    let annotated = "shop, annotations: {redirector.io/drian: 5s}}\n";
    assert_eq!(help("shop}\n", annotated), "did you mean redirector.io/drain?");
}

#[test]
fn templates_and_files_of_other_tools_are_told_as_what_they_are() {
    let first = |file: &str, text: &str| {
        let report = judge(file, text);
        assert!(report.errors + report.warnings <= 1, "{:#?}", report.diagnostics);
        let finding = &report.diagnostics[0];
        (finding.code, finding.line, finding.column, finding.severity.as_str())
    };
    let template = format!("{{{{- if .Values.on }}}}\n{GOOD}{{{{- end }}}}\n");
    assert_eq!(first("rules.yaml", &template), ("RD1001", 1, 1, "error"));
    let template = GOOD.replace("name: db\n", "name: {{ .Release.Name }}\n");
    let report = judge("rules.yaml", &template);
    assert!(report.diagnostics[0].message.contains("a template"), "{:#?}", report.diagnostics);
    for (file, text) in [
        ("app/kustomization.yaml", "resources: [rules.yaml]\n"),
        ("app/kustomization.yml", "apiVersion: kustomize.config.k8s.io/v1beta1\n"),
        ("chart/Chart.yaml", "apiVersion: v2\nname: app\nversion: 0.1.0\n"),
        ("chart/values.yaml", "replicas: 2\n"),
        ("chart/values-prod.yaml", "- replicas: 2\n"),
        ("docker-compose.yml", "services: {db: {image: db}}\n"),
    ] {
        assert_eq!(first(file, text), ("RD1024", 1, 1, "info"), "{file}");
    }
    let tests = "config: [rules.yaml]\ntests:\n  - {to: 'db:5432', expect: {rule: none}}\n";
    let tests = judge("app/routing.yaml", &format!("---\n{tests}---\n{tests}"));
    let told: Vec<_> = tests.diagnostics.iter().map(|one| (one.code, one.line)).collect();
    assert_eq!(told, [("RD1024", 2)], "{:#?}", tests.diagnostics);
    let help = tests.diagnostics[0].help.as_deref();
    assert_eq!(help, Some("redirector test app/routing.yaml runs them"));
    // Its name does not make objects something else.
    assert_eq!(judge("values.yaml", GOOD).documents, 3);
}

#[test]
fn settings_of_the_whole_mesh_are_told_to_have_no_effect() {
    let of = |rest: &str| {
        let report = judge("a.yaml", rest);
        report.diagnostics.first().map(|one| (one.code, one.message.contains("are for all")))
    };
    let map = |name: &str, key: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{{key}: x}}\n")
    };
    assert_eq!(of(&map("istio", "mesh")), Some(("RD1023", true)));
    assert_eq!(of(&map("istio-canary", "mesh")), Some(("RD1023", true)));
    assert_eq!(of(&map("istio", "values")), Some(("RD1007", false)));
    assert_eq!(of(&map("shop", "mesh")), Some(("RD1007", false)));
    let operator = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: ";
    assert_eq!(of(&format!("{operator}{{meshConfig: {{}}}}\n")), Some(("RD1023", true)));
    assert_eq!(of(&format!("{operator}{{}}\n")), Some(("RD1007", false)));
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a}\nspec: ";
    let report = judge("a.yaml", &format!("{sidecar}{{outboundTrafficPolicy: {{}}}}\n"));
    assert!(report.diagnostics[0].message.ends_with("are let through"), "{report:#?}");
}

#[test]
fn what_others_act_on_and_is_not_read_here_is_told_with_what_is_lost() {
    for (api, kind, lost) in [
        ("v1", "Endpoints", "EndpointSlices"),
        ("gateway.networking.k8s.io/v1alpha2", "TCPRoute", "VirtualService"),
        ("security.istio.io/v1", "AuthorizationPolicy", "let through"),
    ] {
        let text = format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: a}}\n");
        let report = judge("a.yaml", &text);
        let finding = &report.diagnostics[0];
        assert_eq!((finding.code, finding.severity.as_str()), ("RD1023", "warning"));
        assert!(finding.message.contains("is not read here: "), "{}", finding.message);
        assert!(finding.message.contains(lost), "{}", finding.message);
    }
}

#[test]
fn advice_fits_where_the_port_is_declared() {
    let help = |text: &str, code: &str| {
        let report = judge("a.yaml", text);
        let finding = report.diagnostics.iter().find(|d| d.code == code);
        finding.unwrap_or_else(|| panic!("{report:#?}")).help.clone().unwrap_or_default()
    };
    let tls = GOOD.replace("protocol: TCP", "protocol: TLS");
    assert_eq!(help(&tls, "RD5010"), "write protocol: TCP at the port of the ServiceEntry");
    let gateway = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: gw, \
                   namespace: shop}\nspec: {selector: {app: web}, servers: [{port: {number: 5201, \
                   name: p, protocol: TCP}, hosts: ['*']}]}\n";
    let bound = GOOD
        .replace("  tcp:\n", "  gateways: [gw]\n  tcp:\n")
        .replace("    - sourceLabels:\n        app: web", "    - port: 5202");
    assert_eq!(help(&format!("{bound}{gateway}"), "RD4009"), "write the number of a server's port");
}

/// A match block as fields, in flow form.
fn fields(rng: &mut Random) -> Vec<(String, String)> {
    let all = [
        ("destinationSubnets", "[10.0.0.0/8, 192.0.2.7]"),
        ("port", "5432"),
        ("sourceLabels", "{app: web, tier: back}"),
        ("sourceNamespace", "shop"),
        ("gateways", "[mesh]"),
        ("sourceSubnet", "10.9.0.0/16"),
    ];
    let mut fields = rng.some(&all, all.len());
    if fields.is_empty() {
        fields.push(all[0]);
    }
    fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A slip in one of the fields: in its name, or in its value.
fn slip(fields: &mut [(String, String)], rng: &mut Random) {
    let count = fields.len() as u64;
    let (name, value) = &mut fields[rng.below(count) as usize];
    let at = rng.below(name.len() as u64) as usize;
    let letter = char::from(b'a' + rng.below(26) as u8);
    match rng.below(7) {
        0 => drop(name.remove(at)),
        1 => name.insert(at, letter),
        2 => name.replace_range(at..=at, &letter.to_string()),
        3 => *name = name.to_uppercase(),
        4 => *name = format!("x{name}"),
        5 => {
            let others =
                ["[[]]", "{a: {b: c}}", "[1]", "70000", "yes", "'10.0.0.0/99'", "[{}]", "1.5"];
            (*rng.pick(&others)).clone_into(value);
        }
        // As if it were indented too far.
        _ => *value = format!("{{{name}: {value}}}"),
    }
}

fn block(text: &str) -> Option<L4Match> {
    let reading = documents::read(None, text);
    let read = reading.objects.first()?;
    let object: &Arc<_> = read.object.as_ref()?;
    let Spec::VirtualService(rule) = &object.spec else { return None };
    rule.tcp.first()?.matches.first().cloned()
}

/// Which conditions a block has, whatever their values.
fn conditions(block: &L4Match) -> [bool; 6] {
    [
        !block.destination_subnets.is_empty(),
        block.port.is_some(),
        !block.source_labels.is_empty(),
        !block.source_namespace.is_empty(),
        !block.gateways.is_empty(),
        block.source_subnet.is_some(),
    ]
}

#[test]
fn a_condition_that_cannot_be_read_never_makes_a_rule_wider() {
    let mut read = 0;
    for seed in 0..4000 {
        let rng = &mut Random::new(seed);
        let text = |fields: &[(String, String)], outside: bool| {
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            let fields = fields.join(", ");
            let rule = match outside {
                true => format!("{{match: [{{port: 1}}], {fields}, "),
                false => format!("{{match: [{{{fields}}}], "),
            };
            format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: \
                 a}}\nspec: {{hosts: [db.example], tcp: [{rule}route: [{{destination: {{host: \
                 db.example}}}}]}}]}}\n"
            )
        };
        let good = fields(rng);
        let before = block(&text(&good, false)).expect("it is good");
        assert_eq!(block(&text(&good, true)), None, "seed {seed}: outside of its match");
        let mut bad = good.clone();
        slip(&mut bad, rng);
        let Some(after) = block(&text(&bad, false)) else { continue };
        read += 1;
        assert_eq!(conditions(&after), conditions(&before), "seed {seed}: {bad:?}");
    }
    assert!(read < 2000, "most slips are refused: {read} were not");
}

#[test]
fn a_value_in_the_place_of_a_map_or_a_duration_is_told_how_to_be_written() {
    let help = |spec: &str| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d}}\n\
             spec: {{host: db, trafficPolicy: {{{spec}}}}}\n"
        );
        let report = judge("a.yaml", &text);
        let one = report.diagnostics.into_iter().find(|one| one.code == "RD1009");
        one.and_then(|one| one.help).unwrap_or_default()
    };
    assert_eq!(help("loadBalancer: ROUND_ROBIN"), "write {simple: ROUND_ROBIN}");
    assert_eq!(help("portLevelSettings: [{port: 5432}]"), "write {number: 5432}");
    assert_eq!(help("connectionPool: {tcp: {connectTimeout: 5}}"), "write a unit: 5s");
    assert_eq!(help("outlierDetection: {baseEjectionTime: 30}"), "write a unit: 30s");
}
