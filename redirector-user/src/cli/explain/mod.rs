//! `redirector explain`

mod text;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use redirector_core::explain::{
    Dialled, ExplainError, Explanation, Query, QuerySource, explain_with,
};
use redirector_core::model::{Labels, SourceSelector, is_name, namespaced};
use redirector_core::registry::Registry;
use redirector_core::world::Changes;

use super::completions;
use super::config::{Documents, SettingsArgs};
use super::kernel::KernelArgs;
use super::names::NamesArgs;
use super::status::gateways::not_served;
use super::{Common, Context, Exit, Failure};
use crate::daemon::names::{self, Resolved};
use crate::daemon::now;
use crate::explain::{self, Named, Process, Question, Who, dialled};
use crate::mounts;
use crate::output::known_name;
pub use text::text;

/// Why a connection goes where it goes, rule by rule
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector explain --config rules/ --from-workload default/telnet-client \\
      --to 10.96.0.10:19000
  redirector explain --from-pid 4711 --to '[fd00::10]:443'
  redirector explain --from-namespace foo --from-label app=web \\
      --to echo-server.default:19000

With --config it answers from the documents alone, without privilege; without,
from the tables in the kernel: what the next connection gets. The shares are
those of the weights; where endpoints are ejected or stand by, or a destination
has as many connections as it may, what that makes of them now is shown below.

A name is looked up as in a Pod of the source's namespace.")]
pub struct Args {
    /// Answer from these documents instead of from the kernel
    #[arg(long, num_args = 1.., action = clap::ArgAction::Append, value_name = "PATH")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    /// What is dialled: an address (IPv6 in brackets), or the name of a service
    #[arg(long, value_name = "IP:PORT|HOST:PORT", required = true, add = completions::services())]
    to: Dialled,
    /// The Gateway that the connection arrives at
    #[arg(long, value_name = "NS/NAME", value_parser = pair, add = completions::gateways())]
    gateway: Option<Pair>,
    /// The server name (SNI) of its ClientHello, for a gateway that routes by it
    #[arg(long, value_name = "NAME", requires = "gateway")]
    sni: Option<String>,
    /// Resolve the names of DNS ServiceEntries now, as the daemon does
    #[arg(long, requires = "config")]
    resolve: bool,
    #[command(flatten)]
    names: NamesArgs,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    kernel: KernelArgs,
}

/// Who connects.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Who connects")]
struct SourceArgs {
    /// A workload in this namespace
    #[arg(long, value_name = "NAMESPACE", group = "from", value_parser = namespace)]
    from_namespace: Option<String>,
    /// With this label
    #[arg(long, action = clap::ArgAction::Append, value_name = "KEY=VALUE", requires = "from_namespace", value_parser = label)]
    from_label: Vec<(String, String)>,
    /// The Pod or WorkloadEntry of this name
    #[arg(long, value_name = "NS/NAME", group = "from", value_parser = pair, add = completions::workloads())]
    from_workload: Option<Pair>,
    /// This process
    #[arg(long, value_name = "PID", group = "from")]
    from_pid: Option<u32>,
    /// Processes in this cgroup, a path below the cgroup2 mount
    #[arg(long, value_name = "PATH", group = "from")]
    from_cgroup: Option<PathBuf>,
}

/// `namespace/name`.
#[derive(Clone, Debug)]
struct Pair {
    namespace: String,
    name: String,
}

fn pair(text: &str) -> Result<Pair, String> {
    let (namespace, name) = namespaced(text)?;
    Ok(Pair { namespace: namespace.to_owned(), name: name.to_owned() })
}

