//! A registry that follows changes against one that is built anew: over random Worlds
//! and random edits of them, and how much it did for it over fixed ones.
//!
//! `REDIRECTOR_EDITS=100000` is the long form; `REDIRECTOR_SEED` starts elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use redirector_core::model::bypass::Bypass;
use redirector_core::model::{Kind, Object, ObjectRef, Spec};
use redirector_core::registry::{Changed, HostChange, Registry};
use redirector_core::store::Replaced;
use redirector_core::work::Work;
use redirector_core::world::{Changes, ServiceAddresses, Settings, World};

use crate::support::edits::budgets;
use crate::support::random::Random;
use crate::support::worlds::random_world;
use crate::support::{self, number};

/// What makes one World another.
fn changes(from: &World, to: &World) -> Changes {
    let mut changes = Changes::default();
    for (one, other) in [(from, to), (to, from)] {
        for (reference, object) in one.by_reference() {
            if other.get(reference) != Some(object) {
                let (before, after) = (from.get(reference).cloned(), to.get(reference).cloned());
                changes.objects.insert(reference.clone(), Replaced { before, after });
            }
        }
    }
    changes.settings = (from.settings != to.settings).then(|| to.settings.clone());
    changes
}

/// A World with something else in it, as it is in others that are made likewise.
fn edit(world: &mut World, other: &World, random: &mut Random, changes: &mut Changes) {
    let put = |world: &mut World, changes: &mut Changes, object: Object| {
        let (reference, object) = (object.reference(), Arc::new(object));
        let before = world.insert(object.clone());
        note(changes, reference, before, Some(object));
    };
    let of: Vec<Arc<Object>> = world.objects().cloned().collect();
    let from: Vec<Arc<Object>> = other.objects().cloned().collect();
    match random.below(16) {
        // What a resolver says.
        0 => {
            let name = *random.pick(&["db.example.com", "x.example.com", "nowhere.example.com"]);
            let addresses =
                ["192.0.2.1", "192.0.2.9", "fd00:192::7"].map(|ip| ip.parse().expect("an address"));
            let answer = (!random.once_in(3)).then(|| random.some(&addresses, 3));
            changes.names.insert(name.into(), answer);
        }
        1 => {
            let settings = Settings { ..other.settings.clone() };
            let settings = match random.below(7) {
                0 => Settings { bypass: Bypass::default(), ..world.settings.clone() },
                1 => Settings { services: ServiceAddresses::Own, ..world.settings.clone() },
                2 => Settings { root_namespace: "foo".to_owned(), ..world.settings.clone() },
                3 => Settings { cluster_domain: "here".to_owned(), ..settings },
                4 => Settings { budgets: budgets(random), ..world.settings.clone() },
                _ => settings,
            };
            changes.settings = Some(settings);
        }
        2..=4 if !of.is_empty() => {
            let reference = random.pick(&of).reference();
            let before = world.remove(&reference);
            note(changes, reference, before, None);
        }
        // Of another World, under its own name or that of one of the same kind here.
        5..=10 if !from.is_empty() => {
            let mut object = (**random.pick(&from)).clone();
            let kind = object.spec.kind();
            let alike: Vec<_> = of.iter().filter(|one| one.spec.kind() == kind).collect();
            if !alike.is_empty() && random.once_in(2) {
                let meta = &random.pick(&alike).meta;
                (object.meta.name, object.meta.namespace) =
                    (meta.name.clone(), meta.namespace.clone());
            }
            put(world, changes, object);
        }
        // A part of one here is as in another of its kind.
        _ if !of.is_empty() => {
            let mut object = (**random.pick(&of)).clone();
            let kind = object.spec.kind();
            let alike: Vec<_> =
                of.iter().chain(&from).filter(|one| one.spec.kind() == kind).collect();
            let like = random.pick(&alike);
            match random.below(5) {
                0 => object.meta.labels.clone_from(&like.meta.labels),
                1 => object.meta.annotations.clone_from(&like.meta.annotations),
                2 => object.meta.created = like.meta.created,
                3 => object.meta.uid.clone_from(&like.meta.uid),
                _ => mix(&mut object.spec, &like.spec, random),
            }
            put(world, changes, object);
        }
        _ => {}
    }
}

