//! Databases, as Debian packages them: real servers and their clients, in a network
//! namespace, as nobody (PostgreSQL refuses to be root), in a directory of their own.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::netns::NetNs;

/// The user and group "nobody".
const NOBODY: u32 = 65534;

/// A command in a namespace, as nobody; it becomes the program, and keeps its process id.
fn command(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "setpriv", "--clear-groups"]);
    command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("this is root");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).expect("its mode");
    directory
}

fn succeeds(command: &mut Command) {
    let status = command.status().expect("cargo xtask setup installs it");
    assert!(status.success(), "{command:?}: {status}");
}

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits for something of a server; if it does not come, says what the server has said.
fn wait_until(server: &Server, what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "{what} does not answer: {}", server.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A server process, which ends when this is dropped.
#[derive(Debug)]
struct Server {
    child: Child,
    /// Its stderr.
    said: File,
}

impl Server {
    fn start(mut command: Command) -> Self {
        let said = tempfile::tempfile().expect("a file");
        command.stderr(said.try_clone().expect("a descriptor"));
        Self { child: command.spawn().expect("cargo xtask setup installs it"), said }
    }

    /// The last of what it said.
    fn said(&self) -> String {
        let end = self.said.metadata().map_or(0, |file| file.len());
        let mut text = vec![0; 4096];
        // Its offset is the server's, too.
        let read = self.said.read_at(&mut text, end.saturating_sub(4096)).unwrap_or_default();
        String::from_utf8_lossy(text.get(..read).unwrap_or_default()).into_owned()
    }

    /// Ends it by a signal, or at last by force.
    fn end(&mut self, signal: libc::c_int) {
        let begun = Instant::now();
        let mut signalled = false;
        while self.child.try_wait().expect("it is a child").is_none() {
            if !signalled {
                let pid = libc::pid_t::try_from(self.child.id()).expect("a process id");
                // SAFETY: a system call on numbers; the child was not waited for, so the id is its.
                unsafe { libc::kill(pid, signal) };
                signalled = true;
            }
            if begun.elapsed() > LIMIT {
                let _ = self.child.kill();
                let _ = self.child.wait();
                // Only one panic can be told.
                let told = std::thread::panicking();
                assert!(told, "it does not end by signal {signal}: {}", self.said());
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // PostgreSQL ends at once, without a checkpoint; MariaDB takes it for a crash.
        self.end(libc::SIGQUIT);
    }
}

/// A PostgreSQL server; its user is `app`, its database `postgres`.
#[derive(Debug)]
pub struct PostgreSql {
    namespace: String,
    at: SocketAddr,
    /// Unless it was stopped.
    server: Option<Server>,
    data: TempDir,
}

impl PostgreSql {
    /// A new one, which can be written to.
    ///
    /// # Panics
    ///
    /// When it does not start, for instance because it is not installed.
    pub fn primary(netns: &NetNs, at: SocketAddr) -> Self {
        let mut this = Self::stopped(netns.name(), at);
        let mut initdb = this.program("initdb");
        succeeds(
            initdb
                .args(["-U", "app", "-A", "trust", "--no-sync", "--no-locale", "-D"])
                .arg(this.data.path()),
        );
        this.append("pg_hba.conf", "host all all all trust\nhost replication all all trust\n");
        this.start();
        this
    }

    /// A replica of it, by streaming replication.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn replica(&self, at: SocketAddr) -> Self {
        let mut this = Self::stopped(&self.namespace, at);
        let mut copy = this.program("pg_basebackup");
        copy.args(["-U", "app", "-R", "--no-sync", "-c", "fast", "-X", "stream"]);
        copy.args(["-h", &self.at.ip().to_string(), "-p", &self.at.port().to_string(), "-D"]);
        succeeds(copy.arg(this.data.path()));
        this.start();
        this
    }

    /// It becomes a primary: returns when it can be written to.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn promote(&self) {
        assert_eq!(self.ask("select pg_promote()").as_deref(), Some("t"), "it was a replica");
    }

    /// It takes no more writes, and goes on with all its connections.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn demote(&self) {
        let set = "alter system set default_transaction_read_only = on";
        assert!(self.ask(set).is_some() && self.ask("select pg_reload_conf()").is_some());
        self.wait_until("the new setting", || {
            self.ask("show default_transaction_read_only").as_deref() == Some("on")
        });
    }

    /// Returns when its replicas have all that was written.
    ///
    /// # Panics
    ///
    /// When they do not get it, or there is none.
    pub fn wait_for_replicas(&self) {
        let all = "select bool_and(replay_lsn >= pg_current_wal_lsn()) from pg_stat_replication";
        self.wait_until("the replica", || self.ask(all).as_deref() == Some("t"));
    }

    /// Ends in order: all that was written is with the replicas.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.end(libc::SIGINT);
        }
    }

    /// Having been stopped, it starts again, as a replica of another one.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn follow(&mut self, primary: &Self) {
        let SocketAddr::V4(at) = primary.at else { panic!("an IPv4 address") };
        let (ip, port) = (at.ip(), at.port());
        let from = format!("primary_conninfo = 'host={ip} port={port} user=app'\n");
        self.append("postgresql.auto.conf", &from);
        self.append("standby.signal", "");
        self.start();
    }

    /// What it answers to a query, without an application's detours.
    fn ask(&self, query: &str) -> Option<String> {
        let mut psql = self.program("psql");
        psql.args(["-U", "app", "-d", "postgres", "-At", "-c", query]);
        psql.args(["-h", &self.at.ip().to_string(), "-p", &self.at.port().to_string()]);
        let output = psql.stdout(Stdio::piped()).output().expect("psql");
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(said)
    }

    fn stopped(namespace: &str, at: SocketAddr) -> Self {
        Self { namespace: namespace.to_owned(), at, server: None, data: directory() }
    }

    fn program(&self, name: &str) -> Command {
        // Debian's place for all versions.
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let newest: Option<PathBuf> = versions.map(|one| one.path().join("bin")).max();
        let newest = newest.expect("cargo xtask setup installs PostgreSQL");
        command(&self.namespace, &newest.join(name))
    }

    fn append(&self, name: &str, text: &str) {
        let path = self.data.path().join(name);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file is written");
        chown(&path, Some(NOBODY), Some(NOBODY)).expect("this is root");
    }

    fn start(&mut self) {
        let mut postgres = self.program("postgres");
        postgres.args(["-h", &self.at.ip().to_string(), "-p", &self.at.port().to_string()]);
        // Without fsync, and without a socket file.
        postgres.args(["-F", "-k", "", "-D"]).arg(self.data.path());
        self.server = Some(Server::start(postgres));
        self.wait_until("PostgreSQL", || self.ask("select 1").is_some());
    }

    fn wait_until(&self, what: &str, done: impl Fn() -> bool) {
        wait_until(self.server.as_ref().expect("it runs"), what, done);
    }
}

