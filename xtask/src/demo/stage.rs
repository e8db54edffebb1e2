//! The demo's own corner of the machine: a cgroup subtree, a network
//! namespace, a bpffs mount and a directory; and the guarantee that all of it
//! is gone afterwards, whatever happened in between.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command;

/// What every name of the demo starts with; the process id follows.
const PREFIX: &str = "redirector-demo-";

/// The demo's corner. Dropping it removes it.
pub struct Stage {
    /// The name of its cgroup and network namespace.
    pub name: String,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Configuration, state and mount point lie below this directory.
    pub directory: PathBuf,
    netns: File,
}

impl Stage {
    /// Makes everything. `addresses` are given to the namespace's loopback.
    pub fn set(addresses: &[&str]) -> Result<Self> {
        let hierarchy = cgroup2_mount()?;
        strike_leftovers(&hierarchy);
        let name = format!("{PREFIX}{}", std::process::id());
        let parts = Parts::of(&hierarchy, &name);
        let made = parts.make(addresses);
        match made {
            Ok(netns) => Ok(Self { name, cgroup: parts.cgroup, directory: parts.directory, netns }),
            Err(error) => {
                for line in parts.remove() {
                    eprintln!("warning: {line}");
                }
                Err(error)
            }
        }
    }

    /// Where bpffs is mounted.
    pub fn bpffs(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    /// Where the daemon keeps its state.
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The daemon's configuration directory.
    pub fn config(&self) -> PathBuf {
        self.directory.join("config")
    }

    /// Makes a cgroup below the demo's, unless it is there; gives back its path.
    pub fn make_cgroup(&self, name: &str) -> Result<PathBuf> {
        let cgroup = self.cgroup.join(name);
        std::fs::create_dir_all(&cgroup)
            .with_context(|| format!("cannot make the cgroup {}", cgroup.display()))?;
        Ok(cgroup)
    }

    /// Makes the command run in the demo's network namespace, in that cgroup
    /// below the demo's, and die with this process.
    pub fn place(&self, command: &mut Command, cgroup: &str) -> Result<()> {
        let cgroup = self.make_cgroup(cgroup)?;
        let procs = File::options()
            .write(true)
            .open(cgroup.join("cgroup.procs"))
            .with_context(|| format!("cannot enter the cgroup {}", cgroup.display()))?;
        let netns = self.netns.try_clone().context("cannot keep the network namespace")?;
        // A process group of its own: Ctrl-C is for the demo, which then ends
        // its children in order.
        command.process_group(0);
        // SAFETY: between fork and exec the closure only makes system calls that are
        // async-signal-safe, and allocates nothing. Both descriptors are open until
        // then: the closure owns them.
        unsafe { command.pre_exec(move || enter(procs.as_raw_fd(), netns.as_raw_fd())) };
        Ok(())
    }

    /// Removes everything; gives back what could not be removed.
    pub fn strike(self) -> Vec<String> {
        let parts = Parts {
            cgroup: self.cgroup.clone(),
            directory: self.directory.clone(),
            netns: self.name.clone(),
        };
        std::mem::forget(self);
        parts.remove()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let parts = Parts {
            cgroup: self.cgroup.clone(),
            directory: self.directory.clone(),
            netns: self.name.clone(),
        };
        for line in parts.remove() {
            eprintln!("warning: {line}");
        }
    }
}

/// Runs between fork and exec.
fn enter(procs: RawFd, netns: RawFd) -> io::Result<()> {
    // SAFETY: a plain write(2) of one byte that outlives the call.
    if unsafe { libc::write(procs, b"0".as_ptr().cast(), 1) } != 1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: setns(2) on a descriptor of a network namespace.
    if unsafe { libc::setns(netns, libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: PR_SET_PDEATHSIG takes one number.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What a stage consists of, by name.
struct Parts {
    cgroup: PathBuf,
    directory: PathBuf,
    netns: String,
}

impl Parts {
    fn of(hierarchy: &Path, name: &str) -> Self {
        Self {
            cgroup: hierarchy.join(name),
            directory: Path::new("/run").join(name),
            netns: name.to_owned(),
        }
    }

    fn make(&self, addresses: &[&str]) -> Result<File> {
        std::fs::create_dir(&self.cgroup)
            .with_context(|| format!("cannot make the cgroup {}", self.cgroup.display()))?;
        for part in ["bpf", "state", "config"] {
            let directory = self.directory.join(part);
            std::fs::create_dir_all(&directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        mount_bpffs(&self.directory.join("bpf"))?;
        ip(&["netns", "add", &self.netns])?;
        ip(&["-n", &self.netns, "link", "set", "lo", "up"])?;
        for address in addresses {
            ip(&["-n", &self.netns, "address", "add", address, "dev", "lo"])?;
        }
        let file = self.netns_file();
        File::open(&file).with_context(|| format!("cannot open {}", file.display()))
    }

    fn netns_file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.netns)
    }

    /// Removes what is there; gives back what could not be removed.
    fn remove(&self) -> Vec<String> {
        let mut left = Vec::new();
        if self.cgroup.exists()
            && let Err(error) = remove_cgroup(&self.cgroup)
        {
            left.push(format!("the cgroup {} is left: {error}", self.cgroup.display()));
        }
        if self.directory.exists() {
            unmount(&self.directory.join("bpf"));
            if let Err(error) = std::fs::remove_dir_all(&self.directory) {
                left.push(format!("{} is left: {error}", self.directory.display()));
            }
        }
        if self.netns_file().exists()
            && let Err(error) = ip(&["netns", "delete", &self.netns])
        {
            left.push(format!("the network namespace {} is left: {error:#}", self.netns));
        }
        left
    }
}

/// Removes what demos left that were killed before they could clean up.
fn strike_leftovers(hierarchy: &Path) {
    let places = [hierarchy, Path::new("/run"), Path::new("/run/netns")];
    let names = places.iter().filter_map(|place| place.read_dir().ok()).flatten().flatten();
    for entry in names {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX) else { continue };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            for line in Parts::of(hierarchy, &name).remove() {
                eprintln!("warning: {line}");
            }
        }
    }
}

/// Ends all processes in the cgroup and removes it with all below it.
fn remove_cgroup(cgroup: &Path) -> io::Result<()> {
    // Kernel 5.14 and later; every kernel we support has it.
    std::fs::write(cgroup.join("cgroup.kill"), "1")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match remove_tree(cgroup) {
            // Processes die a moment after they were told to.
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

fn remove_tree(cgroup: &Path) -> io::Result<()> {
    for entry in cgroup.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(cgroup)
}

fn mount_bpffs(directory: &Path) -> Result<()> {
    let target = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: all strings end with a NUL and live through the call.
    let result = unsafe {
        libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null())
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        bail!("cannot mount a bpf file system at {}: {error}", directory.display());
    }
    Ok(())
}

fn unmount(directory: &Path) {
    if let Ok(target) = CString::new(directory.as_os_str().as_bytes()) {
        // SAFETY: the string ends with a NUL and lives through the call. That
        // nothing is mounted there is no fault.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    command::stdout(Command::new("ip").args(arguments)).map(drop)
}

/// Where the cgroup2 hierarchy is mounted.
pub fn cgroup2_mount() -> Result<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .context("cannot read the mount table from /proc")?;
    match cgroup2_in(&table) {
        Some(mount) => Ok(mount),
        None => bail!(
            "no cgroup2 file system is mounted; mount one:\n  \
             mkdir -p /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        ),
    }
}

fn cgroup2_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let is_cgroup2 = file_system.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_beside_those_of_version_1() {
        let table = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw
";
        assert_eq!(cgroup2_in(table), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_in("32 31 0:29 / /proc rw - proc proc rw\n"), None);
    }
}
