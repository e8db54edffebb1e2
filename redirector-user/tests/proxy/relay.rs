//! What passes, and how connections end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendFlags, sockopt};

use crate::kit::*;
use crate::scale::Apart;

/// More than all buffers on the way can hold, so that both phases of the relay
/// and both kinds of waiting are met.
const BIG: usize = 24 << 20;

#[test]
fn big_transfers_arrive_byte_for_byte_in_both_directions_at_once() {
    let port = reserve();
    let backend = Backend::echo();
    let _proxy = Setup::to(port.address, &[backend.address]).start();
    let bytes = noise(1, BIG);
    let stream = connect(port.address);
    let mut writer = stream.try_clone().expect("a clone");
    let copy = bytes.clone();
    let writing = thread::spawn(move || {
        // Portions of all sizes: between copy and splice and back.
        let mut random = fastrand::Rng::with_seed(5);
        let mut rest = &copy[..];
        while !rest.is_empty() {
            let bits = random.u32(1..20);
            let (now, later) = rest.split_at(random.usize(1..=1 << bits).min(rest.len()));
            writer.write_all(now).expect("written");
            rest = later;
        }
        writer.shutdown(Shutdown::Write).expect("shut down");
    });
    let received = read_all(&stream).expect("everything");
    writing.join().expect("the writer");
    assert!(received == bytes, "{} of {} bytes", received.len(), bytes.len());
}

#[test]
fn a_slow_reader_gets_everything_and_slows_the_sender() {
    let port = reserve();
    let bytes = noise(2, BIG);
    let copy = bytes.clone();
    let backend = Backend::new(move |mut stream| stream.write_all(&copy).expect("written"));
    let proxy = Setup::to(port.address, &[backend.address]).start();
    let stream = connect(port.address);
    thread::sleep(Duration::from_millis(300));
    let received = proxy.status().expect("a status");
    assert_eq!(received.active, 1);
    assert!(read_all(&stream).expect("everything") == bytes);
    drop(stream);
    let status = status_when(&proxy, "closed", |status| status.active == 0);
    assert_eq!(status.legs[0].received, BIG as u64);
}

#[test]
fn a_client_that_finishes_writing_still_gets_the_answer() {
    let port = reserve();
    let backend = Backend::new(|mut stream| {
        let request = read_all(&stream).expect("the request and its end");
        stream.write_all(&request.len().to_string().into_bytes()).expect("written");
    });
    let _proxy = Setup::to(port.address, &[backend.address]).start();
    let mut stream = connect(port.address);
    stream.write_all(b"four").expect("written");
    stream.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(read_all(&stream).expect("the answer"), b"4");
}

#[test]
fn a_client_that_says_nothing_but_its_end_is_heard() {
    let port = reserve();
    let backend = Backend::new(|mut stream| {
        assert_eq!(read_all(&stream).expect("the end"), b"");
        stream.write_all(b"silence").expect("written");
    });
    let _proxy = Setup::to(port.address, &[backend.address]).start();
    let stream = connect(port.address);
    stream.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(read_all(&stream).expect("the answer"), b"silence");
}

#[test]
fn a_backend_that_finishes_writing_still_gets_the_rest() {
    let port = reserve();
    let (tell, told) = channel();
    let backend = Backend::new(move |mut stream| {
        stream.write_all(b"hello").expect("written");
        stream.shutdown(Shutdown::Write).expect("shut down");
        tell.send(read_all(&stream).expect("the rest")).expect("told");
    });
    let _proxy = Setup::to(port.address, &[backend.address]).start();
    let mut stream = connect(port.address);
    assert_eq!(read_all(&stream).expect("hello and its end"), b"hello");
    stream.write_all(b"after the end").expect("written");
    drop(stream);
    assert_eq!(told.recv_timeout(SOON).expect("told"), b"after the end");
}

