//! Which route a connection takes.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Once;

use redirector_core::model::SourceId;
use redirector_core::plan::gateway::{Incoming, KnownClient, first_match};
use rustix::io::Errno;

use super::config::ListenerSpec;
use super::descriptors::is_exhaustion;
use super::upstream::is_local;
use crate::datapath::{cgroup_of_socket, own_cookie};
use crate::identity::Locals;

/// What is known of a connection when it is decided.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who connects.
    pub client: SocketAddr,
    /// The address dialled.
    pub dialled: SocketAddr,
    /// The server name of the ClientHello, in lower case: only on listeners
    /// that read it, and only when the client sent one.
    pub sni: Option<&'a str>,
}

/// What happens to a connection at a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GatewayVerdict {
    /// It takes this route, by the rule at this place.
    Route {
        /// An index into [`Config::routes`](super::Config::routes).
        route: usize,
        /// An index into [`ListenerSpec::rules`].
        rule: usize,
    },
    /// No rule matches, or its traffic cannot be honoured: it is reset.
    Refuse,
}

/// Who knows which workload the processes of a cgroup are.
pub trait Whose: Send + Sync {
    /// The workload of the cgroup with this id, in this network namespace.
    fn of(&self, cgroup: u64) -> Option<SourceId>;
}

impl<W: Whose> Whose for std::sync::Arc<W> {
    fn of(&self, cgroup: u64) -> Option<SourceId> {
        (**self).of(cgroup)
    }
}

impl Whose for Locals {
    fn of(&self, cgroup: u64) -> Option<SourceId> {
        self.of(cgroup, own_cookie().ok())
    }
}

/// Decides for a connection to this listener.
pub fn decide(
    listener: &ListenerSpec,
    clients: &BTreeMap<IpAddr, KnownClient>,
    request: &Request<'_>,
    whose: &dyn Whose,
) -> GatewayVerdict {
    let client = request.client.ip().to_canonical();
    let known = client_of(clients, request, whose).unwrap_or_else(|error| nobody(&error));
    let incoming = Incoming {
        client: known.map(|known| known.as_client(&client)).unwrap_or_default(),
        sni: request.sni,
    };
    let rules = listener.rules.iter().map(|rule| &*rule.conditions);
    let dialled = listener.dialled.unwrap_or(request.dialled.ip());
    let met = first_match(rules, listener.port, dialled, &incoming);
    let taken = met.and_then(|rule| Some((rule, listener.rules.get(rule)?.route?)));
    taken.map_or(GatewayVerdict::Refuse, |(rule, route)| GatewayVerdict::Route { route, rule })
}

/// Whether something could not be done for want of descriptors or memory.
fn is_want(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| is_exhaustion(Errno::from_raw_os_error(code)))
}

/// Who cannot be told from others for a want is nobody to rules: by its address alone it could
/// be any workload.
fn nobody<'c>(error: &io::Error) -> Option<&'c KnownClient> {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        tracing::warn!(
            "who connects cannot be told at times, and no rule with conditions on clients is for \
             them then: {error}"
        );
    });
    None
}

/// The workload that connects, if it is a known one. A socket of this machine and
/// network namespace is known by its cgroup: it could have any address of this
/// namespace. All others are known by theirs.
///
/// # Errors
///
/// Where it cannot be told for want of descriptors or memory.
pub(super) fn client_of<'c>(
    clients: &'c BTreeMap<IpAddr, KnownClient>,
    request: &Request<'_>,
    whose: &dyn Whose,
) -> io::Result<Option<&'c KnownClient>> {
    if clients.is_empty() {
        return Ok(None);
    }
    // A dual-stack socket shows IPv4 clients in their mapped form.
    let address = request.client.ip().to_canonical();
    let here = match cgroup_of_socket(request.client, request.dialled) {
        Ok(here) => here,
        Err(error) if is_want(&error) => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "whose a socket of this machine is cannot be asked");
            None
        }
    };
    let Some(cgroup) = here else {
        // What is over already says nothing, wherever it came from.
        let is_ours = is_local(SocketAddr::new(address, 0))?;
        return Ok(if is_ours { None } else { clients.get(&address) });
    };
    let Some(source) = whose.of(cgroup) else { return Ok(None) };
    Ok(clients.values().find(|known| {
        known.workload.namespace == source.namespace && known.workload.name == source.name
    }))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use redirector_core::model::{Kind, Labels, ObjectRef};

    use super::*;

    struct Nobodys;

    impl Whose for Nobodys {
        fn of(&self, _: u64) -> Option<SourceId> {
            None
        }
    }

    #[test]
    fn whom_a_want_of_descriptors_hides_is_taken_for_no_workload_by_its_address() {
        let address: IpAddr = [192, 0, 2, 9].into();
        let workload = ObjectRef { kind: Kind::Pod, namespace: "shop".into(), name: "web".into() };
        let clients =
            BTreeMap::from([(address, KnownClient { workload, labels: Labels::default() })]);
        let client = SocketAddr::new(address, 40_000);
        let request = Request { client, dialled: ([192, 0, 2, 1], 443).into(), sni: None };
        let known = || client_of(&clients, &request, &Nobodys).map(|known| known.is_some());
        let looks = |is_asked_before: bool| {
            // SAFETY: from here on this thread has a table of descriptors of its own, and with
            // it what it opens.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
            if is_asked_before {
                assert!(known().unwrap(), "it is from elsewhere");
            }
            let full = std::iter::from_fn(|| rustix::io::dup(std::io::stdin()).ok());
            let full: Vec<OwnedFd> = full.collect();
            assert!(is_want(&known().unwrap_err()));
            drop(full);
            assert!(known().unwrap(), "once it can be asked");
        };
        for is_asked_before in [false, true] {
            std::thread::scope(|scope| scope.spawn(|| looks(is_asked_before)).join().unwrap());
        }
    }
}
