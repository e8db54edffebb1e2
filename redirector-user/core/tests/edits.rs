//! Worlds that are edited: what is compiled and placed step by step is what the whole
//! gives, nothing is remembered of what is gone, and no more is made again than the edit
//! concerns.
//!
//! `REDIRECTOR_EDITS=100000` is the long form, `REDIRECTOR_OBJECTS` how many objects a
//! World may have, `REDIRECTOR_SEED` where to begin.

use std::collections::BTreeMap;
use std::fmt::Write;

use redirector_core::client::Client;
use redirector_core::compile::Stages;
use redirector_core::documents;
use redirector_core::image::Image;
use redirector_core::layout::{Layout, Newcomers, Placement};
use redirector_core::model::Kind;
use redirector_core::plan::{Delta, Plan};
use redirector_core::registry::{Changed, HostChange, Registry};
use redirector_core::store::Replaced;
use redirector_core::work::Work;
use redirector_core::world::{Changes, ServiceAddresses, Settings, World};
use serde_json::{Value, json};

use crate::support::edits::Edited;
use crate::support::placed::{assert_kept, named};
use crate::support::random::Random;
use crate::support::{LIMITS, number};

/// So many steps are made of one World.
const OF_ONE: u64 = 50;

/// An edited World, and all that follows its changes.
struct Followed {
    edited: Edited,
    registry: Registry,
    stages: Stages,
    placement: Placement,
    /// The tables, as they were written.
    image: Image,
    /// The registry of before, built of the World.
    before: Registry,
}

/// What a step did.
struct Step {
    changes: Changes,
    changed: Changed,
    delta: Delta,
    work: Work,
    /// Not all destinations were made, then or before.
    cut: bool,
}

impl Step {
    /// How many things were edited.
    fn edits(&self) -> u64 {
        let Changes { objects, names, settings } = &self.changes;
        (objects.len() + names.len() + usize::from(settings.is_some())) as u64
    }

    /// What happened, for those that nothing may be missing of.
    fn seen(&self) -> Vec<String> {
        let hosts = |change| self.changed.hosts.values().filter(move |one| **one == change);
        let kinds = self.changes.objects.keys().map(|object| object.kind.to_string());
        let mut seen: Vec<String> = kinds.collect();
        let mut see = |is_so: bool, what: &str| seen.extend(is_so.then(|| what.to_owned()));
        see(hosts(HostChange::Endpoints).next().is_some(), "endpoints");
        see(hosts(HostChange::Everything).next().is_some(), "hosts");
        see(!self.changed.workloads.is_empty(), "workloads");
        see(self.changed.names, "names");
        see(!self.changes.names.is_empty(), "addresses of names");
        see(self.changes.settings.is_some(), "settings");
        see(self.delta.is_empty(), "nothing");
        see(!self.delta.is_empty(), "something");
        seen
    }
}

impl Followed {
    fn new(edited: Edited) -> Self {
        let registry = Registry::new(&edited.world);
        let stages = Stages::of(&edited.world, &registry);
        let mut placement = Placement::of(Layout::default());
        let mut image = Image::default();
        let delta = Plan::default().difference(stages.plan());
        place(&mut placement, &mut image, &delta);
        let before = Registry::new(&edited.world);
        Self { edited, registry, stages, placement, image, before }
    }

    /// Puts in force what makes the World what it is already.
    fn follow(&mut self, changes: Changes) -> Step {
        let Self { edited: Edited { world, .. }, registry, stages, .. } = self;
        let changed = registry.update(world, &changes);
        // What was not made is known to a whole step only, after which objects are left
        // out until nothing is; here it stays, and so the next step is whole, too.
        let mut cut = stages.is_cut();
        let (mut delta, mut work) = match cut {
            true => stages.replace(world, registry),
            false => stages.update(world, registry, &changes, &changed),
        };
        if !cut && stages.is_cut() {
            let (more, more_work) = stages.replace(world, registry);
            delta.then(more);
            work += more_work;
            cut = true;
        }
        place(&mut self.placement, &mut self.image, &delta);
        Step { changes, changed, delta, work, cut }
    }

