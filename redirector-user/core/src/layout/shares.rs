//! Who a table is full of, and what has to be left out for the rest to fit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use redirector_common::abi::LIVES;

use super::lives::needs;
use super::{Full, Placement, Table, len};
use crate::model::{Kind, ObjectRef, SourceId};
use crate::plan::{Destination, Plan, RouteId, Verdict};
use crate::registry::age;
use crate::world::World;

/// Entries of a table by the objects that they are for.
type Shares = BTreeMap<ObjectRef, u64>;

fn leads<'r>(route: &'r RouteId, root: &str) -> Option<&'r ObjectRef> {
    let rule = route.rule.as_ref().map(|rule| &rule.object);
    rule.or_else(|| route.destinations.first().and_then(|id| id.owner(root)))
}

/// How many entries of `LIVE` a destination needs.
fn lives(destination: &Destination) -> u64 {
    match needs(destination) {
        None => 0,
        Some(counted) => 1 + if counted { destination.endpoints.len() as u64 } else { 0 },
    }
}

/// Of which objects the entries are that a Plan needs in a table.
fn shares(plan: &Plan, world: &World, table: Table) -> Shares {
    let mut shares = Shares::new();
    let mut add = |object: Option<&ObjectRef>, count: u64| {
        let Some(object) = object.filter(|_| count > 0) else { return };
        match shares.get_mut(object) {
            Some(share) => *share += count,
            None => _ = shares.insert(object.clone(), count),
        }
    };
    let root = &*world.settings.root_namespace;
    let leads = |route| leads(route, root);
    match table {
        Table::Frontends | Table::Prefixes => {
            for (id, frontend) in &plan.frontends {
                let whole = id.prefix.prefix_len() == id.prefix.max_prefix_len();
                add(Some(&frontend.service), u64::from(whole == (table == Table::Frontends)));
            }
        }
        Table::ClassTables | Table::ClassVerdicts => {
            for frontend in plan.frontends.values() {
                for verdict in frontend.exceptions.values() {
                    let leads = match verdict {
                        Verdict::Route(route) => leads(route),
                        Verdict::Pass | Verdict::Refuse => None,
                    };
                    add(leads.or(Some(&frontend.service)), 1);
                }
            }
        }
        Table::Routes => plan.routes.keys().for_each(|id| add(leads(id), 1)),
        Table::Legs => plan.routes.iter().for_each(|(id, legs)| add(leads(id), legs.len() as u64)),
        Table::Destinations => plan.destinations.keys().for_each(|id| add(id.owner(root), 1)),
        Table::Endpoints => {
            let all = plan.destinations.iter();
            all.for_each(|(id, one)| add(id.owner(root), one.endpoints.len() as u64));
        }
        Table::Lives => {
            plan.destinations.iter().for_each(|(id, one)| add(id.owner(root), lives(one)));
        }
        Table::Workloads => plan.sources.keys().for_each(|id| add(workload(world, id).as_ref(), 1)),
        Table::Classes => {
            let examples = plan.classes.values().filter_map(|class| class.example.as_ref());
            examples.for_each(|id| add(workload(world, id).as_ref(), 1));
        }
    }
    shares
}

fn workload(world: &World, id: &SourceId) -> Option<ObjectRef> {
    let found = [Kind::WorkloadEntry, Kind::Pod]
        .into_iter()
        .find_map(|kind| world.find(kind, &id.namespace, &id.name));
    found.map(|object| object.reference())
}

/// What is left out of a World for there being more than connections can be counted on.
pub fn beyond_lives(plan: &Plan, world: &World) -> Option<(Full, Vec<(ObjectRef, u64)>)> {
    // Entry 0 is nobody's.
    beyond(plan, world, LIVES - 1)
}

fn beyond(plan: &Plan, world: &World, capacity: u32) -> Option<(Full, Vec<(ObjectRef, u64)>)> {
    let needed: u64 = plan.destinations.values().map(lives).sum();
    let mut full = Full { table: Table::Lives, needed, capacity };
    (needed > capacity.into()).then(|| {
        let heaviest = heaviest(plan, world, &mut full);
        (full, heaviest)
    })
}

/// What is left out of namespaces whose destinations have more endpoints than they may: the
/// newest objects that have any, as many as it takes. With each, how many, and why.
pub fn beyond_endpoints(plan: &Plan, world: &World) -> Vec<(ObjectRef, u64, String)> {
    let shares = shares(plan, world, Table::Endpoints);
    let mut namespaces: BTreeMap<&Arc<str>, u64> = BTreeMap::new();
    for (object, share) in &shares {
        *namespaces.entry(&object.namespace).or_default() += share;
    }
    let most = world.settings.budgets.namespace.endpoints;
    let beyond = namespaces.into_iter().filter(|(_, sum)| *sum > most);
    let left_out = beyond.flat_map(|(namespace, sum)| {
        newest(&shares, world, namespace, sum - most).into_iter().map(move |(object, count)| {
            let why = format!(
                "the destinations of rules in namespace {namespace} have {sum} endpoints, each \
                 subset and view counted by itself, and may have {most}; of what asks for them \
                 this, with {count}, is the newest"
            );
            (object, count, why)
        })
    });
    left_out.collect()
}

