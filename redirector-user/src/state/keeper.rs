//! Writing down what is in force, and what was good.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use redirector_core::model::Object;
use redirector_core::store::{self, Store};
use redirector_core::stored::Lost;

use super::bases::{self, Bases, Basis};
use super::snapshot::{Contents, Snapshot};
use super::{LAST_GOOD, StateDir, StateError, snapshot_name};

impl Basis for Store {
    type Difference = store::Difference;
    type Stored = store::StoredStore;
    type StoredDifference = store::StoredDifference;
    const DIRECTORY: &'static str = "last-good";

    fn difference(&self, to: &Self) -> Self::Difference {
        Self::difference(self, to)
    }

    fn read(base: Self::Stored, difference: Self::StoredDifference, lost: &mut Vec<Lost>) -> Self {
        Self::read(base, difference, lost)
    }
}

/// Who writes down each generation. Nobody else does so while it lives.
#[derive(Debug)]
pub struct Keeper {
    state: StateDir,
    contents: Bases<Contents>,
    stores: Bases<Store>,
    told: Option<Told>,
}

/// What was told of a generation last.
#[derive(Debug)]
struct Told {
    generation: u64,
    repeats: Option<u64>,
    objects: Vec<Arc<Object>>,
    resolved: BTreeMap<Arc<str>, Vec<IpAddr>>,
}

impl From<&Snapshot> for Told {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            generation: snapshot.generation,
            repeats: snapshot.repeats,
            objects: snapshot.contents.objects.clone(),
            resolved: snapshot.resolved.clone(),
        }
    }
}

impl Keeper {
    /// For this directory.
    pub fn new(state: StateDir) -> Self {
        Self { state, contents: Bases::default(), stores: Bases::default(), told: None }
    }

