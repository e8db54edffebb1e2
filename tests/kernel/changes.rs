//! Changes under full load: a thousand rules at once, two hundred times a second,
//! while 20,000 connections a second are made. Each of them must go where the
//! configuration of its own instant says. `cargo xtask soak changes` keeps it up.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redirector::datapath::{Datapath, Options, Sizes};
use redirector_core::image::Image;
use redirector_tests::child::{self, Child};
use redirector_tests::figure;
use redirector_tests::image::Builder;
use redirector_tests::kernel::{Place, privileged, small, soaking};
use redirector_tests::netns::NetNs;
use redirector_tests::random::Random;
use redirector_tests::socket::Socket;
use serde::{Deserialize, Serialize};

/// So many rules change at once.
const RULES: usize = 1000;
/// So many connections a second are aimed at, by all clients together.
const CONNECTIONS: u32 = 20_000;
/// So many changes a second are aimed at.
const CHANGES: u32 = 200;
/// So many processes connect.
const CLIENTS: u32 = 2;
/// The endpoints of the two configurations. A socket that is connected to an
/// address of its own machine has that address, too: so it is known where it went
/// without a word from the server.
const ENDPOINTS: [[u8; 4]; 2] = [[10, 1, 0, 1], [10, 2, 0, 1]];

/// What a rule is about.
fn frontend(rule: usize) -> SocketAddr {
    SocketAddr::from(([10, 96, (rule / 250) as u8, (rule % 250) as u8], 19_000))
}

/// Where every rule leads in the configuration of this number.
fn image(port: u16, leads: usize) -> Image {
    let mut image = Builder::default();
    let routes = ENDPOINTS.map(|endpoint| image.route(&[SocketAddr::from((endpoint, port))]));
    for rule in 0..RULES {
        image.frontend(frontend(rule), routes[leads]);
    }
    image.build()
}

/// Accepts and closes, until told otherwise.
struct Sink {
    port: u16,
    listener: Arc<TcpListener>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sink {
    fn start() -> Self {
        let listener = Arc::new(TcpListener::bind("0.0.0.0:0").expect("a listener"));
        // SAFETY: the descriptor is open; a long queue for bursts.
        unsafe { libc::listen(listener.as_raw_fd(), 4096) };
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (listener, stop) = (listener.clone(), stop.clone());
            move || while listener.accept().is_ok() && !stop.load(Ordering::SeqCst) {}
        });
        let port = listener.local_addr().expect("its address").port();
        Self { port, listener, stop, thread: Some(thread) }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // SAFETY: the listener is open; this ends the accept that its thread waits in.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RD) };
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a client has seen.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    connections: u64,
    /// During these the configuration changed.
    meanwhile: u64,
    failed: u64,
    /// They went where neither the configuration of their beginning nor one in
    /// force until their end says.
    astray: u64,
    /// `getpeername` did not show what was dialled.
    unmasked: u64,
    /// The first that was wrong.
    example: Option<String>,
}

