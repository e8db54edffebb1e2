//! The relay's process: it is started by the daemon, gives up all privilege, and does
//! what it is told over the sockets that it has from it.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::listen;
use rustix::process::setsid;
use rustix::thread::set_name;

use super::access::AccessLog;
use super::asking::Asking;
use super::confine;
use super::frame;
use super::io::Shared;
use super::message::{Answer, Question};
use super::set::Set;
use super::start::{ENDS, Start, program};
use super::worker::{Mailbox, Worker, block_sigpipe};

/// Longest time that the daemon may take to say what it has begun to.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long one whose starter ends waits for its daemon to go: both may have been told to end at
/// one time, and a daemon that asks it until then is answered.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long nobody is let in when that has failed; and how often it is looked at whether the
/// daemon has gone.
const REST: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Relays until it is told to stop, or until nobody can come who could. Standard input
/// is a socket of the daemon. `log_at` changes the level of the log.
///
/// # Errors
///
/// When descriptors or threads have run out, or privileges cannot be given up.
pub fn relay(start: &Start, log_at: fn(&str)) -> io::Result<()> {
    // Whatever ends the daemon's session is none of its business.
    let _ = setsid();
    // It was started by the number of a descriptor, or as /proc/self/exe.
    let _ = set_name(c"redirector");
    close_others();
    let daemon = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let program = program();
    confine::give_up_privileges()?;
    let (ends, tells) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(ENDS.as_raw(), tells)?;
    let asking = Arc::new(Asking::default());
    let Workers { set, threads, told } = workers(start, &asking)?;
    confine::only_relay()?;
    let (door, daemons, drain) = (None, Vec::new(), Duration::ZERO);
    let ends = Ends::Told(ends);
    let mut relay = Relay { set, asking, door, daemons, log_at, program, drain, ends };
    relay.admit(daemon);
    if relay.serve() {
        // Connections have the time that they were given.
        threads.into_iter().for_each(|thread| drop(thread.join()));
        // So has who reads of them.
        drop(relay);
        let _ = told.recv_timeout(TOLD);
    }
    Ok(())
}

