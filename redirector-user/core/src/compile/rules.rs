//! The rules of VirtualServices in their total order, and matching them.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use redirector_common::abi::MAX_LEGS;

use super::Rejected;
use crate::client::Asker;
use crate::model::{
    L4Match, Labels, Object, ObjectRef, RouteDestination, RuleId, RuleList, VirtualService,
};
use crate::names::{HostIndex, MESH, complete_gateway, complete_host};
use crate::registry::{ExportTo, Reach};
use crate::world::World;

/// All VirtualServices, found by host or by gateway.
#[derive(Debug, Default)]
pub(crate) struct RuleBook<'w> {
    /// The oldest first, then by name and namespace.
    pub sheets: Vec<Sheet<'w>>,
    /// Those bound to the mesh, by host.
    mesh: HostIndex<usize>,
    /// Those not bound to the mesh, by host.
    elsewhere: HostIndex<usize>,
    /// By the full name of a gateway.
    gateways: HashMap<String, Vec<usize>>,
    /// Those that go beyond a limit.
    pub rejected: Vec<Rejected>,
}

/// A VirtualService.
#[derive(Debug)]
pub(crate) struct Sheet<'w> {
    pub object: &'w Arc<Object>,
    pub reference: ObjectRef,
    pub export: ExportTo,
    /// Full names; `mesh` when nothing is said.
    pub gateways: Vec<String>,
    /// Full names.
    pub hosts: Vec<String>,
    /// The `tcp` rules.
    pub tcp: Vec<Rule<'w>>,
    /// The `tls` rules.
    pub tls: Vec<Rule<'w>>,
    /// The first `http` rule, when it could be honoured at L4.
    pub http: Option<Rule<'w>>,
    /// How many `http` rules there are.
    pub http_count: usize,
}

/// A rule.
#[derive(Debug)]
pub(crate) struct Rule<'w> {
    pub id: RuleId,
    pub line: u32,
    /// Any of these must match; empty matches everything.
    pub blocks: Vec<Block<'w>>,
    pub route: &'w [RouteDestination],
}

/// A match block.
#[derive(Debug)]
pub(crate) struct Block<'w> {
    pub l4: &'w L4Match,
    /// Full names; empty matches any.
    pub gateways: Vec<String>,
    /// Server names, of a `tls` rule.
    pub sni: &'w [String],
}

/// What is dialled, as rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dial<'d> {
    /// The address, or a prefix all of whose addresses are alike to every rule.
    pub address: IpNet,
    /// The service port, or the number of a gateway's server.
    pub port: u16,
    /// The full name of the gateway, or `mesh`.
    pub gateway: &'d str,
}

impl<'w> RuleBook<'w> {
    /// The rules of a World.
    pub fn new(world: &'w World) -> Self {
        let mut all: Vec<_> = world.virtual_services().collect();
        all.sort_by(|(a, _), (b, _)| {
            let key = |object: &'w Object| {
                (object.meta.created, &*object.meta.name, &*object.meta.namespace)
            };
            key(a).cmp(&key(b))
        });
        let mut book = Self::default();
        for (object, spec) in all {
            let reference = object.reference();
            if let Some(reason) = beyond_limit(spec) {
                book.rejected.push(Rejected { object: reference, reason });
                continue;
            }
            book.add(Sheet::new(object, reference, spec, &world.settings.cluster_domain));
        }
        book
    }

    fn add(&mut self, sheet: Sheet<'w>) {
        let index = self.sheets.len();
        let mesh = sheet.gateways.iter().any(|gateway| gateway == MESH);
        for host in &sheet.hosts {
            let hosts = if mesh { &mut self.mesh } else { &mut self.elsewhere };
            hosts.insert(host, index);
        }
        for gateway in &sheet.gateways {
            let bound = self.gateways.entry(gateway.clone()).or_default();
            if bound.last() != Some(&index) {
                bound.push(index);
            }
        }
        self.sheets.push(sheet);
    }

    fn get(&self, mut found: Vec<usize>) -> Vec<&Sheet<'w>> {
        found.sort_unstable();
        found.dedup();
        found.into_iter().filter_map(|index| self.sheets.get(index)).collect()
    }

    /// The VirtualServices bound to the mesh that are for a host, in order of
    /// age.
    pub fn for_host(&self, host: &str) -> Vec<&Sheet<'w>> {
        self.get(self.mesh.matching(host).into_iter().copied().collect())
    }

    /// Those for the host that are bound to gateways only.
    pub fn bound_elsewhere(&self, host: &str) -> Vec<&Sheet<'w>> {
        self.get(self.elsewhere.matching(host).into_iter().copied().collect())
    }

    /// The VirtualServices bound to a gateway, in order of age.
    pub fn for_gateway(&self, gateway: &str) -> Vec<&Sheet<'w>> {
        self.get(self.gateways.get(gateway).cloned().unwrap_or_default())
    }
}

