//! Spare identity numbers: those of pods that are to come.
//!
//! A pod that is of a class which the tables have gets one at once, and keeps
//! it: what its connections meet is decided before the pod itself is compiled.

use std::collections::{BTreeMap, BTreeSet};

use redirector_common::abi::{self, Limits};

use super::{Layout, Table};
use crate::image::Image;
use crate::model::SourceId;
use crate::plan::ClassId;

/// Spare numbers take no more than this part of the table.
const SHARE: usize = 8;

/// What a Layout is to do about pods that come before the next one is made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Newcomers {
    /// Spare numbers that pods were given since.
    pub given: BTreeMap<SourceId, u32>,
    /// Spare numbers that may be given still. All others are given up.
    pub left: BTreeSet<u32>,
    /// How many each class is to have.
    pub spares: usize,
}

impl Newcomers {
    /// Nobody has come, and nothing changes about the spare numbers.
    pub fn keep(layout: &Layout) -> Self {
        Self { left: layout.spares.keys().copied().collect(), ..Self::default() }
    }
}

impl Layout {
    /// Keeps the spare numbers of classes that are there still, and takes more
    /// where half of them are gone. They come after the workloads, and take no
    /// more than an eighth of the table.
    pub(super) fn place_spares(
        &mut self,
        limits: &Limits,
        newcomers: &Newcomers,
        classes: &BTreeMap<ClassId, u32>,
        image: &mut Image,
    ) {
        let room = limits.identities as usize / SHARE / classes.len().max(1);
        let wanted = newcomers.spares.min(room);
        let mut left: BTreeMap<u32, usize> = classes.values().map(|class| (*class, 0)).collect();
        let numbers = &mut self.identity_numbers;
        self.spares.retain(|number, class| {
            let count = left.get_mut(class).filter(|_| newcomers.left.contains(number));
            match count {
                Some(count) => *count += 1,
                None => {
                    numbers.free(*number);
                    return false;
                }
            }
            true
        });
        for (class, count) in left {
            if count * 2 > wanted {
                continue;
            }
            let more = (count..wanted)
                .map_while(|_| numbers.take(limits.identities, Table::Workloads).ok());
            self.spares.extend(more.map(|number| (number, class)));
        }
        let known = self.spares.iter().filter(|(_, class)| **class != abi::CLASS_UNKNOWN);
        image.class_of.extend(known.map(|(number, class)| (*number, *class)));
    }

    /// The identity numbers that no workload has yet, with the class of each.
    pub fn spares(&self) -> &BTreeMap<u32, u32> {
        &self.spares
    }
}
