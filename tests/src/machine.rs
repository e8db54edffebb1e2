//! A machine of a test's own: a fresh Debian with systemd as its first process. On this
//! kernel it has namespaces and a cgroup that are all that it can see; a virtual one, which
//! has a kernel of its own, was booted around the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cgroup::{TestCgroup, enter};
use crate::redirector::Answer;

/// How long it may take until something is so.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the machine sees what it was given.
pub const GIVEN: &str = "/root";

/// Makes the root out of the directory that all such machines share, and starts systemd
/// in it. The arguments: a directory for mounts, the shared root, what is given.
const BOOT: &str = r#"
set -eu
mount --make-rprivate /
mount -t tmpfs machine "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" machine "$1/root"
cd "$1/root"
cp -a "$3/." root/
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf -o mode=700 bpf sys/fs/bpf
for directory in dev run tmp; do mount -t tmpfs machine "$directory"; done
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm run/old
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs machine dev/shm
hostname machine
ip link set lo up
pivot_root . run/old
exec chroot . /bin/sh -c 'umount -l /run/old; rmdir /run/old
    exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd' >/dev/null
"#;

/// It; everything of it goes when this is dropped.
#[derive(Debug)]
pub struct Machine {
    /// What has made its namespaces, and ends with it, where this machine is another.
    outside: Option<(Child, TempDir)>,
    /// Its first process, as this machine numbers it.
    init: u32,
    cgroup: TestCgroup,
}

impl Machine {
    /// Boots one from this root, which is only read; that of this machine itself means that
    /// it was booted for the test. What is in `given` is in its [`GIVEN`].
    ///
    /// # Panics
    ///
    /// When it does not boot.
    pub fn boot(what: &str, root: &Path, given: &Path) -> Self {
        let cgroup = TestCgroup::new(what);
        let outside = if root == Path::new("/") {
            let copied = Command::new("cp").arg("-a").arg(given.join(".")).arg(GIVEN).status();
            assert!(copied.expect("cp starts").success());
            None
        } else {
            Some(start(&cgroup, root, given))
        };
        let mut machine = Self { outside, init: 0, cgroup };
        machine.init = machine.until("it boots", Self::first_process);
        machine.wait("is-system-running", "systemctl is-system-running", |answer| {
            ["running", "degraded"].contains(&answer.out.trim())
        });
        machine
    }

    /// The process that systemd is, once it is.
    fn first_process(&self) -> Option<u32> {
        let first = match &self.outside {
            None => 1,
            Some((outside, _)) => {
                let outside = outside.id();
                let children = format!("/proc/{outside}/task/{outside}/children");
                fs::read_to_string(children).ok()?.split_whitespace().next()?.parse().ok()?
            }
        };
        let name = fs::read_to_string(format!("/proc/{first}/comm")).ok()?;
        (name.trim() == "systemd").then_some(first)
    }

    /// To run a script of the shell in it, as root in [`GIVEN`], outside of all units.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string()])
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root"])
            .arg(format!("--wd=/proc/{}/root{GIVEN}", self.init))
            .args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"])
            .args(["LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "COLUMNS=80"])
            .args(["sh", "-ec", script]);
        let shell = self.cgroup.child("shell");
        enter(&mut command, &shell);
        command
    }

    /// Runs it.
    ///
    /// # Panics
    ///
    /// When no shell can be started.
    pub fn run(&self, script: &str) -> Answer {
        self.command(script).stdin(Stdio::null()).output().expect("nsenter starts").into()
    }

    /// What a script prints that has to succeed.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn succeed(&self, script: &str) -> String {
        let answer = self.run(script);
        assert_eq!(answer.exit, 0, "{script}: {answer:?}\n{}", self.journal());
        answer.out
    }

    /// Waits until a script answers so.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub fn wait(&self, what: &str, script: &str, so: impl Fn(&Answer) -> bool) -> Answer {
        self.until(what, |machine| Some(machine.run(script)).filter(&so))
    }

    fn until<T>(&self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "not in time: {what}\n{}", self.journal());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of its journal, for messages.
    pub fn journal(&self) -> String {
        if self.init == 0 {
            return String::new();
        }
        self.run("journalctl --no-pager --lines 60 || true").out
    }

    /// A file of it, as this machine reaches it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some((outside, _)) = &mut self.outside {
            // Its first process goes with it, and all others with that one.
            let _ = outside.kill();
            let _ = outside.wait();
        }
    }
}

/// Starts one in that cgroup. Gives back what ends it, and the place of its mounts.
fn start(cgroup: &TestCgroup, root: &Path, given: &Path) -> (Child, TempDir) {
    let mounts = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
        .args(["--fork", "--kill-child", "sh", "-c", BOOT, "boot"])
        .args([mounts.path(), root, given])
        .stdin(Stdio::null());
    enter(&mut command, cgroup.path());
    (command.spawn().expect("unshare starts"), mounts)
}