/// Closes what a daemon could have left open for it by mistake.
fn close_others() {
    // SAFETY: nothing of this process, which has just begun, uses any of them; a kernel
    // that has no such call refuses it.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Longest wait for the last lines of the access log to be taken.
const TOLD: Duration = Duration::from_secs(1);

/// The threads.
struct Workers {
    set: Set,
    threads: Vec<JoinHandle<()>>,
    /// Says that the last connection was told of.
    told: Receiver<()>,
}

/// Starts the workers; they listen nowhere yet.
fn workers(start: &Start, asking: &Arc<Asking>) -> io::Result<Workers> {
    let (access, lines) = AccessLog::new();
    let shared = Shared::new(start.hello_timeout, Box::new(Arc::clone(asking)), access);
    let shared = Arc::new(shared);
    // What a thread does at its beginning it may not do later.
    let all_there = Arc::new(Barrier::new(start.workers.get() + 2));
    let there = Arc::clone(&all_there);
    let (tell, told) = channel();
    // It may wait for ever, for who reads what it writes.
    thread::Builder::new().name("gateway-access".into()).spawn(move || {
        give_memory_back();
        there.wait();
        lines.run();
        let _ = tell.send(());
    })?;
    let mut mailboxes = Vec::new();
    let mut threads = Vec::new();
    for number in 0..start.workers.get() {
        let mailbox = Mailbox::new()?;
        let worker = Worker::new(mailbox.clone(), Arc::clone(&shared))?;
        let all_there = Arc::clone(&all_there);
        let thread = thread::Builder::new().name(format!("gateway-{number}"));
        threads.push(thread.spawn(move || {
            block_sigpipe();
            give_memory_back();
            all_there.wait();
            worker.run();
        })?);
        mailboxes.push(mailbox);
    }
    all_there.wait();
    Ok(Workers { set: Set::new(shared, mailboxes), threads, told })
}

/// Has a thread have memory of its own, and give some of it back: the first time that
/// happens the C library reads a file (vm.overcommit_memory), which it could not later.
pub(super) fn give_memory_back() {
    // Below what it maps by itself, and together more than it keeps.
    let blocks: [Vec<u8>; 8] = std::array::from_fn(|_| std::hint::black_box(vec![1; 120 << 10]));
    drop(blocks);
}

/// What the relay's first thread has.
struct Relay {
    set: Set,
    asking: Arc<Asking>,
    /// Where daemons come, if it is to stay without one.
    door: Option<UnixListener>,
    daemons: Vec<UnixStream>,
    log_at: fn(&str),
    /// Asked before files could not be any more.
    program: String,
    /// How long connections may go on, as it was told last.
    drain: Duration,
    ends: Ends,
}

/// When a relay is to stop because who has started it ends.
enum Ends {
    /// Once it hears of it here.
    Told(UnixStream),
    /// When its daemon has gone, or then.
    By(Instant),
}

impl Relay {
    /// Does what this daemon says.
    fn admit(&mut self, daemon: UnixStream) {
        self.daemons.push(daemon);
    }

    /// Does what it is told; says whether it was told to stop.
    fn serve(&mut self) -> bool {
        let mut rests = false;
        while !self.daemons.is_empty() || self.door.is_some() {
            if let Ends::By(then) = self.ends
                && (self.daemons.is_empty() || then <= Instant::now())
            {
                tracing::info!(
                    "what has started this relay ends; so does it, with its connections"
                );
                self.set.stop(self.drain);
                self.door = None;
                return true;
            }
            let daemons = self.daemons.iter().map(|one| PollFd::new(one, PollFlags::IN));
            let door = self.door.iter().filter(|_| !rests);
            let door = door.map(|door| PollFd::new(door, PollFlags::IN));
            let (told, by) = match &self.ends {
                Ends::Told(told) => (Some(PollFd::new(told, PollFlags::IN)), false),
                Ends::By(_) => (None, true),
            };
            let mut polled: Vec<_> = daemons.chain(door).chain(told).collect();
            if poll(&mut polled, (rests || by).then_some(&REST)).is_err() {
                continue;
            }
            let is_told = !by && polled.pop().is_some_and(|told| !told.revents().is_empty());
            rests = false;
            let ready = polled.iter().position(|one| !one.revents().is_empty());
            if is_told {
                self.ends = Ends::By(Instant::now() + LAST_WORDS);
            }
            let Some(ready) = ready else { continue };
            if ready == self.daemons.len() {
                match self.door.as_ref().map(UnixListener::accept) {
                    Some(Ok((daemon, _))) => self.admit(daemon),
                    // Whoever waits there still does: asking again at once would be asked
                    // for ever.
                    Some(Err(error)) => {
                        tracing::warn!(%error, "no daemon can come in");
                        rests = true;
                    }
                    None => {}
                }
                continue;
            }
            match self.converse(ready) {
                Ok(false) => {}
                Ok(true) => return true,
                Err(error) => {
                    if error.kind() != io::ErrorKind::UnexpectedEof {
                        tracing::warn!(%error, "the daemon is not understood");
                    }
                    self.daemons.swap_remove(ready);
                    if self.daemons.is_empty() && self.door.is_some() {
                        tracing::info!("no daemon is there; its relay goes on");
                    }
                }
            }
        }
        tracing::info!("the daemon has gone; so does its relay");
        false
    }

    /// Answers a question; says whether it was the last.
    fn converse(&mut self, place: usize) -> io::Result<bool> {
        let Some(daemon) = self.daemons.get(place) else { return Ok(false) };
        let (question, sockets) = frame::receive(daemon, PATIENCE)?;
        let sockets = match sockets {
            Ok(sockets) => sockets,
            Err(_) => {
                let why = "descriptors have run out".to_owned();
                return frame::send(daemon, &Answer::Failed(why), &[], PATIENCE).map(|()| false);
            }
        };
        let (mut stops, mut shared) = (false, Vec::new());
        let answer = match question {
            Question::Update(config, drain) => {
                self.set.update(*config, drain);
                self.drain = drain;
                Answer::Done
            }
            Question::Listen(addresses) => {
                self.set.listen(&addresses, sockets);
                Answer::Done
            }
            Question::Status => Answer::Status(Box::new(self.set.status())),
            Question::Follow(after, time) => Answer::Told(self.set.told(after, time)),
            Question::Attend => {
                let socket: Option<OwnedFd> = sockets.into_iter().next();
                socket.into_iter().for_each(|socket| self.asking.ask(socket.into()));
                Answer::Done
            }
            Question::Forget => {
                self.asking.forget();
                Answer::Done
            }
            Question::LogAt(level) => {
                (self.log_at)(&level);
                Answer::Done
            }
            Question::Stay => {
                let door = sockets.into_iter().next().map(UnixListener::from);
                // To say who it is that listens: not the one who made the socket.
                let heard = |door: &UnixListener| listen(door, 16).is_ok();
                self.door = door.filter(heard);
                Answer::Done
            }
            Question::Access(format) => {
                self.set.tell(format.zip(sockets.into_iter().next()));
                Answer::Done
            }
            Question::Version => Answer::Version(self.program.clone()),
            Question::Share => match self.set.share() {
                Ok(sockets) => {
                    shared = sockets;
                    Answer::Done
                }
                Err(error) => Answer::Failed(error.to_string()),
            },
            Question::Stop(drain) => {
                self.set.stop(drain);
                // Nobody is to wait there for an answer.
                self.door = None;
                stops = true;
                Answer::Done
            }
        };
        let told = frame::send(daemon, &answer, &shared, PATIENCE);
        if stops {
            // Others than who waits for its end learn that nothing is answered any more. One
            // of them may be standard input as well, which stays open.
            let stopped_by = self.daemons.swap_remove(place);
            for other in std::mem::replace(&mut self.daemons, vec![stopped_by]) {
                let _ = other.shutdown(Shutdown::Both);
            }
        }
        // Also when nobody waits for the answer.
        if stops { Ok(true) } else { told.map(|()| false) }
    }
}
