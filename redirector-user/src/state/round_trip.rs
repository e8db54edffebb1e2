//! Whatever is written down can be read again; a part that cannot costs itself.

mod random;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use redirector_core::model::{Kind, Object, ObjectRef, Spec};
use redirector_core::store::{Content, Document, Store};
use redirector_core::stored::Lost;
use serde_json::{Value, json};

use super::tests::directory;
use super::{Contents, Keeper, LAST_GOOD, Report, Snapshot, StateDir};
use random::random;

/// As many of each kind make it unlikely that a field is absent in all of them.
const OBJECTS: usize = 8;

/// An object of a kind with every field at random.
fn object(kind: Kind, rng: &mut fastrand::Rng) -> Arc<Object> {
    let spec = match kind {
        Kind::VirtualService => Spec::VirtualService(random(rng)),
        Kind::DestinationRule => Spec::DestinationRule(random(rng)),
        Kind::Gateway => Spec::Gateway(random(rng)),
        Kind::ServiceEntry => Spec::ServiceEntry(random(rng)),
        Kind::WorkloadEntry => Spec::WorkloadEntry(random(rng)),
        Kind::Service => Spec::Service(random(rng)),
        Kind::EndpointSlice => Spec::EndpointSlice(random(rng)),
        Kind::Pod => Spec::Pod(random(rng)),
        Kind::Namespace => Spec::Namespace,
        Kind::Node => Spec::Node,
    };
    Arc::new(Object { meta: random(rng), spec })
}

fn objects(rng: &mut fastrand::Rng) -> BTreeMap<ObjectRef, Arc<Object>> {
    let kinds = Kind::ALL.into_iter().flat_map(|kind| [kind; OBJECTS]);
    kinds.map(|kind| object(kind, rng)).map(|object| (object.reference(), object)).collect()
}

/// Those with some gone, some others and some new ones.
fn changed(
    objects: &BTreeMap<ObjectRef, Arc<Object>>,
    rng: &mut fastrand::Rng,
) -> BTreeMap<ObjectRef, Arc<Object>> {
    let mut changed = BTreeMap::new();
    for (reference, object) in objects {
        let object = match rng.u8(..4) {
            0 => continue,
            1 => {
                let other = self::object(reference.kind, rng).spec.clone();
                Arc::new(Object { meta: object.meta.clone(), spec: other })
            }
            _ => object.clone(),
        };
        changed.insert(reference.clone(), object);
    }
    changed.extend(self::objects(rng).into_iter().step_by(7));
    changed
}

fn snapshot(
    generation: u64,
    objects: &BTreeMap<ObjectRef, Arc<Object>>,
    rng: &mut fastrand::Rng,
) -> Snapshot {
    Snapshot {
        generation,
        of_generation: random(rng),
        repeats: random(rng),
        made: random(rng),
        settings: random(rng),
        resolved: random(rng),
        contents: Contents { objects: objects.values().cloned().collect(), layout: random(rng) },
        lost: Vec::new(),
    }
}

/// A store in which each object is written in one of some files and was good once.
fn put(store: &mut Store, objects: &BTreeMap<ObjectRef, Arc<Object>>, rng: &mut fastrand::Rng) {
    let mut files: [Vec<Document>; 5] = Default::default();
    for (reference, object) in objects {
        let object = (rng.u8(..4) != 0).then(|| object.clone());
        let reference = Some(reference.clone());
        files[rng.usize(..5)].push(Document { reference, object, diagnostics: Vec::new() });
    }
    for (number, documents) in files.into_iter().enumerate() {
        store.put(&format!("{number}.yaml").into(), Content::Whole(documents));
    }
    store.accept();
}

fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

#[test]
fn every_kind_of_object_with_every_field_set_is_read_as_it_was_written() {
    for seed in 0..12 {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let (_root, state) = directory();
        let mut keeper = Keeper::new(state.clone());
        let (mut objects, mut store) = (objects(rng), Store::default());
        let mut snapshots = Vec::new();
        for generation in 1..=4 {
            put(&mut store, &objects, rng);
            let snapshot = snapshot(generation, &objects, rng);
            keeper.save_snapshot(&snapshot).unwrap();
            keeper.save_last_good(&store).unwrap();
            snapshots.push(snapshot);
            objects = changed(&objects, rng);
            let (read, lost) = state.last_good().unwrap().unwrap();
            assert_eq!((json(&read), lost), (json(&store), vec![]), "seed {seed}");
            assert_eq!(read.effective(), store.effective(), "seed {seed}");
        }
        for snapshot in snapshots {
            assert_eq!(state.snapshot(snapshot.generation).unwrap(), Some(snapshot), "seed {seed}");
        }
    }
}

#[test]
fn what_else_is_written_is_read_as_it_was() {
    for seed in 0..50 {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let (_root, state) = directory();
        let report: Report = random(rng);
        state.save_report(&report).unwrap();
        assert_eq!(state.report().unwrap(), Some(report), "seed {seed}");
        let draining = random(rng);
        state.save_draining(&draining).unwrap();
        assert_eq!(state.draining().unwrap(), draining, "seed {seed}");
        let (asked, grown) = (random(rng), random(rng));
        state.save_grown(&asked, &grown).unwrap();
        assert_eq!(state.grown(&asked).unwrap(), Some(grown), "seed {seed}");
    }
}

