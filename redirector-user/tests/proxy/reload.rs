//! Changes of the configuration while connections come and go.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use redirector::proxy::ListenerState;

use crate::kit::*;

/// How often the configuration changes under load: 50 times a second, for two
/// seconds. Longer, and beside much else, in the soak.
const ROUNDS: usize = 100;

#[test]
fn no_connection_fails_or_goes_astray_while_the_configuration_changes() {
    let ports = [reserve(), reserve(), reserve()];
    let at = ports.each_ref().map(|port| port.address);
    let backends = [Backend::named("a"), Backend::named("b")];
    let ends = backends.each_ref().map(|backend| backend.address);
    // Generation g sends everything to backend g % 2. The second listener is
    // there in all generations, the third comes and goes.
    let generation = |g: usize| {
        let listeners = if g.is_multiple_of(3) { &at[..] } else { &at[..2] };
        let ends = [ends[g % 2], ends[(g + 1) % 2]];
        let legs = [(&ends[..1], 1), (&ends[1..], 0)];
        Setup::new(listeners).route(&legs[..]).rule(always(0))
    };
    let proxy = generation(0).start_with(Duration::from_secs(30));
    let (begun, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let over = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    let mut lasting = connect(at[0]);
    lasting.read_exact(&mut [0]).expect("a name");

    thread::scope(|scope| {
        for client in 0..4 {
            let (begun, finished, over, served) = (&begun, &finished, &over, &served);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let from = finished.load(Ordering::SeqCst);
                    let mut stream = connect(at[client % 2]);
                    let mut name = [0];
                    stream.read_exact(&mut name).expect("a name");
                    let to = begun.load(Ordering::SeqCst);
                    let right = (from..=to).any(|g| name == [b"ab"[g % 2]]);
                    assert!(right, "{name:?} between generations {from} and {to}");
                    served.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let stop = StopWhenDropped(&over);
        for g in 1..=ROUNDS {
            begun.store(g, Ordering::SeqCst);
            let status = proxy.update(generation(g).0).expect("in force");
            finished.store(g, Ordering::SeqCst);
            let state = |status: &redirector::proxy::Status| {
                status.listeners.iter().all(|l| l.state == ListenerState::Listening)
            };
            assert!(state(&status), "{status:?}");
            thread::sleep(Duration::from_millis(20));
        }
        drop(stop);
    });

    assert!(served.into_inner() > ROUNDS * 4, "there was load");
    lasting.write_all(b"still here").expect("written");
    let mut back = [0; 10];
    lasting.read_exact(&mut back).expect("echoed");
    assert_eq!(&back, b"still here");
    drop(lasting);
    let status = status_when(&proxy, "all are closed", |status| status.active == 0);
    let counts = &status.listeners[0].counts;
    assert_eq!((counts.refused.iter().sum::<u64>(), counts.failed), (0, 0), "{status:?}");
}

#[test]
fn a_removed_gateway_accepts_no_more_and_its_connections_have_their_time() {
    let ports = [reserve(), reserve()];
    let at = ports.each_ref().map(|port| port.address);
    let backend = Backend::echo();
    let proxy = Setup::new(&at)
        .route(&[(&[backend.address], 1)])
        .rule(always(0))
        .start_with(Duration::from_millis(700));
    let mut kept = connect(at[0]);
    let mut drained = connect(at[1]);
    let ping = |stream: &mut TcpStream| {
        stream.write_all(b"x").expect("written");
        stream.read_exact(&mut [0]).expect("echoed");
    };
    ping(&mut drained);
    let status = proxy.update(Setup::to(at[0], &[backend.address]).0).expect("in force");
    let drain = status.listeners.iter().find(|listener| listener.address == at[1]);
    assert!(matches!(drain.map(|l| &l.state), Some(ListenerState::Draining { .. })), "{status:?}");
    let refused = TcpStream::connect(at[1]).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    ping(&mut drained);
    let mut over = || {
        thread::sleep(Duration::from_millis(50));
        drained.write_all(b"x").is_err() || !matches!(drained.read(&mut [0]), Ok(1))
    };
    eventually("its time is over", &mut over);
    ping(&mut kept);
    status_when(&proxy, "no listener drains", |status| status.listeners.len() == 1);
}

#[test]
fn a_listener_that_comes_back_while_it_drains_serves_again() {
    let port = reserve();
    let backend = Backend::named("a");
    let both = || Setup::to(port.address, &[backend.address]);
    let proxy = both().start_with(Duration::from_secs(30));
    let mut early = connect(port.address);
    early.read_exact(&mut [0]).expect("a name");
    proxy.update(Setup::new(&[]).0).expect("in force");
    proxy.update(both().0).expect("in force");
    connect(port.address).read_exact(&mut [0]).expect("a name");
    early.write_all(b"x").expect("written");
    early.read_exact(&mut [0]).expect("echoed");
    let status = status_when(&proxy, "one is left", |status| status.active == 1);
    assert_eq!(status.listeners.len(), 1, "it is listed once: {status:?}");
    assert_eq!(status.listeners[0].state, ListenerState::Listening);
}

#[test]
fn shutdown_lets_connections_finish_and_ends_when_they_have() {
    let port = reserve();
    let backend = Backend::echo();
    let proxy = Setup::to(port.address, &[backend.address]).start_with(Duration::from_secs(30));
    let mut stream = connect(port.address);
    stream.write_all(b"x").expect("written");
    stream.read_exact(&mut [0]).expect("echoed");
    let stopping = thread::spawn(|| proxy.shutdown());
    eventually("nobody listens", || TcpStream::connect(port.address).is_err());
    stream.write_all(b"y").expect("written");
    stream.read_exact(&mut [0]).expect("still relayed");
    assert!(!stopping.is_finished());
    drop(stream);
    stopping.join().expect("stopped");
}

#[test]
fn shutdown_resets_what_does_not_finish_in_time() {
    let port = reserve();
    let backend = Backend::echo();
    let proxy = Setup::to(port.address, &[backend.address]).start();
    let mut stream = connect(port.address);
    stream.write_all(b"x").expect("written");
    stream.read_exact(&mut [0]).expect("echoed");
    proxy.shutdown();
    assert!(is_reset(&stream));
}
