//! `redirector top`

mod screen;
mod view;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use redirector_core::alias::shares;
use redirector_core::image::Image;
use redirector_core::layout::Layout;
use serde::Serialize;

use super::config::interval;
use super::context::terminal_size;
use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure, Format};
use crate::daemon::control::Request;
use crate::datapath::LegCount;
use crate::output::{Align, Style, Table, WIDTH, destination_name, folded, route_name, time};
use crate::proxy::LegCounts;
use screen::{Happened, Screen};
use view::View;

/// Shows where connections go now, route by route
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector top
  redirector top --interval 10s --count 1
  redirector top --count 3 --output json

In a terminal, without --count: arrows, page keys, home and end scroll, s sorts
by another column, / filters by name, q ends.

SHARE is what was drawn in the interval, WEIGHT what is configured. OPEN, FAILED
and HANDSHAKE need a daemon, which follows connections until they end for as
long as this runs; so do rules at gateways.")]
pub struct Args {
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// End after so many [default: never]
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    #[command(flatten)]
    kernel: KernelArgs,
}

/// How much longer than an interval the daemon goes on following.
const GRACE: Duration = Duration::from_secs(10);

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let terminal = context.env.out_is_terminal && context.env.in_is_terminal;
    let text = matches!(common.output, Format::Text | Format::Wide);
    if terminal && text && args.count.is_none() {
        return in_front(args, common, context);
    }
    let seconds = (args.interval + GRACE).as_secs();
    let mut before: Option<Look> = None;
    let mut shown = 0;
    loop {
        let asked = args.kernel.ask(&Request::Follow { seconds }, NOBODY);
        if let Err(failure) = asked
            && before.is_none()
        {
            context.note(&format!("note: {}", failure.message));
        }
        let now = Look::take(&args.kernel, before.as_ref(), context)?;
        if let Some(before) = &before {
            let answer = now.since(before);
            match common.output.encoding() {
                Some(encoding) => context.print_record(encoding, &answer)?,
                None => {
                    let names = answer.all().map(|route| &route.route);
                    context.answer_list(common, &answer, names, |style| {
                        let (heading, body) = answer.parts(answer.all().collect(), style);
                        format!("{heading}{body}\n")
                    })?;
                }
            }
            shown += 1;
            if args.count.is_some_and(|count| shown >= count) {
                return Ok(Exit::Fine);
            }
        }
        before = Some(now);
        std::thread::sleep(args.interval);
    }
}

/// What is missing without a daemon.
const NOBODY: &str = "so nobody follows connections";

/// Goes on in a terminal until whoever is in front of it has seen enough.
fn in_front(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let gone = |error: std::io::Error| Failure::input(format!("the terminal is gone: {error}"));
    let follow = Request::Follow { seconds: (args.interval + GRACE).as_secs() };
    // What there is to say is said before there is a screen to be painted over.
    if let Err(failure) = args.kernel.ask(&follow, NOBODY) {
        context.note(&format!("note: {}", failure.message));
    }
    let mut before = Look::take(&args.kernel, None, context)?;
    let mut answer: Option<Answer> = None;
    let screen = Screen::take().map_err(gone)?;
    let mut view = View::new();
    // The first look is short: there is nothing to be seen before.
    let mut next = Instant::now() + args.interval.min(FIRST);
    loop {
        let (columns, rows) = terminal_size().unwrap_or((WIDTH, ROWS));
        let style = context.style(common).with_columns(columns);
        let text = match &answer {
            Some(answer) => view.draw(answer, rows, style),
            None => "looking...".to_owned(),
        };
        screen.show(&text).map_err(gone)?;
        match screen.wait(next.saturating_duration_since(Instant::now())).map_err(gone)? {
            Happened::End => return Ok(Exit::Fine),
            Happened::Pressed(key) if !view.press(key) => return Ok(Exit::Fine),
            _ => {}
        }
        if Instant::now() < next {
            continue;
        }
        // It may have ended, or another one may have begun.
        let _ = args.kernel.ask(&follow, NOBODY);
        let now = Look::take(&args.kernel, Some(&before), context)?;
        answer = Some(now.since(&before));
        (before, next) = (now, Instant::now() + args.interval);
    }
}

/// Before this there is nothing on the screen.
const FIRST: Duration = Duration::from_millis(500);

/// The rows of a terminal that does not say how many it has.
const ROWS: usize = 24;

/// The kernel's state at one moment.
struct Look {
    at: Instant,
    generation: u64,
    layout: Option<Layout>,
    image: Image,
    legs: BTreeMap<u32, LegCount>,
    /// What the gateways of the daemon have counted.
    gateways: Vec<LegCounts>,
    routed: u64,
    refused: u64,
}

