//! What `check` says of refused shares, against what `explain` says of connections:
//! over random Worlds, a share is said to be refused to a client if and only if
//! `explain` refuses it to that client, at some address.
//!
//! `REDIRECTOR_WORLDS` and `REDIRECTOR_SEED` as in `reference_worlds`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use redirector_core::analysis::examine::Examined;
use redirector_core::analysis::refusals::Refusal;
use redirector_core::analysis::{Around, analyze};
use redirector_core::diag::{Diagnostic, Severity};
use redirector_core::explain::{Explanation, Query, QuerySource, VerdictWord, explain_with};
use redirector_core::model::{ObjectRef, Resolution, RuleId, Spec};
use redirector_core::plan::{ClassId, FrontendId, Lacks};
use redirector_core::registry::{Registry, is_given, with_stand_ins};
use redirector_core::world::World;

use crate::support::number;
use crate::support::random::Random;
use crate::support::worlds::{Documents, PORTS, resolve, server_names};

/// A share: of which rule, and its place in the route.
type Share = (RuleKey, usize);
/// A rule, as `explain` names it.
type RuleKey = (String, String, u32);

fn key(rule: &RuleId) -> RuleKey {
    (rule.object.to_string(), rule.list.to_string(), rule.index)
}

/// What clients of a class meet, at one address or another.
#[derive(Default)]
struct Met {
    rules: BTreeSet<RuleKey>,
    refused: BTreeSet<Share>,
    /// The rules that decide, those too that pass a connection on.
    deciding: BTreeSet<RuleKey>,
}

impl Met {
    fn add(&mut self, answer: &Explanation) {
        let Some(rule) = &answer.rule else { return };
        let rule = (rule.object.clone(), rule.list.clone(), rule.index);
        self.deciding.insert(rule.clone());
        if answer.verdict == VerdictWord::Passthrough {
            return;
        }
        self.rules.insert(rule.clone());
        let mut next = 0_usize;
        for destination in &answer.destinations {
            let because = destination.because.as_deref();
            // What is for sockets stands behind the share that it is a part of.
            let cut =
                because.is_some_and(|why| why.ends_with("has endpoints that are unix sockets"));
            let place = if cut { next.max(1) - 1 } else { next };
            next = place + 1;
            if destination.share > 0.0 && because.is_some() {
                self.refused.insert((rule.clone(), place));
            }
        }
    }
}

/// An address for each thing that the frontends say: one that is in no narrower
/// prefix.
fn addresses(frontends: impl Iterator<Item = FrontendId>) -> Vec<SocketAddr> {
    let mut by_port: BTreeMap<u16, Vec<IpNet>> = BTreeMap::new();
    for FrontendId { prefix, port } in frontends {
        by_port.entry(port).or_default().push(prefix);
    }
    let mut found = Vec::new();
    for (port, prefixes) in &by_port {
        for prefix in prefixes {
            let inside = prefixes.iter().filter(|one| *one != prefix && prefix.contains(*one));
            let beside = inside.flat_map(|one| [before(one.network()), after(one.broadcast())]);
            let mut candidates = [prefix.network(), prefix.broadcast()].into_iter().chain(beside);
            let own = candidates.find(|ip| {
                let covering = prefixes.iter().filter(|one| one.contains(ip));
                covering.max_by_key(|one| one.prefix_len()) == Some(prefix)
            });
            found.extend(own.map(|ip| SocketAddr::new(ip, *port)));
        }
    }
    found
}

fn before(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).wrapping_sub(1).to_be_bytes().into(),
        IpAddr::V6(ip) => u128::from(ip).wrapping_sub(1).to_be_bytes().into(),
    }
}

fn after(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).wrapping_add(1).to_be_bytes().into(),
        IpAddr::V6(ip) => u128::from(ip).wrapping_add(1).to_be_bytes().into(),
    }
}

/// A World, and what was found in it.
struct Checked<'w> {
    index: u64,
    documents: &'w Documents,
    world: &'w World,
    registry: Registry,
    examined: Examined,
    /// What is told, with the object and the path.
    told: Vec<(String, String, Diagnostic)>,
}

