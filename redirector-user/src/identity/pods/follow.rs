//! Says at once when a pod's cgroup comes or goes.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::{PodCgroups, PodEvent};
use crate::again::Again;
use crate::following::{Following, Waited, following};
use crate::scheduling::hurry;

/// Everything is read again at this interval, in case that events are lost.
const ROUND: Duration = Duration::from_secs(30);

/// The first time until then after a failure: what was told with it may be lost.
const REST: Duration = Duration::from_secs(1);

/// Follows the cgroups in a thread of its own, which ends when the result is dropped. First
/// comes what is there now; `send` is also told when it was seen, unless it may have been
/// there for long, and returns `false` to end the thread.
///
/// # Errors
///
/// When they cannot be read now; later that is said in the log, and tried again.
pub fn follow(
    mut pods: PodCgroups,
    mut send: impl FnMut(Vec<PodEvent>, Option<Instant>) -> bool + Send + 'static,
) -> io::Result<Following> {
    let (following, wanted) = following()?;
    let mut events = Vec::new();
    pods.rescan(&mut events)?;
    thread::Builder::new().name("pods".into()).spawn(move || {
        hurry();
        let (mut seen, mut looked) = (None, Instant::now());
        let mut again = Again::between(REST, ROUND);
        loop {
            if !events.is_empty() && !send(std::mem::take(&mut events), seen) {
                return;
            }
            let next = again.next().unwrap_or(looked + ROUND);
            let left = next.saturating_duration_since(Instant::now());
            let waited = wanted.wait(&pods, Some(left));
            let now = Instant::now();
            let all = now >= next;
            seen = Some(now).filter(|_| !all);
            let result = match waited {
                Ok(Waited::Unwanted) => return,
                Ok(_) if all => pods.rescan(&mut events),
                Ok(_) => pods.read(&mut events),
                Err(error) => {
                    thread::sleep(REST);
                    Err(error)
                }
            };
            match result {
                Ok(()) if all => {
                    looked = now;
                    again.over();
                }
                Ok(()) => {}
                Err(error) => {
                    tracing::error!("the cgroups of pods: {error}");
                    if all || again.next().is_none() {
                        again.failed();
                    }
                }
            }
        }
    })?;
    Ok(following)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_follows_pods_that_nobody_wants() {
        let mount = tempfile::tempdir().unwrap();
        let root = mount.path().join("kubepods");
        std::fs::create_dir_all(root.join("poda")).unwrap();
        let pods = PodCgroups::new(mount.path(), 0, &[root]).unwrap();
        let (told, events) = std::sync::mpsc::channel();
        let following = follow(pods, move |events, _| told.send(events).is_ok()).unwrap();
        assert_eq!(events.recv().unwrap().len(), 1, "what is there now");
        drop(following);
        crate::following::assert_ends(&events);
    }
}
