//! VirtualService.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::common::{self, Exporter, required};
use super::cursor::{At, Fields, Unknown};
use super::http;
use super::misplaced::{self, outside_match};
use super::route::{match_port, route};
use crate::diag::Diagnostic;
use crate::diag::codes::admission;
use crate::model::{L4Match, TcpRule, TlsMatch, TlsRule, VirtualService};
use crate::names::HostIndex;
use crate::validate::{names, subnets};
use crate::yaml::Value;

pub(super) fn virtual_service(root: &Fields<'_>, namespace: &str) -> VirtualService {
    let known = &["hosts", "gateways", "http", "tls", "tcp", "exportTo"];
    let outdented = misplaced::route_is_outdented(&root.at);
    let unknown = |name: &str| match name {
        "route" if outdented => misplaced::outdented_route(),
        _ => outside_match(name, known),
    };
    let Some(spec) = common::spec_or(root, "VirtualService", known, unknown) else {
        return VirtualService::default();
    };
    let mut rule = VirtualService::default();
    let hosts = spec.items("hosts");
    rule.hosts = hosts.iter().filter_map(|at| at.string().map(str::to_owned)).collect();
    rule.gateways = common::gateway_names(&spec);
    let in_mesh = rule.gateways.is_empty() || rule.gateways.iter().any(|name| name == "mesh");
    let mut legal = true;
    for at in &hosts {
        let Some(host) = at.string() else {
            legal = false;
            continue;
        };
        match names::wildcard_domain(host) {
            Err(_) if names::is_ip(host) => {}
            // Names that Istio generates for TLS between clusters.
            Err(_) if !in_mesh && spec.has("tls") && host.starts_with("outbound_.") => {}
            Err(message) => {
                at.complain(&admission::BAD_HOST, message);
                legal = false;
            }
            Ok(()) if host == "*" && in_mesh => {
                at.report(
                    Diagnostic::new(
                        &admission::STAR_ON_MESH,
                        "the host * is not allowed for an object that is bound to the mesh",
                    )
                    .help("name the hosts, or bind the object to gateways only"),
                );
                legal = false;
            }
            Ok(()) => {}
        }
    }
    if legal {
        duplicate_hosts(&hosts);
    }
    if spec.is_empty("hosts") {
        delegate(&spec);
    }
    let (tcp, tls, http) = (spec.items("tcp"), spec.items("tls"), spec.items("http"));
    if ["tcp", "tls", "http"].into_iter().all(|name| spec.is_empty(name)) {
        let message = "the VirtualService has no tcp, tls or http rule".to_owned();
        let rules = ["tcp", "tls", "http"];
        match rules.into_iter().find(|name| root.at.node.entry(name).is_some()) {
            // Its place below the spec is that of no value; at the root, that of its own.
            Some(name) => root.place(name).report(
                Diagnostic::new(&admission::NO_RULES, format!("{message}: {name} is beside it"))
                    .help(format!("indent {name}: by as much as hosts:")),
            ),
            None => {
                let finding = Diagnostic::new(&admission::NO_RULES, message);
                let finding = finding.help("add a rule under tcp:");
                common::missing(&spec, &rules, finding, &spec.at);
            }
        }
    }
    rule.tcp = tcp.iter().filter_map(|at| tcp_rule(at, outdented)).collect();
    let mut covered: HostIndex<&str> = HostIndex::default();
    for host in &rule.hosts {
        covered.insert(host, host);
    }
    rule.tls = tls.iter().filter_map(|at| tls_rule(at, &covered, outdented)).collect();
    rule.http =
        http.iter().filter_map(|at| http::http_rule(at, spec.is_empty("hosts"), in_mesh)).collect();
    rule.export_to = common::export_to(&spec, namespace, Exporter::Rule);
    repeated(&tcp);
    repeated(&tls);
    repeated(&http);
    rule
}

