//! System calls of a running thread that fail on purpose, and deaths at each of them:
//! `strace` does it from outside, so that what is tested is what is shipped.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls that are left as they are: those that wait, where a failure is no news, those that
/// cannot fail, and those by which the allocator asks for memory, without which a program ends.
const LEFT: &str = "!futex,ppoll,poll,epoll_wait,epoll_pwait,restart_syscall,clock_nanosleep,\
                    nanosleep,sched_yield,rt_sigprocmask,rt_sigreturn,close,munmap,madvise,brk,\
                    mmap,mremap,mprotect,exit,exit_group,getpid,gettid,getuid,geteuid,getgid,\
                    getegid,getrandom,rseq,set_robust_list,sigaltstack,execve,sched_getaffinity,\
                    clock_gettime,arch_prctl";

/// One call of a thread, counted from when it is first looked at.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Point {
    /// The name of the call.
    pub call: String,
    /// The how manieth of that name, from 1; of that name and file, where it is about an
    /// open one.
    pub nth: usize,
    /// The open file.
    pub file: Option<PathBuf>,
}

/// What happens there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The call is not made, and fails with this error.
    Error(&'static str),
    /// The process dies before the call.
    Kill,
}

impl Point {
    /// The errors that the call can end with when something runs out, is not allowed, or
    /// is interrupted: what the kernel documents for it, without those that only a bug in
    /// the caller brings.
    pub fn errors(&self) -> &'static [&'static str] {
        match &*self.call {
            "bpf" => &["ENOMEM", "E2BIG", "EPERM", "ENOSPC", "EMFILE", "EEXIST"],
            "openat" | "open" => &["EMFILE", "ENFILE", "ENOMEM", "EACCES", "EINTR", "ENOSPC"],
            "write" | "pwrite64" | "writev" | "ftruncate" => &["ENOSPC", "EINTR", "EIO"],
            "fsync" | "fdatasync" => &["ENOSPC", "EIO", "EINTR"],
            "mkdir" | "mkdirat" | "rename" | "renameat" | "renameat2" | "linkat" | "symlink"
            | "symlinkat" => &["ENOSPC", "EACCES", "ENOMEM", "EEXIST", "EPERM"],
            "read" | "pread64" => &["EINTR", "ENOMEM", "EIO"],
            "socket" | "accept4" | "eventfd2" | "epoll_create1" | "inotify_init1"
            | "pidfd_open" => &["EMFILE", "ENFILE", "ENOMEM"],
            "inotify_add_watch" => &["ENOSPC", "ENOMEM"],
            "clone" | "clone3" => &["EAGAIN", "ENOMEM"],
            _ => &["EACCES", "ENOMEM", "EINTR"],
        }
    }
}

/// A thread whose calls are looked at, until this is dropped.
#[derive(Debug)]
pub struct Traced {
    strace: Child,
    directory: TempDir,
}

impl Traced {
    /// Looks at every call of a thread.
    pub fn all(thread: u32) -> Self {
        Self::attach(thread, &["-e".to_owned(), format!("trace={LEFT}")])
    }

    /// Has one call of a thread go wrong.
    pub fn with(thread: u32, point: &Point, fault: Fault) -> Self {
        Self::attach(thread, &expressions(point, fault))
    }

