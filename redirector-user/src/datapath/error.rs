//! What can go wrong between the daemon and the kernel.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::readers::Readers;

/// What happened, what was expected, and how to mend it.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel refuses the call to this process.
    #[error(
        "{what}: the kernel refused it: {source}. Loading and attaching need CAP_BPF, \
         CAP_NET_ADMIN and CAP_PERFMON (or CAP_SYS_ADMIN): run as root, or give the process these \
         capabilities"
    )]
    Privilege {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel lacks something.
    #[error("{what}: {missing}. {help}")]
    Kernel {
        /// What was tried.
        what: String,
        /// What is missing, with the version that has it.
        missing: String,
        /// How to mend it.
        help: String,
    },
    /// This build carries no programs.
    #[error(
        "this build of redirector carries no BPF programs, because none could be built when it \
         was compiled: {0}. Build it again after `cargo xtask setup`, which says what to install"
    )]
    NoPrograms(String),
    /// Nothing is loaded below the pin directory.
    #[error(
        "nothing is loaded: {} holds no redirector tables. Start `redirector run`, or name the \
         directory it was started with", pins.display()
    )]
    NotLoaded {
        /// The pin directory.
        pins: PathBuf,
    },
    /// This user may not look there.
    #[error(
        "{} may not be looked into by this user ({source}), so that it cannot be said what is \
         loaded. Run it as root{}", pins.display(), others(readers.as_deref())
    )]
    Hidden {
        /// The pin directory, what is in it, or a directory above it.
        pins: PathBuf,
        /// The name of the group that may look there, if one may.
        readers: Option<String>,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Another process writes.
    #[error(
        "another redirector is in charge of {}: {holder}. Stop it first, or give this one a pin \
         directory of its own", pins.display()
    )]
    Busy {
        /// The pin directory.
        pins: PathBuf,
        /// The process, as far as it can be named.
        holder: String,
    },
    /// A path that was given is not what it has to be.
    #[error("{}: {problem}. {help}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// How to mend it.
        help: String,
    },
    /// The pins are not what this version makes.
    #[error(
        "the pinned maps in {} do not fit this version of redirector: {}. Remove them with \
         `redirector unload` of the version that made them", pins.display(), differences.join("; ")
    )]
    Incompatible {
        /// The directory of the tables.
        pins: PathBuf,
        /// Every difference.
        differences: Vec<String>,
    },
    /// The configuration is larger than the tables. Nothing was changed.
    #[error("the configuration does not fit the kernel tables, nothing was changed: {}", .0.join("; "))]
    Capacity(Vec<String>),
    /// The system refused something that it should not have.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The library refused something that it should not have.
    #[error("{what}: {problem}")]
    Library {
        /// What was tried.
        what: String,
        /// The library's answer, with its causes.
        problem: String,
    },
    /// A program has not left its lookups yet.
    #[error(
        "a program on CPU {cpu} still reads the tables of before the last change after {waited:?}, \
         as its task does not get to run; they are left as they are, and nothing more is changed, \
         until it has"
    )]
    GracePeriod {
        /// The CPU.
        cpu: usize,
        /// How long was waited.
        waited: std::time::Duration,
    },
}

/// Who may look beside root.
pub(crate) fn others(readers: Option<&str>) -> String {
    match readers {
        Some(group) => format!(
            ", or as a member of the group {group} (usermod --append --groups {group} USER, which \
             counts from the next login on)"
        ),
        None => ", or let a group look: `redirector run --read-group GROUP`".to_owned(),
    }
}

/// Whether an error says that a file is not there, rather than that it cannot be told.
pub(crate) fn says_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl Error {
    /// Whether what was to be opened is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::System { source, .. } if says_gone(source))
    }

    /// What this user may not look at.
    pub(crate) fn hidden(path: &Path, source: io::Error) -> Self {
        // Of a directory that cannot be reached only those above it are known; what has a
        // group there otherwise is somebody else's.
        let above = || path.ancestors().skip(1).find_map(Readers::let_pass);
        let readers = Readers::of(path).or_else(above).map(Readers::name);
        Self::Hidden { pins: path.to_owned(), readers, source }
    }

    /// From a system call that may have failed for want of privilege.
    pub(crate) fn from_io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege { what, source },
            Some(libc::ENOSYS) => Self::Kernel {
                what,
                missing: "this kernel has no bpf(2) system call".into(),
                help: "It takes a kernel of at least 6.1 with CONFIG_BPF_SYSCALL and \
                       CONFIG_CGROUP_BPF"
                    .into(),
            },
            _ => Self::System { what, source },
        }
    }

    /// From an error of a library, which may hide a system call's error.
    pub(crate) fn from_library(
        what: impl Into<String>,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        let what = what.into();
        let mut problem = error.to_string();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>()
                // EACCES is also what the verifier says.
                && let Some(code @ (libc::EPERM | libc::ENOSYS)) = io.raw_os_error()
            {
                return Self::from_io(what, io::Error::from_raw_os_error(code));
            }
            cause = error.source();
            if let Some(error) = cause {
                let text = error.to_string();
                if !problem.contains(&text) {
                    problem.push_str(": ");
                    problem.push_str(&text);
                }
            }
        }
        Self::Library { what, problem }
    }
}
