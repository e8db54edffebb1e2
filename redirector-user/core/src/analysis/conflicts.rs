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
    for ((host, order), scopes) in conflicts {
        let sets: Vec<&RuleSet> =
            order.iter().filter_map(|place| all.get(*place).copied()).collect();
        let shown: Vec<String> = sets.iter().take(5).map(|set| set.reference.to_string()).collect();
        let more = sets.len().saturating_sub(shown.len());
        let names = shown.join(", ");
        let names = if more > 0 { format!("{names} and {more} more") } else { names };
        let scopes: Vec<&str> = scopes.into_iter().collect();
        let whose = match scopes.is_empty() {
            true => String::new(),
            false => format!(" for clients in {}", listed("namespace", &scopes)),
        };
        let message = format!(
            "several VirtualServices claim {host}; their rules apply in this order{whose}: {names}"
        );
        // Objects of one reach are one list that was written in pieces; what is
        // exported less widely comes first, which may be what it is there for.
        let alike =
            sets.windows(2).all(|pair| pair[0].export.is_public() == pair[1].export.is_public());
        for set in sets {
            let index = set.hosts.iter().position(|own| own == host).unwrap_or_default();
            let mut finding = Diagnostic::new(&references::HOST_CONFLICT, message.clone());
            finding.help = Some(match alike {
                true => "join their rules in one VirtualService".to_owned(),
                false => "those exported to fewer come first, and their clients meet the others \
                          only where none of their rules matches"
                    .to_owned(),
            });
            Report::new(set.reference.clone(), findings)
                .add(format!("spec.hosts[{index}]"), finding);
        }
    }
}
