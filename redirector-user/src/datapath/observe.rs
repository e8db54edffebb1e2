//! Reading what the programs write: counters and connection memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use redirector_common::abi::{Connection, LegCounters, Totals, connection_state as state};

use super::layout::Layout;
use super::load::Places;
use super::mapped::{Access, Mapped};
use super::maps::{Maps, mapped, open};
use super::{Counters, Error, LegCount, Remembered};

/// Sums up all counters.
pub fn counters(maps: &Maps, layout: &Layout) -> Counters {
    let stripes = &maps.totals;
    let mut totals = Totals::default();
    for stripe in (0..stripes.len()).filter_map(|index| stripes.get(index)) {
        totals.routed += stripe.routed;
        totals.passed += stripe.passed;
        totals.refused += stripe.refused;
        totals.unknown_source += stripe.unknown_source;
        totals.own += stripe.own;
        totals.memory_full += stripe.memory_full;
        totals.overflowed += stripe.overflowed;
        totals.mptcp += stripe.mptcp;
    }
    let mut legs: BTreeMap<u32, LegCount> = BTreeMap::new();
    let counters = &maps.leg_counters;
    let per_stripe = layout.limits.legs as usize;
    for index in 0..counters.len() {
        if let Some(LegCounters { chosen, refused }) = counters.get(index)
            && chosen > 0
        {
            let leg = legs.entry((index % per_stripe) as u32).or_default();
            leg.chosen += chosen;
            leg.refused += refused;
        }
    }
    let flows = &maps.flow_counters;
    for (index, leg) in &mut legs {
        if let Some(flow) = flows.get(*index as usize) {
            leg.established = flow.established;
            leg.failed = flow.failed;
            leg.closed = flow.closed;
            leg.handshake_ns = flow.handshake_ns;
            leg.sent = flow.sent;
            leg.received = flow.received;
            leg.handshakes = flow.handshakes;
        }
    }
    Counters { totals, legs: legs.into_iter().collect() }
}

/// Whether anything is remembered in this directory, whatever its layout: by what
/// all have in common (`abi::CONNECTION_LAYOUT`).
pub fn has_connections(memory: &Path) -> Result<bool, Error> {
    let words = |name: &'static str| -> Result<(Mapped<u64>, usize), Error> {
        let map = open(&memory.join(name))?;
        let info = map.info().map_err(|error| Error::from_library("reading a map", &error))?;
        let stride = info.value_size().div_ceil(8);
        let words = info.max_entries().saturating_mul(stride);
        Ok((Mapped::new(name, &map, words, Access::Read)?, stride.max(1) as usize))
    };
    let (overflowed, _) = words("OVERFLOW_STATE")?;
    let (own, stride) = words("CONNECTIONS")?;
    let mut firsts = (0..own.len()).step_by(stride).filter_map(|index| own.get(index));
    Ok(overflowed.get(0) != Some(0) || firsts.any(|cookie| cookie != 0))
}

/// All connections that are remembered, with their state.
pub fn connections(
    places: &Places,
    layout: &Layout,
    maps: &Maps,
) -> Result<Vec<(Remembered, u32)>, Error> {
    let own: Mapped<Connection> = mapped(places, layout, "CONNECTIONS", Access::Read)?;
    let mut found = Vec::new();
    for index in 0..own.len() {
        let Some(connection) = own.get(index) else { break };
        // An entry that changed while it was read is read again; one that is
        // just being made has no state yet and does not count.
        if connection.cookie != 0
            && connection.state & state::FILLED != 0
            && own.get(index) == Some(connection)
        {
            found.push((remembered(&connection, false), connection.state));
        }
    }
    for entry in maps.overflow.iter() {
        let (_, connection) =
            entry.map_err(|error| Error::from_library("reading OVERFLOW", &error))?;
        found.push((remembered(&connection, true), connection.state));
    }
    Ok(found)
}

fn remembered(connection: &Connection, overflow: bool) -> Remembered {
    Remembered {
        cookie: connection.cookie,
        dialled: SocketAddr::new(
            IpAddr::from(connection.dialled),
            u16::from_be(connection.dialled_port),
        ),
        backend: SocketAddr::new(
            IpAddr::from(connection.backend),
            u16::from_be(connection.backend_port),
        ),
        leg: connection.leg,
        overflow,
        since: (connection.since != 0).then_some(connection.since),
    }
}