impl<'w> Sheet<'w> {
    fn new(
        object: &'w Arc<Object>,
        reference: ObjectRef,
        spec: &'w VirtualService,
        cluster_domain: &str,
    ) -> Self {
        let namespace = &object.meta.namespace;
        let gateway = |name: &String| complete_gateway(name, namespace).into_owned();
        let id = |list, index: usize| RuleId {
            object: reference.clone(),
            list,
            index: u32::try_from(index).unwrap_or(u32::MAX),
        };
        let block = |l4: &'w L4Match, sni: &'w [String]| Block {
            l4,
            gateways: l4.gateways.iter().map(gateway).collect(),
            sni,
        };
        let tcp = spec.tcp.iter().enumerate().map(|(index, rule)| Rule {
            id: id(RuleList::Tcp, index),
            line: rule.line,
            blocks: rule.matches.iter().map(|l4| block(l4, &[])).collect(),
            route: &rule.route,
        });
        let tls = spec.tls.iter().enumerate().map(|(index, rule)| Rule {
            id: id(RuleList::Tls, index),
            line: rule.line,
            blocks: rule.matches.iter().map(|tls| block(&tls.l4, &tls.sni_hosts)).collect(),
            route: &rule.route,
        });
        let http = spec.http.first().filter(|rule| {
            spec.tcp.is_empty()
                && !rule.has_match
                && rule.l7_fields.is_empty()
                && !rule.route.is_empty()
        });
        let mut gateways: Vec<String> = spec.gateways.iter().map(gateway).collect();
        if gateways.is_empty() {
            gateways.push(MESH.to_owned());
        }
        Self {
            export: ExportTo::new(spec.export_to.iter().map(String::as_str), namespace),
            hosts: spec
                .hosts
                .iter()
                .map(|host| complete_host(host, namespace, cluster_domain).into_owned())
                .collect(),
            tcp: tcp.collect(),
            tls: tls.collect(),
            http: http.map(|rule| Rule {
                id: id(RuleList::Http, 0),
                line: rule.line,
                blocks: Vec::new(),
                route: &rule.route,
            }),
            http_count: spec.http.len(),
            gateways,
            object,
            reference,
        }
    }

    /// The namespace that its names are completed with.
    pub fn namespace(&self) -> &str {
        &self.object.meta.namespace
    }
}

/// Why a VirtualService has a route with more destinations than fit.
fn beyond_limit(spec: &VirtualService) -> Option<String> {
    let tcp = spec.tcp.iter().map(|rule| ("tcp", rule.route.len()));
    let tls = spec.tls.iter().map(|rule| ("tls", rule.route.len()));
    tcp.enumerate().chain(tls.enumerate()).find_map(|(index, (list, count))| {
        (count > MAX_LEGS as usize).then(|| {
            format!(
                "spec.{list}[{index}].route has {count} destinations, and {MAX_LEGS} is the most that a route can have"
            )
        })
    })
}

/// The sheets that a client sees, as indices, in the order in which they are
/// asked: private ones first, then those exported by name, then public ones.
pub(crate) fn in_order<'b: 'q, 'w, 'q>(
    sheets: &[&'b Sheet<'w>],
    who: &Asker<'_, 'q>,
) -> Vec<usize> {
    let mut seen: Vec<(Reach, usize)> = sheets
        .iter()
        .enumerate()
        .filter_map(|(index, sheet)| Some((sheet.export.reach(who)?, index)))
        .collect();
    // Within each group, age decides: the order of the sheets.
    seen.sort_unstable();
    seen.into_iter().map(|(_, index)| index).collect()
}

/// Whether `subnet` contains all of `address`. Every address is in
/// `0.0.0.0/0`, of either family; otherwise the families never meet.
pub(crate) fn covers(subnet: &IpNet, address: &IpNet) -> bool {
    is_everything(subnet) || subnet.contains(address)
}

/// Whether this is `0.0.0.0/0`, which stands for "any address".
pub(crate) fn is_everything(subnet: &IpNet) -> bool {
    matches!(subnet, IpNet::V4(subnet) if subnet.prefix_len() == 0)
}

