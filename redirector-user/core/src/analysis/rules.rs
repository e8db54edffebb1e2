//! Rules of one VirtualService: matches that shadow one another, conditions
//! that never hold.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::facts::Facts;
use super::shadows::shadowed;
use super::{Finding, Report};
use crate::client::{Asker, Client};
use crate::diag::codes::{differences, l7};
use crate::diag::{Diagnostic, nearest};
use crate::model::{L4Match, RuleList, TcpRule};
use crate::names::{MESH, complete_gateway};
use crate::registry::{Port, Protocol, Service, ServiceKind};
use crate::rules::{Block, ClaimKind, RuleSet, is_everything, places};

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for set in facts.book.sets() {
        let Some(spec) = set.spec() else { continue };
        let mut report = Report::new(set.reference.clone(), findings);
        let bound = Bound::new(facts, set);
        for (i, (tcp, rule)) in spec.tcp.iter().zip(&set.tcp).enumerate() {
            for (j, block) in tcp.matches.iter().enumerate() {
                let path = format!("spec.tcp[{i}].match[{j}]");
                conditions(facts, &bound, (RuleList::Tcp, block), &path, &mut report);
            }
            useless_subnets(i, &rule.blocks, &mut report);
            weights(i, tcp, &mut report);
        }
        for (i, tls) in spec.tls.iter().enumerate() {
            for (j, block) in tls.matches.iter().enumerate() {
                let path = format!("spec.tls[{i}].match[{j}]");
                conditions(facts, &bound, (RuleList::Tls, &block.l4), &path, &mut report);
            }
        }
        shadowed(facts, &set.tcp, &mut report);
        shadowed(facts, &set.tls, &mut report);
        for list in [RuleList::Tcp, RuleList::Tls] {
            if set.has_for_mesh(list) {
                ports(&bound, list, &mut report);
            }
        }
    }
}

/// What the rules of a VirtualService are for.
struct Bound<'w> {
    set: &'w RuleSet,
    /// The services that have its hosts.
    services: Vec<&'w Service>,
    /// The ports that a match can name for what comes through each gateway, or the mesh;
    /// empty where nothing is known.
    ports: BTreeMap<&'w str, BTreeSet<u16>>,
}

impl<'w> Bound<'w> {
    fn new(facts: &'w Facts<'w>, set: &'w RuleSet) -> Self {
        let services = facts.having(set);
        let of_hosts = || services.iter().flat_map(|s| s.ports.iter().map(|port| port.number));
        let ports = |name: &'w String| {
            let ports = match facts.gateway(name) {
                _ if name == MESH => of_hosts().collect(),
                Some((_, spec)) => spec.servers.iter().map(|server| server.port).collect(),
                None => BTreeSet::new(),
            };
            (name.as_str(), ports)
        };
        let ports = set.gateways.iter().map(ports).collect();
        Self { set, services, ports }
    }

    fn is_mesh_alone(&self) -> bool {
        self.set.is_for_mesh() && self.set.gateways.len() == 1
    }
}

/// Conditions of one match that never hold, or hold elsewhere than in Istio.
fn conditions(
    facts: &Facts<'_>,
    bound: &Bound<'_>,
    (list, block): (RuleList, &L4Match),
    path: &str,
    report: &mut Report<'_>,
) {
    if block.source_subnet.is_some() {
        report.add(
            format!("{path}.sourceSubnet"),
            Diagnostic::new(
                &differences::SOURCE_SUBNET,
                "Istio ignores sourceSubnet; here the source workload's addresses are compared, and \
                 a client that is no known workload never matches, at gateways either",
            )
            .help("sourceLabels and sourceNamespace mean the same in both"),
        );
    }
    dropped_by_istio(&block.destination_subnets, path, report);
    port(bound, (list, block), path, report);
    not_bound(bound.set, block, path, report);
    gateways(bound.set, block, path, report);
    sources(facts, bound, block, path, report);
    subnets(facts, bound, block, path, report);
}

/// Whether Istio leaves a subnet out: whatever its length, one of 0.0.0.0 is "any" there.
pub(super) fn is_any_to_istio(subnet: &IpNet) -> bool {
    matches!(subnet, IpNet::V4(subnet) if subnet.network().is_unspecified())
}

