//! Whatever is written down can be read again; a part that cannot costs itself.

mod random;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use redirector_core::drain::{Gone, Left};
use redirector_core::model::{Kind, Object, ObjectRef, Spec};
use redirector_core::store::{Content, Document, Store};
use redirector_core::stored::Lost;
use serde_json::{Value, json};

use super::frame::{self, Frames, Kind as Frame, Scanned};
use super::record::GenerationChange;
use super::snapshot::Resolved;
use super::tests::directory;
use super::{Contents, Keeper, Report, Snapshot, StateDir, Whole, journal};
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
    before: &Snapshot,
    rng: &mut fastrand::Rng,
) -> Snapshot {
    let mut resolved: BTreeMap<Arc<str>, Resolved> = random(rng);
    for (name, one) in &mut resolved {
        // Since when it is so is known from there.
        let known = before.resolved.get(name).filter(|known| known.is_same(one));
        one.clone_from(known.unwrap_or(&one.clone()));
    }
    Snapshot {
        generation,
        of_generation: random(rng),
        repeats: random(rng),
        made: random(rng),
        partial: random(rng),
        settings: random(rng),
        resolved,
        contents: Contents { objects: objects.values().cloned().collect(), layout: random(rng) },
        lost: Vec::new(),
    }
}

/// Writes each object in one of some files; not each is good.
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
}

/// Keeps what follows another snapshot, and the store.
fn keep(keeper: &mut Keeper, before: &Snapshot, after: &Snapshot, store: &mut Store) {
    let change =
        GenerationChange { store: store.kept_since(), ..GenerationChange::between(before, after) };
    let good = store.effective().into_values().collect();
    keeper.append(change, || Whole { contents: after.contents.clone(), good }).unwrap();
    store.accept();
}

