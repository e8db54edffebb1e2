//! What a journal keeps, whatever happens to it.

use std::collections::{BTreeMap, BTreeSet};

use redirector_core::compile::compile;
use redirector_core::documents;
use redirector_core::store::{Content, Kept};
use redirector_core::world::{Settings, World};

use super::*;
use crate::datapath::Sizes;
use crate::state::snapshot::Contents;
use crate::state::tests::directory;
use crate::state::{HistoryEntry, Resolved, steps_back};

mod compaction;

/// A configuration that changes, and what was kept of it.
struct Scene {
    state: StateDir,
    keeper: Keeper,
    store: Store,
    now: Snapshot,
    /// Each generation as it was told last, and the store then.
    told: BTreeMap<u64, (Snapshot, Kept)>,
    _root: Option<tempfile::TempDir>,
}

/// So many services, each with a rule; the first one's sends `weight` of a hundred
/// elsewhere.
fn text(services: u32, weight: u32) -> String {
    let services = (0..services).map(|i| {
        let weight = if i == 0 { weight } else { 50 };
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{i}}}\nspec: {{clusterIP: \
             10.0.{}.{}, ports: [{{port: 80}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: \
             VirtualService\nmetadata: {{name: s{i}}}\nspec: {{hosts: [s{i}], tcp: [{{route: \
             [{{destination: {{host: s{i}}}, weight: {weight}}}, {{destination: {{host: s0}}, \
             weight: {}}}]}}]}}\n",
            i / 250,
            i % 250,
            100 - weight,
        )
    });
    services.collect()
}

/// What makes the numbers of one generation those of another.
fn numbers(keeper: &Keeper, before: &Snapshot, after: &Snapshot) -> layout::Difference {
    let nothing = Layout::default();
    let before = if keeper.anew { &nothing } else { &before.contents.layout };
    before.difference(&after.contents.layout)
}

impl Scene {
    fn new() -> Self {
        let (root, state) = directory();
        Self { _root: Some(root), ..Self::of(state, 0) }
    }

    /// What the next daemon finds.
    fn of(state: StateDir, active: u64) -> Self {
        let (keeper, left) = Keeper::open(&state, active).unwrap();
        assert_eq!(left.not_read, Vec::<String>::new());
        let store = left.store.unwrap_or_default();
        let now = left.snapshot.unwrap_or_default();
        Self { state, keeper, store, now, told: BTreeMap::new(), _root: None }
    }

    fn restarted(&mut self) {
        let active = self.now.generation;
        // What there was writes no more.
        self.keeper = Keeper::new(self.state.clone());
        let next = Self::of(self.state.clone(), active);
        (self.keeper, self.store, self.now) = (next.keeper, next.store, next.now);
    }

    /// What the documents come to, under this number; not in force yet.
    fn step(&mut self, generation: u64, documents: &str) -> Snapshot {
        self.store.put(&"rules.yaml".into(), Content::from(documents::read(None, documents)));
        let world = World::of(Settings::default(), self.store.effective());
        let plan = compile(&world).plan;
        let limits = Sizes::default().limits();
        let (layout, _) = self.now.contents.layout.place(&plan, &limits).unwrap();
        let contents = Contents { objects: world.objects().cloned().collect(), layout };
        Snapshot { generation, made: 1000 + generation, contents, ..Snapshot::default() }
    }

    fn append(&mut self, next: &Snapshot) -> Result<usize, StateError> {
        let store = self.store.kept_since();
        let layout = numbers(&self.keeper, &self.now, next);
        let change =
            GenerationChange { store, layout, ..GenerationChange::between(&self.now, next) };
        let good = self.store.effective().into_values().collect();
        self.keeper.append(change, || Whole { contents: next.contents.clone(), good })
    }

    /// All that is in force.
    fn whole(&self) -> Whole {
        Whole { contents: self.now.contents.clone(), good: self.store.good().cloned().collect() }
    }

    /// The first journal, begun anew from there.
    fn compaction(&self, from: u64) -> Compaction {
        Compaction {
            state: self.state.clone(),
            told: self.keeper.told.clone(),
            whole: self.whole(),
            files: self.keeper.files.clone(),
            number: 1,
            from,
        }
    }

    /// Puts it in force.
    fn apply(&mut self, next: Snapshot) -> usize {
        let bytes = self.append(&next).unwrap();
        self.store.accept();
        self.told.insert(next.generation, (next.clone(), self.store.kept()));
        self.now = next;
        bytes
    }

    fn change(&mut self, generation: u64, documents: &str) -> usize {
        let next = self.step(generation, documents);
        self.apply(next)
    }

    fn tend(&mut self, changes: usize, needed: Option<u64>) {
        let whole = self.whole();
        self.keeper.tend(changes, needed, || whole);
        self.wait();
    }

    /// Until no journal is being begun anew.
    fn wait(&mut self) {
        if let Some(thread) = self.keeper.compacting.take() {
            thread.join().unwrap();
        }
    }

    fn journals(&self) -> Vec<u64> {
        journal::numbers(&self.state).unwrap()
    }

    /// What is kept of the generations from this one on is what was told.
    fn is_as_told(&self, from: u64) {
        for (generation, (told, _)) in self.told.range(from..) {
            assert_eq!(self.state.snapshot(*generation).unwrap().as_ref(), Some(told));
        }
    }
}

/// What a reader finds in a journal: the generation, the last good versions, and
/// whether all of it could be read.
fn found(state: &StateDir, bytes: &[u8]) -> (Snapshot, Kept, bool) {
    let journal = match journal::read_one(state, 1, bytes, u64::MAX) {
        Ok(journal) => journal,
        Err(damage) => {
            assert!(!damage.is_empty() || bytes.is_empty(), "nothing is lost in silence");
            return Default::default();
        }
    };
    let (kept, lost) = journal.kept();
    let snapshot = journal.snapshot();
    let is_whole = journal.damage.is_empty() && journal.cut.is_none();
    assert!(!is_whole || (lost.is_empty() && snapshot.lost.is_empty()));
    (snapshot, kept, is_whole)
}

/// A journal of some generations, and where each of them ends.
fn some_generations(scene: &mut Scene) -> (Vec<u8>, Vec<usize>) {
    let path = journal::path(&scene.state, 1);
    let ends = (1..=4).map(|generation| {
        let services = u32::try_from(generation).unwrap().min(3);
        scene.change(generation, &text(services, services));
        fs::metadata(&path).unwrap().len() as usize
    });
    let ends = ends.collect();
    (fs::read(&path).unwrap(), ends)
}

fn forget_journals(state: &StateDir) {
    for number in journal::numbers(state).unwrap() {
        fs::remove_file(journal::path(state, number)).unwrap();
    }
}

#[test]
fn a_change_of_one_weight_is_small_however_much_there_is_and_is_read_whole() {
    let sizes = [30, 600].map(|services| {
        let mut scene = Scene::new();
        scene.change(1, &text(services, 0));
        let all = fs::metadata(journal::path(&scene.state, 1)).unwrap().len();
        let mut sizes = BTreeSet::new();
        for generation in 2..=20 {
            let weight = u32::try_from(generation).unwrap();
            sizes.insert(scene.change(generation, &text(services, weight)));
        }
        scene.is_as_told(1);
        let last = sizes.last().copied().unwrap();
        assert!(last < 2048, "{last} of {all}");
        scene.restarted();
        assert_eq!(scene.store.kept(), scene.told[&20].1);
        assert_eq!(scene.now, scene.told[&20].0);
        last
    });
    assert!(sizes[1] < sizes[0] + 64, "{sizes:?}");
}

#[test]
fn what_changes_nothing_is_not_written() {
    let mut scene = Scene::new();
    scene.change(1, &text(3, 1));
    let next = scene.step(1, &text(3, 1));
    let next = Snapshot { made: 77, ..next };
    let layout = Placement::of(next.contents.layout.clone()).difference();
    let store = scene.store.kept_since();
    let change = GenerationChange { store, layout, ..GenerationChange::between(&scene.now, &next) };
    assert_eq!(scene.keeper.append(change, Whole::default).unwrap(), 0);
}

#[test]
fn what_did_not_come_in_force_is_taken_back() {
    for begins in [true, false] {
        let mut scene = Scene::new();
        if !begins {
            scene.change(1, &text(3, 1));
        }
        let before =
            scene.journals().first().map(|_| fs::read(journal::path(&scene.state, 1)).unwrap());
        let next = scene.step(2, &text(4, 2));
        scene.append(&next).unwrap();
        scene.keeper.take_back();
        let after =
            scene.journals().first().map(|_| fs::read(journal::path(&scene.state, 1)).unwrap());
        assert_eq!(before, after);
        scene.keeper.take_back();
        scene.change(2, &text(5, 3));
        scene.is_as_told(1);
    }
}

#[test]
fn what_a_daemon_wrote_before_it_died_and_did_not_put_in_force_is_not_good() {
    for begins in [true, false] {
        let mut scene = Scene::new();
        scene.change(1, &text(3, 1));
        let good = scene.store.kept();
        if begins {
            // As where a part of the journal cannot be read.
            lock(&scene.keeper.files).current = None;
        }
        let next = scene.step(2, &text(4, 2));
        scene.append(&next).unwrap();
        scene.restarted();
        assert_eq!(scene.store.kept(), good);
        assert_eq!(scene.journals(), [1]);
        scene.change(2, &text(5, 3));
        scene.is_as_told(1);
        assert_eq!(scene.state.generations(), [1, 2]);
    }
}

#[test]
fn of_a_journal_that_is_cut_off_anywhere_the_last_whole_record_counts() {
    let mut scene = Scene::new();
    let (bytes, ends) = some_generations(&mut scene);
    let (_root, other) = directory();
    for at in 0..=bytes.len() {
        let (snapshot, kept, is_whole) = found(&other, &bytes[..at]);
        let whole = ends.iter().filter(|end| **end <= at).count() as u64;
        assert_eq!(is_whole, ends.contains(&at), "cut off at {at}");
        match scene.told.get(&whole) {
            Some(told) => assert_eq!((&snapshot, &kept), (&told.0, &told.1), "{at}"),
            None => assert_eq!((snapshot, kept), Default::default()),
        }
    }
    // Who comes then goes on from there.
    for at in (ends[1]..=ends[3]).step_by(11) {
        fs::write(journal::path(&other, 1), &bytes[..at]).unwrap();
        let mut next = Scene::of(other.clone(), 0);
        let generation = ends.iter().filter(|end| **end <= at).count() as u64;
        assert_eq!(next.now.generation, generation);
        next.change(generation + 1, &text(7, 7));
        next.is_as_told(1);
        for (earlier, (told, _)) in scene.told.range(..=generation) {
            assert_eq!(other.snapshot(*earlier).unwrap().as_ref(), Some(told));
        }
        forget_journals(&other);
    }
}

#[test]
fn damage_is_told_and_costs_what_it_hits() {
    let mut scene = Scene::new();
    let (bytes, ends) = some_generations(&mut scene);
    let (_root, other) = directory();
    let ever: Vec<_> = scene.told.values().flat_map(|(told, _)| &told.contents.objects).collect();
    for at in (0..bytes.len()).step_by(3) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        let hit = ends.iter().filter(|end| **end <= at).count() as u64 + 1;
        let (snapshot, kept, is_whole) = found(&other, &damaged);
        assert!(!is_whole, "byte {at}");
        // No object is another than it ever was, and of what was good before the damage
        // nothing is missing.
        for object in snapshot.contents.objects.iter().chain(kept.good.values()) {
            assert!(ever.contains(&object), "byte {at}");
        }
        let before = scene.told.get(&(hit - 1));
        let mut good = before.iter().flat_map(|(_, kept)| kept.good.keys());
        assert!(good.all(|name| kept.good.contains_key(name)), "byte {at}");
        // Where nothing is said to be lost, nothing is.
        if snapshot.generation != 0 && snapshot.lost.is_empty() {
            let last = if hit == 4 { before } else { scene.told.get(&4) };
            assert_eq!(Some(&snapshot), last.map(|(told, _)| told), "byte {at}");
        }
        if at % 41 != 0 {
            continue;
        }
        fs::write(journal::path(&other, 1), &damaged).unwrap();
        if let Some((told, _)) = before {
            assert_eq!(other.snapshot(hit - 1).unwrap().as_ref(), Some(told), "byte {at}");
        }
        // The next daemon says so, and goes on with what is left.
        let (mut keeper, left) = Keeper::open(&other, 0).unwrap();
        // Of the last one all may seem to be cut off, which came in force never.
        assert!(hit == 4 || !left.not_read.is_empty(), "byte {at}");
        let next = Snapshot { generation: 9, ..scene.now.clone() };
        let before = left.snapshot.unwrap_or_default();
        let layout = numbers(&keeper, &before, &next);
        let store = left.store.unwrap_or_default().kept_since();
        let change =
            GenerationChange { store, layout, ..GenerationChange::between(&before, &next) };
        let whole = Whole { contents: next.contents.clone(), ..Whole::default() };
        keeper.append(change, || whole).unwrap();
        assert_eq!(other.snapshot(9).unwrap(), Some(next), "byte {at}");
        forget_journals(&other);
    }
}

