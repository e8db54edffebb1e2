//! The daemon's log: one line for each event that matters, on standard error. Where
//! that is the journal, each begins with its priority.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::fstat;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use super::program_log::TARGET;
use crate::proxy::Log;

/// How the log looks.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// How it was started, and the level since.
static STARTED: Mutex<Option<Log>> = Mutex::new(None);

/// How another process is to log as this one does; `None` when it does not.
pub fn like_this() -> Option<Log> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Starts it. `level` is a word (`error` to `trace`) or a filter of
/// tracing-subscriber, `redirector::source=debug,info`.
pub fn start(level: &str, format: Format, colour: bool) -> Result<(), String> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    // Under a supervisor that keeps the time, as journald does, still fine.
    let journal = is_journal(std::env::var_os("JOURNAL_STREAM").as_deref(), io::stderr());
    let lines = fmt::layer().with_writer(Lines { journal }).with_target(false);
    let colour = colour && std::io::stderr().is_terminal();
    let lines: Box<dyn Layer<_> + Send + Sync> = match format {
        Format::Text => Box::new(lines.with_ansi(colour)),
        Format::Json => Box::new(lines.json().flatten_event(true)),
    };
    // A second daemon in one process, as in tests, shares the first one's log.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        let _ = LEVEL.set(handle);
        let log = Log { level: level.to_owned(), json: format == Format::Json, colour };
        *STARTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
    }
    Ok(())
}

/// Whether a stream leads to the journal, by what systemd says of that in
/// JOURNAL_STREAM: device and inode.
pub fn is_journal(variable: Option<&OsStr>, stream: impl std::os::fd::AsFd) -> bool {
    let said = variable.and_then(OsStr::to_str).and_then(|text| text.split_once(':'));
    let is = |text: &str, number: u64| text.parse() == Ok(number);
    let Ok(stat) = fstat(stream) else { return false };
    said.is_some_and(|(device, inode)| is(device, stat.st_dev) && is(inode, stat.st_ino))
}

/// What the journal takes for the priority of the line behind it, of an error.
pub const ERROR: &str = "<3>";

/// The same of an event.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// Standard error, by events.
struct Lines {
    journal: bool,
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Event;

    fn make_writer(&'w self) -> Event {
        Event { priority: "" }
    }

    fn make_writer_for(&'w self, metadata: &Metadata<'_>) -> Event {
        Event { priority: if self.journal { priority(*metadata.level()) } else { "" } }
    }
}

/// Writes an event, each of its lines with that before it.
struct Event {
    priority: &'static str,
}

impl Write for Event {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut lines = Vec::with_capacity(event.len() + self.priority.len());
        for line in event.split_inclusive(|byte| *byte == b'\n') {
            lines.extend_from_slice(self.priority.as_bytes());
            lines.extend_from_slice(line);
        }
        io::stderr().write_all(&lines)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Changes the level while it runs.
pub fn set_level(level: &str) -> Result<(), String> {
    let filter = filter(level)?;
    let handle = LEVEL.get().ok_or("the log belongs to another program")?;
    handle.reload(filter).map_err(|error| error.to_string())?;
    if let Some(log) = &mut *STARTED.lock().unwrap_or_else(PoisonError::into_inner) {
        level.clone_into(&mut log.level);
    }
    Ok(())
}

/// The words that are levels, beside the numbers 0 to 5.
const WORDS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The Kubernetes client's own account of requests that fail. The agent tells of
/// them once, with what they were about and how to mend it.
const CLIENT: &str = "kube_client";

/// Every frame of the connection to the API server.
const FRAMES: &str = "h2";

/// What the programs in the kernel are asked to log is said, and what the
/// Kubernetes client and its connection say is not, unless the level says otherwise of them by
/// name.
fn filter(level: &str) -> Result<EnvFilter, String> {
    // To the library any word is a part of the program, and one that does not
    // exist leaves a log without a line.
    for directive in level.split(',').map(str::trim) {
        let word = directive.to_ascii_lowercase();
        let part = directive.contains(['=', '[', ':']) || directive == "redirector";
        if !part
            && !word.parse::<u8>().is_ok_and(|number| number <= 5)
            && !WORDS.contains(&word.as_str())
        {
            return Err(format!(
                "\"{directive}\" is no level: expected error, warn, info, debug or trace, or a \
                 filter such as redirector::source=debug"
            ));
        }
    }
    let mut whole = level.to_owned();
    for (name, unless_named) in [(TARGET, "trace"), (CLIENT, "off"), (FRAMES, "off")] {
        if !level.contains(name) {
            whole = format!("{whole},{name}={unless_named}");
        }
    }
    EnvFilter::try_new(whole).map_err(|why| format!("{level} is no level: {why}"))
}

#[cfg(test)]
mod tests {
    use super::{filter, is_journal};

    #[test]
    fn standard_error_is_the_journal_where_systemd_says_so_of_that_very_stream() {
        use std::os::unix::fs::MetadataExt;
        let stream = tempfile::tempfile().unwrap();
        let stat = stream.metadata().unwrap();
        let says = |device: u64, inode: u64| {
            is_journal(Some(format!("{device}:{inode}").as_ref()), &stream)
        };
        assert!(says(stat.dev(), stat.ino()));
        assert!(!says(stat.dev(), stat.ino() + 1), "it was led elsewhere since");
        assert!(!is_journal(None, &stream) && !is_journal(Some("nonsense".as_ref()), &stream));
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_and_filters_are_taken() {
        for good in ["info", "DEBUG", "off", "3", "info,redirector::source=trace", "redirector"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["bogus", "inof", "", "info,", "info,wran", "a=b=c", "9"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
