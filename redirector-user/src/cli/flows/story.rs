//! What records tell, put together: who connected, and what became of it.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use redirector_common::abi::{
    Flow, IDENTITY_UNKNOWN, flow_event as event, flow_outcome as outcome,
};
use redirector_common::addr::Addr;
use serde::Serialize;

use super::super::which::Process;
use super::{Names, wall};
use crate::output::{Style, destination_name, plain, route_name, time};
use crate::proxy::{Became, Through};

/// So many connections are remembered until they are closed.
const REMEMBERED: usize = 100_000;

/// What is shown of a decision, or of an end.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// When, in UTC.
    pub time: String,
    /// The same.
    #[serde(skip)]
    pub at: SystemTime,
    /// `decided` or `closed`.
    pub event: &'static str,
    /// What came of it.
    pub outcome: &'static str,
    /// Tells connections apart while their sockets are open.
    pub cookie: u64,
    /// The server of a Gateway that it goes through, when it does.
    pub gateway: Option<String>,
    /// The client of a gateway.
    pub client: Option<SocketAddr>,
    /// The workload that connects, when it is known.
    pub workload: Option<String>,
    /// The process that connects, with the name of the thread.
    pub process: Option<Process>,
    /// The caller's port, when it is known: of connections that were followed to their end.
    pub source_port: Option<u16>,
    /// The address dialled.
    pub destination: SocketAddr,
    /// The rule, or whose own endpoints it went to.
    pub route: Option<String>,
    /// The destination drawn, with its subset.
    pub to: Option<String>,
    /// The endpoint.
    pub endpoint: Option<SocketAddr>,
    /// The configuration that decided.
    pub generation: Option<u64>,
    /// Bytes that the other side has acknowledged.
    pub sent: Option<u64>,
    /// Bytes received.
    pub received: Option<u64>,
    /// From `connect` to the end.
    pub seconds: Option<f64>,
    /// From `connect` to the end of the handshake.
    pub handshake_seconds: Option<f64>,
}

/// Connections that were decided and are not closed yet.
pub struct Stories {
    pub names: Names,
    open: HashMap<u64, Told>,
    order: VecDeque<u64>,
}

impl Stories {
    pub fn new(names: Names) -> Self {
        Self { names, open: HashMap::new(), order: VecDeque::new() }
    }

    /// What a record adds. The end of a handshake is told with the end of the
    /// connection.
    pub fn tell(&mut self, flow: &Flow) -> Option<Told> {
        let at = wall(flow.time);
        let time = humantime::format_rfc3339_micros(at).to_string();
        match flow.event {
            event::DECIDED => {
                let told = Told { at, time, ..self.decided(flow) };
                if flow.outcome == outcome::ROUTED {
                    self.remember(flow.cookie, told.clone());
                }
                Some(told)
            }
            event::ESTABLISHED => {
                if let Some(told) = self.open.get_mut(&flow.cookie) {
                    told.handshake_seconds = seconds(flow.detail);
                    told.source_port = flow.source_port();
                }
                None
            }
            event::CLOSED => {
                let known = self.open.remove(&flow.cookie);
                let told = known.unwrap_or_else(|| self.unseen(flow));
                let followed = flow.outcome != outcome::RELEASED;
                Some(Told {
                    at,
                    time,
                    source_port: flow.source_port().or(told.source_port),
                    event: "closed",
                    outcome: outcome_name(flow.outcome),
                    sent: followed.then_some(flow.sent),
                    received: followed.then_some(flow.received),
                    seconds: seconds(flow.detail),
                    ..told
                })
            }
            _ => None,
        }
    }

    fn remember(&mut self, cookie: u64, told: Told) {
        if self.open.insert(cookie, told).is_none() {
            self.order.push_back(cookie);
        }
        while self.order.len() > REMEMBERED {
            if let Some(cookie) = self.order.pop_front() {
                self.open.remove(&cookie);
            }
        }
    }

    fn decided(&mut self, flow: &Flow) -> Told {
        let layout = self.names.of(flow.detail);
        let names = layout.as_ref().map(|layout| layout.names());
        let leg = (flow.outcome >= outcome::ROUTED).then_some(flow.leg);
        let leg = leg.and_then(|leg| names.as_ref()?.legs.get(&leg).copied());
        let workload = (flow.identity != IDENTITY_UNKNOWN)
            .then(|| self.names.workload(flow.detail, flow.identity))
            .flatten();
        Told {
            event: "decided",
            outcome: outcome_name(flow.outcome),
            workload,
            process: Some(Process { pid: flow.process, command: command(&flow.command) }),
            route: leg.map(|(route, _, _)| route_name(route)),
            to: leg.map(|(_, _, destination)| destination_name(destination)),
            endpoint: (flow.outcome == outcome::ROUTED)
                .then(|| address(flow.backend, flow.backend_port)),
            generation: Some(flow.detail),
            ..Told::of(flow)
        }
    }