#[test]
fn every_kind_of_object_with_every_field_set_is_read_as_it_was_written() {
    for seed in 0..12 {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let (_root, state) = directory();
        let mut keeper = Keeper::new(state.clone());
        let (mut objects, mut store) = (objects(rng), Store::default());
        let mut snapshots = vec![Snapshot::default()];
        for generation in 1..=4 {
            put(&mut store, &objects, rng);
            let before = snapshots.last().unwrap();
            let snapshot = snapshot(generation, &objects, before, rng);
            keep(&mut keeper, before, &snapshot, &mut store);
            snapshots.push(snapshot);
            objects = changed(&objects, rng);
            let (found, damage) = journal::read(&state, generation).unwrap();
            assert!(damage.is_empty());
            assert_eq!(found.unwrap().kept(), (store.kept(), vec![]), "seed {seed}");
        }
        for snapshot in snapshots.drain(1..) {
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
        let endpoints: BTreeMap<SocketAddr, (u64, Option<u32>)> = random(rng);
        let draining = endpoints.into_iter().map(|(endpoint, (over, owner))| {
            let from = owner.map(|owner| Left { owner, name: "db.shop:5432/v1 (old)".into() });
            (Gone { endpoint, from }, over)
        });
        let draining = draining.collect();
        state.save_draining(&draining).unwrap();
        assert_eq!(state.draining().unwrap(), draining, "seed {seed}");
        let (asked, grown) = (random(rng), random(rng));
        state.save_grown(&asked, &grown).unwrap();
        assert_eq!(state.grown(&asked).unwrap(), Some(grown), "seed {seed}");
    }
}

/// Changes what the frames of one kind hold.
fn damage(state: &StateDir, kind: Frame, how: impl Fn(&mut Value)) {
    let path = journal::path(state, 1);
    let bytes = fs::read(&path).unwrap();
    let mut damaged = Vec::new();
    for (found, at) in Frames::of(&bytes) {
        match found {
            Scanned::Frame(frame) if frame.kind == kind => {
                let mut value = frame.read().unwrap();
                how(&mut value);
                frame::put(&mut damaged, kind, &value).unwrap();
            }
            _ => damaged.extend(&bytes[at]),
        }
    }
    fs::write(&path, damaged).unwrap();
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
    let snapshot = snapshot(1, &objects, &Snapshot::default(), rng);
    keep(&mut Keeper::new(state.clone()), &Snapshot::default(), &snapshot, &mut store);

    damage(&state, Frame::Contents, |contents| {
        for object in contents["objects"].as_array_mut().unwrap() {
            if object["meta"]["name"] == "echo" {
                object["spec"]["ports"] = json!("of another kind");
            }
        }
    });
    let names = |lost: &[Lost]| lost.iter().map(|lost| lost.what.clone()).collect::<Vec<_>>();
    let (kept, lost) = journal::read(&state, 1).unwrap().0.unwrap().kept();
    assert_eq!(names(&lost), [reference.to_string()]);
    let mut rest = objects.clone();
    rest.remove(&reference);
    let mut read = Store::of_kept(&kept);
    assert_eq!(read.effective(), rest);
    read.remember(objects.values().cloned());
    assert_eq!(read.effective(), objects, "what is in force elsewhere is known from there");

    let mut expected = snapshot.clone();
    expected.contents.objects.retain(|object| object.reference() != reference);
    let mut read = state.snapshot(1).unwrap().unwrap();
    assert_eq!(names(&std::mem::take(&mut read.lost)), [reference.to_string()]);
    assert_eq!(read, expected);

    damage(&state, Frame::Layout, |layout| layout["difference"] = json!(7));
    damage(&state, Frame::Record, |record| {
        record["settings"] = json!([]);
        record["resolved"] = json!([["away.example", [null]]]);
    });
    let mut read = state.snapshot(1).unwrap().unwrap();
    assert_eq!(read.lost.len(), 4, "{:?}", read.lost);
    read.lost.clear();
    expected.contents.layout = Default::default();
    (expected.settings, expected.resolved) = Default::default();
    assert_eq!(read, expected);

    damage(&state, Frame::Record, |record| record["objects"] = json!({}));
    let error = state.snapshot(1).unwrap_err().to_string();
    assert!(error.contains("journal/1 is damaged"), "{error}");
}

/// What an earlier version wrote.
fn of_an_earlier_version(state: &StateDir) {
    let old = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/state/round_trip/of_0_1");
    for name in [
        "generations/1.json",
        "generations/2.json",
        "generations/bases/1.json",
        "last-good/1.json",
        "last-good.json",
    ] {
        let to = state.path().join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(old.join(name), to).unwrap();
    }
}

/// The same, read.
fn is_of_an_earlier_version(snapshot: &Snapshot) {
    let names = snapshot.contents.objects.iter().map(|object| object.reference().to_string());
    let expected = [
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
    ];
    assert_eq!(names.collect::<Vec<_>>(), expected);
    assert_eq!(snapshot.lost, []);
    assert!(!snapshot.contents.layout.names().routes.is_empty());
    let rule = snapshot.contents.objects.iter().find_map(|object| match &object.spec {
        Spec::DestinationRule(rule) => rule.traffic_policy.as_deref().cloned(),
        _ => None,
    });
    assert_eq!(rule.unwrap().port_level.into_keys().collect::<Vec<_>>(), [443, 19000]);
}

#[test]
fn the_state_of_an_earlier_version_is_read_and_carried_over() {
    let (_root, state) = directory();
    of_an_earlier_version(&state);
    assert_eq!(state.generations(), [1, 2]);
    let files = state.files();
    assert!(!files.is_empty());
    let mut before = [1, 2].map(|generation| state.snapshot(generation).unwrap().unwrap());
    before.iter().for_each(is_of_an_earlier_version);
    // Since when it is so is known by both.
    before[1].resolved = before[0].resolved.clone();

    let (keeper, left) = Keeper::open(&state, 2).unwrap();
    assert_eq!(left.not_read, Vec::<String>::new());
    let read = left.snapshot.unwrap();
    let of_objects = |all: &Snapshot| all.contents.objects.clone();
    let store = left.store.unwrap();
    assert_eq!(store.effective().into_values().collect::<Vec<_>>(), of_objects(&read));
    assert!(store.is_unchanged());
    assert_eq!((read, keeper.head().generation), (before[1].clone(), 2));
    drop(keeper);
    assert_eq!((state.generations(), state.files()), (vec![1, 2], files));
    for snapshot in before {
        assert_eq!(state.snapshot(snapshot.generation).unwrap(), Some(snapshot));
    }
    let mut left: Vec<_> = fs::read_dir(state.path()).unwrap().flatten().collect();
    left.retain(|entry| entry.file_name() != journal::DIRECTORY);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn carrying_over_is_done_again_when_it_was_broken_off() {
    let (_root, state) = directory();
    of_an_earlier_version(&state);
    // In the middle of it: of what is there a part is written.
    let carried = StateDir::new(state.path().join("carried"));
    carried.create().unwrap();
    fs::write(carried.path().join("journal/1"), "a part").unwrap();
    fs::write(carried.path().join("journal/1.new"), "a part").unwrap();
    let (_, left) = Keeper::open(&state, 2).unwrap();
    is_of_an_earlier_version(&left.snapshot.unwrap());
    assert!(!carried.path().exists());
    // At its end: it is done, and what was there is there still.
    of_an_earlier_version(&state);
    let (_, left) = Keeper::open(&state, 2).unwrap();
    is_of_an_earlier_version(&left.snapshot.unwrap());
    assert!(!state.path().join("generations").exists());
    assert_eq!(left.not_read, Vec::<String>::new());
    state.remove().unwrap();
    assert!(!state.path().exists());
}

#[test]
fn what_an_earlier_version_wrote_after_a_journal_takes_its_place() {
    let (_root, state) = directory();
    let journal =
        |number: u64| fs::File::options().write(true).open(journal::path(&state, number)).unwrap();
    let wrote = || fs::metadata(state.path().join("last-good.json")).unwrap().modified().unwrap();
    let second = std::time::Duration::from_secs(1);
    of_an_earlier_version(&state);
    drop(Keeper::open(&state, 2).unwrap());
    // This version, and the earlier one again: it knows nothing of the journal.
    fs::write(journal::path(&state, 1), "of long ago").unwrap();
    fs::write(journal::path(&state, 2), "of long ago, too").unwrap();
    of_an_earlier_version(&state);
    for number in [1, 2] {
        journal(number).set_modified(wrote() - second).unwrap();
    }
    let (_, left) = Keeper::open(&state, 2).unwrap();
    assert_eq!(left.not_read, Vec::<String>::new());
    is_of_an_earlier_version(&left.snapshot.unwrap());
    assert_eq!((journal::numbers(&state).unwrap(), state.generations()), (vec![1], vec![1, 2]));
    assert!(!state.path().join("last-good.json").exists());
    // Of before the journal: it has been carried over.
    of_an_earlier_version(&state);
    fs::remove_file(state.path().join("generations/bases/1.json")).unwrap();
    journal(1).set_modified(wrote() + second).unwrap();
    let (_, left) = Keeper::open(&state, 2).unwrap();
    is_of_an_earlier_version(&left.snapshot.unwrap());
    assert!(!state.path().join("last-good.json").exists());
}

#[test]
fn of_an_earlier_version_what_cannot_be_read_costs_itself() {
    let (_root, state) = directory();
    of_an_earlier_version(&state);
    fs::remove_file(state.path().join("generations/bases/1.json")).unwrap();
    let error = state.snapshot(1).unwrap_err().to_string();
    assert!(error.contains("bases/1.json is damaged"), "{error}");
    let (_, left) = Keeper::open(&state, 2).unwrap();
    assert!(left.snapshot.is_none());
    assert_eq!(left.not_read.len(), 2, "{:?}", left.not_read);
    assert_eq!(left.store.unwrap().effective().len(), 10, "what was good is known");
}
