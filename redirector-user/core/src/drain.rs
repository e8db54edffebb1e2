//! Endpoints that go away: how long connections to them may go on.
//!
//! Without the annotation they go on for as long as they like. With it, they are reset when
//! an endpoint has been out of their destination for that long. The destination is a host, its
//! port and, where the rule names one, a subset: an endpoint that serves another subset still
//! has left this one, and only this one's connections are concerned. One that loses its weight,
//! or that no rule leads to any more, has not gone away.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::compile::backed::has;
use crate::compile::destinations::id;
use crate::layout::owner;
use crate::model::{Labels, Object, annotations};
use crate::names::{HostIndex, complete_host};
use crate::registry::{MergedRule, Port, Registry, Service};
use crate::validate::durations;
use crate::world::World;

/// The endpoints of a World, as far as they concern draining.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Endpoints {
    /// Those of all services, and how long, in milliseconds, connections to them may go on when
    /// they have gone. Empty when no object says anything about it.
    all: BTreeMap<SocketAddr, Option<u64>>,
    /// Destinations of which that is said, by what the kernel remembers of a connection's.
    destinations: BTreeMap<u32, Members>,
}

/// The endpoints of a destination.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Members {
    /// `host:port/subset`.
    name: Arc<str>,
    time: u64,
    /// The labels of the subset.
    wanted: Labels,
    endpoints: BTreeSet<SocketAddr>,
}

/// What has gone: an endpoint, from everywhere or from one destination. As text it is
/// `10.0.0.1:80`, or `10.0.0.1:80 from host:80/subset (number)`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Gone {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// The destination that it has left, even if others have it still.
    pub from: Option<Left>,
}

/// A destination that an endpoint has left.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Left {
    /// What the kernel remembers of its connections.
    pub owner: u32,
    /// `host:port/subset`.
    pub name: Arc<str>,
}

/// What has gone, and when, in milliseconds since 1970, connections there are reset.
pub type Draining = BTreeMap<Gone, u64>;

/// What there is to tell of what has gone: one that has gone from everywhere has left each of
/// its destinations, too.
pub fn to_tell<V>(gone: &BTreeMap<Gone, V>) -> impl Iterator<Item = (&Gone, &V)> {
    gone.iter().filter(|(one, _)| one.from.is_none() || !gone.contains_key(&one.endpoint.into()))
}

/// Each endpoint that drains once, and when the first of its connections are reset, in
/// milliseconds since 1970.
pub fn by_endpoint(draining: &Draining) -> BTreeMap<SocketAddr, u64> {
    let mut found = BTreeMap::new();
    for (gone, over) in draining {
        let first = found.entry(gone.endpoint).or_insert(*over);
        *first = (*over).min(*first);
    }
    found
}

/// By endpoint, the destinations that it has left, and when the first of its connections of them
/// are reset. Two of them may have one name: the kernel knows them by number.
pub fn by_destination(draining: &Draining) -> BTreeMap<SocketAddr, BTreeMap<Arc<str>, u64>> {
    let mut found: BTreeMap<_, BTreeMap<_, u64>> = BTreeMap::new();
    for (gone, over) in to_tell(draining) {
        let Some(from) = &gone.from else { continue };
        let there = found.entry(gone.endpoint).or_default();
        let first = there.entry(from.name.clone()).or_insert(*over);
        *first = (*over).min(*first);
    }
    found
}

impl Gone {
    /// Whether it is where a connection was sent, by its endpoint and by the destination that
    /// the kernel remembers.
    pub fn is_of(&self, endpoint: SocketAddr, destination: u32) -> bool {
        self.endpoint == endpoint && self.from.as_ref().is_none_or(|from| from.owner == destination)
    }
}

impl From<SocketAddr> for Gone {
    fn from(endpoint: SocketAddr) -> Self {
        Self { endpoint, from: None }
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, from } = self;
        match from {
            None => write!(f, "{endpoint}"),
            Some(Left { owner, name }) => write!(f, "{endpoint} from {name} ({owner})"),
        }
    }
}

