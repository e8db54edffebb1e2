//! What the relay gives up before it serves anybody: the user that started it, all
//! capabilities, new privileges, and every system call that relaying does not take.
//!
//! What it reads comes from strangers (a ClientHello), and what it holds are their
//! connections: whoever took it over would have those, and no more.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Uid, geteuid, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{CapabilitySet, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter_all_threads,
};

use crate::confined;

/// Its user, where the machine has one of that name.
const USER: &str = "redirector-relay";

/// `nobody`, elsewhere.
const NOBODY: u32 = 65534;

/// A limit.
const NOTHING: Rlimit = Rlimit { current: Some(0), maximum: Some(0) };

/// Of `ioctl(2)`: whether the next byte is the urgent one.
const SIOCATMARK: u64 = 0x8905;

/// Gives up privileges for good. To be called while there is no other thread, for each
/// has its own.
///
/// # Errors
///
/// When some would be left. The user stays who it is where only root without
/// CAP_SETUID can be.
pub(super) fn give_up_privileges() -> io::Result<()> {
    for resource in [Resource::Core, Resource::Memlock] {
        setrlimit(resource, NOTHING)?;
    }
    // As long as it may.
    confined::bound(CapabilitySet::empty());
    if geteuid().is_root() {
        match become_another() {
            Err(Errno::PERM) => tracing::warn!("the relay stays root, without any capability"),
            done => done?,
        }
    }
    confined::keep(CapabilitySet::empty())?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn become_another() -> rustix::io::Result<()> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let (uid, gid) = user(&passwd).unwrap_or((NOBODY, NOBODY));
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// The numbers of [`USER`] and its group, by `/etc/passwd`: never root's.
fn user(passwd: &str) -> Option<(u32, u32)> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields
        .into_iter()
        .find_map(|fields| match fields[..] {
            [USER, _, uid, gid, ..] => Some((uid.parse().ok()?, gid.parse().ok()?)),
            _ => None,
        })
        .filter(|(uid, gid)| *uid != 0 && *gid != 0)
}

/// From now on any other system call than those of relaying ends the process. To be
/// called when all threads are there: none can be started afterwards.
///
/// # Errors
///
/// Where the kernel has no such filters.
pub(super) fn only_relay() -> io::Result<()> {
    let program = filter().map_err(io::Error::other)?;
    setrlimit(Resource::Nproc, NOTHING)?;
    apply_filter_all_threads(&program).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        always().into_iter().map(|call| (call, Vec::new())).collect();
    let condition = |argument, is, value| {
        SeccompCondition::new(argument, Width::Dword, is, value).map(|one| vec![one])
    };
    let inet = [libc::AF_INET, libc::AF_INET6].map(|family| condition(0, Is::Eq, family as u64));
    let mut sockets = Vec::new();
    for family in inet {
        sockets.push(SeccompRule::new(family?)?);
    }
    // Whose a socket is can be asked without privilege.
    let mut diag = condition(0, Is::Eq, libc::AF_NETLINK as u64)?;
    diag.extend(condition(2, Is::Eq, libc::NETLINK_SOCK_DIAG as u64)?);
    sockets.push(SeccompRule::new(diag)?);
    rules.insert(libc::SYS_socket, sockets);
    rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(condition(1, Is::Eq, SIOCATMARK)?)?]);
    // Memory, but none that could be run.
    let not_executable = Is::MaskedEq(libc::PROT_EXEC as u64);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let data = condition(2, not_executable.clone(), 0)?;
        rules.insert(call, vec![SeccompRule::new(data)?]);
    }
    let architecture = std::env::consts::ARCH.try_into()?;
    let (others, these) = (SeccompAction::KillProcess, SeccompAction::Allow);
    SeccompFilter::new(rules, others, these, architecture)?.try_into()
}

/// The system calls that are made with any arguments.
fn always() -> Vec<i64> {
    let mut calls = vec![
        // Connections.
        libc::SYS_accept4,
        libc::SYS_bind,
        libc::SYS_close,
        libc::SYS_connect,
        libc::SYS_fcntl,
        libc::SYS_getpeername,
        libc::SYS_getsockname,
        libc::SYS_getsockopt,
        libc::SYS_listen,
        libc::SYS_pipe2,
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_setsockopt,
        libc::SYS_shutdown,
        libc::SYS_splice,
        libc::SYS_write,
        libc::SYS_writev,
        // Waiting.
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_futex,
        libc::SYS_gettimeofday,
        libc::SYS_nanosleep,
        libc::SYS_ppoll,
        libc::SYS_restart_syscall,
        libc::SYS_sched_yield,
        libc::SYS_timerfd_settime,
        // Memory, and the ends of threads.
        libc::SYS_brk,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_getrandom,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
    ];
    calls.extend(OLDER);
    calls
}

/// What newer architectures have one call less for.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

#[cfg(test)]
mod tests {
    use super::super::serve::give_memory_back;
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};
    use std::sync::Barrier;

    /// Set in the process that confines itself: what it does afterwards.
    const DOES: &str = "REDIRECTOR_TEST_CONFINED";

    fn confined(does: &str) -> ExitStatus {
        let this = std::env::current_exe().unwrap();
        let name = "proxy::confine::tests::a_call_that_relaying_does_not_take_ends_the_process";
        let mut command = Command::new(this);
        command.args(["--exact", name, "--nocapture"]).env(DOES, does);
        command.output().unwrap().status
    }

    #[test]
    fn a_call_that_relaying_does_not_take_ends_the_process() {
        let Some(does) = std::env::var_os(DOES) else {
            assert!(confined("what a relay does").success());
            for call in ["open", "fork", "unix socket", "run memory", "signal"] {
                assert_eq!(confined(call).signal(), Some(libc::SIGSYS), "{call}");
            }
            return;
        };
        // As workers do.
        let (gave, go_on) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                give_memory_back();
                gave.wait();
                go_on.wait();
                give_memory_back();
            });
            gave.wait();
            only_relay().unwrap();
            go_on.wait();
        });
        let ends = match does.to_str().unwrap() {
            "open" => fs::read("/dev/null").is_ok(),
            // SAFETY: at most a copy of this process, which ends below at once.
            "fork" => unsafe { libc::fork() >= 0 },
            "unix socket" => std::os::unix::net::UnixDatagram::unbound().is_ok(),
            // SAFETY: a signal that nothing handles, to this process only.
            "signal" => unsafe { libc::kill(libc::getpid(), 0) == 0 },
            // SAFETY: new memory, which nothing refers to.
            "run memory" => unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let protection = libc::PROT_READ | libc::PROT_EXEC;
                libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) != libc::MAP_FAILED
            },
            _ => {
                let listener = std::net::UdpSocket::bind("127.0.0.1:0");
                drop((listener, vec![7; 1 << 20]));
                false
            }
        };
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(ends.into()) };
    }

    #[test]
    fn the_relays_user_is_its_own_where_there_is_one_and_never_root() {
        let passwd = "root:x:0:0::/root:/bin/sh\nredirector-relay:x:990:989::/:/bin/false\n";
        assert_eq!(user(passwd), Some((990, 989)));
        assert_eq!(user("root:x:0:0::/root:/bin/sh\n"), None);
        assert_eq!(user("redirector-relay:x:0:0::/:/bin/false\n"), None);
        assert_eq!(user("redirector-relay:x:many:1::/:/bin/false\n"), None);
    }
}
