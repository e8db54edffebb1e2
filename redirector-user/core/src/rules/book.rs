//! The rules of VirtualServices, in their total order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use redirector_common::abi::MAX_LEGS;

use super::condition::{Block, Dial, ServerName};
use crate::client::Asker;
use crate::model::{
    HttpRule, Object, ObjectRef, RouteDestination, RuleId, RuleList, VirtualService,
};
use crate::names::{HostIndex, MESH, complete_gateway, complete_host};
use crate::registry::{ExportTo, Reach, Registry, age};
use crate::world::World;

/// All rules, found by host or by gateway.
#[derive(Debug, Default)]
pub(crate) struct RuleBook {
    sets: BTreeMap<Age, Box<RuleSet>>,
    /// What each VirtualService is found under.
    ages: HashMap<ObjectRef, Age>,
    /// Those bound to the mesh, by host.
    mesh: HostIndex<Age>,
    /// By the full name of a gateway.
    gateways: HashMap<String, BTreeSet<Age>>,
    /// VirtualServices that go beyond a limit, and why.
    pub rejected: BTreeMap<ObjectRef, String>,
}

/// The total order of VirtualServices: the oldest first, then by name and namespace.
type Age = (Option<i64>, Arc<str>, Arc<str>);

/// The rules of one VirtualService.
#[derive(Debug)]
pub(crate) struct RuleSet {
    pub object: Arc<Object>,
    pub reference: ObjectRef,
    pub export: ExportTo,
    /// Full names; `mesh` when nothing is said.
    pub gateways: Vec<String>,
    /// Full names.
    pub hosts: Vec<String>,
    /// The `tcp` rules.
    pub tcp: Vec<Rule>,
    /// The `tls` rules.
    pub tls: Vec<Rule>,
    /// The first `http` rule, when it could be honoured at L4, or else why not.
    pub http: Result<Rule, String>,
}

/// A rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub id: RuleId,
    /// In the object's file; 0 when unknown.
    pub line: u32,
    /// Any of these must hold; without any it matches everything.
    pub blocks: Vec<Block>,
}

impl RuleBook {
    /// The rules of a World.
    pub fn new(world: &World, registry: &Registry) -> Self {
        let mut book = Self::default();
        for (object, _) in world.virtual_services() {
            book.put(object, registry);
        }
        book
    }

    /// Puts a VirtualService in, or leaves it out where it goes beyond a limit or a budget.
    /// Returns what it said before.
    pub fn put(&mut self, object: &Arc<Object>, registry: &Registry) -> Option<RuleSet> {
        let reference = object.reference();
        let before = self.remove(&reference);
        let Some(spec) = object.spec.virtual_service() else { return before };
        let over = registry.over(&reference).map(ToString::to_string);
        if let Some(reason) = over.or_else(|| beyond_limit(spec)) {
            self.rejected.insert(reference, reason);
            return before;
        }
        let set = RuleSet::new(object, spec, &registry.settings.cluster_domain);
        let age = age(&object.meta);
        if set.is_for_mesh() {
            for host in &set.hosts {
                self.mesh.insert(host, age.clone());
            }
        }
        for gateway in &set.gateways {
            self.gateways.entry(gateway.clone()).or_default().insert(age.clone());
        }
        self.ages.insert(reference, age.clone());
        self.sets.insert(age, Box::new(set));
        before
    }

    /// Takes a VirtualService out. Returns what it said.
    pub fn remove(&mut self, object: &ObjectRef) -> Option<RuleSet> {
        self.rejected.remove(object);
        let age = self.ages.remove(object)?;
        let set = self.sets.remove(&age)?;
        if set.is_for_mesh() {
            for host in &set.hosts {
                self.mesh.edit(host, |ages| ages.retain(|one| *one != age));
            }
        }
        for gateway in &set.gateways {
            if let Some(bound) = self.gateways.get_mut(gateway) {
                bound.remove(&age);
                if bound.is_empty() {
                    self.gateways.remove(gateway);
                }
            }
        }
        Some(*set)
    }

    /// What a VirtualService says.
    pub fn get(&self, object: &ObjectRef) -> Option<&RuleSet> {
        Some(self.sets.get(self.ages.get(object)?)?)
    }

    /// All of them, the oldest first.
    pub fn sets(&self) -> impl Iterator<Item = &RuleSet> {
        self.sets.values().map(|set| &**set)
    }

    /// Those bound to the mesh that are for a host, in order of age.
    pub fn for_host(&self, host: &str) -> Vec<&RuleSet> {
        let found: BTreeSet<&Age> = self.mesh.matching(host).into_iter().collect();
        found.into_iter().filter_map(|age| Some(&**self.sets.get(age)?)).collect()
    }

