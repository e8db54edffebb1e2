//! Flags of a daemon that follows an API server.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::config::interval;
use crate::kubernetes::Timing;
use crate::kubernetes::agent::Setup;
use crate::kubernetes::gateways::Near;

/// What belongs to `--kubernetes`.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Follow the objects of the API server instead of files
    #[arg(long, conflicts_with = "config")]
    pub kubernetes: bool,
    /// How to reach the API server [default: as the pod that this is, else $KUBECONFIG or
    /// ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Serve the gateways of Services that are annotated redirector.io/gateway: "true"
    #[arg(long)]
    gateways: bool,
    /// Addresses of this node, one of a family, at which its pods reach the proxy when they dial
    /// a gateway's cluster IP; without one, they are left to whoever stands behind the Service
    #[arg(long, value_name = "IP", value_delimiter = ',', requires = "gateways")]
    gateway_addresses: Vec<IpAddr>,
    /// Ports of this node that nothing else uses, one for each cluster IP and port of a gateway
    #[arg(long, value_name = "FIRST-LAST", default_value = "15400-15499", value_parser = ports)]
    gateway_ports: RangeInclusive<u16>,
    /// Key of a taint to remove from this node when its connections are decided
    #[arg(long, value_name = "KEY")]
    startup_taint: Option<String>,
    /// Time between comparisons of what is held with what the API server has: as many objects,
    /// and now and then the same versions
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = interval)]
    compare: Duration,
}

impl KubernetesArgs {
    /// The setup, when it is asked for.
    pub fn setup(&self) -> Option<Setup> {
        let timing = Timing { compare: self.compare, ..Timing::default() };
        self.kubernetes.then(|| Setup {
            kubeconfig: self.kubeconfig.clone(),
            gateways: self.gateways.then(|| Near {
                addresses: self.gateway_addresses.clone(),
                ports: self.gateway_ports.clone(),
            }),
            startup_taint: self.startup_taint.clone(),
            timing,
        })
    }
}

/// Two port numbers, the first and the last of a range.
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    text.split_once('-')
        .and_then(|(first, last)| Some(port(first)?..=port(last)?))
        .filter(|range| !range.is_empty())
        .ok_or_else(|| "two port numbers are expected, such as 15400-15499".to_owned())
}
