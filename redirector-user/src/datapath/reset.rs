//! Resetting connections: `SOCK_DESTROY` of sock_diag(7), in the network
//! namespace of each socket.
//!
//! The socket's owner gets ECONNABORTED, and the peer a RST. Needs a kernel with
//! CONFIG_INET_DIAG_DESTROY (4.5), CAP_NET_ADMIN in each namespace, and
//! CAP_SYS_ADMIN to enter it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where named network namespaces lie, of `ip netns` and of most CNI plugins.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Larger than any message of a dump.
const BUFFER: usize = 64 << 10;

/// Why connections could not be reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// The kernel was built without it.
    #[error(
        "this kernel cannot reset a connection from outside: it takes one with \
         CONFIG_INET_DIAG_DESTROY (and the module tcp_diag)"
    )]
    Kernel,
    /// The kernel refuses it to this process.
    #[error(
        "the kernel refused it to reset a connection: {0}. It takes CAP_NET_ADMIN, and \
         CAP_SYS_ADMIN for those in other network namespaces"
    )]
    Privilege(#[source] io::Error),
    /// The system refused something that it should not have.
    #[error("{0}: {1}")]
    System(String, #[source] io::Error),
}

impl ResetError {
    fn of(what: impl Into<String>, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege(error),
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => Self::Kernel,
            _ => Self::System(what.into(), error),
        }
    }
}

/// Sockets by cookie, and where the connection of each was sent.
pub type Connections = BTreeMap<u64, SocketAddr>;

/// The connections that are to be reset.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Those that are known.
    pub known: Connections,
    /// The endpoints that they were sent to.
    pub endpoints: BTreeSet<SocketAddr>,
    /// Sockets of which only the cookie is known: those of them that are connected to
    /// one of the endpoints.
    pub others: BTreeSet<u64>,
}

impl Wanted {
    /// Where this socket was sent, if it is one of them.
    fn endpoint(&self, socket: &SocketId) -> Option<SocketAddr> {
        let cookie = cookie(socket);
        if let Some(endpoint) = self.known.get(&cookie) {
            return Some(*endpoint);
        }
        // A v4-mapped address is an endpoint of IPv4.
        let ip = socket.destination_address.to_canonical();
        let peer = SocketAddr::new(ip, socket.destination_port);
        (self.others.contains(&cookie) && self.endpoints.contains(&peer)).then_some(peer)
    }
}

/// Resets connections. Returns those that were found and reset; the others are at
/// their end, or in a network namespace that /proc does not show.
///
/// Call it on a thread of its own: it goes from namespace to namespace.
///
/// # Errors
///
/// The first thing that went wrong; what could be reset is.
pub fn reset(wanted: &Wanted) -> Result<Connections, (Connections, ResetError)> {
    let mut done = Connections::new();
    let home = Path::new("/proc/thread-self/ns/net");
    let home = match File::open(home) {
        Ok(home) => home,
        Err(error) => return Err((done, ResetError::of(home.display().to_string(), error))),
    };
    let mut failed = None;
    for path in namespaces() {
        if wanted.others.is_empty() && done.len() == wanted.known.len() {
            break;
        }
        match enter(&path) {
            Ok(true) => {}
            // It has gone meanwhile.
            Ok(false) => continue,
            Err(error) => {
                failed.get_or_insert(error);
                continue;
            }
        }
        if let Err(error) = reset_here(wanted, &mut done) {
            failed.get_or_insert(error);
        }
    }
    // A thread that stayed would keep a namespace alive.
    if let Err(error) = move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network)) {
        failed.get_or_insert(ResetError::of("returning from a network namespace", error.into()));
    }
    match failed {
        Some(error) => Err((done, error)),
        None => Ok(done),
    }
}

/// Whether this kernel can do it: asked for a socket that cannot be.
///
/// # Errors
///
/// When it cannot be told.
pub(super) fn is_possible() -> io::Result<bool> {
    let diag = Diag::open()?;
    match diag.sockets(AF_INET, 1, |_| {}) {
        Ok(()) => {}
        // Nobody answers for TCP.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    match diag.destroy(AF_INET, SocketId::new_v4()) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(true),
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => Ok(false),
            _ => Err(error),
        },
    }
}

/// A file for each network namespace that can be seen.
fn namespaces() -> Vec<PathBuf> {
    let mut known = BTreeSet::new();
    let mut found = Vec::new();
    let mut add = |path: PathBuf| {
        if let Ok(meta) = fs::metadata(&path)
            && known.insert((meta.dev(), meta.ino()))
        {
            found.push(path);
        }
    };
    // Threads may be in other namespaces than their process.
    for process in entries(Path::new("/proc")) {
        for thread in entries(&process.join("task")) {
            add(thread.join("ns/net"));
        }
    }
    for directory in NAMED {
        entries(Path::new(directory)).for_each(&mut add);
    }
    found
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Moves this thread into a network namespace; `false` when there is none.
fn enter(path: &Path) -> Result<bool, ResetError> {
    let what = || format!("entering the network namespace {}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(ResetError::of(what(), error)),
    };
    match move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)) {
        Ok(()) => Ok(true),
        // A file among the named ones that holds none.
        Err(rustix::io::Errno::INVAL) => Ok(false),
        Err(error) => Err(ResetError::of(what(), error.into())),
    }
}

