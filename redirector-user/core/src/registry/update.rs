//! From one registry to the next: what changed goes through the stages in their order
//! (what can be an endpoint, services, hosts, DestinationRules, workloads), and none of
//! them looks at what it does not concern. A registry is built by the same, from none.
//!
//! More than what changed is looked at where a node comes, goes or moves (all pods),
//! where a DestinationRule with a wildcard changes (all hosts), where a selector asks
//! for a key of labels that none of its namespace asked for (the workloads of the
//! namespace), where an address comes to or goes from Services, the API server or the
//! node (all names that are resolved), and where the settings change (everything).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::builder;
use super::edit::{Edit, of_kind};
use super::hosts::{Host, change};
use super::service::Service;
use super::{Changed, DestinationRules, HostChange, Locality, Registry, Workloads};
use crate::budget::Over;
use crate::model::bypass::Bypass;
use crate::model::{Kind, Object, ObjectRef};
use crate::store::Replaced;
use crate::world::{Answer, Changes, ServiceAddresses, Settings, World};

/// The services that objects have of hosts now.
type Made = BTreeMap<(Arc<str>, ObjectRef), Vec<Service>>;

impl Registry {
    /// Builds the registry of a World.
    pub fn new(world: &World) -> Self {
        Self::build(world).0
    }

    fn build(world: &World) -> (Self, Changed) {
        let mut registry = Self {
            settings: world.settings.clone(),
            hosts: Default::default(),
            rules: DestinationRules::new(&world.settings),
            workloads: Workloads::default(),
            backing: Default::default(),
            owned: Default::default(),
            ledger: Default::default(),
            names: Default::default(),
            locality: Locality::default(),
        };
        let all = world.by_reference();
        let all: Vec<Edit<'_>> = all
            .map(|(reference, object)| Edit { reference, before: None, after: Some(object) })
            .collect();
        let changed = registry.advance(world, &all, std::iter::empty());
        (registry, changed)
    }

    /// Makes it the registry of this World, which is that of before with these changes.
    pub fn update(&mut self, world: &World, changes: &Changes) -> Changed {
        let others = changes.settings.as_ref().is_some_and(|settings| {
            // These concern what is made of services, and no service.
            let without = |settings: &Settings| Settings {
                bypass: Bypass::default(),
                services: ServiceAddresses::default(),
                node_addresses: BTreeSet::new(),
                ..settings.clone()
            };
            without(settings) != without(&self.settings)
        });
        if others {
            let (after, Changed { work, .. }) = Self::build(world);
            let before = std::mem::replace(self, after);
            return Changed { work, ..Changed::between(&before, self) };
        }
        let edits = changes.objects.iter().map(|(reference, Replaced { before, after })| Edit {
            reference,
            before: before.as_ref(),
            after: after.as_ref(),
        });
        let edits: Vec<Edit<'_>> = edits.collect();
        let mut changed = self.advance(world, &edits, changes.names.keys());
        if let Some(settings) = &changes.settings {
            changed.whole |= self.means_else(settings);
            self.settings.clone_from(settings);
        }
        changed
    }

    /// Whether these services mean anything else under other settings: of those as they are
    /// only claims to every address ask which the node has.
    pub(super) fn means_else(&self, settings: &Settings) -> bool {
        let without =
            |settings: &Settings| Settings { node_addresses: BTreeSet::new(), ..settings.clone() };
        self.settings != *settings
            && (without(&self.settings) != without(settings)
                || self.services().any(|service| service.claims_everywhere()))
    }

