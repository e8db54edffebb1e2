//! Who asks over a socket: a monitoring system, a probe, another command.
//!
//! One thread serves all of them, and none waits for another: each has a time for
//! what it wants to say, and of more than a fixed number the one that has said
//! nothing for longest has to go.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::process::geteuid;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{AbortHandle, JoinHandle};

use crate::confined::keep_none;

/// Most clients of one socket at a time, of whom may change something and of whom may not.
/// Each is a descriptor.
const MOST: usize = 64;

/// Longest time that a client may take to say what it wants, and to take the answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The wait after a client could not be accepted: descriptors have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// The thread that serves.
#[derive(Debug)]
pub struct Server {
    /// Always there, but while it is dropped.
    runtime: Option<Runtime>,
    accepting: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts it; it listens nowhere yet.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start() -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("server").on_thread_start(keep_none);
        let runtime = builder.enable_all().build()?;
        Ok(Self { runtime: Some(runtime), accepting: Vec::new() })
    }

    /// Serves each client of a listening socket with `serve`, which says with
    /// [`Asked`] when it knows what the client wants.
    ///
    /// # Errors
    ///
    /// When the socket cannot be watched.
    pub fn clients<L: Listen, F: Future<Output = ()> + Send + 'static>(
        &mut self,
        listener: L,
        serve: impl FnMut(L::Stream, Asked) -> F + Send + 'static,
    ) -> io::Result<()> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let _here = runtime.enter();
        let socket = listener.watched()?;
        self.accepting.push(runtime.spawn(accept::<L, F>(socket, serve)));
        Ok(())
    }

    /// Runs what clients share.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(task);
        }
    }

    /// Accepts no more. Those that it has are served.
    pub fn stop_accepting(&mut self) {
        self.accepting.drain(..).for_each(|task| task.abort());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody waits for a client.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Says that a client has said what it wants.
#[derive(Clone, Default, Debug)]
pub struct Asked(Arc<AtomicBool>);

impl Asked {
    /// It has.
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A listening socket.
pub trait Listen: 'static {
    /// The same, watched by the server's thread.
    type Watched: Send + Sync + 'static;
    /// A client's.
    type Stream: Send + 'static;
    /// To be called on the server's thread.
    ///
    /// # Errors
    ///
    /// When it cannot be watched.
    fn watched(self) -> io::Result<Self::Watched>;
    /// The next client.
    fn poll(socket: &Self::Watched, context: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;
    /// Whether a client is root's, or this process's user's: nobody else's takes its place.
    fn is_owners(_: &Self::Stream) -> bool {
        false
    }
}

impl Listen for TcpListener {
    type Watched = tokio::net::TcpListener;
    type Stream = TcpStream;

    fn watched(self) -> io::Result<Self::Watched> {
        self.set_nonblocking(true)?;
        Self::Watched::from_std(self)
    }

    fn poll(socket: &Self::Watched, context: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        socket.poll_accept(context).map_ok(|(stream, _)| stream)
    }
}

impl Listen for UnixListener {
    type Watched = tokio::net::UnixListener;
    type Stream = UnixStream;

    fn watched(self) -> io::Result<Self::Watched> {
        self.set_nonblocking(true)?;
        Self::Watched::from_std(self)
    }

    fn poll(socket: &Self::Watched, context: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        socket.poll_accept(context).map_ok(|(stream, _)| stream)
    }

    fn is_owners(stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| is_owner(peer.uid()))
    }
}

/// Whether a user may have done whatever this process can do.
pub fn is_owner(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// A client that is served.
struct Client {
    task: AbortHandle,
    asked: Asked,
    is_owners: bool,
}

async fn accept<L: Listen, F: Future<Output = ()> + Send + 'static>(
    socket: L::Watched,
    mut serve: impl FnMut(L::Stream, Asked) -> F,
) {
    let mut clients: VecDeque<Client> = VecDeque::new();
    loop {
        let Ok(stream) = poll_fn(|context| L::poll(&socket, context)).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        clients.retain(|one| !one.task.is_finished());
        let is_owners = L::is_owners(&stream);
        let alike = || (0..clients.len()).filter(|&at| clients[at].is_owners == is_owners);
        if alike().count() >= MOST {
            let silent = alike().find(|&at| !clients[at].asked.0.load(Ordering::Relaxed));
            let goes = silent.or_else(|| alike().next());
            if let Some(client) = goes.and_then(|at| clients.remove(at)) {
                client.task.abort();
            }
        }
        let asked = Asked::default();
        let task = tokio::spawn(serve(stream, asked.clone())).abort_handle();
        clients.push_back(Client { task, asked, is_owners });
    }
}
