//! What `maps` answers people.

use super::rows::{
    Answer, BackendRow, ClassRow, ClassTableRow, CountersRow, DestinationRow, FrontendRow,
    GatewayRow, LegCounterRow, RouteRow, SlotRow, SourceRow, VerdictRow,
};
use crate::daemon::now;
use crate::output::{Align, Style, Table, known_names};

pub(super) fn text(answer: &Answer, headings: bool, style: Style) -> String {
    let mut text = format!(
        "generation {}, epoch {}, side {}{}\n",
        answer.generation,
        answer.epoch,
        answer.side,
        if answer.in_step { "" } else { ", the other side lies behind" }
    );
    let parts = [
        answer.sources.as_deref().map(|rows| ("SOURCES", sources(rows))),
        answer.frontends.as_deref().map(|rows| ("FRONTENDS", frontends(rows))),
        answer.classes.as_deref().map(|rows| ("CLASSES", classes(rows))),
        answer.class_tables.as_deref().map(|rows| ("CLASS TABLES", class_tables(rows))),
        answer.routes.as_deref().map(|rows| ("ROUTES", routes(rows))),
        answer.slots.as_deref().map(|rows| ("SLOTS", slots(rows))),
        answer.destinations.as_deref().map(|rows| ("DESTINATIONS", destinations(rows))),
        answer.backends.as_deref().map(|rows| ("BACKENDS", backends(rows))),
        answer.counters.as_ref().map(|counters| ("COUNTERS", totals(counters))),
        answer.counters.as_ref().map(|counters| ("BY DESTINATION", by_destination(&counters.legs))),
        answer.gateways.as_deref().map(|rows| ("GATEWAYS", gateways(rows))),
        answer.names.as_deref().map(|rows| ("NAMES", known_names(rows, now()))),
    ];
    for (at, (name, table)) in parts.into_iter().flatten().enumerate() {
        if headings {
            text.push_str(&format!("\n{name}\n"));
        } else if at > 0 {
            text.push('\n');
        }
        text.push_str(&match table.is_empty() {
            true => "  none\n".to_owned(),
            false => table.render(style.columns()),
        });
    }
    text
}

/// What each part lists, by name; of several parts each with the name of its own.
pub(super) fn names(answer: &Answer, headings: bool) -> Vec<String> {
    let named =
        |name: &Option<String>, number: u32| name.clone().unwrap_or_else(|| number.to_string());
    let parts: [(&str, Vec<String>); 9] = [
        ("sources", of(&answer.sources, |row| named(&row.workload, row.identity))),
        ("frontends", of(&answer.frontends, |row| format!("{} {}", row.prefix, row.port))),
        ("classes", of(&answer.classes, |row| row.class.to_string())),
        ("routes", of(&answer.routes, |row| named(&row.rule, row.route))),
        ("slots", of(&answer.slots, |row| row.slot.to_string())),
        ("destinations", of(&answer.destinations, |row| named(&row.name, row.destination))),
        (
            "counters",
            answer.counters.iter().flat_map(counted).map(|(name, _)| name.to_owned()).collect(),
        ),
        ("gateways", of(&answer.gateways, |row| row.address.to_string())),
        ("names", of(&answer.names, |row| row.name.clone())),
    ];
    let all = parts.into_iter().flat_map(|(part, names)| {
        names.into_iter().map(move |name| match headings {
            true => format!("{part}/{name}"),
            false => name,
        })
    });
    all.collect()
}

fn of<R>(rows: &Option<Vec<R>>, name: impl Fn(&R) -> String) -> Vec<String> {
    rows.iter().flatten().map(name).collect()
}

fn sources(rows: &[SourceRow]) -> Table {
    let mut table = Table::new(&[
        ("WORKLOAD", Align::Left),
        ("KIND", Align::Left),
        ("ID", Align::Right),
        ("IDENTITY", Align::Right),
        ("CLASS", Align::Right),
        ("PLACE", Align::Left),
    ]);
    for row in rows {
        table.row([
            or_dash(&row.workload),
            row.kind.to_owned(),
            row.id.to_string(),
            row.identity.to_string(),
            row.class.to_string(),
            or_dash(&row.place),
        ]);
    }
    table
}

fn frontends(rows: &[FrontendRow]) -> Table {
    let mut table = Table::new(&[
        ("PREFIX", Align::Whole),
        ("PORT", Align::Right),
        ("SERVICE", Align::Left),
        ("VERDICT", Align::Left),
    ]);
    for row in rows {
        let verdict = said(&row.verdict);
        table.row([row.prefix.clone(), row.port.to_string(), or_dash(&row.service), verdict]);
    }
    table
}

fn classes(rows: &[ClassRow]) -> Table {
    let mut table = Table::new(&[("CLASS", Align::Right), ("WORKLOADS", Align::Left)]);
    for row in rows {
        let workloads = match (row.class, row.workloads.is_empty()) {
            (0, _) => {
                let unknown = "callers in no known workload".to_owned();
                std::iter::once(unknown).chain(row.workloads.clone()).collect::<Vec<_>>()
            }
            _ => row.workloads.clone(),
        };
        table.row([row.class.to_string(), workloads.join(", ")]);
    }
    table
}

