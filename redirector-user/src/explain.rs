//! Why a connection goes where it goes, from the tables in the kernel: what the
//! documents in force say of it, with what the tables decide put in its place.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use redirector_common::abi::IDENTITY_UNKNOWN;
use redirector_common::decide::shares::At;
use redirector_core::explain::{
    Dialled, ExplainError, Explanation, Query, QuerySource, explain_with, tables, without_names,
};
use redirector_core::layout::Layout;
use redirector_core::model::{SourceId, SourceSelector};
use redirector_core::registry::Registry;
use redirector_core::world::World;

use crate::datapath::{self, Hook, Lookup, Served, SourceKey, netns_cookie};
use crate::identity::{OF_ANOTHER, Resolver};
use crate::mounts;
use crate::state::Snapshot;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is asked about is not there.
    #[error(transparent)]
    Unknown(#[from] ExplainError),
    /// The kernel did not answer.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// The question is put in names, and the names of what is in force are lost.
    #[error("which workloads, services and gateways are in force is not known by name")]
    Unnamed,
    /// A process or cgroup cannot be looked at.
    #[error("{0}")]
    Process(String),
    /// There are no cgroups here.
    #[error("no cgroup2 hierarchy is mounted")]
    NoCgroups,
}

/// What is in force, by name.
#[derive(Debug)]
pub struct Named {
    world: World,
    registry: Registry,
    layout: Layout,
}

impl Named {
    /// By what a generation was made of.
    pub fn new(world: World, layout: Layout) -> Self {
        let registry = Registry::new(&world);
        Self { world, registry, layout }
    }
}

impl From<&Snapshot> for Named {
    fn from(snapshot: &Snapshot) -> Self {
        let mut world = snapshot.world();
        // Addresses come and go: no generation says which the node has.
        world.settings.set_node_addresses(crate::daemon::node_addresses().unwrap_or_default());
        Self::new(world, snapshot.contents.layout.clone())
    }
}

/// What is asked.
#[derive(Debug)]
pub struct Question {
    /// Who connects.
    pub who: Who,
    /// Where to.
    pub to: Dialled,
    /// The Gateway that the connection arrives at, by namespace and name.
    pub gateway: Option<(String, String)>,
    /// The server name of its ClientHello.
    pub sni: Option<String>,
}

/// Who connects.
#[derive(Debug)]
pub enum Who {
    /// Somebody by name or description, or in no known workload.
    Source(QuerySource),
    /// Processes of this machine.
    Process(Process),
}

/// Processes, as the programs know them.
#[derive(Clone, Debug)]
pub struct Process {
    /// Their cgroup.
    cgroup: PathBuf,
    /// Its id, and those of the cgroups above it, as far as they are mounted.
    ids: Vec<u64>,
    /// Whether all above it are.
    is_whole: bool,
    /// The cookie of the network namespace of one of them.
    netns: Option<u64>,
}

impl Process {
    /// The process with this number.
    ///
    /// # Errors
    ///
    /// When there is none, or it is in no cgroup that can be seen.
    pub fn of_pid(pid: u32) -> Result<Self, Error> {
        let mount = cgroup2()?;
        let cgroup = mounts::cgroup_of(&mount, &pid.to_string()).map_err(|error| {
            Error::Process(match error.kind() {
                std::io::ErrorKind::NotFound => format!("there is no process {pid}"),
                _ => format!("process {pid}: {error}"),
            })
        })?;
        Self::of(&mount, &cgroup, Some(pid.to_string()))
    }

    /// The processes of a cgroup, by its path below the cgroup2 mount, or with that.
    ///
    /// # Errors
    ///
    /// When there is no such cgroup.
    pub fn of_cgroup(path: &Path) -> Result<Self, Error> {
        let mount = cgroup2()?;
        let path = match path.starts_with(&mount) {
            true => path.to_owned(),
            false => mount.join(path.strip_prefix("/").unwrap_or(path)),
        };
        // They may be in several network namespaces; one is asked.
        let procs = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        Self::of(&mount, &path, procs.lines().next().map(str::to_owned))
    }

