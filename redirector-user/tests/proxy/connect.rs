//! Which endpoint a connection reaches, and what happens when it does not.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use redirector::proxy::{Keepalive, ListenerState, RuleSpec};
use redirector_core::plan::Algorithm;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket, socket_with, sockopt,
};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use serde_json::json;

use crate::kit::*;

/// The name that a named backend says, through a gateway.
fn name(gateway: SocketAddr) -> std::io::Result<String> {
    let stream = TcpStream::connect(gateway)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let bytes = read_all(&stream)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// An endpoint that does not answer: its accept queue is full.
struct Deaf {
    address: SocketAddr,
    _listener: std::os::fd::OwnedFd,
    _queue: Vec<TcpStream>,
}

fn deaf() -> Deaf {
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    listen(&listener, 0).expect("listening");
    let address: SocketAddr = rustix::net::getsockname(&listener)
        .expect("its address")
        .try_into()
        .expect("an IP address");
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queue.push(stream);
    }
    Deaf { address, _listener: listener, _queue: queue }
}

#[test]
fn the_next_endpoint_is_tried_when_one_refuses_and_no_byte_is_lost() {
    let port = reserve();
    let refusing: Vec<_> = (0..4).map(|_| reserve()).collect();
    let backend = Backend::echo();
    let mut endpoints: Vec<_> = refusing.iter().map(|port| port.address).collect();
    endpoints.push(backend.address);
    let proxy = Setup::to(port.address, &endpoints).start();
    for round in 0..40u8 {
        let mut stream = connect(port.address);
        stream.write_all(&[round; 1000]).expect("written");
        let mut back = [0; 1000];
        stream.read_exact(&mut back).expect("echoed");
        assert_eq!(back, [round; 1000]);
    }
    let status = proxy.status().expect("a status");
    assert_eq!(status.legs[0].taken, 40);
    assert_eq!(status.legs[0].failed.iter().sum::<u64>(), 0);
    // What was tried in vain is counted, by leg and by endpoint.
    let missed: u64 = status.failing.iter().map(|one| one.missed).sum();
    assert!(missed > 0 && missed == status.legs[0].missed.iter().sum::<u64>(), "{status:?}");
    let refused = |at| refusing.iter().any(|port| port.address == at);
    assert!(status.failing.iter().all(|one| refused(one.endpoint)), "{status:?}");
}

#[test]
fn the_next_endpoint_is_tried_when_one_does_not_answer_in_time() {
    let port = reserve();
    let deaf = deaf();
    let backend = Backend::named("answered");
    let _proxy = Setup::to(port.address, &[deaf.address, backend.address])
        .with(|config| {
            config.destinations[0].connect_timeout = Duration::from_millis(200);
            config.destinations[0].algorithm = Algorithm::RoundRobin;
        })
        .start();
    for _ in 0..4 {
        assert_eq!(name(port.address).expect("an answer"), "answered");
    }
}

#[test]
fn a_connection_that_no_endpoint_takes_is_reset_and_counted() {
    let port = reserve();
    let (refusing, deaf) = (reserve(), deaf());
    let proxy = Setup::to(port.address, &[refusing.address, deaf.address])
        .with(|config| config.destinations[0].connect_timeout = Duration::from_millis(100))
        .start();
    assert!(is_refused(port.address));
    let status = status_when(&proxy, "closed", |status| status.active == 0);
    assert_eq!(status.listeners[0].counts.failed, 1);
    assert_eq!(
        (status.legs[0].failed.iter().sum::<u64>(), status.legs[0].missed.iter().sum::<u64>()),
        (1, 2)
    );
}

#[test]
fn a_connection_without_a_rule_or_an_endpoint_is_reset() {
    let ports = [reserve(), reserve(), reserve()];
    let backend = Backend::echo();
    let addresses: Vec<_> = ports.iter().map(|port| port.address).collect();
    let proxy = Setup::new(&addresses)
        .route(&[(&[backend.address], 1)])
        .route(&[(&[], 1)])
        .with(|config| config.listeners[2].rules.clear())
        .start();
    assert!(is_refused(addresses[1]), "no endpoint");
    assert!(is_refused(addresses[2]), "no rule");
    assert_eq!(name(addresses[0]).expect("served"), "");
    let refused =
        |listener: &redirector::proxy::ListenerStatus| listener.counts.refused.iter().sum::<u64>();
    let status = proxy.status().expect("a status");
    assert_eq!(status.listeners.iter().map(refused).sum::<u64>(), 2);
}

