//! How the API server is reached.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::service_fn;

/// Longest time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// Longest silence on a connection. A watch ends by itself, on the server's
/// side, before that.
const SILENCE: Duration = Duration::from_secs(310);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Unconfigured {
    /// The file that was named does not do.
    #[error("the kubeconfig {path} cannot be used: {why}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Neither in a pod nor with a kubeconfig.
    #[error(
        "there is no way to the API server: not in a pod ({in_cluster}), and no kubeconfig \
         ({kubeconfig})"
    )]
    Nowhere {
        /// Why not as a pod.
        in_cluster: String,
        /// Why not by the default kubeconfig.
        kubeconfig: String,
    },
    /// The configuration was read, and makes no client.
    #[error("the API server's configuration cannot be used: {0}")]
    Client(String),
}

/// A client for the API server: by the kubeconfig that is named; otherwise as
/// the pod that this is; otherwise by `$KUBECONFIG` or `~/.kube/config`.
///
/// Nothing is asked of the server by it. When the server refuses the credentials,
/// the configuration is read again for the next request: whoever renews a
/// kubeconfig writes it anew.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, Unconfigured> {
    let client = configured(kubeconfig).await?;
    let namespace = client.default_namespace().to_owned();
    let renewing = Arc::new(Renewing {
        kubeconfig: kubeconfig.map(Path::to_owned),
        current: Mutex::new(client),
    });
    let service = service_fn(move |request| renewing.clone().send(request));
    Ok(Client::new(service, namespace))
}

/// The client that has the credentials of now.
struct Renewing {
    kubeconfig: Option<PathBuf>,
    current: Mutex<Client>,
}

impl Renewing {
    async fn send(self: Arc<Self>, request: Request<Body>) -> kube::Result<Response<Body>> {
        let client = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let response = client.send(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            match configured(self.kubeconfig.as_deref()).await {
                Ok(client) => {
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = client;
                }
                // It may be half written; the next refusal reads it again.
                Err(error) => tracing::warn!("the credentials are refused, and {error}"),
            }
        }
        Ok(response)
    }
}

async fn configured(kubeconfig: Option<&Path>) -> Result<Client, Unconfigured> {
    let mut config = match kubeconfig {
        Some(path) => named(path).await?,
        None => match Config::incluster() {
            Ok(config) => config,
            Err(in_cluster) => match Config::from_kubeconfig(&KubeConfigOptions::default()).await {
                Ok(config) => config,
                Err(kubeconfig) => {
                    let (in_cluster, kubeconfig) = (in_cluster.to_string(), kubeconfig.to_string());
                    return Err(Unconfigured::Nowhere { in_cluster, kubeconfig });
                }
            },
        },
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    // Failures are shown and waited out here, not hidden in the client.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| Unconfigured::Client(error.to_string()))
}

async fn named(path: &Path) -> Result<Config, Unconfigured> {
    let refuse = |error: kube::config::KubeconfigError| {
        let mut why = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            why = format!("{why}: {source}");
        }
        Unconfigured::Kubeconfig { path: path.display().to_string(), why }
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(refuse)?;
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(refuse)
}
