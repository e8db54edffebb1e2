//! Why something did not happen, and the exit code of the command that says so.

use std::process::ExitCode;

use crate::datapath;
use crate::state::StateError;

/// Exit codes: part of the command line's contract.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// 0: fine.
    Fine,
    /// 1: the answer is "no", or the input is bad.
    No,
    /// 2: the command was not understood.
    Usage,
    /// 3: a privilege or a kernel feature is missing.
    Unable,
    /// 4: nothing is loaded.
    NotLoaded,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::Unable => 3,
            Self::NotLoaded => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a command did not do what it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What is wrong; empty when nothing is to be said.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

impl Failure {
    /// A failure with nothing to be done about it beyond what the message says.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), help: None }
    }

    /// Bad input: exit code 1.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Exit::No, message)
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<datapath::Error> for Failure {
    fn from(error: datapath::Error) -> Self {
        use datapath::Error;
        let exit = match &error {
            Error::Privilege { .. }
            | Error::Hidden { .. }
            | Error::Kernel { .. }
            | Error::NoPrograms(_) => Exit::Unable,
            Error::NotLoaded { .. } => Exit::NotLoaded,
            Error::Busy { .. }
            | Error::Path { .. }
            | Error::Incompatible { .. }
            | Error::Capacity(_)
            | Error::System { .. }
            | Error::Library { .. }
            | Error::GracePeriod { .. } => Exit::No,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let denied = matches!(
            &error,
            StateError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied
        );
        let busy = matches!(error, StateError::Busy { .. });
        let failure = Self::new(if denied { Exit::Unable } else { Exit::No }, error.to_string());
        if busy {
            return failure.help(
                "stop it first, or give this one directories of its own with --state-dir and \
                 --bpffs",
            );
        }
        if denied {
            failure.help(
                "run it as root, or as a member of the group that `redirector run --read-group` \
                 names; or name another one with --state-dir",
            )
        } else {
            failure
        }
    }
}

/// Has the whole process end with whatever thread panics, and says what comes of that:
/// nobody would miss one thread, and the rest would look well without it.
pub fn end_with_any_panic(then: &'static str) {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        tracing::error!("{panic}; ending: {then}");
        std::process::abort();
    }));
}