/// Connects at its share of the pace until the file is there. `first` is an epoch
/// of the first configuration.
fn hammer(pins: &Path, first: u64, seed: u64, stop: &Path) -> Seen {
    let datapath = Datapath::open_read_only(pins).expect("the tables");
    let mut random = Random::new(seed);
    let mut seen = Seen::default();
    let each = Duration::from_secs(1) * CLIENTS / CONNECTIONS;
    let mut due = Instant::now();
    loop {
        // Ten at a time: a sleep takes longer than one of them.
        for _ in 0..10 {
            let rule = random.below(RULES as u64) as usize;
            if let Err(error) = dial(&datapath, first, frontend(rule), &mut seen) {
                seen.failed += 1;
                seen.example.get_or_insert_with(|| format!("rule {rule}: {error}"));
            }
        }
        if stop.exists() {
            return seen;
        }
        due = paced(due, each * 10);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// When the next one is due. What is late is made up for, but not what is later than
/// a tenth of a second: no burst.
fn paced(due: Instant, every: Duration) -> Instant {
    let now = Instant::now();
    (due + every).max(now.checked_sub(Duration::from_millis(100)).unwrap_or(now))
}

fn dial(datapath: &Datapath, first: u64, to: SocketAddr, seen: &mut Seen) -> io::Result<()> {
    let socket = Socket::stream(to, 0)?;
    socket.reset_on_close()?;
    let before = datapath.active().epoch;
    socket.connect(to)?;
    let after = datapath.active().epoch;
    let (went, shown) = (socket.local()?.ip(), socket.peer()?);
    seen.connections += 1;
    seen.meanwhile += u64::from(before != after);
    let allowed = |epoch: u64| IpAddr::from(ENDPOINTS[(epoch.wrapping_sub(first) % 2) as usize]);
    if (before..=after).take(2).all(|epoch| allowed(epoch) != went) {
        seen.astray += 1;
        let text = format!("{to} went to {went} between epoch {before} and {after}");
        seen.example.get_or_insert(text);
    }
    if shown != to {
        seen.unmasked += 1;
        seen.example.get_or_insert_with(|| format!("{to} shows {shown}"));
    }
    Ok(())
}

#[test]
fn a_thousand_rules_change_at_once_under_full_load_and_are_never_seen_in_parts() {
    if !privileged() {
        return;
    }
    let place = Place::new("changes");
    let netns = NetNs::new("changes");
    for endpoint in ENDPOINTS {
        netns.ip(&format!("address add {}/32 dev lo", IpAddr::from(endpoint)));
    }
    netns.ip("-4 route add local 10.96.0.0/16 dev lo");
    let sink = netns.within(Sink::start);
    let images = [0, 1].map(|leads| image(sink.port, leads));
    let sizes = Sizes { frontends: 2048, connections: 4096, ..small() };
    let options = Options { sizes, ..place.options() };
    let mut datapath = place.start(&options, &images[0]).expect("started");
    let (active, first) = (datapath.active(), datapath.active().epoch);
    let directory = tempfile::tempdir().expect("a directory");
    let stop = directory.path().join("stop");

    let begun = Instant::now();
    let clients: Vec<Child<Seen>> = (0..CLIENTS)
        .map(|client| {
            child::spawn(place.cgroup.path(), || {
                netns.enter();
                hammer(&place.pins(), first, client.into(), &stop)
            })
        })
        .collect();
    let deltas = [images[0].diff(&images[1]), images[1].diff(&images[0])];
    let (time, every) = (soaking(Duration::from_secs(3)), Duration::from_secs(1) / CHANGES);
    let (mut changes, mut due, mut busy) = (0_u64, begun, Duration::ZERO);
    while begun.elapsed() < time {
        let at = Instant::now();
        let generation = active.generation + 1 + changes;
        datapath.apply(&deltas[(changes % 2) as usize], generation).expect("applied");
        busy += at.elapsed();
        changes += 1;
        assert_eq!(datapath.active().epoch, first + changes, "one flip for each change");
        due = paced(due, every);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    std::fs::write(&stop, "").expect("a file");
    let mut all = Seen::default();
    for seen in clients.into_iter().map(Child::join) {
        all.connections += seen.connections;
        all.meanwhile += seen.meanwhile;
        all.failed += seen.failed;
        all.astray += seen.astray;
        all.unmasked += seen.unmasked;
        all.example = all.example.or(seen.example);
    }
    let seconds = begun.elapsed().as_secs_f64();
    figure!(
        "{changes} changes of {RULES} rules ({:.0}/s of {CHANGES} aimed at, {:.1} ms each), {} \
         connections, {:.0}/s of {CONNECTIONS} aimed at, {} during a change; {} failed, {} astray, \
         {} without getpeername",
        changes as f64 / seconds,
        busy.as_secs_f64() * 1000.0 / changes as f64,
        all.connections,
        all.connections as f64 / seconds,
        all.meanwhile,
        all.failed,
        all.astray,
        all.unmasked
    );
    assert_eq!((all.failed, all.astray, all.unmasked), (0, 0, 0), "{:?}", all.example);
    assert!(changes > 1 && all.meanwhile < all.connections, "too little to say anything");
    let (active, image) = datapath.dump_active().expect("dumped");
    assert!(active.in_step && image == images[(changes % 2) as usize], "the last one stays");
}
