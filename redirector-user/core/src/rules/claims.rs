//! Which services claim which addresses and ports.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::client::{Asker, Question};
use crate::model::Resolution;
use crate::registry::{Port, Protocol, Registry, Service, ServiceKind};
use crate::world::ServiceAddresses;

/// A service's claim to a prefix and port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'q> {
    pub service: &'q Service,
    pub port: &'q Port,
    pub kind: ClaimKind,
}

/// Why a service has a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClaimKind {
    /// It is one of its addresses.
    Address,
    /// It is an endpoint of a headless service.
    HeadlessEndpoint,
    /// It has no addresses, and so its port everywhere: for rules only.
    Anywhere,
}

/// All claims, by port and prefix; those to one prefix in the order of
/// [`Registry::by_precedence`].
pub(crate) type Claims<'q> = BTreeMap<u16, BTreeMap<IpNet, Vec<Claim<'q>>>>;

/// What a claim to every address leaves out: the machine itself and its link.
pub(crate) const NEVER_CLAIMED: [IpNet; 6] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 32)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128)),
];

/// What all services claim.
pub(crate) fn claims(registry: &Registry) -> Claims<'_> {
    let mut claims = Claims::new();
    for service in registry.by_precedence() {
        if service.rejected.is_some() {
            continue;
        }
        for port in service.ports.iter().filter(|port| port.protocol != Protocol::Other) {
            let mut claim = |prefix: IpNet, kind| {
                let owners = claims.entry(port.number).or_default().entry(prefix).or_default();
                owners.push(Claim { service, port, kind });
            };
            for prefix in &service.addresses {
                claim(*prefix, ClaimKind::Address);
            }
            if service.kind == ServiceKind::Headless {
                for endpoint in &port.endpoints {
                    claim(endpoint.ip.into(), ClaimKind::HeadlessEndpoint);
                }
            }
            if service.claims_everywhere() {
                claim(IpNet::V4(Ipv4Net::default()), ClaimKind::Anywhere);
                claim(IpNet::V6(Ipv6Net::default()), ClaimKind::Anywhere);
            }
        }
    }
    claims
}

impl<'q> Claim<'q> {
    /// Whether the claim to a prefix stands for this client where it dials; all
    /// addresses there are alike to every claim.
    pub fn holds(&self, who: &Asker<'_, 'q>, prefix: &IpNet, dialled: &IpNet) -> bool {
        if !self.service.export.visible(who) {
            return false;
        }
        match self.kind {
            ClaimKind::Address => true,
            // A pod that dials itself by a headless service is left alone.
            ClaimKind::HeadlessEndpoint => !who.ask(Question::Address(prefix.addr())),
            ClaimKind::Anywhere => !NEVER_CLAIMED.iter().any(|never| never.contains(dialled)),
        }
    }

    /// Why it does not stand.
    pub fn because(&self, who: &Asker<'_, 'q>, prefix: &IpNet, dialled: IpAddr) -> String {
        let object = &self.service.object;
        match self.kind {
            _ if !self.service.export.visible(who) => {
                format!("{object} has {prefix}, and is {}", self.service.export.describe())
            }
            ClaimKind::Anywhere => format!(
                "{object} has port {} of every address, but never of the machine itself and its \
                 link, where {dialled} is",
                self.port.number
            ),
            ClaimKind::Address | ClaimKind::HeadlessEndpoint => {
                format!("{prefix} is the source's own address in the headless {object}")
            }
        }
    }

    /// Whether we serve the address as soon as a name is resolved.
    pub fn decided_by_names(&self) -> bool {
        let by_names = ServiceKind::Entry(Resolution::Dns) == self.service.kind
            || ServiceKind::Entry(Resolution::DnsRoundRobin) == self.service.kind;
        by_names
            && self.kind == ClaimKind::Address
            && self.port.endpoints.is_empty()
            && !self.port.unresolved.is_empty()
    }

    /// What happens when no rule matches: whether we serve the address.
    pub fn serves(&self, services: ServiceAddresses) -> bool {
        match (&self.service.kind, self.kind) {
            (_, ClaimKind::Anywhere | ClaimKind::HeadlessEndpoint) => false,
            (ServiceKind::Cluster, _) => services == ServiceAddresses::Own,
            (ServiceKind::Entry(Resolution::Static), _) => true,
            // Nothing else is behind such an address either; but before its
            // names are resolved there is nowhere to go.
            (ServiceKind::Entry(Resolution::Dns | Resolution::DnsRoundRobin), _) => {
                !self.port.endpoints.is_empty()
            }
            _ => false,
        }
    }
}
