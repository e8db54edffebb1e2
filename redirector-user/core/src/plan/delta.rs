//! What makes one Plan another.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::gateway::GatewayPlan;
use super::{
    Class, ClassId, Destination, DestinationId, Frontend, FrontendId, Leg, LocalWorkload, Plan,
    RouteId,
};
use crate::join;
use crate::model::SourceId;

/// What stands at each key from now on; `None`: nothing.
pub type Changes<K, V> = BTreeMap<K, Option<V>>;

/// What makes one Plan another.
#[derive(Clone, PartialEq, Debug, Default)]
#[expect(missing_docs, reason = "the parts of Plan, by the same names")]
pub struct Delta {
    pub frontends: Changes<FrontendId, Frontend>,
    pub routes: Changes<Arc<RouteId>, Vec<Leg>>,
    pub destinations: Changes<DestinationId, Destination>,
    pub classes: Changes<ClassId, Class>,
    pub sources: Changes<SourceId, LocalWorkload>,
    /// `None`: as before.
    pub gateways: Option<GatewayPlan>,
}

/// Calls a macro-like closure over every map of a Plan; keeps the list of them in one
/// place.
macro_rules! each_map {
    ($do:ident) => {
        $do!(frontends);
        $do!(routes);
        $do!(destinations);
        $do!(classes);
        $do!(sources);
    };
}

impl Plan {
    /// What makes this Plan be `to`.
    pub fn difference(&self, to: &Self) -> Delta {
        let mut delta = Delta::default();
        macro_rules! map {
            ($name:ident) => {
                delta.$name = changes(&self.$name, &to.$name);
            };
        }
        each_map!(map);
        delta.gateways = (self.gateways != to.gateways).then(|| to.gateways.clone());
        delta
    }

    /// Makes this Plan what [`Plan::difference`] was told, or what the Delta says of any
    /// other.
    pub fn apply(&mut self, delta: Delta) {
        macro_rules! map {
            ($name:ident) => {
                for (key, value) in delta.$name {
                    match value {
                        Some(value) => self.$name.insert(key, value),
                        None => self.$name.remove(&key),
                    };
                }
            };
        }
        each_map!(map);
        if let Some(gateways) = delta.gateways {
            self.gateways = gateways;
        }
    }
}

/// A comparison of the Plan that is kept with one that was made anew, in pieces.
#[derive(Debug, Default)]
pub struct Comparison {
    frontends: Option<FrontendId>,
    routes: Option<Arc<RouteId>>,
    destinations: Option<DestinationId>,
    classes: Option<ClassId>,
    sources: Option<SourceId>,
    /// What was found to differ: what makes the one that is kept the other.
    pub differing: Delta,
}

impl Comparison {
    /// Compares the next piece, of no more than `most` entries, which becomes less by them;
    /// `made` is used up by that. Returns whether it was the last one.
    pub fn go_on(&mut self, kept: &Plan, made: &mut Plan, most: &mut usize) -> bool {
        macro_rules! map {
            ($name:ident) => {
                let (after, found) = (&mut self.$name, &mut self.differing.$name);
                let differs = |key, value| _ = found.insert(key, value);
                if !join::compare(&kept.$name, &mut made.$name, after, most, differs) {
                    return false;
                }
            };
        }
        each_map!(map);
        self.differing.gateways = (kept.gateways != made.gateways).then(|| made.gateways.clone());
        true
    }
}

impl Delta {
    /// Adds what comes after this: both are one change then.
    pub fn then(&mut self, later: Self) {
        macro_rules! map {
            ($name:ident) => {
                self.$name.extend(later.$name);
            };
        }
        each_map!(map);
        self.gateways = later.gateways.or(self.gateways.take());
    }

    /// Leaves out what another one is about, too.
    pub fn leave_out(&mut self, other: &Self) {
        macro_rules! map {
            ($name:ident) => {
                self.$name.retain(|key, _| !other.$name.contains_key(key));
            };
        }
        each_map!(map);
        self.gateways.take_if(|_| other.gateways.is_some());
    }

