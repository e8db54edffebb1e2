//! `redirector explain`

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use redirector_core::explain::{
    Explanation, HandledBy, Query, QuerySource, SourceView, VerdictWord, explain_with, tables,
};
use redirector_core::layout::Layout;
use redirector_core::model::Labels;
use redirector_core::registry::Registry;
use redirector_core::world::World;

use super::config::{Documents, SettingsArgs};
use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure};
use crate::daemon::names;
use crate::datapath::{Datapath, SourceKey, netns_cookie};
use crate::mounts;
use crate::output::{Style, plain};

/// Why a connection goes where it goes, rule by rule
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector explain --config rules/ --from-workload shop/cart --to 10.96.0.10:80
  redirector explain --from-pid 4711 --to '[fd00::10]:443'
  redirector explain --from-namespace shop --from-label app=cart --to 10.96.0.10:80

With --config it answers from the documents alone, without privilege; without,
from the tables in the kernel: what the next connection gets.")]
pub struct Args {
    /// Answer from these documents instead of from the kernel
    #[arg(long, num_args = 1.., action = clap::ArgAction::Append, value_name = "PATH")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    /// The address that is dialled; IPv6 in brackets
    #[arg(long, value_name = "IP:PORT", required = true)]
    to: SocketAddr,
    /// The Gateway that the connection arrives at
    #[arg(long, value_name = "NS/NAME", value_parser = pair)]
    gateway: Option<Pair>,
    /// The server name (SNI) of its ClientHello, for a gateway that routes by it
    #[arg(long, value_name = "NAME", requires = "gateway")]
    sni: Option<String>,
    /// Resolve the names of DNS ServiceEntries now, as the daemon does
    #[arg(long, requires = "config")]
    resolve: bool,
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
    #[arg(long, value_name = "NAMESPACE", group = "from")]
    from_namespace: Option<String>,
    /// With this label
    #[arg(long, action = clap::ArgAction::Append, value_name = "KEY=VALUE", requires = "from_namespace", value_parser = label)]
    from_label: Vec<(String, String)>,
    /// The Pod or WorkloadEntry of this name
    #[arg(long, value_name = "NS/NAME", group = "from", value_parser = pair)]
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
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(Pair { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err("expected NAMESPACE/NAME, such as default/client".to_owned()),
    }
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

fn query(args: &Args, source: QuerySource) -> Query {
    let gateway = args.gateway.clone().map(|gateway| (gateway.namespace, gateway.name));
    Query { source, destination: args.to, gateway, sni: args.sni.clone() }
}

fn from_documents(args: &Args, context: &mut Context<'_>) -> Result<Explanation, Failure> {
    let documents = Documents::read(&args.config);
    documents.insist(context)?;
    let mut world = documents.world(args.settings.settings(false));
    let refused = documents.readings.iter().flat_map(|reading| &reading.objects);
    let refused = refused.filter(|read| read.object.is_none()).count();
    if refused > 0 {
        context.note("note: some documents are refused; `redirector check` says which and why");
    }
    let mut registry = Registry::new(&world);
    if args.resolve && !registry.names_to_resolve().is_empty() {
        let (answers, failed) = names::resolve(registry.names_to_resolve());
        for (name, addresses) in answers {
            world.set_resolved(&name, addresses);
        }
        for (name, error) in failed {
            context.note(&format!("note: {name} is not resolved: {error}"));
        }
        registry = Registry::new(&world);
    }
    let source = match &args.source {
        SourceArgs { from_workload: Some(workload), .. } => of_workload(workload),
        SourceArgs { from_namespace: Some(namespace), from_label, .. } => {
            described(namespace, from_label)
        }
        // Processes of this machine, by what the documents say of its cgroups.
        SourceArgs { from_cgroup: Some(path), .. } => by_cgroup(&registry, path)?,
        SourceArgs { from_pid: Some(pid), .. } => {
            let mount = cgroup2()?;
            by_cgroup(&registry, &cgroup_of(&mount, *pid)?)?
        }
        _ => QuerySource::Unknown,
    };
    explained(&world, &registry, &query(args, source))
}

fn explained(world: &World, registry: &Registry, query: &Query) -> Result<Explanation, Failure> {
    explain_with(world, registry, query).map_err(|error| Failure::input(error.to_string()))
}

fn of_workload(workload: &Pair) -> QuerySource {
    QuerySource::Workload { namespace: workload.namespace.clone(), name: workload.name.clone() }
}

fn described(namespace: &str, labels: &[(String, String)]) -> QuerySource {
    let labels: Labels = labels.iter().cloned().collect();
    QuerySource::Described { namespace: namespace.to_owned(), labels, addresses: Vec::new() }
}

/// The workload whose cgroup this is, or lies above it the nearest.
fn by_cgroup(registry: &Registry, path: &Path) -> Result<QuerySource, Failure> {
    use redirector_core::model::SourceSelector;
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
        .max_by_key(|(length, _)| *length);
    Ok(match found {
        Some((_, workload)) => QuerySource::Workload {
            namespace: workload.object.namespace.to_string(),
            name: workload.object.name.to_string(),
        },
        None => QuerySource::Unknown,
    })
}

fn cgroup2() -> Result<PathBuf, Failure> {
    mounts::cgroup2()
        .ok()
        .flatten()
        .ok_or_else(|| Failure::new(Exit::Unable, "no cgroup2 hierarchy is mounted"))
}

fn cgroup_of(mount: &Path, pid: u32) -> Result<PathBuf, Failure> {
    mounts::cgroup_of(mount, &pid.to_string()).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            return Failure::input(format!("there is no process {pid}"));
        }
        Failure::input(format!("process {pid}: {error}"))
    })
}

