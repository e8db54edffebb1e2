//! Connections that arrive at a gateway.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::{
    ExplainError, Explanation, FrontendView, HandledBy, Query, Source, VerdictWord, considered,
    rule_view, sentence, shares, unanswered,
};
use crate::client::Asker;
use crate::compile::destinations::{Destinations, Family};
use crate::compile::gateways::{
    Serving, as_client, eligible, full_name, leads_to, rules_for, selects, servers, services_of,
};
use crate::compile::rules::{Dial, Rule, RuleBook, Sheet, in_order};
use crate::model::{Gateway, Kind, ObjectRef, Service, Spec};
use crate::plan::gateway::{Mode, sni_matches};
use crate::plan::{RouteId, Verdict};
use crate::registry::{Locality, Registry, Workload};
use crate::world::World;

pub(super) fn explain(
    world: &World,
    registry: &Registry,
    source: &Source,
    query: &Query,
    namespace: &str,
    name: &str,
) -> Result<Explanation, ExplainError> {
    let missing = || ExplainError::NoGateway(namespace.to_owned(), name.to_owned());
    let object = world.find(Kind::Gateway, namespace, name).ok_or_else(missing)?;
    let Spec::Gateway(gateway) = &object.spec else { return Err(missing()) };
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
        });
    }
    let workload = &reached.workload;
    let (serving, outdone) = servers(world, workload, reached.listens_at);
    for other in outdone {
        answer.notes.push(format!(
            "server {} of {} is not served: {}",
            other.index,
            other.gateway.reference(),
            other.reason
        ));
    }
    let arrives = reached.arrives(world, query.destination.port());
    let there = arrives.and_then(|port| serving.get(&port)).map_or(&[][..], Vec::as_slice);
    if there.is_empty() {
        answer.notes.push(format!(
            "no server of {} listens where {} leads",
            workload.object, query.destination
        ));
        return Ok(answer);
    }
    let book = RuleBook::new(world);
    let mut destinations = Destinations::new(registry);
    let at = At {
        book: &book,
        who: &Asker::new(as_client(workload)),
        client: &Asker::new(source.client()),
        query,
        ip,
    };
    for serving in there {
        if let Mode::Refuse(reason) = &serving.mode {
            answer.notes.push(format!("connections are refused: {reason}"));
            return Ok(answer);
        }
        if serving.gateway.reference() != object.reference() {
            answer.notes.push(format!(
                "port {} is served by {}",
                serving.listen,
                serving.gateway.reference()
            ));
        }
        if let Some((sheet, rule)) = at.consider(serving, &mut answer) {
            answer.rule = Some(rule_view(sheet, rule));
            let family = Family::Preferred { v6: ip.is_ipv6() };
            let (route, verdict) =
                destinations.rule(at.who, sheet, rule, serving.server.port, family);
            fill(&mut answer, &destinations, &route, &verdict, query.destination);
            return Ok(answer);
        }
    }
    answer.notes.push("no rule matches, and a gateway has no default".to_owned());
    Ok(answer)
}

fn fill(
    answer: &mut Explanation,
    destinations: &Destinations<'_>,
    route: &RouteId,
    verdict: &Verdict,
    dialled: SocketAddr,
) {
    if destinations.leads_back(route) {
        answer.notes.push(
            "the rule leads back to the address dialled, which is the gateway itself: refused"
                .to_owned(),
        );
        return;
    }
    shares::fill(answer, destinations, route, verdict, dialled);
}

/// The gateway workload that a connection reaches.
struct Reached {
    workload: Workload,
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
    let all = || registry.workloads.all().iter();
    let says_so = |one: &Workload| selects(gateway, &one.labels, one.gateway);
    let selected: Vec<&Workload> = all().filter(|one| says_so(one)).collect();
    // Without selector the one that is dialled may be a gateway workload that
    // does not say so: the annotation is for the daemon.
    let dialled: Vec<&Workload> = all().filter(|one| selects(gateway, &one.labels, true)).collect();
    let taken = |one: &Workload| Workload { gateway: true, ..one.clone() };
    if let Some(workload) = dialled.iter().find(|one| one.addresses.contains(&ip)) {
        return Ok(Reached {
            workload: taken(workload),
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
        return Ok(Reached { workload, says_so, service, own_address: false, listens_at });
    }
    let owner = registry.workloads.all().iter().find(|workload| {
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
            labels: Arc::new(gateway.selector.clone().unwrap_or_default()),
            addresses: Vec::new(),
            locality: Locality::default(),
            source: None,
            gateway: true,
            host_network: false,
        },
        |workload| Workload::clone(workload),
    );
    let listens_at = sole(&workload.addresses);
    Ok(Reached { workload, says_so: true, service: None, own_address: false, listens_at })
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

struct At<'a, 'b, 'q> {
    book: &'b RuleBook<'q>,
    /// The gateway workload, for what it sees.
    who: &'a Asker<'a, 'q>,
    /// The client, for conditions on the source.
    client: &'a Asker<'a, 'q>,
    query: &'a Query,
    ip: IpAddr,
}

impl<'b, 'q> At<'_, 'b, 'q>
where
    'b: 'q,
{
    fn consider(
        &self,
        serving: &Serving<'_>,
        answer: &mut Explanation,
    ) -> Option<(&'b Sheet<'q>, &'b Rule<'q>)> {
        let name = full_name(serving.gateway);
        let dial = Dial { address: self.ip.into(), port: serving.server.port, gateway: &name };
        let sheets = self.book.for_gateway(&name);
        let order = in_order(&sheets, self.who);
        for index in &order {
            let sheet = *sheets.get(*index)?;
            let fits = eligible(sheet, serving.gateway, serving.server);
            for rule in rules_for(sheet, &serving.mode) {
                let because = if fits {
                    self.rule(rule, &dial)
                } else {
                    Err(format!(
                        "hosts: none of {} is among the server's hosts {}",
                        sheet.hosts.join(", "),
                        serving.server.hosts.join(", ")
                    ))
                };
                let matched = because.is_ok();
                answer.considered.push(considered(sheet, rule, because));
                if matched {
                    return Some((sheet, rule));
                }
            }
        }
        for (index, sheet) in sheets.iter().enumerate() {
            if !order.contains(&index) {
                let because = format!(
                    "exportTo: it is {}, and the gateway runs in {}",
                    sheet.export.describe(),
                    self.who.client().namespace.unwrap_or_default()
                );
                let rules = rules_for(sheet, &serving.mode).iter();
                answer
                    .considered
                    .extend(rules.map(|rule| considered(sheet, rule, Err(because.clone()))));
            }
        }
        None
    }

    fn rule(&self, rule: &'b Rule<'q>, dial: &Dial<'_>) -> Result<String, String> {
        if rule.blocks.is_empty() {
            return Ok("it has no match, and so takes everything".to_owned());
        }
        let mut reasons = Vec::new();
        for block in &rule.blocks {
            match block.matches(dial, self.client) {
                Ok(()) if sni_matches(block.sni, self.query.sni.as_deref()) => {
                    return Ok("all conditions of a match block hold".to_owned());
                }
                Ok(()) => reasons.push(match &self.query.sni {
                    Some(sni) => format!("sniHosts: {sni} is not {}", block.sni.join(" or ")),
                    None => format!(
                        "sniHosts: rule wants {}, and no server name was given",
                        block.sni.join(" or ")
                    ),
                }),
                Err(why) => reasons.push(why.because(dial, self.client)),
            }
        }
        Err(sentence(&reasons))
    }
}
