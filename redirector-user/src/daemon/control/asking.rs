//! Asking a living daemon, and what is said of one that does not answer.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Request, Response};
use crate::rights;

/// How often who waits for an answer looks whether one can come.
const LOOK: Duration = Duration::from_millis(500);

/// How long a successor waits for the answer.
const HAND_OVER: Duration = Duration::from_secs(60);

/// Asks the daemon that listens at `path`, and waits so long for its answer; `waits` is told
/// again and again for how long it has.
///
/// # Errors
///
/// The system's refusal. [`io::ErrorKind::TimedOut`] where no answer comes in time, or the
/// daemon is stopped, so that none can come: [`remedy`] says what helps.
pub fn ask(
    path: &Path,
    request: &Request,
    patience: Duration,
    waits: impl FnMut(Duration),
) -> io::Result<Response> {
    let stream = say(path, request, patience, waits)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(|error| in_time(error, patience))?;
    Ok(serde_json::from_str(&line)?)
}

/// As [`ask`], for an answer with sockets; and the connection, to [`confirm`](super::confirm).
pub fn ask_for_sockets(
    path: &Path,
    request: &Request,
) -> io::Result<(Response, Vec<OwnedFd>, UnixStream)> {
    let mut stream = say(path, request, HAND_OVER, |_| {})?;
    // Byte by byte: reading beyond the line would lose the sockets.
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let response: Response = serde_json::from_slice(&line)?;
    let sockets = rights::take(&stream, response.sockets, || Ok(()))?;
    Ok((response, sockets, stream))
}

/// A connection on which something was asked, and an answer begins.
fn say(
    path: &Path,
    request: &Request,
    patience: Duration,
    mut waits: impl FnMut(Duration),
) -> io::Result<UnixStream> {
    let in_time = |error| in_time(error, patience);
    let begun = Instant::now();
    let mut stream = rights::knock(path).map_err(in_time)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    writeln!(stream, "{}", serde_json::to_string(request)?).map_err(in_time)?;
    loop {
        let left = patience.saturating_sub(begun.elapsed()).min(LOOK);
        let wait = Timespec::try_from(left).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(&stream, PollFlags::IN)], Some(&wait))? > 0 {
            return Ok(stream);
        }
        if is_stopped(&stream) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it is stopped"));
        }
        let waited = begun.elapsed();
        if waited >= patience {
            return Err(in_time(io::ErrorKind::WouldBlock.into()));
        }
        waits(waited);
    }
}

/// The error where what takes longer than so long is given up.
fn in_time(error: io::Error, patience: Duration) -> io::Error {
    if error.kind() != io::ErrorKind::WouldBlock {
        return error;
    }
    let within = humantime::format_duration(patience);
    io::Error::new(io::ErrorKind::TimedOut, format!("not within {within}: it is stopped, or hangs"))
}

/// Whether the process at the other end is stopped, as by SIGSTOP.
fn is_stopped(stream: &UnixStream) -> bool {
    let Ok(peer) = rights::peer(stream) else { return false };
    let status = fs::read_to_string(format!("/proc/{}/status", peer.pid)).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:\tT"))
}

/// What helps against this [`TimedOut`](io::ErrorKind::TimedOut) of the daemon that listens at
/// `path`.
pub fn remedy(path: &Path, error: &io::Error) -> Option<String> {
    if error.kind() != io::ErrorKind::TimedOut {
        return None;
    }
    // By the kernel's word: the number that it has written is that of another process here
    // where it is in another PID namespace.
    let peer = rights::knock(path).and_then(|link| rights::peer(&link));
    let pid = peer.ok().map(|peer| peer.pid).filter(|pid| *pid != 0);
    let kill = pid.map_or("end it with SIGKILL".to_owned(), |pid| format!("`kill -9 {pid}`"));
    Some(format!(
        "if that stays so, {kill}, and start it again: the kernel goes on with what it has \
         meanwhile, and `redirector bypass` works without a daemon"
    ))
}