fn namespace(text: &str) -> Result<String, String> {
    is_name(text, false).then(|| text.to_owned()).ok_or_else(|| {
        "a namespace has lower-case letters, digits and '-', such as default".to_owned()
    })
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, such as app=client".to_owned()),
    }
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let from = &args.source;
    let given = from.from_namespace.is_some()
        || from.from_workload.is_some()
        || from.from_pid.is_some()
        || from.from_cgroup.is_some();
    if !given && args.gateway.is_none() {
        return Err(Failure::new(Exit::Usage, "it is not said who connects").help(
            "add --from-workload NS/NAME, --from-namespace NS, --from-pid PID or --from-cgroup PATH",
        ));
    }
    let explanation = if args.config.is_empty() {
        from_kernel(args, context)?
    } else {
        from_documents(args, context)?
    };
    context.answer(common, &explanation, |style| text(&explanation, style))?;
    Ok(Exit::Fine)
}

fn gateway(args: &Args) -> Option<(String, String)> {
    args.gateway.clone().map(|gateway| (gateway.namespace, gateway.name))
}

fn from_documents(args: &Args, context: &mut Context<'_>) -> Result<Explanation, Failure> {
    let documents = Documents::read(&args.config);
    documents.insist(context)?;
    let mut world = documents.world(args.settings.settings(false));
    documents.note_refused(context);
    let mut registry = Registry::new(&world);
    if args.resolve {
        let asked = registry.names_to_resolve().cloned().collect();
        let Resolved { answers, failed } =
            names::resolve(&args.names.via(world.settings.allocates)?, &asked);
        let names = answers.into_iter();
        let names = names.map(|(name, found)| (name, Some(found.addresses.into())));
        let changes = Changes { names: names.collect(), ..Changes::default() };
        world.apply(&changes);
        registry.update(&world, &changes);
        for (name, error) in failed {
            context.note(&format!("note: {name} is not resolved: {error}"));
        }
    }
    let source = match &args.source {
        SourceArgs { from_workload: Some(workload), .. } => of_workload(workload),
        SourceArgs { from_namespace: Some(namespace), from_label, .. } => {
            described(namespace, from_label)
        }
        // Processes of this machine, by what the documents say of its cgroups.
        SourceArgs { from_cgroup: Some(path), .. } => by_cgroup(&registry, path),
        SourceArgs { from_pid: Some(pid), .. } => {
            by_cgroup(&registry, Process::of_pid(*pid)?.cgroup())
        }
        _ => QuerySource::Unknown,
    };
    let nowhere = args.source.from_cgroup.as_ref().filter(|_| source == QuerySource::Unknown);
    let (destination, others) =
        dialled(&world, &registry, &source, &args.to).map_err(explain::Error::from)?;
    let query = Query { source, destination, gateway: gateway(args), sni: args.sni.clone() };
    let mut explanation = explain_with(&world, &registry, &query).map_err(explain::Error::from)?;
    explanation.notes.extend(others);
    if let Some(path) = nowhere {
        let also = match Process::of_cgroup(path) {
            Ok(_) => "",
            Err(_) => ", which is not there on this machine either",
        };
        explanation.notes.push(format!(
            "no workload of the documents has the cgroup {}{also}: this is what callers in no known \
             workload get",
            path.display()
        ));
    }
    if explanation.frontend.as_ref().is_some_and(|frontend| frontend.name.is_some()) {
        explanation.notes.push(format!(
            "if {} is the node's own, which documents do not say, it is left as it is",
            destination.ip()
        ));
    }
    Ok(explanation)
}

fn of_workload(workload: &Pair) -> QuerySource {
    QuerySource::Workload { namespace: workload.namespace.clone(), name: workload.name.clone() }
}

fn described(namespace: &str, labels: &[(String, String)]) -> QuerySource {
    let labels: Labels = labels.iter().cloned().collect();
    QuerySource::Described { namespace: namespace.to_owned(), labels, addresses: Vec::new() }
}

