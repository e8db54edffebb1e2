//! All that clients and backends do to a gateway, at once, while its
//! configuration changes 50 times a second: short here, for as long as it is
//! told in `cargo xtask soak gateway`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redirector::proxy::{ListenerState, ListenerStatus};
use serde_json::json;

use crate::kit::*;
use crate::tls::client_hello;

/// Listeners and routes have the same indices.
const SERVED: usize = 0;
const NAMED: usize = 1;
const DYING: usize = 2;
const FLOODING: usize = 3;
const CROWD: usize = 4;
const COUNT: usize = 5;

/// Larger than what the kernel's buffers take.
const FLOOD: usize = 32 << 20;

/// What is counted, and told in the end.
#[derive(Default)]
struct Figures {
    served: AtomicU64,
    named: AtomicU64,
    abandoned: AtomicU64,
    silent: AtomicU64,
    noisy: AtomicU64,
    deaf: AtomicU64,
    cut: AtomicU64,
    trickled: AtomicU64,
    slowest: AtomicU64,
}

impl Figures {
    /// `cargo xtask soak` shows these lines.
    fn tell(&self, time: Duration, held: usize, reloads: usize, longest: Duration) {
        let [served, named, abandoned, silent, noisy, deaf, cut, trickled, slowest] = [
            &self.served,
            &self.named,
            &self.abandoned,
            &self.silent,
            &self.noisy,
            &self.deaf,
            &self.cut,
            &self.trickled,
            &self.slowest,
        ]
        .map(|figure| figure.load(Ordering::Relaxed));
        eprintln!(
            "figure: {time:?} beside {held} held connections, {reloads} reloads (the longest took \
             {longest:.1?}): none failed or went astray of {served} served and {named} routed by \
             name"
        );
        eprintln!(
            "figure: {abandoned} abandoned connections, {silent} without a hello, {noisy} with a megabyte \
             of noise, {deaf} that never read, {cut} cut by their backend; {trickled} single \
             bytes, the slowest {:.1} ms",
            slowest as f64 / 1e3
        );
    }
}

/// What the configuration may be at a moment.
#[derive(Default)]
struct Generations {
    begun: AtomicUsize,
    finished: AtomicUsize,
}

/// Must be served, by a backend that was configured meanwhile, untouched.
fn served(at: SocketAddr, generations: &Generations, seed: u64) {
    let from = generations.finished.load(Ordering::SeqCst);
    let mut stream = connect(at);
    let mut name = [0];
    stream.read_exact(&mut name).expect("a name");
    let to = generations.begun.load(Ordering::SeqCst);
    let right = (from..=to).any(|g| name == [b"ab"[g % 2]]);
    assert!(right, "{name:?} between generations {from} and {to}");
    let bytes = noise(seed, 1 << (seed % 15));
    stream.write_all(&bytes).expect("written");
    stream.shutdown(Shutdown::Write).expect("shut down");
    assert!(read_all(&stream).expect("everything") == bytes, "of {} bytes", bytes.len());
}

/// Must be served untouched by its server name.
fn named(at: SocketAddr) {
    let hello = client_hello("a.example", 1 << 14);
    let mut stream = connect(at);
    stream.write_all(&hello).expect("written");
    let mut back = vec![0; 1 + hello.len()];
    stream.read_exact(&mut back).expect("a name and everything");
    assert!(back[1..] == hello, "untouched");
}

/// Closes or resets, having done more or less before.
fn abandoned(at: SocketAddr, seed: u64) {
    let mut stream = connect(at);
    let stage = seed % 5;
    if stage > 0 {
        let _ = stream.write_all(&noise(seed, (seed as usize % 7) * 3_000 + 1));
    }
    if stage > 1 {
        let _ = stream.read(&mut [0; 100]);
    }
    match stage {
        2 => drop(stream.shutdown(Shutdown::Write)),
        3 => drop(stream.shutdown(Shutdown::Both)),
        _ => {}
    }
    if seed.is_multiple_of(2) {
        reset(stream);
    }
}

/// Says nothing where a ClientHello is awaited, or begins one: it is given up.
fn silent(at: SocketAddr, seed: u64) {
    let mut stream = connect(at);
    if seed.is_multiple_of(2) {
        stream.write_all(&client_hello("a.example", 1 << 14)[..20]).expect("written");
    }
    assert!(is_reset(&stream), "who does not say hello is given up");
}

/// Sends a megabyte of noise where a ClientHello is awaited: it is refused.
fn noisy(at: SocketAddr, seed: u64) {
    let mut bytes = noise(seed, 1 << 20);
    // Some look like the beginning of one.
    let likeness = [&[][..], &[22], &[22, 3, 1, 0x3f, 0xff, 1, 0, 0x40, 0]][seed as usize % 3];
    bytes[..likeness.len()].copy_from_slice(likeness);
    let mut stream = connect(at);
    // A reset is told once: to the write or to the read.
    let written = stream.write_all(&bytes);
    assert!(written.is_err() || read_all(&stream).is_err(), "noise is no ClientHello");
}

/// Never reads what it is flooded with, and goes.
fn deaf(at: SocketAddr) {
    let _stream = connect(at);
    thread::sleep(Duration::from_millis(300));
}

