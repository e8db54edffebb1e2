//! Addresses that ServiceEntries have by what their hosts resolve to, and those that are
//! given to hosts: what is not taken, and what two hosts have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::facts::Facts;
use super::{Finding, Report};
use crate::client::Asker;
use crate::diag::Diagnostic;
use crate::diag::codes::differences;
use crate::model::ObjectRef;
use crate::names::MESH;
use crate::plan::ClassId;
use crate::registry::{NotTaken, Service};
use crate::rules::{Claim, ClaimKind, Dial, ServerName, Walk, Witness};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let mut services: Vec<&Arc<Service>> =
        facts.registry.services().filter(|service| service.by_name).collect();
    services.sort_unstable_by_key(|service| service.age());
    for service in &services {
        not_taken(facts, service, findings);
    }
    shared(facts, &services, findings);
    twice_allocated(facts, findings);
    for ((namespace, host), other) in facts.registry.displaced() {
        let whose = match other {
            Some((namespace, host)) => format!("that of {host} in namespace {namespace}"),
            None => "written in another document".to_owned(),
        };
        let own = facts.registry.named(host).iter();
        for service in own.filter(|service| service.namespace() == namespace) {
            Report::new(service.object.clone(), findings).add(
                "spec.hosts",
                Diagnostic::new(
                    &differences::MOVED_ADDRESS,
                    format!(
                        "the address that {host} would be given is {whose}: it has the next one \
                         that is free instead"
                    ),
                )
                .help("write /etc/hosts anew with `redirector hosts`, or give the entry addresses"),
            );
        }
    }
}

/// Hosts that were given an address for each of several namespaces.
fn twice_allocated(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for (namespace, host) in facts.registry.allocated() {
        let first = *first.entry(host).or_insert(namespace);
        let of = |namespace: &str| {
            let mut all = facts.registry.named(host).iter();
            all.find(|service| &**service.namespace() == namespace)
        };
        let (Some(one), Some(other)) = (of(first), of(namespace)) else { continue };
        if first == &**namespace {
            continue;
        }
        Report::new(other.object.clone(), findings).add(
            "spec.hosts",
            Diagnostic::new(
                &differences::TWICE_ALLOCATED,
                format!(
                    "{host} has an allocated address here and another one as the host of {}: \
                     programs dial either, whatever their namespace",
                    one.object
                ),
            ),
        );
    }
}

/// Addresses that a host resolves to and that are not taken for it; what it resolved to until
/// lately is nobody's trouble any more.
fn not_taken(facts: &Facts<'_>, service: &Service, findings: &mut Vec<Finding>) {
    let judged = facts.registry.judged(facts.world, &service.host);
    let now = facts.world.resolved(&service.host).unwrap_or_default().iter();
    let now: BTreeSet<IpAddr> = now.map(IpAddr::to_canonical).collect();
    let mut told: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for (ip, why) in judged {
        let Some(why) = why.filter(|_| now.contains(&ip)) else { continue };
        let told = told.entry(why.to_string()).or_default();
        // Of too many the number is enough.
        if why != NotTaken::TooMany || told.is_empty() {
            told.push(ip);
        }
    }
    for (why, all) in told {
        let all = listed(&all);
        Report::new(service.object.clone(), findings).add(
            "spec.hosts",
            Diagnostic::new(
                &differences::ADDRESS_NOT_TAKEN,
                format!("{} resolves to {all}, {why}", service.host),
            ),
        );
    }
}

/// Of an address: the first two hosts that lead to something else, or the host that leads
/// there and what is said to have it.
#[derive(Default)]
struct Looked {
    contested: Option<Contested>,
    outranked: Option<(EntryOfHost, String)>,
}

/// Two hosts that lead to something else, and what of an address they have.
type Contested = ([EntryOfHost; 2], ClaimKind);

/// A host, and its entry.
type EntryOfHost = (Arc<str>, ObjectRef);

fn host_of(claim: &Claim<'_>) -> EntryOfHost {
    (claim.service.host.clone(), claim.service.object.clone())
}

impl<'q> Witness<'q> for Looked {
    const ALL: bool = false;