#[test]
fn a_reset_by_the_client_reaches_the_backend() {
    let port = reserve();
    let (tell, told) = channel();
    let backend = Backend::new(move |mut stream| {
        let mut first = [0];
        stream.read_exact(&mut first).expect("a byte");
        tell.send(is_reset(&stream)).expect("told");
    });
    let _proxy = Setup::to(port.address, &[backend.address]).start();
    let mut stream = connect(port.address);
    stream.write_all(b"x").expect("written");
    thread::sleep(Duration::from_millis(50));
    reset(stream);
    assert!(told.recv_timeout(SOON).expect("told"));
}

#[test]
fn a_reset_by_the_backend_reaches_the_client_after_what_came_before() {
    let port = reserve();
    let backend = Backend::new(|mut stream| {
        stream.write_all(b"half an ans").expect("written");
        thread::sleep(Duration::from_millis(50));
        reset(stream);
    });
    let _proxy = Setup::to(port.address, &[backend.address]).start();
    let mut stream = connect(port.address);
    let mut begun = [0; 11];
    stream.read_exact(&mut begun).expect("what came before");
    assert!(is_reset(&stream));
}

#[test]
fn a_reset_seen_together_with_the_last_bytes_is_not_an_orderly_end() {
    let port = reserve();
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a backend");
    let proxy = Apart::new(port.address, listener.local_addr().expect("its address"), 100);
    for half_closed in [false, true] {
        let mut client = connect(port.address);
        client.write_all(b"?").expect("written");
        let (mut backend, _) = listener.accept().expect("a connection");
        backend.read_exact(&mut [0]).expect("the question");
        if half_closed {
            client.shutdown(Shutdown::Write).expect("shut down");
            assert_eq!(backend.read(&mut [0]).expect("the end"), 0);
        }
        proxy.meanwhile(|| {
            backend.write_all(b"half an ans").expect("written");
            reset(backend);
        });
        let error = read_all(&client).expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{half_closed}");
    }
}

#[test]
fn a_backend_that_dies_mid_stream_is_not_an_orderly_end() {
    let port = reserve();
    let bytes = noise(3, 8 << 20);
    let backend = Backend::new(move |mut stream| {
        stream.write_all(&bytes).expect("written");
        reset(stream);
    });
    let _proxy = Setup::to(port.address, &[backend.address]).start();
    let stream = connect(port.address);
    let error = read_all(&stream).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn writing_to_a_backend_that_has_closed_resets_the_client() {
    let port = reserve();
    let backend = Backend::new(drop);
    let proxy = Setup::to(port.address, &[backend.address]).start();
    let mut stream = connect(port.address);
    assert_eq!(read_all(&stream).expect("the end"), b"");
    let mut broken = || stream.write_all(b"into the void").is_err();
    eventually("the write fails", &mut broken);
    status_when(&proxy, "closed", |status| status.active == 0);
}

#[test]
fn a_byte_at_a_time_passes_at_once() {
    let port = reserve();
    let backend = Backend::echo();
    let _proxy = Setup::to(port.address, &[backend.address]).start();
    let mut stream = connect(port.address);
    for byte in 0..200u8 {
        stream.write_all(&[byte]).expect("written");
        let mut back = [0];
        stream.read_exact(&mut back).expect("echoed");
        assert_eq!(back, [byte]);
    }
}

#[test]
fn a_client_that_sends_a_byte_a_second_is_heard_at_each_and_is_not_idle() {
    let port = reserve();
    let (tell, told) = channel();
    // It says nothing: the client's bytes alone keep the connection.
    let backend = Backend::new(move |mut stream| {
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte) {
            let _ = tell.send(byte[0]);
        }
    });
    let _proxy = Setup::to(port.address, &[backend.address])
        .with(|config| config.routes[0].idle_timeout = Some(Duration::from_secs(3)))
        .start();
    let mut stream = connect(port.address);
    let seconds = soaking().map_or(5, |time| time.as_secs().min(250) as u8);
    for byte in 0..seconds {
        stream.write_all(&[byte]).expect("written");
        // The next one is not needed for it.
        assert_eq!(told.recv_timeout(SOON).expect("passed on"), byte);
        thread::sleep(Duration::from_secs(1));
    }
    stream.write_all(&[255]).expect("still there");
    assert_eq!(told.recv_timeout(SOON).expect("passed on"), 255);
}

