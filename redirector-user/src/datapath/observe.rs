//! Reading what the programs write: counters and connection memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::{HashMap, MapData, MapInfo};
use redirector_common::abi::{Connection, LegCounters, Totals, connection_state as state};

use super::layout::Layout;
use super::mapped::{Access, Mapped};
use super::maps::Maps;
use super::opened::{hash, open};
use super::{Counters, Error, LegCount, Remembered, names, sys};

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

/// How many connections this directory remembers, whatever its layout.
pub fn count(memory: &Path) -> Result<u64, Error> {
    Ok(own_cookies(memory)?.len() as u64 + overflowed(memory)?)
}

/// The cookies of the sockets whose connections this directory remembers, whatever
/// its layout.
pub fn cookies(memory: &Path) -> Result<Vec<u64>, Error> {
    let mut cookies = own_cookies(memory)?;
    if overflowed(memory)? > 0 {
        let (map, _) = opened(memory, names::OVERFLOW)?;
        let keys = sys::keys(map.fd().as_fd());
        cookies.extend(keys.map_err(|error| Error::from_io("reading OVERFLOW", error))?);
    }
    Ok(cookies)
}

/// Those in their own places: see `abi::CONNECTION_LAYOUT`, as below.
fn own_cookies(memory: &Path) -> Result<Vec<u64>, Error> {
    let (own, stride) = words(memory, names::CONNECTIONS)?;
    let firsts = (0..own.len()).step_by(stride).filter_map(|index| own.get(index));
    Ok(firsts.filter(|cookie| *cookie != 0).collect())
}

/// How many lie in the overflow table.
fn overflowed(memory: &Path) -> Result<u64, Error> {
    let (state, _) = words(memory, names::OVERFLOW_STATE)?;
    Ok(state.get(0).unwrap_or(0))
}

/// The words of an array, whatever its entries are, and how many each of them has.
fn words(memory: &Path, name: &'static str) -> Result<(Mapped<u64>, usize), Error> {
    let (map, info) = opened(memory, name)?;
    let stride = info.value_size().div_ceil(8);
    let words = info.max_entries().saturating_mul(stride);
    Ok((Mapped::new(name, &map, words, Access::Read)?, stride.max(1) as usize))
}

/// A map, and what it is like.
fn opened(memory: &Path, name: &str) -> Result<(MapData, MapInfo), Error> {
    let map = open(&memory.join(name), Access::Read)?;
    let info = map.info().map_err(|error| Error::from_library("reading a map", &error))?;
    Ok((map, info))
}

/// All connections that this directory, of this version, remembers, with their
/// state.
pub fn connections(memory: &Path) -> Result<Vec<(Remembered, u32)>, Error> {
    let (map, info) = opened(memory, names::CONNECTIONS)?;
    let (found_size, size) = (info.value_size() as usize, size_of::<Connection>());
    if found_size != size {
        let differences = vec![format!("CONNECTIONS: a value is {found_size} long, not {size}")];
        return Err(Error::Incompatible { pins: memory.to_owned(), differences });
    }
    let own =
        Mapped::<Connection>::new(names::CONNECTIONS, &map, info.max_entries(), Access::Read)?;
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
    let overflow: HashMap<MapData, u64, Connection> =
        hash(open(&memory.join(names::OVERFLOW), Access::Read)?)?;
    for entry in overflow.iter() {
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
        destination: connection.destination,
        overflow,
        since: (connection.since != 0).then_some(connection.since),
    }
}