/// What happened between two looks.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    time: String,
    seconds: f64,
    generation: u64,
    /// Connections a second.
    routed: f64,
    refused: f64,
    routes: Vec<RouteRow>,
    /// Of the gateways that the daemon serves; no weights.
    gateways: Vec<RouteRow>,
}

#[derive(Serialize)]
struct RouteRow {
    route: String,
    /// Connections come by a gateway.
    #[serde(skip)]
    at_gateway: bool,
    /// Connections a second.
    rate: f64,
    destinations: Vec<LegRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LegRow {
    destination: String,
    weight: Option<f64>,
    /// Of what was drawn in the interval, when anything was.
    share: Option<f64>,
    rate: f64,
    /// Established and not ended, of those that were followed.
    open: u64,
    /// Refused, and ended without a handshake, in the interval.
    failed: u64,
    /// The mean of the interval.
    handshake_seconds: Option<f64>,
}

impl Look {
    fn take(
        kernel: &KernelArgs,
        before: Option<&Self>,
        context: &mut Context<'_>,
    ) -> Result<Self, Failure> {
        let datapath = kernel.open()?;
        let (active, image) = datapath.dump_active()?;
        let layout = match before {
            Some(before) if before.generation == active.generation => before.layout.clone(),
            _ => kernel
                .snapshot(active.generation, context)?
                .map(|snapshot| snapshot.contents.layout),
        };
        let counters = datapath.counters()?;
        let gateways = kernel.ask(&Request::Gateways, "").ok().and_then(|said| said.gateways);
        Ok(Self {
            gateways: gateways.map(|status| status.legs).unwrap_or_default(),
            at: Instant::now(),
            generation: active.generation,
            layout,
            image,
            legs: counters.legs.into_iter().collect(),
            routed: counters.totals.routed,
            refused: counters.totals.refused,
        })
    }

    fn since(&self, before: &Self) -> Answer {
        let seconds = self.at.duration_since(before.at).as_secs_f64().max(1e-3);
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let names = self.layout.as_ref().map(Layout::names);
        let mut routes: Vec<RouteRow> = Vec::new();
        for (number, route) in &self.image.routes {
            let slots: Vec<_> = (route.first..route.first.saturating_add(route.count))
                .map(|index| (index, self.image.legs.get(&index).copied().unwrap_or_default()))
                .collect();
            let pairs: Vec<_> = slots.iter().map(|(_, leg)| (leg.threshold, leg.alias)).collect();
            let count = |of: &Self, leg: u32| of.legs.get(&leg).copied().unwrap_or_default();
            let drawn = |leg: u32| count(self, leg).chosen.wrapping_sub(count(before, leg).chosen);
            let all: u64 = slots.iter().map(|(leg, _)| drawn(*leg)).sum();
            let rows = slots.iter().zip(shares(&pairs)).map(|((leg, slot), weight)| {
                let (now, then) = (count(self, *leg), count(before, *leg));
                let handshakes = now.established.saturating_sub(then.established);
                let took = now.handshake_ns.saturating_sub(then.handshake_ns);
                let failures = |of: &LegCount| of.failed + of.refused;
                let name =
                    names.as_ref().and_then(|names| names.destinations.get(&slot.destination));
                LegRow {
                    destination: name
                        .map_or_else(|| slot.destination.to_string(), |id| destination_name(id)),
                    weight: Some(weight),
                    share: (all > 0).then(|| drawn(*leg) as f64 / all as f64),
                    rate: rate(now.chosen, then.chosen),
                    open: now.established.saturating_sub(now.closed),
                    failed: failures(&now).saturating_sub(failures(&then)),
                    handshake_seconds: (handshakes > 0)
                        .then(|| took as f64 / handshakes as f64 / 1e9),
                }
            });
            let destinations: Vec<LegRow> = rows.collect();
            let name = names.as_ref().and_then(|names| names.routes.get(number));
            routes.push(RouteRow {
                route: name.map_or_else(|| format!("route {number}"), |id| route_name(id)),
                at_gateway: false,
                rate: all as f64 / seconds,
                destinations,
            });
        }
        routes.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.route.cmp(&b.route)));
        Answer {
            time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            seconds,
            generation: self.generation,
            routed: rate(self.routed, before.routed),
            refused: rate(self.refused, before.refused),
            routes,
            gateways: self.gateways_since(before, seconds),
        }
    }

    fn gateways_since(&self, before: &Self, seconds: f64) -> Vec<RouteRow> {
        let mut routes: BTreeMap<&str, Vec<(&LegCounts, u64, u64)>> = BTreeMap::new();
        for now in &self.gateways {
            let same =
                |one: &&LegCounts| one.route == now.route && one.destination == now.destination;
            let then = before.gateways.iter().find(same);
            let since = |of: fn(&LegCounts) -> u64| of(now).saturating_sub(then.map_or(0, of));
            let (drawn, failed) = (since(|one| one.taken), since(|one| one.failed.iter().sum()));
            routes.entry(&now.route).or_default().push((now, drawn, failed));
        }
        let rows = routes.into_iter().map(|(route, legs)| {
            let all: u64 = legs.iter().map(|(_, drawn, _)| drawn).sum();
            let destinations = legs.into_iter().map(|(now, drawn, failed)| LegRow {
                destination: now.destination.to_string(),
                weight: None,
                share: (all > 0).then(|| drawn as f64 / all as f64),
                rate: drawn as f64 / seconds,
                open: now.active,
                failed,
                handshake_seconds: None,
            });
            RouteRow {
                route: route.to_owned(),
                at_gateway: true,
                rate: all as f64 / seconds,
                destinations: destinations.collect(),
            }
        });
        rows.collect()
    }
}

