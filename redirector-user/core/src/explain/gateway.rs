//! Connections that arrive at a gateway.

use std::net::IpAddr;
use std::ops::ControlFlow;

use ipnet::IpNet;

use super::{
    Caller, ExplainError, Explanation, FrontendView, HandledBy, Query, Reasons, VerdictWord,
    rule_view, shares, unanswered,
};
use crate::client::Asker;
use crate::compile::destinations::{Destinations, Family};
use crate::model::{Gateway, Kind, Labels, ObjectRef, Service};
use crate::registry::{Locality, Registry, Workload};
use crate::rules::{
    Dial, Mode, RuleBook, ServerName, Witness, as_client, leads_to, selects, servers, services_of,
};
use crate::world::World;

pub(super) fn explain(
    world: &World,
    registry: &Registry,
    source: &Caller,
    query: &Query,
    namespace: &str,
    name: &str,
) -> Result<Explanation, ExplainError> {
    let missing = || ExplainError::NoGateway(namespace.to_owned(), name.to_owned());
    let object = world.find(Kind::Gateway, namespace, name).ok_or_else(missing)?;
    let gateway = object.spec.gateway().ok_or_else(missing)?;
    let mut answer = unanswered(source, query, HandledBy::Proxy);
    answer.verdict = VerdictWord::Refuse;
    answer.refused_share = 1.0;

    let ip = query.destination.ip().to_canonical();
    let reached = match reach(world, registry, (object.reference(), gateway), ip) {
        Ok(reached) => reached,
        Err(other) => {
            answer.notes.push(format!(
                "{ip} leads to {other}, which the selector of {} does not select",
                object.reference()
            ));
            return Ok(answer);
        }
    };
    let called = match reached.is_known {
        true => reached.workload.object.to_string(),
        false => format!("a workload of {}", object.reference()),
    };
    if !reached.is_known {
        let labels = gateway.selector.iter().flat_map(Labels::iter);
        let labels: Vec<String> = labels.map(|(key, value)| format!("{key}: {value}")).collect();
        answer.notes.push(format!(
            "no workload with the labels {} is known: this is what one in namespace {} would do; \
             one in another namespace may see other rules and hosts, and have other policies",
            if labels.is_empty() { "of a gateway".to_owned() } else { labels.join(", ") },
            object.meta.namespace
        ));
    } else if reached.by_other_means() {
        let known: Vec<String> = reached.workload.addresses.iter().map(IpAddr::to_string).collect();
        answer.notes.push(format!(
            "no workload of {} and no Service of one has {ip}: this is what {} would do with \
             connections that reach it by other means{}",
            object.reference(),
            reached.workload.object,
            if known.is_empty() { String::new() } else { format!(" at {}", known.join(", ")) }
        ));
    }
    if !reached.says_so {
        answer.notes.push(format!(
            "{} is taken for a gateway workload: {} has no selector; run serves it only where \
             the workload has the annotation redirector.io/gateway: \"true\"",
            reached.workload.object,
            object.reference()
        ));
    }
    if let Some(service) = &reached.service {
        answer.frontend = Some(FrontendView {
            prefix: IpNet::from(ip).to_string(),
            port: query.destination.port(),
            service: Some(format!("{}/{}", service.namespace, service.name)),
            name: None,
        });
    }
    let workload = &reached.workload;
    let (serving, outdone) = servers(world, workload, reached.listens_at);
    for other in outdone {
        answer.notes.push(format!(
            "server {} of {} is not served: {}",
            other.index, other.gateway, other.reason
        ));
    }
    let arrives = reached.arrives(world, query.destination.port());
    let there = arrives.and_then(|port| serving.get(&port)).map_or(&[][..], Vec::as_slice);
    if there.is_empty() {
        answer
            .notes
            .push(format!("no server of {called} listens where {} leads", query.destination));
        return Ok(answer);
    }
    let book = RuleBook::new(world, registry);
    let mut destinations = Destinations::new(registry);
    // The gateway workload, for what it sees, and the client, for conditions on the
    // source.
    let (who, client) = (Asker::new(as_client(workload)), Asker::new(source.client()));
    for serving in there {
        if let Mode::Refuse(reason) = &serving.mode {
            answer.notes.push(format!("connections are refused: {reason}"));
            return Ok(answer);
        }
        let serves = serving.gateway().reference();
        if serves != object.reference() {
            answer.notes.push(format!("port {} is served by {serves}", serving.listen));
        }
        let name = serving.name();
        let dial = Dial {
            address: ip.into(),
            port: serving.port,
            gateway: &name,
            sni: ServerName::Read(query.sni.as_deref()),
        };
        let mut reasons = Reasons::new(&who, ip);
        let mut matched = None;
        let _ = serving.rules(&book, &who, &mut reasons, |set, rule, reasons| {
            reasons.compared(set, rule, || rule.because(&dial, &client));
            if rule.matches(&dial, &client) != Some(true) {
                return ControlFlow::Continue(());
            }
            matched = Some((set, rule));
            ControlFlow::Break(())
        });
        reasons.tell(&mut answer);
        if let Some((set, rule)) = matched {
            answer.rule = Some(rule_view(set, rule));
            let family = Family::Preferred { v6: ip.is_ipv6() };
            let (route, verdict) = destinations.rule(&who, set, rule, serving.port, family);
            shares::fill(&mut answer, &destinations, &route, &verdict, query.destination);
            return Ok(answer);
        }
    }
    answer.notes.push("no rule matches, and a gateway has no default".to_owned());
    Ok(answer)
}