fn dropped_by_istio(subnets: &[IpNet], path: &str, report: &mut Report<'_>) {
    let alone = subnets.iter().all(is_any_to_istio);
    for (n, net) in subnets.iter().enumerate().filter(|(_, net)| is_any_to_istio(net)) {
        let keeps = match alone {
            true => "so that the match takes every address there",
            false => "and keeps the others",
        };
        let finding = match (is_everything(net), alone) {
            (true, true) => continue,
            (true, false) => Diagnostic::new(
                &differences::ANY_SUBNET,
                format!(
                    "{net} takes every address here, so the other subnets add nothing; Istio \
                     drops it {keeps}"
                ),
            ),
            (false, _) => Diagnostic::new(
                &differences::ANY_SUBNET,
                format!(
                    "{net} is compared here as it is written; Istio drops every subnet of 0.0.0.0, \
                     whatever its length, {keeps}"
                ),
            )
            .help("write the networks that are meant; where every address is, 0.0.0.0/0 alone"),
        };
        report.add(format!("{path}.destinationSubnets[{n}]"), finding);
    }
}

/// The gateways of a match, in full; all that the object is bound to, where it names none.
fn named<'s>(set: &'s RuleSet, block: &'s L4Match) -> Vec<Cow<'s, str>> {
    match block.gateways.as_slice() {
        [] => set.gateways.iter().map(|name| name.into()).collect(),
        names => names.iter().map(|name| complete_gateway(name, set.namespace())).collect(),
    }
}

/// A port that nothing has that comes to the match.
fn port(
    bound: &Bound<'_>,
    (list, block): (RuleList, &L4Match),
    path: &str,
    report: &mut Report<'_>,
) {
    let Some(port) = block.port else { return };
    let names = named(bound.set, block);
    let those = names.iter().filter_map(|name| bound.ports.get_key_value(&**name));
    let those: BTreeMap<_, _> = those.collect();
    if those.len() == 1 && those.contains_key(&MESH) {
        of_other_protocol(bound, list, port, path, report);
    }
    if those.is_empty() || those.values().any(|ports| ports.is_empty() || ports.contains(&port)) {
        return;
    }
    let known: BTreeSet<u16> = those.values().copied().flatten().copied().collect();
    let known: Vec<String> = known.iter().map(u16::to_string).collect();
    let mesh = those.contains_key(&MESH);
    report.add(
        format!("{path}.port"),
        Diagnostic::new(
            &differences::UNKNOWN_MATCH_PORT,
            format!(
                "no {} has port {port}, only {}: the match never holds",
                if mesh { "host" } else { "server of its Gateways" },
                known.join(", ")
            ),
        )
        .help(match (mesh, those.len()) {
            (false, _) => "write the number of a server's port",
            (true, 1) => "write the port of the Service, not its targetPort",
            (true, _) => "write the port of the Service, or of a Gateway's server",
        }),
    );
}

/// A port of the hosts that takes no rules of the list, where another one does.
fn of_other_protocol(
    bound: &Bound<'_>,
    list: RuleList,
    number: u16,
    path: &str,
    report: &mut Report<'_>,
) {
    let all = || bound.services.iter().flat_map(|service| &service.ports);
    let takes = |port: &Port| port.protocol.takes() == Some(list);
    let mut those = all().filter(|port| port.number == number);
    let Some(first) = those.clone().next() else { return };
    if those.any(takes) || !all().any(takes) {
        return;
    }
    let message = format!(
        "port {number} of the hosts is {}, and takes no {list} rules: the match never holds",
        first.protocol.as_str()
    );
    let finding = Diagnostic::new(&l7::NO_TCP_PORT, message);
    let help = match first.protocol {
        Protocol::Other => OF_TCP,
        _ => declare(list),
    };
    report.add(format!("{path}.port"), finding.help(help));
}

/// How a port is declared that takes tcp rules, and may be one of another transport.
const OF_TCP: &str = "a port takes tcp rules whose protocol is TCP, and whose name begins with tcp \
                      or whose appProtocol is tcp";

/// How a port is declared that takes the rules of a list.
fn declare(list: RuleList) -> &'static str {
    match list {
        RuleList::Tls => {
            "declare the port TLS (the protocol of a ServiceEntry's port, or the beginning of a \
             Service's port's name), or write tcp: with the same route list"
        }
        _ => {
            "begin the name of a Service's port with tcp, or set its appProtocol: tcp; write \
             protocol: TCP at the port of a ServiceEntry"
        }
    }
}