fn from_kernel(args: &Args, context: &mut Context<'_>) -> Result<Explanation, Failure> {
    let datapath = args.kernel.open()?;
    let (active, image) = datapath.dump_active()?;
    let snapshot = args.kernel.snapshot(active.generation, context)?;
    if snapshot.is_none() && from_names(args) {
        return Err(Failure::input(
            "which workloads and gateways are in force is not known by name",
        )
        .help(
            "ask by process (--from-pid, --from-cgroup), name the daemon's --state-dir, or \
                 start `redirector run`, which writes the names again",
        ));
    }
    let (world, layout) = match &snapshot {
        Some(snapshot) => (snapshot.world(), snapshot.contents.layout.clone()),
        None => (World::default(), Layout::default()),
    };
    let registry = Registry::new(&world);
    let names = layout.names();
    let mut notes = Vec::new();
    // The source as the kernel tells it, and its class.
    let (source, class) = match &args.source {
        SourceArgs { from_workload: Some(workload), .. } => {
            let id = redirector_core::model::SourceId {
                namespace: workload.namespace.as_str().into(),
                name: workload.name.as_str().into(),
            };
            match layout.identity(&id) {
                Some(identity) => {
                    if !datapath.sources()?.iter().any(|(_, number)| *number == identity) {
                        notes.push(
                            "none of its processes can be told at the moment: until its cgroup or \
                             namespace appears there is nobody who connects as this workload"
                                .to_owned(),
                        );
                    }
                    (of_workload(workload), image.class_of.get(&identity).copied().or(Some(0)))
                }
                // A workload without local processes: as if it had some.
                None => (of_workload(workload), None),
            }
        }
        SourceArgs { from_namespace: Some(namespace), from_label, .. } => {
            (described(namespace, from_label), None)
        }
        SourceArgs { from_pid, from_cgroup, .. } if from_pid.is_some() || from_cgroup.is_some() => {
            let identity = identity(&datapath, *from_pid, from_cgroup.as_deref())?;
            let class = image.class_of.get(&identity).copied().unwrap_or(0);
            let source = match names.identities.get(&identity) {
                Some(id) => QuerySource::Workload {
                    namespace: id.namespace.to_string(),
                    name: id.name.to_string(),
                },
                None => QuerySource::Unknown,
            };
            (source, Some(class))
        }
        _ => (QuerySource::Unknown, Some(0)),
    };
    let query = query(args, source);
    let mut explanation = match &snapshot {
        Some(_) => explained(&world, &registry, &query)?,
        // Without documents nothing is known about names.
        None => unnamed(&query),
    };
    // What the resolver has not answered is refused now, and not decided later.
    explanation.until_names_are_resolved();
    explanation.notes.extend(notes);
    if query.gateway.is_some() {
        // The proxy decides by the documents in force.
        return Ok(explanation);
    }
    let class = class.or_else(|| tables::class_like(&world, &registry, &layout, &query));
    match class {
        Some(class) => tables::answer(
            &mut explanation,
            &image,
            &names,
            snapshot.is_some().then_some(&world),
            query.destination,
            class,
        ),
        None => explanation.notes.push(format!(
            "no workload on this node is like this one, so the kernel has no answer for it: this \
             is what the documents of generation {} say",
            active.generation
        )),
    }
    Ok(explanation)
}

/// Whether the question is put in names, which are not in the kernel.
const fn from_names(args: &Args) -> bool {
    args.source.from_workload.is_some()
        || args.source.from_namespace.is_some()
        || args.gateway.is_some()
}

fn unnamed(query: &Query) -> Explanation {
    Explanation {
        verdict: VerdictWord::Passthrough,
        handled_by: HandledBy::Kernel,
        source: SourceView { namespace: None, labels: Labels::new(), workload: None },
        destination: query.destination.to_string(),
        frontend: None,
        rule: None,
        considered: Vec::new(),
        destinations: Vec::new(),
        endpoints: std::collections::BTreeMap::new(),
        refused_share: 0.0,
        undecided_share: 0.0,
        undecided_names: Vec::new(),
        notes: Vec::new(),
    }
}