impl Checked<'_> {
    fn fail(&self, what: &str) -> ! {
        panic!("world {}: {what}\n{}", self.index, self.documents.text())
    }

    /// What clients of a class meet: the first and the last of them.
    fn met(&self, class: ClassId, dials: &[SocketAddr]) -> Met {
        let mut met = Met::default();
        let sources = self.examined.sources(class);
        let ends: Vec<&QuerySource> = match &sources[..] {
            [only] => vec![only],
            [first, .., last] => vec![first, last],
            [] => self.fail(&format!("nobody is in class {class}")),
        };
        for source in ends {
            let mut of_source = Met::default();
            for &destination in dials {
                let source = source.clone();
                let query = Query { source, destination, gateway: None, sni: None };
                let answer = explain_with(self.world, &self.registry, &query);
                of_source.add(&answer.expect("the source is known"));
            }
            if !met.rules.is_empty() && met.refused != of_source.refused {
                self.fail(&format!("class {class} is not of one mind: {sources:?}"));
            }
            met = of_source;
        }
        met
    }

    /// The shares that are refused to a class are those that `explain` refuses it.
    fn refuses_whom_explain_refuses(&self) -> u64 {
        let Examined { plan, refusals, .. } = &self.examined;
        let dials = addresses(plan.frontends.keys().copied());
        let mut refused = 0;
        for class in plan.classes.keys().copied() {
            let met = self.met(class, &dials);
            self.none_is_unreached(&met, None);
            // Who is made up is made up for some of the rules; all others dial
            // everything.
            let concerns = |refusal: &&Refusal| {
                let (refused, reached) = self.examined.clients(refusal);
                refused.contains(&class) || reached.contains(&class)
            };
            let sources = self.examined.sources(class);
            let made_up = matches!(sources[..], [QuerySource::Described { .. }]);
            let to_class = refusals.iter().filter(|one| one.clients.contains(class));
            let to_class: Vec<&Refusal> =
                to_class.filter(|one| !made_up || concerns(one)).collect();
            let said: BTreeSet<Share> =
                to_class.iter().map(|one| (key(&one.rule), one.destination)).collect();
            let explained: BTreeSet<Share> = match made_up {
                true => met.refused.intersection(&self.shares_about(class)).cloned().collect(),
                false => met.refused,
            };
            if said != explained {
                self.fail(&format!(
                    "to {sources:?}: {said:?} are said to be refused, explain refuses {explained:?}"
                ));
            }
            for one in refusals.iter().filter(|one| !made_up || concerns(one)) {
                if one.met.contains(class) != met.rules.contains(&key(&one.rule)) {
                    self.fail(&format!("{sources:?} and {:?}: who meets it?", one.rule));
                }
            }
            refused += said.len() as u64;
        }
        refused
    }

    /// What `explain` refuses at a gateway is said to be refused at one.
    fn refuses_what_explain_refuses_at_gateways(&self, random: &mut Random) {
        let mut met = Met::default();
        let mut met_at: BTreeMap<String, Met> = BTreeMap::new();
        let workloads = self.documents.gateways.iter();
        let addresses = workloads.flat_map(|workload| &workload.addresses);
        let dials = addresses.flat_map(|ip| PORTS.map(|port| SocketAddr::new(*ip, port)));
        for destination in dials {
            for (gateway, sni) in self.world.gateways().flat_map(|(gateway, _)| {
                server_names().into_iter().map(move |name| (gateway, name))
            }) {
                let source = random.pick(&self.documents.sources);
                let source = QuerySource::Workload {
                    namespace: source.namespace.clone(),
                    name: source.name.clone(),
                };
                let (namespace, name) = (&gateway.meta.namespace, &gateway.meta.name);
                let there = met_at.entry(format!("{namespace}/{name}")).or_default();
                let gateway = Some((namespace.to_string(), name.to_string()));
                let query = Query { source, destination, gateway, sni };
                let answer = explain_with(self.world, &self.registry, &query);
                let answer = answer.expect("the source is known");
                // Where another Gateway has the port, it is that one's rules that decide.
                if !answer.notes.iter().any(|note| note.contains(" is served by ")) {
                    there.add(&answer);
                }
                met.add(&answer);
            }
        }
        let said = self.examined.refusals.iter().filter(|one| !one.gateways.is_empty());
        let said: BTreeSet<Share> = said.map(|one| (key(&one.rule), one.destination)).collect();
        met_at.iter().for_each(|(gateway, met)| self.none_is_unreached(met, Some(gateway)));
        if !met.refused.is_subset(&said) {
            self.fail(&format!("at gateways: {said:?}, explain refuses {:?}", met.refused));
        }
    }

    /// The rules that are said to be reached by nobody.
    fn unreached(&self) -> impl Iterator<Item = &(String, String, Diagnostic)> {
        self.told.iter().filter(|(_, _, diagnostic)| diagnostic.code == "RD4048")
    }

    /// No rule that decides, in the mesh or at a gateway, is said to be reached by
    /// nobody there.
    fn none_is_unreached(&self, met: &Met, gateway: Option<&str>) {
        for (object, path, told) in self.unreached() {
            let of = told.message.split_once("comes to the Gateway ");
            let of = of.and_then(|(_, rest)| rest.split(' ').next());
            if of.is_some() && of != gateway {
                continue;
            }
            let at = |(of, list, index): &RuleKey| {
                of == object && *path == format!("spec.{list}[{index}]")
            };
            if met.deciding.iter().any(at) {
                self.fail(&format!("{path} of {object} is reached, at {gateway:?}: {told:?}"));
            }
        }
    }

    /// The shares of rules that somebody is made up for, of those that are refused to
    /// anybody.
    fn shares_about(&self, class: ClassId) -> BTreeSet<Share> {
        let about = self.examined.refusals.iter().filter(|one| {
            let (refused, reached) = self.examined.clients(one);
            refused.contains(&class) || reached.contains(&class)
        });
        about.map(|one| (key(&one.rule), one.destination)).collect()
    }

    /// Each is told, with the severity that it has, and for whom where it is not for
    /// all who meet the rule.
    fn tells_of_it(&self) {
        let place = |refusal: &Refusal| {
            let RuleId { object, list, index } = &refusal.rule;
            let path = format!("spec.{list}[{index}].route[{}].dest", refusal.destination);
            (object.to_string(), path)
        };
        let refused: Vec<_> = self.examined.refusals.iter().map(place).collect();
        for (object, path, told) in &self.told {
            let of_it = |(of, at): &(String, String)| of == object && path.starts_with(at);
            if told.message.contains("its share of the connections is refused")
                && !refused.iter().any(of_it)
            {
                self.fail(&format!("it is not: {object} {path} {told:?}"));
            }
        }
        for refusal in &self.examined.refusals {
            if refusal.clients.is_empty() {
                continue;
            }
            let (object, path) = place(refusal);
            let here =
                self.told.iter().filter(|(of, at, _)| *of == object && at.starts_with(&path));
            let here: Vec<&Diagnostic> = here.map(|(_, _, diagnostic)| diagnostic).collect();
            let of_view = |one: &&(String, String, Diagnostic)| {
                refusal.id.view.iter().any(|object| object.to_string() == one.0)
            };
            let elsewhere = self.told.iter().find(of_view);
            let good = match refusal.lacks {
                Some(Lacks::Endpoints) => {
                    let severity = match refusal.id.view.first() {
                        Some(service) if self.is_complete(service) => Severity::Warning,
                        _ => Severity::Info,
                    };
                    here.iter().any(|one| one.severity == severity) || self.tells_of_slices(refusal)
                }
                Some(Lacks::Family) => {
                    self.is_met_at_given(refusal)
                        || here.iter().any(|one| one.severity == Severity::Warning)
                }
                Some(Lacks::Resolution | Lacks::Sockets | Lacks::Bytes | Lacks::Labels) => {
                    elsewhere.is_some() || !here.is_empty()
                }
                _ => here.iter().any(|one| one.severity != Severity::Info),
            };
            if !good {
                self.fail(&format!("nothing is told of {refusal:?}, but {here:?}"));
            }
            self.tells_for_whom(refusal, &here);
        }
    }

    /// Whether who dials the family of a refusal dials allocated addresses, of which a host
    /// has one of each.
    fn is_met_at_given(&self, refusal: &Refusal) -> bool {
        let mut met = self.examined.plan.frontends.iter().filter(|(id, one)| {
            let mut rules = one.routes().filter_map(|(_, route)| route.rule.as_ref());
            id.prefix.addr().is_ipv6() == refusal.id.v6 && rules.any(|rule| *rule == refusal.rule)
        });
        met.all(|(id, _)| is_given(&id.prefix.addr()))
    }

    /// Whether an EndpointSlice of the service is told not to be joined with it.
    fn tells_of_slices(&self, refusal: &Refusal) -> bool {
        let slices = self.world.endpoint_slices().filter(|(object, slice)| {
            slice.of(&object.meta.namespace).as_ref() == refusal.id.view.first()
        });
        let names: Vec<String> = slices.map(|(object, _)| object.reference().to_string()).collect();
        self.told.iter().any(|(of, _, told)| told.code == "RD4015" && names.contains(of))
    }

    /// Whether all endpoints of a service are written in its own document.
    fn is_complete(&self, service: &ObjectRef) -> bool {
        let spec = self.world.get(service).map(|object| &object.spec);
        matches!(spec, Some(Spec::ServiceEntry(entry))
            if entry.resolution == Resolution::Static && entry.workload_selector.is_none())
    }

    /// What is told of a share says for whom, where it is not for all who meet its
    /// rule: for all reasons together, or for one of them.
    fn tells_for_whom(&self, refusal: &Refusal, here: &[&Diagnostic]) {
        let of_share =
            |one: &&Refusal| one.rule == refusal.rule && one.destination == refusal.destination;
        // To whom it is refused, to whom not, and by way of which Gateways it is.
        type Sides = (BTreeSet<ClassId>, BTreeSet<ClassId>, BTreeSet<String>);
        let each: Vec<Sides> = (self.examined.refusals.iter().filter(of_share))
            .map(|one| {
                let (refused, reached) = self.examined.clients(one);
                let gateways = one.gateways.iter();
                let gateways = gateways.map(|one| format!("{}/{}", one.namespace, one.name));
                (refused.into_iter().collect(), reached.into_iter().collect(), gateways.collect())
            })
            .collect();
        let refused: BTreeSet<ClassId> = each.iter().flat_map(|(to, ..)| to).copied().collect();
        let reached: BTreeSet<ClassId> = each.iter().flat_map(|(_, to, _)| to).copied().collect();
        let gateways = each.iter().flat_map(|(.., by)| by).cloned().collect();
        let together = (refused.clone(), reached.difference(&refused).copied().collect(), gateways);
        let namespaces = |classes: &BTreeSet<ClassId>| -> BTreeSet<String> {
            let sources = classes.iter().flat_map(|class| self.examined.sources(*class));
            let namespace = |source| match source {
                QuerySource::Unknown => String::new(),
                QuerySource::Described { namespace, .. }
                | QuerySource::Workload { namespace, .. } => namespace,
            };
            sources.map(namespace).collect()
        };
        let named = |names: &str| -> BTreeSet<String> {
            let names = names.split([',', ' ']).filter(|word| !word.is_empty());
            names.filter(|word| !word.starts_with("namespace")).map(str::to_owned).collect()
        };
        let says = ["share of the connections is refused", "hosts are refused"];
        let of_connections = |one: &&&Diagnostic| says.iter().any(|it| one.message.contains(it));
        for one in here.iter().filter(of_connections) {
            let whom = one.message.split_once("refused for ").map(|(_, whom)| whom);
            let whom = whom.map(|whom| whom.trim_end_matches(" when they come here"));
            let fits = |(refused, reached, gateways): &Sides| match whom {
                None => reached.is_empty(),
                Some(whom) if whom.starts_with("connections that come by way") => {
                    let names = whom.strip_prefix("connections that come by way of the Gateway");
                    let names = names.unwrap_or_default().trim_start_matches('s');
                    refused.is_empty() && named(names) == *gateways
                }
                Some(_) if reached.is_empty() => false,
                Some(whom) => {
                    if let Some(names) = whom.strip_prefix("all clients but those in the ") {
                        namespaces(reached) == named(names)
                    } else if let Some(names) = whom.strip_prefix("clients in the ") {
                        namespaces(refused) == named(names)
                    } else {
                        true
                    }
                }
            };
            if !each.iter().chain([&together]).any(fits) {
                self.fail(&format!("{refusal:?}, to {together:?} together: {one:?}"));
            }
        }
    }
}

