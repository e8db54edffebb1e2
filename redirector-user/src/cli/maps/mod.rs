//! `redirector maps`

mod rows;
mod text;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use redirector_common::abi::{Live, Verdict, VerdictKind, policy};
use redirector_common::addr::Addr;
use redirector_core::alias::shares;
use redirector_core::compile::compile;
use redirector_core::explain::tables::prefix_of;
use redirector_core::image::Image;
use redirector_core::layout::{Layout, Names};
use redirector_core::model::SourceSelector;
use redirector_core::plan::FrontendId;
use redirector_core::plan::gateway::Mode;
use redirector_core::registry::Registry;
use redirector_core::world::World;

use rows::{
    Answer, BackendRow, ClassRow, ClassTableRow, CountersRow, DestinationRow, ExceptionRow,
    FrontendRow, GatewayRow, LegCounterRow, LegRow, RouteRow, SlotRow, SourceRow, VerdictRow,
};
use text::{names, text};

use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure};
use crate::datapath::{Active, Counters, Datapath, SourceKey, now};
use crate::output::{destination_name, route_name, rule_name, source_name};

/// Dumps the kernel's map state, decoded, with names
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector maps frontends
  redirector maps counters --output json
  redirector maps all --output json | jq .routes")]
pub struct Args {
    /// Which part
    #[arg(value_enum, default_value_t = Part::All, value_name = "PART")]
    part: Part,
    #[command(flatten)]
    kernel: KernelArgs,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// Which processes are which workload.
    Sources,
    /// The addresses that are served, and what each says.
    Frontends,
    /// Source classes, and the tables that depend on them.
    Classes,
    /// Routes: weighted destinations.
    Routes,
    /// The alias tables that destinations are drawn from, slot by slot.
    Slots,
    /// Destinations and their endpoints.
    Backends,
    /// What was counted.
    Counters,
    /// What the gateway proxy serves.
    Gateways,
    /// The names of ServiceEntries, as the daemon knows them.
    Names,
    /// Everything.
    All,
}

impl Part {
    fn shows(self, part: Self) -> bool {
        self == part || self == Self::All
    }
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let datapath = args.kernel.open()?;
    let (active, image) = datapath.dump_active()?;
    let snapshot = args.kernel.snapshot(active.generation, context)?;
    let layout = snapshot.as_ref().map(|s| s.contents.layout.clone()).unwrap_or_default();
    let world = snapshot.as_ref().map(|s| s.world()).unwrap_or_default();
    let view =
        View { active, image: &image, names: layout.names(), layout: &layout, world: &world };
    let mut answer = view.answer(args.part, &datapath, snapshot.is_some())?;
    if args.part.shows(Part::Names) {
        answer.names = Some(args.kernel.report_or_last(context).names);
    }
    let all = args.part == Part::All;
    context.answer_list(common, &answer, names(&answer, all), |style| text(&answer, all, style))?;
    Ok(Exit::Fine)
}

struct View<'v> {
    active: Active,
    image: &'v Image,
    names: Names<'v>,
    layout: &'v Layout,
    world: &'v World,
}

