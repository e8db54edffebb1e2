//! The gateway proxy alone, with fixed routes: what `cargo xtask bench gateway`
//! measures.
//!
//!     gateway WORKERS LISTEN=ENDPOINT...
//!
//! Runs until its standard input ends.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result};
use redirector::proxy::{
    Config, DestinationSpec, ListenerSpec, Proxy, Request, RouteSpec, Router, Settings, Verdict,
};
use redirector_core::plan::Algorithm;

/// Listener n takes route n.
struct Fixed;

impl Router for Fixed {
    fn decide(&self, listener: usize, _: &Request<'_>) -> Verdict {
        Verdict::Route(listener)
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let workers = arguments.next().context("how many workers?")?.parse()?;
    let mut config = Config {
        listeners: Vec::new(),
        routes: Vec::new(),
        destinations: Vec::new(),
        router: Box::new(Fixed),
    };
    for argument in arguments {
        let (listen, endpoint) = argument.split_once('=').context("LISTEN=ENDPOINT")?;
        config.listeners.push(ListenerSpec {
            address: listen.parse()?,
            name: listen.into(),
            sni: false,
        });
        config.routes.push(RouteSpec {
            name: listen.into(),
            legs: vec![(config.destinations.len(), 80), (config.destinations.len(), 20)],
            idle_timeout: Some(Duration::from_secs(3600)),
            max_duration: None,
        });
        config.destinations.push(DestinationSpec {
            name: endpoint.into(),
            algorithm: Algorithm::Random,
            endpoints: vec![(endpoint.parse()?, 1)],
            connect_timeout: Duration::from_secs(10),
            keepalive: None,
            max_connections: None,
        });
    }
    let proxy = Proxy::start(Settings { workers, ..Settings::default() }, Vec::new())?;
    let status = proxy.update(config)?;
    eprintln!("{status:?}");
    let _ = std::io::stdin().read(&mut [0]);
    Ok(())
}
