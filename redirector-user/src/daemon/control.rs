//! Requests to a living daemon: one line of JSON on a socket in the state
//! directory, one line back.

use std::fs;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::state::{BypassChange, Report};

/// Longer requests are nonsense.
const MAX_REQUEST: u64 = 64 << 10;

/// Longest time that a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// Read everything again.
    Reread,
    /// Say what the daemon knows.
    Report,
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
    /// Let a successor take over; the answer comes with the listening sockets of
    /// gateways.
    HandOver,
    /// Log at this level from now on.
    LogLevel {
        /// As `--log-level`.
        level: String,
    },
}

/// What the daemon answers.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// What went wrong, if anything.
    pub error: Option<String>,
    /// The generation in force afterwards.
    pub generation: u64,
    /// The generation whose configuration it repeats, after a rollback.
    pub of_generation: Option<u64>,
    /// What the daemon knows, for who asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<Report>>,
    /// How many sockets come after this.
    #[serde(default)]
    pub sockets: usize,
}

/// An answer, with what cannot be written down.
#[derive(Debug)]
pub struct Answer {
    /// What is written.
    pub response: Response,
    /// Sockets for the one who asks.
    pub sockets: Vec<OwnedFd>,
}

/// Takes requests in a thread of its own; `answer` returns `None` to end it.
pub fn serve(
    path: &Path,
    mut answer: impl FnMut(Request) -> Option<Answer> + Send + 'static,
) -> io::Result<()> {
    // The lock of the state directory says that whoever listened here is gone.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    thread::Builder::new().name("control".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            match take(&stream) {
                Ok(request) => {
                    let Some(answer) = answer(request) else { return };
                    reply(&stream, &answer.response);
                    // A client that does not wait for them does not get them.
                    let _ = send(&stream, &answer.sockets);
                }
                Err(error) => {
                    let error = Some(format!("the request was not understood: {error}"));
                    reply(&stream, &Response { error, ..Response::default() });
                }
            }
        }
    })?;
    Ok(())
}

fn take(stream: &UnixStream) -> io::Result<Request> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_REQUEST)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn reply(mut stream: &UnixStream, response: &Response) {
    if let Ok(json) = serde_json::to_string(response) {
        // A client that does not wait for the answer does not get it.
        let _ = writeln!(stream, "{json}");
    }
}

/// Asks the daemon that listens at `path`, and waits so long for its answer.
pub fn ask(path: &Path, request: &Request, patience: Duration) -> io::Result<Response> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(patience))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// As [`ask`], for an answer with sockets.
pub fn ask_for_sockets(path: &Path, request: &Request) -> io::Result<(Response, Vec<OwnedFd>)> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    // Byte by byte: reading beyond the line would lose the sockets.
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let response: Response = serde_json::from_slice(&line)?;
    let sockets = receive(&stream, response.sockets)?;
    Ok((response, sockets))
}

/// So many sockets go with one byte; the kernel takes up to 253.
const AT_ONCE: usize = 64;

fn send(stream: &UnixStream, sockets: &[OwnedFd]) -> io::Result<()> {
    for chunk in sockets.chunks(AT_ONCE) {
        let borrowed: Vec<BorrowedFd<'_>> = chunk.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        rights.push(SendAncillaryMessage::ScmRights(&borrowed));
        sendmsg(stream, &[IoSlice::new(b"s")], &mut rights, SendFlags::empty())?;
    }
    Ok(())
}

fn receive(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut data = [IoSliceMut::new(&mut byte)];
        let message = recvmsg(stream, &mut data, &mut rights, RecvFlags::CMSG_CLOEXEC)?;
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                sockets.extend(received);
            }
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_and_nonsense_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("control.sock");
        fs::write(&path, "left behind").unwrap();
        serve(&path, |request| {
            let Request::Rollback { steps } = request else { return None };
            let of_generation = Some(7 - steps as u64);
            let response = Response { generation: 7, of_generation, ..Response::default() };
            Some(Answer { response, sockets: Vec::new() })
        })
        .unwrap();
        let request = Request::Rollback { steps: 2 };
        let response = ask(&path, &request, Duration::from_secs(60)).unwrap();
        assert_eq!(response.of_generation, Some(5));
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"hello\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.contains("not understood"), "{line}");
    }

    #[test]
    fn sockets_come_with_an_answer_however_many() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("control.sock");
        serve(&path, |_| {
            let sockets: Vec<OwnedFd> = (0..150)
                .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap().into())
                .collect();
            let response = Response { sockets: sockets.len(), ..Response::default() };
            Some(Answer { response, sockets })
        })
        .unwrap();
        let (response, sockets) = ask_for_sockets(&path, &Request::HandOver).unwrap();
        assert_eq!((response.sockets, sockets.len()), (150, 150));
        let ports: std::collections::BTreeSet<u16> = sockets
            .into_iter()
            .map(|socket| std::net::TcpListener::from(socket).local_addr().unwrap().port())
            .collect();
        assert_eq!(ports.len(), 150, "each of its own");
    }
}
