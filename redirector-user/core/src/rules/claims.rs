//! Which services claim which addresses and ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::condition::ServerName;
use crate::client::{Asker, Question};
use crate::model::{Resolution, RuleList};
use crate::registry::{Port, Protocol, Registry, Service, ServiceKind};
use crate::world::{OF_ALL_MACHINES, ServiceAddresses, Settings};

/// A service's claim to a prefix and port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'q> {
    pub service: &'q Service,
    pub port: &'q Port,
    pub kind: ClaimKind,
}

/// Why a service has a prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum ClaimKind {
    /// It is one of its addresses.
    Address,
    /// It is an endpoint of a headless service.
    HeadlessEndpoint,
    /// Its host resolves to it. Something answers there without us.
    Learned,
    /// Its host resolved to it until lately, and who asked then may still dial it.
    Former,
    /// It has no addresses, and so its port everywhere: for rules only.
    Anywhere,
}

/// All claims, by port and prefix; those to one prefix in the order of
/// [`Service::precedence`], those that names lead to behind all others, and last those that
/// names led to.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    ports: BTreeMap<u16, BTreeMap<IpNet, Vec<Owner>>>,
}

/// A [`Claim`] that is kept.
#[derive(Debug)]
struct Owner {
    service: Arc<Service>,
    /// The place of the port among the service's.
    port: usize,
    kind: ClaimKind,
}

/// What a service claims: places of its ports, and prefixes.
pub(crate) fn claimed(service: &Service) -> Vec<(usize, IpNet, ClaimKind)> {
    let mut claimed = Vec::new();
    if service.rejected.is_some() {
        return claimed;
    }
    let ports = service.ports.iter().enumerate();
    for (place, port) in ports.filter(|(_, port)| port.protocol != Protocol::Other) {
        let addresses = service.addresses.iter();
        claimed.extend(addresses.map(|prefix| (place, *prefix, ClaimKind::Address)));
        for (addresses, kind) in
            [(&service.learned, ClaimKind::Learned), (&service.former, ClaimKind::Former)]
        {
            claimed.extend(addresses.iter().map(|ip| (place, (*ip).into(), kind)));
        }
        if service.kind == ServiceKind::Headless {
            let mut addresses: Vec<_> = port.endpoints.iter().map(|one| one.ip).collect();
            addresses.dedup();
            let kind = ClaimKind::HeadlessEndpoint;
            claimed.extend(addresses.into_iter().map(|ip| (place, ip.into(), kind)));
        }
        if service.claims_everywhere() {
            let all = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
            claimed.extend(all.map(|prefix| (place, prefix, ClaimKind::Anywhere)));
        }
    }
    claimed
}

/// What a prefix that is an address of a service leaves out: whatever stays on the machine
/// or its link, unless it is asked for by itself.
pub(crate) fn left_out(prefix: &IpNet) -> impl Iterator<Item = IpNet> + '_ {
    let wider = move |never: &IpNet| prefix.contains(never) && prefix != never;
    OF_ALL_MACHINES.into_iter().filter(wider)
}

/// Where a service claims something: port and prefix.
pub(crate) fn places(service: &Service) -> impl Iterator<Item = (u16, IpNet)> + '_ {
    claimed(service)
        .into_iter()
        .filter_map(|(place, prefix, _)| Some((service.ports.get(place)?.number, prefix)))
}

impl Claims {
    /// What all services claim.
    pub fn new(registry: &Registry) -> Self {
        let mut claims = Self::default();
        for service in registry.services() {
            claims.add(service);
        }
        claims
    }

    /// Adds what a service claims.
    pub fn add(&mut self, service: &Arc<Service>) {
        for (place, prefix, kind) in claimed(service) {
            let Some(port) = service.ports.get(place) else { continue };
            let owners = self.ports.entry(port.number).or_default().entry(prefix).or_default();
            let owner = Owner { service: service.clone(), port: place, kind };
            let at = owners.partition_point(|other| other.order() <= owner.order());
            owners.insert(at, owner);
        }
    }

