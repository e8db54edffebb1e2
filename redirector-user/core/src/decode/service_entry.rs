//! ServiceEntry and WorkloadEntry.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::common::{self, Exporter, Protocol, check, required};
use super::cursor::{At, Fields};
use super::kube::MAX_ENDPOINTS;
use crate::diag::codes::{admission, differences, syntax};
use crate::diag::{Diagnostic, nearest};
use crate::model::{EntryPort, Resolution, ServiceEntry, WorkloadEntry};
use crate::validate::{names, subnets};
use crate::yaml::{Node, Value};

const RESOLUTIONS: [&str; 5] = ["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"];

pub(super) fn service_entry(root: &Fields<'_>, namespace: &str) -> ServiceEntry {
    let known = &[
        "hosts",
        "addresses",
        "ports",
        "location",
        "resolution",
        "endpoints",
        "workloadSelector",
        "exportTo",
        "subjectAltNames",
    ];
    let Some(spec) = common::spec(root, "ServiceEntry", known) else {
        return ServiceEntry::default();
    };
    let mut entry = ServiceEntry::default();
    if let Some(at) = spec.get("location") {
        at.one_of(&["MESH_EXTERNAL", "MESH_INTERNAL"]);
    }
    // One that is misspelt is taken for what it is near, so that nothing follows from it.
    let near = |at: &At<'_>| {
        let near = nearest(at.node.as_str()?, RESOLUTIONS)?;
        RESOLUTIONS.iter().position(|word| *word == near)
    };
    let index = spec.get("resolution").and_then(|at| at.one_of(&RESOLUTIONS).or_else(|| near(&at)));
    let index = index.unwrap_or(0);
    entry.resolution = match index {
        1 => Resolution::Static,
        2 => Resolution::Dns,
        3 => Resolution::DnsRoundRobin,
        4 => Resolution::DynamicDns,
        _ => Resolution::None,
    };
    let resolution = RESOLUTIONS[index];
    entry.workload_selector =
        spec.get("workloadSelector").map(|at| common::selector(&at, "labels", "it selects none"));
    if entry.workload_selector.is_some() && spec.get("endpoints").is_some() {
        spec.place("endpoints").complain(
            &admission::ENTRY_CONFLICT,
            "endpoints and workloadSelector exclude each other",
        );
    }
    hosts(&spec, &mut entry, resolution);
    for at in spec.items("addresses") {
        let Some(text) = at.string() else { continue };
        match subnets::parse(text) {
            Ok(net) => entry.addresses.push(net),
            Err(message) => at.complain(&admission::BAD_SUBNET, message),
        }
        let fits = matches!(
            entry.resolution,
            Resolution::None | Resolution::Static | Resolution::DynamicDns
        );
        if text.contains('/') && !fits {
            at.complain(
                &admission::ENTRY_CONFLICT,
                format!("an address block goes with resolution NONE or STATIC, not {resolution}"),
            );
        }
    }
    ports(&spec, &mut entry);
    endpoints(&spec, &mut entry, resolution);
    entry.allocated = allocated(root, &entry.hosts);
    tcp_hosts(&spec, &entry);
    entry.export_to = common::export_to(&spec, namespace, Exporter::Entry);
    entry
}

/// What Istio allocated to it, in a cluster. A status is nobody's wish: what cannot be read of it
/// is told, and refuses nothing.
fn allocated(root: &Fields<'_>, hosts: &[String]) -> Vec<(Option<String>, IpAddr)> {
    let map = |at: &At<'_>| matches!(at.node.value, Value::Map(_));
    let status = root.get("status").filter(map).and_then(|at| at.any_fields());
    let list = status.and_then(|status| status.get("addresses"));
    let list = list.filter(|at| matches!(at.node.value, Value::List(_)));
    let items = list.iter().flat_map(At::items).filter(map);
    let items = items.filter_map(|at| at.any_fields());
    let one = |item: Fields<'_>| {
        let value = item.get("value")?;
        let address = value.node.as_str().and_then(subnets::address);
        if address.is_none() {
            let message = format!(
                "\"{}\" is no single IP address, and is left out: nothing that is dialled is known \
                 by it",
                value.node.as_str().unwrap_or_default()
            );
            value.complain(&differences::ALLOCATED_LEFT_OUT, message);
        }
        let at = item.get("host").filter(|at| at.node.as_str().is_some());
        let host = at.as_ref().and_then(|at| at.node.as_str());
        if let (Some(at), Some(host)) =
            (&at, host.filter(|host| !hosts.iter().any(|one| one == host)))
        {
            let message = format!(
                "the ServiceEntry has no host \"{host}\", and the address is left out: nothing \
                 that is dialled is known by it"
            );
            at.complain(&differences::ALLOCATED_LEFT_OUT, message);
        }
        Some((host.map(str::to_owned), address?))
    };
    items.filter_map(one).collect()
}