#[test]
fn weights_are_kept_and_zero_is_never_drawn() {
    let port = reserve();
    let (a, b, c) = (Backend::named("a"), Backend::named("b"), Backend::named("c"));
    let proxy = Setup::new(&[port.address])
        .route(&[(&[a.address], 80), (&[b.address], 20), (&[c.address], 0)])
        .start();
    for _ in 0..1000 {
        name(port.address).expect("served");
    }
    let status = status_when(&proxy, "closed", |status| status.active == 0);
    let taken: Vec<u64> = status.legs.iter().map(|leg| leg.taken).collect();
    // Five standard deviations around 800.
    assert!((735..=865).contains(&taken[0]), "{taken:?}");
    assert_eq!(taken[0] + taken[1], 1000, "{taken:?}");
    assert_eq!(taken[2], 0);
}

#[test]
fn a_share_without_endpoints_is_lost_and_not_moved() {
    let port = reserve();
    let backend = Backend::named("a");
    let proxy = Setup::new(&[port.address]).route(&[(&[backend.address], 1), (&[], 1)]).start();
    let served = (0..200).filter(|_| name(port.address).is_ok()).count();
    let status = proxy.status().expect("a status");
    assert_eq!(status.legs[0].taken as usize, served);
    assert_eq!(status.legs[1].failed.iter().sum::<u64>() as usize, 200 - served);
    assert!((60..140).contains(&served), "about half of 200, got {served}");
}

#[test]
fn round_robin_takes_turns_and_the_same_source_keeps_its_endpoint() {
    let ports = [reserve(), reserve()];
    let backends = [Backend::named("a"), Backend::named("b"), Backend::named("c")];
    let endpoints = backends.each_ref().map(|backend| backend.address);
    let _proxy = Setup::new(&[ports[0].address, ports[1].address])
        .route(&[(&endpoints, 1)])
        .route(&[(&endpoints, 1)])
        .with(|config| {
            config.destinations[0].algorithm = Algorithm::RoundRobin;
            config.destinations[1].algorithm = Algorithm::SourceHash;
        })
        .start();
    let mut turns: Vec<_> = (0..9).map(|_| name(ports[0].address).expect("served")).collect();
    turns.sort_unstable();
    assert_eq!(turns.concat(), "aaabbbccc");
    let first = name(ports[1].address).expect("served");
    for _ in 0..20 {
        assert_eq!(name(ports[1].address).expect("served"), first);
    }
}

#[test]
fn the_least_busy_of_two_endpoints_is_preferred() {
    let port = reserve();
    let backends = [Backend::named("a"), Backend::named("b")];
    let proxy = Setup::to(port.address, &backends.each_ref().map(|backend| backend.address))
        .with(|config| config.destinations[0].algorithm = Algorithm::LeastRequest)
        .start();
    let mut held = Vec::new();
    let mut counts = [0i32; 2];
    for _ in 0..200 {
        let mut stream = connect(port.address);
        let mut name = [0];
        stream.read_exact(&mut name).expect("a name");
        counts[usize::from(name[0] - b'a')] += 1;
        held.push(stream);
    }
    assert!((counts[0] - counts[1]).abs() <= 20, "{counts:?}");
    drop(held);
    status_when(&proxy, "closed", |status| status.active == 0);
}

#[test]
fn more_connections_than_allowed_are_refused() {
    let port = reserve();
    let backend = Backend::named("a");
    let proxy = Setup::to(port.address, &[backend.address])
        .with(|config| config.destinations[0].max_connections = Some(2))
        .start();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(port.address);
        stream.read_exact(&mut [0]).expect("a name");
        held.push(stream);
    }
    assert!(is_refused(port.address));
    held.pop();
    status_when(&proxy, "one is closed", |status| status.active == 1);
    connect(port.address).read_exact(&mut [0]).expect("a name");
}

#[test]
fn rules_see_the_address_dialled() {
    let port = reserve_on(Ipv4Addr::UNSPECIFIED.into());
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let gateway = port.address.port();
    let second = json!({"destination_subnets": ["127.0.0.2/32"], "port": gateway});
    let _proxy = Setup::new(&[port.address])
        .route(&[(&[a.address], 1)])
        .route(&[(&[b.address], 1)])
        .with(|config| config.listeners[0].rules = vec![rule(second, Some(1)), always(0)])
        .start();
    assert_eq!(name(([127, 0, 0, 1], gateway).into()).expect("served"), "a");
    assert_eq!(name(([127, 0, 0, 2], gateway).into()).expect("served"), "b");
}

