//! Asking for the TCP sockets of network namespaces: sock_diag(7).

use std::collections::BTreeSet;
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

/// Calls that in every network namespace that can be seen, until it says that it has
/// enough: `false`. To be called on a thread of its own, which is back in its namespace
/// afterwards.
///
/// # Errors
///
/// The first thing that went wrong, and what was done then; it has been called in the
/// other namespaces.
pub fn everywhere(mut each: impl FnMut() -> bool) -> Result<(), (String, io::Error)> {
    let home = Path::new("/proc/thread-self/ns/net");
    let home = File::open(home).map_err(|error| (home.display().to_string(), error))?;
    let mut failed = None;
    for path in namespaces() {
        match enter(&path) {
            Ok(true) if each() => {}
            Ok(true) => break,
            // It has gone meanwhile.
            Ok(false) => {}
            Err(error) => {
                let what = format!("entering the network namespace {}", path.display());
                failed.get_or_insert((what, error));
            }
        }
    }
    // A thread that stayed would keep a namespace alive.
    if let Err(error) = move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network)) {
        failed.get_or_insert(("returning from a network namespace".to_owned(), error.into()));
    }
    failed.map_or(Ok(()), Err)
}

/// Moves this thread into a network namespace; `false` when there is none.
fn enter(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)) {
        Ok(()) => Ok(true),
        // A file among the named ones that holds none.
        Err(rustix::io::Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A socket's cookie as the programs see it: sock_diag gives it as two words,
/// the lower one first.
pub fn cookie(id: &SocketId) -> u64 {
    let [a, b, c, d, e, f, g, h] = id.cookie;
    let (low, high) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
    u64::from(high) << 32 | u64::from(low)
}

/// `INET_DIAG_NOCOOKIE`: whichever socket it is.
const ANY: [u8; 8] = [0xff; 8];

/// A socket to sock_diag, in the namespace it was opened in.
pub struct Diag(Socket);

impl Diag {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Every TCP socket of a family that is connected to a port, or with 0 to any; with
    /// what TCP knows of it, if that is asked for.
    pub fn sockets(
        &self,
        family: u8,
        port: u16,
        all: bool,
        mut found: impl FnMut(InetResponse),
    ) -> io::Result<()> {
        let mut wanted = id(family);
        wanted.destination_port = port;
        // What listens has no peer, and what waits has no owner.
        let states = StateFlags::all()
            .difference(StateFlags::LISTEN | StateFlags::TIME_WAIT | StateFlags::CLOSE);
        let mut request = request(family, states, wanted);
        if all {
            request.extensions = ExtensionFlags::INFO;
        }
        self.send(NLM_F_DUMP, SockDiagMessage::InetRequest(request))?;
        self.receive(|message: SockDiagMessage| {
            if let SockDiagMessage::InetResponse(response) = message {
                found(*response);
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

    /// Resets the connection of a socket.
    pub fn destroy(&self, family: u8, id: SocketId) -> io::Result<()> {
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
