//! Flags of a daemon that follows an API server.

use std::path::PathBuf;
use std::time::Duration;

use crate::kubernetes::Timing;
use crate::kubernetes::agent::Setup;

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
    /// Key of a taint to remove from this node when its connections are decided
    #[arg(long, value_name = "KEY")]
    startup_taint: Option<String>,
    /// Time between comparisons of what is held with a fresh list of the API server
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    compare: Duration,
}

impl KubernetesArgs {
    /// The setup, when it is asked for.
    pub fn setup(&self, debounce: Duration) -> Option<Setup> {
        let timing = Timing { compare: self.compare, debounce, ..Timing::default() };
        self.kubernetes.then(|| Setup {
            kubeconfig: self.kubeconfig.clone(),
            gateways: self.gateways,
            startup_taint: self.startup_taint.clone(),
            timing,
        })
    }
}
