//! Which connections are meant: of `flows` and of `connections`.

use std::net::{IpAddr, SocketAddr};

use redirector_core::model::bypass::Target;
use serde::Serialize;

use super::completions;

/// Which of the connections: all that are given have to hold
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which connections")]
pub struct Which {
    /// Of this workload
    #[arg(long, value_name = "NS/NAME", value_parser = workload, add = completions::workloads())]
    workload: Option<String>,
    /// Of this process
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// By rules of this VirtualService, as VirtualService/NS/NAME or NS/NAME
    #[arg(long, value_name = "OBJECT", value_parser = rule, add = completions::rules())]
    route: Option<String>,
    /// Dialled to this address or sent to it, with a port or without
    #[arg(long, value_name = "IP[:PORT]", value_parser = address)]
    address: Option<Address>,
}

/// A process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub command: String,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The workload that connects.
    pub workload: Option<&'a str>,
    /// Its process.
    pub pid: Option<u32>,
    /// The rule, as `VirtualService/default/echo tcp[0]`; nothing where it is not sure.
    pub route: Option<&'a str>,
    /// Where it is not: the rules by one of which it was made, as far as that is known.
    pub may_be: &'a [String],
    /// The address dialled, and the endpoint.
    pub addresses: [Option<SocketAddr>; 2],
}

#[derive(Clone, Copy, Debug)]
struct Address {
    ip: IpAddr,
    port: Option<u16>,
}

/// As `explain`, `flows` and `connections` show it. What has another form is the name of none,
/// which is no answer to who mistyped it.
fn workload(text: &str) -> Result<String, String> {
    Target::workload(text).map(|_| text.to_owned())
}

/// As it is shown before a rule's place.
fn rule(text: &str) -> Result<String, String> {
    Target::rule(text).map(|object| object.to_string())
}

fn address(text: &str) -> Result<Address, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Address { ip: address.ip(), port: Some(address.port()) });
    }
    let ip = text.trim_start_matches('[').trim_end_matches(']').parse();
    ip.map(|ip| Address { ip, port: None })
        .map_err(|_| "expected an IP address, or IP:PORT, or [IPv6]:PORT".to_owned())
}

impl Which {
    /// Whether nothing is asked for: all are meant.
    pub fn is_all(&self) -> bool {
        self.workload.is_none()
            && self.pid.is_none()
            && self.route.is_none()
            && self.address.is_none()
    }

    /// Whether it takes knowing the process of a connection.
    pub fn is_of_processes(&self) -> bool {
        self.workload.is_some() || self.pid.is_some()
    }

    /// Whether it takes knowing names.
    pub fn is_of_names(&self) -> bool {
        self.workload.is_some() || self.route.is_some()
    }

    /// Whether this one is meant; `None` where that is not known, as its rule is not. Of
    /// workload, process and addresses what is not known is not what was asked for.
    pub fn takes(&self, one: About<'_>) -> Option<bool> {
        let takes = self.workload.as_deref().is_none_or(|wanted| one.workload == Some(wanted))
            && self.pid.is_none_or(|pid| one.pid == Some(pid))
            && self.address.is_none_or(|wanted| {
                let is = |address: &SocketAddr| {
                    address.ip() == wanted.ip
                        && wanted.port.is_none_or(|port| port == address.port())
                };
                one.addresses.iter().flatten().any(is)
            });
        match &self.route {
            Some(wanted) if takes => by_rule_of(wanted, one),
            _ => Some(takes),
        }
    }
}

/// Whether it was made by a rule of the object.
fn by_rule_of(wanted: &str, one: About<'_>) -> Option<bool> {
    let is = |route: &str| route.split(' ').next() == Some(wanted);
    let may = || one.may_be.iter().map(|route| is(route));
    match one.route {
        Some(route) => Some(is(route)),
        None if one.may_be.is_empty() => None,
        None if may().all(|is| is) => Some(true),
        None if may().any(|is| is) => None,
        None => Some(false),
    }
}
