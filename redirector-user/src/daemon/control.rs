//! Requests to a living daemon: one line of JSON on a socket in the state
//! directory, one line back.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream as Stream;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{sleep, timeout};

pub use asking::{ask, ask_for_sockets, remedy};

use super::server::{Asked, PATIENCE, Server, is_owner};
use crate::datapath::Standing;
use crate::proxy::{Status, Through};
use crate::rights;
use crate::state::{BypassChange, Report, StateDir};

/// Longer requests are nonsense.
const MAX_REQUEST: u64 = 64 << 10;

/// How old what readers are told may be.
const FRESH: Duration = Duration::from_millis(200);

/// The time between two answers that are made for readers.
const BETWEEN: Duration = Duration::from_millis(5);

/// For so many seconds at most a reader has connections followed or told of without asking
/// again: longer than `flows` and `top` need.
const READERS_LEASE: u64 = 75;

/// What is asked of the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// Return to the configuration this many changes ago, and hold it.
    Rollback {
        /// How many; at least 1.
        steps: usize,
    },
    /// Stop holding, and return to what the sources say.
    Release,
    /// Read everything again, and say when that is over.
    Reread,
    /// Say what the daemon knows.
    Report,
    /// Say what the gateways have counted.
    Gateways,
    /// Leave something alone, or no longer.
    Bypass {
        /// What.
        change: BypassChange,
    },
    /// Follow connections until they end, for a while: somebody watches them.
    Follow {
        /// For so many seconds from now.
        seconds: u64,
    },
    /// Have the kernel tell of each connection, for a while: somebody who may only read
    /// the tables watches.
    Tell {
        /// For so many seconds from now.
        seconds: u64,
    },
    /// Say what was told of connections through gateways after the record of this number,
    /// and have them told for a while.
    Through {
        /// The last record that is known.
        after: u64,
        /// For so many seconds from now.
        seconds: u64,
    },
    /// Say how the programs stand, to somebody who may not see it.
    Standing,
    /// Let a successor take over; the answer comes with the listening sockets of
    /// gateways and metrics.
    HandOver {
        /// Whether it says on the same connection that it is in force: [`confirm`].
        #[serde(default)]
        confirms: bool,
        /// Whether it goes on with the process that relays connections of gateways: then
        /// the sockets of gateways are not needed.
        #[serde(default)]
        adopts: bool,
        /// Whether it is in another PID namespace, and so not seen from here, as the daemon
        /// of another pod is: by the kernel's word, and not by its own.
        #[serde(skip)]
        elsewhere: bool,
    },
    /// Log at this level from now on.
    LogLevel {
        /// As `--log-level`.
        level: String,
    },
}

