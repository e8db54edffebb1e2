//! The conditions of match blocks, each kind of them in one place: when it holds,
//! what is left of it when some of a connection is known, what it asks of the
//! client, what it implies, and why it does not hold.
//!
//! Whoever compiles, explains, checks or relays asks here. A new attribute of
//! `match` is a field of the model, its decoding, and a variant of [`Condition`].

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::client::{Asker, Client, Question, contains};
use crate::model::{L4Match, Labels};
use crate::names::{complete_gateway, hosts_match};

/// A condition; one that always holds is not written down.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Condition {
    /// The connection comes by way of one of these gateways (full names, or
    /// `mesh`).
    Gateways(Vec<String>),
    /// This service port is dialled.
    Port(u16),
    /// The address dialled lies in one of these.
    DestinationSubnets(Vec<IpNet>),
    /// The client is a workload of this namespace.
    SourceNamespace(String),
    /// The client carries all of these labels.
    SourceLabels(Labels),
    /// An address of the client lies in this.
    SourceSubnet(IpNet),
    /// One of these covers the server name that the client asks for.
    SniHosts(Vec<String>),
}

/// What is dialled, as conditions see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dial<'d> {
    /// The address, or a prefix all of whose addresses are alike to every rule.
    pub address: IpNet,
    /// The service port, or the number of a gateway's server.
    pub port: u16,
    /// The full name of the gateway, or `mesh`.
    pub gateway: &'d str,
    /// What is known of the server name that the client asks for.
    pub sni: ServerName<'d>,
}

