//! Hosts that several VirtualServices claim, and in which order their rules apply.

use std::collections::{BTreeMap, BTreeSet};

use super::examine::listed;
use super::facts::{Facts, scopes};
use super::{Finding, Report};
use crate::client::{Asker, Client};
use crate::diag::Diagnostic;
use crate::diag::codes::references;
use crate::registry::Service;
use crate::rules::{RuleSet, in_order};

/// Hosts that several VirtualServices claim in the mesh, for clients that see
/// both.
pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let all: Vec<&RuleSet> = facts.book.sets().collect();
    // By host and scope: places among all, which are in order of age.
    let mut claims: BTreeMap<&str, BTreeMap<&str, BTreeSet<usize>>> = BTreeMap::new();
    for (place, set) in all.iter().enumerate().filter(|(_, set)| set.is_for_mesh()) {
        for scope in scopes(&set.export) {
            for host in &set.hosts {
                claims.entry(host).or_default().entry(scope).or_default().insert(place);
            }
        }
    }
    // One host in one order, for all clients or for those of some namespaces.
    type Conflict<'b> = (&'b str, Vec<usize>);
    let mut conflicts: BTreeMap<Conflict<'_>, BTreeSet<&str>> = BTreeMap::new();
    for (host, mut scopes) in claims {
        let owners = facts.services_of(host);
        // What is for its own namespace's clients only is in nobody else's order.
        let home = |place: &usize| all.get(*place).map_or("", |set| set.namespace());
        let applies = |place: &usize, scope: &str| {
            let home = home(place);
            let stays = |owner: &&Service| facts.world.settings.keeps_home(home, owner.namespace());
            home == scope || owners.is_empty() || !owners.iter().all(stays)
        };
        let public = scopes.remove("*").unwrap_or_default();
        let for_all: Vec<usize> =
            public.iter().copied().filter(|place| applies(place, "*")).collect();
        if for_all.len() > 1 {
            conflicts.entry((host, for_all.clone())).or_default();
        }
        // At home it is in the order of those clients.
        for place in public.iter().filter(|place| !applies(place, "*")) {
            scopes.entry(home(place)).or_default();
        }
        let namespaces = facts.namespaces();
        for (scope, own) in scopes {
            // Where nobody can be, nobody sees the two together.
            let mut sets = own.union(&public).filter_map(|place| all.get(*place).copied());
            let known = namespaces.is_empty() || namespaces.contains(scope);
            if !known && !sets.any(|set| set.namespace() == scope) {
                continue;
            }
            let places = own.union(&public).copied().filter(|place| applies(place, scope));
            let places: Vec<usize> = places.collect();
            let sets: Vec<&RuleSet> =
                places.iter().filter_map(|place| all.get(*place).copied()).collect();
            let who = Asker::new(Client::in_namespace(scope));
            let order = in_order(&sets, &who).into_iter();
            let order: Vec<usize> = order.filter_map(|at| places.get(at).copied()).collect();
            // What is so for everybody is not told again.
            if order.len() > 1 && order != for_all {
                conflicts.entry((host, order)).or_default().insert(scope);
            }
        }
    }
    // Each object is told once of a host, in however many orders its rules for that apply.
    let orders = conflicts.iter().map(|((_, order), scopes)| {
        let sets: Vec<&RuleSet> = order.iter().filter_map(|at| all.get(*at).copied()).collect();
        // Objects of one reach are one list that was written in pieces; what is
        // exported less widely comes first, which may be what it is there for.
        let reaches: BTreeSet<bool> = sets.iter().map(|set| set.export.is_public()).collect();
        Order { sets, scopes, alike: reaches.len() == 1 }
    });
    let orders: Vec<Order<'_>> = orders.collect();
    let mut told: BTreeMap<(usize, &str), Vec<&Order<'_>>> = BTreeMap::new();
    for ((host, places), order) in conflicts.keys().zip(&orders) {
        for place in places {
            told.entry((*place, host)).or_default().push(order);
        }
    }
    for ((place, host), orders) in told {
        let Some(set) = all.get(place) else { continue };
        let index = set.hosts.iter().position(|own| own == host).unwrap_or_default();
        if let Some(finding) = conflict(host, orders) {
            Report::new(set.reference.clone(), findings)
                .add(format!("spec.hosts[{index}]"), finding);
        }
    }
}

/// In which order the rules of several apply.
struct Order<'b> {
    sets: Vec<&'b RuleSet>,
    /// For clients in these namespaces; for all where there are none.
    scopes: &'b BTreeSet<&'b str>,
    /// Whether all are public, or none is.
    alike: bool,
}

/// What is said of one that claims a host with others, in these orders.
fn conflict(host: &str, mut orders: Vec<&Order<'_>>) -> Option<Diagnostic> {
    // That of all clients, if there is one.
    orders.sort_by_key(|order| !order.scopes.is_empty());
    let (first, others) = orders.split_first()?;
    let names: Vec<String> =
        first.sets.iter().take(5).map(|set| set.reference.to_string()).collect();
    let more = match first.sets.len() - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let clients = |scopes: BTreeSet<&str>| {
        let scopes: Vec<&str> = scopes.into_iter().collect();
        (!scopes.is_empty()).then(|| format!(" for clients in {}", listed("namespace", &scopes)))
    };
    let whose = clients(first.scopes.clone()).unwrap_or_default();
    let otherwise = clients(others.iter().flat_map(|order| order.scopes).copied().collect());
    let message = format!(
        "several VirtualServices claim {host}; their rules apply in this order{whose}: \
         {}{more}{}",
        names.join(", "),
        otherwise.map_or_else(String::new, |clients| format!("; and otherwise{clients}")),
    );
    let help = match orders.iter().all(|order| order.alike) {
        true => "join their rules in one VirtualService",
        false => {
            "those exported to fewer come first, and their clients meet the others only where none \
             of their rules matches"
        }
    };
    Some(Diagnostic::new(&references::HOST_CONFLICT, message).help(help))
}