#[test]
fn a_share_is_said_to_be_refused_to_those_to_whom_explain_refuses_it() {
    let (worlds, seed) = (number("REDIRECTOR_WORLDS", 500), number("REDIRECTOR_SEED", 0));
    let (mut refused, mut unreached) = (0, 0);
    for index in seed..seed + worlds {
        let mut random = Random::of_world(index);
        let documents = Documents::random(&mut random);
        let reading = documents.reading();
        let mut world = World::new(documents.settings.clone());
        for read in &reading.objects {
            world.insert(read.object.clone().expect("it is admitted"));
        }
        // `check` resolves no names.
        if index % 2 == 1 {
            resolve(&mut world);
        }
        let mut registry = Registry::new(&world);
        let (findings, examined) = analyze(&world, &mut registry, &Around::default());
        let of_reading = reading
            .diagnostics
            .iter()
            .filter_map(|one| Some((one.object_name()?, one.path.clone(), one.clone())));
        let told = findings
            .into_iter()
            .map(|one| (one.object.to_string(), one.path, one.diagnostic))
            .chain(of_reading)
            .collect();
        // What is said is of when the hosts are resolved.
        let standing = with_stand_ins(&world);
        let world = standing.unwrap_or(world);
        let registry = Registry::new(&world);
        let checked =
            Checked { index, documents: &documents, world: &world, registry, examined, told };
        refused += checked.refuses_whom_explain_refuses();
        checked.refuses_what_explain_refuses_at_gateways(&mut random);
        checked.tells_of_it();
        unreached += checked.unreached().count() as u64;
    }
    assert!(unreached >= (worlds / 50).max(1), "{unreached} rules that nobody reaches are few");
    assert!(refused >= worlds, "{refused} refused shares in {worlds} worlds are few");
    eprintln!("figure: {worlds} worlds from seed {seed}: {refused} shares refused to a class");
}