#[test]
fn a_backend_that_speaks_first_is_heard() {
    let port = reserve();
    let backend = Backend::named("220 ready");
    let _proxy = Setup::to(port.address, &[backend.address]).start();
    let mut stream = connect(port.address);
    let mut greeting = [0; 9];
    stream.read_exact(&mut greeting).expect("a greeting");
    assert_eq!(&greeting, b"220 ready");
}

#[test]
fn a_client_that_never_reads_costs_a_bounded_amount() {
    let port = reserve();
    let (tell, told) = channel();
    let backend = Backend::new(move |mut stream| {
        stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let chunk = vec![7; 1 << 20];
        let mut written = 0usize;
        // The kernel's buffers are a few megabytes; the rest must stay here.
        while written < 256 << 20 && stream.write(&chunk).map(|n| written += n).is_ok() {}
        tell.send(written).expect("told");
    });
    let _proxy = Setup::to(port.address, &[backend.address]).start();
    let _stream = connect(port.address);
    let written = told.recv_timeout(SOON).expect("told");
    assert!(written < 64 << 20, "{written} bytes went somewhere");
}

#[test]
fn clients_that_close_at_any_stage_leave_nothing_behind() {
    let port = reserve();
    let backend = Backend::echo();
    let proxy = Setup::to(port.address, &[backend.address]).start();
    for round in 0..100 {
        let mut stream = connect(port.address);
        if round % 5 > 0 {
            stream.write_all(&noise(round, (round as usize % 7) * 3_000 + 1)).expect("written");
        }
        if round % 5 > 1 {
            let _ = stream.read(&mut [0; 100]);
        }
        if round % 2 == 0 {
            reset(stream);
        } else {
            finish(stream, round);
        }
    }
    let status = status_when(&proxy, "all are closed", |status| status.active == 0);
    assert_eq!(status.listeners[0].counts.accepted, 100);
    assert_eq!(status.legs[0].active, 0);
}

