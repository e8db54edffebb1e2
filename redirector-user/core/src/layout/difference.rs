//! What makes one Layout another.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ClassTable, Layout, Placed, Stepped};
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
    /// Everything that does not grow with the configuration.
    rest: Layout,
}

impl Layout {
    /// What makes this Layout be `to`.
    pub fn difference(&self, to: &Self) -> Difference {
        Difference {
            routes: difference::Difference::new(&self.routes, &to.routes, PartialEq::eq),
            destinations: difference::Difference::new(
                &self.destinations,
                &to.destinations,
                PartialEq::eq,
            ),
            tables: difference::Difference::new(&self.tables, &to.tables, PartialEq::eq),
            identities: difference::Difference::new(
                &self.identities,
                &to.identities,
                PartialEq::eq,
            ),
            classes: difference::Difference::new(&self.classes, &to.classes, PartialEq::eq),
            frontends: difference::Difference::new(&self.frontends, &to.frontends, PartialEq::eq),
            rest: Self {
                routes: Stepped::default(),
                destinations: Stepped::default(),
                tables: Stepped::default(),
                identities: Stepped::default(),
                classes: Stepped::default(),
                frontends: Stepped::default(),
                route_numbers: to.route_numbers.clone(),
                leg_ranges: to.leg_ranges.clone(),
                destination_numbers: to.destination_numbers.clone(),
                backend_ranges: to.backend_ranges.clone(),
                table_numbers: to.table_numbers.clone(),
                identity_numbers: to.identity_numbers.clone(),
                class_numbers: to.class_numbers.clone(),
                lives: to.lives.clone(),
                spares: to.spares.clone(),
            },
        }
    }

    /// This Layout, made what [`Layout::difference`] was told.
    #[must_use]
    pub fn with(self, difference: Difference) -> Self {
        fn with<K: Ord + Clone, V: Clone>(
            map: Stepped<K, V>,
            difference: difference::Difference<K, V>,
        ) -> Stepped<K, V> {
            let mut map = BTreeMap::from(map);
            difference.apply(&mut map);
            map.into()
        }
        Self {
            routes: with(self.routes, difference.routes),
            destinations: with(self.destinations, difference.destinations),
            tables: with(self.tables, difference.tables),
            identities: with(self.identities, difference.identities),
            classes: with(self.classes, difference.classes),
            frontends: with(self.frontends, difference.frontends),
            ..difference.rest
        }
    }
}
