//! The `redirector` program, as a user runs it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::kernel::Place;

/// Longer than anything takes on an emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test: what `REDIRECTOR_PROGRAM` names (a virtual machine has
/// it elsewhere), or what cargo has built beside the running tests.
///
/// # Panics
///
/// When this process has no path.
pub fn program() -> PathBuf {
    std::env::var_os("REDIRECTOR_PROGRAM").map_or_else(beside, PathBuf::from)
}

fn beside() -> PathBuf {
    let this = std::env::current_exe().expect("this program's path");
    // target/PROFILE/deps/kernel-HASH
    let profile = this.parent().and_then(Path::parent).expect("a directory of the profile");
    profile.join("redirector-under-test")
}

/// The program, with a place of its own: cgroup, bpffs, state and documents.
#[derive(Debug)]
pub struct Redirector {
    /// The program; another version may take its place.
    pub program: PathBuf,
    /// Its cgroup and bpffs.
    pub place: Place,
    directory: TempDir,
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// The exit code.
    pub exit: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            exit: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Answer {
    /// The answer as JSON.
    ///
    /// # Panics
    ///
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Redirector {
    /// The program at `program`, or the one that `REDIRECTOR_PROGRAM` names,
    /// with a fresh place.
    ///
    /// # Panics
    ///
    /// When the place cannot be made.
    pub fn new(what: &str, program: &str) -> Self {
        let program = std::env::var_os("REDIRECTOR_PROGRAM").unwrap_or_else(|| program.into());
        let this = Self {
            program: program.into(),
            place: Place::new(what),
            directory: tempfile::tempdir().expect("a temporary directory"),
        };
        fs::create_dir(this.rules()).expect("an empty directory");
        this
    }

    /// The directory of the documents.
    pub fn rules(&self) -> PathBuf {
        self.directory.path().join("rules")
    }

    /// The directory that the documents' and the state directory lie in.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file of documents, at once.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let beside = self.directory.path().join("beside");
        fs::write(&beside, text).expect("a file is written");
        fs::rename(&beside, self.rules().join(name)).expect("a file is renamed");
    }

    /// A path below the cgroup2 mount, as documents and flags name it.
    pub fn cgroup(&self, below: &str) -> String {
        let root = self.place.cgroup.path();
        let mount = crate::cgroup::mount();
        let path = root.strip_prefix(&mount).unwrap_or(root).join(below);
        path.to_string_lossy().trim_end_matches('/').to_owned()
    }

    /// A command that works on this place.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .arg(name)
            .arg("--bpffs")
            .arg(self.place.pins())
            .arg("--state-dir")
            .arg(self.directory.path().join("state"))
            .stdin(Stdio::null());
        command
    }