#[test]
fn a_generation_of_which_the_journal_has_lost_something_is_none_to_return_to() {
    let mut scene = Scene::new();
    let (bytes, ends) = some_generations(&mut scene);
    let back = steps_back(&scene.state.history().unwrap(), 4);
    assert_eq!((back.as_slice(), scene.state.damaged(&back)), (&[2, 1][..], BTreeMap::new()));
    // Of an object of the second, which the third has again.
    let mut damaged = bytes;
    damaged[ends[0] + 60] ^= 0x55;
    fs::write(journal::path(&scene.state, 1), &damaged).unwrap();
    let damaged = scene.state.damaged(&back);
    let [(&2, why)] = damaged.iter().collect::<Vec<_>>()[..] else { panic!("{damaged:?}") };
    assert!(why.starts_with("generation 2 cannot be made again"), "{why}");
}

#[test]
fn a_full_disk_keeps_what_was_kept_and_the_same_change_is_kept_later() {
    let mut scene = Scene::new();
    scene.change(1, &text(3, 1));
    let path = journal::path(&scene.state, 1);
    let file =
        |path: &std::path::Path| OpenOptions::new().read(true).write(true).open(path).unwrap();
    // It takes nothing, as a disk does that is full.
    let full = file(std::path::Path::new("/dev/full"));
    let next = scene.step(2, &text(3, 2));
    let good = {
        let mut files = lock(&scene.keeper.files);
        std::mem::replace(&mut files.current.as_mut().unwrap().file, full)
    };
    let error = scene.append(&next).unwrap_err().to_string();
    assert!(error.contains("cannot write"), "{error}");
    assert!(error.contains("journal/1"), "{error}");
    lock(&scene.keeper.files).current.as_mut().unwrap().file = good;
    assert_eq!(scene.state.generations(), [1]);
    // A part of it may have been written.
    file(&path).write_all_at(b"a part", fs::metadata(&path).unwrap().len()).unwrap();
    scene.apply(next);
    scene.is_as_told(1);
    assert_eq!(scene.state.generations(), [1, 2]);
}