/// Gateways of a match that are none of the object's.
fn not_bound(set: &RuleSet, block: &L4Match, path: &str, report: &mut Report<'_>) {
    if block.gateways.is_empty() {
        return;
    }
    let names = named(set, block);
    let is_bound = |name: &str| set.gateways.iter().any(|known| known == name);
    for (n, full) in names.iter().enumerate().filter(|(_, name)| !is_bound(name)) {
        let finding = Diagnostic::new(
            &differences::GATEWAY_NOT_BOUND,
            format!(
                "the object is not bound to {full} (it is bound to {}): nothing that comes \
                 through it is compared",
                set.gateways.join(", ")
            ),
        );
        let near = nearest(full, set.gateways.iter().map(String::as_str));
        report.add(format!("{path}.gateways[{n}]"), finding.meant(near));
    }
}

/// Conditions that Istio does not look at where connections come through a gateway.
fn gateways(set: &RuleSet, block: &L4Match, path: &str, report: &mut Report<'_>) {
    let is_bound = |name: &str| set.gateways.iter().any(|known| known == name);
    if !named(set, block).iter().any(|name| *name != MESH && is_bound(name)) {
        return;
    }
    for (name, set) in [
        ("destinationSubnets", !block.destination_subnets.is_empty()),
        ("sourceLabels", !block.source_labels.is_empty()),
        ("sourceNamespace", !block.source_namespace.is_empty()),
    ] {
        if set {
            report.add(
                format!("{path}.{name}"),
                Diagnostic::new(
                    &differences::GATEWAY_CONDITION,
                    format!("Istio ignores {name} at gateways; here it must hold there too"),
                ),
            );
        }
    }
}

fn sources(
    facts: &Facts<'_>,
    bound: &Bound<'_>,
    block: &L4Match,
    path: &str,
    report: &mut Report<'_>,
) {
    let namespace = block.source_namespace.as_str();
    if !namespace.is_empty() {
        let export = &bound.set.export;
        let sees = export.visible(&Asker::new(Client::in_namespace(namespace)));
        let unseen = || {
            let export = export.describe();
            format!(
                "clients in \"{namespace}\" do not see the object, which is {export}: the match \
                 never holds"
            )
        };
        let nobody = facts.nobody_in(namespace);
        if let Some(message) = nobody.or_else(|| (bound.is_mesh_alone() && !sees).then(unseen)) {
            let finding = Diagnostic::new(&differences::BAD_SOURCE_NAMESPACE, message);
            let near = facts.suggest_namespace(namespace);
            report.add(format!("{path}.sourceNamespace"), finding.meant(near));
        }
    }
    if block.source_labels.is_empty() || !facts.knows_workloads() {
        return;
    }
    let inside = |(at, _): &&(std::sync::Arc<str>, crate::model::Labels)| {
        namespace.is_empty() || **at == *namespace
    };
    let pods = facts.pods().selected(&block.source_labels);
    let entries = facts.entries().selected(&block.source_labels);
    if !pods.into_iter().any(|carrier| inside(&carrier))
        && !entries.into_iter().any(|carrier| inside(&carrier))
    {
        let wanted: Vec<String> =
            block.source_labels.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        let place =
            if namespace.is_empty() { String::new() } else { format!(" in namespace {namespace}") };
        report.add(
            format!("{path}.sourceLabels"),
            Diagnostic::new(
                &differences::NO_SUCH_SOURCE,
                format!("no workload{place} has the labels {}", wanted.join(", ")),
            ),
        );
    }
}