    /// What a command answers.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn ask(&self, name: &str, args: &[&str]) -> Answer {
        self.command(name).args(args).output().expect("the program starts").into()
    }

    /// The daemon's command, on this place's cgroup and documents.
    pub fn daemon_command(&self) -> Command {
        let mut command = self.command("run");
        // Small tables: tests run beside one another. By variables, so that a test
        // can say otherwise by a flag, which wins.
        let sizes = crate::kernel::small();
        for (variable, size) in [
            ("REDIRECTOR_MAX_FRONTENDS", sizes.frontends),
            ("REDIRECTOR_MAX_PREFIXES", sizes.prefixes),
            ("REDIRECTOR_MAX_WORKLOADS", sizes.identities),
            ("REDIRECTOR_MAX_ROUTES", sizes.routes),
            ("REDIRECTOR_MAX_LEGS", sizes.legs),
            ("REDIRECTOR_MAX_DESTINATIONS", sizes.destinations),
            ("REDIRECTOR_MAX_ENDPOINTS", sizes.backends),
            ("REDIRECTOR_MAX_CONNECTIONS", sizes.connections),
        ] {
            command.env(variable, size.to_string());
        }
        command
            .arg("--config")
            .arg(self.rules())
            .args(["--cgroup", &self.cgroup("")])
            // By variables, as above.
            .env("REDIRECTOR_DAEMON_CGROUP", self.cgroup("daemon"))
            .env("REDIRECTOR_METRICS_ADDRESS", "none")
            .env("REDIRECTOR_VERIFY", "500ms");
        command
    }

    /// Starts the daemon and waits until it is in charge.
    ///
    /// # Panics
    ///
    /// When it ends instead.
    pub fn start(&self) -> Daemon {
        self.start_with(&[])
    }

    /// As [`start`](Self::start), with more arguments.
    ///
    /// # Panics
    ///
    /// When it ends instead.
    pub fn start_with(&self, args: &[&str]) -> Daemon {
        let mut daemon = self.launch(args, Stdio::null());
        let begun = Instant::now();
        loop {
            let log = daemon.log();
            // Not "took over what is in force", which comes before.
            if log.contains("INFO in force") && !self.status().json()["daemon"].is_null() {
                return daemon;
            }
            if let Some(status) = daemon.child.try_wait().expect("its status") {
                panic!("the daemon ended ({status}): {log}");
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon is not in charge: {log}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the daemon with this standard input, and waits for nothing.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn launch(&self, args: &[&str], input: Stdio) -> Daemon {
        let mut command = self.daemon_command();
        command.args(args);
        self.launch_command(command, input)
    }

    /// As [`launch`](Self::launch), with a command that makes a daemon of this place.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn launch_command(&self, mut command: Command, input: Stdio) -> Daemon {
        // One may still run when the next one starts.
        let log = self.directory.path().join(crate::kernel::unique("log"));
        let file = fs::File::create(&log).expect("a log");
        let child = command.stdin(input).stderr(file).spawn();
        Daemon { child: child.expect("the daemon starts"), log }
    }

    /// What the daemon that was started last has logged.
    pub fn last_log(&self) -> String {
        let logs = fs::read_dir(self.directory.path()).expect("a directory").flatten();
        let logs = logs.map(|entry| entry.path()).filter(|path| path.extension().is_none());
        let logs = logs.filter(|path| path.to_string_lossy().contains("-log-"));
        let last = logs.max_by_key(|path| path.metadata().and_then(|log| log.modified()).ok());
        last.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
    }

    /// The journal that is written to.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn journal(&self) -> PathBuf {
        let journals = fs::read_dir(self.directory.path().join("state/journal"));
        let paths = journals.expect("the journals").flatten().map(|journal| journal.path());
        paths.max().expect("a journal")
    }

    /// Damages the objects that the journal tells of from this byte on.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn damage_journal(&self, from: u64) {
        let journal = fs::File::options().read(true).write(true).open(self.journal());
        let journal = journal.expect("a journal");
        // Behind what a frame begins with.
        let (at, mut byte) = (from + 60, [0]);
        journal.read_exact_at(&mut byte, at).expect("a byte");
        journal.write_all_at(&[!byte[0]], at).expect("it is written");
    }

    /// `status --output json`.
    pub fn status(&self) -> Answer {
        self.ask("status", &["--output", "json"])
    }

    /// The generation in force.
    pub fn generation(&self) -> u64 {
        self.status().json()["generation"].as_u64().unwrap_or(0)
    }

    /// Waits until the status is as wanted.
    ///
    /// # Panics
    ///
    /// When it never is.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if status.exit <= 1 && wanted(&status.json()) {
                return status.json();
            }
            assert!(begun.elapsed() < PATIENCE, "{what} does not happen: {status:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Changes something and waits until that has come in force.
    pub fn change(&self, what: &str, change: impl FnOnce()) {
        let before = self.generation();
        change();
        self.wait(what, |status| status["generation"].as_u64() > Some(before));
    }
}

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.child.stdin = None;
    }

    /// The file of what it logs.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has ended by itself.
    ///
    /// # Panics
    ///
    /// When that cannot be asked.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_some()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// When there is no such signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for.
        assert_eq!(unsafe { libc::kill(self.pid().cast_signed(), signal) }, 0);
    }

    /// Ends it without warning.
    pub fn kill(mut self) {
        self.end();
    }

    /// Ends it as a supervisor does, and gives its exit code.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn stop(self) -> i32 {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Waits until it has ended by itself, and gives its exit code.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn wait(mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status.code().unwrap_or(-1);
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon does not end: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// A version of the program at `program` whose tables have another layout: what
/// `REDIRECTOR_OF_OTHER_LAYOUT` names, or built beside it.
///
/// # Panics
///
/// When it cannot be built.
pub fn of_other_layout(program: &str) -> PathBuf {
    const NAME: &str = "redirector-of-other-layout";
    if let Some(built) = std::env::var_os("REDIRECTOR_OF_OTHER_LAYOUT") {
        return built.into();
    }
    let directory = Path::new(program).parent().expect("a directory of the profile");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        // From the top, not by its package: with the features that the workspace has
        // together, dependencies are there already.
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["build", "--quiet", "--features", "redirector-tests/other-layout", "--bin", NAME])
        .arg("--target-dir")
        .arg(directory.parent().expect("the target directory"));
    // What cargo calls `dev` lies in `debug`.
    let profile = directory.file_name().expect("the profile's name");
    cargo.arg("--profile").arg(if profile == "debug" { "dev".as_ref() } else { profile });
    let status = cargo.stdin(Stdio::null()).status().expect("cargo starts");
    assert!(status.success(), "{NAME}: {status}");
    directory.join(NAME)
}

/// The command in a mount namespace without these mounts.
pub fn without_mounts(command: &mut Command, mounts: Vec<PathBuf>) {
    let mounts: Vec<std::ffi::CString> = mounts
        .iter()
        .filter_map(|path| std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).ok())
        .collect();
    // SAFETY: only system calls between fork and exec, on strings made before.
    unsafe {
        command.pre_exec(move || {
            let private = libc::MS_REC | libc::MS_PRIVATE;
            if libc::unshare(libc::CLONE_NEWNS) != 0
                || libc::mount(
                    std::ptr::null(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    private,
                    std::ptr::null(),
                ) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            for mount in &mounts {
                if libc::umount2(mount.as_ptr(), libc::MNT_DETACH) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}