    /// Their cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    fn of(mount: &Path, cgroup: &Path, pid: Option<String>) -> Result<Self, Error> {
        if !cgroup.exists() {
            let cgroup = cgroup.display();
            return Err(Error::Process(format!("the cgroup {cgroup} does not exist")));
        }
        let above = cgroup.ancestors().take_while(|above| above.starts_with(mount));
        let netns = pid.map(|pid| netns_cookie(Path::new(&format!("/proc/{pid}/ns/net"))));
        Ok(Self {
            cgroup: cgroup.to_owned(),
            ids: above.filter_map(|path| Some(std::fs::metadata(path).ok()?.ino())).collect(),
            is_whole: mounts::is_whole(mount),
            netns: netns.and_then(Result::ok),
        })
    }

    /// The identity number that the programs find: that of the deepest known cgroup,
    /// else that of the network namespace, else 0.
    pub fn identity(&self, tables: &Lookup<'_>) -> u32 {
        // How deep a cgroup lies may be hidden here, and does not matter.
        let cgroups = self.ids.iter().map(|id| SourceKey::Cgroup { id: *id, level: 0 });
        let netns = self.netns.map(|cookie| SourceKey::Netns { cookie });
        let known = cgroups.chain(netns).find_map(|key| tables.source(key));
        known.unwrap_or(IDENTITY_UNKNOWN)
    }

    /// Why no program decides when it dials this, if none does.
    fn left_alone(&self, tables: &Lookup<'_>, served: &[Served], to: SocketAddr) -> Option<String> {
        if tables.is_of_daemon(&self.ids) {
            return Some(format!(
                "{} is the daemon's own cgroup: its connections are never redirected",
                self.cgroup.display()
            ));
        }
        let hook = if to.is_ipv4() { Hook::Connect4 } else { Hook::Connect6 };
        let (served, others): (Vec<_>, Vec<_>) =
            served.iter().partition(|one| one.hooks.contains(&hook));
        if !self.is_whole || served.iter().any(|one| self.ids.contains(&one.id)) {
            return None;
        }
        let names: Vec<String> = served.iter().map(|one| one.path.display().to_string()).collect();
        let cgroup = self.cgroup.display();
        Some(match (names.as_slice(), others.as_slice()) {
            ([], []) => "no program is attached to any cgroup: nothing is decided".to_owned(),
            ([], _) => "no program is attached for this family of addresses".to_owned(),
            (names, _) => format!(
                "{cgroup} does not lie below a cgroup that is served ({}): no program decides when \
                 a process there connects",
                names.join(", ")
            ),
        })
    }
}

fn cgroup2() -> Result<PathBuf, Error> {
    mounts::cgroup2().ok().flatten().ok_or(Error::NoCgroups)
}

/// Explains what is in force. `served` are the cgroups that programs are attached to;
/// without `named` nothing is known by name.
///
/// # Errors
///
/// When what is asked about is not there, or asked for by a name that nobody knows.
pub fn explain(
    tables: &Lookup<'_>,
    served: &[Served],
    named: Option<&Named>,
    question: &Question,
) -> Result<Explanation, Error> {
    let Some(named) = named else { return explain_unnamed(tables, served, question) };
    let Named { world, registry, layout } = named;
    let names = layout.names();
    let mut notes = Vec::new();
    let mut process = None;
    // The source as the kernel tells it, and what it is in the tables.
    let (source, caller) = match &question.who {
        Who::Source(source @ QuerySource::Workload { namespace, name }) => {
            let id = SourceId { namespace: namespace.as_str().into(), name: name.as_str().into() };
            match layout.identity(&id) {
                Some(identity) => {
                    let sources = tables.sources()?;
                    let own = sources.iter().filter(|(_, number)| *number == identity);
                    let own: Vec<_> = own.map(|(key, _)| key).collect();
                    let selector = registry.workloads.named(namespace, name);
                    let selector = selector.and_then(|workload| workload.source.as_ref());
                    let mut resolver = Resolver::new(cgroup2()?);
                    if own.is_empty() {
                        notes.push(
                            "none of its processes can be told at the moment: until its cgroup or \
                             namespace appears there is nobody who connects as this workload"
                                .to_owned(),
                        );
                    } else if selector.is_some_and(|one| resolver.is_another(one, own)) {
                        notes.push(format!(
                            "its processes cannot be told: {OF_ANOTHER}; they get what callers in \
                             no known workload get (--from-cgroup, --from-pid) until the daemon is \
                             started"
                        ));
                    }
                    process = cgroup_of(registry, namespace, name);
                    (source.clone(), Some(Caller::of(tables, identity, None)))
                }
                // A workload without local processes: as if it had some.
                None => (source.clone(), Caller::like(named, source)?),
            }
        }
        Who::Source(source) => (source.clone(), Caller::like(named, source)?),
        Who::Process(own) => {
            process = Some(own.clone());
            let identity = own.identity(tables);
            let source = names.identities.get(&identity).map(|id| QuerySource::Workload {
                namespace: id.namespace.to_string(),
                name: id.name.to_string(),
            });
            (source.unwrap_or_default(), Some(Caller::of(tables, identity, Some(own))))
        }
    };
    let (destination, others) = dialled(world, registry, &source, &question.to)?;
    notes.extend(others);
    let query = query(question, source, destination);
    let mut explanation = explain_with(world, registry, &query)?;
    // What the resolver has not answered is refused now, and not decided later.
    explanation.until_names_are_resolved();
    if query.gateway.is_some() {
        // The proxy decides by the documents in force.
        explanation.notes.extend(notes);
        return Ok(explanation);
    }
    if let Some(why) = process.and_then(|own| own.left_alone(tables, served, destination)) {
        notes.push(why);
        explanation.leave_alone();
    } else if let Some(caller) = caller {
        let found = caller.look_up(tables, destination);
        tables::answer(&mut explanation, found.as_ref(), &names, Some(world), destination);
    } else {
        notes.push(format!(
            "no workload on this node is like this one, so the kernel has no answer for it: this \
             is what is compiled for it from the documents of generation {}",
            tables.active().generation
        ));
    }
    explanation.notes.extend(notes);
    Ok(explanation)
}