    /// Of a connection that was decided before anybody followed.
    fn unseen(&mut self, flow: &Flow) -> Told {
        let layout = self.names.of(self.names.generation);
        let names = layout.as_ref().map(|layout| layout.names());
        let leg = names.and_then(|names| names.legs.get(&flow.leg).copied());
        Told {
            event: "closed",
            route: leg.map(|(route, _, _)| route_name(route)),
            to: leg.map(|(_, _, destination)| destination_name(destination)),
            endpoint: Some(address(flow.backend, flow.backend_port)),
            ..Told::of(flow)
        }
    }
}

impl Told {
    /// What every record has.
    fn of(flow: &Flow) -> Self {
        Self {
            time: String::new(),
            at: SystemTime::UNIX_EPOCH,
            event: "",
            outcome: "",
            cookie: flow.cookie,
            gateway: None,
            client: None,
            workload: None,
            process: None,
            source_port: None,
            destination: address(flow.dialled, flow.dialled_port),
            route: None,
            to: None,
            endpoint: None,
            generation: None,
            sent: None,
            received: None,
            seconds: None,
            handshake_seconds: None,
        }
    }

    /// Of a connection through a gateway.
    pub fn through(one: &Through) -> Self {
        let at = SystemTime::now() - one.ago;
        let (event, outcome) = match one.became {
            Became::Routed => ("decided", "routed"),
            Became::Refused => ("decided", "refused"),
            Became::Ended => ("closed", "ended"),
            Became::Failed => ("closed", "failed"),
            Became::Reset => ("closed", RESET),
        };
        Self {
            time: humantime::format_rfc3339_micros(at).to_string(),
            at,
            event,
            outcome,
            cookie: one.cookie,
            gateway: one.gateway.as_ref().map(ToString::to_string),
            client: Some(one.client),
            workload: None,
            process: None,
            source_port: Some(one.client.port()),
            destination: one.dialled,
            route: one.route.as_ref().map(ToString::to_string),
            to: one.destination.as_ref().map(ToString::to_string),
            endpoint: one.endpoint,
            generation: None,
            sent: one.sent,
            received: one.received,
            seconds: one.open.map(|time| time.as_secs_f64()),
            handshake_seconds: None,
        }
    }

    /// A line for people.
    pub fn text(&self, style: Style) -> String {
        let clock = self.time.get(11..23).unwrap_or(&self.time);
        let outcome = format!("{:<8}", self.outcome);
        let outcome = match self.outcome {
            "routed" | "ended" => style.good(outcome),
            "passed" | "released" => outcome,
            _ => style.error(outcome),
        };
        let mut text = format!("{clock} {outcome} {}", self.destination);
        if let Some(endpoint) = self.endpoint {
            text += &format!(" -> {endpoint}");
        }
        let who = self.workload.as_deref().unwrap_or("unknown workload");
        let mut parts = match (&self.client, &self.process) {
            (Some(client), _) => vec![format!("client {client}")],
            (None, Some(Process { pid, command })) => {
                vec![format!("{who} ({} {pid})", plain(command))]
            }
            (None, None) => vec![who.to_owned()],
        };
        let port = self.source_port.filter(|_| self.client.is_none());
        parts.extend(port.map(|port| format!("port {port}")));
        parts.extend(self.gateway.clone());
        parts.extend(self.route.clone());
        if let Some(seconds) = self.seconds {
            parts.push(format!("after {}", time(seconds)));
        }
        if let Some(seconds) = self.handshake_seconds {
            parts.push(format!("handshake {}", time(seconds)));
        }
        if let (Some(sent), Some(received)) = (self.sent, self.received) {
            parts.push(format!("{sent} B sent, {received} B received"));
        }
        format!("{text}  {}\n", parts.join(", "))
    }
}

fn seconds(nanoseconds: u64) -> Option<f64> {
    (nanoseconds != 0).then(|| nanoseconds as f64 / 1e9)
}

fn address(addr: Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(addr), u16::from_be(port))
}

fn command(bytes: &[u8; 16]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A connection through a gateway that did not end in order.
pub const RESET: &str = "reset";

/// How outcomes are called.
pub const OUTCOMES: [(u16, &str); 9] = [
    (outcome::PASSED, "passed"),
    (outcome::REFUSED, "refused"),
    (outcome::ROUTED, "routed"),
    (outcome::REFUSED_EMPTY, "empty"),
    (outcome::REFUSED_LIMITED, "limited"),
    (outcome::ENDED, "ended"),
    (outcome::FAILED, "failed"),
    (outcome::GIVEN_UP, "givenup"),
    (outcome::RELEASED, "released"),
];

fn outcome_name(number: u16) -> &'static str {
    OUTCOMES.iter().find(|(known, _)| *known == number).map_or("unknown", |(_, name)| name)
}