impl FromStr for Gone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("no endpoint, nor one and its destination: {text}");
        let (endpoint, from) = match text.split_once(" from ") {
            None => (text, None),
            Some((endpoint, from)) => {
                let (name, owner) = from.rsplit_once(" (").ok_or_else(wrong)?;
                let owner = owner.strip_suffix(')').and_then(|owner| owner.parse().ok());
                let (owner, name) = (owner.ok_or_else(wrong)?, name.into());
                (endpoint, Some(Left { owner, name }))
            }
        };
        Ok(Self { endpoint: endpoint.parse().map_err(|_| wrong())?, from })
    }
}

impl TryFrom<String> for Gone {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Gone> for String {
    fn from(gone: Gone) -> Self {
        gone.to_string()
    }
}

/// What an object's annotation says: a duration in milliseconds, 0 for `now`.
///
/// # Errors
///
/// What is wrong with it.
pub fn time(object: &Object) -> Result<Option<u64>, String> {
    match object.meta.annotations.get(annotations::DRAIN) {
        None => Ok(None),
        Some("now") => Ok(Some(0)),
        Some(text) => durations::milliseconds(text, true)
            .map(Some)
            .map_err(|why| format!("{why}; or write now")),
    }
}

/// Whether an object says how long connections may go on.
pub fn says(object: &Object) -> bool {
    time(object).is_ok_and(|time| time.is_some())
}

/// The endpoints of a World: wanted where some object says anything about draining.
pub fn endpoints(world: &World, registry: &Registry) -> Endpoints {
    let said = |object: &Arc<Object>| time(object).ok().flatten();
    let mut rules: HostIndex<u64> = HostIndex::default();
    for (object, rule) in world.destination_rules() {
        if let Some(time) = said(object) {
            let domain = &world.settings.cluster_domain;
            rules.insert(&complete_host(&rule.host, &object.meta.namespace, domain), time);
        }
    }
    let mut endpoints = Endpoints::default();
    for service in registry.services() {
        let own = world.get(&service.object).and_then(said);
        // What the service itself says counts; of several rules the shortest.
        let time = own.or_else(|| rules.matching(&service.host).into_iter().min().copied());
        for port in service.tcp_ports() {
            let all = port.endpoints.iter();
            for address in all.map(|one| SocketAddr::new(one.ip, one.port)) {
                let of = endpoints.all.entry(address).or_default();
                *of = (*of).into_iter().chain(time).min();
            }
        }
        if let Some(time) = time {
            endpoints.add(registry, service, time);
        }
    }
    endpoints
}

impl Endpoints {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether something that has gone is there after all: also when its destination is not,
    /// as nobody can tell then who has left it.
    pub fn has(&self, gone: &Gone) -> bool {
        match &gone.from {
            None => self.all.contains_key(&gone.endpoint),
            Some(from) => (self.destinations.get(&from.owner))
                .is_none_or(|one| one.endpoints.contains(&gone.endpoint)),
        }
    }

    /// Adds what can be a destination of a service: by itself and by each DestinationRule for
    /// it, whole and by subset.
    fn add(&mut self, registry: &Registry, service: &Service, time: u64) {
        let rules = registry.rules.for_host(&service.host);
        for rule in std::iter::once(None).chain(rules.map(Some)) {
            let subsets = rule.into_iter().flat_map(|rule| &rule.subsets);
            let subsets = subsets.map(|merged| Some(&*merged.subset.name));
            for subset in std::iter::once(None).chain(subsets) {
                for port in service.tcp_ports() {
                    for v6 in [false, true] {
                        self.add_one(service, (rule, subset), (port, v6), time);
                    }
                }
            }
        }
    }

