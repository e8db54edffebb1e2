//! Connections of load balancers, which say for whom by a PROXY protocol header.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use redirector::datapath::{SourceKey, cgroup_of_socket};
use redirector::identity::{Local, Locals};
use redirector::proxy::{Proxy, Refused, RuleSpec};
use redirector_core::model::{Accepting, SourceId};
use redirector_core::proxy_header::{Header, Version, read, write};

use crate::kit::*;

/// Of whom only the load balancer knows, and what it has dialled.
const CLIENT: &str = "203.0.113.9:4711";
const DIALLED: &str = "198.51.100.7:443";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Accepts headers from these.
fn from(subnets: &str) -> Accepting {
    let mut accepting = Accepting::default();
    accepting.read("redirector.io/accept-proxy-protocol", subnets).expect("subnets");
    accepting
}

/// A gateway that believes who is in these subnets, before an endpoint that sends back
/// what it hears, a header of its own included.
fn believing(listener: SocketAddr, subnets: &str) -> (Proxy, Backend) {
    let backend = Backend::echo();
    let proxy = Setup::to(listener, &[backend.address])
        .rule(RuleSpec { announced: true, ..always(0) })
        .with(|config| config.listeners[0].accepting = from(subnets))
        .start();
    (proxy, backend)
}

/// What comes back when this was said in these portions: a header, and what is behind it.
fn said(listener: SocketAddr, portions: &[&[u8]]) -> (Header, Vec<u8>) {
    let mut stream = connect(listener);
    for portion in portions {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.write_all(portion).expect("written");
    }
    stream.shutdown(Shutdown::Write).expect("shut down");
    let mut bytes = read_all(&stream).expect("all of it");
    let header = read(&bytes).expect("a header").expect("all of it");
    let rest = bytes.split_off(header.length);
    (header, rest)
}

#[test]
fn the_client_of_a_load_balancer_is_announced_to_the_endpoint_with_what_else_was_said() {
    let port = reserve();
    let (_proxy, _backend) = believing(port.address, "127.0.0.0/8");
    let (client, dialled) = (at(CLIENT), at(DIALLED));
    let v6 = (at("[2001:db8::9]:1"), at("[2001:db8::1]:2"));
    let fields = b"\x02\0\x0ashop.local\xea\0\x04\x01vpc";
    for (between, version, fields) in [
        ((client, dialled), Version::V1, &b""[..]),
        ((client, dialled), Version::V2, b""),
        ((client, dialled), Version::V2, fields),
        (v6, Version::V1, b""),
        (v6, Version::V2, fields),
    ] {
        let header = write(version, between.0, between.1, fields);
        let whole = [&header[..], b"hello"].concat();
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        for portions in [&[&whole[..]][..], &[&header, b"hello"], &bytes] {
            let (heard, rest) = said(port.address, portions);
            assert_eq!(heard.between, Some(between), "{version:?}");
            assert_eq!(heard.fields, fields, "{version:?}");
            assert_eq!(rest, b"hello", "{version:?}: not a byte more or less");
        }
    }
}

#[test]
fn whom_nobody_believes_says_bytes_and_no_header() {
    let port = reserve();
    let (proxy, _backend) = believing(port.address, "10.0.0.0/8, ::1");
    let header = write(Version::V2, at(CLIENT), at(DIALLED), b"");
    let (heard, rest) = said(port.address, &[&header]);
    let (client, _) = heard.between.expect("the peer itself");
    assert_eq!(client.ip(), Ipv4Addr::LOCALHOST);
    assert_eq!(rest, header);
    assert_eq!(proxy.status().expect("a status").listeners[0].counts.refused, [0; 8]);
}

#[test]
fn a_load_balancers_own_connection_is_its_own() {
    let port = reserve();
    let (_proxy, _backend) = believing(port.address, "127.0.0.1");
    let mut local = write(Version::V2, at(CLIENT), at(DIALLED), b"\xea\0\x01x");
    local[12] = 0x20;
    for header in [&local[..], b"PROXY UNKNOWN\r\n"] {
        let (heard, rest) = said(port.address, &[header, b"ping"]);
        let (client, dialled) = heard.between.expect("both");
        assert_eq!((client.ip(), dialled), (Ipv4Addr::LOCALHOST.into(), port.address));
        assert!(heard.fields.is_empty());
        assert_eq!(rest, b"ping");
    }
    // One that only looks whether anybody listens is no fault.
    drop(connect(port.address));
}

