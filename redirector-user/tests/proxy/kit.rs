//! Gateways, backends and clients for the tests. Ports are the kernel's choice
//! and held by a socket of the test, so that tests run beside one another.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redirector::identity::Locals;
use redirector::proxy::{
    Config, DestinationSpec, ListenerSpec, Proxy, RouteSpec, RuleSpec, Settings, Status,
};
use redirector_core::model::Accepting;
use redirector_core::plan::Algorithm;
use rustix::net::{AddressFamily, SocketType, bind, getpeername, getsockname, socket, sockopt};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getrlimit, pidfd_getfd, pidfd_open,
    setrlimit,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Longest wait for anything that must happen.
pub const SOON: Duration = Duration::from_secs(20);

/// A port that stays this test's until it is dropped, and that the proxy can
/// listen on meanwhile.
pub struct Reserved {
    pub address: SocketAddr,
    _socket: OwnedFd,
}

/// Reserves a port of `ip`.
pub fn reserve_on(ip: IpAddr) -> Reserved {
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None).expect("a socket");
    sockopt::set_socket_reuseaddr(&socket, true).expect("SO_REUSEADDR");
    sockopt::set_socket_reuseport(&socket, true).expect("SO_REUSEPORT");
    if ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).expect("IPV6_V6ONLY");
    }
    bind(&socket, &SocketAddr::new(ip, 0)).expect("a free port");
    let address = getsockname(&socket).expect("its address").try_into().expect("an IP address");
    Reserved { address, _socket: socket }
}

/// Reserves a port of 127.0.0.1.
pub fn reserve() -> Reserved {
    reserve_on(Ipv4Addr::LOCALHOST.into())
}

/// A rule with this match block, as it is stored, that leads to this route.
pub fn rule(block: serde_json::Value, route: Option<usize>) -> RuleSpec {
    let conditions = vec![serde_json::from_value(block).expect("a match block")];
    RuleSpec { conditions, route, announced: false }
}

/// A rule for every connection.
pub fn always(route: usize) -> RuleSpec {
    RuleSpec { route: Some(route), ..RuleSpec::default() }
}

/// A configuration under construction.
pub struct Setup(pub Config);

impl Setup {
    /// Listeners on these addresses, each with a route of its own index.
    pub fn new(listeners: &[SocketAddr]) -> Self {
        Self(Config {
            listeners: listeners
                .iter()
                .enumerate()
                .map(|(number, &address)| ListenerSpec {
                    address,
                    name: "default/gateway".into(),
                    sni: false,
                    accepting: Accepting::default(),
                    port: address.port(),
                    dialled: None,
                    rules: vec![always(number)],
                })
                .collect(),
            ..Config::default()
        })
    }

    /// One listener with one route to these endpoints.
    pub fn to(listener: SocketAddr, endpoints: &[SocketAddr]) -> Self {
        Self::new(&[listener]).route(&[(endpoints, 1)])
    }

    /// Adds a route with a destination for each set of endpoints.
    pub fn route(mut self, legs: &[(&[SocketAddr], u64)]) -> Self {
        let number = self.0.routes.len();
        let mut places = Vec::new();
        for (endpoints, weight) in legs {
            places.push((self.0.destinations.len(), *weight));
            self.0.destinations.push(DestinationSpec {
                name: format!("destination-{}", self.0.destinations.len()).as_str().into(),
                algorithm: Algorithm::Random,
                endpoints: endpoints.iter().map(|&endpoint| (endpoint, 1)).collect(),
                connect_timeout: Duration::from_secs(10),
                keepalive: None,
                max_connections: None,
                announced: None,
            });
        }
        self.0.routes.push(RouteSpec {
            name: format!("route-{number}").into(),
            legs: places,
            idle_timeout: None,
            max_duration: None,
        });
        self
    }

    /// All listeners have this rule.
    pub fn rule(mut self, rule: RuleSpec) -> Self {
        for listener in &mut self.0.listeners {
            listener.rules = vec![rule.clone()];
        }
        self
    }

    /// Changes something else.
    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.0);
        self
    }

    /// Starts a proxy with two workers.
    pub fn start(self) -> Proxy {
        self.start_with(Duration::from_millis(200))
    }

    /// Starts a proxy with two workers that drains for this long.
    pub fn start_with(self, drain: Duration) -> Proxy {
        self.start_knowing(drain, &Locals::default())
    }

    /// As [`start_with`](Self::start_with), where these workloads are.
    pub fn start_knowing(self, drain: Duration, locals: &Locals) -> Proxy {
        self.start_as(locals, |settings| settings.drain = drain)
    }

    /// As [`start_knowing`](Self::start_knowing), with settings that are changed.
    pub fn start_as(self, locals: &Locals, change: impl FnOnce(&mut Settings)) -> Proxy {
        let workers = NonZero::new(2).expect("two");
        let hello_timeout = Duration::from_millis(600);
        let program = env!("CARGO_BIN_EXE_redirector").into();
        let mut settings = Settings { workers, hello_timeout, program, ..Settings::default() };
        change(&mut settings);
        let proxy = Proxy::start(settings, Arc::new(locals.clone()), Vec::new()).expect("a proxy");
        proxy.update(self.0).expect("the configuration in force");
        proxy
    }
}

