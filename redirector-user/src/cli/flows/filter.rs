//! Which of the connections are shown.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use super::super::completions;
use super::story::{OUTCOMES, Told};

/// Which of the connections: all that are given have to hold
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which connections")]
pub struct Filter {
    /// Of this workload
    #[arg(long, value_name = "NS/NAME", add = completions::workloads())]
    workload: Option<String>,
    /// Of this process
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Since then: so long ago (10m), or a time in UTC (2026-11-30T01:45:00Z)
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<SystemTime>,
    /// By rules of this object, as Kind/NS/NAME or NS/NAME
    #[arg(long, value_name = "OBJECT", add = completions::rules())]
    route: Option<String>,
    /// Dialled to this address or sent to it, with a port or without
    #[arg(long, value_name = "IP[:PORT]", value_parser = address)]
    address: Option<Address>,
    /// With this outcome: passed, routed, refused (for any reason), empty (no endpoint), limited,
    /// ended, failed, givenup, released
    #[arg(long, value_name = "OUTCOME", value_parser = outcome)]
    outcome: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Address {
    ip: IpAddr,
    port: Option<u16>,
}

fn address(text: &str) -> Result<Address, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Address { ip: address.ip(), port: Some(address.port()) });
    }
    let ip = text.trim_start_matches('[').trim_end_matches(']').parse();
    ip.map(|ip| Address { ip, port: None })
        .map_err(|_| "expected an IP address, or IP:PORT, or [IPv6]:PORT".to_owned())
}

fn since(text: &str) -> Result<SystemTime, String> {
    let ago = humantime::parse_duration(text).ok();
    ago.and_then(|time| SystemTime::now().checked_sub(time))
        .or_else(|| humantime::parse_rfc3339_weak(text).ok())
        .ok_or_else(|| {
            "expected how long ago, such as 10m, or a time: 2026-11-30T01:45:00Z".to_owned()
        })
}

fn outcome(text: &str) -> Result<String, String> {
    if OUTCOMES.iter().any(|(_, name)| *name == text) {
        return Ok(text.to_owned());
    }
    let names: Vec<&str> = OUTCOMES.iter().map(|(_, name)| *name).collect();
    Err(format!("expected one of {}", names.join(", ")))
}

impl Filter {
    /// Whether this one is shown.
    pub fn takes(&self, told: &Told) -> bool {
        self.workload.as_ref().is_none_or(|wanted| told.workload.as_ref() == Some(wanted))
            && self.pid.is_none_or(|pid| told.process.as_ref().is_some_and(|one| one.pid == pid))
            && self.since.is_none_or(|since| told.at >= since)
            && self.route.as_ref().is_none_or(|wanted| {
                told.route.as_ref().is_some_and(|route| {
                    let object = route.split(' ').next().unwrap_or_default();
                    object == wanted || object.split_once('/').is_some_and(|(_, o)| o == wanted)
                })
            })
            && self.address.is_none_or(|wanted| {
                let is = |address: SocketAddr| {
                    address.ip() == wanted.ip
                        && wanted.port.is_none_or(|port| port == address.port())
                };
                is(told.destination) || told.endpoint.is_some_and(is)
            })
            && self.outcome.as_ref().is_none_or(|wanted| {
                told.outcome == wanted
                    || (wanted == "refused" && ["empty", "limited"].contains(&told.outcome))
            })
    }
}