#[test]
fn a_header_that_is_missing_wrong_cut_or_late_is_refused_and_counted_by_reason() {
    let port = reserve();
    let (proxy, _backend) = believing(port.address, "127.0.0.0/8");
    let v2 = write(Version::V2, at(CLIENT), at(DIALLED), b"");
    let lying = [&v2[..14], &[0xff, 0xff], &v2[16..]].concat();
    let short = [&v2[..14], &[0, 4], &v2[16..]].concat();
    let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 5000]].concat();
    let is_gone = |mut stream: TcpStream, bytes: &[u8]| {
        // A reset is told once: to the write or to the read.
        stream.write_all(bytes).is_err() || is_reset(&stream)
    };
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\0\x05hello"] {
        assert!(is_gone(connect(port.address), bytes), "{bytes:?}");
    }
    for bytes in [&lying, &short, &endless, &b"PROXY TCP4 1.2.3.4 nowhere 1 2\r\n".to_vec()] {
        assert!(is_gone(connect(port.address), bytes), "{bytes:?}");
    }
    let mut cut = connect(port.address);
    cut.write_all(&v2[..20]).expect("written");
    cut.shutdown(Shutdown::Write).expect("shut down");
    assert!(is_reset(&cut));
    let mut late = connect(port.address);
    late.write_all(&v2[..20]).expect("written");
    assert!(is_reset(&late), "it is not waited for any longer");
    let status = status_when(&proxy, "all are closed", |status| status.active == 0);
    let refused = status.listeners[0].counts.refused;
    let of = |why: Refused| refused[why as usize];
    assert_eq!([Refused::NoHeader, Refused::BadHeader, Refused::Silent].map(of), [2, 5, 1]);
    assert_eq!(refused.iter().sum::<u64>(), 8);
}

#[test]
fn the_server_name_is_read_behind_the_header() {
    let port = reserve();
    let backend = Backend::named("tls");
    let _proxy = Setup::to(port.address, &[backend.address])
        .with(|config| {
            let named = serde_json::json!({"sni_hosts": ["a.example"]});
            config.listeners[0].sni = true;
            config.listeners[0].rules = vec![rule(named, Some(0))];
            config.listeners[0].accepting = from("127.0.0.0/8");
        })
        .start();
    let header = write(Version::V1, at(CLIENT), at(DIALLED), b"");
    let hello = crate::tls::client_hello("a.example", 100);
    let whole = [header, hello.clone()].concat();
    for portion in [whole.len(), 7] {
        let mut stream = connect(port.address);
        whole.chunks(portion).for_each(|some| stream.write_all(some).expect("written"));
        stream.shutdown(Shutdown::Write).expect("shut down");
        assert_eq!(read_all(&stream).expect("an answer"), [&b"tls"[..], &hello].concat());
    }
}

#[test]
fn conditions_on_the_source_see_the_client_and_not_the_load_balancer() {
    let port = reserve();
    let backend = Backend::named("a");
    let client = at(CLIENT);
    let _proxy = Setup::to(port.address, &[backend.address])
        .with(|config| {
            let subnet = serde_json::json!({"source_subnet": "203.0.113.0/24"});
            config.listeners[0].rules = vec![rule(subnet, Some(0))];
            config.listeners[0].accepting = from("127.0.0.0/8");
            let known = serde_json::json!({
                "workload": {"kind": "WorkloadEntry", "namespace": "n", "name": "far"}, "labels": {},
            });
            let known = serde_json::from_value(known).expect("a client");
            config.clients.insert(client.ip(), known);
        })
        .start();
    let answer = |client: SocketAddr| {
        let mut stream = connect(port.address);
        stream.write_all(&write(Version::V2, client, at(DIALLED), b"")).expect("written");
        let mut name = [0];
        stream.read_exact(&mut name).map(|()| name)
    };
    assert_eq!(answer(client).expect("served"), *b"a");
    assert!(answer(at("192.0.2.1:1")).is_err(), "no rule is for it");
    assert!(answer(at("127.0.0.1:1")).is_err(), "nor for who is the load balancer's address");
}