    /// Whether some bound to the mesh are for a host.
    pub fn is_for_host(&self, host: &str) -> bool {
        !self.mesh.matching(host).is_empty()
    }

    /// Those bound to a gateway, in order of age.
    pub fn for_gateway(&self, gateway: &str) -> Vec<&RuleSet> {
        let bound = self.gateways.get(gateway).into_iter().flatten();
        bound.filter_map(|age| Some(&**self.sets.get(age)?)).collect()
    }
}

impl RuleSet {
    fn new(object: &Arc<Object>, spec: &VirtualService, cluster_domain: &str) -> Self {
        let namespace = &object.meta.namespace;
        let reference = object.reference();
        let rule = |list, index: usize, line, blocks| Rule {
            id: RuleId {
                object: reference.clone(),
                list,
                index: u32::try_from(index).unwrap_or(u32::MAX),
            },
            line,
            blocks,
        };
        let tcp = spec.tcp.iter().enumerate().map(|(index, tcp)| {
            let blocks = tcp.matches.iter().map(|l4| Block::new(l4, &[], namespace));
            rule(RuleList::Tcp, index, tcp.line, blocks.collect())
        });
        let tls = spec.tls.iter().enumerate().map(|(index, tls)| {
            let blocks =
                tls.matches.iter().map(|tls| Block::new(&tls.l4, &tls.sni_hosts, namespace));
            rule(RuleList::Tls, index, tls.line, blocks.collect())
        });
        let mut gateways: Vec<String> = spec
            .gateways
            .iter()
            .map(|name| complete_gateway(name, namespace).into_owned())
            .collect();
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
            http: http_at_l4(spec).map(|http| rule(RuleList::Http, 0, http.line, Vec::new())),
            gateways,
            object: object.clone(),
            reference,
        }
    }

    /// The namespace that its names are completed with.
    pub fn namespace(&self) -> &str {
        &self.object.meta.namespace
    }

    /// The destinations of one of its rules with what is drawn by: a sole one gets all,
    /// whatever its weight.
    pub fn weighted<'s>(
        &'s self,
        rule: &Rule,
    ) -> impl Iterator<Item = (&'s RouteDestination, u64)> + use<'s> {
        let route = self.route(rule);
        let sole = route.len() == 1;
        route.iter().map(move |entry| (entry, if sole { 1 } else { u64::from(entry.weight) }))
    }

    /// Whether it is bound to a gateway.
    pub fn is_for_gateways(&self) -> bool {
        self.gateways.iter().any(|gateway| gateway != MESH)
    }

    /// Whether it is bound to the mesh.
    pub fn is_for_mesh(&self) -> bool {
        self.gateways.iter().any(|gateway| gateway == MESH)
    }

    /// The rules of a list; of `http` the one that could be honoured at L4.
    pub fn list(&self, list: RuleList) -> &[Rule] {
        match list {
            RuleList::Tcp => &self.tcp,
            RuleList::Tls => &self.tls,
            RuleList::Http => self.http.as_ref().map_or(&[], std::slice::from_ref),
        }
    }

    /// Whether a rule of a list may match in the mesh.
    pub fn has_for_mesh(&self, list: RuleList) -> bool {
        self.is_for_mesh() && self.list(list).iter().any(|rule| rule.may_match_at(MESH))
    }

    /// The weighted destinations of one of its rules.
    pub fn route(&self, rule: &Rule) -> &[RouteDestination] {
        self.spec().map_or(&[], |spec| spec.route(rule.id.list, rule.id.index as usize))
    }

    /// How many `http` rules it has that mean something at L7 only.
    pub fn http_at_l7_only(&self) -> std::ops::Range<usize> {
        usize::from(self.http.is_ok())..self.spec().map_or(0, |spec| spec.http.len())
    }

    /// The rules whose weights alone make it another; `None` when something else
    /// differs, or which destinations are drawn at all. Where it is written does
    /// not count.
    pub fn reweighted<'s>(&'s self, before: &Self) -> Option<Vec<&'s Rule>> {
        let alike = self.object.meta.created == before.object.meta.created
            && self.export == before.export
            && self.gateways == before.gateways
            && self.hosts == before.hosts;
        let (these, others) = (self.all(), before.all());
        if !alike || these.len() != others.len() {
            return None;
        }
        let mut reweighted = Vec::new();
        for (rule, other) in these.into_iter().zip(others) {
            let (route, old) = (self.route(rule), before.route(other));
            let drawn = |entry: &RouteDestination| entry.weight > 0;
            let same = rule.id == other.id
                && rule.blocks == other.blocks
                && route.len() == old.len()
                && route.iter().zip(old).all(|(entry, old)| {
                    (&entry.host, &entry.subset, entry.port, drawn(entry))
                        == (&old.host, &old.subset, old.port, drawn(old))
                });
            if !same {
                return None;
            }
            if route.iter().zip(old).any(|(entry, old)| entry.weight != old.weight) {
                reweighted.push(rule);
            }
        }
        Some(reweighted)
    }

    /// One of its rules.
    pub fn rule(&self, id: &RuleId) -> Option<&Rule> {
        self.all().into_iter().find(|rule| rule.id == *id)
    }

    /// Its rules that mean something here.
    fn all(&self) -> Vec<&Rule> {
        self.tcp.iter().chain(&self.tls).chain(&self.http).collect()
    }

    /// As it is written.
    pub fn spec(&self) -> Option<&VirtualService> {
        self.object.spec.virtual_service()
    }
}

