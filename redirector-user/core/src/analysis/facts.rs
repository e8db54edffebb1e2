//! What the analyzers look things up in: built once, so that no question costs
//! a walk over all objects.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::examine::Examined;
use super::{Around, Refused};
use crate::decode::templates::PodTemplate;
use crate::diag::nearest;
use crate::model::annotations;
use crate::model::{EndpointSlice, Gateway, Kind, Labels, Object, ObjectRef, Resolution};
use crate::names::{HostIndex, complete_host};
use crate::registry::{ExportTo, Protocol, Registry, Service, is_given};
use crate::rules::{Claims, RuleBook, RuleSet};
use crate::validate::names::is_dns_label;
use crate::world::World;

/// How many names are compared in all to find what somebody may have meant.
const SUGGESTION_BUDGET: usize = 300_000;

/// How many matches are compared with others for the objects of one namespace, and for all.
const COMPARISON_BUDGET: usize = 20_000_000;
const COMPARISON_BUDGET_OF_ALL: usize = 200_000_000;

/// Labels of a node that its Pods count as having.
const TOPOLOGY: [&str; 3] = [annotations::REGION, annotations::ZONE, annotations::SUBZONE];

/// A service as Istio's analyzers know it.
#[derive(Clone)]
pub(super) struct Known {
    /// The Service or ServiceEntry.
    pub object: ObjectRef,
    /// Its ports, whatever their protocol.
    pub ports: Vec<u16>,
}

/// Everything looked up by the analyzers.
pub(super) struct Facts<'w> {
    pub world: &'w World,
    pub registry: &'w Registry,
    /// What connections meet.
    pub examined: &'w Examined,
    /// The rules in their order.
    pub book: RuleBook,
    /// By scope (a namespace, or `*`) and full host.
    scoped: HashMap<String, Arc<Known>>,
    /// Wildcard hosts of `scoped`: scope, suffix.
    wild: Vec<(String, String, Arc<Known>)>,
    /// Hosts of all services, for suggestions and for visibility.
    pub hosts: BTreeSet<String>,
    /// The registry's services by host.
    services: HostIndex<&'w Service>,
    /// Labels of Pods, with those of their nodes; of templates; of
    /// WorkloadEntries.
    pods: Carriers,
    templates: Carriers,
    entries: Carriers,
    /// See [`namespaces`](Self::namespaces).
    namespaces: BTreeSet<Arc<str>>,
    /// The Services of EndpointSlices that are not joined with them.
    unjoined: HashSet<ObjectRef>,
    /// Of objects that were refused, what others say of them.
    refused: &'w Refused,
    /// See [`Around`].
    pub is_all: bool,
    /// Addresses of workloads and of endpoints, where somebody was before.
    addresses: BTreeSet<IpAddr>,
    /// See [`claims`](Self::claims).
    claims: OnceCell<Claims>,
    budget: Cell<usize>,
    comparisons: RefCell<Comparisons>,
}

/// What was compared, so that no namespace keeps another's objects from being looked at.
#[derive(Default)]
struct Comparisons {
    of_all: usize,
    of_namespace: HashMap<String, usize>,
    /// Namespaces for whose objects there were too many.
    ran_out: BTreeSet<String>,
}

/// Things that carry labels, found by label.
#[derive(Default)]
pub(super) struct Carriers {
    all: Vec<(Arc<str>, Labels)>,
    by_label: HashMap<(String, String), Vec<usize>>,
}

impl Carriers {
    fn add(&mut self, namespace: Arc<str>, labels: Labels) {
        for (key, value) in &labels {
            self.by_label
                .entry((key.to_owned(), value.to_owned()))
                .or_default()
                .push(self.all.len());
        }
        self.all.push((namespace, labels));
    }

    /// Those that carry all of these labels: namespace and labels.
    pub fn selected(&self, wanted: &Labels) -> Vec<&(Arc<str>, Labels)> {
        let rarest = wanted
            .iter()
            .map(|(key, value)| {
                self.by_label
                    .get(&(key.to_owned(), value.to_owned()))
                    .map_or(&[][..], Vec::as_slice)
            })
            .min_by_key(|indices| indices.len());
        let has_all = |labels: &Labels| wanted.iter().all(|(k, v)| labels.get(k) == Some(v));
        match rarest {
            None => self.all.iter().collect(),
            Some(indices) => indices
                .iter()
                .filter_map(|&index| self.all.get(index))
                .filter(|(_, labels)| has_all(labels))
                .collect(),
        }
    }

