//! What is dialled: an address, or a name as a program looks it up.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use super::{ExplainError, QuerySource};
use crate::names::service_host;
use crate::registry::{Registry, Service, ServiceKind};
use crate::world::World;

/// Where a connection goes, as the one who connects says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dialled {
    /// An address.
    Address(SocketAddr),
    /// A name, which may stand for several addresses.
    Name {
        /// As it is looked up: short names are completed as in a Pod.
        host: String,
        /// The port.
        port: u16,
    },
}

impl FromStr for Dialled {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(address) = text.parse().ok().filter(|at: &SocketAddr| at.port() != 0) {
            return Ok(Self::Address(address));
        }
        let name = |(host, port): (&str, &str)| {
            let host = host.strip_suffix('.').unwrap_or(host);
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            // An address without its port is no name.
            let is_name = host.parse::<IpAddr>().is_err() && host.chars().all(known);
            let port = port.parse().ok().filter(|port| *port != 0)?;
            (is_name && !host.is_empty())
                .then(|| Self::Name { host: host.to_ascii_lowercase(), port })
        };
        text.rsplit_once(':').and_then(name).ok_or_else(|| {
            "expected IP:PORT or HOST:PORT, such as 10.96.0.10:80, [fd00::10]:80 or web.shop:80"
                .to_owned()
        })
    }
}

impl fmt::Display for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl Dialled {
    /// The addresses that it stands for: what the name of a service resolves to for a program
    /// in the source's namespace (in `default`, as in /etc/hosts, when that is not known), taken
    /// for it or not. Of a host that has to be resolved those come first that were allocated to
    /// it, then what it resolves to, and last what it resolved to until lately; others are sorted.
    ///
    /// # Errors
    ///
    /// [`ExplainError::NoAddress`] when the World does not know the name,
    /// [`ExplainError::WithoutAddress`] when it has no address for it, and
    /// [`ExplainError::NotResolved`] when that is to be resolved.
    pub fn addresses(
        &self,
        world: &World,
        registry: &Registry,
        source: &QuerySource,
    ) -> Result<Vec<SocketAddr>, ExplainError> {
        let (host, port) = match self {
            Self::Address(address) => return Ok(vec![*address]),
            Self::Name { host, port } => (host, *port),
        };
        let namespace = match source {
            QuerySource::Unknown => "default",
            QuerySource::Described { namespace, .. } | QuerySource::Workload { namespace, .. } => {
                namespace
            }
        };
        let found = lookup((world, registry), host, namespace);
        if found.is_empty() {
            let by_name = named(registry, host).iter().find(|service| service.by_name);
            let meant = known(registry, host, namespace).into_iter().flatten().next();
            return Err(match (by_name, meant) {
                (Some(service), _) => ExplainError::NotResolved(service.host.to_string()),
                (None, Some(service)) => ExplainError::WithoutAddress(service.object.clone()),
                (None, None) => ExplainError::NoAddress(host.clone(), elsewhere(registry, host)),
            });
        }
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }
}

/// A Service of this short name in some namespace, as it is called from others.
fn elsewhere(registry: &Registry, host: &str) -> Option<String> {
    let suffix = format!(".svc.{}", registry.settings.cluster_domain);
    let mut short = registry.services().filter_map(|service| service.host.strip_suffix(&suffix));
    let found = short.find(|short| short.split_once('.').is_some_and(|(name, _)| name == host));
    found.map(str::to_owned)
}

/// The services of a host, in whatever letters it is written: DNS takes capitals and small ones
/// for the same, and rules do not (as in Istio). As it is dialled it goes before others.
fn named<'r>(registry: &'r Registry, host: &str) -> &'r [Arc<Service>] {
    let as_dialled = registry.named(host);
    if !as_dialled.is_empty() {
        return as_dialled;
    }
    let hosts = registry.services().map(|service| &service.host);
    let same = hosts.filter(|one| one.eq_ignore_ascii_case(host)).min();
    same.map_or(&[], |host| registry.named(host))
}

/// What a name means: the first services on a Pod's search path.
fn known<'r>(registry: &'r Registry, host: &str, namespace: &str) -> Option<&'r [Arc<Service>]> {
    let domain = &registry.settings.cluster_domain;
    // A name with dots is looked up in the namespace too: `web.shop` may be `shop`'s.
    let candidates = [
        service_host(host, namespace, domain),
        format!("{host}.svc.{domain}"),
        format!("{host}.{domain}"),
        host.to_owned(),
    ];
    candidates.iter().map(|name| named(registry, name)).find(|those| !those.is_empty())
}

/// What a name resolves to, each address once.
fn lookup((world, registry): (&World, &Registry), host: &str, namespace: &str) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut by_name = false;
    for service in known(registry, host, namespace).into_iter().flatten() {
        match &service.kind {
            // One step, as everywhere.
            ServiceKind::ExternalName(target) => {
                addresses.extend(registry.named(target).iter().flat_map(|other| other.answers()));
            }
            _ => {
                by_name |= service.by_name;
                let answer = world.answer(&service.host).filter(|_| service.by_name);
                let now = answer.into_iter().flat_map(|answer| &answer.addresses);
                addresses.extend(service.whole_addresses());
                addresses.extend(now.map(IpAddr::to_canonical));
                addresses.extend(service.answers());
            }
        }
    }
    if !by_name {
        addresses.sort_unstable();
    }
    let mut known = HashSet::new();
    addresses.retain(|ip| known.insert(*ip));
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_without_address_is_named_and_not_another_name_for_it() {
        let text = "Service shop/db: {ports: [{name: tcp, port: 80}]}\n";
        let world = crate::testing::world(crate::world::Settings::default(), text);
        let to: Dialled = "db.shop:80".parse().unwrap();
        let answer = to.addresses(&world, &Registry::new(&world), &QuerySource::Unknown);
        let why = answer.expect_err("nothing is dialled").to_string();
        assert!(why.starts_with("Service/shop/db has no address in the documents"), "{why}");
    }

    #[test]
    fn a_host_is_found_in_whatever_letters_it_is_dialled_and_written() {
        for written in ["db.example.com", "DB.Example.com"] {
            let text = format!(
                "ServiceEntry db: {{hosts: [{written}], resolution: DNS, ports: [{{name: tcp, \
                 number: 80, protocol: TCP}}]}}\n"
            );
            let mut world = crate::testing::world(crate::world::Settings::default(), &text);
            let to: Dialled = "Db.example.COM:80".parse().unwrap();
            let dialled =
                |world: &World| to.addresses(world, &Registry::new(world), &QuerySource::Unknown);
            let answer = dialled(&world);
            let is_of = |host: &str| host == written;
            assert!(
                matches!(&answer, Err(ExplainError::NotResolved(host)) if is_of(host)),
                "{answer:?}"
            );
            world.set_resolved(written, vec![[192, 0, 2, 1].into()]);
            assert_eq!(dialled(&world).unwrap(), [([192, 0, 2, 1], 80).into()]);
        }
    }

    #[test]
    fn an_address_or_a_name_with_a_port_is_dialled() {
        for text in ["10.0.0.1:80", "[fd00::1]:443", "web:80", "web.shop.svc.cluster.local:80"] {
            assert_eq!(text.parse::<Dialled>().map(|dialled| dialled.to_string()), Ok(text.into()));
        }
        for text in [
            "10.0.0.1",
            "fd00::1:80",
            "web",
            "web:0",
            "10.0.0.1:0",
            "web:99999",
            ":80",
            "a b:80",
            "",
        ] {
            assert!(text.parse::<Dialled>().is_err(), "{text}");
        }
    }
}
