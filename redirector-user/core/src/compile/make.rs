//! Makes the parts of the Plan again that a change concerns.

use std::collections::BTreeMap;
use std::ops::Bound;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use super::destinations::{Before, Destinations};
use super::gateways;
use super::mesh::Mesh;
use super::readers::Reader;
use super::stages::{Dirty, Island, Stages};
use crate::plan::gateway::GatewayPlan;
use crate::plan::{Delta, Frontend, FrontendId, Plan, RouteId};
use crate::registry::Registry;
use crate::work::Work;
use crate::world::World;

impl Stages {
    pub(super) fn make(
        &mut self,
        world: &World,
        registry: &Registry,
        mut dirty: Dirty,
        delta: &mut Delta,
        work: &mut Work,
    ) {
        let stale = std::mem::take(&mut dirty.stale);
        let met = std::mem::take(&mut self.met);
        let Plan { frontends, routes, destinations, classes, sources, gateways } = &mut self.plan;
        let before = Before { destinations, stale: &stale };
        let mut destinations = Destinations::resume(registry, met, Some(before));

        for host in std::mem::take(&mut dirty.endpoints) {
            let mut readers = Vec::new();
            if destinations.remake(&host) {
                readers.extend(self.readers.of_host(&host));
            }
            for (id, had, peeking) in self.readers.peeked(&host) {
                if destinations.has_endpoints(id) != had {
                    readers.extend(peeking);
                }
            }
            readers.into_iter().for_each(|reader| dirty.reader(reader));
        }
        for host in std::mem::take(&mut dirty.hosts) {
            self.readers.of_host(&host).for_each(|reader| dirty.reader(reader));
        }
        for id in &dirty.reweighted {
            let Some(set) = self.book.get(&id.object) else { continue };
            let Some(rule) = set.rule(id) else { continue };
            let first = RouteId { rule: Some(id.clone()), destinations: Vec::new() };
            let those = routes.range::<RouteId, _>((Bound::Included(&first), Bound::Unbounded));
            for (route, _) in those.take_while(|(route, _)| route.rule.as_ref() == Some(id)) {
                destinations.reweigh(set, rule, route);
            }
        }

        let regions = regions(&self.islands, &dirty);
        let mut gone: FxHashMap<FrontendId, Frontend> = FxHashMap::default();
        let mut mesh = (!regions.is_empty()).then(|| {
            Mesh::new(registry, &self.book, &self.claims, (classes, sources), &self.probes)
        });
        for (port, region) in regions {
            for root in islands_in(&self.islands, port, &region) {
                let Some(island) = self.islands.remove(&(port, root)) else { continue };
                self.readers.remove(Reader::Island(port, root), &island.trace);
                destinations.met().release(&island.trace);
                for id in &island.frontends {
                    gone.extend(frontends.remove(id).map(|frontend| (*id, frontend)));
                }
            }
            for root in self.claims.outermost(port, &region) {
                let Some(mesh) = &mut mesh else { continue };
                let (made, trace) = mesh.island(port, &root, &mut destinations);
                work.islands += 1;
                self.readers.add(Reader::Island(port, root), &trace);
                destinations.met().hold(&trace);
                let ids = made.iter().map(|(id, _)| *id).collect();
                for (id, frontend) in made {
                    if gone.remove(&id).as_ref() != Some(&frontend) {
                        delta.frontends.insert(id, Some(frontend.clone()));
                    }
                    frontends.insert(id, frontend);
                }
                self.islands.insert((port, root), Island { frontends: ids, trace });
            }
        }
        delta.frontends.extend(gone.into_keys().map(|id| (id, None)));

        let serves = !self.gateways.is_empty() || *gateways != GatewayPlan::default();
        if dirty.gateways && serves {
            work.gateways += 1;
            let old = std::mem::take(&mut self.gateways_trace);
            self.readers.remove(Reader::Gateways, &old);
            destinations.met().release(&old);
            let behind = self.behind.as_mut();
            let (plan, trace) =
                gateways::compile(world, registry, &self.book, &mut destinations, behind);
            self.readers.add(Reader::Gateways, &trace);
            destinations.met().hold(&trace);
            self.gateways_trace = trace;
            if *gateways != plan {
                delta.gateways = Some(plan.clone());
                *gateways = plan;
            }
        }
        let (met, made) = destinations.finish();
        self.met = met;
        work.destinations += made.len();
        let root = &registry.settings.root_namespace;
        self.met.settle(made, root, &mut self.plan, delta, work);
    }
}

/// The regions in which islands are to be made again: what differs, and the islands
/// around it.
fn regions(islands: &BTreeMap<(u16, IpNet), Island>, dirty: &Dirty) -> Vec<(u16, IpNet)> {
    let mut regions: Vec<(u16, IpNet)> = (dirty.regions.iter())
        .map(|(port, prefix)| {
            // Islands do not overlap: the last one that does not begin behind it.
            let before = islands.range(..=(*port, *prefix)).next_back();
            match before {
                Some(((of, root), _)) if of == port && root.contains(prefix) => (*port, *root),
                _ => (*port, *prefix),
            }
        })
        .collect();
    // What lies in a region follows it.
    regions.sort_unstable();
    let mut outermost: Vec<(u16, IpNet)> = Vec::new();
    for (port, region) in regions {
        let inside = |(of, outer): &(u16, IpNet)| *of == port && outer.contains(&region);
        if !outermost.last().is_some_and(inside) {
            outermost.push((port, region));
        }
    }
    outermost
}

fn islands_in(islands: &BTreeMap<(u16, IpNet), Island>, port: u16, region: &IpNet) -> Vec<IpNet> {
    let from = islands.range((port, *region)..);
    let those = from.take_while(|((of, root), _)| *of == port && region.contains(root));
    those.map(|((_, root), _)| *root).collect()
}