/// The identity number that the programs find for a process: that of the
/// deepest known cgroup it is in, else that of its network namespace, else 0.
fn identity(datapath: &Datapath, pid: Option<u32>, cgroup: Option<&Path>) -> Result<u32, Failure> {
    let mount = cgroup2()?;
    let sources = datapath.sources()?;
    let path = match (pid, cgroup) {
        (Some(pid), _) => cgroup_of(&mount, pid)?,
        (None, Some(path)) if path.starts_with(&mount) => path.to_owned(),
        (None, Some(path)) => mount.join(path.strip_prefix("/").unwrap_or(path)),
        (None, None) => return Ok(0),
    };
    if !path.exists() {
        return Err(Failure::input(format!("the cgroup {} does not exist", path.display())));
    }
    for ancestor in path.ancestors().take_while(|ancestor| ancestor.starts_with(&mount)) {
        // How deep it lies may be hidden here, and does not matter.
        let Ok(meta) = std::fs::metadata(ancestor) else { continue };
        let known = sources
            .iter()
            .find(|(key, _)| matches!(key, SourceKey::Cgroup { id, .. } if *id == meta.ino()));
        if let Some((_, identity)) = known {
            return Ok(*identity);
        }
    }
    // The processes of a cgroup may be in several namespaces; one is asked.
    let pid = match pid {
        Some(pid) => Some(pid.to_string()),
        None => std::fs::read_to_string(path.join("cgroup.procs"))
            .ok()
            .and_then(|procs| procs.lines().next().map(str::to_owned)),
    };
    let Some(pid) = pid else { return Ok(0) };
    let Ok(cookie) = netns_cookie(Path::new(&format!("/proc/{pid}/ns/net"))) else { return Ok(0) };
    let known = sources.iter().find(|(key, _)| *key == SourceKey::Netns { cookie });
    Ok(known.map_or(0, |(_, identity)| *identity))
}

/// The answer for people.
fn text(explanation: &Explanation, style: Style) -> String {
    let mut text = String::new();
    let source = match (&explanation.source.workload, &explanation.source.namespace) {
        (Some(workload), _) => workload.clone(),
        (None, Some(namespace)) => {
            let labels = &explanation.source.labels;
            let labels = labels.iter().map(|(key, value)| format!(" {key}={value}"));
            format!("a workload in {namespace}{}", labels.collect::<String>())
        }
        (None, None) => "a caller in no known workload".to_owned(),
    };
    let _ = writeln!(text, "{source} -> {}", style.strong(&explanation.destination));
    let handled = match explanation.handled_by {
        HandledBy::Kernel => "",
        HandledBy::Proxy => " (by the gateway proxy)",
    };
    let verdict = match explanation.verdict {
        VerdictWord::Route => style.good("routed"),
        VerdictWord::Passthrough => style.help("passed through: left as it is"),
        VerdictWord::Refuse => style.error("refused"),
        VerdictWord::Undecided => style.help("decided when names are resolved"),
    };
    let _ = writeln!(text, "  {verdict}{handled}");
    if let Some(frontend) = &explanation.frontend {
        let service = frontend.service.as_ref().map(|name| format!(" of {name}"));
        let _ = writeln!(
            text,
            "  frontend {} port {}{}",
            frontend.prefix,
            frontend.port,
            service.unwrap_or_default()
        );
    }
    match &explanation.rule {
        Some(rule) => {
            let place = match &rule.file {
                Some(file) => format!(" ({}:{})", plain(file), rule.line),
                None => String::new(),
            };
            let _ = writeln!(text, "  rule {} {}[{}]{place}", rule.object, rule.list, rule.index);
        }
        None if explanation.verdict == VerdictWord::Route => {
            let _ = writeln!(text, "  no rule: the service's own endpoints");
        }
        None => {}
    }
    if !explanation.considered.is_empty() {
        let _ = writeln!(text, "{}", style.strong("rules, in order"));
        for considered in &explanation.considered {
            let mark = if considered.matched { style.good("match") } else { style.faint("no   ") };
            let _ = writeln!(
                text,
                "  {mark} {} {}[{}]: {}",
                considered.object,
                considered.list,
                considered.index,
                plain(&considered.because)
            );
        }
    }
    if !explanation.destinations.is_empty() {
        let _ = writeln!(text, "{}", style.strong("destinations"));
        for destination in &explanation.destinations {
            let subset = destination.subset.as_ref().map(|s| format!("/{s}")).unwrap_or_default();
            let undecided = !destination.unresolved.is_empty();
            let because = destination.because.as_ref().map(|because| match undecided {
                true => format!("  {because}"),
                false => format!("  refused: {because}"),
            });
            let _ = writeln!(
                text,
                "  {:>7} {}:{}{subset}{}",
                percent(destination.share),
                destination.host,
                destination.port,
                because.unwrap_or_default()
            );
        }
    }
    if !explanation.endpoints.is_empty() {
        let _ = writeln!(text, "{}", style.strong("endpoints"));
        for (endpoint, share) in &explanation.endpoints {
            let _ = writeln!(text, "  {:>7} {endpoint}", percent(*share));
        }
    }
    if explanation.refused_share > 0.0 && explanation.verdict == VerdictWord::Route {
        let _ = writeln!(text, "  {:>7} refused", percent(explanation.refused_share));
    }
    for note in &explanation.notes {
        let _ = writeln!(text, "{}: {}", style.help("note"), plain(note));
    }
    text
}

fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}
