use super::*;
use crate::compile::compile;
use crate::explain::{Query, explain};
use crate::image::Image;
use crate::layout::ROOMY;
use crate::testing;
use crate::world::{ServiceAddresses, Settings};

const DOCUMENTS: &str = "
Service echo:
  clusterIP: 10.96.0.10
  selector: {app: echo}
  ports: [{name: tcp, port: 19000, targetPort: 9000}]
WorkloadEntry echo-1: {address: 10.0.0.1, labels: {app: echo, v: a}}
WorkloadEntry echo-2: {address: 10.0.0.2, labels: {app: echo, v: b}, weight: 3}
WorkloadEntry client {annotations: {redirector.io/cgroup: client}}: {address: 10.0.0.9, labels: {app: client}}
DestinationRule echo:
  host: echo
  subsets: [{name: a, labels: {v: a}}, {name: none, labels: {v: c}}]
VirtualService echo:
  hosts: [echo]
  tcp:
  - match: [{sourceLabels: {app: client}}]
    route:
    - destination: {host: echo, subset: a}
      weight: 70
    - destination: {host: echo, subset: none}
      weight: 30
";

const SIDE: Side = Side::of_epoch(0);

type Idle = At<fn(u32) -> Live, fn(u32) -> u64>;

/// Nobody has connections, and nothing has failed.
const IDLE: Idle = At { live: |_| Live::default(), mine: |_| 0, now: 0, affinity: None };

fn own() -> Settings {
    Settings { services: ServiceAddresses::Own, ..Settings::default() }
}

fn world() -> World {
    testing::world(own(), DOCUMENTS)
}

fn placed(world: &World) -> (Layout, Image) {
    Layout::default().place(&compile(world).plan, &ROOMY).unwrap()
}

fn query(source: QuerySource, to: &str) -> Query {
    Query { source, destination: to.parse().unwrap(), gateway: None, sni: None }
}

fn client() -> QuerySource {
    QuerySource::Workload { namespace: "default".into(), name: "client".into() }
}

#[test]
fn the_tables_say_what_the_documents_say() {
    let world = world();
    let (layout, image) = placed(&world);
    let names = layout.names();
    for (source, to) in [
        (client(), "10.96.0.10:19000"),
        (QuerySource::Unknown, "10.96.0.10:19000"),
        (client(), "10.96.0.10:19001"),
        (client(), "10.96.0.11:19000"),
    ] {
        let query = query(source, to);
        let class = class_of(&world, &Registry::new(&world), &layout, &query.source);
        let class = class.unwrap().unwrap();
        let said = explain(&world, &query).unwrap();
        let mut answered = said.clone();
        let found = look_up(&image, SIDE, query.destination, class, &IDLE);
        answer(&mut answered, found.as_ref(), &names, Some(&world), query.destination);
        assert_eq!(answered.notes, said.notes, "{to}");
        assert_eq!(answered.rule, said.rule, "{to}");
        assert_eq!(answered.frontend, said.frontend, "{to}");
        assert_eq!(answered.destinations, said.destinations, "{to}");
        assert_eq!(answered.endpoints, said.endpoints, "{to}");
        assert_eq!(answered.verdict, said.verdict, "{to}");
    }
}

#[test]
fn where_the_tables_differ_they_are_believed_and_it_is_said() {
    let world = world();
    let (layout, mut image) = placed(&world);
    image.frontends.clear();
    let query = query(client(), "10.96.0.10:19000");
    let mut answered = explain(&world, &query).unwrap();
    let found = look_up(&image, SIDE, query.destination, 1, &IDLE);
    let names = layout.names();
    answer(&mut answered, found.as_ref(), &names, Some(&world), query.destination);
    assert_eq!(answered.verdict, VerdictWord::Passthrough);
    assert!(answered.endpoints.is_empty());
    assert!(answered.notes.last().unwrap().contains("say otherwise"), "{answered:?}");
}

#[test]
fn a_source_that_no_rule_is_for_is_in_a_class_and_another_that_nobody_is_like_in_none() {
    let world = world();
    let registry = Registry::new(&world);
    let (layout, _) = placed(&world);
    let class = |namespace: &str, app: &str| {
        let labels = [("app".to_owned(), app.to_owned())].into();
        let source =
            QuerySource::Described { namespace: namespace.into(), labels, addresses: Vec::new() };
        class_of(&world, &registry, &layout, &source).unwrap()
    };
    assert_eq!(class("elsewhere", "other"), Some(0));
    // As the client is, but for the namespace, which the DestinationRule asks for.
    assert!(class("default", "client").is_some_and(|class| class != 0));
    assert_eq!(class("elsewhere", "client"), None);
}

#[test]
fn what_ejection_and_limits_do_now_is_told_beside_the_shares() {
    let policy = "
DestinationRule echo:
  host: echo
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 7}}
    outlierDetection: {maxEjectionPercent: 100}
