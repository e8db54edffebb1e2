//! What the daemon gives up when it starts, of what root may do.
//!
//! Nothing of it is needed later: not when tables grow, or everything has to be made and
//! mounted again, nor when a relay has to be started or ended. What is kept is in `status`.

use std::collections::BTreeMap;
use std::io;

use rustix::thread::CapabilitySet;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use super::Options;
use crate::confined;

/// Gives up the rest, for good. To be called while there is no other thread.
///
/// Where the system does not let it, that is told, and `status` says what is kept.
pub(super) fn confine(options: &Options) {
    if let Err(error) = confined::keep(kept(options)) {
        tracing::warn!(%error, "the daemon keeps privileges that it does not need");
    }
    if let Err(error) = refuse() {
        tracing::warn!(%error, "system calls that the daemon does not make are not refused to it");
    }
}

/// What may be needed as long as the daemon lives. What of it this process does not have is
/// done without.
fn kept(options: &Options) -> CapabilitySet {
    // Programs and maps: also when tables grow, or a pin has gone.
    let mut kept = CapabilitySet::BPF | CapabilitySet::PERFMON;
    // To attach, and to reset connections.
    kept |= CapabilitySet::NET_ADMIN;
    // To enter network namespaces, mount a bpffs, find maps of which the pin has gone, and tell
    // programs of others.
    kept |= CapabilitySet::SYS_ADMIN;
    // The network namespaces of processes that may do more than this one.
    kept |= CapabilitySet::SYS_PTRACE;
    // Documents, directories and cgroups of others.
    kept |= CapabilitySet::DAC_OVERRIDE;
    // Gateways, and metrics, at ports below 1024.
    kept |= CapabilitySet::NET_BIND_SERVICE;
    // A relay that hangs: it is another user's.
    kept |= CapabilitySet::KILL;
    // What pods wait for comes before other threads.
    kept |= CapabilitySet::SYS_NICE;
    if options.kubernetes.is_none() {
        // Files of others are not read while they are written.
        kept |= CapabilitySet::LEASE;
    }
    if options.readers.is_some() {
        // What the group of --read-group is given.
        kept |= CapabilitySet::CHOWN | CapabilitySet::FOWNER;
    }
    if options.starter.is_none() {
        // A relay that it starts becomes another user, without a way back.
        kept |= CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETPCAP;
    }
    kept
}

/// From now on these calls fail with EPERM, in threads and programs that are started, too. Those
/// who take over a process by a fault of it begin with them, and neither the daemon nor what it
/// starts makes any of them: so it costs nothing where one is missing here.
fn refuse() -> io::Result<()> {
    let rules: BTreeMap<i64, _> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture);
    let program: Result<BpfProgram, _> = filter.and_then(TryInto::try_into);
    let program = program.map_err(io::Error::other)?;
    apply_filter(&program).map_err(io::Error::other)
}

/// What the daemon never does, whatever happens.
const REFUSED: &[i64] = &[
    // The kernel's code, and the machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_quotactl,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    // The memory and the descriptors of other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    // Other trees of files than its own, and ways past their permissions. It mounts one bpffs.
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_unshare,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_fanotify_init,
    // What faults of the kernel are mostly found in.
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    libc::SYS_vhangup,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Set in the process that is confined: see `a_call_that_is_refused_fails`.
    const REFUSES: &str = "REDIRECTOR_TEST_REFUSES";

    #[test]
    fn calls_that_the_daemon_never_makes_fail_and_those_that_it_makes_do_not() {
        if std::env::var_os(REFUSES).is_none() {
            let this = std::env::current_exe().unwrap();
            let name = std::thread::current().name().unwrap().to_owned();
            let mut command = Command::new(this);
            let output = command.args(["--exact", &name]).env(REFUSES, "").output().unwrap();
            assert!(output.status.success(), "{output:?}");
            return;
        }
        rustix::thread::set_no_new_privs(true).unwrap();
        refuse().unwrap();
        let threads = std::thread::spawn(|| {
            for call in REFUSED {
                // SAFETY: no memory is involved. Without the filter each fails as well, with
                // another error, or does nothing with these arguments.
                let result = unsafe { libc::syscall(*call, -1_i64, 0_i64, 0_i64, 0_i64) };
                let error = io::Error::last_os_error().raw_os_error();
                assert_eq!((result, error), (-1, Some(libc::EPERM)), "{call}");
            }
        });
        threads.join().unwrap();
        assert!(Command::new("true").status().unwrap().success());
    }
}
