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
use crate::rules::{Claim, Claims, Dial, Walk, Witness};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let mut services: Vec<&Arc<Service>> =
        facts.registry.services().filter(|service| service.by_name).collect();
    services.sort_unstable_by_key(|service| service.age());
    for service in &services {
        not_taken(facts, service, findings);
    }
    shared(facts, &services, findings);
    for ((namespace, host), (other_namespace, other)) in facts.registry.displaced() {
        let own = facts.registry.named(host).iter();
        for service in own.filter(|service| service.namespace() == namespace) {
            Report::new(service.object.clone(), findings).add(
                "spec.hosts",
                Diagnostic::new(
                    &differences::MOVED_ADDRESS,
                    format!(
                        "the address that {host} would be given is that of {other} in namespace \
                         {other_namespace}: it has the next one instead"
                    ),
                )
                .help("write /etc/hosts anew with `redirector hosts`, or give the entry addresses"),
            );
        }
    }
}

/// Addresses that a host resolves to and that are not taken for it.
fn not_taken(facts: &Facts<'_>, service: &Service, findings: &mut Vec<Finding>) {
    let judged = facts.registry.judged(facts.world, &service.host);
    let mut told: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for (ip, why) in judged {
        let Some(why) = why else { continue };
        let told = told.entry(why.to_string()).or_default();
        // Of too many the number is enough.
        if why != NotTaken::TooMany || told.is_empty() {
            told.push(ip);
        }
    }
    for (why, all) in told {
        let all: Vec<String> = all.iter().map(IpAddr::to_string).collect();
        Report::new(service.object.clone(), findings).add(
            "spec.hosts",
            Diagnostic::new(
                &differences::ADDRESS_NOT_TAKEN,
                format!("{} resolves to {}, {why}", service.host, all.join(", ")),
            ),
        );
    }
}

/// The first two hosts that lead to something else.
#[derive(Default)]
struct Contested(Option<(Arc<str>, ObjectRef, Arc<str>)>);

impl<'q> Witness<'q> for Contested {
    const ALL: bool = false;

    fn contested(&mut self, _: &IpNet, claim: &Claim<'q>, other: &Claim<'q>) {
        let other = (other.service.host.clone(), other.service.object.clone());
        self.0 = Some((claim.service.host.clone(), other.1, other.0));
    }
}

/// A host, the entry of another one, that host, and the port.
type Two = (Arc<str>, ObjectRef, Arc<str>, u16);

/// Addresses that two hosts resolve to, and that are left alone by that.
fn shared(facts: &Facts<'_>, services: &[&Arc<Service>], findings: &mut Vec<Finding>) {
    let mut hosts: BTreeMap<(u16, IpAddr), BTreeSet<&Arc<str>>> = BTreeMap::new();
    for service in services {
        for port in &service.ports {
            for ip in service.by_host() {
                hosts.entry((port.number, ip)).or_default().insert(&service.host);
            }
        }
    }
    hosts.retain(|_, hosts| hosts.len() > 1);
    if hosts.is_empty() {
        return;
    }
    let claims = Claims::new(facts.registry);
    let mut walk = Walk::new(facts.registry, &facts.book);
    let mut told: BTreeMap<Two, Vec<IpAddr>> = BTreeMap::new();
    let classes = ClassId::try_from(facts.examined.plan.classes.len()).unwrap_or(ClassId::MAX);
    for (port, ip) in hosts.into_keys() {
        let address = IpNet::from(ip);
        let claimed = claims.to(port, &address);
        for claim in claimed.iter().flat_map(|(_, claims)| claims) {
            walk.rules(&claim.service.host);
        }
        let dial = Dial { address, port, gateway: MESH, sni: None };
        for class in (0..classes).take_while(|_| facts.spend(1)) {
            let who = Asker::new(facts.examined.client(class));
            let claimed = claimed.iter().map(|(at, claims)| (at, &claims[..]));
            let mut contested = Contested::default();
            walk.arrive(claimed, &dial, &who, &mut contested);
            if let Some((host, object, other)) = contested.0 {
                told.entry((host, object, other, port)).or_default().push(ip);
                break;
            }
        }
    }
    for ((host, object, other, port), all) in told {
        let all: Vec<String> = all.iter().map(IpAddr::to_string).collect();
        Report::new(object, findings).add(
            "spec.hosts",
            Diagnostic::new(
                &differences::CONTESTED_ADDRESS,
                format!(
                    "{host} and {other} both resolve to {}, and connections to port {port} would \
                     not go to the same by both: they are left as they are",
                    all.join(", ")
                ),
            )
            .help("write the same rule for both hosts, or give one of them addresses of its own"),
        );
    }
}
