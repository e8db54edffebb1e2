//! What the store says, as it was compiled last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redirector_core::model::{Object, ObjectRef};
use redirector_core::registry::{Changed, Registry};
use redirector_core::store::{Replaced, Store};
use redirector_core::world::{Changes, Settings, World};

use super::resolving::Known;
use crate::state::Resolved;

/// The World of what the store says, and its registry. They follow what was touched
/// there, and are built of everything once.
#[derive(Debug)]
pub struct Kept {
    pub world: World,
    pub registry: Registry,
    /// Pods that were not in the store yet.
    newcomers: BTreeSet<ObjectRef>,
    /// What the store says and the World is without.
    left_out: BTreeSet<ObjectRef>,
}

/// Whether nothing is another.
fn is_same(one: Option<&Arc<Object>>, other: Option<&Arc<Object>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Object::is_same(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

impl Kept {
    /// Everything that the store says.
    pub fn new(settings: &Settings, store: &Store, resolved: &Known) -> Self {
        let mut world = World::of(settings.clone(), store.effective());
        for (name, known) in resolved {
            world.set_resolved(name, known.answer());
        }
        let registry = Registry::new(&world);
        Self { world, registry, newcomers: BTreeSet::new(), left_out: BTreeSet::new() }
    }

    /// What is different since. These `names` may be, of those that are resolved; pods
    /// that are not in the store yet go before what is there under their name, and the
    /// World is without what is left out.
    pub fn follow(
        &mut self,
        settings: &Settings,
        store: &Store,
        (resolved, names): (&Known, BTreeSet<Arc<str>>),
        newcomers: &[Arc<Object>],
        left_out: BTreeSet<ObjectRef>,
    ) -> (Changes, Changed) {
        let newcomers: BTreeMap<ObjectRef, &Arc<Object>> =
            newcomers.iter().map(|pod| (pod.reference(), pod)).collect();
        let before = std::mem::replace(&mut self.newcomers, newcomers.keys().cloned().collect());
        let out_before = std::mem::replace(&mut self.left_out, left_out);
        let moved = out_before.symmetric_difference(&self.left_out);
        let mut changes = Changes::default();
        let touched = store.touched().iter().chain(&before).chain(newcomers.keys());
        for object in touched.chain(moved) {
            let newcomer = newcomers.get(object).copied();
            let after = newcomer.or_else(|| store.effective_of(object));
            let after = after.filter(|_| !self.left_out.contains(object));
            let before = self.world.get(object);
            if !is_same(before, after) {
                let (before, after) = (before.cloned(), after.cloned());
                changes.objects.insert(object.clone(), Replaced { before, after });
            }
        }
        let answer = |name: Arc<str>| {
            let answer = resolved.get(&name).map(Resolved::answer);
            (name, answer)
        };
        changes.names = names.into_iter().map(answer).collect();
        changes.settings = (self.world.settings != *settings).then(|| settings.clone());
        if changes.is_empty() {
            return Default::default();
        }
        self.world.apply(&changes);
        let changed = self.registry.update(&self.world, &changes);
        (changes, changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::parse;

    fn put(store: &mut Store, file: &str, text: &str) {
        let file = file.into();
        store.put(&file, parse(&file, text.as_bytes()));
    }

    fn pod(address: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, uid: u}}\nspec: {{nodeName: here, \
             containers: []}}\nstatus: {{podIP: {address}}}\n"
        )
    }

    const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: \
                         e}\nspec:\n  hosts: [db.example]\n  ports: [{number: 80, name: tcp, \
                         protocol: TCP}]\n  resolution: DNS\n";

    #[test]
    fn what_follows_is_what_everything_comes_to() {
        let mut settings = Settings { node_name: Some("here".to_owned()), ..Settings::default() };
        let (mut store, mut resolved) = (Store::default(), Known::new());
        let mut kept = Kept::new(&settings, &store, &resolved);
        let mut follow = |settings: &Settings, store: &Store, resolved: &Known, pods: &[_]| {
            let names = resolved.keys().cloned().collect();
            kept.follow(settings, store, (resolved, names), pods, BTreeSet::new());
            let mut fresh = Kept::new(settings, store, resolved);
            let nothing = (resolved, BTreeSet::new());
            fresh.follow(settings, store, nothing, pods, BTreeSet::new());
            assert_eq!(kept.world, fresh.world);
            assert!(kept.registry == fresh.registry);
            (kept.world.len(), kept.registry.workloads.sources().count())
        };
        put(&mut store, "entry", ENTRY);
        assert_eq!(follow(&settings, &store, &resolved, &[]), (1, 0));
        let addresses = vec!["192.0.2.1".parse().unwrap()];
        resolved.insert("db.example".into(), Resolved { addresses, ..Resolved::default() });
        assert_eq!(follow(&settings, &store, &resolved, &[]), (1, 0));
        store.accept();

        // A pod that the source has not told of yet, then has, and then does no more.
        let read = redirector_core::documents::read(None, &pod("10.0.0.1")).objects.remove(0);
        let newcomer = [read.object.unwrap()];
        assert_eq!(follow(&settings, &store, &resolved, &newcomer), (2, 1));
        assert_eq!(follow(&settings, &store, &resolved, &[]), (1, 0));
        put(&mut store, "pod", &pod("10.0.0.2"));
        assert_eq!(follow(&settings, &store, &resolved, &newcomer), (2, 1));
        store.accept();
        assert_eq!(follow(&settings, &store, &resolved, &[]), (2, 1));
        settings.node_name = Some("there".to_owned());
        assert_eq!(follow(&settings, &store, &resolved, &[]), (2, 0));

        // What is taken back is as it was.
        store.remove("pod");
        put(&mut store, "entry", &ENTRY.replace("80", "81"));
        assert_eq!(follow(&settings, &store, &resolved, &[]), (1, 0));
        store.reject(&store.touched().first().unwrap().clone(), Vec::new());
        assert_eq!(follow(&settings, &store, &resolved, &[]), (1, 0));
    }
}