/// Resets those that are in this thread's namespace.
fn reset_here(wanted: &Wanted, done: &mut Connections) -> Result<(), ResetError> {
    let failed = |error: io::Error| match error.kind() {
        // Nobody answers for TCP.
        io::ErrorKind::NotFound => ResetError::Kernel,
        _ => ResetError::of("asking sock_diag", error),
    };
    let diag = Diag::open().map_err(failed)?;
    let ports: BTreeSet<u16> = wanted.endpoints.iter().map(SocketAddr::port).collect();
    let mut here = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for port in &ports {
            diag.sockets(family, *port, |id| {
                if let Some(endpoint) = wanted.endpoint(&id) {
                    here.push((family, id, endpoint));
                }
            })
            .map_err(failed)?;
        }
    }
    for (family, id, endpoint) in here {
        let cookie = cookie(&id);
        match diag.destroy(family, id) {
            Ok(()) => drop(done.insert(cookie, endpoint)),
            // It has come to its end meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ResetError::of("resetting a connection", error)),
        }
    }
    Ok(())
}

/// A socket's cookie as the programs see it: sock_diag gives it as two words,
/// the lower one first.
fn cookie(id: &SocketId) -> u64 {
    let [a, b, c, d, e, f, g, h] = id.cookie;
    let (low, high) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
    u64::from(high) << 32 | u64::from(low)
}

/// `INET_DIAG_NOCOOKIE`: whichever socket it is.
const ANY: [u8; 8] = [0xff; 8];

/// A socket to sock_diag, in the namespace it was opened in.
pub(super) struct Diag(Socket);

impl Diag {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Every TCP socket of a family that is connected to a port.
    fn sockets(&self, family: u8, port: u16, mut found: impl FnMut(SocketId)) -> io::Result<()> {
        let mut wanted = id(family);
        wanted.destination_port = port;
        // What listens has no peer, and what waits has no owner.
        let states = StateFlags::all()
            .difference(StateFlags::LISTEN | StateFlags::TIME_WAIT | StateFlags::CLOSE);
        let request = SockDiagMessage::InetRequest(request(family, states, wanted));
        self.send(NLM_F_DUMP, request)?;
        self.receive(|message: SockDiagMessage| {
            if let SockDiagMessage::InetResponse(response) = message {
                found(response.header.socket_id);
            }
        })
    }

    /// The socket with this address and peer, if there is one; `None` when it belongs to
    /// nobody any more.
    pub fn socket(&self, own: SocketAddr, peer: SocketAddr) -> io::Result<Option<InetResponse>> {
        let family = if own.is_ipv4() { AF_INET } else { AF_INET6 };
        let mut wanted = id(family);
        wanted.cookie = ANY;
        (wanted.source_address, wanted.source_port) = (own.ip(), own.port());
        (wanted.destination_address, wanted.destination_port) = (peer.ip(), peer.port());
        let message = SockDiagMessage::InetRequest(request(family, StateFlags::all(), wanted));
        self.send(NLM_F_ACK, message)?;
        let mut found = None;
        let received = self.receive(|message: SockDiagMessage| {
            if let SockDiagMessage::InetResponse(response) = message {
                found = Some(*response);
            }
        });
        match received {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // One that listens at that address is another.
            received => received
                .map(|()| found.filter(|one| one.header.socket_id.destination_port == peer.port())),
        }
    }

    fn destroy(&self, family: u8, id: SocketId) -> io::Result<()> {
        let request = request(family, StateFlags::all(), id);
        self.send(NLM_F_ACK, SockDiagDestroy::new(SockDiagMessage::InetRequest(request)))?;
        self.receive(|_: SockDiagMessage| {})
    }

    fn send<M>(&self, flags: u16, message: M) -> io::Result<()>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut packet = NetlinkMessage::new(header, message.into());
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        self.0.send(&buffer, 0).map(drop)
    }

    /// Reads the answer, up to its end.
    fn receive<M: NetlinkDeserializable>(&self, mut each: impl FnMut(M)) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            self.0.recv(&mut buffer, 0)?;
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let packet = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
                let length = (packet.header.length as usize).next_multiple_of(4);
                match packet.payload {
                    NetlinkPayload::InnerMessage(message) => each(message),
                    NetlinkPayload::Error(answer) if answer.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(answer) => return Err(answer.to_io()),
                    NetlinkPayload::Done(_) => return Ok(()),
                    _ => {}
                }
                rest = rest.get(length..).filter(|_| length > 0).unwrap_or_default();
            }
        }
    }
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    let extensions = ExtensionFlags::empty();
    InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id }
}

fn id(family: u8) -> SocketId {
    if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() }
}
