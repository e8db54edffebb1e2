//! Many connections, few descriptors.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZero;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::kit::*;

#[test]
fn thousands_of_connections_at_once_are_served() {
    // Two descriptors for each, in this process and in the proxy's, which also keeps
    // 128 from connections: ten thousand need a limit of 20,600, and where the hard
    // limit is lower and cannot be raised, it is as many as it allows.
    let count = (2 * room()).min(if soaking().is_some() { 10_000 } else { 1_000 });
    assert!(count >= 1_000, "the hard limit of descriptors allows only {count} connections");
    let port = reserve();
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a backend");
    let backend = listener.local_addr().expect("its address");
    let serving = thread::spawn(move || {
        let mut held = Vec::new();
        for _ in 0..count {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut number = [0; 8];
            stream.read_exact(&mut number).expect("a number");
            stream.write_all(&number).expect("echoed");
            held.push(stream);
        }
        held
    });
    let proxy = Apart::new(port.address, backend, 2 * count as u64 + 128 + 100);
    let mut clients = Vec::new();
    for number in 0..count as u64 {
        let mut stream = connect(port.address);
        stream.write_all(&number.to_be_bytes()).expect("written");
        clients.push(stream);
    }
    for (number, mut client) in clients.iter().enumerate() {
        let mut back = [0; 8];
        client.read_exact(&mut back).expect("echoed");
        assert_eq!(u64::from_be_bytes(back), number as u64);
    }
    assert!(proxy.descriptors() >= 2 * count, "all are open at once");
    eprintln!("figure: {count} connections, all at once and each served");
    drop(clients);
    drop(serving.join().expect("the backend"));
    eventually("all are closed", || proxy.descriptors() < 100);
}

/// A proxy in a process of its own, which has only so many descriptors.
pub struct Apart {
    child: Child,
    /// The process that relays.
    pub relay: Pid,
}

impl Apart {
    /// One that relays to this endpoint and may have so many descriptors.
    pub fn new(listen: SocketAddr, endpoint: SocketAddr, descriptors: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "scale::proxy_in_a_process_of_its_own", "--ignored", "--nocapture"])
            .env("LISTEN", listen.to_string())
            .env("ENDPOINT", endpoint.to_string())
            .env("DESCRIPTORS", descriptors.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        let mut lines = stdout.lines();
        let relay = lines.find_map(|line| {
            let line = line.expect("text");
            line.strip_prefix("listening: ").and_then(|pid| pid.parse().ok())
        });
        let relay = relay.and_then(Pid::from_raw).expect("the child did not come up");
        thread::spawn(move || lines.for_each(drop));
        Self { child, relay }
    }

    /// Does something while the proxy stands still: it will see all of it at
    /// once.
    pub fn meanwhile(&self, act: impl FnOnce()) {
        let pid = self.relay;
        kill_process(pid, Signal::STOP).expect("stopped");
        eventually("it stands still", || self.status("State:").contains("T (stopped)"));
        act();
        kill_process(pid, Signal::CONT).expect("continued");
    }

    /// The number that follows `name` in its /proc/PID/status, in KiB.
    fn memory(&self, name: &str) -> u64 {
        let line = self.status(name);
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }

    /// The line of its /proc/PID/status that begins with `name`.
    fn status(&self, name: &str) -> String {
        let path = format!("/proc/{}/status", self.relay.as_raw_nonzero());
        let status = std::fs::read_to_string(path).expect("its status");
        status.lines().find(|line| line.starts_with(name)).expect(name).to_owned()
    }

    /// How many descriptors it has.
    fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.relay.as_raw_nonzero());
        std::fs::read_dir(path).expect("its descriptors").count()
    }

    /// The processor time it has used so far.
    fn time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.relay.as_raw_nonzero());
        let stat = std::fs::read_to_string(path).expect("its stat");
        let (_, rest) = stat.rsplit_once(") ").expect("a name in parentheses");
        let ticks = |n: usize| rest.split(' ').nth(n).and_then(|t| t.parse::<u64>().ok());
        let ticks = ticks(11).expect("utime") + ticks(12).expect("stime");
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "the child process of other tests"]
fn proxy_in_a_process_of_its_own() {
    if std::env::var_os("LISTEN").is_none() {
        // All ignored tests were asked for: this is not one.
        return;
    }
    let variable = |name: &str| std::env::var(name).expect(name);
    let listen = variable("LISTEN").parse().expect("an address");
    let endpoint = variable("ENDPOINT").parse().expect("an address");
    let descriptors = variable("DESCRIPTORS").parse().expect("a number");
    let limit = Rlimit { current: Some(descriptors), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).expect("a limit");
    let proxy = Setup::to(listen, &[endpoint]).start();
    println!("\nlistening: {}", relay(&proxy).as_raw_nonzero());
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn running_out_of_descriptors_is_survived_without_spinning() {
    room();
    // The last one goes to a client, or to the connection to its endpoint.
    for descriptors in [60, 61] {
        run_out_of(descriptors);
    }
}

fn run_out_of(descriptors: u64) {
    let port = reserve();
    let backend = Backend::named("a");
    let proxy = Apart::new(port.address, backend.address, descriptors);
    let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(port.address)).collect();
    let (mut count, mut lost) = (0, 0);
    let mut look = || {
        for mut client in clients.iter().flatten() {
            client.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
            match client.read(&mut [0]) {
                Ok(1) => count += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => lost += 1,
            }
        }
        (count, lost)
    };
    eventually("some are served", || look().0 >= 10);
    let before = proxy.time();
    thread::sleep(Duration::from_secs(1));
    let used = proxy.time() - before;
    assert!(used < Duration::from_millis(500), "{used:?} of 1 s while out of descriptors");
    let (count, lost) = look();
    assert!(count < 40, "{count} connections fit into {descriptors} descriptors");
    // Each worker notices with the first that is one of those kept back, and tries at
    // times whether there is another.
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let most = descriptors as usize - descriptors as usize / 4 + 2 * workers;
    assert!(proxy.descriptors() <= most, "{} of {descriptors}", proxy.descriptors());
    assert_eq!(lost, 0, "the others wait for their turn");
    drop(clients);
    let fine = || {
        let mut stream = TcpStream::connect(port.address)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.read_exact(&mut [0])
    };
    eventually("a new connection is served", || fine().is_ok());
    eventually("and many more", || (0..30).all(|_| fine().is_ok()));
}

#[test]
fn an_idle_connection_costs_less_than_four_kibibytes() {
    const COUNT: usize = 1_000;
    assert!(room() >= COUNT);
    let port = reserve();
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a backend");
    let backend = listener.local_addr().expect("its address");
    thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            stream.write_all(b"a").expect("written");
            held.push(stream);
        }
    });
    let proxy = Apart::new(port.address, backend, 4 * COUNT as u64);
    let open = |count: usize| -> Vec<TcpStream> {
        // One after the other: all at once they would overflow the backend's queue.
        let served = |_| {
            let mut stream = connect(port.address);
            stream.read_exact(&mut [0]).expect("served");
            stream
        };
        (0..count).map(served).collect()
    };
    let _warm = open(20);
    let before = proxy.memory("VmRSS:");
    let _idle = open(COUNT);
    let grown = proxy.memory("VmRSS:").saturating_sub(before);
    assert!(grown < 4 * COUNT as u64, "{grown} KiB for {COUNT} connections");
    println!("{} bytes for each idle connection", grown * 1024 / COUNT as u64);
}