#[test]
fn both_families_listen_on_one_port_and_mix_with_endpoints_of_either() {
    let v6 = reserve_on(Ipv6Addr::UNSPECIFIED.into());
    let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), v6.address.port());
    let (a, b) = (
        Backend::on(Ipv6Addr::LOCALHOST.into(), |mut s| drop(s.write(b"six"))),
        Backend::on(IpAddr::from([127, 0, 0, 1]), |mut s| drop(s.write(b"four"))),
    );
    let proxy = Setup::new(&[v4, v6.address])
        .route(&[(&[a.address], 1)])
        .route(&[(&[b.address], 1)])
        .start();
    let status = proxy.status().expect("a status");
    assert!(status.listeners.iter().all(|l| l.state == ListenerState::Listening), "{status:?}");
    let port = v6.address.port();
    assert_eq!(name(([127, 0, 0, 1], port).into()).expect("served"), "six");
    assert_eq!(name((Ipv6Addr::LOCALHOST, port).into()).expect("served"), "four");
}

#[test]
fn the_backend_is_told_the_client_by_the_proxy_protocol_before_anything_else() {
    let port = reserve();
    let (tell, told) = channel();
    let backend = Backend::new(move |mut stream| {
        let mut bytes = [0; 28 + 5];
        stream.read_exact(&mut bytes).expect("header and greeting");
        tell.send(bytes).expect("told");
    });
    let refusing = reserve();
    let _proxy = Setup::to(port.address, &[refusing.address, backend.address])
        .rule(RuleSpec { announced: true, ..always(0) })
        .with(|config| config.destinations[0].algorithm = Algorithm::RoundRobin)
        .start();
    for _ in 0..4 {
        let mut stream = connect(port.address);
        stream.write_all(b"hello").expect("written");
        let bytes = told.recv_timeout(SOON).expect("told");
        let local = stream.local_addr().expect("an address");
        assert_eq!(bytes[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        assert_eq!(bytes[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
        assert_eq!(bytes[24..26], local.port().to_be_bytes());
        assert_eq!(bytes[26..28], port.address.port().to_be_bytes());
        assert_eq!(bytes[28..], *b"hello");
    }
}

#[test]
fn keepalive_is_set_on_the_connection_to_the_endpoint() {
    let port = reserve();
    let backend = Backend::named("kept");
    let keepalive = Keepalive {
        probes: Some(3),
        time: Some(Duration::from_secs(60)),
        interval: Some(Duration::from_millis(1)),
    };
    let proxy = Setup::to(port.address, &[backend.address])
        .with(|config| config.destinations[0].keepalive = Some(keepalive))
        .start();
    let mut stream = connect(port.address);
    stream.read_exact(&mut [0; 4]).expect("a name");
    let socket = socket_to(&proxy, backend.address).expect("a connection to the backend");
    assert_eq!(sockopt::socket_keepalive(&socket), Ok(true));
    assert_eq!(sockopt::tcp_keepcnt(&socket), Ok(3));
    assert_eq!(sockopt::tcp_keepidle(&socket), Ok(Duration::from_secs(60)));
    assert_eq!(sockopt::tcp_keepintvl(&socket), Ok(Duration::from_secs(1)));
}

#[test]
fn clients_are_asked_whether_they_are_still_there_as_their_gateway_wants_it() {
    let ports = [reserve(), reserve(), reserve()];
    let backend = Backend::named("kept");
    let proxy = Setup::new(&ports.each_ref().map(|port| port.address))
        .rule(always(0))
        .route(&[(&[backend.address], 1)])
        .with(|config| {
            config.listeners[1].accepting.keepalive = Some(60);
            config.listeners[2].accepting.keepalive = Some(0);
        })
        .start();
    for (port, idle) in ports.iter().zip([Some(300), Some(60), None]) {
        let mut stream = connect(port.address);
        stream.read_exact(&mut [0; 4]).expect("a name");
        let peer = stream.local_addr().expect("an address");
        let socket = socket_to(&proxy, peer).expect("the connection to the client");
        assert_eq!(sockopt::socket_keepalive(&socket), Ok(idle.is_some()));
        if let Some(seconds) = idle {
            assert_eq!(sockopt::tcp_keepidle(&socket), Ok(Duration::from_secs(seconds)));
        }
    }
}

#[test]
fn a_route_back_to_its_own_listener_is_caught() {
    let ports = [reserve(), reserve_on(Ipv4Addr::UNSPECIFIED.into())];
    let addresses = ports.each_ref().map(|port| port.address);
    let back = SocketAddr::from(([127, 0, 0, 9], addresses[1].port()));
    let proxy =
        Setup::new(&addresses).route(&[(&[addresses[0]], 1)]).route(&[(&[back], 1)]).start();
    assert!(is_refused(addresses[0]), "the same address");
    assert!(is_refused(back), "an address that a wildcard listener has");
    let status = status_when(&proxy, "closed", |status| status.active == 0);
    assert!(status.listeners.iter().all(|l| l.counts.looped == 1), "{status:?}");
}

#[test]
fn a_circle_of_gateways_is_caught_and_a_chain_is_not() {
    let ports = [reserve(), reserve(), reserve(), reserve()];
    let at = ports.each_ref().map(|port| port.address);
    let backend = Backend::named("end of the chain");
    let proxy = Setup::new(&at)
        .route(&[(&[at[1]], 1)])
        .route(&[(&[backend.address], 1)])
        .route(&[(&[at[3]], 1)])
        .route(&[(&[at[2]], 1)])
        .start();
    assert_eq!(name(at[0]).expect("served"), "end of the chain");
    assert!(is_refused(at[2]), "a circle of two");
    let status = status_when(&proxy, "closed", |status| status.active == 0);
    let accepted: u64 = status.listeners.iter().map(|l| l.counts.accepted).sum();
    assert_eq!(accepted, 4, "two along the chain, two around the circle: {status:?}");
}

#[test]
fn a_port_is_not_shared_with_another_program_that_would_share_it() {
    let port = reserve();
    let flags = SocketFlags::CLOEXEC;
    let other =
        socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
    sockopt::set_socket_reuseport(&other, true).expect("SO_REUSEPORT");
    bind(&other, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    listen(&other, 1).expect("listening");
    let address = getsockname(&other).expect("its address").try_into().expect("an IP address");
    let backend = Backend::named("a");
    let proxy = Setup::new(&[address, port.address])
        .route(&[(&[backend.address], 1)])
        .rule(always(0))
        .start();
    let status = proxy.status().expect("a status");
    let there = status.listeners.iter().find(|l| l.address == address).expect("the listener");
    assert!(matches!(there.state, ListenerState::Failed { .. }), "{status:?}");
    assert_eq!(name(port.address).expect("the other one works"), "a");
    drop(other);
    status_when(&proxy, "bound at last", |status| {
        status.listeners.iter().all(|l| l.state == ListenerState::Listening)
    });
    assert_eq!(name(address).expect("served"), "a");
}

#[test]
fn a_port_that_cannot_be_bound_is_reported_and_taken_when_it_is_free() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = taken.local_addr().expect("its address");
    let port = reserve();
    let backend = Backend::named("a");
    let proxy = Setup::new(&[address, port.address])
        .route(&[(&[backend.address], 1)])
        .rule(always(0))
        .start();
    let status = proxy.status().expect("a status");
    let state = |status: &redirector::proxy::Status| {
        let listener = status.listeners.iter().find(|l| l.address == address);
        listener.expect("the listener").state.clone()
    };
    let ListenerState::Failed { error, tries } = state(&status) else {
        panic!("not reported: {status:?}");
    };
    assert!(error.contains("in use") && tries > 0, "{error}");
    assert_eq!(name(port.address).expect("the other one works"), "a");
    drop(taken);
    status_when(&proxy, "bound at last", |status| state(status) == ListenerState::Listening);
    assert_eq!(name(address).expect("served"), "a");
}

#[test]
#[ignore = "needs root"]
fn ports_below_1024_are_served_in_both_families_with_the_privilege_and_reported_without() {
    let apart = thread::spawn(|| {
        // Where ports below 1024 need the privilege, whatever this machine says.
        own_network().expect("a network namespace");
        let [low, low6]: [SocketAddr; 2] =
            [([127, 0, 0, 1], 443).into(), (Ipv6Addr::LOCALHOST, 25).into()];
        let high = SocketAddr::from(([127, 0, 0, 1], 8443));
        let backend = Backend::named("a");
        let serve = || {
            Setup::new(&[low, low6, high]).route(&[(&[backend.address], 1)]).rule(always(0)).start()
        };
        let proxy = serve();
        for address in [low, low6, high] {
            assert_eq!(name(address).expect("served"), "a", "{address}");
        }
        drop(proxy);
        // Without it, the threads of the proxy neither.
        let mut sets = capabilities(None).expect("this thread's");
        sets.effective.remove(CapabilitySet::NET_BIND_SERVICE);
        sets.permitted.remove(CapabilitySet::NET_BIND_SERVICE);
        set_capabilities(None, sets).expect("one less");
        let proxy = serve();
        for listener in proxy.status().expect("a status").listeners {
            match listener.state {
                ListenerState::Failed { error, .. } if listener.address != high => {
                    assert!(error.contains("Permission denied"), "{error}");
                }
                state => assert_eq!((listener.address, state), (high, ListenerState::Listening)),
            }
        }
        assert_eq!(name(high).expect("the other one works"), "a");
    });
    apart.join().expect("nothing panics there");
}
