//! The server: HTTP as far as a scrape needs it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Longer requests are nonsense.
const MAX_REQUEST: u64 = 16 << 10;

/// Longest time that a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves in a thread of its own; `text` returns `None` to end it.
pub fn serve(
    address: SocketAddr,
    ready: Arc<AtomicBool>,
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
                Ok(path) if path == "/readyz" => match ready.load(Ordering::Acquire) {
                    true => respond(&stream, "200 OK", "ready\n"),
                    false => respond(&stream, "503 Service Unavailable", "not in force yet\n"),
                },
                Ok(path) if path == "/healthz" => respond(&stream, "200 OK", "ok\n"),
                Ok(_) => respond(&stream, "404 Not Found", "see /metrics\n"),
                Err(_) => respond(&stream, "400 Bad Request", "GET /metrics\n"),
            }
        }
    })?;
    Ok(address)
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