    /// Takes out what a service claims that was added.
    pub fn remove(&mut self, service: &Arc<Service>) {
        for (place, prefix, _) in claimed(service) {
            let Some(port) = service.ports.get(place) else { continue };
            let Some(prefixes) = self.ports.get_mut(&port.number) else { continue };
            if let Some(owners) = prefixes.get_mut(&prefix) {
                owners.retain(|owner| !Arc::ptr_eq(&owner.service, service));
                if owners.is_empty() {
                    prefixes.remove(&prefix);
                }
            }
            if prefixes.is_empty() {
                self.ports.remove(&port.number);
            }
        }
    }

    /// The claims to a port of a prefix and of what lies in it, wider prefixes
    /// before what lies in them.
    pub fn within(&self, port: u16, region: &IpNet) -> BTreeMap<IpNet, Vec<Claim<'_>>> {
        self.range(port, region)
            .map(|(prefix, owners)| (*prefix, owners.iter().filter_map(Owner::claim).collect()))
            .collect()
    }

    /// The claims to a port of an address, or of a whole prefix, the narrowest first.
    pub fn to(&self, port: u16, dialled: &IpNet) -> Vec<(IpNet, Vec<Claim<'_>>)> {
        let Some(prefixes) = self.ports.get(&port) else { return Vec::new() };
        let wider = (0..=dialled.prefix_len()).rev();
        let wider =
            wider.filter_map(|length| Some(IpNet::new(dialled.addr(), length).ok()?.trunc()));
        wider
            .filter_map(|prefix| prefixes.get_key_value(&prefix))
            .map(|(prefix, owners)| (*prefix, owners.iter().filter_map(Owner::claim).collect()))
            .collect()
    }

    /// The claimed prefixes within a region that lie in no other there.
    pub fn outermost(&self, port: u16, region: &IpNet) -> Vec<IpNet> {
        let mut found: Vec<IpNet> = Vec::new();
        for (prefix, _) in self.range(port, region) {
            if found.last().is_none_or(|outer| !outer.contains(prefix)) {
                found.push(*prefix);
            }
        }
        found
    }

    /// Who has a port of this very prefix, of those that are said to: the first of them.
    pub fn owner(&self, port: u16, prefix: &IpNet) -> Option<Claim<'_>> {
        let owners = self.ports.get(&port)?.get(prefix)?;
        owners.iter().filter(|owner| owner.kind.is_said()).find_map(Owner::claim)
    }

    /// Whether several hosts claim a port of this very prefix.
    pub fn are_shared(&self, port: u16, prefix: &IpNet) -> bool {
        let owners = self.ports.get(&port).and_then(|prefixes| prefixes.get(prefix));
        let mut hosts = owners.into_iter().flatten().map(|owner| &owner.service.host);
        let first = hosts.next();
        hosts.any(|host| Some(host) != first)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ports.values().flat_map(BTreeMap::values).map(Vec::len).sum()
    }

    /// In their order what lies in a prefix follows it.
    fn range<'c>(
        &'c self,
        port: u16,
        region: &IpNet,
    ) -> impl Iterator<Item = (&'c IpNet, &'c Vec<Owner>)> + use<'c> {
        let region = *region;
        let prefixes = self.ports.get(&port).into_iter();
        prefixes
            .flat_map(move |prefixes| prefixes.range(region..))
            .take_while(move |(prefix, _)| region.contains(*prefix))
    }
}

impl Owner {
    fn claim(&self) -> Option<Claim<'_>> {
        let port = self.service.ports.get(self.port)?;
        Some(Claim { service: &self.service, port, kind: self.kind })
    }

    /// Of one service, as it writes its ports.
    fn order(&self) -> impl Ord + '_ {
        let by_host = self.kind.is_by_host().then_some(self.kind);
        (by_host, self.service.precedence(), self.port)
    }
}

impl ClaimKind {
    /// Whether it has the prefix because its host leads there, or did: nothing tells then which
    /// of several hosts was meant.
    pub fn is_by_host(self) -> bool {
        matches!(self, Self::Learned | Self::Former)
    }

