//! The daemon's own cgroup.
//!
//! Connects of the daemon are never redirected, and the programs know it by its
//! cgroup: so nothing else may be in there with it. Below it is that of the process that
//! relays connections of gateways, whose own are not redirected either; or, where another
//! than the daemon starts that, both are below one cgroup in which nothing else is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::datapath::cgroup::Cgroup;
use crate::identity::pods::layout::{Directory, classify};
use crate::leftovers::{DAEMON, RELAY, SLICE, remove};
use crate::{leftovers, mounts};

/// Which cgroup the daemon is to be alone in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The one that it was started in when it is alone there, else a child of
    /// that one, else one below the root of the hierarchy.
    Auto,
    /// This one, below the cgroup2 mount; made when it is absent.
    Path(PathBuf),
    /// None: its connects are like those of any other process.
    None,
}

impl std::str::FromStr for Choice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "none" => Self::None,
            path => Self::Path(path.trim_start_matches('/').into()),
        })
    }
}

/// The cgroup that the daemon is alone in, or with what relays.
#[derive(Debug)]
pub struct Leaf {
    /// It.
    pub cgroup: Cgroup,
    /// Where the daemon came from, when it moved, and whether it made the
    /// cgroup it moved to.
    moved: Option<(PathBuf, bool)>,
}

impl Leaf {
    /// Moves this process into a cgroup of its own, if it is not in one; it may
    /// share that with the daemon that it follows, and, where it is so, with what relays and is
    /// started by another. `before` is what an earlier one made, and did not remove when it
    /// was killed.
    pub fn claim(
        cgroup2: &Path,
        choice: &Choice,
        shares: bool,
        predecessor: Option<u32>,
        before: Option<&Path>,
    ) -> Result<Option<Self>, String> {
        let current = current(cgroup2).map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        leftovers::sweep([current.as_path(), cgroup2]);
        let candidates = match choice {
            Choice::None => return Ok(None),
            Choice::Path(path) => vec![cgroup2.join(path)],
            Choice::Auto => {
                if shares && let Some(cgroup) = shared(cgroup2, predecessor) {
                    return Ok(Some(Self { cgroup, moved: None }));
                }
                if let Some(cgroup) = container(&current, cgroup2) {
                    return Ok(Some(Self { cgroup, moved: None }));
                }
                if alone(&current, cgroup2, predecessor) {
                    return open(&current).map(|cgroup| Some(Self { cgroup, moved: None }));
                }
                let own = format!("{DAEMON}-{}", std::process::id());
                // A cgroup with processes and controllers for its children
                // takes no children with processes; then below the root.
                [&current, cgroup2]
                    .into_iter()
                    .flat_map(|above| [above.join(DAEMON), above.join(&own)])
                    .collect()
            }
        };
        let mut problems = Vec::new();
        for path in candidates {
            match enter(&path, matches!(choice, Choice::Path(_)), predecessor) {
                Ok(made) => {
                    let made = made || before == Some(path.as_path());
                    let moved = Some((current, made));
                    return open(&path).map(|cgroup| Some(Self { cgroup, moved }));
                }
                Err(error) => problems.push(format!("{}: {error}", path.display())),
            }
        }
        Err(problems.join("; "))
    }

    /// The cgroup, when it is to be removed with the daemon.
    pub fn made(&self) -> Option<&Path> {
        self.moved.as_ref().filter(|(_, made)| *made).map(|_| &*self.cgroup.path)
    }
}

/// Goes back to where the daemon came from, and removes the cgroup if it was made for
/// it.
impl Drop for Leaf {
    fn drop(&mut self) {
        let Some((from, made)) = &self.moved else {
            let _ = fs::remove_dir(self.cgroup.path.join(RELAY));
            return;
        };
        let gone = fs::write(from.join("cgroup.procs"), std::process::id().to_string());
        if gone.is_ok() && *made {
            let _ = remove(&self.cgroup.path);
        }
    }
}

/// The cgroup above this process's that is all ours: our slice, or the pod whose container
/// this is.
fn shared(cgroup2: &Path, predecessor: Option<u32>) -> Option<Cgroup> {
    let told = |error: String| tracing::warn!(%error, "the daemon shares no cgroup with its relay");
    let own = mounts::cgroup_of(cgroup2, "self").map_err(|error| told(error.to_string())).ok()?;
    let is_ours = |above: &&Path| {
        matches!(classify(above), Directory::Pod(_))
            || (above.ends_with(SLICE)
                && strangers(above).is_empty()
                && alone(&own, cgroup2, predecessor))
    };
    open(own.ancestors().skip(1).find(is_ours)?).map_err(told).ok()
}