fn finish(stream: TcpStream, round: u64) {
    if round.is_multiple_of(3) {
        let _ = stream.shutdown(Shutdown::Write);
    }
    if round.is_multiple_of(7) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

#[test]
fn an_idle_connection_is_closed_after_its_time_and_a_busy_one_is_not() {
    let port = reserve();
    let backend = Backend::echo();
    let idle = Duration::from_millis(400);
    let _proxy = Setup::to(port.address, &[backend.address])
        .with(|config| config.routes[0].idle_timeout = Some(idle))
        .start();
    let silent = connect(port.address);
    let mut busy = connect(port.address);
    for _ in 0..10 {
        busy.write_all(b"x").expect("written");
        busy.read_exact(&mut [0]).expect("echoed");
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(read_all(&silent).expect("an orderly end"), b"");
    busy.write_all(b"y").expect("written");
    busy.read_exact(&mut [0]).expect("still there");
    assert_eq!(read_all(&busy).expect("an orderly end"), b"");
}

#[test]
fn a_connection_is_closed_after_its_longest_duration_however_busy() {
    let port = reserve();
    let backend = Backend::echo();
    let proxy = Setup::to(port.address, &[backend.address])
        .with(|config| config.routes[0].max_duration = Some(Duration::from_millis(300)))
        .start();
    let mut stream = connect(port.address);
    let mut alive = || stream.write_all(b"x").is_err() || stream.read_exact(&mut [0]).is_err();
    eventually("closed", &mut alive);
    status_when(&proxy, "gone", |status| status.active == 0);
}

#[test]
fn whatever_is_urgent_and_however_it_ends_nothing_is_lost_or_out_of_order() {
    let port = reserve();
    let (tell, told) = channel();
    let backend = TcpListener::bind("127.0.0.1:0").expect("a backend");
    // The urgent bytes where they were sent, so that their place can be seen.
    sockopt::set_socket_oobinline(&backend, true).expect("SO_OOBINLINE");
    let _proxy = Setup::to(port.address, &[backend.local_addr().expect("its address")]).start();
    thread::spawn(move || {
        for stream in backend.incoming() {
            let mut stream = stream.expect("a connection");
            let mut bytes = Vec::new();
            let end = stream.read_to_end(&mut bytes).map(drop);
            let answer = bytes.clone();
            if tell.send((bytes, end)).is_err() {
                return;
            }
            // To a client that has reset there is no way back.
            let _ = stream.write_all(&answer);
        }
    });
    let (connections, mut passed) = (if soaking().is_some() { 100_000 } else { 400 }, 0);
    for seed in 0..connections {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut stream = connect(port.address);
        let mut sent = Vec::new();
        for _ in 0..random.usize(1..16) {
            let bytes = noise(random.u64(..), 1 << random.u32(0..17));
            if random.u8(..3) == 0 {
                rustix::net::send(&stream, &bytes[..1], SendFlags::OOB).expect("an urgent byte");
                sent.push(bytes[0]);
            } else {
                stream.write_all(&bytes).expect("written");
                sent.extend(bytes);
            }
            // Alone, or with what follows.
            if random.bool() {
                thread::yield_now();
            }
        }
        let open = if seed % 4 == 3 {
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("SO_LINGER");
            drop(stream);
            None
        } else {
            stream.shutdown(Shutdown::Write).expect("shut down");
            Some(stream)
        };
        let (bytes, end) = told.recv_timeout(SOON).expect("its end");
        let Some(stream) = open else {
            assert!(sent.starts_with(&bytes), "seed {seed}");
            assert!(end.is_err(), "seed {seed}: a reset is no end");
            continue;
        };
        assert!(end.is_ok() && bytes == sent, "seed {seed}: {} of {}", bytes.len(), sent.len());
        let back = read_all(&stream).expect("the answer to who has ended");
        assert!(back == sent, "seed {seed}: {} of {} came back", back.len(), sent.len());
        passed += sent.len() + back.len();
    }
    eprintln!(
        "figure: {connections} connections, {passed} bytes passed, none lost or out of order"
    );
}

#[test]
fn an_urgent_byte_is_urgent_to_the_backend_too_and_no_part_of_the_stream() {
    let port = reserve();
    let (tell, told) = channel();
    let backend = Backend::new(move |stream| {
        let mut fds = [PollFd::new(&stream, PollFlags::PRI)];
        poll(&mut fds, None).expect("urgent data");
        let mut byte = [0];
        rustix::net::recv(&stream, &mut byte[..], RecvFlags::OOB).expect("the urgent byte");
        tell.send((byte[0], read_all(&stream).expect("the stream"))).expect("somebody listens");
    });
    let _proxy = Setup::to(port.address, &[backend.address]).start();
    // At the beginning, too, before there is a connection to the backend.
    for before in ["hello", ""] {
        let mut stream = connect(port.address);
        stream.write_all(before.as_bytes()).expect("written");
        rustix::net::send(&stream, b"X", SendFlags::OOB).expect("an urgent byte");
        stream.write_all(&[b'.'; 700]).expect("written");
        stream.shutdown(Shutdown::Write).expect("shut down");
        let (urgent, stream) = told.recv_timeout(SOON).expect("its end");
        let expected = [before.as_bytes(), &[b'.'; 700]].concat();
        assert!(urgent == b'X' && stream == expected, "{urgent} in {stream:?}");
    }
}
