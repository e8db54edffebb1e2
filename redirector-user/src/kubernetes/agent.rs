//! The daemon's side of the cluster: the connection, the watches, and what the
//! agent tells the cluster about itself.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kube::Client;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::backoff::Timing;
use super::client::{Unconfigured, connect};
use super::events::{Incarnations, Teller};
use super::findings::Judged;
use super::follow::Health;
use super::gateways::Near;
use super::join::Watches;
use super::resource::Resource;
use super::{Options, follow, runtime, taint};
use crate::identity::Direct;
use crate::source::Batch;
use crate::state::Watching;

/// How the agent is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// A kubeconfig, instead of what a pod has or the environment names.
    pub kubeconfig: Option<PathBuf>,
    /// Serve the gateways of annotated Services, for clients on the node like this.
    pub gateways: Option<Near>,
    /// The taint to remove from this node when ready.
    pub startup_taint: Option<String>,
    /// How long things take.
    pub timing: Timing,
}

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum NoAgent {
    /// No configuration of the API server.
    #[error(transparent)]
    Unconfigured(#[from] Unconfigured),
    /// The system gives no thread.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// A connection to the API server, and what runs on it.
pub struct Agent {
    setup: Setup,
    node: String,
    client: Client,
    watches: Option<watch::Receiver<Watches>>,
    judged: watch::Sender<Option<Arc<Judged>>>,
    ready: bool,
    runtime: Runtime,
}

impl Agent {
    /// Makes the connection's configuration. Nothing is asked of the server yet.
    pub fn new(setup: Setup, node: String) -> Result<Self, NoAgent> {
        let runtime = runtime()?;
        let client = runtime.block_on(connect(setup.kubeconfig.as_deref()))?;
        let judged = watch::Sender::new(None);
        Ok(Self { setup, node, client, watches: None, judged, ready: false, runtime })
    }

    /// Starts the watches. `pods` is told of this node's pods at once. `changed`
    /// is called when a watch does better or worse.
    pub fn follow(
        &mut self,
        known: Vec<Arc<str>>,
        pods: Direct,
        send: impl FnMut(Batch) -> bool + Send + 'static,
        mut changed: impl FnMut() -> bool + Send + 'static,
    ) {
        let options = Options {
            node: self.node.clone(),
            gateways: self.setup.gateways.clone(),
            timing: self.setup.timing,
            pods,
        };
        let incarnations = Incarnations::default();
        let teller = Teller::new(
            self.client.clone(),
            self.node.clone(),
            self.setup.timing,
            incarnations.clone(),
        );
        let runtime = self.runtime.handle();
        let watches = follow(runtime, &self.client, &options, known, incarnations, send);
        self.runtime.spawn(teller.run(self.judged.subscribe()));
        let mut news = watches.clone();
        self.runtime.spawn(async move { while news.changed().await.is_ok() && changed() {} });
        self.watches = Some(watches);
    }

    /// How the watches are doing, for `status`.
    pub fn watching(&self) -> Vec<Watching> {
        let Some(watches) = &self.watches else { return Vec::new() };
        let watches = watches.borrow();
        let since = |resource| watches.since.get(resource).copied().unwrap_or_default();
        let all = watches.health.iter();
        all.map(|(resource, health)| watching(*resource, health, since(resource))).collect()
    }

    /// How many objects differed from fresh lists.
    pub fn drifted(&self) -> u64 {
        self.watches.as_ref().map_or(0, |watches| watches.borrow().drifted)
    }

    /// What the objects came to: what of it is worth an Event is told, by one
    /// agent of the cluster.
    pub fn judge(&self, judged: Judged) {
        self.judged.send_replace(Some(Arc::new(judged)));
    }

    /// Attached, and every watch had its first full list: pods may start.
    pub fn ready(&mut self) {
        if std::mem::replace(&mut self.ready, true) {
            return;
        }
        if let Some(taint) = self.setup.startup_taint.clone() {
            let (client, node, timing) =
                (self.client.clone(), self.node.clone(), self.setup.timing);
            self.runtime.spawn(taint::remove(client, node, taint, timing));
        }
    }
}

fn watching(resource: Resource, health: &Health, since: u64) -> Watching {
    let (state, error, help) = match health {
        Health::Starting => ("starting", None, None),
        Health::Fine => ("fine", None, None),
        Health::Absent => ("absent", None, None),
        Health::Troubled(trouble) => {
            ("troubled", Some(trouble.to_string()), trouble.help(resource))
        }
    };
    Watching { resource: resource.describe(), state: state.to_owned(), since, error, help }
}
