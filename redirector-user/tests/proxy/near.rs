//! Send buffers: small for receivers on this machine, the kernel's own for
//! those at the end of a cable.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redirector::proxy::Proxy;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::net::sockopt;

use crate::kit::*;

/// What the proxy asks for, in bytes; the kernel doubles it and bounds it.
const SMALL: usize = 256 << 10;

/// The send buffer of the relay's socket that is connected to `peer`.
fn send_buffer_to(proxy: &Proxy, peer: SocketAddr) -> Option<usize> {
    sockopt::socket_send_buffer_size(socket_to(proxy, peer)?).ok()
}

/// Swallows what comes.
fn sink(mut stream: TcpStream) {
    let _ = io::copy(&mut stream, &mut io::sink());
}

#[test]
fn a_bulky_direction_to_a_receiver_on_this_machine_has_a_small_send_buffer() {
    let most = std::fs::read_to_string("/proc/sys/net/core/wmem_max").expect("a setting");
    let bound = 2 * SMALL.min(most.trim().parse().expect("a number"));
    let port = reserve();
    let backend = Backend::new(sink);
    let proxy = Setup::to(port.address, &[backend.address]).start();
    let data = vec![7; 64 << 10];
    // On a busy machine even a loopback round trip can be long for once.
    eventually("a small send buffer", || {
        let mut client = connect(port.address);
        client.write_all(&data[..100]).expect("written");
        eventually("it is connected", || send_buffer_to(&proxy, backend.address).is_some());
        let before = send_buffer_to(&proxy, backend.address);
        for _ in 0..64 {
            client.write_all(&data).expect("written");
        }
        let after = send_buffer_to(&proxy, backend.address);
        drop(client);
        eventually("it is closed", || send_buffer_to(&proxy, backend.address).is_none());
        before != Some(bound) && after == Some(bound)
    });
}

/// The kernel's tunnel driver. Containers often have no node for it, though the
/// kernel has the driver: then one is made for the moment.
fn tunnel() -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    match options.open("/dev/net/tun") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = tempfile::tempdir()?;
            let node = directory.path().join("tun");
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, &node, FileType::CharacterDevice, mode, makedev(10, 200))?;
            options.open(node)
        }
        device => device,
    }
}

/// A network namespace of the calling thread's own, and its end of a cable.
fn far_end(ip: &str) -> io::Result<File> {
    own_network()?;
    let device = tunnel()?;
    // SAFETY: all zeros is an unnamed interface; the structure outlives the
    // call, which writes no more than it.
    let made = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"cable") {
            *to = *from as _;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as _;
        libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request)
    };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    let commands =
        [format!("address add {ip}/24 dev cable"), "link set cable mtu 9000 up".to_owned()];
    for command in commands {
        // Started by this thread, so in its namespace.
        let status = Command::new("ip").args(command.split(' ')).status()?;
        assert!(status.success(), "ip {command}");
    }
    Ok(device)
}

/// Carries packets between two ends, each for as long as the cable is.
fn carry(mut ends: [File; 2], delay: Duration, cut: &AtomicBool) {
    let mut under_way = [VecDeque::new(), VecDeque::new()];
    let mut packet = vec![0; 10_000];
    while !cut.load(Ordering::Relaxed) {
        for (end, packets) in ends.iter_mut().zip(&mut under_way) {
            while let Ok(length) = end.read(&mut packet) {
                packets.push_back((Instant::now() + delay, packet[..length].to_vec()));
            }
        }
        for (end, packets) in ends.iter_mut().rev().zip(&mut under_way) {
            while packets.front().is_some_and(|(due, _)| *due <= Instant::now()) {
                let (_, packet) = packets.pop_front().expect("just seen");
                // A full queue drops packets, as it does anywhere.
                let _ = end.write(&packet);
            }
        }
        thread::sleep(Duration::from_micros(200));
    }
}

#[test]
#[ignore = "needs root"]
fn a_bulky_direction_to_a_far_receiver_keeps_the_send_buffer_that_the_kernel_chooses() {
    let far = thread::spawn(|| {
        let device = far_end("198.18.0.2").expect("the far end");
        let ip: IpAddr = [198, 18, 0, 2].into();
        (device, TcpListener::bind((ip, 0)).expect("a backend"))
    });
    let (far, listener) = far.join().expect("the far end");
    let backend = listener.local_addr().expect("its address");
    thread::spawn(move || listener.accept().map(|(stream, _)| sink(stream)));
    // This thread, and those of the proxy, are at the near end.
    let near = far_end("198.18.0.1").expect("the near end");
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = Arc::clone(&cut);
    let cable = thread::spawn(move || carry([near, far], Duration::from_millis(2), &is_cut));
    let port = reserve();
    let proxy = Setup::to(port.address, &[backend]).start();
    let mut client = connect(port.address);
    let data = vec![7; 64 << 10];
    let mut most = 0;
    // Well past where a direction becomes bulky, it grows with what is under way.
    for sent in 0..1024 {
        client.write_all(&data).expect("written");
        most = most.max(send_buffer_to(&proxy, backend).unwrap_or(0));
        if sent > 64 && most > 2 * SMALL {
            break;
        }
    }
    drop(client);
    drop(proxy);
    cut.store(true, Ordering::Relaxed);
    cable.join().expect("the cable");
    assert!(most > 2 * SMALL, "{most} bytes are not enough for a far receiver");
}
