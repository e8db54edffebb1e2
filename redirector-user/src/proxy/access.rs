//! The access log: one line for each connection, when it has ended.
//!
//! Lines are written by a thread of their own, so that nobody who reads them slowly, or
//! not at all, holds a connection up: what does not fit into the queue is dropped, and
//! counted.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Lines that may wait.
const QUEUE: usize = 8192;

/// How lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
pub enum AccessFormat {
    /// `name=value`, those with other characters than usual in quotes, as in JSON.
    Text,
    /// An object a line.
    Json,
}

/// Where connections leave their lines.
pub(super) struct AccessLog {
    /// 0 is off, else an [`AccessFormat`] and one.
    format: AtomicU8,
    queue: SyncSender<String>,
    to: Arc<Mutex<Option<Arc<File>>>>,
    dropped: Arc<AtomicU64>,
}

/// What writes them.
pub(super) struct Writer {
    lines: Receiver<String>,
    to: Arc<Mutex<Option<Arc<File>>>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// One that is off.
    pub fn new() -> (Self, Writer) {
        let (queue, lines) = sync_channel(QUEUE);
        let (to, dropped) = (Arc::default(), Arc::default());
        let writer = Writer { lines, to: Arc::clone(&to), dropped: Arc::clone(&dropped) };
        (Self { format: AtomicU8::new(0), queue, to, dropped }, writer)
    }

    /// Writes lines to this descriptor from now on, or none any more.
    pub fn set(&self, wanted: Option<(AccessFormat, OwnedFd)>) {
        let format = wanted.as_ref().map_or(0, |(format, _)| *format as u8 + 1);
        let file = wanted.map(|(_, to)| Arc::new(File::from(to)));
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = file;
        self.format.store(format, Relaxed);
    }

    /// Whether connections are to be remembered, and how.
    pub fn format(&self) -> Option<AccessFormat> {
        match self.format.load(Relaxed) {
            0 => None,
            1 => Some(AccessFormat::Text),
            _ => Some(AccessFormat::Json),
        }
    }

    /// How many lines were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Leaves a line; waits for nobody.
    pub fn write(&self, format: AccessFormat, line: &Line<'_>) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(line.written(format))
        {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Writer {
    /// Writes until nobody is left who could leave a line.
    pub fn run(self) {
        // A part of a line may have been written: the next one must not go on with it.
        let mut is_broken = false;
        while let Ok(mut line) = self.lines.recv() {
            if is_broken {
                line.insert(0, '\n');
            }
            // Not while it is written, which may take for ever.
            let to = self.to.lock().unwrap_or_else(PoisonError::into_inner).clone();
            is_broken = to.is_none_or(|to| (&*to).write_all(line.as_bytes()).is_err());
            if is_broken {
                self.dropped.fetch_add(1, Relaxed);
            }
        }
    }
}

/// What is told of a connection.
pub(super) struct Line<'c> {
    pub client: SocketAddr,
    /// Who said for whom it connects.
    pub via: Option<SocketAddr>,
    pub dialled: SocketAddr,
    /// The Gateway and its server.
    pub server: Option<&'c str>,
    pub sni: Option<&'c str>,
    /// The rule.
    pub route: Option<&'c str>,
    pub destination: Option<&'c dyn Display>,
    pub endpoint: Option<SocketAddr>,
    /// Endpoints that were tried.
    pub attempts: u32,
    /// Bytes from the client.
    pub sent: u64,
    /// Bytes to the client.
    pub received: u64,
    pub milliseconds: u64,
    /// Why it has ended.
    pub ended: &'c str,
}

impl Line<'_> {
    fn written(&self, format: AccessFormat) -> String {
        self.written_at(format, SystemTime::now())
    }

    fn written_at(&self, format: AccessFormat, now: SystemTime) -> String {
        let time = humantime::format_rfc3339_millis(now).to_string();
        let text = |value: &dyn Display| serde_json::Value::from(value.to_string());
        let address = |at: SocketAddr| text(&at);
        let fields = [
            ("time", Some(text(&time))),
            ("client", Some(address(self.client))),
            ("via", self.via.map(address)),
            ("dialled", Some(address(self.dialled))),
            ("server", self.server.map(|value| text(&value))),
            ("sni", self.sni.map(|value| text(&value))),
            ("route", self.route.map(|value| text(&value))),
            ("destination", self.destination.map(text)),
            ("endpoint", self.endpoint.map(address)),
            ("attempts", Some(self.attempts.into())),
            ("sent", Some(self.sent.into())),
            ("received", Some(self.received.into())),
            ("milliseconds", Some(self.milliseconds.into())),
            ("ended", Some(text(&self.ended))),
        ];
        let known = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let (parts, [begin, between, end]): (Vec<String>, _) = match format {
            AccessFormat::Json => (
                known.map(|(name, value)| format!("\"{name}\":{value}")).collect(),
                ["{", ",", "}"],
            ),
            AccessFormat::Text => (
                known.map(|(name, value)| format!("{name}={}", plain(&value))).collect(),
                ["", " ", ""],
            ),
        };
        format!("{begin}{}{end}\n", printable(&parts.join(between)))
    }
}

/// Printable ASCII only, which no terminal, journal or reader of lines takes for more: the
/// rest is written as JSON has it, for it stands between quotes.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, ' '..='~') {
            printable.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(printable, "\\u{unit:04x}");
            }
        }
    }
    printable
}

