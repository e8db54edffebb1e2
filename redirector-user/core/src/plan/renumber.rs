//! Numbers of classes after those of another Plan.

use std::collections::{BTreeMap, BTreeSet};

use super::{ClassId, Plan};

impl Plan {
    /// Gives each class the number of the class of `other` that it shares a workload with,
    /// as far as no other class has it by then. Two Plans that were made apart are compared
    /// so: one is no other because its classes were met in another order.
    ///
    /// Returns what became of each number that is another now.
    pub fn renumber_as(&mut self, other: &Self) -> BTreeMap<ClassId, ClassId> {
        let mut became: BTreeMap<ClassId, ClassId> = [(0, 0)].into();
        let mut taken: BTreeSet<ClassId> = [0].into();
        for (id, source) in &self.sources {
            if let Some(there) = other.sources.get(id)
                && !became.contains_key(&source.class)
                && taken.insert(there.class)
            {
                became.insert(source.class, there.class);
            }
        }
        let mut free = (0..).filter(|id| !taken.contains(id) && !other.classes.contains_key(id));
        for id in self.classes.keys() {
            if !became.contains_key(id) {
                became.extend(free.next().map(|number| (*id, number)));
            }
        }
        became.retain(|before, after| before != after);
        if became.is_empty() {
            return became;
        }
        let now = |id: ClassId| became.get(&id).copied().unwrap_or(id);
        let classes = std::mem::take(&mut self.classes);
        self.classes = classes.into_iter().map(|(id, class)| (now(id), class)).collect();
        self.sources.values_mut().for_each(|source| source.class = now(source.class));
        for frontend in self.frontends.values_mut() {
            let exceptions = std::mem::take(&mut frontend.exceptions);
            frontend.exceptions = exceptions.into_iter().map(|(id, v)| (now(id), v)).collect();
        }
        became
    }
}
