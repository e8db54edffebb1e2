//! Kubernetes as the source of the configuration: the API server's objects
//! instead of files, through the very same core.
//!
//! ```text
//! Follower (one per Resource) -- Update --> Join -- Batch --> control loop
//! ```
//!
//! * [`resource`]: what is watched, and the permissions that it takes.
//! * [`agent`]: the daemon's side: connection, watches, what it tells the cluster.
//! * [`client`]: how the API server is reached.
//! * [`discover`]: in which version a kind is served, if at all.
//! * [`api`]: what is asked of it about one resource.
//! * [`follow`]: one watch, which comes back from whatever happens.
//! * [`held`]: what is held, compared with a fresh list.
//! * [`split`]: a list, taken apart while it arrives.
//! * [`prune`]: what of an object is read.
//! * [`item`]: from what the server sends to what the core reads.
//! * [`join`]: all watches together; nothing before each has listed once.
//! * [`gateways`]: Services that ask for this node's proxy.
//! * [`taint`]: the startup taint.
//! * [`findings`]: what is worth an Event.
//! * [`events`]: Events on objects that are refused or have no effect.
//! * [`lease`]: which agent writes them.
//! * [`trouble`]: why a watch does not work, in words that lead to the remedy.
//!
//! What is in force stays in force however long the server is away: nothing
//! here ever takes an object for gone unless the server said so.

pub mod agent;
mod api;
pub mod backoff;
pub mod client;
pub mod discover;
pub mod events;
pub mod findings;
pub mod follow;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
pub mod gateways;
pub mod held;
pub mod item;
pub mod join;
pub mod lease;
mod managers;
mod prune;
pub mod resource;
mod split;
pub mod taint;
pub mod trouble;

use std::io;
use std::sync::Arc;

use kube::Client;
use tokio::sync::{mpsc, watch};

pub use backoff::Timing;
pub use follow::Health;
pub use join::Watches;
pub use resource::Resource;

use crate::identity::Direct;
use crate::scheduling::take_short_turns;
use crate::source::Batch;
use events::Incarnations;
use follow::{Follower, Shared};
use gateways::Near;
use join::Join;
use resource::Needs;

/// Updates on their way to the join.
const IN_FLIGHT: usize = 256;

/// What to follow.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's name, as the API has it.
    pub node: String,
    /// The gateways of annotated Services are served here, and this is how clients
    /// on the node reach them.
    pub gateways: Option<Near>,
    /// How long things take.
    pub timing: Timing,
    /// Told of this node's pods before everybody else.
    pub pods: Direct,
}

/// Follows the objects on the runtime that `client` was made on, until `send`
/// returns `false`. The first batch comes when every watch has its first full
/// list; `known` are the names (as in the store) of an earlier run, so that
/// what vanished meanwhile is reported as removed. `incarnations` is kept up to
/// date. Returns how the watches are doing.
pub fn follow(
    runtime: &tokio::runtime::Handle,
    client: &Client,
    options: &Options,
    known: impl IntoIterator<Item = Arc<str>>,
    incarnations: Incarnations,
    send: impl FnMut(Batch) -> bool + Send + 'static,
) -> watch::Receiver<Watches> {
    let (updates, receiver) = mpsc::channel(IN_FLIGHT);
    let (needs, needed) = watch::channel(Needs::default());
    let (health, watches) = watch::channel(Watches::default());
    let shared = Shared::default();
    for resource in Resource::ALL {
        let follower = Follower::new(
            client.clone(),
            resource,
            options.node.clone(),
            options.timing,
            updates.clone(),
            needed.clone(),
            shared.clone(),
        );
        runtime.spawn(follower.run());
    }
    let join = Join::new(options, incarnations, health, needs, known);
    runtime.spawn(join.run(receiver, send));
    watches
}

/// A runtime of one thread, for everything that talks to the API server.
///
/// # Errors
/// When the system gives no thread.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("kubernetes")
        .enable_all()
        .build()?;
    // What a pod waits for is read here, but lists of everything, too: soon, and no
    // more than its share. Its other threads, for what takes long, are as usual.
    runtime.spawn(async { take_short_turns() });
    Ok(runtime)
}