    /// Whether any carries all of these labels.
    pub fn any(&self, wanted: &Labels) -> bool {
        if wanted.is_empty() { !self.all.is_empty() } else { !self.selected(wanted).is_empty() }
    }
}

impl<'w> Facts<'w> {
    pub fn new(
        world: &'w World,
        registry: &'w Registry,
        around: &'w Around,
        examined: &'w Examined,
    ) -> Self {
        let mut facts = Self {
            world,
            registry,
            examined,
            book: RuleBook::new(world, registry),
            scoped: HashMap::new(),
            wild: Vec::new(),
            hosts: BTreeSet::new(),
            services: HostIndex::default(),
            pods: Carriers::default(),
            templates: Carriers::default(),
            entries: Carriers::default(),
            namespaces: namespaces(world),
            unjoined: unjoined(world)
                .filter_map(|(object, slice, _)| slice.of(&object.meta.namespace))
                .collect(),
            refused: &around.refused,
            is_all: around.is_all,
            addresses: somebodys(registry),
            claims: OnceCell::new(),
            budget: Cell::new(SUGGESTION_BUDGET),
            comparisons: RefCell::default(),
        };
        facts.scopes();
        for service in registry.services() {
            facts.services.insert(&service.host, service);
        }
        facts.carriers(around.templates.iter().chain(&around.refused.pods));
        facts
    }

    /// Whether an address was allocated to a ServiceEntry, as one of each family is, whatever its
    /// endpoints are.
    pub fn is_allocated(&self, entry: &ObjectRef, address: IpAddr) -> bool {
        let entry = self.world.get(entry).and_then(|object| object.spec.service_entry());
        entry.is_some_and(|entry| {
            let in_a_cluster = entry.allocated.iter().any(|(_, ip)| *ip == address);
            entry.addresses.is_empty() && (in_a_cluster || is_given(&address))
        })
    }