/// A backend that serves each connection in a thread, until it is dropped.
pub struct Backend {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Backend {
    /// Serves each connection with `serve`.
    pub fn new(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::on(IpAddr::from([127, 0, 0, 1]), serve)
    }

    /// The same on another address.
    pub fn on(ip: IpAddr, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("a backend");
        let address = listener.local_addr().expect("its address");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, serve) = (Arc::clone(&stop), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream));
            }
        });
        Self { address, stop }
    }

    /// Says its name, then sends back what comes.
    pub fn named(name: &'static str) -> Self {
        Self::new(move |mut stream| {
            let _ = stream.write_all(name.as_bytes());
            let _ = std::io::copy(&mut stream.try_clone().expect("a clone"), &mut stream);
        })
    }

    /// Sends back what comes.
    pub fn echo() -> Self {
        Self::named("")
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// How long `cargo xtask soak` wants it: the long forms then, the short ones
/// otherwise.
pub fn soaking() -> Option<Duration> {
    let seconds = std::env::var("REDIRECTOR_SOAK_SECONDS").ok()?;
    Some(Duration::from_secs(seconds.parse().expect("REDIRECTOR_SOAK_SECONDS is a number")))
}

/// Raises this process's descriptor limit as far as it may be, and says how
/// many connections of four descriptors each fit.
pub fn room() -> usize {
    const ENOUGH: u64 = 1 << 16;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(ENOUGH);
    // Beyond the hard limit only with the privilege to.
    let wanted = [ENOUGH.max(most), most]
        .map(|most| (most, Rlimit { current: Some(most), maximum: Some(most) }));
    let raised = wanted.into_iter().find(|(_, limit)| setrlimit(Resource::Nofile, *limit).is_ok());
    let (most, _) = raised.expect("the soft limit up to the hard one");
    // Tests before and beside this one have some, too.
    let open = std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    (most as usize).saturating_sub(500 + open) / 4
}

/// Moves the calling thread, and those that it will start, into a network
/// namespace of their own, with loopback up. It needs root.
pub fn own_network() -> std::io::Result<()> {
    // SAFETY: concerns the calling thread only, which belongs to the test; no
    // descriptor or memory is shared less than before.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    // Started by this thread, so in its namespace.
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    assert!(status.success(), "loopback comes up");
    Ok(())
}

/// Connects, with a bound on every read and write.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, SOON).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream.set_write_timeout(Some(SOON)).expect("a timeout");
    stream
}

/// All that comes until the end.
pub fn read_all(mut stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether the next read says that the connection was reset.
pub fn is_reset(mut stream: &TcpStream) -> bool {
    let read = stream.read(&mut [0; 16]);
    matches!(read, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// Whether a connection is accepted and reset without a byte: the reset may
/// already show when connecting.
pub fn is_refused(address: SocketAddr) -> bool {
    match TcpStream::connect(address) {
        Ok(stream) => {
            stream.set_read_timeout(Some(SOON)).expect("a timeout");
            is_reset(&stream)
        }
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Sets it when it is dropped: stops the clients also when a test fails.
pub struct StopWhenDropped<'a>(pub &'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "did not come true: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the status is as wanted, and returns it.
#[track_caller]
pub fn status_when(proxy: &Proxy, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
    eventually(what, || holds(&proxy.status().expect("a status")));
    proxy.status().expect("a status")
}

/// The process that relays.
pub fn relay(proxy: &Proxy) -> Pid {
    let relay = proxy.status().expect("a status").relay.expect("a relay");
    Pid::from_raw(relay.process.pid.cast_signed()).expect("a process")
}

/// A copy of the relay's socket that is connected to `peer`.
pub fn socket_to(proxy: &Proxy, peer: SocketAddr) -> Option<OwnedFd> {
    let pid = relay(proxy);
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("the relay");
    let path = format!("/proc/{}/fd", pid.as_raw_nonzero());
    let descriptors = std::fs::read_dir(path).expect("its descriptors");
    descriptors.flatten().find_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let copy = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()?;
        let connected = SocketAddr::try_from(getpeername(&copy).ok()??).ok()?;
        (connected == peer).then_some(copy)
    })
}

/// Bytes that look like nothing else, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Makes the close of a socket a reset.
pub fn reset(stream: TcpStream) {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("SO_LINGER");
}
