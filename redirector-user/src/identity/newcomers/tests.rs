use redirector_common::abi::Limits;
use redirector_core::compile::compile;
use redirector_core::documents;
use redirector_core::world::{Settings, World};

use super::*;

const LIMITS: Limits = Limits {
    class_tables: 256,
    identities: 1024,
    routes: 256,
    legs: 256,
    destinations: 256,
    backends: 256,
    connections: 64,
    overflow: 8,
    kernel_socket: 0,
    btf: 0,
    socket_error: 0,
    md5_keys: 0,
    ao_keys: 0,
    stripes: 1,
};

const SPARES: usize = 2;

const APPS: [&str; 3] = ["a", "b", "c"];

fn objects(yaml: &str) -> Vec<Arc<Object>> {
    documents::read(None, yaml).objects.into_iter().filter_map(|read| read.object).collect()
}

/// A pod of this node.
pub fn pod(name: &str, uid: &str, app: &str) -> Arc<Object> {
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, uid: {uid}, \
         labels: {{app: {app}}}}}\nspec: {{nodeName: here}}\n"
    );
    objects(&yaml).remove(0)
}

/// Tables, as far as they concern workloads.
#[derive(Clone, Default)]
struct Tables {
    layout: Layout,
    class_of: BTreeMap<u32, u32>,
    view: View,
}

impl Tables {
    /// What a pod's number means, and what it should mean.
    fn class(&self, number: u32) -> u32 {
        self.class_of.get(&number).copied().unwrap_or(0)
    }

    fn class_of(&self, pod: &Object) -> Option<u32> {
        let (_, source) = self.view.classifier.source(pod)?;
        self.view.classes.get(&source.class).copied()
    }
}

/// A daemon that is about to do something.
pub struct Node {
    world: World,
    in_force: Tables,
    newcomers: NumberedPods,
}

impl Node {
    /// With a rule for each of these apps, and a pod of each.
    pub fn new(apps: &[&str]) -> Self {
        let settings = Settings { node_name: Some("here".into()), ..Settings::default() };
        let mut node = Self {
            world: World::new(settings),
            in_force: Tables::default(),
            newcomers: NumberedPods::default(),
        };
        node.rule(apps);
        for app in apps {
            node.world.insert(pod(&format!("first-{app}"), &format!("u-{app}"), app));
        }
        node.change();
        node
    }

    /// A rule for each of these apps from now on.
    pub fn rule(&mut self, apps: &[&str]) {
        let mut yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: default}\n\
                        spec: {clusterIP: 10.96.0.1, ports: [{name: tcp, port: 80}]}\n---\n\
                        apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                        metadata: {name: s, namespace: default}\nspec:\n  hosts: [s]\n  tcp:\n"
            .to_owned();
        for app in apps.iter().chain([&"nobody"]) {
            yaml.push_str(&format!(
                "  - match: [{{sourceLabels: {{app: {app}}}}}]\n    route: [{{destination: \
                 {{host: s}}}}]\n"
            ));
        }
        for object in objects(&yaml) {
            self.world.insert(object);
        }
    }

    /// What would be in force with all that is known now.
    fn compile(&self) -> Tables {
        let (pods, mut numbers) = self.newcomers.at_hand();
        numbers.spares = SPARES;
        let mut world = self.world.clone();
        for pod in pods {
            world.insert(pod);
        }
        let compiled = compile(&world);
        let placed = self.in_force.layout.place_with(&compiled.plan, &LIMITS, &numbers);
        let (layout, image) = placed.expect("there is room");
        let view = View::new(compiled.classifier, &compiled.plan, &layout);
        Tables { layout, class_of: image.class_of, view }
    }

    /// What the tables in force say.
    pub fn view(&self) -> View {
        self.in_force.view.clone()
    }

    /// All that is known comes in force.
    pub fn change(&mut self) {
        let next = self.compile();
        self.newcomers.prepare(next.view.clone());
        self.in_force = next;
        self.newcomers.settle(true);
    }

    fn put(&mut self, pod: &Arc<Object>) -> Option<u32> {
        self.newcomers.put(pod)
    }
}

#[test]
fn a_pod_of_a_known_class_has_a_number_at_once_and_keeps_it() {
    let mut node = Node::new(&["a", "b"]);
    let newcomer = pod("new", "u", "a");
    let number = node.put(&newcomer).expect("its class is known");
    let first =
        node.in_force.class(node.in_force.view.known[&source_id(&pod("first-a", "", "a"))].0);
    assert_eq!(node.in_force.class(number), first);
    assert_ne!(first, 0);
    // Nobody asks about it: as an unknown caller, with a number of its own.
    let other = node.put(&pod("other", "v", "x")).expect("its class is known");
    assert_eq!(node.in_force.class(other), 0);
    node.world.insert(newcomer.clone());
    node.change();
    assert_eq!(node.in_force.layout.identity(&source_id(&newcomer)), Some(number));
    let left: Vec<_> = node.newcomers.all().collect();
    assert_eq!(left.len(), 0, "the other one was compiled, too: {left:?}");
}

#[test]
fn the_first_of_a_class_has_to_be_compiled() {
    let mut node = Node::new(&["a"]);
    node.rule(&["a", "b"]);
    node.change();
    assert_eq!(node.put(&pod("new", "u", "b")), None);
}

#[test]
fn a_successor_of_the_same_name_has_the_same_number_if_it_is_alike() {
    let mut node = Node::new(&["a", "b"]);
    let known = node.in_force.layout.identity(&source_id(&pod("first-a", "", "a")));
    assert_eq!(node.put(&pod("first-a", "second", "a")), known);
    assert_eq!(node.put(&pod("first-b", "second", "a")), None);
    node.change();
    assert_eq!(node.in_force.layout.identity(&source_id(&pod("first-a", "", "a"))), known);
}

