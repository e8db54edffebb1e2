//! The daemon's log: one line for each event that matters, on standard error.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use super::program_log::TARGET;

/// How the log looks.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts it. `level` is a word (`error` to `trace`) or a filter of
/// tracing-subscriber, `redirector::source=debug,info`.
pub fn start(level: &str, format: Format, colour: bool) -> Result<(), ParseError> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    // Under a supervisor that keeps the time, as journald does, still fine.
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let colour = colour && std::io::stderr().is_terminal();
    let lines: Box<dyn Layer<_> + Send + Sync> = match format {
        Format::Text => Box::new(lines.with_ansi(colour)),
        Format::Json => Box::new(lines.json().flatten_event(true)),
    };
    // A second daemon in one process, as in tests, shares the first one's log.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        let _ = LEVEL.set(handle);
    }
    Ok(())
}

/// Changes the level while it runs.
pub fn set_level(level: &str) -> Result<(), String> {
    let filter = filter(level).map_err(|why| format!("{level} is no level: {why}"))?;
    let handle = LEVEL.get().ok_or("the log belongs to another program")?;
    handle.reload(filter).map_err(|error| error.to_string())
}

/// What the programs in the kernel are asked to log is said, unless the level
/// says otherwise of them by name.
fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    if level.contains(TARGET) {
        return EnvFilter::try_new(level);
    }
    EnvFilter::try_new(format!("{level},{TARGET}=trace"))
}
