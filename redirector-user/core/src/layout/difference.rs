//! What makes one Layout another.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ClassTable, Layout, Placed};
use crate::difference;
use crate::model::{ObjectRef, SourceId};
use crate::plan::{DestinationId, FrontendId, RouteId};

/// What makes one Layout another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Difference {
    routes: difference::Difference<Arc<RouteId>, Placed>,
    destinations: difference::Difference<DestinationId, Placed>,
    tables: difference::Difference<ClassTable, u32>,
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
                routes: BTreeMap::new(),
                destinations: BTreeMap::new(),
                tables: BTreeMap::new(),
                identities: BTreeMap::new(),
                classes: BTreeMap::new(),
                frontends: BTreeMap::new(),
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
        let Self { routes, destinations, tables, identities, classes, frontends, .. } = self;
        let mut layout = Self {
            routes,
            destinations,
            tables,
            identities,
            classes,
            frontends,
            ..difference.rest
        };
        difference.routes.apply(&mut layout.routes);
        difference.destinations.apply(&mut layout.destinations);
        difference.tables.apply(&mut layout.tables);
        difference.identities.apply(&mut layout.identities);
        difference.classes.apply(&mut layout.classes);
        difference.frontends.apply(&mut layout.frontends);
        layout
    }
}
