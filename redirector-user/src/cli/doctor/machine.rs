//! What has to hold of a machine and of this process, whatever is installed.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::{Check, Checks};
use crate::cli::kernel::{KernelArgs, read_only};
use crate::daemon::startup;
use crate::datapath::features::{self, Support};
use crate::datapath::{Datapath, Error};
use crate::failure::{Exit, Failure};
use crate::shell::quoted;

/// What loading and attaching take, by the number of its bit, and how it is called.
const CAPABILITIES: [(u32, &str); 3] =
    [(39, "CAP_BPF"), (12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON")];

/// It stands for each of them but `CAP_NET_ADMIN`.
const SYS_ADMIN: u32 = 21;

/// The privilege of this process.
pub fn privilege(checks: &mut Checks) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    checks.push(match missing.is_empty() {
        true => Check::fine("privilege", "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are there"),
        false => {
            let failure = Error::Privilege {
                what: format!("this process has no {}", missing.join(", ")),
                source: std::io::ErrorKind::PermissionDenied.into(),
            };
            Check::failed("privilege", &Failure::from(failure).help("sudo redirector doctor"))
        }
    });
}

/// What of the capabilities is not in effect, by /proc/PID/status.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let has = |bit: u32| mask >> bit & 1 == 1;
    let missing = CAPABILITIES
        .into_iter()
        .filter(|(bit, name)| !has(*bit) && (*name == "CAP_NET_ADMIN" || !has(SYS_ADMIN)));
    missing.map(|(_, name)| name).collect()
}

/// What the kernel can do, and how it is set up.
pub fn kernel(checks: &mut Checks) {
    let (release, oldest) = (features::release(), features::OLDEST);
    for feature in features::probe() {
        let name = format!("kernel: {}", feature.needs);
        checks.push(match &feature.found {
            Support::Yes => Check::fine(name, format!("{}: is there", feature.name)),
            Support::Unknown(why) => {
                let message = format!("{}: cannot be told: {why}", feature.name);
                Check::unknown(name, message, "ask as root: sudo redirector doctor")
            }
            Support::No => {
                let message = format!("{}: this kernel ({release}) has none", feature.name);
                let since = feature.since;
                let remedy = format!(
                    "boot a kernel that has it: upstream's has since {since}, and the oldest \
                     supported is {oldest}; without it: {}",
                    feature.without
                );
                match feature.required {
                    true => Check::failed(name, &Failure::new(Exit::Unable, message).help(remedy)),
                    false => Check::warning(name, message, remedy),
                }
            }
        });
    }
    let btf = Path::new("/sys/kernel/btf/vmlinux");
    checks.push(match btf.exists() {
        true => Check::fine("kernel: BTF", "CONFIG_DEBUG_INFO_BTF is there"),
        // The programs carry their own.
        false => Check::fine("kernel: BTF", "the kernel has none, and nothing here needs it"),
    });
    // Only the machine's own network namespace shows it.
    if let Ok(jit) = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
        checks.push(match jit.trim() {
            "0" => Check::warning(
                "kernel: BPF JIT",
                "is off: programs are interpreted, and each connect takes longer",
                "sysctl -w net.core.bpf_jit_enable=1",
            ),
            _ => Check::fine("kernel: BPF JIT", "is on"),
        });
    }
}

/// The clock of this process, against that of the programs.
pub fn clock(checks: &mut Checks) {
    // A kernel without time namespaces has one clock.
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    checks.push(match monotonic_offset(&offsets) {
        0 => Check::fine("clock", "is that of the programs in the kernel"),
        seconds => Check::failed(
            "clock",
            &Failure::input(format!(
                "this process is in a time namespace of its own, {seconds} s off the clock of the \
                 programs: ejections and leases in the tables would be as wrong"
            ))
            .help("run it outside of that namespace: nsenter --target 1 --time redirector doctor"),
        ),
    });
}

