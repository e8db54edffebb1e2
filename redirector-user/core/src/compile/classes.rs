//! Source classes: workloads for which every condition on the source, and every
//! visibility rule, gives the same answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::rules::RuleBook;
use crate::client::{Client, Question, contains};
use crate::model::Labels;
use crate::names::MESH;
use crate::plan::{Class, Source, SourceId};
use crate::registry::{Registry, ServiceKind};

/// Everything that is ever asked about a source.
#[derive(Default)]
struct Questions<'q> {
    namespaces: BTreeSet<&'q str>,
    labels: BTreeSet<&'q Labels>,
    subnets: BTreeSet<IpNet>,
    addresses: BTreeSet<IpAddr>,
}

/// The answers, as far as they are not "no".
#[derive(PartialEq, Eq, PartialOrd, Ord, Default)]
struct Answers<'q> {
    namespace: Option<&'q str>,
    labels: Vec<usize>,
    subnets: Vec<usize>,
    addresses: Vec<IpAddr>,
    bypassed: bool,
}

/// Groups the local workloads into classes. Class 0 is that of unknown callers,
/// and of every workload that answers all questions as they do: with no.
pub(super) fn group(
    registry: &Registry,
    book: &RuleBook<'_>,
) -> (Vec<Class>, BTreeMap<SourceId, Source>) {
    let questions = Questions::new(registry, book);
    let mut classes = vec![Class { example: None }];
    let mut known = BTreeMap::from([(Answers::default(), 0)]);
    let mut sources = BTreeMap::new();
    for workload in registry.workloads.sources() {
        let Some(selector) = workload.source.clone() else { continue };
        let id = SourceId {
            namespace: workload.object.namespace.clone(),
            name: workload.object.name.clone(),
        };
        let client = Client {
            namespace: Some(&workload.object.namespace),
            labels: Some(&workload.labels),
            addresses: &workload.addresses,
            bypassed: registry.settings.bypass.has_workload(&id.namespace, &id.name),
        };
        let class = *known.entry(questions.ask(&client)).or_insert_with(|| {
            classes.push(Class { example: Some(id.clone()) });
            u32::try_from(classes.len() - 1).unwrap_or(u32::MAX)
        });
        let source = Source {
            labels: Labels::clone(&workload.labels),
            addresses: workload.addresses.clone(),
            selector,
            class,
        };
        sources.insert(id, source);
    }
    (classes, sources)
}

impl<'q> Questions<'q> {
    fn new(registry: &'q Registry, book: &'q RuleBook<'_>) -> Self {
        let mut questions = Self::default();
        let mut names = |namespaces: &mut dyn Iterator<Item = &'q Arc<str>>| {
            questions.namespaces.extend(namespaces.map(|name| &**name));
        };
        for service in registry.services() {
            names(&mut service.export.namespaces());
            // In its own namespace it is seen by those who route to it.
            if !service.export.is_public() {
                names(&mut std::iter::once(service.namespace()));
            }
        }
        // Of services that share a host, a client's own namespace's is meant.
        for service in registry.services() {
            if registry.named(&service.host).nth(1).is_some() {
                names(&mut std::iter::once(service.namespace()));
            }
        }
        let rules = registry.rules.all();
        for rule in rules {
            names(&mut rule.export.namespaces());
            names(&mut rule.objects.iter().map(|object| &object.namespace));
        }
        questions.labels.extend(rules.iter().filter_map(|rule| rule.selector.as_ref()));
        if !rules.is_empty() {
            questions.namespaces.insert(&registry.settings.root_namespace);
        }
        // A client to whom a headless service's address is its own meets what
        // else has that address: only where there is something to meet, and
        // something to miss, does it matter who has it.
        let others: BTreeSet<IpNet> =
            registry.services().iter().flat_map(|service| &service.addresses).copied().collect();
        let everywhere = registry.services().iter().any(|service| {
            service.is_entry() && service.addresses.is_empty() && service.rejected.is_none()
        });
        let wide: Vec<&IpNet> =
            others.iter().filter(|prefix| prefix.prefix_len() < prefix.max_prefix_len()).collect();
        for service in registry.services() {
            if service.kind != ServiceKind::Headless {
                continue;
            }
            let ruled = everywhere || !book.for_host(&service.host).is_empty();
            for endpoint in service.ports.iter().flat_map(|port| &port.endpoints) {
                let ip = endpoint.ip;
                if ruled
                    || others.contains(&IpNet::from(ip))
                    || wide.iter().any(|prefix| prefix.contains(&ip))
                {
                    questions.addresses.insert(ip);
                }
            }
        }
        for sheet in &book.sheets {
            if !sheet.gateways.iter().any(|gateway| gateway == MESH) {
                continue;
            }
            questions.namespaces.extend(sheet.export.namespaces().map(|name| &**name));
            for block in sheet.tcp.iter().flat_map(|rule| &rule.blocks) {
                let l4 = block.l4;
                if !l4.source_namespace.is_empty() {
                    questions.namespaces.insert(&l4.source_namespace);
                }
                if !l4.source_labels.is_empty() {
                    questions.labels.insert(&l4.source_labels);
                }
                questions.subnets.extend(l4.source_subnet);
            }
        }
        questions
    }

    fn ask(&self, client: &Client<'q>) -> Answers<'q> {
        let labels = client.labels;
        Answers {
            namespace: client.namespace.filter(|namespace| self.namespaces.contains(namespace)),
            labels: (self.labels.iter().enumerate())
                .filter(|(_, wanted)| labels.is_some_and(|labels| contains(labels, wanted)))
                .map(|(index, _)| index)
                .collect(),
            subnets: (self.subnets.iter().enumerate())
                .filter(|(_, subnet)| client.answer(&Question::Within(**subnet)))
                .map(|(index, _)| index)
                .collect(),
            addresses: (client.addresses.iter().copied())
                .filter(|address| self.addresses.contains(address))
                .collect(),
            bypassed: client.bypassed,
        }
    }
}