fn hosts(spec: &Fields<'_>, entry: &mut ServiceEntry, resolution: &str) {
    let items = spec.items("hosts");
    if spec.is_empty("hosts") {
        required(spec, "hosts", "the list of the ServiceEntry's hosts");
    }
    let dns = matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    for at in items {
        let Some(host) = at.string() else { continue };
        entry.hosts.push(host.to_owned());
        if host == "*" {
            at.complain(&admission::BAD_HOST, "a ServiceEntry cannot be for the host *");
            continue;
        }
        if entry.resolution == Resolution::DynamicDns && !host.starts_with('*') {
            at.complain(
                &admission::ENTRY_CONFLICT,
                format!("\"{host}\": resolution {resolution} is for wildcard hosts only"),
            );
        }
        if check(&at, &admission::BAD_HOST, names::wildcard_domain(host)) {
            if names::is_partial_wildcard(host) {
                at.complain(
                    &admission::PARTIAL_WILDCARD,
                    format!("\"{host}\": only '*.' before a name is a wildcard everywhere"),
                );
            }
            if dns && spec.is_empty("endpoints") && names::fqdn(host).is_err() {
                at.report(
                    Diagnostic::new(
                        &admission::ENTRY_CONFLICT,
                        format!(
                            "\"{host}\" cannot be resolved: resolution {resolution} needs a \
                                 full host name, or endpoints"
                        ),
                    )
                    .help("add endpoints: with names or addresses, or write the host in full"),
                );
            }
        }
    }
}

fn ports(spec: &Fields<'_>, entry: &mut ServiceEntry) {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for at in spec.items("ports") {
        let Some(fields) = at.fields(&["number", "name", "protocol", "targetPort"]) else {
            continue;
        };
        let number = match fields.get("number") {
            None => {
                required(&fields, "number", "the number of the port");
                None
            }
            Some(at) => port(&at),
        };
        let name = fields.text("name");
        match fields.get("name") {
            None => required(&fields, "name", "the name of the port"),
            Some(at) if at.node.as_str().is_some() => port_name(&at, &name),
            Some(_) => {}
        }
        if !name.is_empty() && !names.insert(name.clone()) {
            fields.place("name").complain(
                &admission::DUPLICATE_PORT,
                format!("the port name \"{name}\" stands twice"),
            );
        }
        if let Some(number) = number
            && !numbers.insert(number)
        {
            fields
                .place("number")
                .complain(&admission::DUPLICATE_PORT, format!("port {number} stands twice"));
        }
        let protocol = fields.text("protocol");
        if let Some(at) = fields.get("protocol")
            && !protocol.is_empty()
            && common::protocol(&protocol).is_none()
        {
            common::unknown_protocol(&at, &protocol);
        }
        if entry.resolution == Resolution::DynamicDns
            && common::protocol(&protocol) == Some(Protocol::Tcp)
        {
            fields.place("protocol").complain(
                &admission::ENTRY_CONFLICT,
                "under resolution DYNAMIC_DNS the client names the destination, and over plain TCP \
                 it names none",
            );
        }
        let target_port = fields.get("targetPort").and_then(|at| match at.integer()? {
            0 => None,
            _ => port(&at),
        });
        if target_port.is_some() && entry.resolution == Resolution::None {
            fields.place("targetPort").complain(
                &admission::UNUSED_TARGET_PORT,
                "Istio ignores targetPort under resolution NONE unless it is told otherwise; here \
                 connections that a rule sends to this ServiceEntry go to that port",
            );
        }
        entry.ports.push(EntryPort {
            number: number.unwrap_or_default(),
            name,
            protocol: protocol.to_ascii_uppercase(),
            target_port,
        });
    }
}

/// A port; complains of what is none.
fn port(at: &At<'_>) -> Option<u16> {
    let value = at.integer()?;
    let port = u16::try_from(value).ok().filter(|port| *port != 0);
    if port.is_none() {
        at.complain(&admission::BAD_PORT, format!("port {value} is not in the range 1 to 65535"));
    }
    port
}