    /// Where an address of a service is written.
    pub fn place_of(&self, service: &ObjectRef, address: IpAddr) -> &'static str {
        match service.kind {
            Kind::ServiceEntry if self.is_allocated(service, address) => "status.addresses",
            Kind::ServiceEntry => "spec.addresses",
            _ => "spec.clusterIP",
        }
    }

    fn domain(&self) -> &'w str {
        &self.world.settings.cluster_domain
    }

    /// Services and ServiceEntries by the scopes that they are exported to.
    fn scopes(&mut self) {
        let (registry, domain) = (self.registry, self.domain());
        for service in registry.services() {
            let host = complete_host(&service.host, service.namespace(), domain);
            let known = Arc::new(Known {
                object: service.object.clone(),
                ports: service.ports.iter().map(|port| port.number).collect(),
            });
            for scope in scopes(&service.export) {
                self.know(scope, &host, &known);
            }
            self.hosts.insert(host.into_owned());
        }
    }

    fn know(&mut self, scope: &str, host: &str, known: &Arc<Known>) {
        // Of several with one host the ports are pooled.
        let there = self.scoped.entry(format!("{scope}/{host}")).or_insert_with(|| known.clone());
        if there.object != known.object {
            let pooled = Arc::make_mut(there);
            pooled.ports.extend(&known.ports);
            pooled.ports.sort_unstable();
            pooled.ports.dedup();
        }
        if let Some(suffix) = host.strip_prefix('*') {
            self.wild.push((scope.to_owned(), suffix.to_owned(), known.clone()));
        }
    }

    fn carriers<'a>(&mut self, templates: impl Iterator<Item = &'a PodTemplate>) {
        let mut nodes: HashMap<&str, &Object> = HashMap::new();
        for object in self.world.of_kind(Kind::Node) {
            nodes.insert(&object.meta.name, object);
        }
        for (object, pod) in self.world.pods() {
            let mut labels = object.meta.labels.clone();
            if let Some(node) = nodes.get(&*pod.node) {
                for key in TOPOLOGY {
                    if let Some(value) = node.meta.labels.get(key) {
                        labels.insert(key, value);
                    }
                }
                labels.insert(annotations::HOSTNAME, &pod.node);
            }
            self.pods.add(object.meta.namespace.clone(), labels);
        }
        for template in templates {
            self.pods.add(template.namespace.clone(), template.labels.clone());
            self.templates.add(template.namespace.clone(), template.labels.clone());
        }
        for (object, entry) in self.world.workload_entries() {
            let mut labels = entry.labels.clone();
            labels.extend(&object.meta.labels);
            self.entries.add(object.meta.namespace.clone(), labels);
        }
    }

    /// Whether a workload or an endpoint has an address of this network.
    pub fn has_address_in(&self, net: &IpNet) -> bool {
        self.addresses.range(net.network()..=net.broadcast()).next().is_some()
    }

    /// Whether a service with this host was refused, which is told there.
    pub fn refused_service(&self, full: &str) -> bool {
        self.refused.services.contains(full)
    }

    /// Whether a DestinationRule for this host was.
    pub fn refused_rule(&self, full: &str) -> bool {
        self.refused.rules.contains(full)
    }

    /// Whether a Gateway of this full name was.
    pub fn refused_gateway(&self, full: &str) -> bool {
        self.refused.gateways.contains(full)
    }

    /// Whether a VirtualService that is bound to a Gateway of this full name was.
    pub fn refused_rules_at(&self, gateway: &str) -> bool {
        self.refused.bound.contains(gateway)
    }

    /// Pods, and what promises Pods.
    pub fn pods(&self) -> &Carriers {
        &self.pods
    }

    /// Whether it is known, or told of others, why a Service has no endpoint: something
    /// promises Pods, or its EndpointSlices are not joined with it or were refused.
    pub fn lost_elsewhere(&self, service: &ObjectRef) -> bool {
        self.unjoined.contains(service)
            || self.refused.endpoints.contains(service)
            || self.promised(service)
    }

    /// Whether a Deployment or the like promises Pods that a Service will
    /// select, or such a Pod was refused.
    fn promised(&self, service: &ObjectRef) -> bool {
        let spec = self.world.get(service).and_then(|object| object.spec.service());
        let Some(spec) = spec else { return false };
        !spec.selector.is_empty()
            && self
                .templates
                .selected(&spec.selector)
                .iter()
                .any(|(namespace, _)| *namespace == service.namespace)
    }

    /// Whether no other document can add an endpoint: all of a STATIC ServiceEntry
    /// without selector are written in it.
    pub fn complete(&self, service: &ObjectRef) -> bool {
        let entry = self.world.get(service).and_then(|object| object.spec.service_entry());
        entry.is_some_and(|entry| {
            entry.resolution == Resolution::Static && entry.workload_selector.is_none()
        })
    }

    /// WorkloadEntries.
    pub fn entries(&self) -> &Carriers {
        &self.entries
    }

    /// The namespaces that have an object of their own, and those in which there is
    /// something; empty when none has.
    pub fn namespaces(&self) -> &BTreeSet<Arc<str>> {
        &self.namespaces
    }

    /// Why nobody can be in a namespace, as far as that is known.
    pub fn nobody_in(&self, namespace: &str) -> Option<String> {
        if !is_dns_label(namespace) || namespace.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Some(format!("\"{namespace}\" is not the name of a namespace"));
        }
        let is_known = self.namespaces.is_empty() || self.namespaces.contains(namespace);
        (!is_known).then(|| format!("there is no namespace \"{namespace}\" in the documents"))
    }

    /// "did you mean": the namespace that may have been meant.
    pub fn suggest_namespace(&self, namespace: &str) -> Option<&str> {
        nearest(namespace, self.namespaces.iter().map(|name| &**name))
    }

    /// Whether any Pod or WorkloadEntry is known at all.
    pub fn knows_workloads(&self) -> bool {
        !self.pods.all.is_empty() || !self.entries.all.is_empty()
    }

    /// Whose each address is, made when it is asked for first.
    pub fn claims(&self) -> &Claims {
        self.claims.get_or_init(|| Claims::new(self.registry))
    }

    /// Pays for comparisons for the objects of a namespace; `false` when the budget does not
    /// allow them.
    pub fn spend(&self, namespace: &str, comparisons: usize) -> bool {
        let spent = &mut *self.comparisons.borrow_mut();
        if !spent.of_namespace.contains_key(namespace) {
            spent.of_namespace.insert(namespace.to_owned(), 0);
        }
        let of_all = spent.of_all.saturating_add(comparisons);
        let Some(own) = spent.of_namespace.get_mut(namespace) else { return false };
        let of_one = own.saturating_add(comparisons);
        let may = of_one <= COMPARISON_BUDGET && of_all <= COMPARISON_BUDGET_OF_ALL;
        if may {
            (*own, spent.of_all) = (of_one, of_all);
        } else if !spent.ran_out.contains(namespace) {
            spent.ran_out.insert(namespace.to_owned());
        }
        may
    }

    /// The namespaces of whose objects not all was compared.
    pub fn not_compared(self) -> BTreeSet<String> {
        self.comparisons.into_inner().ran_out
    }

    /// The service that a host in an object of `namespace`, exported to
    /// `export_to`, means to Istio's analyzers.
    pub fn destination(&self, namespace: &str, export_to: &[String], host: &str) -> Option<&Known> {
        let full = complete_host(host, namespace, self.domain());
        let find = |scope: &str| self.scoped.get(&format!("{scope}/{full}"));
        if let Some(known) = find("*") {
            return Some(known);
        }
        let found = if export_to.is_empty() {
            find(namespace)
        } else {
            export_to
                .iter()
                .find_map(|scope| find(if scope == "." { namespace } else { scope.as_str() }))
        };
        if let Some(known) = found {
            return Some(known);
        }
        let bare = host.strip_prefix('*').unwrap_or(host);
        self.wild
            .iter()
            .find(|(scope, suffix, _)| {
                (scope == "*" || scope == namespace) && bare.ends_with(suffix.as_str())
            })
            .map(|(_, _, known)| &**known)
    }

    /// A host completed with the namespace of the object that it stands in.
    pub fn full_host(&self, host: &str, namespace: &str) -> String {
        complete_host(host, namespace, self.domain()).into_owned()
    }

    /// "did you mean": the host that may have been meant.
    pub fn suggest_host(&self, host: &str, namespace: &str) -> Option<String> {
        // echo.default and echo.default.svc are not completed.
        let domain = self.domain();
        let stem = host.strip_suffix(".svc").unwrap_or(host);
        let completed = format!("{stem}.svc.{domain}");
        if self.hosts.contains(&completed) {
            return Some(completed);
        }
        let full = complete_host(host, namespace, domain).into_owned();
        let left = self.budget.get();
        if left < self.hosts.len() {
            return None;
        }
        self.budget.set(left - self.hosts.len());
        // The same name in another namespace is likelier than a similar one.
        let label = full.split('.').next().unwrap_or_default();
        let prefix = format!("{label}.");
        let same_name =
            self.hosts.range(prefix.clone()..).take_while(|known| known.starts_with(&prefix));
        if let Some(known) = same_name.into_iter().find(|known| **known != full) {
            return Some(known.clone());
        }
        // Only what differs is compared: all names of a namespace end alike.
        let mut best: Option<(usize, &String)> = None;
        for known in &self.hosts {
            let (mine, theirs) = differing(&full, known);
            if nearest(mine, [theirs]).is_some() {
                let distance = strsim::levenshtein(mine, theirs);
                if best.is_none_or(|(least, _)| distance < least) {
                    best = Some((distance, known));
                }
            }
        }
        best.map(|(_, known)| known.clone())
    }

    /// The services that have the hosts of a VirtualService.
    pub fn having(&self, set: &RuleSet) -> Vec<&'w Service> {
        set.hosts.iter().flat_map(|host| self.services_of(host)).collect()
    }

    /// Those of a host's ports to which connections can go.
    pub fn tcp_ports(&self, ports: &[u16], host: &str, namespace: &str) -> Vec<u16> {
        let services = self.services_of(&self.full_host(host, namespace));
        let all = services.iter().flat_map(|service| &service.ports);
        let others = all.filter(|port| port.protocol == Protocol::Other);
        let others: BTreeSet<u16> = others.map(|port| port.number).collect();
        ports.iter().filter(|port| !others.contains(port)).copied().collect()
    }

    /// Whether the documents know the node that they are judged for: the name of a machine
    /// that only judges them says nothing.
    pub fn knows_node(&self) -> bool {
        let Some(node) = self.world.settings.node_name.as_deref() else { return false };
        let of_pods = || self.world.pods().any(|(_, pod)| *pod.node == *node);
        self.world.of_kind(Kind::Node).any(|object| *object.meta.name == *node)
            || of_pods()
            || (self.registry.services().flat_map(|service| &service.ports))
                .flat_map(|port| &port.endpoints)
                .any(|endpoint| endpoint.node.as_deref() == Some(node))
    }

    /// Whether a service that a client may mean by a full host has several ports: those of
    /// other namespaces are others.
    pub fn has_several_ports(&self, host: &str) -> bool {
        let services = self.registry.named(host);
        services.is_empty() || services.iter().any(|service| service.ports.len() > 1)
    }

    /// A Gateway, by its full name.
    pub fn gateway(&self, full: &str) -> Option<(&'w Object, &'w Gateway)> {
        let (namespace, name) = full.split_once('/')?;
        let object = self.world.find(Kind::Gateway, namespace, name)?;
        Some((object, object.spec.gateway()?))
    }

    /// The registry's services whose host matches, the oldest first.
    pub fn services_of(&self, host: &str) -> Vec<&'w Service> {
        let mut services: Vec<&Service> =
            self.services.matching(host).into_iter().copied().collect();
        services.sort_unstable_by_key(|service| service.age());
        services.dedup_by_key(|service| service.age());
        services
    }
}

