//! Clients that dial all the time, and connections that stand for long.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::child::{self, Child};
use crate::figure;
use crate::kernel::unique;
use crate::scene::{ECHO, Scene};
use crate::socket::Socket;

/// Connections that are made without a pause until told otherwise.
#[derive(Debug)]
pub struct Load {
    until: PathBuf,
    clients: Vec<Child<Vec<(String, u64)>>>,
    begun: Instant,
}

impl Load {
    /// Starts so many clients in the client's cgroup of a scene.
    pub fn start(scene: &Scene, clients: usize) -> Self {
        let until = scene.redirector.directory().join(unique("stop"));
        let clients = (0..clients).map(|_| scene.load(&until)).collect();
        Self { until, clients, begun: Instant::now() }
    }

    /// Ends it. Whoever answered must be one of these, and each of them must have;
    /// says how many connections there were, and how fast.
    ///
    /// # Panics
    ///
    /// When another answered, or one of these never did.
    pub fn end(self, what: &str, rounds: usize, allowed: &[&str]) {
        fs::write(&self.until, "").expect("a file");
        let mut answers: BTreeMap<String, u64> = BTreeMap::new();
        for client in self.clients {
            for (answer, count) in client.join() {
                *answers.entry(answer).or_default() += count;
            }
        }
        let all: u64 = answers.values().sum();
        let seconds = self.begun.elapsed().as_secs_f64();
        let wrong: u64 = answers
            .iter()
            .filter(|(answer, _)| !allowed.contains(&answer.as_str()))
            .map(|(_, count)| count)
            .sum();
        figure!(
            "{what}: {rounds} rounds, {all} connections, {:.0}/s, {wrong} failed or astray",
            all as f64 / seconds
        );
        assert_eq!(wrong, 0, "{answers:?}");
        for wanted in allowed {
            assert!(answers.contains_key(*wanted), "{wanted} was never reached: {answers:?}");
        }
    }
}

/// A connection from outside to a gateway, which has heard the beginning of the name
/// of its server.
#[derive(Debug)]
pub struct Interrupted {
    stream: TcpStream,
}

impl Interrupted {
    /// Opens one; `name` begins the greeting of the server that it has to come to.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn open(gateway: SocketAddr, name: &str) -> Self {
        let mut stream = TcpStream::connect(gateway).expect("a connection");
        let mut greeting = vec![0; name.len()];
        stream.read_exact(&mut greeting).expect("a greeting");
        assert_eq!(greeting, name.as_bytes());
        Self { stream }
    }

    /// Hears the rest, over a relay that goes on in both directions.
    ///
    /// # Panics
    ///
    /// When it does not go on.
    pub fn go_on(mut self) {
        self.stream.write_all(b"still there").expect("written");
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).expect("the rest of the greeting");
        assert_ne!(rest, "");
    }
}

/// A connection that stays open, and a process that is asked now and then whether
/// `getpeername` still shows what it dialled.
#[derive(Debug)]
pub struct Standing {
    directory: PathBuf,
    child: Child<String>,
}

impl Standing {
    /// Opens one from the client's cgroup of a scene.
    ///
    /// # Panics
    ///
    /// When it cannot be opened.
    pub fn open(scene: &Scene) -> Self {
        let directory = scene.redirector.directory().join(unique("standing"));
        fs::create_dir(&directory).expect("a directory");
        let (ready, end) = (directory.join("ready"), directory.join("end"));
        let child = child::spawn(&scene.client(), move || {
            let echo: SocketAddr = ECHO.parse().expect("an address");
            let socket = Socket::stream(echo, 0).expect("a socket");
            socket.connect(echo).expect("a connection");
            fs::write(&ready, "").expect("a file");
            while !end.exists() && socket.peer().ok() == Some(echo) {
                thread::sleep(Duration::from_millis(5));
            }
            socket.peer().map_or_else(|error| error.to_string(), |peer| peer.to_string())
        });
        while !directory.join("ready").exists() {
            thread::sleep(Duration::from_millis(5));
        }
        Self { directory, child }
    }

    /// Closes it, and gives the peer that it saw: the first that was not what it
    /// dialled, or else that.
    ///
    /// # Panics
    ///
    /// When the process has failed.
    pub fn close(self) -> String {
        fs::write(self.directory.join("end"), "").expect("a file");
        self.child.join()
    }
}