    /// A step that is held against the whole.
    fn checked(&mut self, changes: Changes, at: &str) -> Step {
        let (plan, layout) = (self.stages.plan().clone(), self.placement.layout().clone());
        let step = self.follow(changes);
        let told = || {
            let objects: Vec<String> =
                step.changes.objects.keys().map(ToString::to_string).collect();
            let Changes { names, settings, .. } = &step.changes;
            format!("{at}: {objects:?} {names:?} {settings:?}\n{:?}", step.changed)
        };
        let registry = Registry::new(&self.edited.world);
        let expected = Changed::between(&self.before, &registry);
        assert_eq!(step.changed, Changed { work: step.changed.work, ..expected }, "{}", told());
        self.before = registry;
        if !step.cut {
            assert_eq!(plan.difference(self.stages.plan()), step.delta, "{}", told());
        }
        self.hold(&self.before, &told);
        assert_kept(&layout, self.placement.layout(), self.stages.plan());
        step
    }

    /// Holds all that followed against the whole.
    fn hold(&self, registry: &Registry, told: &dyn Fn() -> String) {
        let Self { edited: Edited { world, .. }, stages, placement, image, .. } = self;
        // They are long.
        assert!(self.registry == *registry, "{}: the registry is another", told());
        let fresh = Stages::of(world, registry);
        let (mut got, wanted) = (stages.plan().clone(), fresh.plan());
        got.renumber_as(wanted);
        assert!(got == *wanted, "{}: {:#?}", told(), got.difference(wanted));
        assert_eq!(stages.memory(), fresh.memory(), "{}", told());
        assert_eq!(stages.rejected(), fresh.rejected(), "{}", told());
        for (id, source) in &stages.plan().sources {
            let client = Client {
                namespace: Some(&id.namespace),
                labels: Some(&source.labels),
                addresses: &source.addresses,
                bypassed: world.settings.bypass.has_workload(&id.namespace, &id.name),
            };
            assert_eq!(stages.classifier().class(&client), Some(source.class), "{}", told());
        }
        assert!(placement.image() == image, "{}: the tables are others", told());
        let (layout, whole) = Layout::default().place(wanted, &LIMITS).expect("there is room");
        let (got, wanted) = (named(placement.layout(), image), named(&layout, &whole));
        assert!(got == wanted, "{}: {got:#?}\n{wanted:#?}", told());
    }
}

fn place(placement: &mut Placement, image: &mut Image, delta: &Delta) {
    let placed = placement.place(delta, &LIMITS, &Newcomers::default());
    image.apply(&placed.expect("there is room").0);
    placement.settle();
}