/// The first `http` rule, which is honoured at L4 when all that it does can be.
fn http_at_l4(spec: &VirtualService) -> Result<&HttpRule, String> {
    let why = match spec.http.first() {
        _ if !spec.tcp.is_empty() => "the object has tcp rules, which count".to_owned(),
        None => "there is none".to_owned(),
        Some(first) if first.has_match => "the first rule has a match".to_owned(),
        Some(HttpRule { l7_fields, .. }) if !l7_fields.is_empty() => {
            format!("the first rule has {}, which needs a proxy", l7_fields[0])
        }
        Some(first) if first.route.is_empty() => "the first rule has no route".to_owned(),
        Some(first) => return Ok(first),
    };
    Err(why)
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

/// The sets that a client sees, as indices, in the order in which they are asked:
/// private ones first, then those exported by name, then public ones.
pub(crate) fn in_order<'q>(sets: &[&'q RuleSet], who: &Asker<'_, 'q>) -> Vec<usize> {
    let mut seen: Vec<(Reach, usize)> = sets
        .iter()
        .enumerate()
        .filter_map(|(index, set)| Some((set.export.reach(who)?, index)))
        .collect();
    // Within each group, age decides: the order of the sets.
    seen.sort_unstable();
    seen.into_iter().map(|(_, index)| index).collect()
}