fn duplicate_hosts(hosts: &[At<'_>]) {
    let mut seen: HostIndex<&str> = HostIndex::default();
    for at in hosts {
        let Some(host) = at.node.as_str() else { continue };
        if let Some(twin) = seen.matching(host).first() {
            let message = if **twin == host {
                format!("the host \"{host}\" stands twice in the list")
            } else {
                format!("the host \"{host}\" overlaps \"{twin}\" in the same list")
            };
            at.complain(&admission::DUPLICATE_HOST, message);
        }
        seen.insert(host, host);
    }
}

fn delegate(spec: &Fields<'_>) {
    let carried: Vec<&str> =
        ["gateways", "tls", "tcp"].into_iter().filter(|name| !spec.is_empty(name)).collect();
    if !carried.is_empty() && spec.misspelt(&["hosts"]).is_some() {
        required(spec, "hosts", "the list of the VirtualService's hosts");
    } else if !carried.is_empty() {
        spec.place("hosts").report(
            Diagnostic::new(
                &admission::BAD_DELEGATE,
                format!(
                    "the VirtualService has no hosts, which makes it a delegate, and a delegate \
                     has no {}",
                    carried.join(" and no ")
                ),
            )
            .help("add hosts:"),
        );
    }
}

/// The fields of a rule that matches and routes.
fn rule_fields<'a>(at: &At<'a>) -> Option<Fields<'a>> {
    let known = &["match", "route"];
    let fields = at.fields_or(known, |name| outside_match(name, known))?;
    misplaced::without_value(&fields, known);
    Some(fields)
}

fn tcp_rule(at: &At<'_>, outdented: bool) -> Option<TcpRule> {
    let fields = rule_fields(at)?;
    let told = misplaced::has_no_route_of_its_own(&fields);
    let matches = fields.items("match").iter().filter_map(|at| tcp_match(at, told)).collect();
    let route = route(&fields, "a tcp rule", outdented);
    Some(TcpRule { matches, route, line: at.line() })
}

fn tcp_match(at: &At<'_>, told: bool) -> Option<L4Match> {
    let known = misplaced::TCP;
    let fields = at.fields_or(known, |name| misplaced::in_match(name, known, told))?;
    misplaced::without_value(&fields, known);
    let mut block = l4_match(&fields);
    block.source_subnet = fields.get("sourceSubnet").and_then(|at| {
        // Istio never looks at it, so it cannot refuse it; here it matters.
        let text = at.string()?;
        if text.is_empty() {
            return None;
        }
        subnet(&at)
    });
    Some(block)
}

/// A subnet; complains of what is none.
fn subnet(at: &At<'_>) -> Option<ipnet::IpNet> {
    match subnets::parse(at.string()?) {
        Ok(net) => Some(net),
        Err(message) => {
            at.complain(&admission::BAD_SUBNET, message);
            None
        }
    }
}

/// The conditions that TCP and TLS rules share.
fn l4_match(fields: &Fields<'_>) -> L4Match {
    L4Match {
        destination_subnets: fields.items("destinationSubnets").iter().filter_map(subnet).collect(),
        port: match_port(fields),
        source_labels: common::legal_labels(fields, "sourceLabels"),
        gateways: common::gateway_names(fields),
        source_namespace: fields.text("sourceNamespace"),
        source_subnet: None,
    }
}

fn tls_rule(at: &At<'_>, hosts: &HostIndex<&str>, outdented: bool) -> Option<TlsRule> {
    let fields = rule_fields(at)?;
    let told = misplaced::has_no_route_of_its_own(&fields);
    let blocks = fields.items("match");
    if fields.is_empty("match") {
        required(&fields, "match", "the match of a tls rule");
    }
    let matches = blocks.iter().filter_map(|at| tls_match(at, hosts, told)).collect();
    let route = route(&fields, "a tls rule", outdented);
    Some(TlsRule { matches, route, line: at.line() })
}

fn tls_match(at: &At<'_>, hosts: &HostIndex<&str>, told: bool) -> Option<TlsMatch> {
    let known = misplaced::TLS;
    let fields = at.fields_or(known, |name| misplaced::in_match(name, known, told))?;
    misplaced::without_value(&fields, known);
    let names = fields.items("sniHosts");
    if fields.is_empty("sniHosts") {
        required(&fields, "sniHosts", "the list of server names");
    }
    let mut sni_hosts = Vec::new();
    for at in &names {
        let Some(host) = at.string() else { continue };
        sni_hosts.push(host.to_owned());
        match names::wildcard_domain(host) {
            Err(_) if names::is_ip(host) => {
                at.report(
                    Diagnostic::new(
                        &admission::SNI_IS_ADDRESS,
                        format!("{host} is an address: clients do not send one as a server name"),
                    )
                    .help("write the host name that clients use"),
                );
            }
            Err(_) if host.starts_with("outbound_.") => {}
            Err(message) => at.complain(&admission::BAD_SNI, message),
            Ok(()) => {
                if !hosts.matching(host).iter().any(|outer| names::is_subset_of(host, outer)) {
                    at.complain(
                        &admission::BAD_SNI,
                        format!(
                            "the server name \"{host}\" is not covered by the hosts of the object"
                        ),
                    );
                }
            }
        }
    }
    Some(TlsMatch { sni_hosts, l4: l4_match(&fields) })
}