/// Changes what a file holds.
fn damage(state: &StateDir, name: &str, how: impl Fn(&mut Value)) {
    let path = state.path().join(name);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    how(&mut value);
    fs::write(&path, serde_json::to_vec(&value).unwrap()).unwrap();
}

#[test]
fn a_part_that_cannot_be_read_costs_that_part_and_is_named() {
    let rng = &mut fastrand::Rng::with_seed(1);
    let (_root, state) = directory();
    let mut objects = objects(rng);
    let named: Arc<Object> = Arc::new(Object {
        meta: redirector_core::model::Meta { name: "echo".into(), ..random(rng) },
        spec: Spec::Service(random(rng)),
    });
    let reference = named.reference();
    objects.insert(reference.clone(), named);
    let mut store = Store::default();
    let all = objects.iter().map(|(reference, object)| Document {
        reference: Some(reference.clone()),
        object: Some(object.clone()),
        diagnostics: Vec::new(),
    });
    store.put(&"a.yaml".into(), Content::Whole(all.collect()));
    store.accept();
    let snapshot = snapshot(1, &objects, rng);
    let mut keeper = Keeper::new(state.clone());
    keeper.save_snapshot(&snapshot).unwrap();
    keeper.save_last_good(&store).unwrap();

    let spoil = |object: &mut Value| {
        if object["meta"]["name"] == "echo" {
            object["spec"]["ports"] = json!("of another kind");
        }
    };
    let spoil_all = |objects: &mut Value| {
        objects.as_array_mut().unwrap().iter_mut().for_each(spoil);
    };
    damage(&state, "last-good/1.json", |store| {
        spoil_all(&mut store["in_force"]);
        for mention in store["files"]["a.yaml"]["mentions"].as_array_mut().unwrap() {
            spoil(&mut mention["accepted"]);
        }
    });
    damage(&state, "generations/bases/1.json", |contents| spoil_all(&mut contents["objects"]));
    let names = |lost: &[Lost]| lost.iter().map(|lost| lost.what.clone()).collect::<Vec<_>>();
    let (mut read, lost) = state.last_good().unwrap().unwrap();
    assert_eq!(names(&lost), [reference.to_string()]);
    let mut rest = objects.clone();
    rest.remove(&reference);
    assert_eq!(read.effective(), rest);
    read.remember(objects.values().cloned());
    assert_eq!(read.effective(), objects, "what is in force elsewhere is known from there");

    let mut expected = snapshot.clone();
    expected.contents.objects.retain(|object| object.reference() != reference);
    let mut read = state.snapshot(1).unwrap().unwrap();
    assert_eq!(names(&std::mem::take(&mut read.lost)), [reference.to_string()]);
    assert_eq!(read, expected);

    damage(&state, "generations/bases/1.json", |contents| contents["layout"] = json!(7));
    damage(&state, "generations/1.json", |snapshot| {
        snapshot["settings"] = json!([]);
        snapshot["resolved"] = json!(null);
    });
    let mut read = state.snapshot(1).unwrap().unwrap();
    assert_eq!(read.lost.len(), 4, "{:?}", read.lost);
    read.lost.clear();
    expected.contents.layout = Default::default();
    (expected.settings, expected.resolved) = Default::default();
    assert_eq!(read, expected);

    damage(&state, LAST_GOOD, |written| written["difference"]["in_force"] = json!({}));
    let error = state.last_good().unwrap_err().to_string();
    assert!(error.contains("last-good.json is damaged"), "{error}");
}

#[test]
fn the_state_of_an_earlier_version_is_read() {
    let (_root, state) = directory();
    let old = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/state/round_trip/of_0_1");
    for name in [
        "generations/1.json",
        "generations/2.json",
        "generations/bases/1.json",
        "last-good/1.json",
        LAST_GOOD,
    ] {
        fs::copy(old.join(name), state.path().join(name)).unwrap();
    }
    let of = |objects: &mut dyn Iterator<Item = &Arc<Object>>| {
        objects.map(|object| object.reference().to_string()).collect::<Vec<_>>()
    };
    let expected: Vec<_> = [
        "VirtualService/shop/web",
        "DestinationRule/shop/web",
        "Gateway/shop/edge",
        "ServiceEntry/shop/outside",
        "WorkloadEntry/shop/w1",
        "Service/shop/web",
        "EndpointSlice/shop/web-1",
        "Pod/shop/web-0",
        "Namespace/shop",
        "Node/n1",
    ]
    .map(str::to_owned)
    .into();
    for generation in [1, 2] {
        let snapshot = state.snapshot(generation).unwrap().unwrap();
        assert_eq!(snapshot.lost, []);
        assert_eq!(of(&mut snapshot.contents.objects.iter()), expected);
        assert!(!snapshot.contents.layout.names().routes.is_empty());
        let rule = snapshot.contents.objects.iter().find_map(|object| match &object.spec {
            Spec::DestinationRule(rule) => rule.traffic_policy.clone(),
            _ => None,
        });
        assert_eq!(rule.unwrap().port_level.into_keys().collect::<Vec<_>>(), [443, 19000]);
    }
    let (store, lost) = state.last_good().unwrap().unwrap();
    assert_eq!(lost, []);
    assert_eq!(of(&mut store.effective().values()), expected);
}