    fn advance<'e>(
        &mut self,
        world: &World,
        edits: &[Edit<'_>],
        names: impl Iterator<Item = &'e Arc<str>>,
    ) -> Changed {
        let mut changed = Changed::default();
        let owners = || {
            let entries = of_kind(edits, Kind::ServiceEntry).iter();
            entries.chain(of_kind(edits, Kind::Service))
        };
        // What can be an endpoint, and of whom.
        let moved = self.backing.change_nodes(of_kind(edits, Kind::Node));
        let mut names = names.peekable();
        let mut concerned = BTreeSet::new();
        if names.peek().is_some() {
            // What is left out for its names asks for none, but another may have the same: it
            // is counted by what they resolve to, for when there is room for it.
            let left_out = self.ledger.all_over().filter(|(_, over)| !over.resolves());
            concerned.extend(left_out.map(|(owner, _)| owner.clone()));
        }
        concerned.extend(names.flat_map(|name| self.names.with(name)).cloned());
        let given = of_kind(edits, Kind::Service).iter();
        let slices = of_kind(edits, Kind::EndpointSlice).iter();
        let mut others = self.owned.services.change(given.chain(slices));
        let own = [&self.settings, &world.settings].map(|one| &one.node_addresses);
        others.extend(own[0].symmetric_difference(own[1]));
        if !others.is_empty() {
            let has = |name: &&Arc<str>| {
                let mut all = world.answer(name).into_iter().flat_map(Answer::all);
                all.any(|ip| others.contains(&ip.to_canonical()))
            };
            let with = self.names.all().filter(has).flat_map(|name| self.names.with(name));
            concerned.extend(with.cloned());
        }
        if world.settings.allocates {
            for (namespace, host) in self.owned.given.change(owners()) {
                let own = self.hosts.get(&host).into_iter().flat_map(Host::own);
                let own = own.filter(|service| *service.namespace() == namespace);
                concerned.extend(own.map(|service| service.object.clone()));
            }
        }
        if !moved.is_empty() {
            self.backing.move_pods(world, &moved, &mut concerned);
        }
        for edit in owners() {
            self.backing.change_selector(edit);
            concerned.insert(edit.reference.clone());
        }
        for edit in of_kind(edits, Kind::WorkloadEntry) {
            self.backing.change_entry(world, edit, &mut concerned);
        }
        for edit in of_kind(edits, Kind::Pod) {
            self.backing.change_pod(world, edit, &mut concerned);
        }
        for edit in of_kind(edits, Kind::EndpointSlice) {
            self.backing.change_slice(edit, &mut concerned);
        }
        let was = |owner: &ObjectRef| {
            let edit = edits.binary_search_by(|edit| edit.reference.cmp(owner)).ok();
            let edit = edit.and_then(|at| edits.get(at));
            edit.map_or_else(|| world.get(owner), |edit| edit.before)
        };
        // What they ask for, and who is left out by that.
        let mut entry = self.ledger.enter(&world.settings.budgets);
        of_kind(edits, Kind::VirtualService).iter().for_each(|edit| entry.rules(edit));
        for owner in &concerned {
            entry.services(world, &self.backing, owner, was(owner));
        }
        for object in entry.settle(world, &self.hosts) {
            match object.kind {
                Kind::VirtualService => _ = changed.rules.insert(object),
                _ => _ = concerned.insert(object),
            }
        }
        // Their services, and what they come to by host.
        let mut made = Made::new();
        let mut names = BTreeMap::new();
        for owner in &concerned {
            changed.work.services += self.make(world, owner, was(owner), &mut made, &mut names);
        }
        changed.names = names.iter().any(|(name, was)| self.names.has(name) != *was);
        let mut made = made.into_iter().peekable();
        while let Some(((host, owner), services)) = made.next() {
            let mut of_host = vec![(owner, services)];
            while let Some(((_, owner), services)) = made.next_if(|((next, _), _)| *next == host) {
                of_host.push((owner, services));
            }
            if let Some((host, change)) = self.replace(host, of_host) {
                changed.hosts.insert(host, change);
            }
        }
        for host in self.rules.update(world, of_kind(edits, Kind::DestinationRule)) {
            let hosts = self.hosts_matching(&host).into_iter();
            changed.hosts.extend(hosts.map(|host| (host.clone(), HostChange::Everything)));
        }
        let workloads = of_kind(edits, Kind::WorkloadEntry).iter();
        let workloads = workloads.chain(of_kind(edits, Kind::Pod));
        changed.workloads = self.workloads.update(world, workloads);
        if !moved.is_empty() || !changed.workloads.is_empty() {
            let locality = self.locate(world);
            changed.whole = self.locality != locality;
            self.locality = locality;
        }
        changed
    }

    /// Makes the services of an object again, and returns how many there are. It `was`
    /// this before. Which `names` there were is kept.
    fn make(
        &mut self,
        world: &World,
        owner: &ObjectRef,
        was: Option<&Arc<Object>>,
        made: &mut Made,
        names: &mut BTreeMap<Arc<str>, bool>,
    ) -> usize {
        let domain = &world.settings.cluster_domain;
        for host in was.map(|object| builder::hosts(object, domain)).unwrap_or_default() {
            made.entry((host, owner.clone())).or_default();
        }
        let (object, over) = (world.get(owner), self.ledger.over(owner));
        let resolved = object.filter(|_| over.is_none_or(Over::resolves));
        let own_names = resolved.map(|object| builder::names(&self.backing, object));
        let own_names = own_names.unwrap_or_default();
        let services = object.map(|object| match over {
            Some(over) => builder::left_out(world, object, over),
            None => builder::services(world, (&self.backing, &self.owned), object, &own_names),
        });
        self.names.set(owner, own_names, names);
        let mut count = 0;
        for service in services.into_iter().flatten() {
            count += 1;
            made.entry((service.host.clone(), owner.clone())).or_default().push(service);
        }
        count
    }

    /// Gives objects these services of a host, and returns what that changes.
    fn replace(
        &mut self,
        host: Arc<str>,
        mut services: Vec<(ObjectRef, Vec<Service>)>,
    ) -> Option<(Arc<str>, HostChange)> {
        // Its name is kept once.
        let host = self.hosts.get_key_value(&host).map_or(host, |(known, _)| known.clone());
        let all = services.iter_mut().flat_map(|(_, services)| services);
        all.for_each(|service| service.host = host.clone());
        let of_host = self.hosts.entry(host.clone()).or_default();
        let before = of_host.replace(services);
        if of_host.is_empty() {
            self.hosts.remove(&host);
        }
        let change = change(&before?, self.named(&host))?;
        Some((host, change))
    }

    /// Where the node is, or else where the local workloads say that they are, when
    /// they all say the same: a plain machine has no Node to ask.
    fn locate(&self, world: &World) -> Locality {
        let node = world.settings.node_name.as_deref();
        let node = node.and_then(|node| self.backing.node(node));
        node.or_else(|| self.workloads.locality()).cloned().unwrap_or_default()
    }
}
