//! Routes by the server name of a ClientHello.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use redirector::proxy::Proxy;
use serde_json::json;

use crate::kit::*;

/// A ClientHello for `name`, in records of at most `record` bytes.
pub fn client_hello(name: &str, record: usize) -> Vec<u8> {
    let prefixed = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let host = [&[0][..], &prefixed(name.as_bytes())].concat();
    let sni = [&[0, 0][..], &prefixed(&prefixed(&host))].concat();
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 0x01, 1, 0], &prefixed(&sni)].concat();
    let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    message.chunks(record).flat_map(|part| [&[22, 3, 1][..], &prefixed(part)].concat()).collect()
}

/// A gateway that sends a.example and b.example to echoing backends that say
/// their names afterwards, and refuses everything else.
fn gateway(address: SocketAddr) -> (Proxy, [Backend; 2]) {
    let backends = ["a", "b"].map(|name| {
        Backend::new(move |mut stream| {
            let mut hello = vec![0; 2000];
            let count = stream.read(&mut hello).expect("a hello");
            stream.write_all(&hello[..count]).expect("echoed");
            stream.write_all(name.as_bytes()).expect("written");
        })
    });
    let proxy = Setup::new(&[address])
        .route(&[(&[backends[0].address], 1)])
        .route(&[(&[backends[1].address], 1)])
        .with(|config| {
            config.listeners[0].sni = true;
            let named = |name| json!({"sni_hosts": [name]});
            let rules = [("a.example", 0), ("b.example", 1)];
            let rules = rules.map(|(name, route)| rule(named(name), Some(route)));
            config.listeners[0].rules = rules.into();
        })
        .start();
    (proxy, backends)
}

#[test]
fn the_server_name_chooses_the_route_and_no_byte_is_touched() {
    let port = reserve();
    let _gateway = gateway(port.address);
    for (name, backend) in [("a.example", b'a'), ("B.Example", b'b')] {
        for record in [1 << 14, 10, 1] {
            let hello = client_hello(name, record);
            let mut stream = connect(port.address);
            stream.write_all(&hello).expect("written");
            let mut answer = read_all(&stream).expect("an answer");
            assert_eq!(answer.pop(), Some(backend), "{name}");
            assert!(answer == hello, "{name} in records of {record}");
        }
    }
}

#[test]
fn a_hello_that_comes_in_pieces_is_waited_for() {
    let port = reserve();
    let _gateway = gateway(port.address);
    let hello = client_hello("b.example", 20);
    let mut stream = connect(port.address);
    for piece in hello.chunks(hello.len() / 8) {
        stream.write_all(piece).expect("written");
        thread::sleep(Duration::from_millis(20));
    }
    let mut answer = read_all(&stream).expect("an answer");
    assert_eq!(answer.pop(), Some(b'b'));
    assert!(answer == hello);
}

#[test]
fn an_unknown_name_and_no_name_are_refused() {
    let port = reserve();
    let (proxy, _backends) = gateway(port.address);
    for name in ["c.example", ""] {
        let mut stream = connect(port.address);
        stream.write_all(&client_hello(name, 1 << 14)).expect("written");
        assert!(is_reset(&stream), "{name:?}");
    }
    let status = status_when(&proxy, "closed", |status| status.active == 0);
    assert_eq!(status.listeners[0].counts.refused.iter().sum::<u64>(), 2);
}

#[test]
fn a_megabyte_of_noise_is_refused_early() {
    let port = reserve();
    let (proxy, _backends) = gateway(port.address);
    for (seed, start) in [&[][..], &[22], &[22, 3, 1, 0x3f, 0xff, 1, 0, 0x40, 0]].iter().enumerate()
    {
        let mut noise = noise(seed as u64, 1 << 20);
        noise[..start.len()].copy_from_slice(start);
        let mut stream = connect(port.address);
        // A reset is told once: to the write or to the read.
        let written = stream.write_all(&noise);
        assert!(written.is_err() || read_all(&stream).is_err(), "{start:?}");
    }
    let status = status_when(&proxy, "closed", |status| status.active == 0);
    assert_eq!(status.listeners[0].counts.refused.iter().sum::<u64>(), 3);
}

#[test]
fn a_client_that_does_not_say_hello_is_given_up() {
    let port = reserve();
    let (proxy, _backends) = gateway(port.address);
    let silent = connect(port.address);
    let mut slow = connect(port.address);
    let (tell, told) = channel();
    let writing = thread::spawn(move || {
        // Longer than the gateway waits, in all.
        for byte in client_hello("a.example", 1 << 14) {
            if told.try_recv().is_ok() {
                break;
            }
            if slow.write_all(&[byte]).is_err() {
                return true;
            }
            thread::sleep(Duration::from_millis(25));
        }
        read_all(&slow).is_err()
    });
    assert!(is_reset(&silent));
    status_when(&proxy, "both are gone", |status| status.active == 0);
    // It may have noticed already.
    let _ = tell.send(());
    assert!(writing.join().expect("the slow client"), "a byte at a time does not help");
    let gone = connect(port.address);
    drop(gone);
    status_when(&proxy, "closed", |status| status.active == 0);
}
