//! Connecting to the chosen endpoint, and to another one of its destination
//! when that refuses or does not answer.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;

use super::setup::Setup;
use super::watch::token_of;
use super::{Conn, NEVER, Side, Step, milliseconds};
use crate::proxy::descriptors::is_exhaustion;
use crate::proxy::io::Io;
use crate::proxy::message::Failed;
use crate::proxy::relay::End;
use crate::proxy::upstream;

/// Most endpoints that are tried for one connection.
const ATTEMPTS: usize = 16;

/// How long a connection waits before it asks for a descriptor again.
const STARVED: Duration = Duration::from_millis(100);

/// Why there is no connection to an endpoint.
enum Refusal {
    /// It cannot be reached.
    Unreachable(Failed),
    /// Descriptors or memory have run out.
    Exhausted,
    /// It leads back here.
    Loop,
}

impl Conn {
    /// Begins to connect to the chosen endpoint, and to the next when that
    /// fails at once. What the client has sent already goes along: where the
    /// connection stands at once, as on loopback, that is all there is to do.
    pub(super) fn attempt(&mut self, mut setup: Setup, io: &mut Io) -> Step {
        let mut first = 0;
        if !self.up.holds() && !self.up.ended && self.client.readable {
            match self.up.first(&mut self.client, &mut io.buffer) {
                Ok(count) => first = count,
                Err(_) => return Step::Reset,
            }
        }
        loop {
            let mut why = Failed::Other;
            if let Some(access) = &mut self.access {
                access.attempts += 1;
            }
            let opened = match self.open(&setup, first > 0 || self.up.holds(), io) {
                Ok(opened) => Some(opened),
                Err(Refusal::Exhausted) => {
                    self.up.held.extend_from_slice(&io.buffer[..first]);
                    return self.starve(setup, io);
                }
                Err(Refusal::Loop) => {
                    self.stats.looped.fetch_add(1, Relaxed);
                    self.why = "loop";
                    return Step::Reset;
                }
                Err(Refusal::Unreachable(error)) => {
                    why = error;
                    None
                }
            };
            let first = std::mem::take(&mut first);
            let bytes = &io.buffer[..first];
            if let Some(mut upstream) = opened {
                match self.up.offer(&mut upstream, bytes) {
                    Ok(()) => return self.opened(setup, upstream, io),
                    Err(_) if self.up.bytes > 0 => return Step::Reset,
                    // Told by the write, so no more by the socket.
                    Err(_) => why = Failed::Refused,
                }
            } else {
                self.up.held.extend_from_slice(bytes);
            }
            if !self.next_endpoint(&mut setup, why, io) {
                return self.fail(why);
            }
        }
    }

    /// No descriptor is left for the connection to the endpoint: waits for one,
    /// as long as it would wait for endpoints.
    fn starve(&mut self, mut setup: Setup, io: &mut Io) -> Step {
        io.exhausted = true;
        let timeout = self
            .target
            .as_ref()
            .map_or(Duration::ZERO, |target| target.destination.spec.connect_timeout);
        if setup.give_up == NEVER {
            setup.give_up = io.now.saturating_add(milliseconds(timeout).saturating_mul(2));
        }
        if io.now >= setup.give_up || (!self.watched && self.watch_client(io).is_err()) {
            return self.fail(Failed::Exhausted);
        }
        setup.starved = true;
        setup.deadline = io.now.saturating_add(milliseconds(STARVED));
        self.setup = Some(Box::new(setup));
        Step::Wait
    }

    /// Watches a connection that is being (or has been) established.
    fn opened(&mut self, mut setup: Setup, mut upstream: End, io: &mut Io) -> Step {
        // Bytes are only taken once the handshake is over.
        let established = self.up.bytes > 0;
        let mut flags = EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        if !established || self.up.holds() {
            flags |= EventFlags::OUT;
            upstream.watched_for_room = true;
        }
        // epoll says at once what there is to read.
        upstream.readable = false;
        let upstream = self.upstream.insert(upstream);
        let data = token_of(self.token, Side::Upstream);
        if epoll::add(&io.epoll, &upstream.fd, data, flags).is_err()
            || (!self.watched && self.watch_client(io).is_err())
        {
            return Step::Reset;
        }
        if established {
            self.active = io.now;
            if self.up.ended || self.client.readable {
                return self.relay(Side::Client, false, io);
            }
        } else if let Some(target) = &self.target {
            let timeout = milliseconds(target.destination.spec.connect_timeout);
            setup.deadline = io.now.saturating_add(timeout);
            if setup.give_up == NEVER {
                setup.give_up = setup.deadline.saturating_add(timeout);
            }
            self.setup = Some(Box::new(setup));
        }
        Step::Wait
    }

