//! The server: HTTP as far as a scrape needs it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use crate::state::Report;

/// Longer requests are nonsense.
const MAX_REQUEST: u64 = 16 << 10;

/// Longest time that a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `/readyz` says.
#[derive(Debug, Default)]
pub struct Readiness {
    in_force: AtomicBool,
    /// What does not work, a line each.
    amiss: Mutex<String>,
}

impl Readiness {
    /// Connections are decided from now on.
    pub fn in_force(&self) {
        self.in_force.store(true, Ordering::Release);
    }

    /// Names the watches that do not work, what they wait for and since when.
    pub fn says(&self, report: &Report) {
        let waiting = report.watching.iter().filter(|watch| !watch.works());
        let lines = waiting.map(|one| format!("{one}, since {}\n", when(one.since)));
        let lines = lines.collect();
        *self.amiss.lock().unwrap_or_else(PoisonError::into_inner) = lines;
    }

    fn answer(&self) -> (bool, String) {
        let amiss = self.amiss.lock().unwrap_or_else(PoisonError::into_inner);
        match self.in_force.load(Ordering::Acquire) {
            true => (true, format!("ready\n{amiss}")),
            false => (false, format!("not in force yet\n{amiss}")),
        }
    }
}

/// Serves in a thread of its own; `text` returns `None` to end it.
pub fn serve(
    address: SocketAddr,
    readiness: Arc<Readiness>,
    mut text: impl FnMut() -> Option<String> + Send + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("metrics".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            // One at a time: a scrape is short, and a slow client is cut off.
            match path(&stream) {
                Ok(path) if path == "/metrics" => {
                    let Some(body) = text() else { return };
                    respond(&stream, "200 OK", &body);
                }
                Ok(path) if path == "/readyz" => match readiness.answer() {
                    (true, words) => respond(&stream, "200 OK", &words),
                    (false, words) => respond(&stream, "503 Service Unavailable", &words),
                },
                Ok(path) if path == "/healthz" => respond(&stream, "200 OK", "ok\n"),
                Ok(_) => respond(&stream, "404 Not Found", "see /metrics\n"),
                Err(_) => respond(&stream, "400 Bad Request", "GET /metrics\n"),
            }
        }
    })?;
    Ok(address)
}

fn when(since: u64) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(since))
}

/// Has a server at this address end whose `text` does: it looks at the next
/// request only.
pub fn stop(address: SocketAddr) {
    if let Ok(mut stream) = TcpStream::connect_timeout(&address, PATIENCE) {
        let _ = stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n");
        // When it has closed this, it has ended.
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

fn path(stream: &TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.take(MAX_REQUEST)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    // The rest of the head has to be read, or closing would reset.
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = first.split(' ');
    match (words.next(), words.next()) {
        (Some("GET" | "HEAD"), Some(target)) => {
            Ok(target.split('?').next().unwrap_or(target).to_owned())
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn respond(mut stream: &TcpStream, status: &str, body: &str) {
    // A client that went away needs no answer.
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}