";
    let mut world = world();
    testing::add(&mut world, policy);
    let (layout, image) = placed(&world);
    let names = layout.names();
    let query = query(QuerySource::Unknown, "10.96.0.10:19000");
    let said = explain(&world, &query).unwrap();
    let now = |change: &dyn Fn(Option<SocketAddr>, &mut Live)| {
        let at = At {
            live: |number| {
                let mut live = Live::default();
                change(names.lives.get(&number).unwrap().1, &mut live);
                live
            },
            mine: |_| 0,
            now: 1_000_000_000,
            affinity: None,
        };
        let mut answered = said.clone();
        let found = look_up(&image, SIDE, query.destination, 0, &at);
        answer(&mut answered, found.as_ref(), &names, Some(&world), query.destination);
        assert_eq!((&answered.endpoints, &answered.notes), (&said.endpoints, &said.notes));
        answered.now.unwrap()
    };
    let all = now(&|_, _| {});
    assert_eq!((all.endpoints, all.refused_share), (said.endpoints.clone(), 0.0));
    assert_eq!(all.why, [""; 0]);
    let one = now(&|endpoint, live| {
        if endpoint.is_some_and(|at| at.ip().to_string() == "10.0.0.2") {
            live.ejected_until = 3_500_000_000;
        }
    });
    assert_eq!(one.endpoints, [("10.0.0.1:9000".to_owned(), 1.0)].into());
    assert!(one.why[0].contains("10.0.0.2:9000 is ejected for 3 s more"), "{one:?}");
    let full = now(&|endpoint, live| {
        if endpoint.is_none() {
            live.word = 7 * Live::ONE;
        }
    });
    assert_eq!((full.endpoints.len(), full.refused_share), (0, 1.0));
    assert!(full.why[0].contains("7 connections"), "{full:?}");
}

#[test]
fn of_nested_prefixes_that_say_the_same_the_narrower_is_named() {
    let nested = "
ServiceEntry NAME:
  hosts: [NAME.example.com]
  addresses: [NETWORK]
  ports: [{number: 443, name: tcp, protocol: TCP}]
  resolution: STATIC
---
";
    let mut world = World::new(own());
    for (name, network) in [("wide", "10.0.0.0/8"), ("narrow", "10.1.0.0/16")] {
        let text = nested.replace("NAME", name).replace("NETWORK", network);
        testing::add(&mut world, &text);
    }
    let (layout, image) = placed(&world);
    for (to, prefix, service) in [
        ("10.1.2.3:443", "10.1.0.0/16", "default/narrow"),
        ("10.2.2.3:443", "10.0.0.0/8", "default/wide"),
    ] {
        let query = query(QuerySource::Unknown, to);
        let mut answered = explain(&world, &query).unwrap();
        let found = look_up(&image, SIDE, query.destination, 0, &IDLE);
        answer(&mut answered, found.as_ref(), &layout.names(), None, query.destination);
        let frontend = answered.frontend.unwrap();
        assert_eq!((&*frontend.prefix, frontend.service.as_deref()), (prefix, Some(service)));
    }
}

#[test]
fn who_stood_by_is_used_and_told_while_all_before_it_are_ejected() {
    let world = world();
    let (layout, mut image) = placed(&world);
    let names = layout.names();
    let query = query(QuerySource::Unknown, "10.96.0.10:19000");
    let mut answered = explain(&world, &query).unwrap();
    // Of its two endpoints, one has all the weight.
    let destination = image.destinations.values_mut().find(|one| one.count == 2).unwrap();
    (destination.policy, destination.live) = (policy::EJECTING, 1);
    let (near, far) = (destination.first, destination.first + 1);
    for (index, live, threshold) in [(near, 2, u32::MAX), (far, 3, 0)] {
        let backend = image.backends.get_mut(&index).unwrap();
        (backend.live, backend.threshold, backend.alias) = (live, threshold, 0);
    }
    let at = At {
        live: |number| Live { ejected_until: if number == 2 { 9 } else { 0 }, ..Live::default() },
        mine: |_| 0,
        now: 1,
        affinity: None,
    };
    let found = look_up(&image, SIDE, query.destination, 0, &at);
    answer(&mut answered, found.as_ref(), &names, None, query.destination);
    let text = |index| {
        let backend = &image.backends[&index];
        SocketAddr::new(backend.addr.into(), u16::from_be(backend.port)).to_string()
    };
    assert_eq!(answered.endpoints, [(text(near), 1.0)].into());
    let now = answered.now.unwrap();
    assert_eq!(now.endpoints, [(text(far), 1.0)].into());
    assert!(now.why.iter().any(|why| why.contains(&format!("{} stood by", text(far)))), "{now:?}");
}

#[test]
fn names_that_decide_endpoints_are_told_with_what_they_resolve_to() {
    let entry = "
ServiceEntry db:
  hosts: [db.example.com]
  addresses: [10.96.0.30]
  ports: [{number: 443, name: tcp, protocol: TCP}]
  resolution: DNS
  endpoints: [{address: one.example.com}, {address: two.example.com}]
";
    let mut world = world();
    testing::add(&mut world, entry);
    world.set_resolved("one.example.com", vec!["10.0.0.7".parse().unwrap()]);
    let (layout, image) = placed(&world);
    let query = query(QuerySource::Unknown, "10.96.0.30:443");
    let mut answered = explain(&world, &query).unwrap();
    let said = answered.destinations[0].names.clone();
    let named: Vec<_> = said.iter().map(|one| (&*one.name, one.addresses.as_deref())).collect();
    let one: &[IpAddr] = &["10.0.0.7".parse().unwrap()];
    assert_eq!(named, [("one.example.com", Some(one)), ("two.example.com", None)]);
    let found = look_up(&image, SIDE, query.destination, 0, &IDLE);
    answer(&mut answered, found.as_ref(), &layout.names(), Some(&world), query.destination);
    assert_eq!(answered.destinations[0].names, said);
}
