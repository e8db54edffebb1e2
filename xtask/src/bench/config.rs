//! `cargo xtask bench config`: what a configuration costs in time and memory. The
//! measurement itself is an example of the tests' package.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use serde::Deserialize;

use super::{machine, page};

/// Options of `cargo xtask bench config`.
#[derive(clap::Args)]
pub struct Args {
    /// How many Services there are, of two endpoints each
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// How many rules each of them has
    #[arg(long, default_value_t = 10)]
    rules: usize,
    /// How often each kind of change is made
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// How long endpoints come and go, a hundred times a second
    #[arg(long, default_value_t = 10)]
    seconds: usize,
    /// The profile that is measured
    #[arg(long, default_value = "soak")]
    profile: String,
    /// Puts the tables into docs/performance.md
    #[arg(long)]
    write: bool,
}

/// A row: times in microseconds, sizes in bytes.
#[derive(Deserialize)]
struct Row {
    services: usize,
    rules: usize,
    ready: f64,
    memory: u64,
    state: u64,
    weight: Option<Times>,
    endpoint: Option<Times>,
    class: Option<Times>,
    churn: Option<Churn>,
    unrouted: Option<Churn>,
}

/// How long changes took.
#[derive(Clone, Copy, Deserialize)]
struct Times {
    p50: f64,
    p99: f64,
}

/// What changes took that came all the time: percent of a processor, and microseconds
/// of it for each.
#[derive(Clone, Copy, Deserialize)]
struct Churn {
    percent: f64,
    each: f64,
}

/// Measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    let numbers = [args.services, args.rules, args.changes, args.seconds];
    let rows: Vec<Row> = super::example("config_cost", &args.profile, &numbers)?;
    let tables = format!("{}\n\n{}", markdown(&rows), goals(&rows));
    println!("{tables}");
    if args.write {
        let text = format!(
            "{}. Documents in files of 100, 20 local workloads that half of the rules are about. \
             *Ready* is from the daemon's start, reading everything included. A *change* is from \
             a file's being renamed into place until the kernel's tables have it, with the 5 ms \
             that the file has to be quiet: a *weight* in a file of 100 VirtualServices, an \
             *endpoint* that comes or goes in a file of its own, the *first workload of a class*, \
             about which each Service has a rule. *Churn* is an endpoint that comes or goes a \
             hundred times a second, once a start has left nothing to be done, in percent of one \
             processor. *Memory* is the daemon's own, \
             without its program and the kernel's tables; *state* what lies in the state \
             directory after all changes. The rows without rules are the control.\n\n{tables}",
            machine::made_by(),
        );
        page::write(page::PERFORMANCE, "config", "Configuration: time and memory", &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

const MIB: f64 = (1 << 20) as f64;

fn markdown(rows: &[Row]) -> String {
    let mut text =
        "| Services | rules | ready | weight, p50 | p99 | endpoint, p50 | p99 | first of \
                    a class, p50 | p99 | churn | memory | state |\n"
            .to_owned();
    text.push_str(&"|---".repeat(12));
    text.push('|');
    for row in rows {
        let times = |times: Option<Times>| match times {
            Some(Times { p50, p99 }) => format!("{:.1} ms | {:.1} ms", p50 / 1e3, p99 / 1e3),
            None => " | ".to_owned(),
        };
        let churn = row.churn.map_or_else(String::new, |churn| format!("{:.1} %", churn.percent));
        let [memory, state] = [row.memory, row.state].map(|bytes| bytes as f64 / MIB);
        let _ = write!(
            text,
            "\n| {} | {} | {:.2} s | {} | {} | {} | {churn} | {memory:.1} MiB | {state:.1} MiB |",
            row.services,
            row.rules,
            row.ready / 1e6,
            times(row.weight),
            times(row.endpoint),
            times(row.class),
        );
    }
    text
}

/// What is to be reached, and what is.
fn goals(rows: &[Row]) -> String {
    let most = |has: &dyn Fn(&&Row) -> bool| rows.iter().filter(has).max_by_key(|row| row.rules);
    let large = most(&|row| row.weight.is_some());
    let small = rows.iter().filter(|row| row.weight.is_some()).min_by_key(|row| row.rules);
    let class = most(&|row| row.class.is_some()).and_then(|row| row.class);
    let unrouted = most(&|row| row.unrouted.is_some()).and_then(|row| row.unrouted);
    let p50 = |row: Option<&Row>| Some(row?.weight?.p50);
    let of = |value: &dyn Fn(&Row) -> f64| large.map(value);
    let growth = p50(large).zip(p50(small)).map(|(large, small)| large / small.max(1.0));
    let all: [(&str, Option<f64>, f64, &str); 9] = [
        ("a weight, p99", large.and_then(|row| row.weight).map(|one| one.p99 / 1e3), 15.0, "ms"),
        (
            "an endpoint, p99",
            large.and_then(|row| row.endpoint).map(|one| one.p99 / 1e3),
            10.0,
            "ms",
        ),
        ("first workload of a class, p99", class.map(|one| one.p99 / 1e3), 10.0, "ms"),
        (
            "an endpoint of a Service without rules, left alone",
            unrouted.map(|one| one.each),
            50.0,
            "µs of a processor, with reading its file",
        ),
        (
            "100 endpoints a second",
            large.and_then(|row| row.churn).map(|one| one.percent),
            3.0,
            "% of a processor",
        ),
        ("memory", of(&|row| row.memory as f64 / MIB), 128.0, "MiB"),
        ("state directory", of(&|row| row.state as f64 / MIB), 64.0, "MiB"),
        ("ready from cold", of(&|row| row.ready / 1e6), 2.5, "s"),
        ("growth of a weight from the small configuration to the large one", growth, 1.5, "times"),
    ];
    let mut text = "| | measured | at most | |\n|---|---|---|---|".to_owned();
    for (what, measured, most, unit) in all {
        let Some(measured) = measured else { continue };
        let met = if measured <= most { "met" } else { "missed" };
        let _ = write!(text, "\n| {what} | {measured:.2} {unit} | {most} | {met} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_changes_has_no_times_of_them_and_misses_no_goal() {
        let line = r#"{"services":2,"rules":0,"ready":1250000,"memory":1048576,"state":524288}"#;
        let rows = [serde_json::from_str(line).unwrap()];
        let table = markdown(&rows);
        let row = "\n| 2 | 0 | 1.25 s |  |  |  |  |  |  |  | 1.0 MiB | 0.5 MiB |";
        assert!(table.ends_with(row), "{table}");
        assert_eq!(goals(&rows).lines().count(), 2);
    }

    #[test]
    fn a_change_that_grows_with_the_configuration_misses_its_goal() {
        let row = |rules, p50| {
            let text = format!(
                r#"{{"services":1,"rules":{rules},"ready":1,"memory":1,"state":1,
                    "weight":{{"p50":{p50},"p99":9000}}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let table = goals(&[row(1, 5000), row(100, 8000)]);
        assert!(table.contains("| 9.00 ms | 15 | met |"), "{table}");
        assert!(table.ends_with("| 1.60 times | 1.5 | missed |"), "{table}");
    }
}