    /// Keeps a snapshot; it has reached the disk when this returns. What is written
    /// is proportional to what is different from an earlier one.
    ///
    /// # Errors
    ///
    /// The system's refusal, as of a full disk.
    pub fn save_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), StateError> {
        let contents = self.contents.write(&self.state, &snapshot.contents)?;
        let name = snapshot_name(snapshot.generation);
        let bytes = self.state.save(&name, &snapshot.keep(contents))?;
        self.contents.written(bytes);
        self.told = Some(snapshot.into());
        Ok(())
    }

    /// What a snapshot `repeats` whose generation is told of anew: what it did,
    /// unless its documents changed without changing the tables. `otherwise` where
    /// that generation is not known.
    pub fn still_repeats(&mut self, snapshot: &Snapshot, otherwise: Option<u64>) -> Option<u64> {
        if self.told.as_ref().is_none_or(|told| told.generation != snapshot.generation) {
            let kept = self.state.snapshot(snapshot.generation).ok().flatten();
            self.told = kept.as_ref().map(Into::into);
        }
        let Some(told) = &self.told else { return otherwise };
        let objects = &snapshot.contents.objects;
        let same = told.resolved == snapshot.resolved
            && told.objects.len() == objects.len()
            && told.objects.iter().zip(objects).all(|(a, b)| Arc::ptr_eq(a, b) || a == b);
        told.repeats.filter(|_| same)
    }

    /// Keeps the store, in the same way.
    ///
    /// # Errors
    ///
    /// The system's refusal, as of a full disk.
    pub fn save_last_good(&mut self, store: &Store) -> Result<(), StateError> {
        let written = self.stores.write(&self.state, store)?;
        let bytes = self.state.save(LAST_GOOD, &written)?;
        self.stores.written(bytes);
        bases::prune::<Store>(&self.state, || vec![written.base]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::directory;
    use redirector_core::documents;
    use redirector_core::layout::Layout;
    use redirector_core::store::Content;
    use redirector_core::world::{Settings, World};

    /// Some hundred services, each with a rule; the first one's sends `weight` of a
    /// hundred elsewhere.
    fn text(weight: u32) -> String {
        let services = (0..300).map(|i| {
            let weight = if i == 0 { weight } else { 50 };
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{i}}}\nspec: {{clusterIP: \
                 10.0.{}.{}, ports: [{{port: 80}}]}}\n---\napiVersion: networking.istio.io/v1\n\
                 kind: VirtualService\nmetadata: {{name: s{i}}}\nspec: {{hosts: [s{i}], tcp: \
                 [{{route: [{{destination: {{host: s{i}}}, weight: {weight}}}, {{destination: \
                 {{host: s0}}, weight: {}}}]}}]}}\n",
                i / 250,
                i % 250,
                100 - weight,
            )
        });
        services.collect()
    }

    /// The store of such a text, as after it has come in force, and a snapshot.
    fn in_force(store: &mut Store, weight: u32, before: &Layout, generation: u64) -> Snapshot {
        store.put(&"rules.yaml".into(), Content::from(documents::read(None, &text(weight))));
        store.accept();
        let mut world = World::new(Settings::default());
        for object in store.effective().into_values() {
            world.insert(object);
        }
        let plan = redirector_core::compile::compile(&world).plan;
        let (layout, _) = before.place(&plan, &crate::datapath::Sizes::default().limits()).unwrap();
        let contents = Contents { objects: world.objects().cloned().collect(), layout };
        Snapshot { generation, contents, ..Snapshot::default() }
    }

    fn size(state: &StateDir, name: &str) -> u64 {
        std::fs::metadata(state.path().join(name)).unwrap().len()
    }

    #[test]
    fn a_small_change_of_much_is_written_in_little_and_read_whole() {
        let (_root, state) = directory();
        let mut keeper = Keeper::new(state.clone());
        let mut store = Store::default();
        let mut layout = Layout::default();
        let mut snapshots = Vec::new();
        for generation in 1..=20 {
            let weight = u32::try_from(generation).unwrap();
            let snapshot = in_force(&mut store, weight, &layout, generation);
            layout = snapshot.contents.layout.clone();
            keeper.save_snapshot(&snapshot).unwrap();
            keeper.save_last_good(&store).unwrap();
            state.prune(10, &[3]);
            snapshots.push(snapshot);
        }
        assert_eq!(state.generations(), [&[3][..], &(11..=20).collect::<Vec<_>>()].concat());
        let whole = size(&state, "generations/bases/1.json");
        assert!(size(&state, "generations/20.json") < whole / 50, "of {whole}");
        for snapshot in snapshots {
            let read = state.snapshot(snapshot.generation).unwrap();
            let kept = state.generations().contains(&snapshot.generation);
            assert_eq!(read, kept.then_some(snapshot));
        }
        let (read, lost) = state.last_good().unwrap().unwrap();
        assert_eq!(lost, []);
        assert_eq!(read.effective(), store.effective());
        assert!(read.is_unchanged());
    }

    #[test]
    fn bases_are_made_anew_in_time_and_forgotten_with_the_last_that_needs_them() {
        let (_root, state) = directory();
        let mut store = Store::default();
        let bases = || bases::numbers_in(&state.path().join("generations/bases")).unwrap();
        let snapshot = in_force(&mut store, 1, &Layout::default(), 1);
        for generation in 1..=30 {
            // Each of a daemon of its own, which cannot know what lies there.
            let mut keeper = Keeper::new(state.clone());
            keeper.save_snapshot(&in_force(&mut store, 1, &Layout::default(), generation)).unwrap();
            keeper.save_last_good(&store).unwrap();
            state.prune(3, &[]);
            assert!(bases().len() <= 4, "{:?}", bases());
        }
        assert_eq!(bases(), [28, 29, 30]);
        let stores = bases::numbers_in(&state.path().join("last-good")).unwrap();
        assert_eq!(stores.len(), 1, "{stores:?}");
        let mut keeper = Keeper::new(state.clone());
        for generation in 31..=600 {
            // Everything is another each time.
            let mut snapshot = Snapshot { generation, ..snapshot.clone() };
            snapshot.contents.objects.drain(..usize::try_from(generation % 99).unwrap());
            keeper.save_snapshot(&snapshot).unwrap();
            state.prune(3, &[]);
            if generation > 34 {
                assert!(bases().len() <= 3, "{:?}", bases());
            }
            if bases().last() > Some(&32) {
                return;
            }
        }
        panic!("never a new base: {:?}", bases());
    }

    #[test]
    fn a_snapshot_whose_base_is_lost_is_damaged() {
        let (_root, state) = directory();
        let snapshot = in_force(&mut Store::default(), 1, &Layout::default(), 1);
        Keeper::new(state.clone()).save_snapshot(&snapshot).unwrap();
        std::fs::remove_file(state.path().join("generations/bases/1.json")).unwrap();
        let error = state.snapshot(1).unwrap_err().to_string();
        assert!(error.contains("bases/1.json is damaged"), "{error}");
    }
}
