//! Requests to a living daemon: one line of JSON on a socket in the state
//! directory, one line back.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::state::BypassChange;

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
    /// Log at this level from now on.
    LogLevel {
        /// As `--log-level`.
        level: String,
    },
}

/// What the daemon answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// What went wrong, if anything.
    pub error: Option<String>,
    /// The generation in force afterwards.
    pub generation: u64,
    /// The generation whose configuration it repeats, after a rollback.
    pub of_generation: Option<u64>,
}

/// Takes requests in a thread of its own; `answer` returns `None` to end it.
pub fn serve(
    path: &Path,
    mut answer: impl FnMut(Request) -> Option<Response> + Send + 'static,
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
                    let Some(response) = answer(request) else { return };
                    reply(&stream, &response);
                }
                Err(error) => {
                    let error = Some(format!("the request was not understood: {error}"));
                    reply(&stream, &Response { error, generation: 0, of_generation: None });
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

/// Asks the daemon that listens at `path`.
pub fn ask(path: &Path, request: &Request) -> io::Result<Response> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
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
            Some(Response { error: None, generation: 7, of_generation: Some(7 - steps as u64) })
        })
        .unwrap();
        let response = ask(&path, &Request::Rollback { steps: 2 }).unwrap();
        assert_eq!(response.of_generation, Some(5));
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"hello\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.contains("not understood"), "{line}");
    }
}