fn port_name(at: &At<'_>, name: &str) {
    if !names::is_dns_label(name) {
        at.complain(
            &admission::BAD_NAME,
            format!("\"{name}\" is not a port's name: it takes letters, digits and '-'"),
        );
    }
}

fn endpoints(spec: &Fields<'_>, entry: &mut ServiceEntry, resolution: &str) {
    let items = spec.items("endpoints");
    if items.len() > MAX_ENDPOINTS {
        spec.place("endpoints").complain(
            &syntax::OVER_LIMIT,
            format!("{} endpoints: a destination has at most {MAX_ENDPOINTS}", items.len()),
        );
        return;
    }
    let place = spec.place("endpoints");
    match entry.resolution {
        Resolution::None if !items.is_empty() => {
            let unsaid = if spec.has("resolution") { "" } else { ", which is the default," };
            let message = format!(
                "under resolution NONE{unsaid} the address dialled is used: there can be no endpoints"
            );
            let addresses = |at: &At<'_>| {
                let address = at.node.get("address").and_then(Node::as_str);
                address.is_some_and(|address| subnets::address(address).is_some())
            };
            let resolution = if items.iter().all(addresses) { "STATIC" } else { "DNS" };
            place.report(Diagnostic::new(&admission::ENTRY_CONFLICT, message).help(format!(
                "write resolution: {resolution} to send connections to them, or remove endpoints:"
            )));
        }
        Resolution::DnsRoundRobin if items.len() > 1 => place.complain(
            &admission::ENTRY_CONFLICT,
            format!("resolution {resolution} takes one endpoint at most"),
        ),
        _ => {}
    }
    if entry.workload_selector.is_some() && entry.resolution == Resolution::None {
        spec.place("workloadSelector").report(
            Diagnostic::new(
                &admission::SELECTOR_UNUSED,
                "a workloadSelector does not go with resolution NONE",
            )
            .help("write resolution: STATIC, or DNS where WorkloadEntries have names"),
        );
    }
    let names: BTreeSet<&str> = entry.ports.iter().map(|port| port.name.as_str()).collect();
    let whole = Whole { resolution: entry.resolution, ports: entry.ports.len(), names };
    entry.endpoints = items.iter().filter_map(|at| workload(at, Some(&whole))).collect();
}

/// Several hosts on a port that carries no host name.
fn tcp_hosts(spec: &Fields<'_>, entry: &ServiceEntry) {
    let protocol = |port: &EntryPort| common::protocol(&port.protocol);
    let dns = matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    let tcp = entry
        .ports
        .iter()
        .find(|port| !matches!(protocol(port), Some(Protocol::Tls | Protocol::Http)));
    if entry.hosts.len() > 1
        && entry.resolution != Resolution::None
        && let Some(port) = tcp
    {
        spec.place("hosts").report(
            Diagnostic::new(
                &admission::MULTIPLE_HOSTS,
                format!(
                    "{} hosts share port {}, on which nothing tells which host is meant",
                    entry.hosts.len(),
                    port.number
                ),
            )
            .help("write one ServiceEntry for each host"),
        );
    }
    if dns
        && entry.hosts.len() > 1
        && !spec.is_empty("addresses")
        && entry.ports.iter().any(|port| protocol(port) == Some(Protocol::Tcp))
    {
        spec.place("hosts").complain(
            &admission::SHARED_ADDRESS,
            "several hosts share the addresses and a TCP port",
        );
    }
    // Istio allocates addresses of its own, but not for these.
    let unallocated =
        entry.resolution == Resolution::None || entry.hosts.iter().any(|host| host.contains('*'));
    let plain = |port: &EntryPort| matches!(port.protocol.as_str(), "" | "TCP");
    let none = spec.is_empty("addresses") && entry.resolution != Resolution::DynamicDns;
    if none && unallocated && entry.ports.iter().any(plain) {
        spec.place("addresses").complain(
            &admission::CLAIMS_PORT,
            "in Istio a TCP port of a ServiceEntry without addresses is claimed on every address",
        );
    }
    if none && entry.allocated.is_empty() {
        for (place, port) in spec.items("ports").iter().zip(&entry.ports) {
            if !plain(port) {
                continue;
            }
            let number = port.number;
            let message = match dns && !entry.hosts.iter().all(|host| host.starts_with('*')) {
                true => format!(
                    "port {number} carries TCP and the ServiceEntry has no addresses: here those \
                     that its hosts resolve to are its own; in Istio connections to it cannot be \
                     told from others to that port"
                ),
                false => format!(
                    "port {number} carries TCP and the ServiceEntry has no addresses: connections \
                     to it cannot be told from others to that port"
                ),
            };
            place.report(
                Diagnostic::new(&admission::NO_ADDRESSES, message)
                    .help("add addresses: with the addresses that clients dial"),
            );
        }
    }
}