    fn add_one(
        &mut self,
        service: &Service,
        (rule, subset): (Option<&MergedRule>, Option<&str>),
        (port, v6): (&Port, bool),
        time: u64,
    ) {
        let wanted = subset.and_then(|subset| rule?.subset(subset));
        let wanted = wanted.map(|subset| subset.labels.clone()).unwrap_or_default();
        let of = Some(&wanted).filter(|labels| !labels.is_empty());
        let members = port.endpoints.iter().filter(|one| one.ip.is_ipv6() == v6);
        let members = members.filter(|one| has(one.labels.as_ref(), of));
        let members = members.map(|one| SocketAddr::new(one.ip, one.port));
        let subset_name = subset.map(|subset| format!("/{subset}")).unwrap_or_default();
        let name = format!("{}:{}{subset_name}", service.host, port.number);
        let id = id(service, subset, port.number, v6, rule);
        let members = Members { name: name.into(), time, endpoints: members.collect(), wanted };
        self.destinations.insert(owner(&id), members);
    }
}

/// What drains after a change that comes in force at `now`, in milliseconds
/// since 1970.
pub fn after(draining: &Draining, old: &Endpoints, new: &Endpoints, now: u64) -> Draining {
    let mut after = draining.clone();
    for (address, time) in &old.all {
        if let Some(time) = time
            && !new.all.contains_key(address)
        {
            after.entry((*address).into()).or_insert(now.saturating_add(*time));
        }
    }
    // Of a destination that is there no more, or is now another set of endpoints, nobody has
    // left. One that has gone from everywhere may come back to another destination.
    for (owner, members) in &old.destinations {
        let now_there = new.destinations.get(owner).filter(|now| now.wanted == members.wanted);
        let Some(now_there) = now_there else { continue };
        for endpoint in members.endpoints.difference(&now_there.endpoints) {
            let from = Some(Left { owner: *owner, name: members.name.clone() });
            let gone = Gone { endpoint: *endpoint, from };
            after.entry(gone).or_insert(now.saturating_add(members.time));
        }
    }
    // One that has come back is an endpoint like any other.
    after.retain(|gone, _| !new.has(gone));
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use crate::world::Settings;

    const SERVICES: &str = "
Service echo: {clusterIP: 10.96.0.10, selector: {app: echo}, ports: [{name: tcp, port: 80}]}
Service both {annotations: {redirector.io/drain: 5s}}: {clusterIP: 10.96.0.11, selector: {team: a}, ports: [{name: tcp, port: 80}]}
WorkloadEntry one: {address: 10.0.0.1, labels: {app: echo}}
WorkloadEntry two: {address: 10.0.0.2, labels: {app: echo, team: a}}
";

    const RULE: &str = "
DestinationRule echo {annotations: {redirector.io/drain: 30s}}: {host: echo}
";

    fn of(text: &str) -> Endpoints {
        let world = testing::world(Settings::default(), text);
        endpoints(&world, &Registry::new(&world))
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    #[test]
    fn a_service_or_a_rule_for_its_host_says_how_long() {
        let endpoints = of(&format!("{SERVICES}{RULE}"));
        assert_eq!(endpoints.all[&address(1)], Some(30_000));
        assert_eq!(endpoints.all[&address(2)], Some(5_000), "the shortest of its services");
        assert_eq!(of(SERVICES).all[&address(1)], None);
        let without = SERVICES.replace("redirector.io/drain", "other");
        let nothing = of(&without);
        assert!(nothing.all.values().all(Option::is_none) && nothing.destinations.is_empty());
        let now = of(&SERVICES.replace("5s", "now"));
        assert_eq!(now.all[&address(2)], Some(0));
        let says = |text: &str| {
            let world = testing::world(Settings::default(), text);
            world.objects().filter(|object| says(object)).count()
        };
        assert_eq!([SERVICES, RULE, &without].map(says), [1, 1, 0]);
    }

    #[test]
    fn one_that_has_gone_drains_until_it_comes_back() {
        let all = |all: &[(u8, Option<u64>)]| Endpoints {
            all: all.iter().map(|(last, time)| (address(*last), *time)).collect(),
            ..Endpoints::default()
        };
        let old = all(&[(1, Some(30_000)), (2, None)]);
        let new = all(&[(3, Some(30_000))]);
        let draining = after(&Draining::new(), &old, &new, 1_000);
        let wanted = Draining::from([(address(1).into(), 31_000)]);
        assert_eq!(draining, wanted, "without a time it stays");
        // It goes on as it began, whatever changes meanwhile.
        assert_eq!(after(&draining, &new, &new, 2_000), draining);
        let back = after(&draining, &new, &old, 3_000);
        assert_eq!(back, Draining::from([(address(3).into(), 33_000)]));
    }

    const SUBSETS: &str = "
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, annotations: {redirector.io/drain: 30s}}
spec:
  host: echo
  subsets: [{name: a, labels: {team: a}}, {name: b, labels: {team: b}}]
";

    /// An endpoint is of team a, of team b, and has gone.
    fn teams() -> [String; 3] {
        let before = format!("{SERVICES}{SUBSETS}");
        let two = "WorkloadEntry two: {address: 10.0.0.2, labels: {app: echo, team: a}}\n";
        let [moved, away] = [two.replace("team: a", "team: b"), String::new()].map(|now| {
            assert!(before.contains(two));
            before.replace(two, &now)
        });
        [before, moved, away]
    }

    /// Without the number of the destination.
    fn names(draining: &Draining) -> Vec<String> {
        let text = draining.keys().map(ToString::to_string);
        text.map(|text| text.split(" (").next().unwrap_or_default().to_owned()).collect()
    }

    /// The Service that selects by the label, which has a time of its own, and the subset.
    const LEFT: [&str; 2] = [
        "10.0.0.2:80 from both.default.svc.cluster.local:80",
        "10.0.0.2:80 from echo.default.svc.cluster.local:80/a",
    ];

    #[test]
    fn one_that_has_left_a_subset_drains_from_that_though_it_serves_another() {
        let [before, moved, _] = teams().map(|text| of(&text));
        let draining = after(&Draining::new(), &before, &moved, 1_000);
        assert_eq!(names(&draining), LEFT);
        for (gone, over) in &draining {
            assert_eq!(gone.to_string().parse::<Gone>().as_ref(), Ok(gone));
            let of_both = gone.to_string().contains("both");
            assert_eq!(*over, if of_both { 6_000 } else { 31_000 });
            let owner = gone.from.as_ref().map_or(0, |from| from.owner);
            assert!(gone.is_of(address(2), owner) && !gone.is_of(address(2), owner + 1));
            assert!(!gone.is_of(address(1), owner));
        }
        let back = after(&draining, &moved, &before, 2_000);
        let [gone] = &back.keys().collect::<Vec<_>>()[..] else { panic!("{back:?}") };
        assert!(gone.to_string().contains("80/b ("), "it is back, and not there any more: {gone}");
    }

    #[test]
    fn a_subset_that_goes_or_is_made_another_has_lost_nobody() {
        let [before, moved, _] = teams();
        let without = |text: &str| of(&text.replace("{name: a, labels: {team: a}}, ", ""));
        let redefined = before.replace("a, labels: {team: a}}", "a, labels: {team: b}}");
        assert_ne!(redefined, before);
        let (there, redefined) = (of(&before), of(&redefined));
        for now in [&without(&before), &of(SERVICES), &redefined] {
            assert_eq!(after(&Draining::new(), &there, now, 1_000), Draining::new());
        }

        // Nor does one go on draining from it: nobody would see it come back.
        let draining = after(&Draining::new(), &there, &of(&moved), 1_000);
        let draining = after(&draining, &of(&moved), &without(&moved), 2_000);
        assert_eq!(names(&draining), LEFT[..1]);
    }

    #[test]
    fn one_that_was_away_and_comes_back_to_another_subset_has_left_its_first() {
        let [before, moved, away] = teams().map(|text| of(&text));
        let draining = after(&Draining::new(), &before, &away, 1_000);
        assert_eq!(draining.get(&address(2).into()), Some(&6_000));
        let told: Vec<_> = to_tell(&draining).map(|(gone, _)| gone.to_string()).collect();
        assert_eq!((told, by_endpoint(&draining).len()), (vec!["10.0.0.2:80".to_owned()], 1));
        let draining = after(&draining, &away, &moved, 2_000);
        assert_eq!(names(&draining), LEFT);
        assert_eq!(draining.values().collect::<Vec<_>>(), [&6_000, &31_000], "since it went");
        assert_eq!((to_tell(&draining).count(), by_endpoint(&draining).len()), (2, 1));
        let back = after(&draining, &moved, &before, 3_000);
        assert_eq!(names(&back), ["10.0.0.2:80 from echo.default.svc.cluster.local:80/b"]);
    }

    #[test]
    fn of_destinations_with_one_name_the_first_time_is_told() {
        let left = |owner: u32, name: &str| {
            let from = Some(Left { owner, name: name.into() });
            Gone { endpoint: address(1), from }
        };
        let draining = Draining::from([
            (left(1, "a:80"), 1_000),
            (left(2, "a:80"), 2_000),
            (left(3, "b:80"), 4_000),
            (left(4, "b:80"), 3_000),
        ]);
        let told = BTreeMap::from([("a:80".into(), 1_000), ("b:80".into(), 3_000)]);
        assert_eq!(by_destination(&draining), BTreeMap::from([(address(1), told)]));
        let mut everywhere = draining;
        everywhere.insert(address(1).into(), 500);
        assert_eq!(by_destination(&everywhere), BTreeMap::new(), "it has left each of them");
    }

    #[test]
    fn an_address_that_a_name_has_left_drains() {
        let text = "
ServiceEntry db {annotations: {redirector.io/drain: 5s}}:
  hosts: [db.example.com]
  resolution: DNS
  ports: [{name: tcp, number: 80, protocol: TCP}]
";
        let of = |last: &[u8]| {
            let mut world = testing::world(Settings::default(), text);
            let answer: Vec<_> = last.iter().map(|last| address(*last).ip()).collect();
            world.set_resolved("db.example.com", answer);
            endpoints(&world, &Registry::new(&world))
        };
        let draining = after(&Draining::new(), &of(&[1, 2]), &of(&[2, 3]), 1_000);
        assert_eq!(by_endpoint(&draining), BTreeMap::from([(address(1), 6_000)]));
    }

    #[test]
    fn a_port_of_another_protocol_takes_no_ones_place() {
        let tcp = "
Service web {annotations: {redirector.io/drain: now}}: {clusterIP: 10.96.0.10, selector: {app: web}, ports: [{name: tcp, port: 443, targetPort: 8443}]}
WorkloadEntry one: {address: 10.0.0.1, labels: {app: web}}
";
        let udp = "8443}, {name: h3, port: 443, protocol: UDP, targetPort: 8444}]";
        let (before, now) = (of(tcp), of(&tcp.replace("8443}]", udp)));
        assert!(before.has(&SocketAddr::from(([10, 0, 0, 1], 8443)).into()));
        assert_eq!(after(&Draining::new(), &before, &now, 1_000), Draining::new());
    }

    #[test]
    fn what_has_gone_is_read_as_it_is_written() {
        for text in ["10.0.0.1:80", "[fd00::1]:80 from db.shop:80/v1 (7)"] {
            assert_eq!(text.parse::<Gone>().map(|gone| gone.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "10.0.0.1", "10.0.0.1:80 from db", "10.0.0.1:80 from db (x)"] {
            assert!(text.parse::<Gone>().is_err(), "{text}");
        }
    }
}