impl Request {
    /// Whether it changes nothing for anybody, so that readers may ask it.
    pub fn only_looks(&self) -> bool {
        match self {
            Self::Report
            | Self::Gateways
            | Self::Follow { .. }
            | Self::Tell { .. }
            | Self::Through { .. }
            | Self::Standing => true,
            Self::Rollback { .. }
            | Self::Release
            | Self::Reread
            | Self::Bypass { .. }
            | Self::HandOver { .. }
            | Self::LogLevel { .. } => false,
        }
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// What went wrong, if anything.
    pub error: Option<String>,
    /// The generation in force afterwards.
    pub generation: u64,
    /// The generation whose configuration it repeats, after a rollback.
    pub of_generation: Option<u64>,
    /// The generation before everything was read again, for who asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// What the daemon knows, for who asked for that, or for a reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<Report>>,
    /// What the gateways have counted, for who asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateways: Option<Box<Status>>,
    /// Connections through gateways, for who asked for that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub through: Vec<Through>,
    /// How the programs stand, for who asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Box<Standing>>,
    /// How many sockets come after this.
    #[serde(default)]
    pub sockets: usize,
}

/// An answer, with what cannot be written down.
pub struct Answer {
    /// What is written.
    pub response: Response,
    /// Sockets for the one who asks.
    pub sockets: Vec<OwnedFd>,
    /// What is to be told when the one who asks has closed the connection: whether it
    /// has confirmed before.
    pub afterwards: Option<Afterwards>,
}

/// Is told, once, what became of who asked: also when nobody is there any more to take the
/// answer.
pub struct Afterwards(Option<Box<dyn FnOnce(bool) + Send>>);

impl Afterwards {
    /// Calls `tell` with whether the answer was confirmed.
    pub fn new(tell: impl FnOnce(bool) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// Whether it was.
    fn tell(mut self, confirmed: bool) {
        if let Some(tell) = self.0.take() {
            tell(confirmed);
        }
    }

    /// Nothing is to be told: the answer was not given.
    pub fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Afterwards {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(false);
        }
    }
}

impl Answer {
    /// One without sockets.
    pub fn plain(response: Response) -> Self {
        Self { response, sockets: Vec::new(), afterwards: None }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { response, sockets, .. } = self;
        f.debug_struct("Answer").field("response", response).field("sockets", sockets).finish()
    }
}

/// Takes requests in a state directory; `ask` has one answered, and returns `false` when
/// nobody answers any more. What changes something is only for root and for the user that
/// this process runs as.
///
/// # Errors
///
/// When the system gives no such socket.
pub fn serve(
    server: &mut Server,
    state: &StateDir,
    ask: impl Fn(Request, oneshot::Sender<Answer>) -> bool + Clone + Send + Sync + 'static,
) -> io::Result<()> {
    // The lock of the state directory says that whoever listened here is gone.
    let path = state.control_socket();
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    state.admit_to_control().map_err(io::Error::other)?;
    let looks = Looks::default();
    server.clients(listener, move |stream, asked| {
        let (ask, looks) = (ask.clone(), looks.clone());
        // A client that went away needs no answer.
        async move { drop(converse(stream, &asked, ask, looks).await) }
    })
}

/// What readers were told last, and when: however many ask, and however often, the control
/// loop answers one of them at a time, and who asks the same soon afterwards is told the same.
#[derive(Clone, Default)]
struct Looks(Arc<Mutex<Vec<(Instant, Request, Response)>>>);

impl Looks {
    /// The answer to a reader; `None` when nobody answers any more.
    async fn answer(
        &self,
        mut request: Request,
        ask: impl Fn(Request, oneshot::Sender<Answer>) -> bool,
    ) -> Option<Response> {
        if let Request::Follow { seconds }
        | Request::Tell { seconds }
        | Request::Through { seconds, .. } = &mut request
        {
            *seconds = (*seconds).min(READERS_LEASE);
        }
        let mut known = Arc::clone(&self.0).lock_owned().await;
        known.retain(|(when, ..)| when.elapsed() < FRESH);
        if let Some((.., response)) = known.iter().find(|(_, of, _)| *of == request) {
            return Some(response.clone());
        }
        let (sender, answer) = oneshot::channel();
        if !ask(request.clone(), sender) {
            return None;
        }
        // On a task of its own: a reader who goes away meanwhile lets nobody ask before it is
        // answered.
        let (told, response) = oneshot::channel();
        tokio::spawn(async move {
            let Ok(Answer { response, .. }) = answer.await else { return };
            known.push((Instant::now(), request, response.clone()));
            drop(told.send(response));
            sleep(BETWEEN).await;
        });
        response.await.ok()
    }
}

async fn converse(
    stream: Stream,
    asked: &Asked,
    ask: impl Fn(Request, oneshot::Sender<Answer>) -> bool,
    looks: Looks,
) -> io::Result<()> {
    let mut stream = tokio::io::BufReader::new(stream);
    let mut request = match timeout(PATIENCE, take(&mut stream)).await {
        Ok(Ok(request)) => request,
        failed => {
            let why = match failed {
                Ok(Err(error)) => error.to_string(),
                _ => "it did not come in time".to_owned(),
            };
            let error = Some(format!("the request was not understood: {why}"));
            return reply(&mut stream, &Response { error, ..Response::default() }).await;
        }
    };
    asked.now();
    let peer = stream.get_ref().peer_cred()?;
    let uid = peer.uid();
    if let Request::HandOver { elsewhere, .. } = &mut request {
        *elsewhere = peer.pid().is_none_or(|pid| pid == 0);
    }
    if !is_owner(uid) {
        if !request.only_looks() {
            let error = Some(format!("user {uid} may only look: that takes root"));
            return reply(&mut stream, &Response { error, ..Response::default() }).await;
        }
        return match looks.answer(request, ask).await {
            Some(response) => reply(&mut stream, &response).await,
            None => Ok(()),
        };
    }
    // Who has gone was told that nothing came of it: it may ask again.
    if has_gone(stream.get_ref()) {
        return Ok(());
    }
    let (sender, answer) = oneshot::channel();
    if !ask(request, sender) {
        return Ok(());
    }
    let answer = tokio::select! {
        answer = answer => answer,
        () = goes(stream.get_ref()) => return Ok(()),
    };
    let Ok(Answer { response, sockets, afterwards }) = answer else { return Ok(()) };
    let told = async {
        reply(&mut stream, &response).await?;
        // A client that does not wait for them does not get them.
        timeout(PATIENCE, send(stream.get_ref(), &sockets)).await?
    };
    let told = told.await;
    if let Some(afterwards) = afterwards {
        let mut word = [0; CONFIRMED.len()];
        let confirmed = told.is_ok() && stream.read_exact(&mut word).await.is_ok();
        afterwards.tell(confirmed && word == *CONFIRMED);
    }
    told
}

/// Whether the other side has closed its end; one that only says no more waits for an answer.
fn has_gone(stream: &Stream) -> bool {
    let mut socket = [PollFd::new(stream, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut socket, Some(&now)).is_ok_and(|_| socket[0].revents().contains(PollFlags::HUP))
}

/// Waits for that.
async fn goes(stream: &Stream) {
    while !has_gone(stream) {
        sleep(FRESH).await;
    }
}

async fn take(stream: &mut tokio::io::BufReader<Stream>) -> io::Result<Request> {
    let mut line = String::new();
    stream.take(MAX_REQUEST).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}

async fn reply(stream: &mut tokio::io::BufReader<Stream>, response: &Response) -> io::Result<()> {
    let line = format!("{}\n", serde_json::to_string(response)?);
    timeout(PATIENCE, stream.write_all(line.as_bytes())).await?
}

/// What confirms.
const CONFIRMED: &[u8; 1] = b".";

/// Says that what was asked for has had its effect.
pub fn confirm(mut stream: &UnixStream) -> io::Result<()> {
    stream.write_all(CONFIRMED)
}

async fn send(stream: &Stream, sockets: &[OwnedFd]) -> io::Result<()> {
    for chunk in sockets.chunks(rights::AT_ONCE) {
        stream.async_io(Interest::WRITABLE, || rights::pass(stream, chunk)).await?;
    }
    Ok(())
}

mod asking;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::sync::mpsc;

    #[test]
    fn a_request_is_answered_and_nonsense_refused_whoever_else_is_silent() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::new(root.path());
        let path = state.control_socket();
        fs::write(&path, "left behind").unwrap();
        let mut server = Server::start().unwrap();
        serve(&mut server, &state, |request, reply| {
            let Request::Rollback { steps } = request else { return false };
            let of_generation = Some(7 - steps as u64);
            let response = Response { generation: 7, of_generation, ..Response::default() };
            reply.send(Answer::plain(response)).is_ok()
        })
        .unwrap();
        let silent: Vec<_> = (0..100).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let request = Request::Rollback { steps: 2 };
        let response = ask(&path, &request, Duration::from_secs(60), |_| {}).unwrap();
        assert_eq!(response.of_generation, Some(5));
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"hello\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.contains("not understood"), "{line}");
        drop(silent);
    }

