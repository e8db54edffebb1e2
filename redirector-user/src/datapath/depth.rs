//! How deep a cgroup lies whose parents cannot be seen.
//!
//! In a node that is itself a container, the cgroup2 mount begins at the node's
//! cgroup. The kernel counts levels from the root of the whole hierarchy, and
//! the only one that tells a process where it is in that is a BPF program:
//! paths in /proc are relative to the namespace, and file handles of what lies
//! above need CAP_DAC_READ_SEARCH and a walk through the whole machine.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::sys;

/// Levels that are looked at: as many as the programs look at.
const LEVELS: u32 = 32;

/// `bpf_get_current_ancestor_cgroup_id`.
const ANCESTOR_ID: u32 = 123;

/// The level of the cgroup with this id, if this process is in it or below it;
/// `None` also when it may not ask.
///
/// # Errors
///
/// When the kernel does not tell, for want of something else.
pub fn of_own_ancestor(id: u64) -> io::Result<Option<u32>> {
    // Every cgroup that is looked up asks for the same one.
    static LAST: Mutex<Option<(u64, u32)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((known, level)) = *last
        && known == id
    {
        return Ok(Some(level));
    }
    let found = match sys::run_once(&search(id)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::debug!(%error, "the level of the cgroup {id} cannot be told");
            return Ok(None);
        }
        found => found?,
    };
    let level = found.checked_sub(1);
    *last = level.map(|level| (id, level)).or(*last);
    Ok(level)
}

/// A program that asks for the running task's ancestor at each level, and
/// returns the level where it is this one, plus one, or zero.
fn search(id: u64) -> Vec<u64> {
    // code, destination and source register, offset, immediate value.
    let instruction = |code: u64, registers: u64, offset: u64, value: u32| {
        code | registers << 8 | offset << 16 | u64::from(value) << 32
    };
    let exit = instruction(0x95, 0, 0, 0);
    // r6 = id
    let mut program =
        vec![instruction(0x18, 0x06, 0, id as u32), instruction(0, 0, 0, (id >> 32) as u32)];
    for level in 0..LEVELS {
        program.extend([
            // r1 = level
            instruction(0xb7, 0x01, 0, level),
            instruction(0x85, 0, 0, ANCESTOR_ID),
            // if r0 != r6 goto the next level
            instruction(0x5d, 0x60, 2, 0),
            // r0 = level + 1
            instruction(0xb7, 0, 0, level + 1),
            exit,
        ]);
    }
    program.extend([instruction(0xb7, 0, 0, 0), exit]);
    program
}