/// Has its backend die in the middle: must not take it for the end.
fn cut(at: SocketAddr) {
    // On a busy machine it has happened before the client knows that it is connected.
    let error = match TcpStream::connect(at) {
        Ok(stream) => read_all(&stream).expect_err("a reset"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// A byte at a time, one a second when there is time: each passes at once.
fn trickle(at: SocketAddr, over: &AtomicBool, figures: &Figures) {
    let pause = Duration::from_millis(if soaking().is_some() { 1000 } else { 100 });
    let mut stream = connect(at);
    stream.read_exact(&mut [0]).expect("a name");
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        stream.write_all(b"x").expect("written");
        stream.read_exact(&mut [0]).expect("echoed");
        let took = begun.elapsed().as_micros() as u64;
        figures.slowest.fetch_max(took, Ordering::Relaxed);
        figures.trickled.fetch_add(1, Ordering::Relaxed);
        thread::sleep(pause);
    }
}

/// Connections that are there all the time, and their other ends in one thread.
fn crowd(at: SocketAddr, listener: &TcpListener, size: usize) -> Vec<[TcpStream; 2]> {
    (0..size)
        .map(|_| {
            let mut client = connect(at);
            // The connection to the backend waits for no more than the handshake.
            client.write_all(b"x").expect("written");
            let (mut server, _) = listener.accept().expect("its other end");
            server.read_exact(&mut [0]).expect("a byte");
            [client, server]
        })
        .collect()
}

/// Goes on until it is over, with a pause of some milliseconds between.
fn keep_on(over: &AtomicBool, pause: u64, figure: &AtomicU64, act: impl Fn(u64)) {
    while !over.load(Ordering::Relaxed) {
        act(figure.fetch_add(1, Ordering::Relaxed));
        thread::sleep(Duration::from_millis(pause));
    }
}

#[test]
fn whatever_clients_and_backends_do_the_others_are_served_while_the_configuration_changes() {
    let time = soaking().unwrap_or(Duration::from_secs(2));
    let size = room().saturating_sub(1_000).min(if soaking().is_some() { 10_000 } else { 200 });
    let ports = [(); COUNT].map(|()| reserve());
    let at = ports.each_ref().map(|port| port.address);
    let backends = [Backend::named("a"), Backend::named("b")];
    let ends = backends.each_ref().map(|backend| backend.address);
    let dying = Backend::new(|mut stream| {
        let _ = stream.write_all(&vec![7; 3 << 20]);
        reset(stream);
    });
    let flooding = Backend::new(|mut stream| {
        let _ = stream.write_all(&vec![7; FLOOD]);
    });
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a backend");
    let crowded = listener.local_addr().expect("its address");
    // Generation g serves by backend g % 2.
    let generation = |g: usize| {
        let ends = [ends[g % 2], ends[(g + 1) % 2]];
        Setup::new(&at)
            .route(&[(&ends[..1], 1), (&ends[1..], 0)])
            .route(&[(&ends[..1], 1)])
            .route(&[(&[dying.address], 1)])
            .route(&[(&[flooding.address], 1)])
            .route(&[(&[crowded], 1)])
            .with(|config| {
                config.listeners[NAMED].sni = true;
                let any = json!({"sni_hosts": ["*.example"]});
                config.listeners[NAMED].rules = vec![rule(any, Some(NAMED))];
            })
    };
    let proxy = generation(0).start_with(Duration::from_secs(30));
    let (generations, figures) = (Generations::default(), Figures::default());
    let over = AtomicBool::new(false);
    let mut held = crowd(at[CROWD], &listener, size);
    let (mut reloads, mut longest) = (0, Duration::ZERO);

    thread::scope(|scope| {
        let (generations, figures, over) = (&generations, &figures, &over);
        // Stops the clients also when this thread fails.
        let stop = StopWhenDropped(over);
        for client in 0..3 {
            let act = move |n| served(at[SERVED], generations, 3 * n + client);
            scope.spawn(move || keep_on(over, 1, &figures.served, act));
        }
        scope.spawn(move || keep_on(over, 5, &figures.named, |_| named(at[NAMED])));
        scope.spawn(move || keep_on(over, 2, &figures.abandoned, |n| abandoned(at[SERVED], n)));
        scope.spawn(move || keep_on(over, 0, &figures.silent, |n| silent(at[NAMED], n)));
        scope.spawn(move || keep_on(over, 50, &figures.noisy, |n| noisy(at[NAMED], n)));
        scope.spawn(move || keep_on(over, 0, &figures.deaf, |_| deaf(at[FLOODING])));
        scope.spawn(move || keep_on(over, 20, &figures.cut, |_| cut(at[DYING])));
        scope.spawn(move || trickle(at[SERVED], over, figures));
        let end = Instant::now() + time;
        while Instant::now() < end {
            reloads += 1;
            generations.begun.store(reloads, Ordering::SeqCst);
            let begun = Instant::now();
            let status = proxy.update(generation(reloads).0).expect("in force");
            generations.finished.store(reloads, Ordering::SeqCst);
            longest = longest.max(begun.elapsed());
            let listening = |l: &ListenerStatus| l.state == ListenerState::Listening;
            assert!(status.listeners.iter().all(listening), "{status:?}");
            thread::sleep(Duration::from_millis(20).saturating_sub(begun.elapsed()));
        }
        drop(stop);
    });

    for [client, server] in &mut held {
        server.write_all(b"y").expect("written");
        client.read_exact(&mut [0]).expect("still relayed");
    }
    drop(held);
    let status = status_when(&proxy, "all are closed", |status| status.active == 0);
    assert!(status.legs.iter().all(|leg| leg.active == 0), "{status:?}");
    // None was refused but who named nobody, and none found no backend but
    // where it has died before it was relayed.
    for listener in &status.listeners {
        let counts = &listener.counts;
        assert!(
            counts.refused.iter().sum::<u64>() == 0 || listener.address == at[NAMED],
            "{status:?}"
        );
        assert!(counts.failed == 0 || listener.address == at[DYING], "{status:?}");
    }
    figures.tell(time, size, reloads, longest);
    assert!(figures.served.into_inner() > reloads as u64, "there was load");
}
