//! What daemon, relay and whoever starts relays agree on when one is started.

use std::fs;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

/// Longest wait for all answers to what is asked in one go: then it is as good as dead.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Tells a relay that who has started it is to end. The usual one ends it at once, as
/// `systemctl stop` has it.
pub(super) const ENDS: Signal = Signal::USR1;

/// Which program this is: relays of another are replaced. The version alone would not tell
/// one that was built again, with a fault less, or with another form of what is said; when
/// its file was made does, and how long it is.
pub(super) fn program() -> String {
    let version = env!("CARGO_PKG_VERSION");
    // It is this file also when another has taken its place.
    match std::fs::metadata("/proc/self/exe") {
        Ok(file) => format!("{version} {} {}.{:09}", file.len(), file.mtime(), file.mtime_nsec()),
        Err(_) => version.to_owned(),
    }
}

/// What a relay is started with: its only argument, in JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// Worker threads.
    pub workers: NonZero<usize>,
    /// Longest wait for a whole ClientHello, where routes depend on it.
    pub hello_timeout: Duration,
    /// How it logs, on standard error.
    pub log: Log,
}

/// How a relay logs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Log {
    /// As `--log-level`.
    pub level: String,
    /// An object a line.
    pub json: bool,
    /// In colours.
    pub colour: bool,
}

/// A door that daemons of this user come by. Who listened there before is found no more.
pub(super) fn open(door: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(door) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(door)?;
    fs::set_permissions(door, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
