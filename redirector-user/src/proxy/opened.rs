//! The listening sockets: opened by the daemon, which keeps a copy of each, and passed
//! to the relay. What cannot be bound is tried again.
//!
//! Each worker has a socket of its own for each address (`SO_REUSEPORT`): the
//! kernel spreads connections over them, and no worker wakes for another's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt,
};

use super::config::{Keepalive, ListenerSpec};
use super::listener::{dialled, urgent_in_place};
use super::message::{ListenerState, Status};
use super::upstream::keep_alive;
use crate::again::Again;

/// Length of the accept queue asked for; `net.core.somaxconn` bounds it.
pub(super) const BACKLOG: i32 = 4096;

/// How long a client is idle before it is asked whether it is still there. Load balancers
/// of clouds forget a connection after 350 s or more.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// When it is tried again to bind, or to pass on.
pub(super) const AGAIN: Again = Again::between(Duration::from_millis(100), Duration::from_secs(10));

/// An address of the configuration.
enum Bound {
    Listening(Vec<OwnedFd>),
    Failed { error: String, tries: u32, again: Again },
}

/// The addresses of the configuration.
pub(super) struct Opened {
    bound: HashMap<SocketAddr, Bound>,
    /// How many sockets an address has.
    workers: usize,
    /// Listening sockets of a predecessor, until the first configuration has
    /// taken those that it wants.
    inherited: HashMap<SocketAddr, Vec<OwnedFd>>,
}

impl Opened {
    /// None yet. `inherited` are listening sockets of a predecessor.
    pub fn new(workers: usize, inherited: Vec<OwnedFd>) -> Self {
        Self { bound: HashMap::new(), workers, inherited: by_address(inherited) }
    }

    /// Those that the relay accepts from already.
    pub fn of_relay(workers: usize, sockets: Vec<OwnedFd>) -> Self {
        let bound = by_address(sockets).into_iter();
        let bound = bound.map(|(address, sockets)| (address, Bound::Listening(sockets)));
        Self { bound: bound.collect(), workers, inherited: HashMap::new() }
    }

    /// Closes what is not wanted any more.
    pub fn close_others(&mut self, wanted: &[SocketAddr]) {
        self.bound.retain(|address, _| wanted.contains(address));
    }

    /// Opens what is wanted and not there; gives the addresses that are listened on now.
    pub fn open(&mut self, wanted: &[SocketAddr]) -> Vec<SocketAddr> {
        let new: Vec<_> = wanted.iter().filter(|at| !self.bound.contains_key(at)).collect();
        let listening = new.into_iter().filter(|at| self.listen(**at, 0, AGAIN)).copied();
        let listening = listening.collect();
        self.inherited.clear();
        listening
    }

    /// Has the kernel ask clients whether they are still there, as their Gateways want it.
    /// Connections have it from the socket that they are accepted from.
    pub fn keep_alive(&self, listeners: &[ListenerSpec]) {
        for listener in listeners {
            let Some(Bound::Listening(sockets)) = self.bound.get(&listener.address) else {
                continue;
            };
            let idle = listener
                .accepting
                .keepalive
                .map_or(KEEPALIVE, |seconds| Duration::from_secs(u64::from(seconds)));
            for socket in sockets {
                let set = match idle.is_zero() {
                    true => sockopt::set_socket_keepalive(socket, false),
                    false => {
                        keep_alive(socket, &Keepalive { time: Some(idle), ..Keepalive::default() })
                    }
                };
                if let Err(error) = set {
                    tracing::warn!(address = %listener.address, %error, "no keepalive");
                }
            }
        }
    }

    /// When to try again what could not be bound.
    pub fn next_try(&self) -> Option<Instant> {
        let next = |bound: &Bound| match bound {
            Bound::Listening(_) => None,
            Bound::Failed { again, .. } => again.next(),
        };
        self.bound.values().filter_map(next).min()
    }