impl RouteRow {
    /// Whether it, or one of its destinations, is called like that.
    fn has(&self, filter: &str) -> bool {
        let mut names = self.destinations.iter().map(|leg| &leg.destination);
        self.route.contains(filter) || names.any(|name| name.contains(filter))
    }

    fn open(&self) -> u64 {
        self.destinations.iter().map(|leg| leg.open).sum()
    }

    fn failed(&self) -> u64 {
        self.destinations.iter().map(|leg| leg.failed).sum()
    }
}

impl Answer {
    /// All routes.
    fn all(&self) -> impl Iterator<Item = &RouteRow> {
        self.routes.iter().chain(&self.gateways)
    }

    /// The heading, and what it is of: these routes.
    fn parts(&self, routes: Vec<&RouteRow>, style: Style) -> (String, String) {
        let mut table = Table::grouped(
            "ROUTE",
            &[
                ("DESTINATION", Align::Left),
                ("WEIGHT", Align::Right),
                ("SHARE", Align::Right),
                ("RATE", Align::Right),
                ("OPEN", Align::Right),
                ("FAILED", Align::Right),
                ("HANDSHAKE", Align::Right),
            ],
        );
        for route in routes {
            let at = if route.at_gateway { " (gateway)" } else { "" };
            table.group(format!("{}{at}", short(&route.route)));
            for leg in &route.destinations {
                table.row([
                    short(&leg.destination),
                    leg.weight.map_or_else(|| "-".to_owned(), percent),
                    leg.share.map_or_else(|| "-".to_owned(), percent),
                    format!("{:.0}/s", leg.rate),
                    leg.open.to_string(),
                    leg.failed.to_string(),
                    leg.handshake_seconds.map_or_else(|| "-".to_owned(), time),
                ]);
            }
        }
        let line = format!(
            "{}  generation {}  {:.0} routed/s  {:.0} refused/s\n\n",
            self.time, self.generation, self.routed, self.refused,
        );
        let (heading, body) = table.parts(style.columns());
        (folded(&line, style.columns()) + &heading, body)
    }
}

/// A name without what all have in common.
fn short(name: &str) -> String {
    name.replace(".svc.cluster.local", "").replace("VirtualService/", "")
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::width;

    /// A route with one destination.
    pub(super) fn route(name: &str, rate: f64, open: u64, failed: u64) -> RouteRow {
        let (weight, share) = (Some(1.0), Some(1.0));
        let destination = format!("{name}.ns.svc.cluster.local:80");
        let handshake_seconds = None;
        let leg = LegRow { destination, weight, share, rate, open, failed, handshake_seconds };
        let route = format!("VirtualService/ns/{name} tcp[0]");
        RouteRow { route, at_gateway: false, rate, destinations: vec![leg] }
    }

    /// What was seen of these.
    pub(super) fn answer(routes: Vec<RouteRow>) -> Answer {
        Answer {
            time: "2026-11-25T13:17:53Z".to_owned(),
            seconds: 1.0,
            generation: 123_456,
            routed: 123_456.0,
            refused: 123_456.0,
            routes,
            gateways: Vec::new(),
        }
    }

    #[test]
    fn long_names_are_whole_and_no_line_is_wider_than_a_terminal() {
        let mut row = route("x", 12_345.0, 100_000, 10_000);
        row.route = format!("VirtualService/a-namespace/{} tcp[0]", "r".repeat(63));
        row.destinations[0].destination =
            format!("{}.a-namespace.svc.cluster.local:80/v1", "s".repeat(63));
        let answer = answer(vec![row]);
        let (heading, body) = answer.parts(answer.all().collect(), Style::new(false, WIDTH));
        let text = heading + &body;
        for line in text.lines() {
            assert!(width(line) <= WIDTH, "{line}\n{text}");
        }
        // But for "service", which the heading has not.
        let count = |letter| text.matches(letter).count();
        assert!(count("r") >= 63 && count("s") >= 63, "{text}");
        assert!(text.contains(":80/v1") && !text.contains("svc.cluster"), "{text}");
    }
}
