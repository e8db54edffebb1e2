//! Resolves the names that ServiceEntries leave to DNS, with whatever the
//! machine uses, in a thread of its own: again and again, since answers change.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

/// The addresses of each name, in the resolver's order.
pub type Answers = BTreeMap<Arc<str>, Vec<IpAddr>>;

/// What became of the names that are wanted.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Those that have addresses.
    pub answers: Answers,
    /// The others: why not.
    pub failed: BTreeMap<Arc<str>, String>,
}

/// The thread that resolves.
#[derive(Debug)]
pub struct Resolver {
    names: Sender<BTreeSet<Arc<str>>>,
    asked: BTreeSet<Arc<str>>,
}

impl Resolver {
    /// Starts it; `send` gets the answers that are there, and returns `false`
    /// to end it.
    pub fn start(
        again: Duration,
        mut send: impl FnMut(Resolved) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let (names, wanted) = mpsc::channel::<BTreeSet<Arc<str>>>();
        thread::Builder::new().name("names".into()).spawn(move || {
            let mut names = BTreeSet::new();
            loop {
                match wanted.recv_timeout(again) {
                    Ok(latest) => names = wanted.try_iter().last().unwrap_or(latest),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
                if !send(resolve(&names)) {
                    return;
                }
            }
        })?;
        Ok(Self { names, asked: BTreeSet::new() })
    }

    /// Says which names are wanted from now on.
    pub fn want(&mut self, names: &BTreeSet<Arc<str>>) {
        if *names != self.asked {
            self.asked.clone_from(names);
            // The thread lives as long as the control loop.
            let _ = self.names.send(names.clone());
        }
    }
}

/// Asks for the addresses of names, one after the other.
pub fn resolve(names: &BTreeSet<Arc<str>>) -> Resolved {
    let mut resolved = Resolved::default();
    for name in names {
        match (&**name, 0).to_socket_addrs() {
            Ok(found) => {
                let mut addresses: Vec<IpAddr> = Vec::new();
                for address in found.map(|socket| socket.ip()) {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                resolved.answers.insert(name.clone(), addresses);
            }
            Err(error) => {
                resolved.failed.insert(name.clone(), error.to_string());
            }
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_resolved_when_wanted() {
        let (sender, receiver) = mpsc::channel();
        let mut resolver =
            Resolver::start(Duration::from_secs(3600), move |answers| sender.send(answers).is_ok())
                .unwrap();
        resolver.want(&BTreeSet::from(["no..such".into(), "127.0.0.9".into()]));
        let resolved = receiver.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(resolved.answers["127.0.0.9"], ["127.0.0.9".parse::<IpAddr>().unwrap()]);
        assert!(resolved.failed["no..such"].len() > 3, "{resolved:?}");
    }
}