#[test]
fn a_history_says_what_each_generation_changed() {
    let mut scene = Scene::new();
    scene.change(1, &text(2, 1));
    scene.change(2, &text(2, 2));
    // The same again, of a bypass; then a name, and an object that goes.
    let mut next = Snapshot { generation: 3, repeats: Some(2), ..scene.now.clone() };
    next.settings.bypass.rules.insert(next.contents.objects[0].reference());
    scene.apply(next);
    let mut next = Snapshot { generation: 4, ..scene.now.clone() };
    let answer = Resolved {
        addresses: vec!["10.9.9.9".parse().unwrap()],
        at: 44,
        ttl: Some(30),
        ..Resolved::default()
    };
    next.resolved.insert("away.example".into(), answer.clone());
    scene.apply(next);
    let mut next = scene.step(5, &text(1, 2));
    next.settings = scene.now.settings.clone();
    // What it resolves to is known for as long as it is the same.
    let later = Resolved { at: 55, ttl: None, ..answer.clone() };
    next.resolved.insert("away.example".into(), later);
    scene.append(&next).unwrap();

    let history = scene.state.history().unwrap();
    let told = |entry: &HistoryEntry| {
        let objects: Vec<_> = entry.objects.iter().map(|one| one.object.clone()).collect();
        (entry.head.generation, entry.is_change, objects, entry.names.len())
    };
    let told: Vec<_> = history.iter().map(told).collect();
    let s0 = || "VirtualService/default/s0".to_owned();
    let s1 = || ["VirtualService/default/s1".to_owned(), "Service/default/s1".to_owned()].to_vec();
    assert_eq!(told[0], (1, true, vec![], 0));
    assert_eq!(told[1], (2, true, vec![s0()], 0));
    assert_eq!(told[2], (3, false, vec![], 0));
    assert_eq!(told[3], (4, false, vec![], 1));
    assert_eq!(told[4], (5, true, s1(), 0));
    let one = &history[1].objects[0];
    assert!(one.before.is_some() && one.after.is_some() && one.before != one.after, "{one:?}");
    assert!(history[4].objects.iter().all(|one| one.before.is_some() && one.after.is_none()));
    let read = scene.state.snapshot(5).unwrap().unwrap();
    assert_eq!(read.resolved["away.example"], answer);
}