/// What is in our slice and is not ours: nothing for any other cgroup.
pub fn strangers(slice: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(slice) else { return Vec::new() };
    let cgroups = entries.flatten().filter(|entry| entry.path().is_dir());
    let names = cgroups.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| slice.ends_with(SLICE) && !is_our_unit(name)).collect()
}

/// Whether that is the name of a cgroup of ours in our slice.
fn is_our_unit(name: &str) -> bool {
    let unit = name.strip_suffix(".service").unwrap_or(name);
    unit == "redirector" || unit == RELAY || unit.starts_with("redirector-relay@")
}

fn open(path: &Path) -> Result<Cgroup, String> {
    Cgroup::open(path).map_err(|error| error.to_string())
}

/// The cgroup of this process; the mount itself where a cgroup namespace of its
/// own hides it.
fn current(cgroup2: &Path) -> io::Result<PathBuf> {
    let shown = mounts::shown_cgroup("self")?;
    let path = shown.strip_prefix("/").unwrap_or(&shown);
    Ok(if path == Path::new("") { cgroup2.to_owned() } else { cgroup2.join(path) })
}

/// The cgroup of the container that this process has to itself: with a cgroup
/// namespace of its own, whose root it is. Its place in the hierarchy cannot be
/// told from inside, and is not needed.
fn container(current: &Path, cgroup2: &Path) -> Option<Cgroup> {
    if current != cgroup2 {
        return None;
    }
    let (path, id) = mounts::cgroup_namespace().ok()??;
    let own = std::process::id().to_string();
    let procs = fs::read_to_string(path.join("cgroup.procs")).ok()?;
    let alone = procs.lines().any(|pid| pid == own) && procs.lines().all(|pid| pid == own);
    alone.then_some(Cgroup { path, id, level: 0 })
}

/// Whether this process has the cgroup to itself.
fn alone(cgroup: &Path, cgroup2: &Path, predecessor: Option<u32>) -> bool {
    let Ok(procs) = fs::read_to_string(cgroup.join("cgroup.procs")) else { return false };
    let Ok(mut entries) = fs::read_dir(cgroup) else { return false };
    cgroup != cgroup2
        && procs.lines().all(|pid| is_daemon(pid, predecessor))
        && !entries.any(|entry| {
            entry.is_ok_and(|entry| entry.path().is_dir() && entry.file_name() != RELAY)
        })
}

/// Whether a process is this one, or the one that it follows.
fn is_daemon(pid: &str, predecessor: Option<u32>) -> bool {
    let pid = pid.parse().ok();
    pid == Some(std::process::id()) || (pid.is_some() && pid == predecessor)
}

/// Moves this process there; says whether it is to remove the cgroup at the end:
/// when it has made it, or a predecessor has.
fn enter(cgroup: &Path, named: bool, predecessor: Option<u32>) -> io::Result<bool> {
    let made = match fs::create_dir(cgroup) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    let own = std::process::id().to_string();
    let procs = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    let shared = procs.lines().any(|pid| pid != own);
    if let Some(pid) = procs.lines().find(|pid| !is_daemon(pid, predecessor)) {
        let what = if named { "another process" } else { "another daemon" };
        let what = format!("{what} is in it (process {pid})");
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
    }
    fs::write(cgroup.join("cgroup.procs"), &own).inspect_err(|_| {
        if made {
            let _ = fs::remove_dir(cgroup);
        }
    })?;
    Ok(made || shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_else_is_in_a_cgroup_is_named() {
        let cgroup = tempfile::tempdir().unwrap();
        std::fs::write(cgroup.path().join("cgroup.procs"), "1\n").unwrap();
        let why = |named| enter(cgroup.path(), named, None).unwrap_err().to_string();
        assert_eq!(why(true), "another process is in it (process 1)");
        assert_eq!(why(false), "another daemon is in it (process 1)");
    }

    #[test]
    fn the_flag_takes_a_word_or_a_path() {
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("none".parse(), Ok(Choice::None));
        assert_eq!("/system.slice/r".parse(), Ok(Choice::Path("system.slice/r".into())));
    }
}
