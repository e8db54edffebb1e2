//! Relays that no daemon finds any more: the state directory that their door was in is lost.
//! They would serve, for ever, what was right then, at addresses that nobody else can listen at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use super::process::knock;
use super::start::ENDS;
use super::{SUBCOMMAND, Start};
use crate::leftovers::{RELAY, SLICE};
use crate::rights;

/// Longest wait for one to close what it listens at. It does so at once, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// The mark of a listening socket in /proc/PID/net/unix (`__SO_ACCEPTCON`).
const LISTENS: &str = "00010000";

/// Has those relays end, when their connections have, that are in a relay's cgroup below this
/// one, in which no daemon but this process may live, and that cannot be found by their door.
/// `own` is the door of this process's state directory.
pub fn end_lost(exempt: &Path, own: &Path) {
    for pid in relays(exempt) {
        let Ok(doors) = doors(pid) else { continue };
        // One without a door ends by itself.
        if doors.is_empty() || doors.iter().any(|door| may_lead(door, own, pid)) {
            continue;
        }
        match end(pid) {
            Ok(true) => tracing::warn!(
                pid,
                "a relay of gateways whose state directory is lost, so that no daemon finds it, is \
                 told to end: it accepts no more, and its connections have their time"
            ),
            Ok(false) => tracing::error!(
                pid,
                "a relay of gateways whose state directory is lost does not end, and goes on to \
                 listen: kill -9 {pid}"
            ),
            Err(error) => tracing::error!(
                pid, %error,
                "a relay of gateways whose state directory is lost cannot be told to end: \
                 kill -9 {pid}"
            ),
        }
    }
}

/// As [`end_lost`], below each of these that no process of a daemon is in.
pub fn end_left(exempt: impl IntoIterator<Item = PathBuf>, own: &Path) {
    let is_left = |cgroup: &PathBuf| {
        let beside = cgroups(cgroup).filter(|(name, _)| !is_theirs(cgroup, name));
        processes(cgroup).is_empty()
            && beside.into_iter().all(|(_, one)| processes(&one).is_empty())
    };
    exempt.into_iter().filter(is_left).for_each(|one| end_lost(&one, own));
}

/// The relays that are in cgroups of theirs below a daemon's.
fn relays(exempt: &Path) -> Vec<u32> {
    let theirs = cgroups(exempt).filter(|(name, _)| is_theirs(exempt, name));
    theirs.flat_map(|(_, cgroup)| processes(&cgroup)).filter(|pid| is_relay(*pid)).collect()
}

/// The cgroups directly below one, with their names.
fn cgroups(above: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let entries = fs::read_dir(above).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
}

/// Whether that is the name of a relay's cgroup below a daemon's.
fn is_theirs(exempt: &Path, name: &str) -> bool {
    let rest = name.strip_prefix(RELAY);
    rest.is_some_and(|rest| rest.is_empty() || (exempt.ends_with(SLICE) && rest.starts_with('@')))
}

fn processes(cgroup: &Path) -> Vec<u32> {
    let all = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    all.lines().flat_map(str::parse).collect()
}

/// Whether a process was started as a relay, by what it was told: not one that starts some.
fn is_relay(pid: u32) -> bool {
    let Ok(told) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut told = told.split(|byte| *byte == 0).skip(1);
    told.next() == Some(SUBCOMMAND.as_bytes())
        && told.next().is_some_and(|start| serde_json::from_slice::<Start>(start).is_ok())
}

/// The paths of the Unix sockets that a process listens at.
///
/// # Errors
///
/// When it has gone, or may not be looked at.
fn doors(pid: u32) -> io::Result<Vec<PathBuf>> {
    let mut own = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        // One may have been closed meanwhile.
        let Ok(to) = fs::read_link(entry.path()) else { continue };
        let to = to.to_string_lossy();
        own.extend(
            to.strip_prefix("socket:[").and_then(|to| to.strip_suffix(']')).map(str::to_owned),
        );
    }
    let all = fs::read_to_string(format!("/proc/{pid}/net/unix"))?;
    Ok(all
        .lines()
        .filter_map(|line| listening(line))
        .filter(|(inode, _)| own.iter().any(|one| one == inode))
        .map(|(_, path)| path.into())
        .collect())
}

/// The inode and path of a listening socket in a line of /proc/PID/net/unix.
fn listening(line: &str) -> Option<(&str, &str)> {
    let (mut fields, mut path) = ([""; 7], line);
    for field in &mut fields {
        (*field, path) = path.trim_start().split_once(' ')?;
    }
    let [.., flags, _, _, inode] = fields;
    (flags == LISTENS).then_some((inode, path))
}

/// Whether a daemon may come to this relay by that door.
fn may_lead(door: &Path, own: &Path, pid: u32) -> bool {
    // Below which directory another daemon has meant it is not known.
    if door.is_relative() && door != own {
        return true;
    }
    match knock(door) {
        Ok(Some(link)) => rights::peer(&link).is_ok_and(|peer| peer.pid.unsigned_abs() == pid),
        Ok(None) => false,
        // Somebody is there, who lets nobody in.
        Err(_) => true,
    }
}

/// Tells one to end, and waits until it listens no more; `false` when that takes too long.
fn end(pid: u32) -> io::Result<bool> {
    let number = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(number, PidfdFlags::empty())?;
    // That is still the one.
    if !is_relay(pid) {
        return Ok(true);
    }
    pidfd_send_signal(&process, ENDS)?;
    let until = Instant::now() + PATIENCE;
    // Its door is closed after its sockets are. There is no event to wait for.
    while doors(pid).is_ok_and(|doors| !doors.is_empty()) {
        if until <= Instant::now() {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn what_a_process_listens_at_is_told_also_when_its_name_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("with a space");
        let listener = UnixListener::bind(&path).unwrap();
        let _link = UnixStream::connect(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let own = std::process::id();
        let all = doors(own).unwrap();
        assert_eq!(all.iter().filter(|one| **one == path).count(), 1, "{all:?}");
        drop(listener);
        assert!(!doors(own).unwrap().contains(&path));
    }

    #[test]
    fn a_door_leads_to_who_listens_there_and_to_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let (door, other) = (directory.path().join("door"), directory.path().join("other"));
        let _listener = UnixListener::bind(&door).unwrap();
        let own = std::process::id();
        assert!(may_lead(&door, &other, own));
        assert!(!may_lead(&door, &other, own + 1), "another has taken its place");
        assert!(!may_lead(&other, &other, own), "nobody is there");
        let relative = Path::new("no/such/door");
        assert!(may_lead(relative, &other, own), "below which directory is not known");
        assert!(!may_lead(relative, relative, own));
    }
}
