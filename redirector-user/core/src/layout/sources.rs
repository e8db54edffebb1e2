//! The numbers of local workloads and of their classes.

use std::collections::BTreeMap;

use redirector_common::abi::{self, Limits};

use super::{Full, Newcomers, Placement, Table};
use crate::image::Edits;
use crate::plan::{self, Class, ClassId};

impl Placement {
    /// Numbers the local workloads and their classes that change.
    pub(super) fn place_sources(
        &mut self,
        delta: &plan::Delta,
        limits: &Limits,
        newcomers: &Newcomers,
        edits: &mut Edits,
    ) -> Result<(), Full> {
        for (id, number) in &newcomers.given {
            let comes = matches!(delta.sources.get(id), Some(Some(_)));
            if comes && !self.layout.identities.contains_key(id) {
                self.keep_spares();
                if self.layout.spares.remove(number).is_some() {
                    self.layout.identities.insert(id.clone(), *number);
                }
            }
        }
        self.place_classes(delta)?;
        let layout = &mut self.layout;
        let numbers = &mut layout.identity_numbers;
        for (id, source) in &delta.sources {
            let Some(source) = source else {
                if let Some(number) = layout.identities.remove(id) {
                    numbers.free(number);
                    edits.class_of.push((number, None));
                }
                layout.classes.remove(id);
                continue;
            };
            let number = match layout.identities.get(id) {
                Some(number) => *number,
                None => {
                    let number = numbers.take(limits.identities, Table::Workloads)?;
                    layout.identities.insert(id.clone(), number);
                    number
                }
            };
            let class = self.class_numbers.get(&source.class).copied();
            edits.class_of.push((number, class));
            match class {
                Some(class) => _ = layout.classes.insert(id.clone(), class),
                None => _ = layout.classes.remove(id),
            }
        }
        Ok(())
    }

    /// Numbers the classes. One that is there keeps its number. One that comes has that of
    /// a class which goes, or which earlier tables had, if one of its workloads was in that:
    /// of a class that splits into others one keeps it.
    fn place_classes(&mut self, delta: &plan::Delta) -> Result<(), Full> {
        let layout = &mut self.layout;
        let mut vacant = self.step.as_ref().map(|step| step.earlier.clone()).unwrap_or_default();
        for (id, _) in delta.classes.iter().filter(|(_, class)| class.is_none()) {
            if let Some(number) = self.class_numbers.remove(id) {
                self.class_ids.remove(&number);
                vacant.insert(number);
            }
        }
        let known = &self.class_numbers;
        let comes = |id: &ClassId, class: &Option<Class>| {
            let is_known = *id == abi::CLASS_UNKNOWN || known.contains_key(id);
            !is_known && class.as_ref().is_some_and(|class| class.example.is_some())
        };
        let new = delta.classes.iter().filter(|(id, class)| comes(id, class));
        let mut new: BTreeMap<ClassId, Option<u32>> = new.map(|(id, _)| (*id, None)).collect();
        let members = delta
            .sources
            .iter()
            .filter_map(|(id, source)| Some((layout.classes.get(id)?, source.as_ref()?.class)));
        for (number, class) in members {
            if let Some(none @ None) = new.get_mut(&class)
                && vacant.remove(number)
            {
                *none = Some(*number);
            }
        }
        vacant.into_iter().for_each(|number| layout.class_numbers.free(number));
        for (id, number) in new {
            let number = match number {
                Some(number) => number,
                None => layout.class_numbers.take(u32::MAX, Table::Classes)?,
            };
            self.class_numbers.insert(id, number);
            self.class_ids.insert(number, id);
        }
        Ok(())
    }

    /// Whether a class was there before this step and is there still, by its number.
    pub(super) fn is_steady(&self, class: u32) -> bool {
        let earlier = self.step.as_ref().is_some_and(|step| step.earlier.contains(&class));
        let was = earlier || self.class_ids.was(&class).is_some();
        class == abi::CLASS_UNKNOWN || (was && self.class_ids.contains_key(&class))
    }
}