/// The workload whose cgroup this is, or lies above it the nearest.
fn by_cgroup(registry: &Registry, path: &Path) -> QuerySource {
    let mount = mounts::cgroup2().ok().flatten().unwrap_or_default();
    let below = path.strip_prefix(&mount).unwrap_or(path);
    let below = below.strip_prefix("/").unwrap_or(below);
    let found = registry
        .workloads
        .sources()
        .filter_map(|workload| match &workload.source {
            Some(SourceSelector::Cgroup(own)) if below.starts_with(&**own) => {
                Some((own.len(), workload))
            }
            _ => None,
        })
        // Of two with one cgroup the first has it, as everywhere.
        .min_by_key(|(length, _)| std::cmp::Reverse(*length));
    let found = found.map(|(_, workload)| QuerySource::Workload {
        namespace: workload.object.namespace.to_string(),
        name: workload.object.name.to_string(),
    });
    found.unwrap_or_default()
}

fn from_kernel(args: &Args, context: &mut Context<'_>) -> Result<Explanation, Failure> {
    let datapath = args.kernel.open()?;
    let served = datapath.served()?;
    let question = Question {
        who: match &args.source {
            SourceArgs { from_workload: Some(workload), .. } => Who::Source(of_workload(workload)),
            SourceArgs { from_namespace: Some(namespace), from_label, .. } => {
                Who::Source(described(namespace, from_label))
            }
            SourceArgs { from_pid: Some(pid), .. } => Who::Process(Process::of_pid(*pid)?),
            SourceArgs { from_cgroup: Some(path), .. } => Who::Process(Process::of_cgroup(path)?),
            _ => Who::Source(QuerySource::Unknown),
        },
        to: args.to.clone(),
        gateway: gateway(args),
        sni: args.sni.clone(),
    };
    let mut named: Option<(u64, Option<Named>)> = None;
    let mut explanation = datapath.read(|tables| {
        let generation = tables.active().generation;
        // What is read again is of the same generation, as a rule.
        let known = match named.take() {
            Some((of, known)) if of == generation => known,
            _ => {
                let known = args.kernel.snapshot(generation, context)?;
                // By some of the names others are told wrong.
                known.filter(|known| known.insist().is_ok()).as_ref().map(Named::from)
            }
        };
        let (_, known) = named.insert((generation, known));
        let explained = crate::explain::explain(tables, &served, known.as_ref(), &question);
        if let Err(explain::Error::Unknown(ExplainError::NotResolved(host))) = &explained {
            let report = args.kernel.report_or_last(context);
            let known = report.names.iter().filter(|one| one.name == *host);
            known.for_each(|one| context.note(&format!("note: {}", known_name(one, now()))));
        }
        Ok::<_, Failure>(explained?)
    })?;
    let of_destinations = explanation.destinations.iter().flat_map(|one| &one.names);
    let names: BTreeSet<&String> = (of_destinations.map(|one| &one.name))
        .chain(explanation.frontend.iter().filter_map(|frontend| frontend.name.as_ref()))
        .chain(&explanation.undecided_names)
        .collect();
    if !names.is_empty() {
        let report = args.kernel.report_or_last(context);
        let known = report.names.iter().filter(|one| names.contains(&one.name));
        let known: Vec<String> = known.map(|one| known_name(one, now())).collect();
        explanation.notes.extend(known);
    }
    if let Some(Pair { namespace, name }) = &args.gateway {
        let problems = not_served(&args.kernel, namespace, name);
        explanation.notes.extend(problems.into_iter().map(|why| format!("not now: {why}")));
    }
    Ok(explanation)
}

impl From<explain::Error> for Failure {
    fn from(error: explain::Error) -> Self {
        match error {
            explain::Error::Datapath(error) => error.into(),
            explain::Error::NoCgroups => Self::new(Exit::Unable, error.to_string()),
            explain::Error::Unnamed => Self::input(error.to_string()).help(
                "ask by process (--from-pid, --from-cgroup) and address, name the daemon's \
                 --state-dir, or start `redirector run`, which writes the names again",
            ),
            explain::Error::Unknown(_) | explain::Error::Process(_) => {
                Self::input(error.to_string())
            }
        }
    }
}