/// What is known of the server name that a client asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ServerName<'d> {
    /// What it has sent was read: the name, if it gave one.
    Read(Option<&'d str>),
    /// It has sent nothing yet, but dials an address of this host, maybe a wildcard, alone:
    /// whoever means that host asks for its name.
    Of(&'d str),
    /// It has sent nothing yet, and the address tells nothing.
    Unknown,
}

/// Whether a host covers all names of another one, in whatever case they are written.
fn covers(wide: &str, host: &str) -> bool {
    let (wide, host) = (wide.to_ascii_lowercase(), host.to_ascii_lowercase());
    match wide.strip_prefix('*') {
        Some(suffix) => host.trim_start_matches('*').ends_with(suffix),
        None => wide == host,
    }
}

impl Condition {
    /// Whether it holds.
    pub(crate) fn holds<'q>(&'q self, dial: &Dial<'_>, who: &Asker<'_, 'q>) -> bool {
        match self {
            Self::Gateways(_) | Self::Port(_) => {
                self.settled(dial.gateway, Some(dial.port)) == Some(true)
            }
            Self::DestinationSubnets(subnets) => {
                subnets.iter().any(|subnet| subnet.contains(&dial.address))
            }
            Self::SourceNamespace(_) | Self::SourceLabels(_) | Self::SourceSubnet(_) => {
                self.question().is_some_and(|question| who.ask(question))
            }
            Self::SniHosts(hosts) => hosts.iter().any(|host| match dial.sni {
                // A bare `*` covers also connections without a name.
                _ if host == "*" => true,
                ServerName::Read(Some(name)) | ServerName::Of(name) => covers(host, name),
                ServerName::Read(None) | ServerName::Unknown => false,
            }),
        }
    }

    /// Whether it may hold after all, once the server name is known.
    pub(crate) fn is_open(&self, dial: &Dial<'_>) -> bool {
        let Self::SniHosts(hosts) = self else { return false };
        match dial.sni {
            ServerName::Read(_) => false,
            ServerName::Of(host) => hosts
                .iter()
                .any(|one| hosts_match(&one.to_ascii_lowercase(), &host.to_ascii_lowercase())),
            ServerName::Unknown => true,
        }
    }

    /// Whether it holds where nothing but the gateway, and maybe the port, is
    /// known; `None` when there is more to ask.
    pub(crate) fn settled(&self, gateway: &str, port: Option<u16>) -> Option<bool> {
        match self {
            Self::Gateways(names) => Some(names.iter().any(|name| name == gateway)),
            Self::Port(wanted) => port.map(|port| port == *wanted),
            _ => None,
        }
    }

    /// What it asks of the client.
    pub(crate) fn question(&self) -> Option<Question<'_>> {
        match self {
            Self::SourceNamespace(namespace) => Some(Question::Namespace(namespace)),
            Self::SourceLabels(labels) => Some(Question::Labels(labels)),
            Self::SourceSubnet(subnet) => Some(Question::Within(*subnet)),
            Self::Gateways(_) | Self::Port(_) | Self::DestinationSubnets(_) | Self::SniHosts(_) => {
                None
            }
        }
    }

    /// Whether `other` holds whenever this does.
    pub(crate) fn implies(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Gateways(these), Self::Gateways(others)) => {
                these.iter().all(|name| others.contains(name))
            }
            (Self::Port(this), Self::Port(other)) => this == other,
            (Self::DestinationSubnets(these), Self::DestinationSubnets(others)) => {
                these.iter().all(|subnet| others.iter().any(|other| other.contains(subnet)))
            }
            (Self::SourceNamespace(this), Self::SourceNamespace(other)) => this == other,
            (Self::SourceLabels(these), Self::SourceLabels(others)) => contains(these, others),
            (Self::SourceSubnet(this), Self::SourceSubnet(other)) => other.contains(this),
            (Self::SniHosts(these), Self::SniHosts(others)) => {
                these.iter().all(|host| others.iter().any(|other| covers(other, host)))
            }
            _ => false,
        }
    }

    /// Why it does not hold, in words.
    pub(crate) fn because(&self, dial: &Dial<'_>, client: &Client<'_>) -> String {
        match self {
            Self::Gateways(wanted) => {
                format!("gateways: this is {}, rule wants {}", dial.gateway, wanted.join(" or "))
            }
            Self::Port(wanted) => format!("port: dialled {}, rule wants {wanted}", dial.port),
            Self::DestinationSubnets(wanted) => {
                let wanted: Vec<String> =
                    wanted.iter().map(|subnet| Bare(*subnet).to_string()).collect();
                let dialled = Bare(dial.address);
                format!("destinationSubnets: {dialled} is not in {}", wanted.join(" or "))
            }
            Self::SourceNamespace(wanted) => match client.namespace {
                Some(is) => format!("sourceNamespace: source is in {is}, rule wants {wanted}"),
                None => {
                    format!("sourceNamespace: source is no known workload, rule wants {wanted}")
                }
            },
            Self::SourceLabels(wanted) => format!("sourceLabels: {}", missing(wanted, client)),
            Self::SourceSubnet(subnet) if client.addresses.is_empty() => {
                format!("sourceSubnet: no address of the source is known, rule wants {subnet}")
            }
            Self::SourceSubnet(subnet) => {
                let addresses: Vec<String> =
                    client.addresses.iter().map(IpAddr::to_string).collect();
                format!("sourceSubnet: {} is not in {subnet}", addresses.join(", "))
            }
            Self::SniHosts(wanted) => {
                let wanted = wanted.join(" or ");
                match dial.sni {
                    ServerName::Read(Some(sni)) => format!("sniHosts: {sni} is not {wanted}"),
                    ServerName::Read(None) => {
                        format!("sniHosts: rule wants {wanted}, and no server name was given")
                    }
                    ServerName::Of(host) if self.is_open(dial) => format!(
                        "sniHosts: the address is that of all of {host}, of which the rule wants \
                         {wanted} only; no server name is known at connect, so that nobody can \
                         tell, and no rule is applied"
                    ),
                    ServerName::Of(host) => {
                        format!("sniHosts: the address is that of {host}, rule wants {wanted}")
                    }
                    ServerName::Unknown => format!(
                        "sniHosts: rule wants {wanted}, no server name is known at connect, and \
                         the address is nobody's own, so that nobody can tell, and no rule is \
                         applied"
                    ),
                }
            }
        }
    }
}

/// Which labels a client lacks.
fn missing(wanted: &Labels, client: &Client<'_>) -> String {
    let Some(labels) = client.labels else {
        let wanted: Vec<String> =
            wanted.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return format!("source is no known workload, rule wants {}", wanted.join(","));
    };
    let differing: Vec<String> = wanted
        .iter()
        .filter(|(key, value)| labels.get(key) != Some(value))
        .map(|(key, value)| match labels.get(key) {
            Some(is) => format!("{key} is {is}, rule wants {value}"),
            None => format!("source has no {key}, rule wants {value}"),
        })
        .collect();
    differing.join("; ")
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

/// A port, a namespace and a label that a block asks for, as far as it does.
pub(crate) type Anchor<'b> = (Option<u16>, Option<&'b str>, Option<(&'b str, &'b str)>);