/// Subnets that contain none of the hosts' addresses.
fn subnets(
    facts: &Facts<'_>,
    bound: &Bound<'_>,
    block: &L4Match,
    path: &str,
    report: &mut Report<'_>,
) {
    if block.destination_subnets.is_empty() || !bound.is_mesh_alone() {
        return;
    }
    let mut addresses: Vec<IpNet> = Vec::new();
    for service in &bound.services {
        match service.kind {
            ServiceKind::Headless => addresses.extend(
                service
                    .ports
                    .iter()
                    .flat_map(|port| &port.endpoints)
                    .map(|endpoint| IpNet::from(endpoint.ip)),
            ),
            _ => {
                addresses.extend(&service.addresses);
                addresses.extend(service.by_host().map(IpNet::from));
            }
        }
    }
    if !facts.spend(
        &report.object.namespace,
        addresses.len().saturating_mul(block.destination_subnets.len()),
    ) {
        return;
    }
    let meets = |net: &IpNet, address: &IpNet| {
        is_everything(net) || net.contains(address) || address.contains(net)
    };
    let any = block.destination_subnets.iter().any(|net| addresses.iter().any(|a| meets(net, a)));
    if any {
        anothers(facts, bound, block, path, report);
        return beside_networks(&addresses, block, path, report);
    }
    if addresses.is_empty() {
        return;
    }
    let of_pods = bound
        .services
        .iter()
        .flat_map(|service| &service.ports)
        .flat_map(|port| &port.endpoints)
        .any(|endpoint| block.destination_subnets.iter().any(|net| net.contains(&endpoint.ip)));
    addresses.sort_unstable();
    addresses.dedup();
    let shown: Vec<String> = addresses.iter().take(4).map(|a| a.addr().to_string()).collect();
    report.add(
        format!("{path}.destinationSubnets"),
        Diagnostic::new(
            &differences::SUBNET_MISSES,
            format!(
                "none of the subnets contains the address that clients dial ({}): the match never \
                 holds{}",
                shown.join(", "),
                if of_pods { "; the Pods' addresses do not count" } else { "" }
            ),
        )
        .help(match bound.services.iter().map(|service| &service.kind).max_by_key(|kind| match kind {
            ServiceKind::Headless => 2,
            ServiceKind::Entry(_) => 1,
            _ => 0,
        }) {
            Some(ServiceKind::Headless) => {
                "a headless Service has the addresses of its Pods: write a subnet that contains them"
            }
            Some(ServiceKind::Entry(_)) => {
                "write a subnet that contains an address of the ServiceEntry"
            }
            _ => "write a subnet that contains the clusterIP",
        }),
    );
}

/// Subnets in which all that is the hosts' is another service's, for everybody.
fn anothers(
    facts: &Facts<'_>,
    bound: &Bound<'_>,
    block: &L4Match,
    path: &str,
    report: &mut Report<'_>,
) {
    let who = Asker::new(Client::default());
    let settings = &facts.registry.settings;
    let owner = |port: u16, dialled: &IpNet| {
        let owners = facts.claims().to(port, dialled).into_iter();
        let mut owners = owners.flat_map(|(at, all)| all.into_iter().map(move |one| (at, one)));
        owners.find(|(at, one)| one.kind.is_said() && one.holds(settings, &who, at, dialled))
    };
    let places: Vec<_> = bound.services.iter().flat_map(|service| places(service)).collect();
    for (n, net) in block.destination_subnets.iter().enumerate() {
        let mut found = None;
        let mut own = places.iter().filter(|(port, at)| {
            block.port.is_none_or(|only| only == *port) && (net.contains(at) || at.contains(net))
        });
        let all = own.all(|(port, at)| {
            let dialled = if at.contains(net) { net } else { at };
            let owner = owner(*port, dialled).filter(|(_, owner)| {
                let is_own = |one: &&Service| one.object == owner.service.object;
                owner.kind == ClaimKind::Address
                    && owner.service.export.is_public()
                    && !bound.services.iter().any(is_own)
            });
            found = owner.map(|owner| (*at, owner));
            found.is_some()
        });
        if let (true, Some((own, (at, owner)))) = (all, found) {
            let finding = Diagnostic::new(
                &differences::SUBNET_MISSES,
                format!(
                    "{}: no connection to it comes to the rule",
                    belongs(&net.to_string(), net, &own, (&at, owner.service))
                ),
            );
            report.add(
                format!("{path}.destinationSubnets[{n}]"),
                finding.help(format!("write the rule for the host {}", owner.service.host)),
            );
        }
    }
}

/// What is dialled belongs to another service than the one that has an address around it.
pub(super) fn belongs(
    what: &str,
    dialled: &IpNet,
    own: &IpNet,
    (at, owner): (&IpNet, &Service),
) -> String {
    let belongs = match at.contains(dialled) && at != dialled {
        true => format!("{what} lies in {at}, which belongs"),
        false => format!("{what} belongs"),
    };
    let because = match at.prefix_len() > own.prefix_len() {
        true => format!("whose address is narrower than {own}"),
        false => "which keeps it".to_owned(),
    };
    format!("{belongs} to {}, {because}", owner.object)
}