#[test]
fn what_follows_edits_is_what_the_whole_gives_and_remembers_no_more() {
    let (edits, seed) = (number("REDIRECTOR_EDITS", 10_000), number("REDIRECTOR_SEED", 0));
    let most = number("REDIRECTOR_OBJECTS", 40) as usize;
    let (mut done, mut steps, mut largest) = (0, 0, 0);
    let (mut islands, mut all_islands) = (0, 0);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for index in seed.. {
        if done >= edits {
            break;
        }
        let mut random = Random::of_world(index);
        let mut followed = Followed::new(Edited::random(&mut random, most));
        for step in 0..=OF_ONE {
            let at = format!("REDIRECTOR_SEED={index} REDIRECTOR_EDITS=1, step {step}");
            let edited = &mut followed.edited;
            // Several at once, and one by itself.
            let at_once = *random.pick(&[1, 2, 8, 12, 16]);
            let kind = random.below(60);
            let changes = match kind {
                // In the end all of it goes.
                _ if step == OF_ONE => {
                    edited.become_other(Edited::of(edited.world.settings.clone(), most))
                }
                0 => edited.become_other(Edited::random(&mut random, most)),
                _ => edited.edit(&mut random, at_once),
            };
            let is_edit = step < OF_ONE && kind > 0;
            let step = followed.checked(changes, &at);
            (done, steps) = (done + if is_edit { step.edits() } else { 1 }, steps + 1);
            largest = largest.max(followed.edited.len());
            if !step.cut {
                islands += step.work.islands as u64;
                all_islands += followed.stages.memory()["islands"] as u64;
            }
            let crowded = followed.registry.all_over().any(|(_, over)| over.of_namespace);
            let crowded = crowded.then(|| "beyond a budget".to_owned());
            let cut = step.cut.then(|| "destinations that are not made".to_owned());
            for what in step.seen().into_iter().chain(crowded).chain(cut) {
                *seen.entry(what).or_default() += 1;
            }
        }
        assert_eq!(followed.image, Image::default(), "of nothing nothing is left");
    }
    let kinds = Kind::ALL.map(Kind::as_str);
    let what = ["endpoints", "hosts", "workloads", "names", "addresses of names", "settings"];
    let more = ["nothing", "something", "beyond a budget"];
    for what in what.into_iter().chain(more).chain(kinds) {
        let times = seen.get(what).copied().unwrap_or_default();
        assert!(done < 1_000 || times * 200 > steps, "{what}: {times} times in {steps} steps");
    }
    assert!(islands * 2 < all_islands, "{islands} of {all_islands} islands were made again");
    eprintln!(
        "figure: {done} edits in {steps} steps, of Worlds of up to {largest} objects; {} steps \
         changed the Plan; {islands} of {all_islands} islands were made again",
        seen["something"]
    );
}

/// A Service, what it leads to, and a rule for each of its ports.
fn routed(service: usize, ports: u16) -> [Value; 3] {
    let (name, other) = (format!("s{service}"), format!("s{}", service + 1));
    let port = |index: u16| json!({ "name": format!("tcp-{index}"), "port": 1000 + index });
    let rule = |index: u16| {
        let port = 1000 + index;
        let leg = |host: &str, weight: u16| json!({ "destination": { "host": host, "port": { "number": port } }, "weight": weight });
        json!({ "match": [{ "port": port }], "route": [leg(&name, 60), leg(&other, 40)] })
    };
    let metadata = json!({ "name": name, "namespace": "shop" });
    let ip = format!("10.{}.{}.{}", 96 + service / 62_500, service / 250 % 250, 1 + service % 250);
    let target = format!("10.244.{}.{}", service / 250, 1 + service % 250);
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "clusterIP": ip, "ports": (0..ports).map(port).collect::<Vec<_>>() },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {
                "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": name },
            },
            "addressType": "IPv4", "endpoints": [{ "addresses": [target] }],
            "ports": (0..ports).map(port).collect::<Vec<_>>(),
        }),
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": metadata,
            "spec": { "hosts": [name], "tcp": (0..ports).map(rule).collect::<Vec<_>>() },
        }),
    ]
}

#[test]
#[ignore = "it takes optimised code: cargo xtask test edits"]
fn what_follows_edits_of_a_hundred_thousand_rules_is_what_the_whole_gives() {
    const SERVICES: usize = 10_000;
    const PORTS: u16 = 10;
    let (edits, every) = (number("REDIRECTOR_EDITS", 1_000), 250);
    let mut random = Random::new(number("REDIRECTOR_SEED", 0));
    let settings = Settings {
        node_name: Some("n1".to_owned()),
        services: ServiceAddresses::Own,
        ..Settings::default()
    };
    let mut edited = Edited::of(settings, usize::MAX);
    edited.take((0..SERVICES).flat_map(|service| routed(service, PORTS)));
    edited.take(crate::support::worlds::Documents::random(&mut random).documents);
    let mut followed = Followed::new(edited);
    assert!(followed.stages.plan().routes.len() >= SERVICES * usize::from(PORTS));
    let (mut done, mut held, mut steps) = (0, 0, 0);
    let mut whole = (followed.stages.plan().clone(), Delta::default());
    while held < edits {
        let changes = followed.edited.edit(&mut random, 3);
        let step = followed.follow(changes);
        (done, steps) = (done + step.edits(), steps + 1);
        whole.1.then(step.delta);
        if done >= held + every || done >= edits {
            let (mut told, delta) = std::mem::take(&mut whole);
            told.apply(delta);
            assert!(told == *followed.stages.plan(), "step {steps}");
            let told = || format!("step {steps}");
            followed.hold(&Registry::new(&followed.edited.world), &told);
            (held, whole.0) = (done, followed.stages.plan().clone());
        }
    }
    eprintln!("figure: {done} edits in {steps} steps, of {} objects", followed.edited.len());
}