    /// The endpoint has refused, or not answered in time.
    pub(super) fn retry(&mut self, mut setup: Setup, why: Failed, io: &mut Io) -> Step {
        match self.next_endpoint(&mut setup, why, io) {
            true => self.attempt(setup, io),
            false => self.fail(why),
        }
    }

    /// Moves on to another endpoint of the destination, if there is one left.
    fn next_endpoint(&mut self, setup: &mut Setup, why: Failed, io: &mut Io) -> bool {
        self.upstream = None;
        if let Some(local) = self.noted.take() {
            io.shared.loops.forget(*local);
        }
        let Some(target) = self.target.as_mut() else { return false };
        target.leg().miss(why);
        target.destination.endpoints[target.endpoint].missed.fetch_add(1, Relaxed);
        setup.tried.push(target.endpoint as u32);
        if setup.tried.len() >= ATTEMPTS || io.now >= setup.give_up {
            return false;
        }
        let tables = &setup.snapshot.tables;
        let next = tables.another(target.index, &target.destination, &setup.tried, &mut io.random);
        let Some(next) = next else { return false };
        target.leg().retried.fetch_add(1, Relaxed);
        target.destination.endpoints[target.endpoint].active.fetch_sub(1, Relaxed);
        target.destination.endpoints[next].active.fetch_add(1, Relaxed);
        target.endpoint = next;
        true
    }

    /// A socket that connects to the chosen endpoint.
    fn open(&mut self, setup: &Setup, has_data: bool, io: &mut Io) -> Result<End, Refusal> {
        let Some(target) = &self.target else { return Err(Refusal::Unreachable(Failed::Other)) };
        let spec = &target.destination.spec;
        let endpoint = self.resolved(spec.endpoints[target.endpoint].0);
        let ours = setup.snapshot.leads_to(endpoint);
        if ours.is_some_and(|ours| ours == self.listener || setup.trail.contains(&ours)) {
            return Err(Refusal::Loop);
        }
        let classify = |error: Errno| match is_exhaustion(error) {
            true => Refusal::Exhausted,
            false => Refusal::Unreachable(upstream::classify(error)),
        };
        let keepalive = spec.keepalive.as_ref();
        let descriptors = io.shared.descriptors.clone();
        let make = || descriptors.take(upstream::socket(endpoint, keepalive)?);
        let socket = match make() {
            Err(error) if is_exhaustion(error) => {
                io.pipes.release();
                make()
            }
            socket => socket,
        }
        .map_err(classify)?;
        if ours.is_some() {
            let trail = setup.trail.iter().copied().chain([self.listener]).collect();
            let local = io.shared.loops.note(&socket, endpoint, trail).map_err(classify)?;
            self.noted = Some(Box::new(local));
        }
        if has_data {
            upstream::acknowledge_with_data(&socket);
        }
        match upstream::begin(&socket, endpoint) {
            Ok(()) => Ok(End::new(socket)),
            Err(error) => Err(Refusal::Unreachable(upstream::classify(error))),
        }
    }

    /// The endpoint's address; where it is unspecified, the address dialled.
    fn resolved(&self, mut endpoint: SocketAddr) -> SocketAddr {
        if endpoint.ip().is_unspecified() {
            endpoint.set_ip(self.dialled.ip());
        }
        if endpoint.port() == 0 {
            endpoint.set_port(self.dialled.port());
        }
        endpoint
    }

    /// No endpoint could be reached.
    fn fail(&mut self, why: Failed) -> Step {
        self.stats.failed.fetch_add(1, Relaxed);
        self.why = why.reason();
        if let Some(target) = &self.target {
            target.leg().fail(why);
        }
        Step::Reset
    }
}