    /// How it has an address, with the address between both; of several services, where these
    /// have it.
    pub fn has(self, several: bool) -> [&'static str; 2] {
        match (self, several) {
            (Self::Former, _) => ["resolved to", " until lately"],
            (Self::Learned, false) => ["resolves to", ""],
            (Self::Learned, true) => ["resolve to", ""],
            (_, false) => ["has", ""],
            (_, true) => ["have", ""],
        }
    }

    /// Whether somebody says that the prefix is the service's: that goes before what a resolver
    /// says, however wide it is.
    pub fn is_said(self) -> bool {
        matches!(self, Self::Address | Self::HeadlessEndpoint)
    }
}

impl<'q> Claim<'q> {
    /// What an address tells of the server name that who dials it asks for.
    pub fn server_name(&self) -> ServerName<'q> {
        match self.kind {
            ClaimKind::Anywhere => ServerName::Unknown,
            _ => ServerName::Of(&self.service.host),
        }
    }

    /// Whether the claim to a prefix stands for this client where it dials; all
    /// addresses there are alike to every claim.
    pub fn holds(
        &self,
        settings: &Settings,
        who: &Asker<'_, 'q>,
        prefix: &IpNet,
        dialled: &IpNet,
    ) -> bool {
        if !self.service.export.visible(who) {
            return false;
        }
        match self.kind {
            ClaimKind::Address => !left_out(prefix).any(|never| never.contains(dialled)),
            ClaimKind::Learned | ClaimKind::Former => true,
            // A pod that dials itself by a headless service is left alone.
            ClaimKind::HeadlessEndpoint => !who.ask(Question::Address(prefix.addr())),
            ClaimKind::Anywhere => !settings.never_claimed().any(|never| never.contains(dialled)),
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
            ClaimKind::Address => {
                format!("{object} has {prefix}, but never what {dialled} is in: it stays local")
            }
            ClaimKind::Learned | ClaimKind::Former | ClaimKind::HeadlessEndpoint => {
                format!("{prefix} is the source's own address in the headless {object}")
            }
        }
    }

    /// What an address in its prefix is of it, as in "which is an address of ...".
    pub fn has(&self, prefix: &IpNet) -> String {
        let object = &self.service.object;
        match self.kind {
            ClaimKind::HeadlessEndpoint => format!("an endpoint of {object}"),
            _ if prefix.prefix_len() == prefix.max_prefix_len() => {
                format!("an address of {object}")
            }
            _ => format!("in {prefix} of {object}"),
        }
    }

    /// Whether we serve the address as soon as a name is resolved.
    pub fn decided_by_names(&self) -> bool {
        let by_names = ServiceKind::Entry(Resolution::Dns) == self.service.kind
            || ServiceKind::Entry(Resolution::DnsRoundRobin) == self.service.kind;
        let sends =
            self.kind == ClaimKind::Address || (self.kind.is_by_host() && !self.port.are_the_host);
        by_names && sends && self.port.endpoints.is_empty() && !self.port.unresolved.is_empty()
    }

    /// Whether server names tell it from another one's to the same address: one namespace may
    /// have several hosts there.
    pub fn is_told_by_name(&self, other: &Claim<'_>) -> bool {
        self.port.protocol.takes() == Some(RuleList::Tls)
            && self.kind != ClaimKind::HeadlessEndpoint
            && other.service.namespace() == self.service.namespace()
    }

    /// What happens when no rule matches: whether we serve the address.
    pub fn serves(&self, services: ServiceAddresses) -> bool {
        match (&self.service.kind, self.kind) {
            (_, ClaimKind::Anywhere | ClaimKind::HeadlessEndpoint) => false,
            // Who dials it is there already, unless the entry says where to go instead.
            (ServiceKind::Entry(_), ClaimKind::Learned | ClaimKind::Former) => {
                !self.port.are_the_host && !self.port.endpoints.is_empty()
            }
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