/// Services of a cluster in one namespace, of which the first so many have a rule each.
struct Cluster {
    world: World,
    registry: Registry,
    stages: Stages,
}

const SERVICES: usize = 1_000;
const RULES: usize = 900;

impl Cluster {
    fn new() -> Self {
        let mut text = String::new();
        for index in 0..SERVICES {
            let ip = format!("10.{}.{}.1", 96 + index / 250, index % 250);
            _ = write!(
                text,
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{index}, namespace: shop}}\n\
                 spec: {{clusterIP: {ip}, ports: [{{name: tcp, port: 80}}]}}\n{}",
                slice(index, &["10.0.0.1", "10.0.0.2"])
            );
            if index < RULES {
                text += &rule(index, 1, "");
            }
        }
        text += &pod("p0", "n1", "web");
        text += &pod("p1", "n2", "web");
        Self::of(&text)
    }

    fn of(text: &str) -> Self {
        let settings = Settings { node_name: Some("n1".to_owned()), ..Settings::default() };
        let mut world = World::new(settings);
        for read in documents::read(None, text).objects {
            world.insert(read.object.expect("it is admitted"));
        }
        Self::in_world(world)
    }

    fn in_world(world: World) -> Self {
        let registry = Registry::new(&world);
        let stages = Stages::of(&world, &registry);
        Self { world, registry, stages }
    }

    /// Puts documents in force.
    fn put(&mut self, text: &str) -> (Delta, Work) {
        let mut changes = Changes::default();
        for read in documents::read(None, text).objects {
            let after = read.object.expect("it is admitted");
            let reference = after.reference();
            let before = self.world.get(&reference).cloned();
            changes.objects.insert(reference, Replaced { before, after: Some(after) });
        }
        self.world.apply(&changes);
        let changed = self.registry.update(&self.world, &changes);
        let (delta, work) = self.stages.update(&self.world, &self.registry, &changes, &changed);
        // What it took to find out what changed is told by others.
        (delta, Work { services: 0, ..work })
    }
}

fn slice(service: usize, endpoints: &[&str]) -> String {
    let endpoints: Vec<String> =
        endpoints.iter().map(|ip| format!("{{addresses: [{ip}]}}")).collect();
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{service}-x, \
         namespace: shop, labels: {{kubernetes.io/service-name: s{service}}}}}\naddressType: IPv4\n\
         ports: [{{name: tcp, port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

/// A rule that leads from a service to the one behind it, and with some weight to
/// itself.
fn rule(service: usize, weight: u32, condition: &str) -> String {
    let (other, rest) = (service + 1, 100 - weight);
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: \
         v{service}, namespace: shop}}\nspec:\n  hosts: [s{service}]\n  tcp:\n  - match: \
         [{{port: 80{condition}}}]\n    route:\n    - {{destination: {{host: s{service}}}, weight: \
         {weight}}}\n    - {{destination: {{host: s{other}}}, weight: {rest}}}\n"
    )
}