/// A match block: all of its conditions must hold. What does not depend on the
/// client stands first, so that no client is asked in vain.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Block {
    conditions: Box<[Condition]>,
}

impl Block {
    /// A block of an object in `namespace`, with the server names of a `tls` rule.
    pub(crate) fn new(l4: &L4Match, sni: &[String], namespace: &str) -> Self {
        let gateway = |name: &String| complete_gateway(name, namespace).into_owned();
        Stored {
            gateways: l4.gateways.iter().map(gateway).collect(),
            port: l4.port,
            destination_subnets: l4.destination_subnets.clone(),
            source_namespace: l4.source_namespace.clone(),
            source_labels: l4.source_labels.clone(),
            source_subnet: l4.source_subnet,
            sni_hosts: sni.to_vec(),
        }
        .into()
    }

    /// Whether it holds for every connection.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// What it asks of the client.
    pub(crate) fn questions(&self) -> impl Iterator<Item = Question<'_>> {
        self.conditions.iter().filter_map(Condition::question)
    }

    /// Whether anything about the client is asked.
    pub fn asks_client(&self) -> bool {
        self.questions().next().is_some()
    }

    /// Whether the server name that the client asks for makes a difference.
    pub fn asks_name(&self) -> bool {
        let any = |condition: &Condition| match condition {
            Condition::SniHosts(hosts) => hosts.iter().any(|host| host == "*"),
            _ => true,
        };
        !self.conditions.iter().all(any)
    }

    /// Whether it holds whatever is dialled, by whomever.
    pub fn always_holds(&self) -> bool {
        !self.asks_name() && self.conditions.iter().all(|one| matches!(one, Condition::SniHosts(_)))
    }

    /// The subnets of which one must contain the address dialled; none: any does.
    pub(crate) fn subnets(&self) -> &[IpNet] {
        let subnets = self.conditions.iter().find_map(|condition| match condition {
            Condition::DestinationSubnets(subnets) => Some(&**subnets),
            _ => None,
        });
        subnets.unwrap_or_default()
    }

    /// The server names of which the client must ask for one; none: any does.
    pub(crate) fn server_names(&self) -> &[String] {
        let names = self.conditions.iter().find_map(|condition| match condition {
            Condition::SniHosts(names) => Some(&**names),
            _ => None,
        });
        names.unwrap_or_default()
    }

    /// The first condition that does not hold.
    pub(crate) fn failing<'q>(
        &'q self,
        dial: &Dial<'_>,
        who: &Asker<'_, 'q>,
    ) -> Option<&'q Condition> {
        self.conditions.iter().find(|condition| !condition.holds(dial, who))
    }

    /// Whether it may hold at a gateway.
    pub(crate) fn may_hold_at(&self, gateway: &str) -> bool {
        self.conditions.iter().all(|condition| condition.settled(gateway, None) != Some(false))
    }

    /// What is left to ask where gateway and port are known; `None` when it can
    /// never hold there.
    pub(crate) fn left_over(&self, gateway: &str, port: u16) -> Option<Self> {
        let mut conditions = Vec::new();
        for condition in &self.conditions {
            match condition.settled(gateway, Some(port)) {
                Some(true) => {}
                Some(false) => return None,
                None => conditions.push(condition.clone()),
            }
        }
        Some(Self { conditions: conditions.into() })
    }

    /// What every block has that [implies](Self::implies) this one.
    pub(crate) fn anchor(&self) -> Anchor<'_> {
        let mut anchor = Anchor::default();
        for condition in &self.conditions {
            match condition {
                Condition::Port(port) => anchor.0 = Some(*port),
                Condition::SourceNamespace(namespace) => anchor.1 = Some(namespace),
                Condition::SourceLabels(labels) => anchor.2 = labels.iter().next(),
                _ => {}
            }
        }
        anchor
    }

    /// All that the [`anchor`](Self::anchor) of a block can be that this one implies.
    pub(crate) fn anchors(&self) -> Vec<Anchor<'_>> {
        let mut anchors = vec![Anchor::default()];
        for condition in &self.conditions {
            let more: Vec<Anchor<'_>> = match condition {
                Condition::Port(port) => anchors
                    .iter()
                    .map(|(_, namespace, label)| (Some(*port), *namespace, *label))
                    .collect(),
                Condition::SourceNamespace(namespace) => anchors
                    .iter()
                    .map(|(port, _, label)| (*port, Some(&**namespace), *label))
                    .collect(),
                Condition::SourceLabels(labels) => {
                    let with = |label| {
                        anchors
                            .iter()
                            .map(move |(port, namespace, _)| (*port, *namespace, Some(label)))
                    };
                    labels.iter().flat_map(with).collect()
                }
                _ => continue,
            };
            anchors.extend(more);
        }
        anchors
    }

    /// Whether `other` holds whenever this does.
    pub(crate) fn implies(&self, other: &Self) -> bool {
        self.implies_within(None, other)
    }

    /// The same for what of it lies within a subnet.
    pub(crate) fn implies_within(&self, subnet: Option<&IpNet>, other: &Self) -> bool {
        let within = subnet.map(|subnet| Condition::DestinationSubnets(vec![*subnet]));
        self.implies_with(within.as_ref(), other)
    }

    /// Of another block that holds for all of this one's connections that ask for one of its
    /// names, the name that covers it, if it is a wider one and it does not have the same, too.
    pub(crate) fn wider_name<'o>(&self, name: &str, other: &'o Self) -> Option<&'o str> {
        let asks = Condition::SniHosts(vec![name.to_owned()]);
        if !self.implies_with(Some(&asks), other) {
            return None;
        }
        let mut wide = other.server_names().iter().filter(|one| covers(one, name)).peekable();
        let first = *wide.peek()?;
        wide.all(|one| !covers(name, one)).then_some(first)
    }

    fn implies_with(&self, within: Option<&Condition>, other: &Self) -> bool {
        other.conditions.iter().all(|other| {
            self.conditions.iter().chain(within).any(|condition| condition.implies(other))
        })
    }
}

