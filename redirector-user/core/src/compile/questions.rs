//! Everything that is ever asked about a source: how often each question is asked,
//! and what a client answers to all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::client::{Asked, Client, Question, contains};
use crate::model::{DestinationRule, Labels, Object};
use crate::registry::{Service, ServiceKind, export_of};
use crate::rules::{Block, RuleSet};
use crate::world::{CrossNamespace, Settings};

/// What a client answers with yes, of all that is asked.
pub(super) type Traits = BTreeSet<Asked>;

/// Everything that is ever asked about a source.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Questions {
    namespaces: BTreeSet<Arc<str>>,
    /// Under their first pair, which whoever has all of them has.
    labels: BTreeMap<String, BTreeMap<String, BTreeSet<Labels>>>,
    subnets: BTreeSet<IpNet>,
    addresses: BTreeSet<IpAddr>,
}

impl Questions {
    /// Asks something from now on, or no longer.
    pub fn set(&mut self, question: &Asked, asked: bool) {
        fn set<T: Ord + Clone>(all: &mut BTreeSet<T>, one: &T, asked: bool) {
            match asked {
                true => _ = all.insert(one.clone()),
                false => _ = all.remove(one),
            }
        }
        match question {
            Asked::Namespace(namespace) => set(&mut self.namespaces, namespace, asked),
            Asked::Within(subnet) => set(&mut self.subnets, subnet, asked),
            Asked::Address(address) => set(&mut self.addresses, address, asked),
            Asked::Labels(labels) => {
                let Some((key, value)) = labels.iter().next() else { return };
                let values = self.labels.entry(key.to_owned()).or_default();
                let those = values.entry(value.to_owned()).or_default();
                set(those, labels, asked);
                if those.is_empty() {
                    values.remove(value);
                }
                if values.is_empty() {
                    self.labels.remove(key);
                }
            }
            Asked::Bypassed => {}
        }
    }

    /// What a client answers with yes.
    pub fn ask(&self, client: &Client<'_>) -> Traits {
        let namespace = client.namespace.and_then(|name| self.namespaces.get(name));
        let labels = (client.labels.into_iter().flatten())
            .filter_map(|(key, value)| self.labels.get(key)?.get(value))
            .flatten()
            .filter(|wanted| client.labels.is_some_and(|labels| contains(labels, wanted)));
        let subnets = self.subnets.iter();
        let subnets = subnets.filter(|subnet| client.answer(&Question::Within(**subnet)));
        let addresses = client.addresses.iter().filter(|address| self.addresses.contains(address));
        (namespace.cloned().map(Asked::Namespace).into_iter())
            .chain(labels.cloned().map(Asked::Labels))
            .chain(subnets.copied().map(Asked::Within))
            .chain(addresses.copied().map(Asked::Address))
            .chain(client.bypassed.then_some(Asked::Bypassed))
            .collect()
    }
}

/// How often each question is asked.
#[derive(Debug, Default)]
pub(super) struct Counts {
    asked: BTreeMap<Asked, usize>,
    /// Those counted in this step, and whether they were asked before it.
    counted: BTreeMap<Asked, bool>,
    /// The addresses of services.
    nets: Nets,
    /// How many services have their ports at every address.
    everywhere: usize,
    /// The addresses of the endpoints of headless services.
    own: BTreeMap<IpAddr, Own>,
    /// Those of which it has to be seen whether they are asked for.
    unsettled: BTreeSet<IpAddr>,
}

/// An address of an endpoint of headless services.
#[derive(Debug, Default)]
struct Own {
    /// Of how many ports.
    claims: usize,
    /// Of so many of them there are rules for the host.
    ruled: usize,
    /// Whether it is asked for.
    asked: bool,
}

fn step(count: &mut usize, more: bool) {
    *count = if more { *count + 1 } else { count.saturating_sub(1) };
}

impl Counts {
    fn count(&mut self, question: Asked, more: bool) {
        let count = self.asked.entry(question.clone()).or_default();
        let before = *count > 0;
        step(count, more);
        if *count == 0 {
            self.asked.remove(&question);
        }
        self.counted.entry(question).or_insert(before);
    }