fn class_tables(rows: &[ClassTableRow]) -> Table {
    let mut table =
        Table::new(&[("TABLE", Align::Right), ("CLASS", Align::Right), ("VERDICT", Align::Left)]);
    for row in rows {
        for one in &row.exceptions {
            table.row([row.table.to_string(), one.class.to_string(), said(&one.verdict)]);
        }
        table.row([row.table.to_string(), "others".to_owned(), said(&row.default)]);
    }
    table
}

fn routes(rows: &[RouteRow]) -> Table {
    let mut table = Table::grouped(
        "RULE",
        &[("ROUTE", Align::Right), ("SHARE", Align::Right), ("DESTINATION", Align::Left)],
    );
    for row in rows {
        table.group(or_dash(&row.rule));
        for leg in &row.legs {
            let name = leg.name.clone().unwrap_or_else(|| leg.destination.to_string());
            table.row([row.route.to_string(), percent(leg.share), name]);
        }
    }
    table
}

fn slots(rows: &[SlotRow]) -> Table {
    let mut table = Table::new(&[
        ("SLOT", Align::Right),
        ("ROUTE", Align::Right),
        ("KEEPS", Align::Right),
        ("ELSE", Align::Right),
        ("DESTINATION", Align::Left),
    ]);
    for row in rows {
        table.row([
            row.slot.to_string(),
            row.route.map_or_else(|| "-".to_owned(), |route| route.to_string()),
            percent(f64::from(row.threshold) / 4_294_967_296.0),
            format!("+{}", row.alias),
            row.name.clone().unwrap_or_else(|| row.destination.to_string()),
        ]);
    }
    table
}

fn destinations(rows: &[DestinationRow]) -> Table {
    let mut table = Table::new(&[
        ("DESTINATION", Align::Left),
        ("BALANCED", Align::Left),
        ("OPEN", Align::Right),
        ("EJECTED", Align::Right),
    ]);
    let of = |count: Option<u64>, most: Option<u32>| match (count, most) {
        (Some(count), Some(most)) => format!("{count} of {most}"),
        (Some(count), None) => count.to_string(),
        (None, _) => String::new(),
    };
    for row in rows {
        let name = row.name.clone().unwrap_or_else(|| row.destination.to_string());
        let open = of(row.connections, row.max_connections);
        let ejected = of(row.ejected, row.max_ejected);
        table.row([name, row.algorithm.to_owned(), open, ejected]);
    }
    table
}

fn backends(rows: &[BackendRow]) -> Table {
    let mut table = Table::grouped(
        "DESTINATION",
        &[
            ("ENDPOINT", Align::Left),
            ("SHARE", Align::Right),
            ("OPEN", Align::Right),
            ("", Align::Left),
        ],
    );
    let mut of = None;
    for row in rows {
        if of.replace(row.destination) != Some(row.destination) {
            let name = row.name.clone().unwrap_or_else(|| row.destination.to_string());
            table.group(name);
        }
        let open = row.connections.map_or_else(String::new, |open| open.to_string());
        let ejected = row.ejected_seconds;
        let ejected = ejected.map_or_else(String::new, |s| format!("ejected for {s:.0} s"));
        table.row([row.address.clone(), percent(row.share), open, ejected]);
    }
    table
}

fn totals(counters: &CountersRow) -> Table {
    let mut table = Table::new(&[("COUNTER", Align::Left), ("VALUE", Align::Right)]);
    for (name, value) in counted(counters) {
        table.row([name.to_owned(), value.to_string()]);
    }
    table
}

const fn counted(counters: &CountersRow) -> [(&'static str, u64); 9] {
    [
        ("routed", counters.routed),
        ("passed through", counters.passed),
        ("refused", counters.refused),
        ("asked for the source of an unknown caller", counters.unknown_source),
        ("by the daemon itself", counters.own),
        ("not remembered: memory full", counters.memory_full),
        ("remembered in the overflow", counters.overflowed),
        ("not remembered: MPTCP subflow", counters.mptcp),
        ("connections remembered now", counters.remembered),
    ]
}

fn by_destination(rows: &[LegCounterRow]) -> Table {
    let mut table = Table::grouped(
        "RULE",
        &[("CHOSEN", Align::Right), ("REFUSED", Align::Right), ("DESTINATION", Align::Left)],
    );
    let mut of = None;
    for row in rows {
        if of.replace(&row.rule) != Some(&row.rule) {
            table.group(or_dash(&row.rule));
        }
        table.row([
            row.chosen.to_string(),
            row.refused.to_string(),
            row.destination.clone().unwrap_or_else(|| format!("leg {}, gone", row.leg)),
        ]);
    }
    table
}

fn gateways(rows: &[GatewayRow]) -> Table {
    let mut table = Table::grouped(
        "GATEWAY",
        &[("ADDRESS", Align::Whole), ("MODE", Align::Left), ("RULES", Align::Left)],
    );
    for row in rows {
        table.group(format!("{} servers[{}]", row.gateway, row.server));
        table.row([row.address.to_string(), row.mode.clone(), row.rules.join(", ")]);
    }
    table
}

fn or_dash(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "-".to_owned())
}

fn said(verdict: &VerdictRow) -> String {
    match (verdict.route, verdict.class_table) {
        (Some(route), _) => match &verdict.rule {
            Some(rule) => format!("route {route}: {rule}"),
            None => format!("route {route}"),
        },
        (_, Some(table)) => format!("by class table {table}"),
        _ => verdict.verdict.to_owned(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}