fn pod(name: &str, node: &str, app: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: u-{name}, \
         labels: {{app: {app}}}}}\nspec: {{nodeName: {node}, containers: []}}\nstatus: {{podIPs: \
         [{{ip: 10.9.9.9}}]}}\n"
    )
}

#[test]
fn one_weight_among_many_rules_is_one_route_and_nothing_else() {
    let mut cluster = Cluster::new();
    let (delta, work) = cluster.put(&rule(7, 30, ""));
    assert_eq!(work, Work { rules: 1, routes: 1, ..Work::default() });
    let routes: Vec<_> = delta.routes.into_values().flatten().flatten().collect();
    assert_eq!(routes.iter().map(|leg| leg.weight).collect::<Vec<_>>(), [30, 70]);
    assert!(delta.frontends.is_empty() && delta.destinations.is_empty());
    // With nothing at one of them another is drawn no more: that is looked at.
    let (_, work) = cluster.put(&rule(7, 0, ""));
    assert_eq!(work, Work { rules: 1, islands: 1, routes: 1, ..Work::default() });
}

#[test]
fn one_endpoint_of_a_routed_service_is_its_destinations_and_of_another_nothing() {
    let mut cluster = Cluster::new();
    let (delta, work) = cluster.put(&slice(7, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
    assert_eq!(work, Work { hosts: 1, destinations: 1, ..Work::default() });
    assert_eq!(delta.destinations.len(), 1);
    assert!(delta.frontends.is_empty() && delta.routes.is_empty());
    let (delta, work) = cluster.put(&slice(SERVICES - 1, &["10.0.0.3"]));
    assert_eq!(work, Work { hosts: 1, ..Work::default() });
    assert!(delta.is_empty());
    // The last endpoint: which routes lead somewhere may be another thing then.
    let (delta, work) = cluster.put(&slice(7, &[]));
    assert_eq!(work, Work { hosts: 1, destinations: 1, islands: 2, ..Work::default() });
    assert!(delta.frontends.is_empty() && delta.routes.is_empty());
}

#[test]
fn entries_of_one_host_are_made_as_far_as_their_namespace_may_have_them_together() {
    let mut cluster = Cluster::of("");
    cluster.world.settings.budgets.namespace.frontends = 64;
    cluster = Cluster::in_world(cluster.world);
    let entry = |at: usize| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: \
             e{at:02}}}\nspec: {{hosts: [db.example.com], addresses: [10.1.{at}.1], ports: \
             [{{number: {at}, name: tcp, protocol: TCP}}], resolution: STATIC, endpoints: \
             [{{address: 10.0.0.1}}]}}\n"
        )
    };
    let all: String = (1..=50).map(entry).collect();
    // Each of eight addresses has each of eight ports; of fifty it would be 2,500.
    let (delta, work) = cluster.put(&all);
    assert_eq!((delta.frontends.len(), work.islands), (64, 64));
    let over = cluster.registry.all_over().map(|(object, _)| &*object.name);
    assert_eq!(
        over.collect::<Vec<_>>(),
        (9..=50).map(|at| format!("e{at:02}")).collect::<Vec<_>>()
    );
}

#[test]
fn a_condition_on_the_source_makes_its_own_island_again_and_a_pod_what_asks_of_it() {
    let mut cluster = Cluster::new();
    let (delta, work) = cluster.put(&rule(7, 1, ", sourceLabels: {app: web}"));
    assert_eq!(work, Work { rules: 1, islands: 1, ..Work::default() });
    assert_eq!(delta.frontends.len(), 1);
    // A local pod of another class, and one of another node.
    let (delta, work) = cluster.put(&pod("p0", "n1", "db"));
    assert_eq!(work, Work { islands: 1, routes: 1, ..Work::default() });
    assert_eq!((delta.frontends.len(), delta.sources.len()), (1, 1));
    let (delta, work) = cluster.put(&pod("p1", "n2", "db"));
    assert_eq!(work, Work::default());
    assert!(delta.is_empty());
}