/// Where Debian has it, which need not be among the places of programs; or else anywhere.
fn mariadbd() -> &'static Path {
    let debian = Path::new("/usr/sbin/mariadbd");
    if debian.exists() { debian } else { Path::new("mariadbd") }
}

/// A MariaDB server, whose user may be anybody.
#[derive(Debug)]
pub struct MariaDb {
    server: Server,
    netns: String,
    at: SocketAddr,
    _data: TempDir,
}

impl MariaDb {
    /// A new one.
    ///
    /// # Panics
    ///
    /// When it does not start, for instance because it is not installed.
    pub fn start(netns: &NetNs, at: SocketAddr) -> Self {
        let data = directory();
        let path = |name: &str| data.path().join(name).to_string_lossy().into_owned();
        let mut server = command(netns.name(), mariadbd());
        server.args(["--no-defaults", "--skip-grant-tables", "--innodb-log-file-size=5M"]);
        server.args(["--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0"]);
        server.arg(format!("--datadir={}", path("")));
        server.arg(format!("--socket={}", path("socket")));
        server.arg(format!("--bind-address={}", at.ip())).arg(format!("--port={}", at.port()));
        // So that another one may follow it.
        let IpAddr::V4(ip) = at.ip() else { panic!("{at} is not of IPv4") };
        server.arg(format!("--server-id={}", u32::from(ip))).arg("--log-bin=changes");
        let server = Server::start(server);
        let this = Self { server, netns: netns.name().to_owned(), at, _data: data };
        wait_until(&this.server, "MariaDB", || this.ask("select 1").is_some());
        this
    }

    /// What it answers, a line for each row, if it does.
    pub fn ask(&self, query: &str) -> Option<String> {
        let mut ask = Command::new("ip");
        ask.args(["netns", "exec", &self.netns, "mariadb", "--no-defaults", "-NB", "-e", query]);
        ask.args(["-h", &self.at.ip().to_string(), "-P", &self.at.port().to_string()]);
        let answer = ask.output().ok().filter(|answer| answer.status.success())?;
        Some(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    }

    /// Has it do from now on what another one does, that has done nothing yet.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn follow(&self, primary: &Self) {
        let (host, port) = (primary.at.ip(), primary.at.port());
        // Without the tables that an installation makes there is none for how far it is.
        let follow = format!(
            "create database mysql; create table mysql.gtid_slave_pos (domain_id int unsigned, \
             sub_id bigint unsigned, server_id int unsigned not null, seq_no bigint unsigned not \
             null, primary key (domain_id, sub_id)); change master to master_host='{host}', \
             master_port={port}, master_user='replica', master_use_gtid=no; start slave"
        );
        assert!(self.ask(&follow).is_some(), "{}", self.server.said());
    }

    /// Waits until it answers so.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub fn wait(&self, query: &str, answer: &str) {
        wait_until(&self.server, query, || self.ask(query).as_deref() == Some(answer));
    }
}