    #[test]
    fn what_was_asked_by_somebody_who_gave_it_up_is_known_as_that() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::new(root.path());
        let (tell, asked) = mpsc::channel();
        let mut server = Server::start().unwrap();
        serve(&mut server, &state, move |_, reply| tell.send(reply).is_ok()).unwrap();
        let rollback = serde_json::to_string(&Request::Rollback { steps: 1 }).unwrap();
        let mut stream = UnixStream::connect(state.control_socket()).unwrap();
        writeln!(stream, "{rollback}").unwrap();
        // One that only says no more waits for the answer.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply: oneshot::Sender<Answer> = asked.recv().unwrap();
        std::thread::sleep(FRESH * 2);
        assert!(!reply.is_closed());
        drop(stream);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(reply.closed());
    }

    #[test]
    fn sockets_come_with_an_answer_however_many_and_who_asked_may_confirm() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::new(root.path());
        let path = state.control_socket();
        let (told, heard) = mpsc::channel();
        let mut server = Server::start().unwrap();
        serve(&mut server, &state, move |_, reply| {
            let sockets: Vec<OwnedFd> = (0..150)
                .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap().into())
                .collect();
            let response = Response { sockets: sockets.len(), ..Response::default() };
            let told = told.clone();
            let afterwards = Afterwards::new(move |confirmed| told.send(confirmed).unwrap());
            reply.send(Answer { response, sockets, afterwards: Some(afterwards) }).is_ok()
        })
        .unwrap();
        let request = Request::HandOver { confirms: true, adopts: true, elsewhere: false };
        let (response, sockets, connection) = ask_for_sockets(&path, &request).unwrap();
        assert_eq!((response.sockets, sockets.len()), (150, 150));
        let ports: std::collections::BTreeSet<u16> = sockets
            .into_iter()
            .map(|socket| std::net::TcpListener::from(socket).local_addr().unwrap().port())
            .collect();
        assert_eq!(ports.len(), 150, "each of its own");
        assert!(heard.try_recv().is_err(), "it is not over");
        confirm(&connection).unwrap();
        assert!(heard.recv().unwrap());
        drop(ask_for_sockets(&path, &request).unwrap());
        assert!(!heard.recv().unwrap());
    }

    #[test]
    fn however_many_readers_ask_the_same_it_is_answered_once_and_leases_are_cut() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (tell, asked) = mpsc::channel();
        let ask = move |request, reply: oneshot::Sender<Answer>| {
            tell.send(request).unwrap();
            reply.send(Answer::plain(Response::default())).is_ok()
        };
        runtime.block_on(async {
            let looks = Looks::default();
            for _ in 0..100 {
                let _ = looks.answer(Request::Report, &ask).await.unwrap();
            }
            let _ = looks.answer(Request::Follow { seconds: 3600 }, &ask).await.unwrap();
        });
        let follow = Request::Follow { seconds: READERS_LEASE };
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), [Request::Report, follow]);
    }

    #[test]
    fn who_never_takes_the_answer_has_not_confirmed() {
        let (tell, told) = mpsc::channel();
        drop(Afterwards::new(move |confirmed| tell.send(confirmed).unwrap()));
        assert_eq!(told.try_recv(), Ok(false));
    }

    #[test]
    fn versions_without_confirmation_are_understood_and_understand() {
        let earlier = r#"{"do":"hand-over"}"#;
        let request: Request = serde_json::from_str(earlier).unwrap();
        assert_eq!(request, Request::HandOver { confirms: false, adopts: false, elsewhere: false });

        #[derive(PartialEq, Debug, Deserialize)]
        #[serde(tag = "do", rename_all = "kebab-case")]
        enum Earlier {
            HandOver,
        }
        let now = Request::HandOver { confirms: true, adopts: true, elsewhere: true };
        let now = serde_json::to_string(&now).unwrap();
        assert!(!now.contains("elsewhere"), "who asks does not say it: {now}");
        assert_eq!(serde_json::from_str::<Earlier>(&now).unwrap(), Earlier::HandOver);
    }
}