/// Subnets that lie outside of the hosts' networks, beside others that do not: Istio listens at
/// the port for every address, and compares the subnets alone.
fn beside_networks(addresses: &[IpNet], block: &L4Match, path: &str, report: &mut Report<'_>) {
    let networks: Vec<&IpNet> =
        addresses.iter().filter(|one| one.prefix_len() < one.max_prefix_len()).collect();
    let is_v4 = |net: &IpNet| matches!(net, IpNet::V4(_));
    for (n, net) in block.destination_subnets.iter().enumerate() {
        let meets = |one: &IpNet| net.contains(one) || one.contains(net);
        let of_family: Vec<String> = (networks.iter())
            .filter(|one| is_v4(one) == is_v4(net))
            .map(|one| one.to_string())
            .collect();
        if of_family.is_empty() || is_any_to_istio(net) || addresses.iter().any(meets) {
            continue;
        }
        let finding = Diagnostic::new(
            &differences::SUBNET_MISSES,
            format!(
                "{net} lies outside of the hosts' addresses ({}): no connection to it comes to the \
                 rule here, and Istio would take them all",
                of_family.iter().take(4).map(String::as_str).collect::<Vec<_>>().join(", ")
            ),
        );
        report.add(
            format!("{path}.destinationSubnets[{n}]"),
            finding.help("add it to the addresses of the ServiceEntry, or remove it here"),
        );
    }
}

/// Subnets beside an alternative that has none.
fn useless_subnets(index: usize, blocks: &[Block], report: &mut Report<'_>) {
    for (j, block) in blocks.iter().enumerate() {
        let other = blocks
            .iter()
            .take(64)
            .enumerate()
            .find(|(k, other)| *k != j && other.subnets().is_empty() && block.implies(other));
        if let (false, Some((k, _))) = (block.subnets().is_empty(), other) {
            report.add(
                format!("spec.tcp[{index}].match[{j}].destinationSubnets"),
                Diagnostic::new(
                    &differences::USELESS_SUBNETS,
                    format!("match {k} of the same rule takes all of this, whatever the address"),
                ),
            );
        }
    }
}

fn weights(index: usize, rule: &TcpRule, report: &mut Report<'_>) {
    let sum: u64 = rule.route.iter().map(|destination| u64::from(destination.weight)).sum();
    if rule.route.len() > 1 && sum != 100 {
        let shares: Vec<String> = rule
            .route
            .iter()
            .take(8)
            .map(|d| format!("{:.1} %", f64::from(d.weight) * 100.0 / sum.max(1) as f64))
            .collect();
        report.add(
            format!("spec.tcp[{index}].route"),
            Diagnostic::new(
                &differences::WEIGHT_SUM,
                format!(
                    "the weights sum to {sum}, not to 100; they are relative: {}",
                    shares.join(", ")
                ),
            ),
        );
    }
}

/// Hosts none of whose ports takes the rules of a list.
fn ports(bound: &Bound<'_>, list: RuleList, report: &mut Report<'_>) {
    // Of hosts that are not there or are rejected, and of other names for hosts, it is said that
    // they are.
    let told = |service: &Service| {
        service.rejected.is_some() || matches!(service.kind, ServiceKind::ExternalName(_))
    };
    let services: Vec<&&Service> = bound.services.iter().filter(|one| !told(one)).collect();
    let ports = || services.iter().flat_map(|service| &service.ports);
    if services.is_empty() || ports().any(|port| port.protocol.takes() == Some(list)) {
        return;
    }
    if ports().next().is_none() {
        let message = "the hosts have no port: no connection comes to the rules";
        let finding = Diagnostic::new(&l7::NO_TCP_PORT, message)
            .help("write the ports that clients dial in the Service or ServiceEntry");
        return report.add(format!("spec.{list}"), finding);
    }
    let other = ports().any(|port| port.protocol == Protocol::Other);
    let is_entry = |service: &&&Service| service.is_entry();
    let declared: Vec<String> = ports()
        .take(8)
        .map(|port| format!("{} is {}", port.number, port.protocol.as_str()))
        .collect();
    report.add(
        format!("spec.{list}"),
        Diagnostic::new(
            &l7::NO_TCP_PORT,
            format!("no port of the hosts takes {list} rules: {}", declared.join(", ")),
        )
        .help(match (services.iter().any(is_entry), services.iter().all(is_entry)) {
            _ if list == RuleList::Tls => declare(list),
            (_, true) => "write protocol: TCP at the port of the ServiceEntry",
            _ if other => OF_TCP,
            (false, _) => "begin the port's name with tcp, or set appProtocol: tcp",
            (true, false) => declare(list),
        }),
    );
}