#[test]
fn a_load_in_parts_is_one_change_and_nothing_returns_to_the_middle_of_it() {
    let mut scene = Scene::new();
    scene.change(1, &text(2, 1));
    for generation in [2, 3] {
        let mut part = scene.step(generation, &text(2, generation as u32));
        part.partial = true;
        scene.apply(part);
    }
    scene.change(4, &text(2, 4));
    scene.change(5, &text(2, 5));
    scene.is_as_told(1);
    let history = scene.state.history().unwrap();
    let changes: Vec<bool> = history.iter().map(|entry| entry.is_change).collect();
    assert_eq!(changes, [true, true, false, false, true]);
    assert_eq!(steps_back(&history, 5), [4, 1]);
    assert_eq!(steps_back(&history, 3), [1], "while it goes on");
    assert_eq!(scene.keeper.told.written.count, 3);
}

#[test]
fn what_was_replaced_is_what_is_different() {
    let mut scene = Scene::new();
    let [one, other] = [text(3, 1), text(2, 2)].map(|text| scene.step(1, &text));
    let names = |before, after| {
        let replaced = GenerationChange::between(before, after).objects;
        replaced.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        names(&one, &other),
        ["VirtualService/default/s0", "VirtualService/default/s2", "Service/default/s2"]
    );
    assert!(names(&one, &one).is_empty());
}
