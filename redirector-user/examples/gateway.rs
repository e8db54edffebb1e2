//! The gateway proxy alone, with fixed routes: what `cargo xtask bench gateway`
//! measures.
//!
//!     gateway WORKERS LISTEN=ENDPOINT...
//!
//! Runs until its standard input ends.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use redirector::identity::Locals;
use redirector::proxy::{
    Config, DestinationSpec, ListenerSpec, Proxy, RouteSpec, RuleSpec, Settings,
};
use redirector_core::model::Accepting;
use redirector_core::plan::Algorithm;

fn main() -> Result<std::process::ExitCode> {
    if let Some(code) = redirector::cli::relay::if_asked(std::env::args_os().skip(1)) {
        return Ok(code);
    }
    let mut arguments = std::env::args().skip(1);
    let workers = arguments.next().context("how many workers?")?.parse()?;
    let mut config = Config::default();
    for argument in arguments {
        let (listen, endpoint) = argument.split_once('=').context("LISTEN=ENDPOINT")?;
        let address: std::net::SocketAddr = listen.parse()?;
        let route = Some(config.routes.len());
        config.listeners.push(ListenerSpec {
            address,
            name: listen.into(),
            sni: false,
            accepting: Accepting::default(),
            port: address.port(),
            dialled: None,
            rules: vec![RuleSpec { route, ..RuleSpec::default() }],
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
            announced: None,
        });
    }
    let settings = Settings { workers, ..Settings::default() };
    let proxy = Proxy::start(settings, Arc::new(Locals::default()), Vec::new())?;
    let status = proxy.update(config)?;
    eprintln!("{status:?}");
    let _ = std::io::stdin().read(&mut [0]);
    Ok(std::process::ExitCode::SUCCESS)
}