#[test]
fn a_workload_that_is_known_itself_is_no_other_by_a_header() {
    let port = reserve();
    let backend = Backend::named("a");
    let locals = Locals::default();
    let proxy = Setup::to(port.address, &[backend.address])
        .with(|config| {
            let labelled = serde_json::json!({"source_labels": {"app": "far"}});
            config.listeners[0].rules = vec![rule(labelled, Some(0))];
            config.listeners[0].accepting = from("127.0.0.0/8");
            for (name, address) in [("far", CLIENT), ("itself", "192.0.2.9:1")] {
                let client = serde_json::json!({
                    "workload": {"kind": "WorkloadEntry", "namespace": "n", "name": name},
                    "labels": {"app": name},
                });
                let client = serde_json::from_value(client).expect("a client");
                config.clients.insert(at(address).ip(), client);
            }
        })
        .start_knowing(Duration::from_millis(200), &locals);
    let named = || {
        let mut stream = connect(port.address);
        let header = write(Version::V2, at(CLIENT), at(DIALLED), b"");
        stream.write_all(&header).expect("written");
        stream.read_exact(&mut [0]).is_ok()
    };
    assert!(named(), "by one that is no workload");
    let any = connect(backend.address);
    let [own, peer] = [any.local_addr(), any.peer_addr()].map(|address| address.expect("one"));
    let id = cgroup_of_socket(own, peer).expect("sock_diag").expect("its cgroup");
    let key = SourceKey::Cgroup { id, level: 1 };
    let source = SourceId { namespace: "n".into(), name: "itself".into() };
    assert!(locals.set(vec![Local { key, directories: Vec::new(), source }]));
    proxy.forget();
    // Asked afterwards, it is answered afterwards.
    proxy.status().expect("a status");
    assert!(!named(), "it is itself");
    let refused = proxy.status().expect("a status").listeners[0].counts.refused;
    assert_eq!(refused[Refused::BadHeader as usize], 1);
}

#[test]
fn a_servers_connections_and_those_of_one_client_are_bounded() {
    let port = reserve();
    let backend = Backend::named("a");
    let proxy = Setup::to(port.address, &[backend.address])
        .with(|config| {
            let mut accepting = from("127.0.0.2");
            (accepting.most, accepting.most_of_client) = (Some(3), Some(2));
            config.listeners[0].accepting = accepting;
        })
        .start();
    // Who is refused may see the reset as early as at his connect.
    let open = || {
        let mut stream = connect_from(Ipv4Addr::LOCALHOST, port.address)?;
        stream.read_exact(&mut [0]).map(|()| stream)
    };
    let (one, two) = (open().expect("the first"), open().expect("the second"));
    assert!(open().is_err(), "a third of one address");
    // Another client, by the word of one who is believed.
    let behind = || {
        let mut stream = connect_from(Ipv4Addr::new(127, 0, 0, 2), port.address)?;
        stream.write_all(&write(Version::V2, at(CLIENT), at(DIALLED), b""))?;
        stream.read_exact(&mut [0]).map(|()| stream)
    };
    let three = behind().expect("another client");
    assert!(behind().is_err(), "the server is full");
    drop((one, two, three));
    status_when(&proxy, "all are closed", |status| status.active == 0);
    drop((open().expect("there is room again"), behind().expect("for all")));
    let refused = proxy.status().expect("a status").listeners[0].counts.refused;
    let of = |why: Refused| refused[why as usize];
    assert_eq!([Refused::ClientFull, Refused::ServerFull].map(of), [1, 1]);
}

/// Connects from an address.
fn connect_from(own: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from((own, 0)))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    Ok(stream)
}

#[test]
fn a_client_that_waits_for_the_server_is_served_where_a_rule_takes_it_without_a_name() {
    let port = reserve();
    let greeting = Backend::named("220 ready");
    let named = Backend::named("named");
    let _proxy = Setup::new(&[port.address])
        .route(&[(&[named.address], 1)])
        .route(&[(&[greeting.address], 1)])
        .with(|config| {
            config.listeners[0].sni = true;
            let hosts = |name: &str| serde_json::json!({"sni_hosts": [name]});
            config.listeners[0].rules =
                vec![rule(hosts("a.example"), Some(0)), rule(hosts("*"), Some(1))];
        })
        .start();
    let mut silent = connect(port.address);
    let mut greeted = [0; 9];
    silent.read_exact(&mut greeted).expect("a greeting");
    assert_eq!(&greeted, b"220 ready");
    // Who has begun to say a name is waited for.
    let hello = crate::tls::client_hello("a.example", 1 << 14);
    let mut slow = connect(port.address);
    slow.write_all(&hello[..9]).expect("written");
    std::thread::sleep(Duration::from_millis(300));
    slow.write_all(&hello[9..]).expect("written");
    let mut name = [0; 5];
    slow.read_exact(&mut name).expect("a name");
    assert_eq!(&name, b"named");
}