    fn outranked<'c>(
        &mut self,
        mut hosts: impl Iterator<Item = &'c Claim<'q>>,
        prefix: &IpNet,
        by: &Claim<'q>,
    ) where
        'q: 'c,
    {
        // What it resolved to until lately is nobody's trouble any more.
        if let Some(claim) = hosts.find(|claim| claim.kind == ClaimKind::Learned) {
            self.outranked = Some((host_of(claim), by.has(prefix)));
        }
    }

    fn contested(&mut self, _: &IpNet, claim: &Claim<'q>, other: &Claim<'q>) {
        // Of those that are written, their tls rules are told.
        if claim.kind.is_by_host() {
            self.contested = Some(([claim, other].map(host_of), claim.kind));
        }
    }
}

/// Addresses that hosts resolve to, and that are not theirs by that: two hosts lead there and
/// not to the same, or they are written in another entry.
fn shared(facts: &Facts<'_>, services: &[&Arc<Service>], findings: &mut Vec<Finding>) {
    let mut hosts: BTreeMap<(u16, IpAddr), BTreeSet<&Arc<str>>> = BTreeMap::new();
    for service in services {
        for port in &service.ports {
            for ip in service.by_host() {
                hosts.entry((port.number, ip)).or_default().insert(&service.host);
            }
        }
    }
    if hosts.is_empty() {
        return;
    }
    let claims = facts.claims();
    let mut walk = Walk::new(facts.registry, &facts.book);
    let mut contested: BTreeMap<(Contested, u16, Option<String>), Vec<IpAddr>> = BTreeMap::new();
    let mut outranked: BTreeMap<(EntryOfHost, String), BTreeSet<IpAddr>> = BTreeMap::new();
    let classes = ClassId::try_from(facts.examined.plan.classes.len()).unwrap_or(ClassId::MAX);
    for ((port, ip), hosts) in hosts {
        let address = IpNet::from(ip);
        let claimed = claims.to(port, &address);
        let all = claimed.iter().flat_map(|(_, claims)| claims);
        if hosts.len() == 1 && !all.clone().any(|claim| claim.kind.is_said()) {
            continue;
        }
        for claim in all.clone() {
            walk.rules(&claim.service.host);
        }
        let dial = Dial { address, port, gateway: MESH, sni: ServerName::Unknown };
        let mut whose: BTreeMap<Contested, BTreeSet<ClassId>> = BTreeMap::new();
        let mut asked = 0;
        let owner = all.clone().next().map_or("", |claim| &claim.service.object.namespace);
        for class in (0..classes).take_while(|_| facts.spend(owner, 1)) {
            let who = Asker::new(facts.examined.client(class));
            let claimed = claimed.iter().map(|(at, claims)| (at, &claims[..]));
            let mut looked = Looked::default();
            walk.arrive(claimed, &dial, &who, &mut looked);
            asked = class + 1;
            if let Some(hosts) = looked.contested {
                whose.entry(hosts).or_default().insert(class);
            }
            if let Some(told) = looked.outranked {
                outranked.entry(told).or_default().insert(ip);
            }
        }
        for (hosts, whose) in whose {
            let whom = facts.examined.those(&whose, asked);
            contested.entry((hosts, port, whom)).or_default().push(ip);
        }
    }
    for (((host, object), is), all) in outranked {
        Report::new(object, findings).add(
            "spec.hosts",
            Diagnostic::new(
                &differences::ADDRESS_NOT_TAKEN,
                format!(
                    "{host} resolves to {}, which is {is}: what is written goes before what a name \
                     resolves to",
                    listed(&all)
                ),
            ),
        );
    }
    for ((([one, other], kind), port, whom), all) in contested {
        let [resolve, until] = kind.has(true);
        let of = whom.map_or_else(String::new, |whom| format!(" of {whom}"));
        // Both are told, each by his own host first.
        let other_way = (one.1 != other.1).then_some((&other, &one));
        for ((host, object), (other, _)) in std::iter::once((&one, &other)).chain(other_way) {
            Report::new(object.clone(), findings).add(
                "spec.hosts",
                Diagnostic::new(
                    &differences::CONTESTED_ADDRESS,
                    format!(
                        "{host} and {other} both {resolve} {}{until}, and connections{of} to port \
                         {port} would not go to the same by both: they are left as they are",
                        listed(&all)
                    ),
                )
                .help(
                    "let the rules for both hosts lead to the same destinations with the same weights, \
                     or give one of the hosts addresses of its own",
                ),
            );
        }
    }
}

fn listed<'i>(all: impl IntoIterator<Item = &'i IpAddr>) -> String {
    all.into_iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}
