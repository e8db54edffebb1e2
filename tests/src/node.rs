//! An imitated node of a cluster: a subtree of the cgroups, a bpffs, perhaps a
//! network namespace, and the daemon.

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use redirector::datapath::{Datapath, SourceKey};
use serde_json::json;

use crate::agent::Agent;
use crate::apiserver::{ApiServer, TOKEN};
use crate::forbid;
use crate::kernel::Place;
use crate::netns::NetNs;

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its name in the API.
    pub name: String,
    /// Its cgroups and its bpffs.
    pub place: Place,
    /// What the daemon writes.
    pub directory: tempfile::TempDir,
    /// Where its agent runs; `None` for the tests' own.
    pub netns: Option<NetNs>,
    /// The trees of pods, as `--cgroup` names them.
    trees: Vec<PathBuf>,
}

/// A directory in memory, as /run on a real node: what is synced there costs
/// nothing.
///
/// # Panics
///
/// When it cannot be made.
pub fn in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let directory = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    directory.expect("a directory")
}

impl Node {
    /// A node in the API, with the cgroups that its kubelet makes at its start.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn new(server: &ApiServer, name: &str, trees: &[&str]) -> Self {
        server.apply(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } }));
        let directory = in_memory();
        server.kubeconfig(directory.path(), TOKEN);
        let place = Place::new("node");
        let trees = trees.iter().map(|tree| place.cgroup.child(tree)).collect();
        Self { name: name.to_owned(), place, directory, netns: None, trees }
    }

    /// One more tree of pods.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn tree(&mut self, path: &str) {
        self.trees.push(self.place.cgroup.child(path));
    }

    /// What the daemon is started with.
    pub fn arguments(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let mut arguments = vec![
            "--kubernetes".to_owned(),
            format!("--kubeconfig={}", path(&self.directory.path().join("kubeconfig"))),
            format!("--node-name={}", self.name),
            format!("--bpffs={}", path(&self.place.pins())),
            format!("--state-dir={}", path(&self.directory.path().join("state"))),
            format!("--daemon-cgroup={}", self.below_mount("agent")),
            "--log-level=debug,hyper=info,tower=info".to_owned(),
            "--max-connections=1024".to_owned(),
        ];
        arguments.extend(self.trees.iter().map(|tree| format!("--cgroup={}", path(tree))));
        arguments
    }

    /// A cgroup of the node, as a path below the cgroup2 mount.
    ///
    /// # Panics
    ///
    /// Never: a node's cgroup is below it.
    pub fn below_mount(&self, name: &str) -> String {
        let path = self.place.cgroup.path().join(name);
        let mount = crate::cgroup::mount();
        path.strip_prefix(mount).expect("below the mount").display().to_string()
    }

    /// Starts the daemon, with these arguments more. It is killed should it enter
    /// a namespace of another process, as it may only to drain connections.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start_with(&self, more: &[&str]) -> Agent {
        let mut arguments = self.arguments();
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let namespace = self.netns.as_ref().map(|netns| {
            std::fs::File::open(netns.path()).expect("the node's network namespace exists")
        });
        Agent::start_as(self.directory.path(), arguments, |command| {
            let enter = move || {
                if let Some(namespace) = &namespace {
                    // SAFETY: the descriptor is open, it belongs to the closure.
                    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
                        0 => {}
                        _ => return Err(std::io::Error::last_os_error()),
                    }
                }
                forbid::system_call(libc::SYS_setns)
            };
            // SAFETY: between fork and exec only system calls are made.
            unsafe { command.pre_exec(enter) };
        })
    }

    /// Starts the daemon.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(&self) -> Agent {
        self.start_with(&[])
    }

    /// The same, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it does not get there.
    pub fn ready(&self) -> Agent {
        let mut agent = self.start();
        agent.wait_ready();
        agent
    }

    /// Makes a cgroup, as kubelets and runtimes do.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn cgroup(&self, path: &str) -> PathBuf {
        self.place.cgroup.child(path)
    }

    /// The sources that the kernel knows.
    ///
    /// # Panics
    ///
    /// When nothing is loaded.
    pub fn sources(&self) -> Vec<(SourceKey, u32)> {
        let datapath = Datapath::open_read_only(&self.place.pins()).expect("it is loaded");
        datapath.sources().expect("its sources can be read")
    }
}