/// The gateway workload that a connection reaches.
struct Reached {
    workload: Workload,
    /// Whether there is such a workload.
    is_known: bool,
    /// Whether it is one of the Gateway's by what its document says.
    says_so: bool,
    /// The Service whose address was dialled.
    service: Option<ObjectRef>,
    /// Whether the workload's own address was dialled.
    own_address: bool,
    /// The address that it listens on, when that is known.
    listens_at: Option<IpAddr>,
}

impl Reached {
    /// Whether nothing that is known has the address dialled.
    fn by_other_means(&self) -> bool {
        !self.own_address && self.service.is_none()
    }

    /// The port of the workload that a dialled port leads to.
    fn arrives(&self, world: &World, port: u16) -> Option<u16> {
        if self.own_address {
            return Some(port);
        }
        let through = |service: &Service| leads_to(world, &self.workload, service, port);
        let mut services = services_of(world, &self.workload);
        match &self.service {
            Some(known) => services
                .find(|(object, _)| object.reference() == *known)
                .and_then(|(_, service)| through(service)),
            None => services.find_map(|(_, service)| through(service)).or(Some(port)),
        }
    }
}

/// Whom a connection reaches; an error names a workload that is known to have
/// the address and is none of the Gateway's.
fn reach(
    world: &World,
    registry: &Registry,
    (object, gateway): (ObjectRef, &Gateway),
    ip: IpAddr,
) -> Result<Reached, ObjectRef> {
    let all = || registry.workloads.all();
    let says_so = |one: &Workload| selects(gateway, &one.labels, one.gateway);
    let selected: Vec<&Workload> = all().filter(|one| says_so(one)).collect();
    // Without selector the one that is dialled may be a gateway workload that
    // does not say so: the annotation is for the daemon.
    let dialled: Vec<&Workload> = all().filter(|one| selects(gateway, &one.labels, true)).collect();
    let taken = |one: &Workload| Workload { gateway: true, ..one.clone() };
    if let Some(workload) = dialled.iter().find(|one| one.addresses.contains(&ip)) {
        return Ok(Reached {
            workload: taken(workload),
            is_known: true,
            says_so: says_so(workload),
            service: None,
            own_address: true,
            listens_at: Some(ip),
        });
    }
    let through = dialled.iter().find_map(|workload| {
        let service = service_with(world, workload, ip)?;
        Some((taken(workload), says_so(workload), service))
    });
    if let Some((workload, says_so, service)) = through {
        let listens_at = sole(&workload.addresses);
        let service = Some(service);
        let (is_known, own_address) = (true, false);
        return Ok(Reached { workload, is_known, says_so, service, own_address, listens_at });
    }
    let owner = registry.workloads.all().find(|workload| {
        workload.addresses.contains(&ip) || service_with(world, workload, ip).is_some()
    });
    if let Some(owner) = owner {
        return Err(owner.object.clone());
    }
    // An address that no document knows leads there by other means; and
    // without a workload the Gateway stands for one of its own namespace.
    let workload = selected.first().map_or_else(
        || Workload {
            stands_for: None,
            object: ObjectRef { kind: Kind::Pod, ..object },
            labels: gateway.selector.clone().unwrap_or_default(),
            addresses: Vec::new(),
            locality: Locality::default(),
            source: None,
            gateway: true,
            host_network: false,
        },
        |workload| Workload::clone(workload),
    );
    let listens_at = sole(&workload.addresses);
    let (is_known, says_so) = (!selected.is_empty(), true);
    Ok(Reached { workload, is_known, says_so, service: None, own_address: false, listens_at })
}

fn sole(addresses: &[IpAddr]) -> Option<IpAddr> {
    match addresses {
        [only] => Some(*only),
        _ => None,
    }
}

/// The Service with this address that selects the workload.
fn service_with(world: &World, workload: &Workload, ip: IpAddr) -> Option<ObjectRef> {
    services_of(world, workload)
        .find(|(_, service)| {
            let known = [&service.cluster_ips, &service.external_ips, &service.load_balancer_ips];
            known.iter().any(|addresses| addresses.contains(&ip))
        })
        .map(|(object, _)| object.reference())
}
