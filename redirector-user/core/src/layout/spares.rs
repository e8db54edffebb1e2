//! Spare identity numbers: those of pods that are to come.
//!
//! A pod that is of a class which the tables have gets one at once, and keeps
//! it: what its connections meet is decided before the pod itself is compiled.

use std::collections::{BTreeMap, BTreeSet};

use redirector_common::abi::{self, Limits};

use super::{Layout, Placement, Table};
use crate::image::Edits;
use crate::model::SourceId;
use crate::plan;

/// Spare numbers take no more than this part of the table.
const SHARE: usize = 8;

/// What a Layout is to do about pods that come before the next one is made. By itself:
/// nobody has come, and nothing changes about the spare numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Newcomers {
    /// Spare numbers that pods were given since.
    pub given: BTreeMap<SourceId, u32>,
    /// Spare numbers that are to be given no more.
    pub spent: BTreeSet<u32>,
    /// How many each class is to have.
    pub spares: usize,
}

impl Placement {
    /// Keeps the spare numbers of classes that are there still, and takes more
    /// where half of them are gone. They come after the workloads, and take no
    /// more than an eighth of the table.
    ///
    /// All of them are looked at when a class or a pod comes or goes, and otherwise none:
    /// there are no more than the pods of a node, and some.
    pub(super) fn place_spares(
        &mut self,
        delta: &plan::Delta,
        limits: &Limits,
        newcomers: &Newcomers,
        edits: &mut Edits,
    ) {
        let classes = self.class_numbers.len() + 1;
        let room = limits.identities as usize / SHARE / classes;
        let wanted = newcomers.spares.min(room);
        let as_before = delta.classes.is_empty()
            && newcomers.given.is_empty()
            && newcomers.spent.is_empty()
            && self.spares_for == Some(wanted);
        if as_before && !self.is_fresh {
            return;
        }
        self.keep_spares();
        let classes = std::iter::once(abi::CLASS_UNKNOWN).chain(self.class_ids.keys().copied());
        let mut left: BTreeMap<u32, usize> = classes.map(|class| (class, 0)).collect();
        let layout = &mut self.layout;
        let numbers = &mut layout.identity_numbers;
        // A pod that was given one and is not among the workloads does not need it.
        let given: BTreeSet<u32> = newcomers.given.values().copied().collect();
        layout.spares.retain(|number, class| {
            let is_left = !newcomers.spent.contains(number) && !given.contains(number);
            match left.get_mut(class).filter(|_| is_left) {
                Some(count) => *count += 1,
                None => {
                    numbers.free(*number);
                    edits.class_of.push((*number, None));
                    return false;
                }
            }
            true
        });
        self.spares_for = Some(wanted);
        for (class, count) in left {
            if count * 2 > wanted {
                continue;
            }
            for _ in count..wanted {
                let Ok(number) = numbers.take(limits.identities, Table::Workloads) else {
                    self.spares_for = None;
                    break;
                };
                layout.spares.insert(number, class);
            }
        }
        let all = layout.spares.iter();
        edits.class_of.extend(all.map(|(number, class)| (*number, Some(*class))));
    }
}

impl Layout {
    /// The identity numbers that no workload has yet, with the class of each.
    pub fn spares(&self) -> &BTreeMap<u32, u32> {
        &self.spares
    }
}
