//! Names of hosts and gateways: completing them and matching them.
//!
//! A name is completed with the namespace of the object that it is written in,
//! never with the client's. Only a name without a dot is completed: `db.shop`
//! has one and stays as it is (and so names no Kubernetes service).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;

/// The reserved gateway name that stands for all sidecars, which here is every
/// local workload.
pub const MESH: &str = "mesh";

/// Completes a short host name: `db` in namespace `shop` becomes
/// `db.shop.svc.cluster.local`. A bare `*`, an address and whatever contains a
/// dot are left alone.
pub fn complete_host<'a>(host: &'a str, namespace: &str, cluster_domain: &str) -> Cow<'a, str> {
    if host.is_empty() || host == "*" || host.contains('.') || host.parse::<IpAddr>().is_ok() {
        Cow::Borrowed(host)
    } else {
        Cow::Owned(service_host(host, namespace, cluster_domain))
    }
}

/// The namespace whose Services have the names to which a full host name, or a wildcard,
/// belongs; `None` for all others.
pub fn namespace_of<'h>(host: &'h str, cluster_domain: &str) -> Option<&'h str> {
    let name = host.strip_suffix(cluster_domain)?.strip_suffix(".svc.")?;
    name.rsplit_once('.').map(|(_, namespace)| namespace)
}

/// The full name of a Kubernetes service.
pub fn service_host(name: &str, namespace: &str, cluster_domain: &str) -> String {
    format!("{name}.{namespace}.svc.{cluster_domain}")
}

/// Completes a gateway name as written in a VirtualService of `namespace` to
/// `namespace/name`; [`MESH`] stays as it is. `name.namespace` is the old way
/// to write `namespace/name`.
pub fn complete_gateway<'a>(gateway: &'a str, namespace: &str) -> Cow<'a, str> {
    if gateway == MESH {
        return Cow::Borrowed(gateway);
    }
    match gateway.split_once('/') {
        Some((".", name)) => Cow::Owned(format!("{namespace}/{name}")),
        Some(_) => Cow::Borrowed(gateway),
        None => {
            let mut parts = gateway.splitn(3, '.');
            let name = parts.next().unwrap_or(gateway);
            let namespace = parts.next().unwrap_or(namespace);
            Cow::Owned(format!("{namespace}/{name}"))
        }
    }
}

/// The suffix that a wildcard host asks for: what follows its leading `*`.
fn wildcard(host: &str) -> Option<&str> {
    host.strip_prefix('*')
}

/// Whether two hosts have a name in common: equal, or one a wildcard whose
/// suffix the other ends with. `*.shop.com` covers `a.shop.com`, not
/// `shop.com`.
pub fn hosts_match(a: &str, b: &str) -> bool {
    match (wildcard(a), wildcard(b)) {
        (None, None) => a == b,
        (Some(suffix), None) => b.ends_with(suffix),
        (None, Some(suffix)) => a.ends_with(suffix),
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
    }
}

/// Things by the host that they are for, found without looking at all of them.
#[derive(Clone, PartialEq, Debug)]
pub struct HostIndex<T> {
    /// By the reversed name, so that names with a common suffix lie together.
    exact: BTreeMap<String, Vec<T>>,
    /// By the reversed suffix.
    wild: BTreeMap<String, Vec<T>>,
    /// The lengths that suffixes in `wild` have, and how many have it.
    lengths: BTreeMap<usize, usize>,
}

impl<T> Default for HostIndex<T> {
    fn default() -> Self {
        Self { exact: BTreeMap::new(), wild: BTreeMap::new(), lengths: BTreeMap::new() }
    }
}

fn reversed(name: &str) -> String {
    name.chars().rev().collect()
}

impl<T> HostIndex<T> {
    /// Adds a thing under a full host name, wildcard or not.
    pub fn insert(&mut self, host: &str, thing: T) {
        self.edit(host, |things| things.push(thing));
    }

    /// Edits the things under exactly this host, wildcards taken literally. Where
    /// none is left nothing is.
    pub fn edit(&mut self, host: &str, edit: impl FnOnce(&mut Vec<T>)) {
        let wild = wildcard(host);
        let map = if wild.is_some() { &mut self.wild } else { &mut self.exact };
        let name = wild.unwrap_or(host);
        let things = map.entry(reversed(name)).or_default();
        let before = !things.is_empty();
        edit(things);
        let after = !things.is_empty();
        if !after {
            map.remove(&reversed(name));
        }
        if wild.is_some() && before != after {
            let having = self.lengths.entry(name.len()).or_default();
            *having = if after { *having + 1 } else { having.saturating_sub(1) };
            if *having == 0 {
                self.lengths.remove(&name.len());
            }
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wild.is_empty()
    }

    /// All things, in no order that means anything.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.wild.values()).flatten()
    }

    /// Things under exactly this host, wildcards taken literally.
    pub fn literal(&self, host: &str) -> &[T] {
        let found = match wildcard(host) {
            None => self.exact.get(&reversed(host)),
            Some(suffix) => self.wild.get(&reversed(suffix)),
        };
        found.map_or(&[], Vec::as_slice)
    }