#[test]
fn a_service_that_comes_makes_what_named_it_before() {
    let mut cluster = Cluster::new();
    let (delta, work) = cluster.put(&rule(SERVICES - 1, 50, ""));
    assert_eq!((work.islands, work.routes, delta.destinations.len()), (1, 1, 2));
    let text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{SERVICES}, namespace: shop}}\nspec: \
         {{clusterIP: 10.100.0.1, ports: [{{name: tcp, port: 80}}]}}\n{}",
        slice(SERVICES, &["10.0.0.1"])
    );
    let (delta, work) = cluster.put(&text);
    assert_eq!((work.islands, work.hosts), (2, 1));
    assert_eq!(delta.frontends.len(), 1);
}

#[test]
fn what_a_claim_to_every_address_has_nowhere_to_send_is_seen_again_when_it_has() {
    let entry = |name: &str, more: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
             spec: {{hosts: [{name}.example.com], ports: [{{number: 80, name: tcp, protocol: TCP}}], \
             {more}}}\n"
        )
    };
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\n\
                spec: {hosts: [any.example.com], tcp: [{route: [{destination: {host: \
                db.example.com}}]}]}\n";
    let db = |endpoints| entry("db", &format!("resolution: STATIC, endpoints: [{endpoints}]"));
    let text = [&entry("any", "resolution: NONE"), rule, &db("{address: 10.0.0.1}")].concat();
    let mut cluster = Cluster::of(&text);
    let (delta, work) = cluster.put(&db("{address: 10.0.0.1}, {address: 'fd00::1'}"));
    assert_eq!((work.islands, delta.routes.len()), (1, 1), "of IPv6");
    let fresh = Stages::of(&cluster.world, &Registry::new(&cluster.world));
    assert!(cluster.stages.plan() == fresh.plan());
    assert_eq!(cluster.stages.memory(), fresh.memory());
}

#[test]
fn weights_that_make_hosts_of_one_address_alike_are_looked_at_where_they_share_it() {
    let entry = |name: &str, address: &str, protocol: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
             spec: {{hosts: [{name}.example.com], addresses: [{address}], ports: [{{number: 80, name: p, \
             protocol: {protocol}}}], resolution: STATIC, endpoints: [{{address: 10.0.0.1}}]}}\n"
        )
    };
    let rule = |name: &str, weight: u32| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n\
             spec: {{hosts: [{name}.example.com], tls: [{{match: [{{sniHosts: [{name}.example.com]}}], \
             route: [{{destination: {{host: p.example.com}}, weight: {weight}}}, {{destination: {{host: \
             q.example.com}}, weight: 50}}]}}]}}\n"
        )
    };
    let mut text: String = [("p", "10.1.1.1", "TCP"), ("q", "10.1.1.2", "TCP")]
        .map(|(name, address, protocol)| entry(name, address, protocol))
        .concat();
    text += &entry("one", "10.1.1.3", "TLS");
    text += &entry("two", "10.1.1.3", "TLS");
    let mut cluster = Cluster::of(&(text + &rule("one", 50) + &rule("two", 50)));
    let taken = |cluster: &Cluster| {
        let routes = cluster.stages.plan().routes.keys();
        routes.filter(|route| route.rule.is_some()).count()
    };
    assert_eq!(taken(&cluster), 1, "both lead to the same");
    for (name, weight, alike) in [("two", 20, false), ("one", 20, true), ("one", 30, false)] {
        let (_, work) = cluster.put(&rule(name, weight));
        assert_eq!((work.rules, work.islands), (1, 1), "{name} {weight}");
        assert_eq!(taken(&cluster), usize::from(alike), "{name} {weight}");
        let fresh = Stages::of(&cluster.world, &Registry::new(&cluster.world));
        assert!(cluster.stages.plan() == fresh.plan(), "{name} {weight}");
        assert_eq!(cluster.stages.memory(), fresh.memory());
    }
}