impl View<'_> {
    fn answer(&self, part: Part, datapath: &Datapath, named: bool) -> Result<Answer, Failure> {
        let mut answer = Answer {
            epoch: self.active.epoch,
            side: self.active.side.index(),
            generation: self.active.generation,
            in_step: self.active.in_step,
            named,
            ..Answer::default()
        };
        if part.shows(Part::Sources) {
            answer.sources = Some(self.sources(datapath.sources()?));
        }
        if part.shows(Part::Frontends) {
            answer.frontends = Some(self.frontends());
        }
        if part.shows(Part::Classes) {
            answer.classes = Some(self.classes());
            answer.class_tables = Some(self.class_tables());
        }
        if part.shows(Part::Routes) {
            answer.routes = Some(self.routes());
        }
        if part.shows(Part::Slots) {
            answer.slots = Some(self.slots());
        }
        if part.shows(Part::Backends) {
            let lives = datapath.lives().into_iter().collect();
            answer.destinations = Some(self.destinations(&lives));
            answer.backends = Some(self.backends(&lives));
        }
        if part.shows(Part::Counters) {
            answer.counters = Some(self.counters(&datapath.counters()?, datapath.remembered()?));
        }
        if part.shows(Part::Gateways) {
            answer.gateways = Some(self.gateways());
        }
        Ok(answer)
    }

    fn sources(&self, sources: Vec<(SourceKey, u32)>) -> Vec<SourceRow> {
        let registry = Registry::new(self.world);
        let mut rows: Vec<SourceRow> = sources
            .into_iter()
            .map(|(key, identity)| {
                let name = self.names.identities.get(&identity);
                let workload =
                    name.and_then(|id| registry.workloads.named(&id.namespace, &id.name));
                let place = workload.and_then(|w| w.source.as_ref()).map(|source| match source {
                    SourceSelector::Cgroup(path) | SourceSelector::Netns(path) => path.to_string(),
                    SourceSelector::PodUid(uid) => format!("pod {uid}"),
                });
                let (kind, id, level) = match key {
                    SourceKey::Cgroup { id, level } => ("cgroup", id, Some(level)),
                    SourceKey::Netns { cookie } => ("netns", cookie, None),
                };
                let workload = name.map(|id| source_name(id));
                let class = self.image.class_of.get(&identity).copied().unwrap_or(0);
                SourceRow { kind, id, level, place, identity, workload, class }
            })
            .collect();
        rows.sort_by(|a, b| (&a.workload, a.id).cmp(&(&b.workload, b.id)));
        rows
    }

    fn verdict(&self, verdict: Verdict) -> VerdictRow {
        let (word, route, class_table) = match verdict.kind() {
            VerdictKind::Pass => ("passthrough", None, None),
            VerdictKind::Refuse => ("refuse", None, None),
            VerdictKind::Route(route) => ("route", Some(route), None),
            VerdictKind::Classes(table) => ("by class", None, Some(table)),
        };
        let rule = route.and_then(|route| self.names.routes.get(&route)).map(|id| route_name(id));
        VerdictRow { verdict: word, route, rule, class_table }
    }

    fn frontends(&self) -> Vec<FrontendRow> {
        let exact = self
            .image
            .frontends
            .iter()
            .map(|((addr, port), verdict)| (prefix_of(*addr, 128), *port, *verdict));
        let prefixes =
            self.image.prefixes.iter().map(|(prefix, verdict)| {
                (prefix_of(prefix.addr, prefix.len), prefix.port, *verdict)
            });
        exact
            .chain(prefixes)
            .filter_map(|(prefix, port, verdict)| {
                let prefix = prefix?;
                let owner = self.names.frontends.get(&FrontendId { prefix, port });
                Some(FrontendRow {
                    prefix: prefix.to_string(),
                    port,
                    service: owner.map(|owner| format!("{}/{}", owner.namespace, owner.name)),
                    verdict: self.verdict(verdict),
                })
            })
            .collect()
    }

    fn classes(&self) -> Vec<ClassRow> {
        let mut classes: BTreeMap<u32, Vec<String>> = BTreeMap::from([(0, Vec::new())]);
        for (id, identity) in self.layout.identities() {
            let class = self.image.class_of.get(&identity).copied().unwrap_or(0);
            classes.entry(class).or_default().push(source_name(id));
        }
        for class in self.image.class_of.values() {
            classes.entry(*class).or_default();
        }
        classes.into_iter().map(|(class, workloads)| ClassRow { class, workloads }).collect()
    }

    fn class_tables(&self) -> Vec<ClassTableRow> {
        let mut tables: BTreeMap<u32, ClassTableRow> = BTreeMap::new();
        let table = |number: u32| {
            let default = self.image.class_defaults.get(&number).copied().unwrap_or(Verdict::PASS);
            ClassTableRow { table: number, default: self.verdict(default), exceptions: Vec::new() }
        };
        for number in self.image.class_defaults.keys() {
            tables.insert(*number, table(*number));
        }
        for ((number, class), verdict) in &self.image.class_verdicts {
            let row = tables.entry(*number).or_insert_with(|| table(*number));
            row.exceptions.push(ExceptionRow { class: *class, verdict: self.verdict(*verdict) });
        }
        tables.into_values().collect()
    }

    fn routes(&self) -> Vec<RouteRow> {
        self.image
            .routes
            .iter()
            .map(|(number, route)| {
                let slots: Vec<_> = (route.first..route.first.saturating_add(route.count))
                    .map(|index| self.image.legs.get(&index).copied().unwrap_or_default())
                    .collect();
                let shares =
                    shares(&slots.iter().map(|s| (s.threshold, s.alias)).collect::<Vec<_>>());
                let legs =
                    slots.iter().zip(shares).zip(route.first..).map(|((slot, share), leg)| {
                        let name = self.names.destinations.get(&slot.destination);
                        LegRow {
                            leg,
                            destination: slot.destination,
                            name: name.map(|id| destination_name(id)),
                            share,
                        }
                    });
                RouteRow {
                    route: *number,
                    rule: self.names.routes.get(number).map(|id| route_name(id)),
                    legs: legs.collect(),
                }
            })
            .collect()
    }

    fn slots(&self) -> Vec<SlotRow> {
        let owner = |slot: u32| {
            let mut routes = self.image.routes.iter();
            routes.find(|(_, route)| (route.first..route.first + route.count).contains(&slot))
        };
        self.image
            .legs
            .iter()
            .map(|(index, slot)| SlotRow {
                slot: *index,
                route: owner(*index).map(|(number, _)| *number),
                threshold: slot.threshold,
                alias: slot.alias,
                destination: slot.destination,
                name: self.names.destinations.get(&slot.destination).map(|id| destination_name(id)),
            })
            .collect()
    }

    fn destinations(&self, lives: &BTreeMap<u32, Live>) -> Vec<DestinationRow> {
        let rows = self.image.destinations.iter().map(|(number, destination)| {
            let limited = destination.policy & policy::LIMITED != 0;
            let ejecting = destination.policy & policy::EJECTING != 0;
            let live = lives.get(&destination.live);
            DestinationRow {
                destination: *number,
                name: self.names.destinations.get(number).map(|id| destination_name(id)),
                algorithm: match destination.policy & policy::ALGORITHM {
                    policy::RANDOM => "RANDOM",
                    policy::ROUND_ROBIN => "ROUND_ROBIN",
                    policy::LEAST_REQUEST => "LEAST_REQUEST",
                    policy::SOURCE_HASH => "useSourceIp",
                    _ => "unknown",
                },
                connections: live.map(|live| Live::connections(live.word)),
                max_connections: limited.then_some(destination.max_connections),
                limited: limited.then(|| live.map_or(0, |live| live.limited)),
                limited_by_share: limited.then(|| live.map_or(0, |live| live.unfair)),
                ejected: ejecting.then(|| live.map_or(0, |live| live.ejected)),
                max_ejected: ejecting.then_some(destination.eject_most),
            }
        });
        rows.collect()
    }

    /// The endpoints of each destination: one row each, however many slots it
    /// has.
    fn backends(&self, lives: &BTreeMap<u32, Live>) -> Vec<BackendRow> {
        let mut rows: Vec<BackendRow> = Vec::new();
        for (number, destination) in &self.image.destinations {
            let range = destination.first..destination.first.saturating_add(destination.count);
            let slots: Vec<_> =
                range.clone().map(|index| self.image.backends.get(&index)).collect();
            let pairs: Vec<_> = slots
                .iter()
                .map(|slot| slot.map_or((0, 0), |s| (s.threshold, s.alias.into())))
                .collect();
            let mut of_address: BTreeMap<String, usize> = BTreeMap::new();
            for ((slot, share), backend) in slots.iter().zip(shares(&pairs)).zip(range) {
                let address = slot.map_or_else(String::new, |slot| address(slot.addr, slot.port));
                if let Some(row) = of_address.get(&address).and_then(|at| rows.get_mut(*at)) {
                    row.share = ((row.share + share) * 1e6).round() / 1e6;
                    continue;
                }
                of_address.insert(address.clone(), rows.len());
                let name = self.names.destinations.get(number).map(|id| destination_name(id));
                let live = slot.and_then(|slot| lives.get(&slot.live));
                let left = |live: &Live| live.ejected_until.saturating_sub(now());
                rows.push(BackendRow {
                    destination: *number,
                    name,
                    backend,
                    address,
                    share,
                    connections: live.map(|live| Live::connections(live.word)),
                    ejected_seconds: live
                        .map(left)
                        .filter(|left| *left > 0)
                        .map(|left| left as f64 / 1e9),
                    withheld: live.map(|live| live.withheld).filter(|count| *count > 0),
                });
            }
        }
        rows
    }

    fn counters(&self, counters: &Counters, remembered: u64) -> CountersRow {
        let totals = counters.totals;
        let legs = counters.legs.iter().map(|(leg, count)| {
            let name = self.names.legs.get(leg);
            LegCounterRow {
                leg: *leg,
                rule: name.map(|(route, _, _)| route_name(route)),
                destination: name.map(|(_, _, destination)| destination_name(destination)),
                chosen: count.chosen,
                refused: count.refused,
                established: count.established,
                failed: count.failed,
                closed: count.closed,
                handshake_seconds: count.handshake_ns as f64 / 1e9,
            }
        });
        CountersRow {
            routed: totals.routed,
            passed: totals.passed,
            refused: totals.refused,
            unknown_source: totals.unknown_source,
            own: totals.own,
            memory_full: totals.memory_full,
            overflowed: totals.overflowed,
            mptcp: totals.mptcp,
            remembered,
            legs: legs.collect(),
        }
    }

    /// Gateways are no tables of the kernel's: the documents in force say what
    /// the proxy serves.
    fn gateways(&self) -> Vec<GatewayRow> {
        let plan = compile(self.world).plan;
        plan.gateways
            .listeners
            .iter()
            .map(|(address, listener)| GatewayRow {
                address: *address,
                gateway: listener.gateway.to_string(),
                server: listener.server,
                mode: match &listener.mode {
                    Mode::Tcp => "tcp".to_owned(),
                    Mode::Sni => "sni".to_owned(),
                    Mode::Refuse(why) => format!("refuse: {why}"),
                },
                rules: listener.rules.iter().map(|rule| rule_name(&rule.rule)).collect(),
            })
            .collect()
    }
}

fn address(addr: Addr, port: u16) -> String {
    let (ip, port) = (IpAddr::from(addr), u16::from_be(port));
    if ip.is_unspecified() {
        "as dialled".to_owned()
    } else {
        SocketAddr::new(ip, port).to_string()
    }
}
