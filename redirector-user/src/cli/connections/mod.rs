//! `redirector connections`

mod close;
mod rows;

use serde::Serialize;

use super::kernel::KernelArgs;
use super::which::Which;
use super::{Common, Context, Exit, Failure};
use crate::output::{Align, Style, Table, plain, time};

use rows::Row;

/// Connections that were redirected and are open now; and resetting them
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector connections
  redirector connections --route VirtualService/default/echo --output json
  redirector connections --address 10.244.2.10:9000
  redirector connections close --address 10.244.2.10:9000
  redirector connections close --workload default/telnet-client --yes

They are those of the kernel's memory, whoever made them, with a daemon or
without one. A connection that is open stays where it is when a weight or a rule
changes; `close` has its client dial again: it sees ECONNABORTED, and its server
a reset. What is dialled meanwhile is left alone. Resetting takes CAP_NET_ADMIN
in the network namespaces of the sockets, CAP_SYS_ADMIN to enter them, and a
kernel with CONFIG_INET_DIAG_DESTROY; the exit code is 1 when something that was
to be reset is not found, when there is nothing of what a filter names, or when
it cannot be told of all whose they are, and 3 when that is not possible.

What the kernel does not say is left out: how old a connection is, without `run
--accounting`; its process, when this user may not see it, or none has it. Where
the place at which it is counted was another rule's with the same destination,
and its age does not tell, both rules are named (\"A or B\"). --route has those
too; `close` asks, and with --yes leaves them alone, which is exit code 1.")]
pub struct Args {
    /// Reset them, after asking
    #[arg(value_enum)]
    action: Option<Action>,
    #[command(flatten)]
    which: Which,
    /// Reset every connection that was redirected
    #[arg(long, requires = "action")]
    all: bool,
    /// Do not ask
    #[arg(long, short, requires = "action")]
    yes: bool,
    #[command(flatten)]
    kernel: KernelArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Action {
    /// Reset them
    Close,
}

/// The answer.
#[derive(Serialize)]
struct Answer {
    connections: Vec<Row>,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    if args.action == Some(Action::Close) {
        return close::run(args, common, context);
    }
    let (connections, _) = rows::read(&args.kernel, &args.which, context)?;
    let answer = Answer { connections };
    let names: Vec<String> = answer.connections.iter().map(|one| one.cookie.to_string()).collect();
    context.answer_list(common, &answer, names, |style| text(&answer.connections, style))?;
    Ok(Exit::Fine)
}

/// A table for people.
fn text(rows: &[Row], style: Style) -> String {
    if rows.is_empty() {
        return "none is open\n".to_owned();
    }
    let mut table = Table::new(&[
        ("DIALLED", Align::Whole),
        ("ENDPOINT", Align::Whole),
        ("PORT", Align::Right),
        ("AGE", Align::Right),
        ("SENT", Align::Right),
        ("RECEIVED", Align::Right),
        ("WHO", Align::Left),
        ("ROUTE", Align::Left),
    ]);
    for row in rows {
        let shown = |number: Option<u64>| number.map_or_else(String::new, |one| one.to_string());
        let who = match (&row.workload, &row.process) {
            (Some(workload), Some(process)) => {
                format!("{workload} ({} {})", plain(&process.command), process.pid)
            }
            (Some(workload), None) => workload.clone(),
            (None, Some(process)) => format!("{} {}", plain(&process.command), process.pid),
            (None, None) if row.state.is_none() => "(reset, or not seen here)".to_owned(),
            (None, None) => String::new(),
        };
        table.row([
            row.destination.map_or_else(String::new, |address| address.to_string()),
            row.endpoint.to_string(),
            row.source_port.map_or_else(String::new, |port| port.to_string()),
            row.seconds.map_or_else(String::new, time),
            shown(row.sent),
            shown(row.received),
            who,
            row.route.clone().unwrap_or_else(|| row.may_be.join(" or ")),
        ]);
    }
    table.render(style.columns())
}
