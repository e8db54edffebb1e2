//! What this kernel can do of what the programs and the daemon need: probed,
//! never derived from a version number. docs/kernel-policy.md is the same for
//! people.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};
use serde::Serialize;

use super::netns::own_cookie;
use super::{Hook, btf, reset, sys};
use crate::mounts;

/// The oldest kernel that is supported.
pub const OLDEST: &str = "6.1";

/// What a probe found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Support {
    /// It is there.
    Yes,
    /// It is not.
    No,
    /// It cannot be told, for this reason: as a rule, too little privilege.
    Unknown(String),
}

/// Something that is needed of the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Feature {
    /// What it is for.
    pub name: &'static str,
    /// The part of the kernel.
    pub needs: &'static str,
    /// The upstream version that brought it.
    pub since: &'static str,
    /// What happens without it.
    pub without: &'static str,
    /// Whether nothing works without it.
    pub required: bool,
    /// What was found.
    pub found: Support,
}

/// How a feature is probed.
enum Probe {
    Program(ProgramType),
    Map(MapType),
    /// A helper, for the programs at `connect()`.
    Helper(BpfHelper),
    Hook(Hook),
    NetnsCookie,
    Reset,
    Types,
}

/// Name, part of the kernel, since, without it, how to tell. What has no
/// "without" is required.
type Row = (&'static str, &'static str, &'static str, Option<&'static str>, Probe);

const ROWS: [Row; 13] = [
    (
        "redirecting connections",
        "cgroup/connect4 and connect6",
        "4.17",
        None,
        Probe::Program(ProgramType::CgroupSockAddr),
    ),
    ("the dialled address", "cgroup/getpeername4", "5.8", None, Probe::Hook(Hook::Getpeername4)),
    ("freeing with the socket", "cgroup/sock_release", "5.9", None, Probe::Hook(Hook::Release)),
    ("prefixes", "BPF_MAP_TYPE_LPM_TRIE", "4.11", None, Probe::Map(MapType::LpmTrie)),
    (
        "refusing with ECONNREFUSED",
        "bpf_set_retval",
        "6.1",
        None,
        Probe::Helper(BpfHelper::BPF_FUNC_set_retval),
    ),
    (
        "workloads by cgroup",
        "bpf_get_current_ancestor_cgroup_id",
        "5.7",
        None,
        Probe::Helper(BpfHelper::BPF_FUNC_get_current_ancestor_cgroup_id),
    ),
    (
        "workloads by netns",
        "bpf_get_netns_cookie",
        "5.7",
        None,
        Probe::Helper(BpfHelper::BPF_FUNC_get_netns_cookie),
    ),
    (
        "naming network namespaces",
        "SO_NETNS_COOKIE",
        "5.14",
        Some("workloads are told by cgroup only"),
        Probe::NetnsCookie,
    ),
    (
        "telling sockets of the kernel's own",
        "BTF: /sys/kernel/btf/vmlinux",
        "5.4",
        Some(
            "connections of MPTCP sockets, of NFS and the like fill the memory of connections: \
             nobody tells when they end",
        ),
        Probe::Types,
    ),
    (
        "telling MPTCP subflows",
        "bpf_skc_to_mptcp_sock",
        "5.19",
        None,
        Probe::Helper(BpfHelper::BPF_FUNC_skc_to_mptcp_sock),
    ),
    (
        "accounting",
        "sock_ops programs",
        "4.13",
        Some("--accounting cannot be switched on"),
        Probe::Program(ProgramType::SockOps),
    ),
    (
        "resetting connections",
        "CONFIG_INET_DIAG_DESTROY",
        "4.5",
        Some("connections to endpoints that have gone are not reset (redirector.io/drain)"),
        Probe::Reset,
    ),
    ("the programs' log", "BPF_MAP_TYPE_RINGBUF", "5.8", None, Probe::Map(MapType::RingBuf)),
];

/// Probes everything. Loads programs of two instructions that are never
/// attached; changes nothing.
pub fn probe() -> Vec<Feature> {
    ROWS.into_iter()
        .map(|(name, needs, since, without, probe)| Feature {
            name,
            needs,
            since,
            without: without.unwrap_or("cannot run"),
            required: without.is_none(),
            found: match probe.run() {
                Ok(true) => Support::Yes,
                Ok(false) => Support::No,
                Err(why) => Support::Unknown(why),
            },
        })
        .collect()
}

/// The release of the running kernel, as `uname -r` prints it.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

impl Probe {
    fn run(self) -> Result<bool, String> {
        match self {
            Self::Program(kind) => is_program_supported(kind).map_err(|error| root_cause(&error)),
            Self::Map(kind) => is_map_supported(kind).map_err(|error| root_cause(&error)),
            Self::Helper(helper) => is_helper_supported(ProgramType::CgroupSockAddr, helper)
                .map_err(|error| root_cause(&error)),
            Self::Hook(hook) => has_hook(hook).map_err(|error| error.to_string()),
            Self::Reset => reset::is_possible().map_err(|error| error.to_string()),
            Self::NetnsCookie => has_netns_cookie().map_err(|error| error.to_string()),
            Self::Types => btf::types()
                .map(|types| types.kernel_socket != 0)
                .map_err(|error| error.to_string()),
        }
    }
}

/// The innermost error: "Operation not permitted" says more than the call.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Asks who is on the hook of some cgroup: a kernel without the hook refuses
/// the question.
fn has_hook(hook: Hook) -> io::Result<bool> {
    let mount =
        mounts::cgroup2()?.ok_or_else(|| io::Error::other("no cgroup2 file system is mounted"))?;
    let cgroup = File::open(mount)?;
    match sys::effective_programs(cgroup.as_fd(), hook.attach_type()) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

fn has_netns_cookie() -> io::Result<bool> {
    match own_cookie() {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_the_oldest_kernel_has_is_missing_here() {
        for feature in probe() {
            assert_ne!(feature.found, Support::No, "{feature:?}");
        }
    }
}
