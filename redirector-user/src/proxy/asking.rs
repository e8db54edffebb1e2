//! Whose a client's cgroup is: the daemon knows, and what it has said is remembered.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redirector_core::model::SourceId;

use super::decide::Whose;
use super::frame;
use super::message::Who;

/// Longest wait for an answer: connections of other clients wait with this one.
const PATIENCE: Duration = Duration::from_millis(300);

/// Most answers that are remembered.
const MOST: usize = 4096;

/// Asks the daemon. While there is none, or it does not answer, who is not remembered
/// is nobody that is known.
#[derive(Default)]
pub(super) struct Asking(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    daemon: Option<UnixStream>,
    /// No process that has a socket moves.
    known: HashMap<u64, Option<SourceId>>,
}

impl Asking {
    /// This daemon is asked from now on; it may know better than the one before.
    pub fn ask(&self, daemon: UnixStream) {
        *self.lock() = Inner { daemon: Some(daemon), known: HashMap::new() };
    }

    /// Workloads have come or gone.
    pub fn forget(&self) {
        self.lock().known.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Whose for Asking {
    fn of(&self, cgroup: u64) -> Option<SourceId> {
        let mut inner = self.lock();
        if let Some(known) = inner.known.get(&cgroup) {
            return known.clone();
        }
        match inner.daemon.as_ref().map(|daemon| question(daemon, cgroup))? {
            Ok(found) => {
                if inner.known.len() >= MOST {
                    inner.known.clear();
                }
                inner.known.insert(cgroup, found.clone());
                found
            }
            Err(error) => {
                // A later answer would be taken for that to another question. The
                // daemon notices, and comes again when it can.
                inner.daemon = None;
                tracing::warn!(%error, "the daemon does not say whose a cgroup is");
                None
            }
        }
    }
}

fn question(daemon: &UnixStream, cgroup: u64) -> io::Result<Option<SourceId>> {
    frame::send(daemon, &Who { cgroup }, &[], PATIENCE)?;
    Ok(frame::receive(daemon, PATIENCE)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn what_the_daemon_says_is_remembered_until_it_may_have_changed_and_silence_is_nobody() {
        let asking = Asking::default();
        assert_eq!(asking.of(7), None, "there is no daemon");
        let (daemon, relay) = UnixStream::pair().unwrap();
        asking.ask(relay);
        let answers = thread::spawn(move || {
            for name in ["one", "two"] {
                let (who, _) = frame::receive::<Who>(&daemon, SOON).unwrap();
                assert_eq!(who.cgroup, 7);
                let source = SourceId { namespace: "n".into(), name: name.into() };
                frame::send(&daemon, &Some(source), &[], SOON).unwrap();
            }
            daemon
        });
        let name = || asking.of(7).map(|source| source.name.to_string());
        assert_eq!(name().as_deref(), Some("one"));
        assert_eq!(name().as_deref(), Some("one"));
        asking.forget();
        assert_eq!(name().as_deref(), Some("two"));
        let silent = answers.join().unwrap();
        assert_eq!(asking.of(8), None);
        assert_eq!(frame::receive::<Who>(&silent, SOON).unwrap().0.cgroup, 8);
        assert!(frame::receive::<Who>(&silent, SOON).is_err(), "it is not asked again");
        assert_eq!(asking.of(8), None);
        assert_eq!(name().as_deref(), Some("two"), "what is known stays");
    }
}