/// By how many seconds the monotonic clock is off, of `/proc/PID/timens_offsets`.
fn monotonic_offset(offsets: &str) -> i64 {
    let line = offsets.lines().find_map(|line| line.strip_prefix("monotonic"));
    let seconds = line.and_then(|line| line.split_whitespace().next());
    seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
}

/// The cgroups to be served, and who else is there. `ours` is true when programs of
/// this installation are.
pub fn cgroups(given: &[PathBuf], ours: bool, checks: &mut Checks) {
    let cgroup2 = match startup::cgroup2() {
        Ok(cgroup2) => cgroup2,
        Err(failure) => return checks.push(Check::failed("cgroup2", &failure)),
    };
    checks.push(Check::fine("cgroup2", format!("is mounted at {}", cgroup2.display())));
    let cgroups = match startup::cgroups(given, false, &cgroup2, false) {
        Ok(cgroups) => cgroups,
        Err(failure) => return checks.push(Check::failed("cgroups", &failure)),
    };
    let named: Vec<String> = cgroups.iter().map(|path| path.display().to_string()).collect();
    checks.push(Check::fine("cgroups", format!("{}: there", named.join(", "))));
    if !ours {
        let others = Datapath::programs_of_others(&cgroups);
        checks.push(match startup::nobody_else(false, !given.is_empty(), &others) {
            Ok(()) => Check::fine("other programs", "nobody else's is in the way"),
            Err(failure) => Check::failed("other programs", &failure),
        });
    }
}

/// Where pins go, and state.
pub fn places(args: &KernelArgs, checks: &mut Checks) {
    let default = args.bpffs_is_default();
    let on_bpffs = startup::is_on_bpffs(&args.bpffs);
    checks.push(match (on_bpffs, read_only(&args.bpffs)) {
        (_, Some(failure)) | (Err(failure), None) => Check::failed("bpffs", &failure),
        (Ok(true), None) => Check::fine("bpffs", format!("{} is on one", args.bpffs.display())),
        (Ok(false), None) if startup::mounts_bpffs(&args.bpffs, default) => {
            Check::fine("bpffs", "none is mounted; `redirector run` mounts it")
        }
        (Ok(false), None) => Check::failed("bpffs", &startup::not_on_bpffs(&args.bpffs, "")),
    });
    let state = &args.state_dir;
    let nearest = state.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let writable = access(nearest, Access::WRITE_OK | Access::EXEC_OK);
    checks.push(match (writable, nearest.is_dir()) {
        (Ok(()), true) => Check::fine("state directory", format!("{}", state.display())),
        (_, false) => Check::failed(
            "state directory",
            &Failure::input(format!("{} is no directory", nearest.display()))
                .help("name another one with --state-dir"),
        ),
        (Err(error), _) => Check::failed(
            "state directory",
            &Failure::new(
                Exit::Unable,
                format!(
                    "{} cannot be written to: {}",
                    nearest.display(),
                    std::io::Error::from(error)
                ),
            )
            .help(format!(
                "run it as root (ls -ld {} says who may), or name another one with --state-dir",
                quoted(nearest)
            )),
        ),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_that_are_not_in_effect_are_named() {
        let missing = |mask: &str| missing_capabilities(&format!("Name:\tx\nCapEff:\t{mask}\n"));
        assert!(missing("000001ffffffffff").is_empty());
        assert_eq!(missing("0000000000000000"), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        // CAP_SYS_ADMIN and CAP_NET_ADMIN.
        assert!(missing("0000000000201000").is_empty());
        assert_eq!(missing("0000000000200000"), ["CAP_NET_ADMIN"]);
        assert_eq!(missing_capabilities("").len(), 3);
    }

    #[test]
    fn a_clock_that_is_off_is_found() {
        let text = "monotonic      -86400         0\nboottime            0         0\n";
        assert_eq!(monotonic_offset(text), -86400);
        assert_eq!(monotonic_offset("monotonic  0  0\n"), 0);
        assert_eq!(monotonic_offset(""), 0);
    }
}
