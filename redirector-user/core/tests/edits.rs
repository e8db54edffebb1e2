//! Worlds that are edited: what is compiled step by step is what the whole gives,
//! nothing is remembered of what is gone, and no more is made again than the edit
//! concerns.
//!
//! `REDIRECTOR_EDITS=100000` is the long form, `REDIRECTOR_OBJECTS` how many objects a
//! World may have, `REDIRECTOR_SEED` where to begin.

use std::fmt::Write;

use redirector_core::client::Client;
use redirector_core::compile::Stages;
use redirector_core::documents;
use redirector_core::plan::Delta;
use redirector_core::registry::Registry;
use redirector_core::store::Replaced;
use redirector_core::work::Work;

use redirector_core::world::{Changes, Settings, World};

use crate::support::edits::Edited;
use crate::support::number;
use crate::support::random::Random;

/// So many edits are made of one World.
const OF_ONE: u64 = 50;

#[test]
fn what_is_compiled_step_by_step_is_what_the_whole_gives_and_remembers_no_more() {
    let (edits, seed) = (number("REDIRECTOR_EDITS", 2_000), number("REDIRECTOR_SEED", 0));
    let most = number("REDIRECTOR_OBJECTS", 40) as usize;
    let (mut steps, mut changed, mut islands, mut all_islands) = (0, 0, 0, 0);
    let mut crowded = 0;
    for index in seed..seed + edits.div_ceil(OF_ONE) {
        let mut random = Random::of_world(index);
        let mut edited = Edited::random(&mut random, most);
        let mut registry = Registry::new(&edited.world);
        let mut stages = Stages::of(&edited.world, &registry);
        for step in 0..OF_ONE {
            let at = format!("REDIRECTOR_SEED={index} REDIRECTOR_EDITS={OF_ONE}, step {step}");
            let changes = edited.edit(&mut random, 3);
            let differs = registry.update(&edited.world, &changes);
            let before = stages.plan().clone();
            let (delta, work) = stages.update(&edited.world, &registry, &changes, &differs);
            let told = || {
                let objects: Vec<String> =
                    changes.objects.keys().map(ToString::to_string).collect();
                let Changes { names, settings, .. } = &changes;
                format!("{at}: {objects:?} {names:?} {settings:?}\n{differs:?}")
            };

            assert_eq!(before.difference(stages.plan()), delta, "{}", told());
            let fresh = Stages::of(&edited.world, &Registry::new(&edited.world));
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
                    bypassed: edited.world.settings.bypass.has_workload(&id.namespace, &id.name),
                };
                assert_eq!(stages.classifier().class(&client), Some(source.class), "{}", told());
            }
            steps += 1;
            crowded += u64::from(registry.all_over().any(|(_, over)| over.of_namespace));
            changed += u64::from(!delta.is_empty());
            islands += work.islands as u64;
            all_islands += stages.memory()["islands"] as u64;
        }
    }
    assert!(steps < 1_000 || changed * 5 > steps, "{changed} of {steps} changed something");
    assert!(steps < 1_000 || crowded * 20 > steps, "{crowded} of {steps} beyond a budget");
    assert!(islands * 2 < all_islands, "{islands} of {all_islands} islands were made again");
    eprintln!(
        "figure: {steps} steps of up to three edits, of which {changed} changed the Plan, \
         and in {crowded} some namespace was beyond its budget; {islands} of {all_islands} islands were made again"
    );
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