fn namespaces(world: &World) -> BTreeSet<Arc<str>> {
    let objects = world.of_kind(Kind::Namespace).map(|object| object.meta.name.clone());
    let mut namespaces: BTreeSet<Arc<str>> = objects.collect();
    if !namespaces.is_empty() {
        namespaces.extend(world.objects().map(|object| object.meta.namespace.clone()));
    }
    namespaces
}

/// The addresses of all workloads and endpoints.
fn somebodys(registry: &Registry) -> BTreeSet<IpAddr> {
    let workloads = registry.workloads.all().flat_map(|workload| &workload.addresses).copied();
    let ports = registry.services().flat_map(|service| &service.ports);
    let endpoints = ports.flat_map(|port| &port.endpoints).map(|endpoint| endpoint.ip);
    workloads.chain(endpoints).collect()
}

/// Two names without the labels at their ends that are equal.
fn differing<'n>(a: &'n str, b: &'n str) -> (&'n str, &'n str) {
    let (mut a, mut b) = (a, b);
    while let (Some((front_a, last_a)), Some((front_b, last_b))) =
        (a.rsplit_once('.'), b.rsplit_once('.'))
    {
        if last_a != last_b {
            break;
        }
        (a, b) = (front_a, front_b);
    }
    (a, b)
}