/// Why an object is left out where a table is full that it needs so many entries of.
pub fn because(full: &Full, object: &ObjectRef, count: u64) -> String {
    format!(
        "{full}; namespace {} needs most of them, and of what it asks for this, with {count}, is \
         the newest",
        object.namespace
    )
}

/// What is left out so that the rest of a World fits where its Plan does not: of the
/// namespace whose objects need most of the table, the newest, as many as it takes. With
/// each, how many entries it needs. Empty when nobody's entries can be told. How many
/// entries are needed in all is set right.
pub fn heaviest(plan: &Plan, world: &World, full: &mut Full) -> Vec<(ObjectRef, u64)> {
    let shares = shares(plan, world, full.table);
    let sum: u64 = shares.values().sum();
    full.needed = full.needed.max(sum);
    let excess = sum.saturating_sub(full.capacity.into()).max(1);
    let mut namespaces: HashMap<&Arc<str>, u64> = HashMap::new();
    for (object, share) in &shares {
        *namespaces.entry(&object.namespace).or_default() += share;
    }
    let most = namespaces.into_iter().max_by_key(|(namespace, share)| (*share, *namespace));
    most.map_or_else(Vec::new, |(most, _)| newest(&shares, world, most, excess))
}

/// Of the objects of a namespace the newest, as many as have so many entries.
fn newest(
    shares: &Shares,
    world: &World,
    namespace: &str,
    mut excess: u64,
) -> Vec<(ObjectRef, u64)> {
    let of_most = shares.iter().filter(|(object, _)| *object.namespace == *namespace);
    let mut newest: Vec<_> = of_most
        .filter_map(|(object, share)| Some((age(&world.get(object)?.meta), object, *share)))
        .collect();
    newest.sort_unstable_by(|(one, ..), (other, ..)| other.cmp(one));
    let mut left_out = Vec::new();
    for (_, object, share) in newest {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(share);
        left_out.push((object.clone(), share));
    }
    left_out
}

impl Placement {
    /// How many entries of a table are in use.
    pub fn used(&self, table: Table) -> u64 {
        let (layout, image) = (&self.layout, &self.image);
        match table {
            Table::Routes => layout.route_numbers.used(),
            Table::Legs => layout.leg_ranges.used(),
            Table::Destinations => layout.destination_numbers.used(),
            Table::Endpoints => layout.backend_ranges.used(),
            Table::Workloads => layout.identity_numbers.used(),
            Table::Classes => layout.class_numbers.used(),
            Table::ClassTables => layout.table_numbers.used(),
            Table::Lives => layout.lives.used(),
            Table::Frontends => len(image.frontends.len()).into(),
            Table::Prefixes => len(image.prefixes.len()).into(),
            Table::ClassVerdicts => len(image.class_verdicts.len()).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::compile;
    use crate::documents;
    use crate::world::Settings;

    fn entry(namespace: &str, name: &str, endpoints: usize) -> String {
        let endpoints: Vec<String> =
            (0..endpoints).map(|at| format!("{{address: 10.0.0.{at}}}")).collect();
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, \
             namespace: {namespace}}}\nspec:\n  hosts: [{name}.{namespace}.example]\n  addresses: \
             [10.1.0.1]\n  ports: [{{number: {}, name: tcp, protocol: TCP}}]\n  resolution: \
             STATIC\n  endpoints: [{}]\n",
            80 + name.len(),
            endpoints.join(", ")
        )
    }

    #[test]
    fn the_newest_of_the_namespace_with_the_most_are_left_out_and_no_more_than_it_takes() {
        let text =
            [entry("a", "x", 5), entry("b", "xx", 4), entry("b", "xxx", 3), entry("b", "xxxx", 2)];
        let mut world = World::new(Settings::default());
        for read in documents::read(None, &text.concat()).objects {
            world.insert(read.object.expect("good"));
        }
        let plan = compile(&world).plan;
        let out = |capacity| {
            let mut full = Full { table: Table::Endpoints, needed: 0, capacity };
            let out = heaviest(&plan, &world, &mut full);
            assert_eq!(full.needed, 14);
            out.into_iter()
                .map(|(object, share)| (object.name.to_string(), share))
                .collect::<Vec<_>>()
        };
        assert_eq!(out(13), [("xxxx".to_owned(), 2)]);
        assert_eq!(out(11), [("xxxx".to_owned(), 2), ("xxx".to_owned(), 3)]);
        let policy = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: \
                      {name: x, namespace: a}\nspec: {host: x.a.example, trafficPolicy: \
                      {loadBalancer: {simple: LEAST_REQUEST}}}\n";
        for read in documents::read(None, policy).objects {
            world.insert(read.object.expect("good"));
        }
        let counted = compile(&world).plan;
        let names = |(_, all): (Full, Vec<(ObjectRef, u64)>)| {
            all.into_iter().map(|(object, share)| (object.kind, share)).collect::<Vec<_>>()
        };
        assert_eq!(beyond(&counted, &world, 6).map(names), None);
        let rule = (Kind::DestinationRule, 6);
        assert_eq!(beyond(&counted, &world, 5).map(names), Some(vec![rule]));
    }
}
