//! Names by whatever the machine uses: `getaddrinfo`, with every module of nsswitch. How
//! long an answer holds it does not say.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;

use super::{Addresses, Ask, Done, Looked, Missed};
use crate::confined::keep_none;

/// A lookup's stack: the resolver of the machine may be any library.
const STACK: usize = 512 << 10;

/// Each lookup is a thread, since it waits.
pub(super) struct System;

impl Ask for System {
    fn ask(&mut self, name: &Arc<str>, done: Done) -> io::Result<()> {
        let name = name.clone();
        let look_up = move || {
            keep_none();
            done(look_up(&name));
        };
        thread::Builder::new().name("name".into()).stack_size(STACK).spawn(look_up).map(drop)
    }

    fn has_changed(&mut self) -> bool {
        // It reads everything anew for each lookup.
        false
    }
}

fn look_up(name: &str) -> Looked {
    let found = (name, 0).to_socket_addrs();
    let found = found.map_err(|error| Missed { because: error.to_string(), ttl: None })?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|socket| socket.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(Addresses { addresses, ..Addresses::default() })
}
