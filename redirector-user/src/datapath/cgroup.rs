//! Cgroups by path.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Error, depth};

/// Of `statfs(2)`.
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// The id of the root of the hierarchy.
const ROOT: u64 = 1;

/// A cgroup of the cgroup2 hierarchy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cgroup {
    /// Where it is, without symbolic links.
    pub path: PathBuf,
    /// Its id: the inode number of its directory.
    pub id: u64,
    /// How many levels below the root of the hierarchy.
    pub level: u32,
}

impl Cgroup {
    /// Looks it up; refuses what is not a directory of a cgroup2 hierarchy, and
    /// where only a part of that is mounted and this process is outside of it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::with_file(path).map(|(cgroup, _)| cgroup)
    }

    /// As [`open`](Self::open), with the directory held open.
    pub fn with_file(path: &Path) -> Result<(Self, File), Error> {
        let wrong = |problem: &str, help: &str| Error::Path {
            path: path.to_owned(),
            problem: problem.into(),
            help: help.into(),
        };
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => wrong(
                "there is no such cgroup",
                "Name the directory of a cgroup that exists, below the cgroup2 mount",
            ),
            _ => Error::from_io(format!("opening the cgroup {}", path.display()), error),
        })?;
        let reading =
            |error| Error::from_io(format!("reading the cgroup {}", path.display()), error);
        if super::pins::file_system(&file).map_err(reading)? != CGROUP2_SUPER_MAGIC {
            return Err(wrong(
                "this is not in a cgroup2 file system",
                "Name a directory below the cgroup2 mount: on most systems /sys/fs/cgroup, on \
                 those that also have version 1, /sys/fs/cgroup/unified; `mount -t cgroup2` \
                 shows it",
            ));
        }
        let meta = file.metadata().map_err(reading)?;
        if !meta.is_dir() {
            return Err(wrong(
                "this is a file of a cgroup, not a cgroup",
                "Name the directory of the cgroup",
            ));
        }
        let path =
            fs::canonicalize(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(reading)?;
        // Walk up to the root, whose id is always the same, or to that of a
        // cgroup namespace.
        let mut level = 0;
        let mut at = path.as_path();
        let mut meta_at = meta.clone();
        while meta_at.ino() != ROOT {
            let parent = at.parent().map(|parent| (parent, fs::metadata(parent)));
            match parent {
                Some((parent, Err(error))) => {
                    return Err(Error::from_io(format!("reading {}", parent.display()), error));
                }
                Some((parent, Ok(above))) if above.dev() == meta.dev() => {
                    (at, meta_at) = (parent, above);
                    level += 1;
                }
                _ => {
                    let level_of = depth::of_own_ancestor(meta_at.ino());
                    let Some(above) = level_of.map_err(reading)? else {
                        return Err(wrong(
                            "the cgroup2 mount that it lies in shows only a part of the hierarchy",
                            "Use a mount of the whole hierarchy, for example that of process 1: \
                             /proc/1/root/sys/fs/cgroup; a process below that part, with \
                             CAP_BPF and CAP_PERFMON, can tell where it lies",
                        ));
                    };
                    level += above;
                    break;
                }
            }
        }
        Ok((Self { path, id: meta.ino(), level }, file))
    }
}