#[test]
fn who_would_be_wrong_after_a_change_is_unknown_again() {
    let mut node = Node::new(&["a"]);
    node.rule(&["a", "b"]);
    // Compiled without the pod, that is of no class of its own before.
    let next = node.compile();
    let newcomer = pod("new", "u", "b");
    assert!(node.put(&newcomer).is_some());
    let fine = pod("fine", "v", "a");
    let number = node.put(&fine);
    assert_eq!(node.newcomers.prepare(next.view.clone()), [PodUid::new("u")]);
    // Until it is in force, only what is right on both sides is given.
    assert_eq!(node.put(&pod("late", "w", "b")), None);
    node.in_force = next;
    node.newcomers.settle(true);
    assert_eq!(
        node.newcomers.all().map(|(_, number)| number).collect::<Vec<_>>(),
        [number.unwrap()]
    );
}

#[test]
fn numbers_run_out_and_come_again() {
    let mut node = Node::new(&["a"]);
    let pods: Vec<_> = (0..=SPARES).map(|i| pod(&format!("p{i}"), &format!("u{i}"), "a")).collect();
    let numbers: Vec<_> = pods.iter().map(|pod| node.put(pod)).collect();
    assert_eq!(numbers.iter().flatten().count(), SPARES);
    // A number of one that went is not given before the next tables.
    node.newcomers.take_back(&source_id(&pods[0]));
    assert_eq!(node.put(&pods[SPARES]), None);
    node.change();
    assert!(node.put(&pods[SPARES]).is_some());
}

#[test]
fn what_an_earlier_run_gave_means_the_same_until_the_first_tables_are_in_force() {
    let mut node = Node::new(&["a"]);
    let number = node.put(&pod("new", "u", "a")).expect("its class is known");
    let class = node.in_force.class(number);
    node.newcomers = NumberedPods::default();
    node.newcomers.resume([number]);
    assert_eq!(node.put(&pod("other", "v", "a")), None, "nothing is known yet");
    node.change();
    assert_eq!(node.in_force.class(number), class);
    let given = node.put(&pod("other", "v", "a")).expect("its class is known");
    assert_ne!(given, number);
    node.change();
    assert!(!node.in_force.layout.spares().contains_key(&number));
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % end
    }
}

#[test]
fn whatever_happens_when_a_number_is_of_one_pod_and_means_its_class() {
    let (mut given, mut revoked, mut kept) = (0, 0, 0);
    for seed in 0..10 {
        let mut random = Random(seed);
        let mut node = Node::new(&APPS[..1 + random.below(2)]);
        let mut waiting: Vec<Arc<Object>> = Vec::new();
        let (mut compiled, mut prepared) = (None::<Tables>, false);
        let mut snapshot: BTreeMap<SourceId, u32> = BTreeMap::new();
        for step in 0..150 {
            match random.below(9) {
                0..3 => {
                    // Some are of a name that was there before.
                    let name = format!("p{}", random.below(8));
                    let one = pod(&name, &format!("u{step}"), APPS[random.below(3)]);
                    given += usize::from(node.put(&one).is_some());
                    waiting.retain(|other| other.meta.name != one.meta.name);
                    waiting.push(one);
                }
                3 => {
                    for pod in waiting.drain(..) {
                        node.world.insert(pod);
                    }
                }
                4 => {
                    let gone = pod(&format!("p{}", random.below(8)), "", "a");
                    node.newcomers.take_back(&source_id(&gone));
                    node.world.remove(&gone.reference());
                    waiting.retain(|other| other.meta.name != gone.meta.name);
                }
                5 => node.rule(&APPS[..random.below(4)]),
                6 if compiled.is_none() => {
                    compiled = Some(node.compile());
                    snapshot = node.newcomers.at_hand().1.given;
                }
                7 => {
                    if let Some(next) = compiled.as_ref().filter(|_| !prepared) {
                        revoked += node.newcomers.prepare(next.view.clone()).len();
                        prepared = true;
                    }
                }
                8 if prepared => {
                    let over = random.below(4) > 0;
                    if let Some(next) = compiled.take().filter(|_| over) {
                        let held: BTreeMap<_, _> = node.newcomers.given.clone();
                        for (id, number) in &snapshot {
                            if held.get(id).is_some_and(|given| given.number == *number) {
                                assert_eq!(next.layout.identity(id), Some(*number));
                                kept += 1;
                            }
                        }
                        node.in_force = next;
                    }
                    node.newcomers.settle(over);
                    prepared = false;
                }
                _ => {}
            }
            let mut numbers: Vec<u32> = node.newcomers.left().collect();
            for (id, given) in &node.newcomers.given {
                let mut sides = vec![&node.in_force];
                sides.extend(compiled.as_ref().filter(|_| prepared));
                for side in sides {
                    let wanted = side.class_of(&given.pod);
                    let got = Some(side.class(given.number));
                    // A class of its own is that of the number itself.
                    assert!(wanted == got || wanted.is_none(), "{seed} {step}: {id:?}");
                    assert!(wanted.is_some() || side.view.has(id, given), "{seed} {step}");
                }
                let known = node.in_force.view.known.get(id);
                if known.is_none_or(|(number, _)| *number != given.number) {
                    numbers.push(given.number);
                }
            }
            numbers.extend(node.in_force.view.known.values().map(|(number, _)| *number));
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{seed} {step}: each is of one only");
        }
    }
    assert!(given > 60 && revoked > 1 && kept > 5, "{given} {revoked} {kept}");
}
