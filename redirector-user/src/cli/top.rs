//! `redirector top`

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use redirector_core::alias::shares;
use redirector_core::image::Image;
use redirector_core::layout::Layout;
use serde::Serialize;

use super::config::interval;
use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure};
use crate::daemon::control::Request;
use crate::datapath::LegCount;
use crate::output::{Align, Style, Table, destination_name, route_name, time};

/// Shows where connections go now, route by route
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector top
  redirector top --interval 10s --count 1
  redirector top --count 3 --output json

SHARE is what was drawn in the interval, WEIGHT what is configured. OPEN, FAILED
and HANDSHAKE need a daemon, which follows connections until they end for as
long as this runs.")]
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
    let seconds = (args.interval + GRACE).as_secs();
    let mut before: Option<Look> = None;
    let mut shown = 0;
    loop {
        let asked = args.kernel.ask(&Request::Follow { seconds }, "so nobody follows connections");
        if let Err(failure) = asked
            && before.is_none()
        {
            context.note(&format!("note: {}", failure.message));
        }
        let known = before.as_ref().map(|before| (before.generation, before.layout.clone()));
        let now = Look::take(&args.kernel, known, context)?;
        if let Some(before) = &before {
            let answer = now.since(before);
            match common.output.encoding() {
                Some(encoding) => context.print_record(encoding, &answer)?,
                None => {
                    let names = answer.routes.iter().map(|route| &route.route);
                    let screen = context.env.out_is_terminal;
                    let (clear, end) = if screen { ("\x1b[H\x1b[2J", "") } else { ("", "\n") };
                    context.answer_list(common, &answer, names, |style| {
                        format!("{clear}{}{end}", answer.text(style))
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

/// The kernel's state at one moment.
struct Look {
    at: Instant,
    generation: u64,
    layout: Option<Layout>,
    image: Image,
    legs: BTreeMap<u32, LegCount>,
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
}

#[derive(Serialize)]
struct RouteRow {
    route: String,
    /// Connections a second.
    rate: f64,
    destinations: Vec<LegRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LegRow {
    destination: String,
    weight: f64,
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
        known: Option<(u64, Option<Layout>)>,
        context: &mut Context<'_>,
    ) -> Result<Self, Failure> {
        let datapath = kernel.open()?;
        let (active, image) = datapath.dump_active()?;
        let layout = match known {
            Some((generation, layout)) if generation == active.generation => layout,
            _ => kernel
                .snapshot(active.generation, context)?
                .map(|snapshot| snapshot.contents.layout),
        };
        let counters = datapath.counters()?;
        Ok(Self {
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
                    weight,
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
        }
    }
}

impl Answer {
    fn text(&self, style: Style) -> String {
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
        for route in &self.routes {
            table.group(short(&route.route));
            for leg in &route.destinations {
                table.row([
                    short(&leg.destination),
                    percent(leg.weight),
                    leg.share.map_or_else(|| "-".to_owned(), percent),
                    format!("{:.0}/s", leg.rate),
                    leg.open.to_string(),
                    leg.failed.to_string(),
                    leg.handshake_seconds.map_or_else(|| "-".to_owned(), time),
                ]);
            }
        }
        format!(
            "{}  generation {}  {:.0} routed/s  {:.0} refused/s\n\n{}",
            self.time,
            self.generation,
            self.routed,
            self.refused,
            table.render(style.columns())
        )
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
    use crate::output::{WIDTH, width};

    #[test]
    fn long_names_are_whole_and_no_line_is_wider_than_a_terminal() {
        let destination = format!("{}.a-namespace.svc.cluster.local:80/v1", "s".repeat(63));
        let leg = LegRow {
            destination,
            weight: 1.0,
            share: Some(1.0),
            rate: 12_345.0,
            open: 100_000,
            failed: 10_000,
            handshake_seconds: Some(0.25),
        };
        let rule = format!("VirtualService/a-namespace/{} tcp[0]", "r".repeat(63));
        let route = RouteRow { route: rule, rate: 12_345.0, destinations: vec![leg] };
        let time = "2026-11-25T13:17:53Z".to_owned();
        let answer = Answer {
            time,
            seconds: 1.0,
            generation: 123_456,
            routed: 123_456.0,
            refused: 123_456.0,
            routes: vec![route],
        };
        let text = answer.text(Style::new(false, WIDTH));
        for line in text.lines() {
            assert!(width(line) <= WIDTH, "{line}\n{text}");
        }
        // But for "service", which the heading has not.
        let count = |letter| text.matches(letter).count();
        assert!(count("r") >= 63 && count("s") >= 63, "{text}");
        assert!(text.contains(":80/v1") && !text.contains("svc.cluster"), "{text}");
    }
}
