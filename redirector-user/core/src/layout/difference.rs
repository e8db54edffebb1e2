//! What makes one Layout another.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::numbers::NumbersChange;
use super::{ClassTable, Layout, Placed, Placement, Stepped, lives, ranges};
use crate::difference;
use crate::model::{ObjectRef, SourceId};
use crate::plan::{DestinationId, FrontendId, RouteId};

/// What makes one Layout another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Difference {
    routes: difference::Difference<Arc<RouteId>, Placed>,
    destinations: difference::Difference<DestinationId, Placed>,
    tables: difference::Difference<Arc<ClassTable>, u32>,
    identities: difference::Difference<SourceId, u32>,
    classes: difference::Difference<SourceId, u32>,
    frontends: difference::Difference<FrontendId, ObjectRef>,
    /// Of a step: the rest of what it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<Rest>,
    /// Between any two Layouts: all the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rest: Option<Layout>,
}

/// What a step changes beside names.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Rest {
    numbers: [NumbersChange; 5],
    ranges: [ranges::RangesChange; 2],
    lives: lives::LivesChange,
    /// All of them, when they may be others.
    spares: Option<BTreeMap<u32, u32>>,
}

impl Difference {
    /// Whether nothing has another number, and what is free is where it was. A step of
    /// which that is so need not be followed.
    pub fn is_empty(&self) -> bool {
        let Self { routes, destinations, tables, identities, classes, frontends, step, rest } =
            self;
        let step = step.as_ref().is_none_or(|step| {
            let Rest { numbers: _, ranges, lives, spares } = step;
            ranges.iter().all(ranges::RangesChange::is_empty)
                && lives.is_empty()
                && spares.is_none()
        });
        let names = routes.is_empty() && destinations.is_empty() && tables.is_empty();
        let others = identities.is_empty() && classes.is_empty() && frontends.is_empty();
        names && others && step && rest.is_none()
    }
}

impl Placement {
    /// What the last step, which is not settled, makes of the Layout that was there before:
    /// it grows with the step.
    pub fn difference(&mut self) -> Difference {
        let spares = self.changes_spares().then(|| self.layout.spares.clone());
        let layout = &mut self.layout;
        let rest = Rest {
            numbers: layout.numbers().map(|numbers| numbers.change()),
            ranges: layout.ranges().map(|ranges| ranges.change()),
            lives: layout.lives.change(),
            spares,
        };
        Difference {
            routes: layout.routes.difference(),
            destinations: layout.destinations.difference(),
            tables: layout.tables.difference(),
            identities: layout.identities.difference(),
            classes: layout.classes.difference(),
            frontends: layout.frontends.difference(),
            step: Some(rest),
            rest: None,
        }
    }
}

impl Layout {
    /// What makes this Layout be `to`.
    pub fn difference(&self, to: &Self) -> Difference {
        fn between<K: Ord + Clone, V: Clone + PartialEq>(
            from: &Stepped<K, V>,
            to: &Stepped<K, V>,
        ) -> difference::Difference<K, V> {
            difference::Difference::new(from, to, PartialEq::eq)
        }
        Difference {
            routes: between(&self.routes, &to.routes),
            destinations: between(&self.destinations, &to.destinations),
            tables: between(&self.tables, &to.tables),
            identities: between(&self.identities, &to.identities),
            classes: between(&self.classes, &to.classes),
            frontends: between(&self.frontends, &to.frontends),
            step: None,
            rest: Some(Self {
                route_numbers: to.route_numbers.clone(),
                leg_ranges: to.leg_ranges.clone(),
                destination_numbers: to.destination_numbers.clone(),
                backend_ranges: to.backend_ranges.clone(),
                table_numbers: to.table_numbers.clone(),
                identity_numbers: to.identity_numbers.clone(),
                class_numbers: to.class_numbers.clone(),
                lives: to.lives.clone(),
                spares: to.spares.clone(),
                ..Self::default()
            }),
        }
    }

    /// This Layout, made what [`Layout::difference`] was told, or what it was after the step
    /// of [`Placement::difference`].
    #[must_use]
    pub fn with(mut self, difference: Difference) -> Self {
        self.routes.follow(difference.routes);
        self.destinations.follow(difference.destinations);
        self.tables.follow(difference.tables);
        self.identities.follow(difference.identities);
        self.classes.follow(difference.classes);
        self.frontends.follow(difference.frontends);
        if let Some(step) = difference.step {
            let numbers = self.numbers().into_iter().zip(step.numbers);
            numbers.for_each(|(numbers, change)| numbers.follow(change));
            let ranges = self.ranges().into_iter().zip(step.ranges);
            ranges.for_each(|(ranges, change)| ranges.follow(change));
            self.lives.follow(step.lives);
            self.spares = step.spares.unwrap_or(self.spares);
        }
        let Some(rest) = difference.rest else { return self };
        let Self { routes, destinations, tables, identities, classes, frontends, .. } = self;
        Self { routes, destinations, tables, identities, classes, frontends, ..rest }
    }
}
