//! What processes of ours that were killed leave in the cgroup hierarchy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How the name begins of a cgroup that a daemon makes for itself: its process id
/// follows behind a `-`, or nothing.
pub const DAEMON: &str = "redirector-daemon";

/// The name of the cgroup, below a daemon's, of the process that relays connections of
/// its gateways.
pub const RELAY: &str = "redirector-relay";

/// The slice of our units, by its name.
pub const SLICE: &str = "redirector.slice";

/// How the name begins of the cgroup of a self-test: the process id of who makes it
/// follows behind a `-`, and a number behind another.
pub const PROBE: &str = "redirector-probe";

/// Whether a cgroup of this name is left over: one of ours whose process has gone.
fn is_left(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(DAEMON).or_else(|| name.strip_prefix(PROBE)) else {
        return false;
    };
    let Some(rest) = rest.strip_prefix('-') else { return rest.is_empty() };
    let pid = rest.split('-').next().unwrap_or_default();
    let numbers = rest.split('-').all(|part| part.parse::<u32>().is_ok());
    numbers && !Path::new("/proc").join(pid).exists()
}

/// Removes a cgroup of a daemon, with that of its relay.
///
/// # Errors
///
/// The kernel's: it keeps one that a process is in.
pub fn remove(cgroup: &Path) -> io::Result<()> {
    let _ = fs::remove_dir(cgroup.join(RELAY));
    fs::remove_dir(cgroup)
}

/// What is left directly below these cgroups, by its name: processes may be in it.
pub fn left<'a>(cgroups: impl IntoIterator<Item = &'a Path>) -> impl Iterator<Item = PathBuf> {
    // One that has gone, or that one may not look into, holds nothing of ours.
    let entries = cgroups.into_iter().flat_map(fs::read_dir).flatten().flatten();
    entries.filter(|one| is_left(&one.file_name().to_string_lossy())).map(|one| one.path())
}

/// Removes what is left directly below these cgroups. The kernel keeps those that a
/// process is in.
pub fn sweep<'a>(cgroups: impl IntoIterator<Item = &'a Path>) {
    for cgroup in left(cgroups).filter(|cgroup| remove(cgroup).is_ok()) {
        tracing::info!(cgroup = %cgroup.display(), "left over from a killed process: removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_processes_made_is_left_over_and_what_others_made_is_not() {
        // Beyond the largest process id that Linux gives.
        let dead = u32::MAX;
        let living = std::process::id();
        for left in [DAEMON.to_owned(), format!("{DAEMON}-{dead}"), format!("{PROBE}-{dead}-3")] {
            assert!(is_left(&left), "{left}");
        }
        for not in [
            format!("{DAEMON}-{living}"),
            format!("{PROBE}-{living}-0"),
            format!("{DAEMON}s"),
            format!("{PROBE}-of-mine"),
            PROBE.replace('-', "_"),
            "kubepods".to_owned(),
        ] {
            assert!(!is_left(&not), "{not}");
        }
    }

    #[test]
    fn a_sweep_takes_what_is_left_over_and_empty() {
        let root = tempfile::tempdir().unwrap();
        let made = ["a", "redirector-daemon-4294967295", "redirector-probe-4294967295-0"];
        made.iter().for_each(|name| fs::create_dir(root.path().join(name)).unwrap());
        fs::create_dir(root.path().join(made[1]).join(RELAY)).unwrap();
        let full = root.path().join("redirector-daemon-4294967294");
        fs::create_dir_all(full.join("inhabited")).unwrap();
        sweep([root.path(), Path::new("/no/such/cgroup")]);
        let left = made.map(|name| root.path().join(name).exists());
        assert_eq!(left, [true, false, false]);
        assert!(full.exists());
    }
}
