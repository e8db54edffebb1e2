//! What a process may do, and how it gives up the rest.

use std::fs;
use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use serde::{Deserialize, Serialize};

/// What a process may do, as the kernel says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Confined {
    /// Its number.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its capabilities, all sets together: the bits of `/proc/PID/status`, 16 hexadecimal
    /// digits.
    pub capabilities: String,
    /// Whether it can never have more.
    pub no_new_privileges: bool,
    /// Whether its system calls are filtered.
    pub filtered: bool,
}

impl Confined {
    /// Of the process with this number: of its first thread, where they differ.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.split_whitespace().next()).unwrap_or_default()
        };
        let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"];
        let sets = sets.map(|set| u64::from_str_radix(field(set), 16));
        let missing = |_| io::Error::new(io::ErrorKind::InvalidData, "no capabilities are told");
        let mut capabilities = 0;
        for set in sets {
            capabilities |= set.map_err(missing)?;
        }
        Ok(Self {
            pid,
            uid: field("Uid").parse().map_err(io::Error::other)?,
            capabilities: format!("{capabilities:016x}"),
            no_new_privileges: field("NoNewPrivs") == "1",
            filtered: field("Seccomp") == "2",
        })
    }

    /// The names of its capabilities, as in capabilities(7), without `CAP_`.
    pub fn names(&self) -> Vec<&'static str> {
        let bits = u64::from_str_radix(&self.capabilities, 16).unwrap_or_default();
        CapabilitySet::from_bits_retain(bits).iter_names().map(|(name, _)| name).collect()
    }
}

/// Keeps these capabilities of those that this thread has, for good: no program that it starts
/// has others. To be called while there is no other thread, for each has its own; those that it
/// starts have its.
///
/// # Errors
///
/// When others would be left.
pub fn keep(kept: CapabilitySet) -> io::Result<()> {
    bound(kept);
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    reduce(kept)
}

/// Takes from this thread all capabilities but these.
fn reduce(kept: CapabilitySet) -> io::Result<()> {
    let kept = kept.intersection(capabilities(None)?.permitted);
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
    Ok(())
}

/// Has no program that this thread becomes be given others than these, by its file, as far as
/// the thread may see to that.
pub fn bound(kept: CapabilitySet) {
    let others = CapabilitySet::all().difference(kept);
    others.iter().map(remove_capability_from_bounding_set).for_each(drop);
}

/// Gives up all capabilities of this thread, which reads what strangers say. Others of the
/// process keep theirs: what this thread is talked into by mistake is done without.
pub fn keep_none() {
    keep_only(CapabilitySet::empty());
}

/// Gives up all capabilities of this thread but these, for which it is there.
pub fn keep_only(kept: CapabilitySet) {
    // Giving up is always allowed.
    if let Err(error) = reduce(kept) {
        tracing::warn!(%error, "a thread keeps its capabilities");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_told_by_their_names() {
        let names = |capabilities: &str| {
            Confined { capabilities: capabilities.to_owned(), ..Confined::default() }.names()
        };
        assert_eq!(names("000000c000001000"), ["NET_ADMIN", "PERFMON", "BPF"]);
        assert!(names("0000000000000000").is_empty());
    }

    #[test]
    fn a_thread_that_keeps_none_leaves_others_theirs() {
        let own = || capabilities(None).unwrap().permitted;
        let before = own();
        let thread = std::thread::spawn(move || {
            keep_none();
            own()
        });
        assert!(thread.join().unwrap().is_empty());
        assert_eq!(own(), before);
    }
}