/// Of processes, and of callers in no known workload, the tables tell by number.
fn explain_unnamed(
    tables: &Lookup<'_>,
    served: &[Served],
    question: &Question,
) -> Result<Explanation, Error> {
    let (identity, process) = match &question.who {
        Who::Process(process) => (process.identity(tables), Some(process)),
        Who::Source(QuerySource::Unknown) if question.gateway.is_none() => (IDENTITY_UNKNOWN, None),
        Who::Source(_) => return Err(Error::Unnamed),
    };
    let (Dialled::Address(to), None) = (&question.to, &question.gateway) else {
        return Err(Error::Unnamed);
    };
    let mut explanation = without_names(&query(question, QuerySource::Unknown, *to));
    if identity != IDENTITY_UNKNOWN {
        explanation.notes.push(format!(
            "the caller is in the kernel's workload number {identity}, whose name is not known here"
        ));
    }
    if let Some(why) = process.and_then(|own| own.left_alone(tables, served, *to)) {
        explanation.notes.push(why);
        return Ok(explanation);
    }
    let caller = Caller::of(tables, identity, process);
    let found = caller.look_up(tables, *to);
    tables::answer(&mut explanation, found.as_ref(), &Layout::default().names(), None, *to);
    Ok(explanation)
}

/// Whoever connects, as the tables know them.
struct Caller {
    class: u32,
    /// Where it is known: see [`Lookup::affinity`].
    affinity: Option<u32>,
    /// Who it is where connections are counted; `None` who has none.
    who: Option<u32>,
}

impl Caller {
    fn of(tables: &Lookup<'_>, identity: u32, process: Option<&Process>) -> Self {
        let netns = process.and_then(|process| process.netns);
        let who = match identity {
            IDENTITY_UNKNOWN => process
                .filter(|process| process.is_whole)
                .and_then(|process| tables.stranger(&process.ids)),
            identity => Some(identity),
        };
        Self { class: tables.class_of(identity), affinity: tables.affinity(identity, netns), who }
    }

    /// As somebody would be who is like this source; `None` when nobody is.
    fn like(named: &Named, source: &QuerySource) -> Result<Option<Self>, Error> {
        let class = tables::class_of(&named.world, &named.registry, &named.layout, source)?;
        Ok(class.map(|class| Self { class, affinity: None, who: None }))
    }

    fn look_up(&self, tables: &Lookup<'_>, to: SocketAddr) -> Option<tables::TableVerdict> {
        let at = At {
            live: |number| tables.live(number),
            mine: |owner| self.who.map_or(0, |who| tables.connections_of(owner, who)),
            now: datapath::now(),
            affinity: self.affinity,
        };
        tables::look_up(tables, tables.side(), to, self.class, &at)
    }
}

fn query(question: &Question, source: QuerySource, destination: SocketAddr) -> Query {
    let Question { gateway, sni, .. } = question;
    Query { source, destination, gateway: gateway.clone(), sni: sni.clone() }
}

/// So many other addresses of a name are shown.
const SHOWN: usize = 8;

/// The first address that is meant, and a word on those that are as well.
///
/// # Errors
///
/// When a name has none.
pub fn dialled(
    world: &World,
    registry: &Registry,
    source: &QuerySource,
    to: &Dialled,
) -> Result<(SocketAddr, Option<String>), ExplainError> {
    let addresses = to.addresses(world, registry, source)?;
    let Some((first, others)) = addresses.split_first() else {
        return Err(ExplainError::NoAddress(to.to_string(), None));
    };
    let shown: Vec<String> = others.iter().take(SHOWN).map(SocketAddr::to_string).collect();
    let more = match others.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let note = format!("{to} is {}{more}, too: ask for each of them", shown.join(" and "));
    Ok((*first, (!others.is_empty()).then_some(note)))
}

/// The cgroup that a workload is known by, when it is there.
fn cgroup_of(registry: &Registry, namespace: &str, name: &str) -> Option<Process> {
    match &registry.workloads.named(namespace, name)?.source {
        Some(SourceSelector::Cgroup(path)) => Process::of_cgroup(Path::new(&**path)).ok(),
        _ => None,
    }
}