    /// All things whose host [matches](hosts_match) this one. A thing that was
    /// inserted under several hosts may come several times.
    pub fn matching(&self, host: &str) -> Vec<&T> {
        let mut found = Vec::new();
        match wildcard(host) {
            None => {
                let name = reversed(host);
                found.extend(self.exact.get(&name).into_iter().flatten());
                self.covering(&name, &mut found);
            }
            Some(suffix) => {
                let name = reversed(suffix);
                for map in [&self.exact, &self.wild] {
                    let from = (Bound::Included(name.as_str()), Bound::Unbounded);
                    found.extend(
                        map.range::<str, _>(from)
                            .take_while(|(key, _)| key.starts_with(&name))
                            .flat_map(|(_, things)| things),
                    );
                }
                // Wider wildcards; the same suffix was found just now.
                self.shorter(&name, name.len(), &mut found);
            }
        }
        found
    }

    /// Things under the exact host, or else under the longest wildcard that
    /// covers it, for which `accept` holds for at least one. Those that it
    /// does not hold for are left out.
    pub fn most_specific<'a>(
        &'a self,
        host: &str,
        mut accept: impl FnMut(&'a T) -> bool,
    ) -> Vec<&'a T> {
        let name = reversed(wildcard(host).unwrap_or(host));
        let mut pick = |things: Option<&'a Vec<T>>| -> Vec<&'a T> {
            things.into_iter().flatten().filter(|thing| accept(thing)).collect()
        };
        let own = if wildcard(host).is_some() { &self.wild } else { &self.exact };
        let found = pick(own.get(&name));
        if !found.is_empty() {
            return found;
        }
        for &length in self.lengths.keys().rev() {
            let Some(suffix) = name.get(..length) else { continue };
            let found = pick(self.wild.get(suffix));
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    fn covering<'a>(&'a self, name: &str, found: &mut Vec<&'a T>) {
        self.shorter(name, name.len() + 1, found);
    }

    fn shorter<'a>(&'a self, name: &str, below: usize, found: &mut Vec<&'a T>) {
        for &length in self.lengths.range(..below).map(|(length, _)| length) {
            if let Some(things) = name.get(..length).and_then(|suffix| self.wild.get(suffix)) {
                found.extend(things);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_without_a_dot_are_completed() {
        let complete = |host| complete_host(host, "shop", "cluster.local").into_owned();
        assert_eq!(complete("db"), "db.shop.svc.cluster.local");
        assert_eq!(complete("db.shop"), "db.shop");
        assert_eq!(complete("db.shop.svc"), "db.shop.svc");
        assert_eq!(complete("*"), "*");
        assert_eq!(complete("fd00::1"), "fd00::1");
    }

    #[test]
    fn gateway_names_are_completed_with_the_rules_namespace() {
        assert_eq!(complete_gateway("mesh", "shop"), "mesh");
        assert_eq!(complete_gateway("edge", "shop"), "shop/edge");
        assert_eq!(complete_gateway("./edge", "shop"), "shop/edge");
        assert_eq!(complete_gateway("infra/edge", "shop"), "infra/edge");
        assert_eq!(complete_gateway("edge.infra", "shop"), "infra/edge");
        assert_eq!(complete_gateway("edge.infra.svc.cluster.local", "shop"), "infra/edge");
    }

    #[test]
    fn a_wildcard_covers_what_ends_with_its_suffix() {
        assert!(hosts_match("*.foo.com", "a.foo.com"));
        assert!(hosts_match("a.foo.com", "*.foo.com"));
        assert!(!hosts_match("*.foo.com", "foo.com"));
        assert!(hosts_match("*", "anything"));
        assert!(hosts_match("*.com", "*.foo.com"));
        assert!(!hosts_match("*.foo.com", "*.bar.com"));
    }

    #[test]
    fn the_index_finds_what_matching_one_by_one_finds() {
        let hosts =
            ["*", "*.com", "*.foo.com", "a.foo.com", "b.foo.com", "foo.com", "*oo.com", "x.org"];
        let mut index = HostIndex::default();
        for host in hosts {
            index.insert(host, host);
        }
        for asked in hosts.iter().copied().chain(["*.org", "q.foo.com", "*.a.foo.com"]) {
            let mut found: Vec<_> = index.matching(asked).into_iter().copied().collect();
            found.sort_unstable();
            let mut expected: Vec<_> =
                hosts.iter().copied().filter(|host| hosts_match(host, asked)).collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "{asked}");
        }
        let fresh = index.clone();
        for host in ["*.org", "*.com", "b.foo.com", "q.foo.com"] {
            let before = index.literal(host).len();
            index.insert(host, "added");
            index.edit(host, |things| things.retain(|thing| *thing != "added"));
            assert_eq!(index.literal(host).len(), before);
        }
        assert_eq!(index, fresh, "nothing is left of what went");
        for host in hosts {
            index.edit(host, Vec::clear);
        }
        assert_eq!(index, HostIndex::default());
    }

    #[test]
    fn the_most_specific_host_is_the_exact_one_then_the_longest_wildcard() {
        let mut index = HostIndex::default();
        for host in ["*", "*.foo.com", "a.foo.com"] {
            index.insert(host, host);
        }
        let all = |host| index.most_specific(host, |_| true);
        assert_eq!(all("a.foo.com"), [&"a.foo.com"]);
        assert_eq!(all("b.foo.com"), [&"*.foo.com"]);
        assert_eq!(all("b.bar.com"), [&"*"]);
        assert_eq!(index.most_specific("a.foo.com", |host| *host != "a.foo.com"), [&"*.foo.com"]);
    }
}
