//! Which thread comes before which.

use std::io;
use std::mem::size_of;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The niceness of a thread that a pod waits for.
const NICE: libc::c_int = -15;

/// How long such a thread wants the processor at once, the least that there is.
/// Whoever wants it shortly gets it at once (from Linux 6.12), and by that no more
/// of it; with the usual length it waits until the one that runs has had its turn,
/// whatever its niceness: some milliseconds.
const SLICE: Duration = Duration::from_micros(100);

/// Puts this thread before the others: it has little to do, and a pod waits for
/// it. Where the niceness is not allowed, which takes SYS_NICE, the short turns
/// are left, which take no permission.
pub fn hurry() {
    // SAFETY: no memory is involved; 0 is the calling thread alone.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!(%error, "a thread that pods wait for has no priority");
    }
    take_short_turns();
}

/// Has this thread run soon whenever it has something to do, with no larger share
/// of the processor by that.
pub fn take_short_turns() {
    // SAFETY: no memory is involved; 0 is the calling thread. -1 may be a niceness,
    // too: an error, which this thread cannot cause, would be taken for it.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads `size` bytes of a structure that lives until then;
    // 0 is the calling thread, and there are no flags.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!(%error, "a thread that pods wait for takes turns of the usual length");
    }
}

/// The time that this thread has had on a processor: how long it waited for one, or for
/// others, says nothing of how much there was to do.
pub fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// The niceness of a thread that nobody waits for.
const PATIENT: libc::c_int = 10;

/// Puts this thread after the others, for good: nobody waits for it.
pub fn give_way() {
    // SAFETY: no memory is involved; 0 is the calling thread alone.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, PATIENT) } != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!(%error, "a thread that nobody waits for has the usual priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attributes of the calling thread, as the kernel has them.
    fn attributes() -> libc::sched_attr {
        // SAFETY: zeroes are a value of this structure of numbers.
        let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::sched_attr>();
        // SAFETY: the kernel writes at most `size` bytes to what is as large.
        let result =
            unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        attributes
    }

    #[test]
    fn short_turns_change_neither_the_policy_nor_the_niceness() {
        let (before, after) = std::thread::spawn(|| {
            let before = attributes();
            take_short_turns();
            (before, attributes())
        })
        .join()
        .unwrap();
        assert_eq!(after.sched_policy, before.sched_policy);
        assert_eq!(after.sched_nice, before.sched_nice);
        // Kernels before 6.12 have the same turns for all, and say 0.
        assert!([0, SLICE.as_nanos() as u64].contains(&after.sched_runtime), "{after:?}");
    }
}
