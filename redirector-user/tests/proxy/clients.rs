//! Real clients and servers behind a gateway with an 80/20 split: curl, socat,
//! Redis and PostgreSQL from the system's packages.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use redirector::proxy::Proxy;

use crate::kit::*;

/// The output of a command that must succeed.
#[track_caller]
fn output(command: &mut Command) -> String {
    let result = command.stderr(Stdio::piped()).output();
    let output = result.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// A server process, killed in the end.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> Server {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn();
    Server(child.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}")))
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("its address")
}

/// A gateway that sends four fifths to the first.
fn split(gateway: SocketAddr, a: SocketAddr, b: SocketAddr) -> Proxy {
    Setup::new(&[gateway]).route(&[(&[a], 80), (&[b], 20)]).start()
}

/// Whether about four fifths of the answers are the first one's: four standard
/// deviations, and a fifth may not be nobody.
#[track_caller]
fn assert_split(answers: &[String]) {
    let a = answers.iter().filter(|answer| answer.trim() == "a").count() as f64;
    let b = answers.iter().filter(|answer| answer.trim() == "b").count() as f64;
    let count = answers.len() as f64;
    assert_eq!(a + b, count, "{answers:?}");
    assert!((a - 0.8 * count).abs() <= 4.0 * (count * 0.16).sqrt(), "{a} of {count}");
}

#[test]
#[ignore = "needs curl"]
fn curl_gets_its_pages() {
    let port = reserve();
    let web = |name: &'static str| {
        Backend::new(move |mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", name.len());
            let _ = write!(stream, "{head}Connection: close\r\n\r\n{name}");
        })
    };
    let (a, b) = (web("a"), web("b"));
    let _proxy = split(port.address, a.address, b.address);
    let url = format!("http://{}/", port.address);
    let curl = || output(Command::new("curl").args(["--silent", "--show-error", "--fail", &url]));
    let answers: Vec<_> = (0..100).map(|_| curl()).collect();
    assert_split(&answers);
}

#[test]
#[ignore = "needs socat"]
fn socat_gets_everything_back_and_the_end() {
    let port = reserve();
    let echo = Backend::echo();
    let _proxy = Setup::to(port.address, &[echo.address]).start();
    let mut socat = Command::new("socat")
        .args(["-t", "20", "-", &format!("TCP:{}", port.address)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("socat");
    let bytes = noise(9, 3 << 20);
    let mut stdin = socat.stdin.take().expect("its input");
    let copy = bytes.clone();
    let writing = std::thread::spawn(move || stdin.write_all(&copy).expect("written"));
    let mut back = Vec::new();
    socat.stdout.take().expect("its output").read_to_end(&mut back).expect("read");
    writing.join().expect("written");
    assert!(socat.wait().expect("socat ends").success());
    assert!(back == bytes, "{} of {} bytes", back.len(), bytes.len());
}

#[test]
#[ignore = "needs redis-server and redis-cli"]
fn redis_serves_through_a_split_gateway() {
    let port = reserve();
    let directory = tempfile::tempdir().expect("a directory");
    let cli = |at: SocketAddr| {
        let mut command = Command::new("redis-cli");
        command.args(["-h", &at.ip().to_string(), "-p", &at.port().to_string()]);
        command
    };
    let redis = |name: &str| {
        let at = free();
        let mut command = Command::new("redis-server");
        command.args(["--port", &at.port().to_string(), "--bind", "127.0.0.1", "--save", ""]);
        let server = start(command.arg("--dir").arg(directory.path()));
        let up = || cli(at).arg("ping").output().is_ok_and(|o| o.stdout.starts_with(b"PONG"));
        eventually("redis answers", up);
        output(cli(at).args(["set", "who", name]));
        (at, server)
    };
    let ((a, _a), (b, _b)) = (redis("a"), redis("b"));
    let _proxy = split(port.address, a, b);
    let answers: Vec<_> =
        (0..100).map(|_| output(cli(port.address).args(["get", "who"]))).collect();
    assert_split(&answers);
    // One connection, kept, with a large value there and back.
    let value = "v".repeat(100_000);
    let said = output(cli(port.address).args(["set", "large", &value]));
    assert_eq!(said.trim(), "OK");
    let lines = output(cli(port.address).args(["-r", "500", "incr", "counter"]));
    assert_eq!(lines.lines().count(), 500);
    assert_eq!(lines.lines().last(), Some("500"));
}

/// Where Debian keeps the programs of PostgreSQL's newest version.
fn postgres_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).max();
    newest.expect("a version of PostgreSQL")
}

/// PostgreSQL refuses to be root.
fn unprivileged(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command
}

#[test]
#[ignore = "needs postgresql"]
fn postgresql_serves_through_a_split_gateway() {
    let port = reserve();
    let programs = postgres_programs();
    let directory = tempfile::tempdir().expect("a directory");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(directory.path(), everybody).expect("a mode");
    let psql = |at: SocketAddr, query: &str| {
        let mut command = Command::new(programs.join("psql"));
        command.args(["-h", &at.ip().to_string(), "-p", &at.port().to_string()]);
        command.args(["-U", "test", "-d", "postgres", "-At", "-c", query]);
        command
    };
    let postgres = |name: &str| {
        let at = free();
        let data = directory.path().join(name);
        let mut initdb = unprivileged(&programs.join("initdb"));
        initdb.args(["-U", "test", "-A", "trust", "--no-sync", "-D"]).arg(&data);
        output(&mut initdb);
        let mut command = unprivileged(&programs.join("postgres"));
        command.args(["-h", "127.0.0.1", "-k", "", "-F", "-p", &at.port().to_string()]);
        command.args(["-c", &format!("cluster_name={name}"), "-D"]).arg(&data);
        let server = start(&mut command);
        let up = || psql(at, "select 1").output().is_ok_and(|output| output.status.success());
        eventually("PostgreSQL answers", up);
        (at, server)
    };
    let ((a, _a), (b, _b)) = (postgres("a"), postgres("b"));
    let _proxy = split(port.address, a, b);
    let answers: Vec<_> = (0..60)
        .map(|_| output(&mut psql(port.address, "select current_setting('cluster_name')")))
        .collect();
    assert_split(&answers);
    let rows =
        output(&mut psql(port.address, "select repeat('x', 1000) from generate_series(1, 5000)"));
    assert_eq!(rows.len(), 5_000 * 1_001);
}
