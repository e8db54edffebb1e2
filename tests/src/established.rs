//! Connections that are there until somebody else ends them, each in a network
//! namespace of its own.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::child::{self, Child, wait_for};
use crate::netns::{self, NetNs};

/// What an established connection's two ends see in the end.
pub type Ends = (String, String);

/// A connection.
#[derive(Debug)]
pub struct Established {
    child: Child<Ends>,
    /// Its ends look at what has become of it when this is there.
    until: PathBuf,
}

impl Established {
    /// Connects in a cgroup and a network namespace, where the endpoint that the
    /// address leads to is served, too. `directory` is for what the parts tell
    /// each other; `name` is the connection's own in it.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn new(
        (directory, name): (&Path, &str),
        cgroup: &Path,
        netns: &NetNs,
        address: SocketAddr,
        endpoint: SocketAddr,
    ) -> Self {
        let ready = directory.join(format!("{name}-ready"));
        let until = directory.join(format!("{name}-until"));
        let (is_ready, is_over) = (ready.clone(), until.clone());
        let namespace = netns.path();
        let child = child::spawn(cgroup, move || {
            netns::enter(&namespace);
            let listener = TcpListener::bind(endpoint).expect("the endpoint listens");
            let mut client = TcpStream::connect(address).expect("a connection");
            let (mut server, _) = listener.accept().expect("its other end");
            fs::write(&is_ready, "").expect("a file");
            wait_for(&is_over);
            (exchange(&mut client, &mut server), exchange(&mut server, &mut client))
        });
        wait_for(&ready);
        Self { child, until }
    }

    /// What has become of it by now.
    ///
    /// # Panics
    ///
    /// When the process that has it did.
    pub fn ends(self) -> Ends {
        fs::write(&self.until, "").expect("a file");
        self.child.join()
    }
}

/// Whether a byte gets from one end to the other; the error when not.
fn exchange(from: &mut TcpStream, to: &mut TcpStream) -> String {
    let mut byte = [0];
    let result = to
        .set_read_timeout(Some(Duration::from_secs(10)))
        .and_then(|()| from.write_all(b"x"))
        .and_then(|()| to.read_exact(&mut byte));
    result.map_or_else(|error| format!("{:?}", error.kind()), |()| "goes on".to_owned())
}

/// Nothing has become of it.
pub fn goes_on() -> Ends {
    ("goes on".to_owned(), "goes on".to_owned())
}

/// The client's end was aborted, and the server told so.
pub fn was_reset() -> Ends {
    ("ConnectionAborted".to_owned(), "ConnectionReset".to_owned())
}
