//! How much a registry that follows changes does for it, over fixed Worlds. Random ones
//! are edited in `edits`.

use std::net::IpAddr;
use std::sync::Arc;

use redirector_core::budget::Quantity;
use redirector_core::model::{Kind, Object, ObjectRef, Spec};
use redirector_core::registry::{Changed, HostChange, Registry};
use redirector_core::store::Replaced;
use redirector_core::work::Work;
use redirector_core::world::{Changes, World};

use crate::support;

/// Notes an edit beside earlier ones of the same change.
fn note(
    changes: &mut Changes,
    reference: ObjectRef,
    before: Option<Arc<Object>>,
    after: Option<Arc<Object>>,
) {
    let noted = changes.objects.entry(reference).or_insert(Replaced { before, after: None });
    noted.after = after;
}

/// A World, its registry that follows, and one that was built of it.
struct Followed {
    world: World,
    registry: Registry,
    fresh: Registry,
}

impl Followed {
    fn new(world: World) -> Self {
        let (registry, fresh) = (Registry::new(&world), Registry::new(&world));
        Self { world, registry, fresh }
    }

    /// Makes changes, and holds what follows against what is built anew; returns what
    /// changed.
    fn follow(&mut self, changes: &Changes, what: &str) -> Changed {
        self.world.apply(changes);
        let changed = self.registry.update(&self.world, changes);
        let fresh = Registry::new(&self.world);
        // They are long.
        assert!(self.registry == fresh, "{what}: {changes:#?}");
        let expected = Changed { work: changed.work, ..Changed::between(&self.fresh, &fresh) };
        assert_eq!(changed, expected, "{what}: {changes:#?}");
        self.fresh = fresh;
        changed
    }

    /// The same, of an edit of one object.
    fn edit(&mut self, (kind, name): (Kind, &str), edit: impl FnOnce(&mut Object)) -> Changed {
        let namespace = if kind.is_cluster_scoped() { "" } else { "shop" };
        let before = self.world.find(kind, namespace, name).cloned();
        let mut object = before.as_deref().expect("it is there").clone();
        edit(&mut object);
        let mut changes = Changes::default();
        note(&mut changes, object.reference(), before, Some(object.into()));
        self.follow(&changes, name)
    }
}

/// Services with two pods each, a wildcard among their DestinationRules, and a
/// ServiceEntry that selects by labels.
fn services(count: usize) -> World {
    let mut text = String::from(
        "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: eu}}
ServiceEntry shop/outside:
  hosts: [outside.example]
  ports: [{number: 80, name: tcp, protocol: TCP}]
  resolution: STATIC
  workloadSelector: {labels: {app: s7}}
",
    );
    for service in 0..count {
        text += &format!(
            "Service shop/s{service}: {{clusterIP: 10.96.{}.{}, selector: {{app: s{service}}}, ports: [{{name: tcp, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: s{service}-x
  namespace: shop
  labels: {{kubernetes.io/service-name: s{service}}}
addressType: IPv4
ports: [{{name: tcp, port: 8080}}]
endpoints:
- {{addresses: [10.{}.{}.1], targetRef: {{kind: Pod, name: s{service}-0}}}}
- {{addresses: [10.{}.{}.2], targetRef: {{kind: Pod, name: s{service}-1}}}}
",
            service / 256,
            service % 256,
            service / 256,
            service % 256,
            service / 256,
            service % 256,
        );
        for pod in 0..2 {
            text += &format!(
                "Pod shop/s{service}-{pod} {{labels: {{app: s{service}}}}}: {{nodeName: n{}, containers: []}}
status:
  podIP: 10.{}.{}.{}
  phase: Running
  conditions: [{{type: Ready, status: 'True'}}]
",
                service % 5,
                service / 256,
                service % 256,
                pod + 1,
            );
        }
    }
    support::world(&text)
}

