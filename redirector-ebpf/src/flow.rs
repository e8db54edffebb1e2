//! Tells of single connections, while somebody follows.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use redirector_common::abi::{
    Connection, Control, FLOWS as COUNT, Flow, Side, flow_event as event,
};
use redirector_common::addr::Addr;

use crate::atomic;
use crate::maps::{CONTROL, FLOW_HEAD, FLOWS};

/// Whether somebody follows now, and the time then.
#[inline(always)]
pub fn followed(control: *const Control) -> Option<u64> {
    // SAFETY: `control` points to the map's entry; the word is read at once. The
    // helper has no preconditions.
    unsafe {
        let until = addr_of!((*control).flows_until).read_volatile();
        if until == 0 {
            return None;
        }
        let now = bpf_ktime_get_ns();
        (now < until).then_some(now)
    }
}

/// Begins a record: it has no number until it is finished.
#[inline(always)]
fn begin() -> Option<(*mut Flow, u64)> {
    let head = FLOW_HEAD.get_ptr_mut(0)?;
    // SAFETY: a pointer that the map gave is valid and aligned, and so is one to
    // its field; the words are only accessed atomically, as below.
    unsafe {
        let begun = atomic::fetch_add(addr_of_mut!((*head).begun), 1);
        let flow = FLOWS.get_ptr_mut(begun as u32 & (COUNT - 1))?;
        atomic::swap(addr_of_mut!((*flow).number), 0);
        Some((flow, begun.wrapping_add(1)))
    }
}

/// What a connect has come to.
pub struct Decided<'a> {
    /// The cookie of its socket.
    pub cookie: u64,
    /// The side that decided.
    pub side: Side,
    /// The address dialled.
    pub dialled: &'a Addr,
    /// The port dialled.
    pub port: u16,
    /// `flow_outcome`.
    pub outcome: u16,
    /// The route and the leg.
    pub choice: (u32, u32),
    /// The endpoint.
    pub backend: (&'a Addr, u16),
    /// The workload.
    pub identity: u32,
}

/// Tells of a decision.
#[inline(always)]
pub fn decided(control: *const Control, now: u64, what: &Decided<'_>) {
    let Some((flow, number)) = begin() else { return };
    // SAFETY: as in `begin`; nobody reads the record before it has its number.
    // `control` points to the map's entry. The helpers have no preconditions.
    unsafe {
        let generations = addr_of!((*control).generation).cast::<u64>();
        let generation = generations.add(what.side.index() as usize & 1).read_volatile();
        addr_of_mut!((*flow).time).write(now);
        addr_of_mut!((*flow).cookie).write(what.cookie);
        addr_of_mut!((*flow).detail).write(generation);
        addr_of_mut!((*flow).sent).write(0);
        addr_of_mut!((*flow).received).write(0);
        addr_of_mut!((*flow).dialled).write(*what.dialled);
        addr_of_mut!((*flow).backend).write(*what.backend.0);
        addr_of_mut!((*flow).dialled_port).write(what.port);
        addr_of_mut!((*flow).backend_port).write(what.backend.1);
        addr_of_mut!((*flow).event).write(event::DECIDED);
        addr_of_mut!((*flow).outcome).write(what.outcome);
        addr_of_mut!((*flow).route).write(what.choice.0);
        addr_of_mut!((*flow).leg).write(what.choice.1);
        addr_of_mut!((*flow).identity).write(what.identity);
        addr_of_mut!((*flow).process).write((bpf_get_current_pid_tgid() >> 32) as u32);
        let command = bpf_get_current_comm().unwrap_or([0; 16]);
        addr_of_mut!((*flow).command).write(command);
        atomic::swap(addr_of_mut!((*flow).number), number);
    }
}

/// What became of a connection.
pub struct Later {
    /// `flow_event`.
    pub event: u16,
    /// `flow_outcome`.
    pub outcome: u16,
    /// Bytes sent and received.
    pub bytes: (u64, u64),
    /// The caller's port, in host byte order.
    pub source_port: u32,
}

/// Tells what became of a connection, from its entry of connection memory.
#[inline(always)]
pub fn later(cookie: u64, connection: *const Connection, what: &Later) {
    let Some(control) = CONTROL.get_ptr(0) else { return };
    let Some(now) = followed(control) else { return };
    let Some((flow, number)) = begin() else { return };
    // SAFETY: as in `decided`; the entry is valid while the program runs.
    unsafe {
        let since = addr_of!((*connection).since).read_volatile();
        let age = if since == 0 { 0 } else { now.wrapping_sub(since) };
        addr_of_mut!((*flow).time).write(now);
        addr_of_mut!((*flow).cookie).write(cookie);
        addr_of_mut!((*flow).detail).write(age);
        addr_of_mut!((*flow).sent).write(what.bytes.0);
        addr_of_mut!((*flow).received).write(what.bytes.1);
        addr_of_mut!((*flow).dialled).write(addr_of!((*connection).dialled).read());
        addr_of_mut!((*flow).backend).write(addr_of!((*connection).backend).read());
        addr_of_mut!((*flow).dialled_port).write(addr_of!((*connection).dialled_port).read());
        addr_of_mut!((*flow).backend_port).write(addr_of!((*connection).backend_port).read());
        addr_of_mut!((*flow).event).write(what.event);
        addr_of_mut!((*flow).outcome).write(what.outcome);
        addr_of_mut!((*flow).route).write(what.source_port);
        addr_of_mut!((*flow).leg).write(addr_of!((*connection).leg).read());
        addr_of_mut!((*flow).identity).write(0);
        addr_of_mut!((*flow).process).write(0);
        addr_of_mut!((*flow).command).write([0; 16]);
        atomic::swap(addr_of_mut!((*flow).number), number);
    }
}