/// A block as it is written down, and by its parts.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Stored {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gateways: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    destination_subnets: Vec<IpNet>,
    source_namespace: String,
    source_labels: Labels,
    source_subnet: Option<IpNet>,
    sni_hosts: Vec<String>,
}

impl From<Stored> for Block {
    fn from(stored: Stored) -> Self {
        let mut conditions = Vec::new();
        if !stored.gateways.is_empty() {
            conditions.push(Condition::Gateways(stored.gateways));
        }
        // Written 0 it stands for any.
        conditions.extend(stored.port.filter(|port| *port != 0).map(Condition::Port));
        let subnets = stored.destination_subnets;
        if !subnets.is_empty() && !subnets.iter().any(is_everything) {
            conditions.push(Condition::DestinationSubnets(subnets));
        }
        if !stored.source_namespace.is_empty() {
            conditions.push(Condition::SourceNamespace(stored.source_namespace));
        }
        if !stored.source_labels.is_empty() {
            conditions.push(Condition::SourceLabels(stored.source_labels));
        }
        conditions.extend(stored.source_subnet.map(Condition::SourceSubnet));
        if !stored.sni_hosts.is_empty() {
            conditions.push(Condition::SniHosts(stored.sni_hosts));
        }
        Self { conditions: conditions.into() }
    }
}

impl From<Block> for Stored {
    fn from(block: Block) -> Self {
        let mut stored = Self::default();
        for condition in block.conditions {
            match condition {
                Condition::Gateways(names) => stored.gateways = names,
                Condition::Port(port) => stored.port = Some(port),
                Condition::DestinationSubnets(subnets) => stored.destination_subnets = subnets,
                Condition::SourceNamespace(namespace) => stored.source_namespace = namespace,
                Condition::SourceLabels(labels) => stored.source_labels = labels,
                Condition::SourceSubnet(subnet) => stored.source_subnet = Some(subnet),
                Condition::SniHosts(hosts) => stored.sni_hosts = hosts,
            }
        }
        stored
    }
}

/// Whether this is `0.0.0.0/0`, which stands for "any address", of either
/// family; otherwise the families never meet.
pub(crate) fn is_everything(subnet: &IpNet) -> bool {
    matches!(subnet, IpNet::V4(subnet) if subnet.prefix_len() == 0)
}

#[cfg(test)]
mod tests;