#[test]
fn among_a_thousand_services_only_those_that_a_change_concerns_are_made_again() {
    let mut followed = Followed::new(services(1000));
    let hosts = |changed: &Changed| {
        let hosts = changed.hosts.iter();
        hosts.map(|(host, change)| format!("{host} {change:?}")).collect::<Vec<_>>()
    };
    let of = |name: &str, what: &str| format!("{name}.shop.svc.cluster.local {what}");
    let outside = || "outside.example Endpoints".to_owned();
    let made = |services| Work { services, ..Work::default() };

    let changed = followed.edit((Kind::EndpointSlice, "s5-x"), |slice| {
        let Spec::EndpointSlice(spec) = &mut slice.spec else { panic!("{slice:?}") };
        spec.endpoints.pop();
    });
    assert_eq!((changed.work, hosts(&changed)), (made(1), vec![of("s5", "Endpoints")]));

    // A pod of whom nothing but its readiness is another: a slice would tell.
    let changed = followed.edit((Kind::Pod, "s5-0"), |pod| {
        let Spec::Pod(spec) = &mut pod.spec else { panic!("{pod:?}") };
        spec.ready = !spec.ready;
    });
    assert_eq!(changed, Changed::default());

    // Labels decide to which subset it belongs, and who selects it.
    let label = |pod: &mut Object| pod.meta.labels.insert("version", "v2");
    let changed = followed.edit((Kind::Pod, "s6-0"), label);
    assert_eq!((changed.work, hosts(&changed)), (made(1), vec![of("s6", "Endpoints")]));
    let changed = followed.edit((Kind::Pod, "s7-0"), label);
    assert_eq!((changed.work, hosts(&changed)), (made(2), vec![outside(), of("s7", "Endpoints")]));
    let changed = followed.edit((Kind::Pod, "s7-0"), |pod| {
        let Spec::Pod(spec) = &mut pod.spec else { panic!("{pod:?}") };
        spec.ready = !spec.ready;
    });
    assert_eq!((changed.work, hosts(&changed)), (made(1), vec![outside()]));

    let changed = followed.edit((Kind::Service, "s8"), |service| {
        let Spec::Service(spec) = &mut service.spec else { panic!("{service:?}") };
        spec.ports[0].name = "http".to_owned();
    });
    assert_eq!((changed.work, hosts(&changed)), (made(1), vec![of("s8", "Everything")]));

    // Of five nodes, one moves: the services of its pods are made again.
    let changed = followed.edit((Kind::Node, "n1"), |node| {
        node.meta.labels.insert("topology.kubernetes.io/zone", "eu-1");
    });
    assert_eq!((changed.work, changed.hosts.len()), (made(200), 200));
    assert!(changed.hosts.values().all(|change| *change == HostChange::Endpoints));
}

#[test]
fn a_rule_for_a_wildcard_changes_all_hosts_that_it_covers_and_no_service_is_made_again() {
    let mut followed = Followed::new(services(20));
    for (host, expected) in [
        ("s3", vec!["s3.shop.svc.cluster.local"]),
        ("*.example", vec!["outside.example"]),
        ("nowhere.example", vec![]),
    ] {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r, \
             namespace: shop}}\nspec: {{host: '{host}', trafficPolicy: {{loadBalancer: {{simple: \
             RANDOM}}}}}}\n"
        );
        let read = redirector_core::documents::read(None, &text).objects.remove(0);
        let rule = read.object.expect("the document is good");
        for after in [Some(rule), None] {
            let mut changes = Changes::default();
            let reference = read.reference.clone().expect("it has a name");
            let before = followed.world.get(&reference).cloned();
            note(&mut changes, reference, before, after);
            let changed = followed.follow(&changes, host);
            let hosts: Vec<&str> = changed.hosts.keys().map(|host| &**host).collect();
            assert_eq!((changed.work, hosts), (Work::default(), expected.clone()), "{host}");
            assert!(changed.hosts.values().all(|change| *change == HostChange::Everything));
        }
    }
}

#[test]
fn what_is_left_out_for_its_names_is_counted_by_what_they_resolve_to_when_there_is_room_again() {
    let entry = |name: &str, namespace: &str, created: u32, host: &str| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}
spec:
  hosts: [{host}]
  ports: [{{number: 5432, name: tcp, protocol: TCP}}]
  resolution: DNS
"
        )
    };
    let mut world = support::world(
        &[
            entry("older", "shop", 1, "cache.example.com"),
            entry("younger", "shop", 2, "db.example.com"),
            // Whose names are asked for.
            entry("same", "other", 3, "db.example.com"),
        ]
        .concat(),
    );
    world.settings.budgets.namespace.names = 1;
    world.settings.budgets.namespace.endpoints = 2;
    let younger = world.find(Kind::ServiceEntry, "shop", "younger").expect("it").reference();
    let older = world.find(Kind::ServiceEntry, "shop", "older").expect("it").clone();
    let mut followed = Followed::new(world);
    let over = |followed: &Followed| followed.registry.over(&younger).map(|over| over.quantity);
    assert_eq!(over(&followed), Some(Quantity::Names));

    let three = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let three: Vec<IpAddr> = three.iter().map(|one| one.parse().expect("an address")).collect();
    let mut changes = Changes::default();
    changes.names.insert("db.example.com".into(), Some(three.into()));
    followed.follow(&changes, "the answer");
    assert_eq!(over(&followed), Some(Quantity::Names));

    let mut changes = Changes::default();
    note(&mut changes, older.reference(), Some(older), None);
    followed.follow(&changes, "room for names");
    assert_eq!(over(&followed), Some(Quantity::Endpoints));
}