    fn attach(thread: u32, expressions: &[String]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let said = fs::File::create(directory.path().join("said")).expect("a file");
        let mut command = strace(directory.path(), expressions);
        command.arg("-p").arg(thread.to_string()).stderr(said);
        let strace = command.spawn().expect("strace starts");
        let this = Self { strace, directory };
        let begun = Instant::now();
        while !this.read("said").contains("attached") {
            assert!(begun.elapsed() < PATIENCE, "strace: {}", this.read("said"));
            thread::sleep(Duration::from_millis(2));
        }
        this
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    /// The calls so far.
    pub fn points(&self) -> Vec<Point> {
        points(&self.read("calls"))
    }

    /// Whether it went wrong as it was to.
    pub fn happened(&self) -> bool {
        happened(&self.read("calls"))
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // It lets go of the thread when it is asked to end.
        // SAFETY: the child has not been waited for.
        unsafe { libc::kill(self.strace.id().cast_signed(), libc::SIGTERM) };
        let _ = self.strace.wait();
    }
}

fn strace(directory: &Path, expressions: &[String]) -> Command {
    let mut command = Command::new("strace");
    command
        .arg("-o")
        .arg(directory.join("calls"))
        // Without what is read and written, and with what descriptors stand for.
        .args(["-y", "-s", "0"])
        .args(expressions)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

fn expressions(point: &Point, fault: Fault) -> Vec<String> {
    let Point { call, nth, file } = point;
    let what = match fault {
        Fault::Error(error) => format!("error={error}"),
        Fault::Kill => "signal=KILL".to_owned(),
    };
    let inject = format!("inject={call}:{what}:when={nth}");
    let mut expressions = vec!["-e".to_owned(), format!("trace={call}"), "-e".to_owned(), inject];
    if let Some(file) = file {
        expressions.extend(["-P".to_owned(), file.to_string_lossy().into_owned()]);
    }
    expressions
}

/// A command whose first thread is looked at from its beginning; its calls come to lie
/// in the directory.
#[derive(Debug)]
pub struct Begun {
    calls: PathBuf,
}

impl Begun {
    /// The command, under strace: every call of its first thread is written down, or one of
    /// them goes wrong.
    pub fn under(
        command: &Command,
        directory: &Path,
        fault: Option<(&Point, Fault)>,
    ) -> (Self, Command) {
        let expressions = match fault {
            Some((point, fault)) => expressions(point, fault),
            None => vec!["-e".to_owned(), format!("trace={LEFT}")],
        };
        let mut under = strace(directory, &expressions);
        under.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                under.env(name, value);
            }
        }
        (Self { calls: directory.join("calls") }, under)
    }

    /// The calls so far.
    pub fn points(&self) -> Vec<Point> {
        points(&fs::read_to_string(&self.calls).unwrap_or_default())
    }

    /// Whether it went wrong as it was to.
    pub fn happened(&self) -> bool {
        happened(&fs::read_to_string(&self.calls).unwrap_or_default())
    }
}

/// The calls, but for those about what is open and no file: nothing about a counter or a
/// watch fails, and which call is about one of them is not known before.
fn points(calls: &str) -> Vec<Point> {
    let mut counts: BTreeMap<(&str, Option<&str>), usize> = BTreeMap::new();
    let calls = calls.lines().filter_map(|line| line.split_once('('));
    let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
    calls
        .filter(|(call, _)| call.chars().all(is_name))
        .filter_map(|(call, rest)| {
            let first = rest.split([',', ')']).next().unwrap_or_default();
            let (number, what) = first.split_once('<').unwrap_or((first, ""));
            let file = what.strip_suffix('>').filter(|path| path.starts_with('/'));
            let is_open = !number.is_empty() && number.chars().all(|char| char.is_ascii_digit());
            let file = file.filter(|_| is_open);
            if !what.is_empty() && is_open && file.is_none() {
                return None;
            }
            let count = counts.entry((call, file)).or_default();
            *count += 1;
            Some(Point { call: call.to_owned(), nth: *count, file: file.map(PathBuf::from) })
        })
        .collect()
}

fn happened(calls: &str) -> bool {
    calls.contains("(INJECTED)") || calls.contains("killed by SIGKILL")
}

/// The threads of a process, by their names.
pub fn threads(process: u32) -> BTreeMap<String, u32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("a process that runs");
    let name = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    let number = |task: &fs::DirEntry| task.file_name().to_str()?.parse().ok();
    tasks
        .flatten()
        .filter_map(|task| Some((name(&task)?.trim().to_owned(), number(&task)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_name_and_file() {
        let calls = "openat(AT_FDCWD</tmp>, \"/x\"..., O_RDONLY) = 3\nread(3</x>, \"\"..., 10) = 0\n\
                     write(4<anon_inode:[eventfd]>, \"\"..., 8) = 8\nwrite(2</log>, \"\"..., 8) = 8\n\
                     openat(AT_FDCWD, \"/y\"...) = -1 EMFILE (Too many open files) (INJECTED)\n\
                     +++ exited with 0 +++\n";
        let point = |call: &str, nth, file: Option<&str>| Point {
            call: call.to_owned(),
            nth,
            file: file.map(PathBuf::from),
        };
        let all = [
            point("openat", 1, None),
            point("read", 1, Some("/x")),
            point("write", 1, Some("/log")),
            point("openat", 2, None),
        ];
        assert_eq!(points(calls), all);
        assert!(happened(calls));
    }
}