/// A WorkloadEntry object.
pub(super) fn workload_entry(root: &Fields<'_>) -> WorkloadEntry {
    let Some(at) = root.get("spec") else {
        required(root, "spec", "the spec of the WorkloadEntry");
        return WorkloadEntry::default();
    };
    workload(&at, None).unwrap_or_default()
}

/// What an endpoint has to fit.
struct Whole<'e> {
    resolution: Resolution,
    /// How many ports the ServiceEntry has, and their names.
    ports: usize,
    names: BTreeSet<&'e str>,
}

/// A workload, by itself or as an endpoint of a ServiceEntry.
fn workload(at: &At<'_>, entry: Option<&Whole<'_>>) -> Option<WorkloadEntry> {
    let fields = at.fields(&[
        "address",
        "ports",
        "labels",
        "network",
        "locality",
        "weight",
        "serviceAccount",
    ])?;
    let mut workload = WorkloadEntry {
        address: fields.text("address"),
        labels: common::legal_labels(&fields, "labels"),
        network: fields.text("network"),
        locality: fields.text("locality"),
        weight: common::unsigned(&fields, "weight").unwrap_or_default(),
        ports: BTreeMap::new(),
    };
    let resolution = entry.map(|entry| entry.resolution);
    let address = workload.address.as_str();
    let place = fields.place("address");
    let unix = address.strip_prefix("unix://");
    let dns = matches!(resolution, Some(Resolution::Dns | Resolution::DnsRoundRobin));
    if place.node.as_str().is_none() && fields.get("address").is_some() {
        // The wrong type is already complained of.
    } else if address.is_empty() && dns {
        required(&fields, "address", "the address of the endpoint");
    } else if address.is_empty() {
        if workload.network.is_empty() {
            required(&fields, "address", "the address of the workload");
            return Some(workload);
        }
        place.complain(
            &admission::NO_ADDRESS,
            format!("the workload has no address, only the network \"{}\"", workload.network),
        );
    } else if let (Some(path), false) = (unix, dns) {
        check(&place, &admission::BAD_ENDPOINT, common::unix_path(path));
    } else if !names::is_ip(address) {
        let is_name = names::fqdn(address).is_ok();
        let by_name = resolution != Some(Resolution::Static);
        let message = match by_name {
            true => format!("\"{address}\" is neither an IP address nor a host name"),
            false => format!("\"{address}\" is not an IP address, as resolution STATIC asks for"),
        };
        let with_port =
            address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let help = match (with_port, by_name) {
            (true, _) => Some("an address carries no port: ports go under ports:"),
            (false, false) if is_name => Some("write an address, or resolution: DNS"),
            (false, false) => Some("write an address"),
            (false, true) => None,
        };
        if !(by_name && is_name) {
            let finding = Diagnostic::new(&admission::BAD_ENDPOINT, message);
            place.report(Diagnostic { help: help.map(str::to_owned), ..finding });
        }
    }
    if let Some(ports) = fields.get("ports").and_then(|at| at.any_fields()) {
        for (name, at) in ports.entries() {
            port_name(&at, name);
            let Some(number) = port(&at) else { continue };
            if let Some(entry) = entry
                && !entry.names.contains(name)
            {
                let finding = Diagnostic::new(
                    &admission::UNKNOWN_ENDPOINT_PORT,
                    format!("the ServiceEntry has no port named \"{name}\""),
                );
                let known = entry.names.iter().copied().take(100);
                let near = nearest(name, known).map(|near| format!("\"{near}\""));
                at.report(finding.meant(near));
            }
            workload.ports.insert(name.to_owned(), number);
        }
    }
    if unix.is_some() && !dns {
        if !workload.ports.is_empty() {
            fields
                .place("ports")
                .complain(&admission::BAD_ENDPOINT, "an endpoint on a unix socket has no ports");
        }
        if entry.is_some_and(|entry| entry.ports != 1) {
            place.complain(
                &admission::BAD_ENDPOINT,
                "an endpoint on a unix socket needs a ServiceEntry with exactly one port",
            );
        }
    }
    Some(workload)
}