/// The scopes of an `exportTo`: `*`, or namespaces.
pub(super) fn scopes(export: &ExportTo) -> impl Iterator<Item = &str> {
    export.is_public().then_some("*").into_iter().chain(export.namespaces().map(|name| &**name))
}

/// EndpointSlices whose ports are named otherwise than those of their Service, by which they
/// are joined, with that.
pub(super) fn unjoined(
    world: &World,
) -> impl Iterator<Item = (&Arc<Object>, &EndpointSlice, &crate::model::Service)> {
    world.endpoint_slices().filter_map(|(object, slice)| {
        let service = world.find(Kind::Service, &object.meta.namespace, &slice.service)?;
        let service = service.spec.service()?;
        let known = |name: &str| service.ports.iter().any(|port| port.name == name);
        let joined = slice.ports.iter().any(|port| known(&port.name));
        (!slice.endpoints.is_empty() && !joined).then_some((object, slice, service))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::examine::examine;
    use crate::world::Settings;

    #[test]
    fn what_is_compared_for_one_namespace_leaves_others_theirs_and_that_it_was_too_much_is_said() {
        let world = World::new(Settings::default());
        let mut registry = Registry::new(&world);
        let mut examined = examine(&world, &mut registry);
        let around = Around::default();
        let facts = Facts::new(&world, &registry, &around, &examined);
        assert!(facts.spend("a", COMPARISON_BUDGET));
        assert!(facts.spend("b", COMPARISON_BUDGET));
        assert!(!facts.spend("a", 1) && facts.spend("c", 1));
        let not_compared = facts.not_compared();
        assert_eq!(not_compared, BTreeSet::from(["a".to_owned()]));
        assert!(examined.not_examined().is_empty());
        examined.not_compared = not_compared;
        let told = examined.not_examined();
        assert!(told[0].message.contains("too much in the namespace a to compare"), "{told:?}");
        assert_eq!((told[0].code, told.len()), ("RD3025", 1));
    }
}