/// Warns of rules that have no match below another such rule, and of match
/// blocks that stand twice: what Istio's webhook warns of.
fn repeated(rules: &[At<'_>]) {
    let mut catch_all: Option<usize> = None;
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (index, at) in rules.iter().enumerate() {
        let blocks = match at.node.get("match").map(|node| &node.value) {
            None => &[][..],
            Some(Value::List(blocks)) => blocks,
            Some(_) => continue,
        };
        if !matches!(at.node.value, Value::Map(_)) {
            continue;
        }
        if let Some(above) = catch_all {
            at.report(
                Diagnostic::new(
                    &admission::UNREACHABLE_RULE,
                    format!(
                        "this rule is never reached: rule {above} of the list (counted from 0) \
                         has no match and takes everything"
                    ),
                )
                .help("only the last rule of a list can have no match"),
            );
            continue;
        }
        if blocks.is_empty() {
            // One whose conditions stand elsewhere was not meant to take everything.
            let misplaced = |(name, _): &(&str, At<'_>)| {
                *name != "match" && !matches!(outside_match(name, &["route"]), Unknown::Idle)
            };
            let fields = at.any_fields().map(|fields| fields.entries()).unwrap_or_default();
            if !fields.iter().any(misplaced) {
                catch_all = Some(index);
            }
            continue;
        }
        let mut duplicates = 0;
        let mut places: Option<Vec<At<'_>>> = None;
        for (n, block) in blocks.iter().enumerate() {
            let mut text = String::new();
            canonical(&block.value, &mut text);
            let Some(above) = seen.get(&text) else {
                seen.insert(text, index);
                continue;
            };
            duplicates += 1;
            places
                .get_or_insert_with(|| {
                    at.any_fields().map(|rule| rule.items("match")).unwrap_or_default()
                })
                .get(n)
                .unwrap_or(at)
                .complain(
                    &admission::DUPLICATE_MATCH,
                    format!(
                        "this match stands in rule {above} of the list (counted from 0) already: \
                         it decides nothing"
                    ),
                );
        }
        if duplicates == blocks.len() {
            at.report(
                Diagnostic::new(
                    &admission::UNREACHABLE_RULE,
                    "this rule is never reached: all of its matches stand above it already",
                )
                .help("remove the rule, or change its match"),
            );
        }
    }
}

/// A text that is equal for match blocks that say the same: the order of keys,
/// the name of a block, and what is as good as absent do not matter.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push('~'),
        Value::Bool(value, _) => _ = write!(out, "{value}"),
        Value::Int(value, _) => _ = write!(out, "{value}"),
        Value::Float(value, _) => _ = write!(out, "{value}"),
        Value::String(text) => _ = write!(out, "{text:?}"),
        Value::List(items) => {
            out.push('[');
            for item in items.iter() {
                canonical(&item.value, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Map(entries) => {
            let absent = |value: &Value| match value {
                Value::Null | Value::Int(0, _) => true,
                Value::String(text) => text.is_empty(),
                Value::List(items) => items.is_empty(),
                Value::Map(entries) => entries.is_empty(),
                Value::Bool(..) | Value::Int(..) | Value::Float(..) => false,
            };
            let mut entries: Vec<_> =
                entries.iter().filter(|e| &*e.key != "name" && !absent(&e.value.value)).collect();
            entries.sort_by(|a, b| a.key.cmp(&b.key));
            out.push('{');
            for entry in entries {
                _ = write!(out, "{:?}:", entry.key);
                canonical(&entry.value.value, out);
                out.push(',');
            }
            out.push('}');
        }
    }
}