impl<'w> Rule<'w> {
    /// Whether the rule matches; or else why each of its blocks does not.
    pub fn matches<'q>(
        &'q self,
        dial: &Dial<'_>,
        who: &Asker<'_, 'q>,
    ) -> Result<(), Vec<Mismatch<'q>>> {
        let mut reasons = Vec::new();
        for block in &self.blocks {
            match block.matches(dial, who) {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(reason),
            }
        }
        if self.blocks.is_empty() { Ok(()) } else { Err(reasons) }
    }
}

impl<'w> Block<'w> {
    /// Whether all conditions hold; or else the first that does not. What does
    /// not depend on the client comes first. The server name is not looked at.
    pub fn matches<'q>(&'q self, dial: &Dial<'_>, who: &Asker<'_, 'q>) -> Result<(), Mismatch<'q>> {
        let l4 = self.l4;
        if !self.gateways.is_empty() && !self.gateways.iter().any(|name| name == dial.gateway) {
            return Err(Mismatch::Gateway(&self.gateways));
        }
        if let Some(port) = l4.port.filter(|port| *port != 0 && *port != dial.port) {
            return Err(Mismatch::Port(port));
        }
        let subnets = &l4.destination_subnets;
        if !subnets.is_empty() && !subnets.iter().any(|subnet| covers(subnet, &dial.address)) {
            return Err(Mismatch::Subnets(subnets));
        }
        self.source_matches(who)
    }

    /// Whether the conditions on the client hold.
    pub fn source_matches<'q>(&'q self, who: &Asker<'_, 'q>) -> Result<(), Mismatch<'q>> {
        let l4 = self.l4;
        if !l4.source_namespace.is_empty() && !who.in_namespace(&l4.source_namespace) {
            return Err(Mismatch::Namespace(&l4.source_namespace));
        }
        if !who.has_labels(&l4.source_labels) {
            return Err(Mismatch::Labels(&l4.source_labels));
        }
        if let Some(subnet) = l4.source_subnet
            && !who.ask(crate::client::Question::Within(subnet))
        {
            return Err(Mismatch::SourceSubnet(subnet));
        }
        Ok(())
    }
}

/// Which condition of a block does not hold.
#[derive(Clone, Debug)]
pub(crate) enum Mismatch<'q> {
    Gateway(&'q [String]),
    Port(u16),
    Subnets(&'q [IpNet]),
    Namespace(&'q str),
    Labels(&'q Labels),
    SourceSubnet(IpNet),
}

impl Mismatch<'_> {
    /// In words, for this connection.
    pub fn because(&self, dial: &Dial<'_>, who: &Asker<'_, '_>) -> String {
        let client = who.client();
        match self {
            Self::Gateway(wanted) => {
                format!("gateways: this is {}, rule wants {}", dial.gateway, wanted.join(" or "))
            }
            Self::Port(wanted) => format!("port: dialled {}, rule wants {wanted}", dial.port),
            Self::Subnets(wanted) => format!(
                "destinationSubnets: {} is not in {}",
                Bare(dial.address),
                wanted
                    .iter()
                    .map(|subnet| Bare(*subnet).to_string())
                    .collect::<Vec<_>>()
                    .join(" or ")
            ),
            Self::Namespace(wanted) => match client.namespace {
                Some(is) => format!("sourceNamespace: source is in {is}, rule wants {wanted}"),
                None => {
                    format!("sourceNamespace: source is no known workload, rule wants {wanted}")
                }
            },
            Self::Labels(wanted) => because_labels(wanted, client.labels),
            Self::SourceSubnet(subnet) => {
                let addresses: Vec<String> =
                    client.addresses.iter().map(IpAddr::to_string).collect();
                if addresses.is_empty() {
                    format!("sourceSubnet: no address of the source is known, rule wants {subnet}")
                } else {
                    format!("sourceSubnet: {} is not in {subnet}", addresses.join(", "))
                }
            }
        }
    }
}

fn because_labels(wanted: &Labels, labels: Option<&Labels>) -> String {
    let Some(labels) = labels else {
        let wanted: Vec<String> =
            wanted.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return format!(
            "sourceLabels: source is no known workload, rule wants {}",
            wanted.join(",")
        );
    };
    let differing: Vec<String> = wanted
        .iter()
        .filter(|(key, value)| labels.get(*key) != Some(value))
        .map(|(key, value)| match labels.get(key) {
            Some(is) => format!("{key} is {is}, rule wants {value}"),
            None => format!("source has no {key}, rule wants {value}"),
        })
        .collect();
    format!("sourceLabels: {}", differing.join("; "))
}

/// A prefix, printed as a bare address when it is one.
struct Bare(IpNet);

impl fmt::Display for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}