/// Gives a spec one of the parts of another, or all of it.
fn mix(spec: &mut Spec, like: &Spec, random: &mut Random) {
    match (spec, like) {
        (Spec::Service(one), Spec::Service(other)) => match random.below(5) {
            0 => one.selector.clone_from(&other.selector),
            1 => one.ports.clone_from(&other.ports),
            2 => one.publish_not_ready = !one.publish_not_ready,
            3 => one.internal_local = !one.internal_local,
            _ => one.cluster_ips.clone_from(&other.cluster_ips),
        },
        (Spec::EndpointSlice(one), Spec::EndpointSlice(other)) => match random.below(4) {
            0 => one.service.clone_from(&other.service),
            1 => one.ports.clone_from(&other.ports),
            2 => one.endpoints.extend(other.endpoints.iter().cloned()),
            _ => drop(one.endpoints.pop()),
        },
        (Spec::Pod(one), Spec::Pod(other)) => match random.below(4) {
            0 => one.ips.clone_from(&other.ips),
            1 => one.node.clone_from(&other.node),
            2 => one.ready = !one.ready,
            _ => one.finished = !one.finished,
        },
        (Spec::ServiceEntry(one), Spec::ServiceEntry(other)) => match random.below(5) {
            0 => one.hosts.clone_from(&other.hosts),
            1 => one.workload_selector.clone_from(&other.workload_selector),
            2 => one.export_to.clone_from(&other.export_to),
            3 => one.resolution = other.resolution,
            _ => one.endpoints.clone_from(&other.endpoints),
        },
        (Spec::DestinationRule(one), Spec::DestinationRule(other)) => match random.below(4) {
            0 => one.host.clone_from(&other.host),
            1 => one.subsets.clone_from(&other.subsets),
            2 => one.workload_selector.clone_from(&other.workload_selector),
            _ => one.export_to.clone_from(&other.export_to),
        },
        (spec, like) => spec.clone_from(like),
    }
}

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

#[test]
fn one_that_follows_changes_is_as_one_that_is_built_anew() {
    let (edits, seed) = (number("REDIRECTOR_EDITS", 4000), number("REDIRECTOR_SEED", 0));
    let (mut done, mut index) = (0, seed);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    while done < edits {
        let mut random = Random::of_world(index);
        let mut followed = Followed::new(random_world(&mut random));
        let mut other = random_world(&mut random);
        for step in 0..60 {
            let (world, mut edited) = (&followed.world, followed.world.clone());
            let mut all = Changes::default();
            // Several at once, and now and then all of another World.
            for _ in 0..[1, 1, 1, 2, 4][random.below(5) as usize] {
                edit(&mut edited, &other, &mut random, &mut all);
            }
            if random.once_in(30) {
                all = changes(world, &other);
                other = random_world(&mut random);
            }
            let what = format!("world {index}, step {step}");
            let changed = followed.follow(&all, &what);
            done += 1;
            let mut see = |what: &str, times: usize| {
                *seen.entry(what.to_owned()).or_default() += times as u64;
            };
            let of = |change| changed.hosts.values().filter(|one| **one == change).count();
            see("endpoints", of(HostChange::Endpoints));
            see("everything", of(HostChange::Everything));
            see("workloads", changed.workloads.len());
            see("names", usize::from(changed.names));
            see("whole", usize::from(changed.whole));
            see(
                "nothing",
                usize::from(changed == Changed { work: changed.work, ..Changed::default() }),
            );
            for kind in all.objects.keys().map(|reference| reference.kind) {
                see(kind.as_str(), 1);
            }
        }
        index += 1;
    }
    let kinds = Kind::ALL.iter().filter(|kind| **kind != Kind::Namespace).map(|kind| kind.as_str());
    let what = ["endpoints", "everything", "workloads", "names", "whole", "nothing"];
    for what in what.into_iter().chain(kinds) {
        let times = seen.get(what).copied().unwrap_or_default();
        assert!(times * 200 > done, "{what}: {times} times in {done} edits");
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
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec:
  hosts: [outside.example]
  ports: [{number: 80, name: tcp, protocol: TCP}]
  resolution: STATIC
  workloadSelector: {labels: {app: s7}}
",
    );
    for service in 0..count {
        text += &format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: s{service}, namespace: shop}}
spec: {{clusterIP: 10.96.{}.{}, selector: {{app: s{service}}}, ports: [{{name: tcp, port: 80}}]}}
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
                "---
apiVersion: v1
kind: Pod
metadata: {{name: s{service}-{pod}, namespace: shop, labels: {{app: s{service}}}}}
spec: {{nodeName: n{}, containers: []}}
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
