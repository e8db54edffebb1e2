//! What is open, put together: memory, sockets, processes and names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redirector_common::abi::IDENTITY_UNKNOWN;
use redirector_core::layout::owner;
use serde::Serialize;

use super::super::which::{About, Process, Which};
use super::super::{Context, Failure};
use crate::cli::kernel::KernelArgs;
use crate::datapath::{self, Datapath, Open, Remembered};
use crate::explain;
use crate::output::{destination_name, route_name, source_name};
use crate::state::{StateDir, StateError};

/// A connection. What is not known is `null`.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Tells connections apart while their sockets are open, also in `flows`.
    pub cookie: u64,
    /// What TCP makes of it: `established`, `connecting`, `half-closed`, `closing`; nothing when
    /// its socket is not seen: in a network namespace that is not seen here, or once it was
    /// reset, until its process closes it.
    pub state: Option<&'static str>,
    /// The workload of the process, as the tables know it now.
    pub workload: Option<String>,
    /// A process that has the socket.
    pub process: Option<Process>,
    /// The caller's port.
    pub source_port: Option<u16>,
    /// The address dialled.
    pub destination: Option<SocketAddr>,
    /// The rule, or whose own endpoints it went to.
    pub route: Option<String>,
    /// Where that is not sure: by one of these it was made, as far as is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub may_be: Vec<String>,
    /// The destination drawn, with its subset.
    pub to: Option<String>,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Since it was dialled; known with accounting only.
    pub seconds: Option<f64>,
    /// Bytes that the other side has acknowledged.
    pub sent: Option<u64>,
    /// Bytes received.
    pub received: Option<u64>,
}

impl Row {
    pub fn about(&self) -> About<'_> {
        About {
            workload: self.workload.as_deref(),
            pid: self.process.as_ref().map(|process| process.pid),
            route: self.route.as_deref(),
            may_be: &self.may_be,
            addresses: [self.destination, Some(self.endpoint)],
        }
    }
}

/// The connections that are meant, and those that may be, by endpoint and the oldest first; and
/// whether some may be missing, as it cannot be told of all of them whose they are.
pub fn read(
    kernel: &KernelArgs,
    which: &Which,
    context: &mut Context<'_>,
) -> Result<(Vec<Row>, bool), Failure> {
    let datapath = kernel.open()?;
    let (open, why) = datapath.open_connections()?;
    let unseen = why.is_some();
    if let Some(why) = why {
        context.note(&format!(
            "note: not every network namespace can be looked into, so that of some connections \
             neither port nor process is known: {why}"
        ));
    }
    let legs = open.iter().filter_map(|one| Some(one.remembered.as_ref()?.leg)).collect();
    let routes = named(Routes::new(&kernel.state(), &legs), which, context)?;
    let inodes = open.iter().filter_map(|one| Some(one.socket.as_ref()?.inode)).collect();
    let (processes, hidden) = processes(&inodes);
    let nobodys = |one: &Open| {
        one.socket.as_ref().is_none_or(|socket| !processes.contains_key(&socket.inode))
    };
    let untold = open.iter().filter(|one| nobodys(one)).count();
    let partial = untold > 0 && (hidden || unseen);
    if partial {
        let left_out = match which.is_of_processes() {
            true => ", so that they are left out, whoever is asked for",
            false => "",
        };
        context.note(&format!(
            "note: this user may not see whose {untold} of the connections are{left_out}: that \
             takes root"
        ));
    }
    let numbers = numbers(&datapath, processes.values())?;
    let workloads = named(workloads(&kernel.state(), numbers), which, context)?;
    let rows = open.iter().filter_map(|one| row(one, &routes, &processes, &workloads));
    let (mut rows, lost): (Vec<Row>, Vec<Row>) = rows
        .filter(|row| which.takes(row.about()) != Some(false))
        .partition(|row| which.takes(row.about()).is_some() || !row.may_be.is_empty());
    note_unsure(&rows, lost.len(), which, context);
    rows.sort_by(|one, other| {
        let key = |row: &Row| (row.endpoint, row.destination, row.source_port, row.cookie);
        let age = |row: &Row| row.seconds.unwrap_or(f64::INFINITY);
        let by_endpoint = one.endpoint.cmp(&other.endpoint);
        by_endpoint.then(age(other).total_cmp(&age(one))).then(key(one).cmp(&key(other)))
    });
    Ok((rows, partial && which.is_of_processes() || !lost.is_empty()))
}

/// Says of how many the rule is not known for sure, or not at all, where rules are asked for.
fn note_unsure(rows: &[Row], lost: usize, which: &Which, context: &mut Context<'_>) {
    let unsure = rows.iter().filter(|row| which.takes(row.about()).is_none()).count();
    if unsure > 0 {
        context.note(&format!(
            "note: {unsure} of them may be by another rule: the place where they are counted was that \
             one's, too, with the same destination, and when they were made is not known. `redirector \
             run --accounting` tells it of those that are made from then on"
        ));
    }
    if lost > 0 {
        context.note(&format!(
            "note: {lost} more may be by such a rule: by which they were made is not known any \
             more, as the history does not go back so far. They are left out; `redirector \
             connections` has them, and --address, --workload and --pid name them"
        ));
    }
}

/// Names, without which what is asked for by its name is not found: all else is told without
/// them.
fn named<T: Default>(
    names: Result<T, StateError>,
    which: &Which,
    context: &mut Context<'_>,
) -> Result<T, Failure> {
    match names {
        Err(error) if which.is_of_names() => Err(error.into()),
        Err(error) => {
            context.note(&format!("note: some names are not known: {error}"));
            Ok(T::default())
        }
        Ok(names) => Ok(names),
    }
}