impl Rule {
    /// Whether it matches; `None` where the server name decides, which is not known yet.
    pub fn matches<'q>(&'q self, dial: &Dial<'_>, who: &Asker<'_, 'q>) -> Option<bool> {
        let mut open = false;
        for block in &self.blocks {
            match block.failing(dial, who) {
                None => return Some(true),
                Some(condition) => open |= condition.is_open(dial),
            }
        }
        (!open).then_some(self.blocks.is_empty())
    }

    /// Why it matches; or else why each of its blocks does not.
    pub fn because<'q>(&'q self, dial: &Dial<'_>, who: &Asker<'_, 'q>) -> Result<String, String> {
        if self.blocks.is_empty() {
            return Ok("it has no match, and so takes everything".to_owned());
        }
        let mut reasons = Vec::new();
        for block in &self.blocks {
            match block.failing(dial, who) {
                None if matches!(dial.sni, ServerName::Of(_))
                    && !block.server_names().is_empty() =>
                {
                    return Ok(format!(
                        "all conditions of a match block hold: the address is that of hosts which \
                         sniHosts ({}) cover",
                        block.server_names().join(", ")
                    ));
                }
                None => return Ok("all conditions of a match block hold".to_owned()),
                Some(condition) => reasons.push(condition.because(dial, &who.client())),
            }
        }
        Err(match &reasons[..] {
            [only] => only.clone(),
            several => several
                .iter()
                .enumerate()
                .map(|(index, reason)| format!("match[{index}]: {reason}"))
                .collect::<Vec<_>>()
                .join("; "),
        })
    }

    /// Whether it may match at a gateway, or in the mesh.
    pub fn may_match_at(&self, gateway: &str) -> bool {
        self.blocks.is_empty() || self.blocks.iter().any(|block| block.may_hold_at(gateway))
    }

    /// What is left of its blocks at a gateway's server; `None` when no block can
    /// hold there, empty when the rule always matches.
    pub fn left_over(&self, gateway: &str, port: u16) -> Option<Vec<Block>> {
        if self.blocks.is_empty() {
            return Some(Vec::new());
        }
        let left: Vec<Block> =
            self.blocks.iter().filter_map(|block| block.left_over(gateway, port)).collect();
        match () {
            () if left.is_empty() => None,
            () if left.iter().any(Block::is_empty) => Some(Vec::new()),
            () => Some(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipnet::IpNet;

    use super::*;
    use crate::client::Client;
    use crate::model::Kind;
    use crate::testing::world;
    use crate::world::Settings;

    /// The rules of these documents.
    fn book(text: &str) -> RuleBook {
        let world = world(Settings::default(), text);
        RuleBook::new(&world, &Registry::new(&world))
    }

    #[test]
    fn a_route_with_more_destinations_than_fit_is_told_with_its_place() {
        let route = "route: [{destination: {host: a.example}}]";
        let rules =
            format!("tcp: [{{{route}}}], tls: [{{match: [{{sniHosts: [a.example]}}], {route}}}]");
        let book = book(&format!("VirtualService one: {{hosts: [a.example], {rules}}}"));
        assert!(book.is_for_host("a.example") && !book.is_for_host("b.example"));
        let set = book.sets().next().expect("a VirtualService");
        let spec = set.spec().expect("a VirtualService");
        for list in ["tcp", "tls"] {
            let told = |count: u32| {
                let mut spec = spec.clone();
                let route = match list {
                    "tcp" => &mut spec.tcp[0].route,
                    _ => &mut spec.tls[0].route,
                };
                *route = vec![route[0].clone(); count as usize].into();
                beyond_limit(&spec)
            };
            assert_eq!(told(MAX_LEGS), None, "{list}");
            let why = told(MAX_LEGS + 1).expect("it does not fit");
            assert!(why.starts_with(&format!("spec.{list}[0].route has")), "{why}");
        }
    }

    #[test]
    fn why_no_http_rule_is_honoured_is_told() {
        let route = "route: [{destination: {host: a.example}}]";
        for (lists, why) in [
            (
                format!("http: [{{{route}}}], tcp: [{{{route}}}]"),
                Some("the object has tcp rules, which count"),
            ),
            (
                format!("tls: [{{match: [{{sniHosts: [a.example]}}], {route}}}]"),
                Some("there is none"),
            ),
            (
                format!("http: [{{match: [{{port: 80}}], {route}}}]"),
                Some("the first rule has a match"),
            ),
            (
                format!("http: [{{{route}, timeout: 1s}}]"),
                Some("the first rule has timeout, which needs a proxy"),
            ),
            (format!("http: [{{{route}}}]"), None),
        ] {
            let book = book(&format!("VirtualService one: {{hosts: [a.example], {lists}}}"));
            let told = book.sets().next().expect("a VirtualService").http.as_ref().err();
            assert_eq!(told.map(String::as_str), why, "{lists}");
        }
    }

    #[test]
    fn why_a_rule_matches_or_does_not_is_told_of_each_block() {
        let of = |blocks: &[&str], sni| {
            let object = ObjectRef {
                kind: Kind::VirtualService,
                namespace: "default".into(),
                name: "one".into(),
            };
            let rule = Rule {
                id: RuleId { object, list: RuleList::Tls, index: 0 },
                line: 0,
                blocks: blocks
                    .iter()
                    .map(|one| serde_json::from_str(one).expect("it is read"))
                    .collect(),
            };
            let address = IpNet::from(IpAddr::from([192, 0, 2, 1]));
            let dial = Dial { address, port: 443, gateway: MESH, sni };
            match rule.because(&dial, &Asker::new(Client::default())) {
                Ok(why) => format!("+ {why}"),
                Err(why) => format!("- {why}"),
            }
        };
        let (named, port) = (r#"{"sni_hosts":["*.example"]}"#, r#"{"port":443}"#);
        let (http, dns) = (r#"{"port":80}"#, r#"{"port":53}"#);
        let dialled = "port: dialled 443, rule wants";
        for (blocks, sni, told) in [
            (&[][..], ServerName::Unknown, "+ it has no match, and so takes everything".to_owned()),
            (&[named], ServerName::Read(Some("a.example")), "+ all conditions of a match block hold".to_owned()),
            (&[port], ServerName::Of("a.example"), "+ all conditions of a match block hold".to_owned()),
            (
                &[http, named],
                ServerName::Of("a.example"),
                "+ all conditions of a match block hold: the address is that of hosts which sniHosts \
                 (*.example) cover"
                    .to_owned(),
            ),
            (&[http], ServerName::Unknown, format!("- {dialled} 80")),
            (&[http, dns], ServerName::Unknown, format!("- match[0]: {dialled} 80; match[1]: {dialled} 53")),
        ] {
            assert_eq!(of(blocks, sni), told, "{blocks:?}");
        }
    }
}