/// Without quotes where none are needed.
fn plain(value: &serde_json::Value) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:-_/[]*".contains(&byte);
    match value.as_str() {
        Some(text) if !text.is_empty() && text.bytes().all(is_plain) => text.to_owned(),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, UNIX_EPOCH};

    fn line<'a>(sni: &'a str, destination: &'a dyn Display) -> Line<'a> {
        let at = |text: &str| text.parse().unwrap();
        Line {
            client: at("203.0.113.9:4711"),
            via: None,
            dialled: at("[2001:db8::1]:443"),
            server: Some("Gateway/edge/one servers[0]"),
            sni: Some(sni),
            route: None,
            destination: Some(destination),
            endpoint: Some(at("10.0.0.1:5432")),
            attempts: 2,
            sent: 3,
            received: 4,
            milliseconds: 5,
            ended: "client reset",
        }
    }

    #[test]
    fn a_line_is_one_whatever_a_client_says_its_name_is() {
        let now = UNIX_EPOCH + Duration::from_millis(1_500);
        for unusual in ["a\u{9b}2J", "a\u{2028}b", "a\u{7f}", "\u{1f980}", "\u{1b}[2J"] {
            let line = line(unusual, &"db:5432");
            let [text, json] =
                [AccessFormat::Text, AccessFormat::Json].map(|format| line.written_at(format, now));
            for written in [&text, &json] {
                let line = written.strip_suffix('\n').unwrap();
                assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
            }
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(value["sni"], unusual, "{json}");
        }
        let line = line("a\n\" x=1", &"db:5432");
        let text = line.written_at(AccessFormat::Text, now);
        assert_eq!(
            text,
            "time=1970-01-01T00:00:01.500Z client=203.0.113.9:4711 dialled=[2001:db8::1]:443 \
             server=\"Gateway/edge/one servers[0]\" sni=\"a\\n\\\" x=1\" destination=db:5432 \
             endpoint=10.0.0.1:5432 attempts=2 sent=3 received=4 milliseconds=5 \
             ended=\"client reset\"\n"
        );
        let json = line.written_at(AccessFormat::Json, now);
        assert_eq!(json.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["sni"], "a\n\" x=1");
        assert_eq!((&value["attempts"], &value["via"]), (&2.into(), &serde_json::Value::Null));
    }

    #[test]
    fn who_does_not_read_holds_nobody_up_and_what_is_dropped_is_counted() {
        let (log, writer) = AccessLog::new();
        let (mut reader, to) = UnixStream::pair().unwrap();
        log.set(Some((AccessFormat::Text, to.into())));
        let writing = std::thread::spawn(move || writer.run());
        let line = line("a.example", &"db:5432");
        let mut left = 0u64;
        while log.dropped() == 0 {
            log.write(AccessFormat::Text, &line);
            left += 1;
            assert!(left < 1_000_000, "the queue has an end");
        }
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text.lines().count() as u64
        });
        let dropped = Arc::clone(&log.dropped);
        let to = Arc::clone(&log.to);
        drop(log);
        writing.join().unwrap();
        drop(to);
        assert_eq!(reading.join().unwrap() + dropped.load(Relaxed), left);
    }
}
