//! System calls that a process may not make.

use std::io;

/// Kills the calling process, and whatever it becomes or forks, when it makes
/// this system call. For use between fork and exec; needs CAP_SYS_ADMIN.
///
/// # Errors
///
/// The kernel's refusal, as of a kernel without seccomp filters.
pub fn system_call(number: libc::c_long) -> io::Result<()> {
    let number = u32::try_from(number).map_err(io::Error::other)?;
    let statement = |code, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut statements = [
        // The number is the first word of what a filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program =
        libc::sock_fprog { len: statements.len() as u16, filter: statements.as_mut_ptr() };
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program and its statements live until the kernel has copied them.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
