//! What stands behind the gateways: one thread that sends back what comes to
//! its first port and swallows what comes to its second.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use anyhow::Result;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use slab::Slab;

struct Stream {
    socket: OwnedFd,
    echoes: bool,
}

/// Serves for ever.
pub fn run(echo: SocketAddr, sink: SocketAddr) -> Result<Infallible> {
    const LISTENERS: u64 = 1 << 32;
    let listeners = [TcpListener::bind(echo)?, TcpListener::bind(sink)?];
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    for (place, listener) in listeners.iter().enumerate() {
        let data = EventData::new_u64(LISTENERS + place as u64);
        epoll::add(&epoll, listener, data, EventFlags::IN)?;
    }
    println!("ready");
    let mut streams: Slab<Stream> = Slab::new();
    let mut events = Vec::with_capacity(256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let token = event.data.u64();
            if token >= LISTENERS {
                let place = (token - LISTENERS) as usize;
                let socket = accept_with(&listeners[place], SocketFlags::CLOEXEC)?;
                let entry = streams.vacant_entry();
                let data = EventData::new_u64(entry.key() as u64);
                epoll::add(&epoll, &socket, data, EventFlags::IN)?;
                sockopt::set_tcp_nodelay(&socket, true)?;
                entry.insert(Stream { socket, echoes: place == 0 });
                continue;
            }
            let key = token as usize;
            let stream = &streams[key];
            let done = match recv(&stream.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, 0)) | Err(_) => true,
                Ok((_, count)) => {
                    stream.echoes
                        && send(&stream.socket, &buffer[..count], SendFlags::NOSIGNAL).is_err()
                }
            };
            if done {
                streams.remove(key);
            }
        }
    }
}