    /// Tries again what is due; gives the addresses that are listened on now.
    pub fn try_again(&mut self) -> Vec<SocketAddr> {
        let due = self.bound.iter().filter_map(|(address, bound)| match bound {
            Bound::Failed { tries, again, .. } if again.until() == Some(Duration::ZERO) => {
                Some((*address, *tries, *again))
            }
            _ => None,
        });
        let mut due: Vec<_> = due.collect();
        due.retain(|(address, tries, again)| self.listen(*address, *tries, *again));
        due.into_iter()
            .map(|(address, ..)| {
                tracing::info!(%address, "listens at last");
                address
            })
            .collect()
    }

    /// Copies of all sockets of these addresses.
    ///
    /// # Errors
    ///
    /// When descriptors have run out.
    pub fn copies(&self, of: &[SocketAddr]) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let sockets = of.iter().flat_map(|address| match self.bound.get(address) {
            Some(Bound::Listening(sockets)) => sockets.iter().map(|s| (*address, s)).collect(),
            _ => Vec::new(),
        });
        sockets
            .map(|(address, socket)| Ok((address, io::fcntl_dupfd_cloexec(socket, 0)?)))
            .collect()
    }

    /// All addresses that are listened on.
    pub fn listening(&self) -> Vec<SocketAddr> {
        let all = self.bound.iter().filter(|(_, bound)| matches!(bound, Bound::Listening(_)));
        all.map(|(address, _)| *address).collect()
    }

    /// Says of what could not be bound why.
    pub fn note_failed(&self, status: &mut Status) {
        for listener in &mut status.listeners {
            if let Some(Bound::Failed { error, tries, .. }) = self.bound.get(&listener.address)
                && listener.state == ListenerState::Listening
            {
                listener.state = ListenerState::Failed { error: error.clone(), tries: *tries };
            }
        }
    }

    /// Binds an address, or notes when to try again; says whether it listens.
    fn listen(&mut self, address: SocketAddr, tries: u32, mut again: Again) -> bool {
        let state = match self.sockets(address) {
            Ok(sockets) => Bound::Listening(sockets),
            Err(error) => {
                let error = std::io::Error::from(error).to_string();
                if tries == 0 {
                    tracing::warn!(%address, error, "cannot listen; will try again");
                }
                again.failed();
                Bound::Failed { error, tries: tries + 1, again }
            }
        };
        let listens = matches!(state, Bound::Listening(_));
        self.bound.insert(address, state);
        listens
    }

    /// The listening sockets of an address: those of a predecessor, in whose
    /// queues clients may wait, and new ones for the workers that have none.
    fn sockets(&mut self, address: SocketAddr) -> io::Result<Vec<OwnedFd>> {
        let mut sockets = self.inherited.remove(&address).unwrap_or_default();
        // An earlier version may have made them.
        sockets.iter().try_for_each(urgent_in_place)?;
        sockets.extend(bind_all(address, sockets.len(), self.workers)?);
        Ok(sockets)
    }
}

fn by_address(sockets: Vec<OwnedFd>) -> HashMap<SocketAddr, Vec<OwnedFd>> {
    let mut by_address: HashMap<SocketAddr, Vec<OwnedFd>> = HashMap::new();
    for socket in sockets {
        if let Ok(address) = dialled(&socket) {
            by_address.entry(address).or_default().push(socket);
        }
    }
    by_address
}

/// Binds one socket for each of `workers`, of whom some `have` one already.
///
/// # Errors
///
/// The kernel's, as they come: address in use, not on this machine, or a port
/// that needs `CAP_NET_BIND_SERVICE`.
fn bind_all(address: SocketAddr, have: usize, workers: usize) -> io::Result<Vec<OwnedFd>> {
    (have..workers).map(|number| bind_one(address, number > 0)).collect()
}

/// `shared` says that a socket of ours has the address already. The first one
/// is bound without `SO_REUSEPORT`: with it, another program of the same user
/// that sets it too would get a part of the connections, and nobody an error.
fn bind_one(address: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // Not to wait for connections of a former process in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Accepted sockets inherit it, which saves a system call for each.
    sockopt::set_tcp_nodelay(&socket, true)?;
    urgent_in_place(&socket)?;
    bind(&socket, &address)?;
    if !shared {
        // It counts from listening on.
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    listen(&socket, BACKLOG)?;
    Ok(socket)
}