fn row(
    open: &Open,
    routes: &Routes,
    processes: &BTreeMap<u32, Process>,
    workloads: &BTreeMap<u32, String>,
) -> Option<Row> {
    let socket = open.socket.as_ref();
    let known = open.remembered.as_ref();
    let process = socket.and_then(|socket| processes.get(&socket.inode));
    let age = known
        .and_then(|known| known.since)
        .map(|since| Duration::from_nanos(datapath::now().saturating_sub(since)));
    let places = known.map(|known| routes.of(known, age)).unwrap_or_default();
    let mut may_be: Vec<String> = places.iter().map(|place| place.route.clone()).collect();
    let route = may_be.pop_if(|_| places.len() == 1);
    Some(Row {
        cookie: open.cookie,
        state: socket.map(|socket| socket.state),
        workload: process.and_then(|process| workloads.get(&process.pid).cloned()),
        process: process.cloned(),
        source_port: socket.map(|socket| socket.own.port()),
        destination: known.map(|known| known.dialled),
        route,
        may_be,
        to: places.first().map(|place| place.destination.clone()),
        endpoint: known.map(|known| known.backend).or(socket.map(|socket| socket.peer))?,
        seconds: age.map(|age| age.as_secs_f64()),
        sent: socket.and_then(|socket| socket.sent),
        received: socket.and_then(|socket| socket.received),
    })
}

/// The processes that have sockets of these numbers, as far as this user may see: of
/// several, the one with the lowest id. And whether there are processes whose files it may
/// not see.
fn processes(inodes: &BTreeSet<u32>) -> (BTreeMap<u32, Process>, bool) {
    let mut found: BTreeMap<u32, Process> = BTreeMap::new();
    let mut hidden = false;
    if inodes.is_empty() {
        return (found, hidden);
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pids: BTreeSet<u32> = pids.collect();
    for pid in pids {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        // It may go meanwhile, or be another user's.
        hidden |= matches!(&descriptors, Err(error) if error.kind() == ErrorKind::PermissionDenied);
        for descriptor in descriptors.into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let inode = target.to_str().and_then(|target| {
                target.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u32>().ok()
            });
            let Some(inode) = inode.filter(|inode| inodes.contains(inode)) else { continue };
            found.entry(inode).or_insert_with(|| {
                let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                Process { pid, command: command.trim_end().to_owned() }
            });
        }
    }
    (found, hidden)
}

/// The workloads of processes, by number, and the generation of these.
type Numbers = (u64, Vec<(u32, u32)>);

/// Which workloads processes are, as the programs would tell them now.
fn numbers<'a>(
    datapath: &Datapath,
    processes: impl Iterator<Item = &'a Process>,
) -> Result<Numbers, Failure> {
    let pids: BTreeSet<u32> = processes.map(|process| process.pid).collect();
    let known = pids.iter().filter_map(|pid| Some((*pid, explain::Process::of_pid(*pid).ok()?)));
    let known: Vec<_> = known.collect();
    datapath.read(|tables| {
        let numbers = known.iter().map(|(pid, process)| (*pid, process.identity(tables)));
        let numbers: Vec<(u32, u32)> = numbers.collect();
        Ok((tables.active().generation, numbers))
    })
}

/// Their names.
fn workloads(
    state: &StateDir,
    (generation, numbers): Numbers,
) -> Result<BTreeMap<u32, String>, StateError> {
    if numbers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let Some(snapshot) = state.snapshot(generation)? else { return Ok(BTreeMap::new()) };
    let layout = snapshot.contents.layout;
    let names: BTreeMap<u32, String> =
        layout.identities().map(|(id, number)| (number, source_name(id))).collect();
    let named = numbers.into_iter().filter(|(_, number)| *number != IDENTITY_UNKNOWN);
    Ok(named.filter_map(|(pid, number)| Some((pid, names.get(&number)?.clone()))).collect())
}

/// What a place in the tables stood for.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Place {
    /// The destination, as the kernel calls it in every version: see [`owner`].
    owner: u32,
    /// Its name.
    destination: String,
    /// The route that leads there.
    route: String,
}

/// What places in the tables stood for.
#[derive(Default)]
struct Routes {
    /// The generations that are kept, the newest first: when each was made, in seconds since
    /// 1970, and each place that is asked for.
    kept: Vec<(u64, BTreeMap<u32, Place>)>,
}

impl Routes {
    fn new(state: &StateDir, legs: &BTreeSet<u32>) -> Result<Self, StateError> {
        let entries = match legs.is_empty() {
            true => Vec::new(),
            false => state.history()?,
        };
        let mut kept = Vec::new();
        for entry in entries.iter().rev() {
            let Some(snapshot) = state.snapshot(entry.head.generation)? else { continue };
            let names = snapshot.contents.layout.names();
            let places = legs.iter().filter_map(|leg| {
                let (route, _, destination) = names.legs.get(leg)?;
                let owner = owner(destination);
                let destination = destination_name(destination);
                Some((*leg, Place { owner, destination, route: route_name(route) }))
            });
            kept.push((entry.head.made, places.collect()));
        }
        Ok(Self { kept })
    }

    /// What the place of a connection has stood for since that was made, as far as that is
    /// kept, the newest first. What does not lead to its destination it was not made by.
    fn of(&self, made: &Remembered, age: Option<Duration>) -> Vec<&Place> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let begun = age.map_or(0, |age| now.saturating_sub(age).as_secs());
        // Those that were made since then, and the one that was in force then.
        let since = self.kept.iter().take_while(|(made, _)| *made >= begun).count();
        let asked = self.kept.iter().take(since + 1);
        let mut found = Vec::new();
        for place in asked.filter_map(|(_, places)| places.get(&made.leg)) {
            if place.owner == made.destination && !found.contains(&place) {
                found.push(place);
            }
        }
        found
    }
}
