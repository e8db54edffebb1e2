//! Where the configuration comes from, as the loop sees it: files, or an API server.

use std::path::PathBuf;
use std::sync::mpsc::Sender;

use redirector_core::diag::Diagnostic;
use redirector_core::in_force::InForce;
use redirector_core::store::Store;

use super::callbacks::{sending, tell};
use super::{Event, Options};
use crate::datapath::cgroup::Cgroup;
use crate::failure::{Exit, Failure};
use crate::following::Following;
use crate::identity::Direct;
use crate::identity::pods::{self, PodCgroups, PodEvent};
use crate::kubernetes::agent::Agent;
use crate::kubernetes::findings::Judged;
use crate::source::files::{Files, read_all};
use crate::source::waiting::Waiting;
use crate::source::watch::{Reread, Timing, follow};
use crate::source::{Batch, parse, parse_again};
use crate::state::{Report, Watching};

/// What a source is followed with.
pub(super) struct Follow<'d> {
    /// What was good before.
    pub store: &'d mut Store,
    /// The places of the daemon.
    pub report: &'d Report,
    /// The short way of pods into the kernel.
    pub direct: &'d Direct,
    /// Where what it brings waits.
    pub waiting: &'d Waiting,
    /// Who is told of it.
    pub sender: &'d Sender<Event>,
}

impl Follow<'_> {
    /// Takes what is read: it waits, and whoever puts it in force is told.
    fn taking(&self) -> impl FnMut(Batch) -> bool + Send + 'static {
        let (waiting, mut changes) = (self.waiting.clone(), tell(self.sender, || Event::Changes));
        move |batch| !waiting.put(batch) || changes()
    }
}

/// A source of the configuration.
pub(super) trait ConfigSource {
    /// Begins to follow it: batches of changes come as events from then on.
    ///
    /// # Errors
    ///
    /// When the system does not let it be followed.
    fn follow(&mut self, with: &mut Follow<'_>) -> Result<(), Failure>;

    /// Reads everything again. Returns which reading that is; nothing where there is
    /// nothing to be read, as it is told.
    fn reread(&self) -> Option<u64> {
        None
    }

    /// The last of these readings that is over: what came of it waits, or is in force.
    fn read(&self) -> u64 {
        0
    }

    /// How its watches are doing, and how many objects differed from fresh lists.
    fn health(&self) -> (Vec<Watching>, u64) {
        (Vec::new(), 0)
    }

    /// Connections are decided from now on.
    fn ready(&mut self) {}

    /// What was found about what is in force, for whoever wrote it.
    fn judge(&self, _: &InForce, _: &[Diagnostic], _: &Report) {}
}

/// The source that the options name.
///
/// # Errors
///
/// When there is no way to the API server.
pub(super) fn source(options: &Options) -> Result<Box<dyn ConfigSource>, Failure> {
    let Some(setup) = &options.kubernetes else {
        let (config, timing) = (options.config.clone(), options.timing);
        return Ok(Box::new(FileSource { config, timing, reread: None }));
    };
    let node = options.settings.node_name.clone().unwrap_or_default();
    match Agent::new(setup.clone(), node) {
        Ok(agent) => Ok(Box::new(Cluster { agent, _pods: None })),
        Err(error) => Err(Failure::input(error.to_string()).help(
            "run it in a pod with a service account, or name a kubeconfig with --kubeconfig",
        )),
    }
}

/// The PATHs that can change.
pub(super) fn files_to_follow(config: &[PathBuf]) -> Vec<PathBuf> {
    config.iter().filter(|path| path.as_os_str() != "-").cloned().collect()
}

struct FileSource {
    config: Vec<PathBuf>,
    timing: Timing,
    /// Once they are followed.
    reread: Option<Reread>,
}

impl ConfigSource for FileSource {
    fn follow(&mut self, with: &mut Follow<'_>) -> Result<(), Failure> {
        let paths = files_to_follow(&self.config);
        if self.config.len() > paths.len() {
            // Standard input ends; it is read once.
            let (texts, problems) = read_all(&[PathBuf::from("-")], std::io::stdin().lock());
            if let Some(problem) = problems.first() {
                return Err(Failure::input(problem.message.clone()));
            }
            for (name, text) in texts {
                with.store.put(&name, parse(&name, &text));
            }
        }
        let known = with.store.files().filter(|name| &***name != "<stdin>").cloned();
        let known: Vec<_> = known.collect();
        let files = Files::new(paths, parse_again, self.timing.absence, known.into_iter());
        let reread = follow(files, self.timing.rescan, with.taking());
        self.reread = Some(reread.map_err(|error| {
            Failure::new(Exit::No, format!("files cannot be watched: {error}"))
                .help("raise fs.inotify.max_user_instances")
        })?);
        Ok(())
    }

    fn reread(&self) -> Option<u64> {
        self.reread.as_ref().map(Reread::ask)
    }

    fn read(&self) -> u64 {
        self.reread.as_ref().map_or(0, Reread::over)
    }
}

/// The API server, and the cgroups of this node's pods.
struct Cluster {
    agent: Agent,
    /// Once they are followed.
    _pods: Option<Following>,
}

impl ConfigSource for Cluster {
    fn follow(&mut self, with: &mut Follow<'_>) -> Result<(), Failure> {
        let (cgroup2, cgroups) = (&with.report.cgroup2, &with.report.cgroups);
        let base = Cgroup::open(cgroup2)?.level;
        let pods = PodCgroups::new(cgroup2, base, cgroups).and_then(|pods| {
            let (direct, mut tell) = (with.direct.clone(), sending(with.sender, Event::Pods));
            pods::follow(pods, move |events, seen| {
                for event in &events {
                    match event {
                        PodEvent::Appeared(pod) => direct.appeared(pod, seen),
                        PodEvent::Gone(pod) => direct.vanished(pod),
                    }
                }
                tell(events)
            })
        });
        self._pods = Some(pods.map_err(|error| {
            Failure::new(Exit::No, format!("the cgroups of pods cannot be followed: {error}"))
        })?);
        let known = with.store.files().cloned().collect();
        let changed = tell(with.sender, || Event::Watches);
        self.agent.follow(known, with.direct.clone(), with.taking(), changed);
        Ok(())
    }

    fn health(&self) -> (Vec<Watching>, u64) {
        (self.agent.watching(), self.agent.drifted())
    }

    fn ready(&mut self) {
        self.agent.ready();
    }

    fn judge(&self, in_force: &InForce, findings: &[Diagnostic], report: &Report) {
        let findings = findings.to_vec();
        self.agent.judge(Judged::new(in_force, findings, &report.emptied, &report.unresolved));
    }
}