    /// Which parts of a Plan it is about.
    pub fn parts(&self) -> Vec<&'static str> {
        let mut parts = Vec::new();
        macro_rules! map {
            ($name:ident) => {
                parts.extend((!self.$name.is_empty()).then_some(stringify!($name)));
            };
        }
        each_map!(map);
        parts.extend(self.gateways.is_some().then_some("gateways"));
        parts
    }

    /// How much changes: the parts of a Plan, gateways as one.
    pub fn len(&self) -> usize {
        let mut len = usize::from(self.gateways.is_some());
        macro_rules! map {
            ($name:ident) => {
                len += self.$name.len();
            };
        }
        each_map!(map);
        len
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn changes<K: Ord + Clone, V: PartialEq + Clone>(
    from: &BTreeMap<K, V>,
    to: &BTreeMap<K, V>,
) -> Changes<K, V> {
    let differing = join::outer(from, to).filter(|(_, from, to)| from != to);
    differing.map(|(key, _, to)| (key.clone(), to.cloned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Verdict;
    use proptest::prelude::*;

    /// A Plan in which little is as it could be, and everything may differ.
    fn plan() -> impl Strategy<Value = Plan> {
        let object = || crate::model::ObjectRef {
            kind: crate::model::Kind::Service,
            namespace: "default".into(),
            name: "a".into(),
        };
        let frontend = move |class| Frontend {
            service: object(),
            default: Verdict::Pass,
            exceptions: [(class, Verdict::Refuse)].into(),
        };
        let route = |number: u8| {
            Arc::new(RouteId { rule: None, destinations: vec![destination_id(number)] })
        };
        let source = |class| LocalWorkload {
            labels: crate::model::Labels::new(),
            addresses: Vec::new(),
            selector: crate::model::SourceSelector::PodUid("u".into()),
            class,
        };
        let id = |number: u8| SourceId {
            namespace: "default".into(),
            name: number.to_string().as_str().into(),
        };
        let numbers = || prop::collection::btree_map(0..6u8, 0..3u8, 0..5);
        let parts = (numbers(), numbers(), numbers(), numbers(), numbers(), 0..3u8);
        parts.prop_map(move |(frontends, routes, destinations, classes, sources, gateways)| Plan {
            frontends: (frontends.into_iter())
                .map(|(at, class)| {
                    let prefix = std::net::IpAddr::from([10, 0, 0, at]).into();
                    (FrontendId { prefix, port: 80 }, frontend(u32::from(class)))
                })
                .collect(),
            routes: (routes.into_iter())
                .map(|(at, weight)| (route(at), vec![Leg { weight: u64::from(weight) }]))
                .collect(),
            destinations: (destinations.into_iter())
                .map(|(at, reason)| {
                    let empty_because = Some(reason.to_string());
                    (destination_id(at), Destination { empty_because, ..Destination::default() })
                })
                .collect(),
            classes: (classes.into_iter())
                .map(|(at, of)| (u32::from(at), Class { example: Some(id(of)) }))
                .collect(),
            sources: (sources.into_iter())
                .map(|(at, class)| (id(at), source(u32::from(class))))
                .collect(),
            gateways: GatewayPlan {
                dropped: (0..u32::from(gateways))
                    .map(|server| crate::plan::gateway::Dropped {
                        gateway: object(),
                        server,
                        reason: String::new(),
                    })
                    .collect(),
                ..GatewayPlan::default()
            },
        })
    }

    fn destination_id(number: u8) -> DestinationId {
        let host = number.to_string().as_str().into();
        DestinationId { host, subset: None, port: 80, v6: false, view: Arc::default() }
    }

    proptest! {
        #[test]
        fn a_difference_makes_one_plan_the_other_and_two_become_one(
            a in plan(), b in plan(), c in plan(),
        ) {
            let (mut first, second) = (a.difference(&b), b.difference(&c));
            prop_assert_eq!(first.is_empty(), a == b);
            let mut plan = a.clone();
            plan.apply(first.clone());
            prop_assert_eq!(&plan, &b);
            prop_assert!(plan.difference(&b).is_empty());
            plan.apply(second.clone());
            prop_assert_eq!(&plan, &c);
            first.then(second);
            let mut plan = a;
            plan.apply(first);
            prop_assert_eq!(plan, c);
        }
    }
}
