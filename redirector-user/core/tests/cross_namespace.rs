//! Who decides about hosts of other namespaces.

use redirector_core::check::check;
use redirector_core::compile::compile;
use redirector_core::documents;
use redirector_core::explain::{Query, QuerySource, explain};
use redirector_core::model::SourceId;
use redirector_core::plan::{FrontendId, Verdict};
use redirector_core::world::{CrossNamespace, ServiceAddresses, Settings, World};

use crate::support::{world_with, written_out};

/// A service of `data`; a rule of `web` and one of `istio-system` for it; a ServiceEntry of
/// `web` with a name of `data`; and clients in three namespaces.
const DOCUMENTS: &str = "
Service data/db: {clusterIP: 10.96.0.10, ports: [{name: tcp, port: 80}, {name: other, port: 81}]}
ServiceEntry web/theirs:
  hosts: [new.data.svc.cluster.local]
  addresses: [10.97.0.2]
  resolution: STATIC
  ports: [{number: 80, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.0.0.2}]
ServiceEntry web/web:
  hosts: [web.example.com]
  addresses: [10.97.0.1]
  resolution: STATIC
  ports: [{number: 80, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.0.0.2}]
VirtualService web/of-web: {hosts: [db.data.svc.cluster.local], tcp: [{match: [{port: 80}], route: [{destination: {host: web.example.com}}]}]}
VirtualService istio-system/of-all: {hosts: [db.data.svc.cluster.local], tcp: [{match: [{port: 81}], route: [{destination: {host: web.example.com, port: {number: 80}}}]}]}
";

fn world(cross_namespace: CrossNamespace) -> World {
    let settings =
        Settings { cross_namespace, services: ServiceAddresses::Leave, ..Settings::default() };
    let client = |namespace: &str, at: u32| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: c, \
             namespace: {namespace}, annotations: {{redirector.io/cgroup: {namespace}}}}}\nspec: \
             {{address: 10.0.1.{at}}}\n"
        )
    };
    let clients = [client("data", 1), client("web", 2), client("shop", 3)].concat();
    world_with(&format!("{DOCUMENTS}{clients}"), settings)
}

/// Which of the namespaces' clients are redirected at the port, by `explain` and by the
/// tables.
fn redirected(world: &World, port: u16) -> Vec<&'static str> {
    let plan = compile(world).plan;
    let namespaces = ["data", "web", "shop"].into_iter();
    let are = namespaces.filter(|namespace| {
        let source = QuerySource::Workload { namespace: (*namespace).into(), name: "c".into() };
        let destination = format!("10.96.0.10:{port}").parse().expect("an address");
        let query = Query { source, destination, gateway: None, sni: None };
        let explained = explain(world, &query).expect("known").rule.is_some();
        let id = FrontendId { prefix: "10.96.0.10/32".parse().expect("a prefix"), port };
        let source = SourceId { namespace: (*namespace).into(), name: "c".into() };
        let verdict = plan.frontends.get(&id).map(|frontend| {
            let class = plan.sources[&source].class;
            frontend.exceptions.get(&class).unwrap_or(&frontend.default)
        });
        let is = matches!(verdict, Some(Verdict::Route(_)));
        assert_eq!(is, explained, "{namespace}:{port}");
        is
    });
    are.collect()
}

#[test]
fn where_owners_decide_rules_of_other_namespaces_are_for_their_own_clients() {
    let (istio, owner) = (world(CrossNamespace::Istio), world(CrossNamespace::Owner));
    assert_eq!(redirected(&istio, 80), ["data", "web", "shop"]);
    assert_eq!(redirected(&owner, 80), ["web"]);
    // The root namespace's are for all.
    assert_eq!(redirected(&owner, 81), ["data", "web", "shop"]);
}

#[test]
fn what_decides_about_hosts_of_other_namespaces_is_named() {
    let told = |cross_namespace, codes: &[&str]| {
        let settings = Settings { cross_namespace, ..Settings::default() };
        let readings = [documents::read(None, &written_out(DOCUMENTS))];
        let found = check(&readings, &[], &[], &settings).diagnostics.into_iter();
        let found = found.filter(|one| codes.contains(&one.code));
        found
            .map(|one| {
                format!("{} {} {}", one.code, one.object_name().unwrap_or_default(), one.path)
            })
            .collect::<Vec<_>>()
    };
    let both = |code: &str| {
        [
            format!("{code} ServiceEntry/web/theirs spec.hosts[0]"),
            format!("{code} VirtualService/web/of-web spec.hosts[0]"),
        ]
    };
    let named = |cross_namespace| told(cross_namespace, &["RD4049", "RD4050"]);
    assert_eq!(named(CrossNamespace::Istio), both("RD4049"));
    assert_eq!(named(CrossNamespace::Owner), both("RD4050"));
    // Only in one of the two are the rules of both for all clients, in one order.
    assert_eq!(told(CrossNamespace::Istio, &["RD3009"]).len(), 2);
    // In the other one that is so for those of the namespace that wrote the one.
    assert_eq!(told(CrossNamespace::Owner, &["RD3009"]).len(), 2);
}

#[test]
fn a_host_that_is_of_the_own_namespace_too_is_told_to_be_decided_there_for_all() {
    let entry = |name: &str, address: &str| {
        format!(
            "ServiceEntry {name}: {{hosts: [pg.example.com], addresses: [{address}], resolution: \
             STATIC, ports: [{{number: 80, name: tcp, protocol: TCP}}], endpoints: [{{address: \
             10.0.0.2}}]}}\n"
        )
    };
    let text = entry("web/pg", "10.97.0.1")
        + &entry("data/pg", "10.97.0.2")
        + "VirtualService web/pg: {hosts: [pg.example.com], tcp: [{route: [{destination: {host: \
           pg.example.com}}]}]}\n";
    let settings = Settings { cross_namespace: CrossNamespace::Owner, ..Settings::default() };
    let readings = [documents::read(None, &written_out(&text))];
    let found = check(&readings, &[], &[], &settings).diagnostics;
    let told: Vec<&str> =
        found.iter().filter(|one| one.code == "RD4050").map(|one| &*one.message).collect();
    let [told] = &told[..] else { panic!("{found:#?}") };
    assert!(told.starts_with("pg.example.com belongs to the namespace data, too, "), "{told}");
    assert!(told.ends_with("where they dial what is theirs"), "{told}");
    let world = world_with(&text, settings);
    let matched = |to: &str| {
        let source = QuerySource::Described {
            namespace: "shop".to_owned(),
            labels: Default::default(),
            addresses: Vec::new(),
        };
        let destination = to.parse().expect("an address");
        let query = Query { source, destination, gateway: None, sni: None };
        explain(&world, &query).expect("nobody is looked for").rule.is_some()
    };
    assert_eq!(["10.97.0.1:80", "10.97.0.2:80"].map(matched), [true, false]);
}
