//! The sockets of the connections that are remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;

use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2,
    TCP_LAST_ACK, TCP_SYN_SENT,
};
use netlink_packet_sock_diag::inet::InetResponse;
use netlink_packet_sock_diag::inet::nlas::Nla;

use super::diag::{self, Diag, cookie};
use super::{Datapath, Error, Remembered, canonical};

/// A connection that is remembered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// The cookie of its socket.
    pub cookie: u64,
    /// What is remembered; nothing where another version remembers it, in a form that
    /// this one cannot read.
    pub remembered: Option<Remembered>,
    /// Its socket, where that is seen.
    pub socket: Option<Socket>,
}

/// A socket, as the kernel tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socket {
    /// Its own address; one of IPv4 is told as such, also of a socket of IPv6.
    pub own: SocketAddr,
    /// The address that it is connected to.
    pub peer: SocketAddr,
    /// The state of TCP.
    pub state: &'static str,
    /// Its number among the descriptors of processes.
    pub inode: u32,
    /// Bytes that the other side has acknowledged.
    pub sent: Option<u64>,
    /// Bytes received.
    pub received: Option<u64>,
}

/// `tcpi_bytes_acked` in `struct tcp_info`; `tcpi_bytes_received` follows. Minimum kernel:
/// 4.1.
const BYTES_ACKED: usize = 120;

impl Socket {
    fn new(response: &InetResponse) -> Self {
        let header = &response.header;
        let id = &header.socket_id;
        let info = response.nlas.iter().find_map(|attribute| match attribute {
            Nla::TcpInfo(info) => Some(info),
            _ => None,
        });
        let word = |at: usize| {
            let bytes = info?.get(at..at + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        Self {
            own: canonical(SocketAddr::new(id.source_address, id.source_port)),
            peer: canonical(SocketAddr::new(id.destination_address, id.destination_port)),
            state: state_name(header.state),
            inode: header.inode,
            // The handshake counts as a byte.
            sent: word(BYTES_ACKED).map(|bytes| bytes.saturating_sub(1)),
            received: word(BYTES_ACKED + 8),
        }
    }
}

fn state_name(state: u8) -> &'static str {
    match state {
        TCP_ESTABLISHED => "established",
        TCP_SYN_SENT => "connecting",
        TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_CLOSING | TCP_LAST_ACK => "closing",
        TCP_CLOSE_WAIT => "half-closed",
        _ => "unknown",
    }
}

/// The sockets with these cookies, of every network namespace that can be seen, and what
/// kept others from being seen. To be called on a thread of its own.
fn find(cookies: &BTreeSet<u64>) -> (BTreeMap<u64, Socket>, Option<String>) {
    let mut found = BTreeMap::new();
    let mut failed = None;
    let mut here = || {
        let mut ask = || -> io::Result<()> {
            let diag = Diag::open()?;
            for family in [AF_INET, AF_INET6] {
                diag.sockets(family, 0, true, |response| {
                    let cookie = cookie(&response.header.socket_id);
                    if cookies.contains(&cookie) {
                        found.insert(cookie, Socket::new(&response));
                    }
                })?;
            }
            Ok(())
        };
        if let Err(error) = ask() {
            failed.get_or_insert(format!("asking sock_diag: {error}"));
        }
        found.len() < cookies.len()
    };
    // Those of this process can be asked for without privilege.
    let entered = if here() { diag::everywhere(here) } else { Ok(()) };
    let entered = entered.err().map(|(what, error)| format!("{what}: {error}"));
    (found, failed.or(entered))
}

impl Datapath {
    /// All connections that are remembered, with their sockets; and why some of these may
    /// not be seen.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn open_connections(&self) -> Result<(Vec<Open>, Option<String>), Error> {
        let known = self.connections()?;
        let mut cookies = self.cookies_of_others()?;
        let others = cookies.clone();
        cookies.extend(known.iter().map(|one| one.cookie));
        if cookies.is_empty() {
            return Ok((Vec::new(), None));
        }
        // It goes from namespace to namespace.
        let found = std::thread::scope(|scope| scope.spawn(|| find(&cookies)).join());
        let (mut sockets, unseen) = found.map_err(|_| Error::Library {
            what: "looking for sockets".into(),
            problem: "the thread that looks has panicked".into(),
        })?;
        let mut open: Vec<Open> = known
            .into_iter()
            .map(|one| {
                let socket = sockets.remove(&one.cookie);
                Open { cookie: one.cookie, remembered: Some(one), socket }
            })
            .collect();
        open.extend(others.into_iter().filter_map(|cookie| {
            let socket = sockets.remove(&cookie)?;
            Some(Open { cookie, remembered: None, socket: Some(socket) })
        }));
        Ok((open, unseen))
    }
}