    fn namespaces<'n>(&mut self, names: impl Iterator<Item = &'n Arc<str>>, more: bool) {
        for name in names {
            self.count(Asked::Namespace(name.clone()), more);
        }
    }

    fn labels(&mut self, labels: &Labels, more: bool) {
        if !labels.is_empty() {
            self.count(Asked::Labels(labels.clone()), more);
        }
    }

    /// What the services of a host have asked, for which there are rules or not.
    pub fn services(&mut self, services: &[Arc<Service>], ruled: bool, more: bool) {
        for service in services {
            self.namespaces(service.export.namespaces(), more);
            // In its own namespace it is seen by those who route to it. Of services
            // that share a host, a client's own namespace's is meant.
            if !service.export.is_public() || services.len() > 1 {
                self.namespaces(std::iter::once(service.namespace()), more);
            }
            let by_host = service.by_host().map(IpNet::from);
            for net in service.addresses.iter().copied().chain(by_host) {
                if self.nets.count(net, more) {
                    let own = self.own.range(net.network()..=net.broadcast());
                    self.unsettled.extend(own.map(|(ip, _)| *ip));
                }
            }
            if service.claims_everywhere() && service.rejected.is_none() {
                let before = self.everywhere > 0;
                step(&mut self.everywhere, more);
                if before != (self.everywhere > 0) {
                    self.unsettled.extend(self.own.keys());
                }
            }
            if service.kind == ServiceKind::Headless {
                for endpoint in service.ports.iter().flat_map(|port| &port.endpoints) {
                    let own = self.own.entry(endpoint.ip).or_default();
                    step(&mut own.claims, more);
                    if ruled {
                        step(&mut own.ruled, more);
                    }
                    self.unsettled.insert(endpoint.ip);
                }
            }
        }
    }

    /// What a DestinationRule has asked.
    pub fn destination_rule(
        &mut self,
        object: &Object,
        rule: &DestinationRule,
        root_namespace: &str,
        more: bool,
    ) {
        self.namespaces(export_of(object, rule).namespaces(), more);
        self.namespaces([&object.meta.namespace, &root_namespace.into()].into_iter(), more);
        if let Some(selector) = &rule.workload_selector {
            self.labels(selector, more);
        }
    }

    /// What a VirtualService has asked.
    pub fn rules(&mut self, set: &RuleSet, settings: &Settings, more: bool) {
        if !set.is_for_mesh() {
            return;
        }
        if settings.cross_namespace == CrossNamespace::Owner {
            self.namespaces(std::iter::once(&set.object.meta.namespace), more);
        }
        self.namespaces(set.export.namespaces(), more);
        let blocks = set.tcp.iter().chain(&set.tls).flat_map(|rule| &rule.blocks);
        for question in blocks.flat_map(Block::questions) {
            self.count(Asked::from(&question), more);
        }
    }

    /// What is asked from now on, or no longer.
    pub fn settle(&mut self) -> Vec<(Asked, bool)> {
        for ip in std::mem::take(&mut self.unsettled) {
            let Some(own) = self.own.get(&ip) else { continue };
            // A client to whom a headless service's address is its own meets what
            // else has that address: only where there is something to meet, and
            // something to miss, does it matter who has it.
            let asked =
                own.claims > 0 && (own.ruled > 0 || self.everywhere > 0 || self.nets.contain(ip));
            let (before, gone) = (own.asked, own.claims == 0);
            if asked != before {
                self.count(Asked::Address(ip), asked);
            }
            if gone {
                self.own.remove(&ip);
            } else if let Some(own) = self.own.get_mut(&ip) {
                own.asked = asked;
            }
        }
        let counted = std::mem::take(&mut self.counted).into_iter();
        counted
            .filter_map(|(question, before)| {
                let asked = self.asked.contains_key(&question);
                (asked != before).then_some((question, asked))
            })
            .collect()
    }

    /// How many questions, networks and addresses are counted.
    pub fn count_all(&self) -> (usize, usize, usize) {
        (self.asked.len(), self.nets.all.len(), self.own.len())
    }
}

/// Networks, counted.
#[derive(Debug, Default)]
struct Nets {
    all: BTreeMap<IpNet, usize>,
    /// How many there are of each length, by family.
    lengths: [BTreeMap<u8, usize>; 2],
}

impl Nets {
    /// Counts one more, or one less; returns whether that is the first or the last.
    fn count(&mut self, net: IpNet, more: bool) -> bool {
        let count = self.all.entry(net).or_default();
        let before = *count > 0;
        step(count, more);
        let after = *count > 0;
        if !after {
            self.all.remove(&net);
        }
        if before != after {
            let lengths = &mut self.lengths[usize::from(matches!(net, IpNet::V6(_)))];
            let having = lengths.entry(net.prefix_len()).or_default();
            step(having, more);
            if *having == 0 {
                lengths.remove(&net.prefix_len());
            }
        }
        before != after
    }

    fn contain(&self, ip: IpAddr) -> bool {
        let lengths = &self.lengths[usize::from(ip.is_ipv6())];
        let mut around = lengths.keys().filter_map(|length| IpNet::new(ip, *length).ok());
        around.any(|net| self.all.contains_key(&net.trunc()))
    }
}
