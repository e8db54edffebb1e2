//! How the API server is reached: over one connection, where it speaks HTTP/2, as
//! every API server does over TLS. One that does not gets a connection for each
//! watch.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{HeaderValue, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::MapErr;
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{ServiceBuilder, service_fn};

/// How requests name their sender.
const AGENT: &str = concat!("redirector/", env!("CARGO_PKG_VERSION"));

/// Longest time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// Longest silence on a connection. A watch ends by itself, on the server's
/// side, before that.
const SILENCE: Duration = Duration::from_secs(310);

/// Longest time until an answer begins, and between the parts of one that is no watch.
/// The server itself gives up what takes longer.
pub(super) const SILENT: Duration = Duration::from_secs(60);

/// After this silence a connection of HTTP/2 is asked whether it is still there, and
/// given up when it has not answered for so long: all watches depend on it.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(15);

/// What the server may send of one answer, and of all together, before it is read: so
/// much that no answer that waits to be read holds up another.
const ANSWER: u32 = 256 << 10;
const CONNECTION: u32 = 8 << 20;

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
        is_connected: AtomicBool::new(false),
        attempts: AtomicU64::new(0),
        attempt: tokio::sync::Mutex::new(String::new()),
    });
    let service = service_fn(move |request| renewing.clone().send(request));
    Ok(Client::new(service, namespace))
}

/// The client that has the credentials of now.
struct Renewing {
    kubeconfig: Option<PathBuf>,
    current: Mutex<Client>,
    /// The last that was heard of the server was an answer.
    is_connected: AtomicBool,
    /// How many attempts to reach it have failed.
    attempts: AtomicU64,
    /// Held while one request tries whether it can be reached; why the last could not.
    attempt: tokio::sync::Mutex<String>,
}

/// What an answer says, and that it was cut.
type Answer = MapErr<Body, Box<dyn FnMut(kube::Error) -> kube::Error + Send + Sync>>;

impl Renewing {
    /// Only when the server has answered is it known that one connection does for all
    /// requests. So as long as none stands, one request is sent, and the others wait
    /// for what becomes of it: eleven watches would make eleven connections.
    async fn send(self: Arc<Self>, request: Request<Body>) -> kube::Result<Response<Answer>> {
        if self.is_connected.load(Ordering::Acquire) {
            return self.exchange(request).await;
        }
        let before = self.attempts.load(Ordering::Acquire);
        let mut attempt = self.attempt.lock().await;
        if self.is_connected.load(Ordering::Acquire) {
            drop(attempt);
            return self.exchange(request).await;
        }
        if self.attempts.load(Ordering::Acquire) != before {
            return Err(kube::Error::Service(attempt.clone().into()));
        }
        let result = self.exchange(request).await;
        if let Err(error) = &result {
            *attempt = super::trouble::in_full(error);
            self.attempts.fetch_add(1, Ordering::Release);
        }
        result
    }

    async fn exchange(self: &Arc<Self>, request: Request<Body>) -> kube::Result<Response<Answer>> {
        let client = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let response = in_time(SILENT, client.send(request)).await;
        let response = response.unwrap_or_else(|silent| Err(kube::Error::Service(silent.into())));
        self.is_connected.store(response.is_ok(), Ordering::Release);
        let response = response?;
        if response.status() == StatusCode::UNAUTHORIZED {
            match configured(self.kubeconfig.as_deref()).await {
                Ok(client) => {
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = client;
                    self.is_connected.store(false, Ordering::Release);
                }
                // It may be half written; the next refusal reads it again.
                Err(error) => tracing::warn!("the credentials are refused, and {error}"),
            }
        }
        let renewing = self.clone();
        let cut = move |error| {
            renewing.is_connected.store(false, Ordering::Release);
            error
        };
        Ok(response.map(|body| body.map_err(Box::new(cut) as Box<_>)))
    }
}

/// What comes of a request, if it does so in this time.
pub(super) async fn in_time<T>(limit: Duration, comes: impl Future<Output = T>) -> io::Result<T> {
    tokio::time::timeout(limit, comes).await.map_err(|_| {
        let why = format!("it has been silent for {} s", limit.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, why)
    })
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
    config.headers.push((USER_AGENT, HeaderValue::from_static(AGENT)));
    client_of(&config)
}

/// As `kube` makes its clients, and speaking HTTP/2 where the server does. Failures
/// are shown and waited out here, not hidden in the client.
fn client_of(config: &Config) -> Result<Client, Unconfigured> {
    let refuse = |error: &dyn std::fmt::Display| Unconfigured::Client(error.to_string());
    if let Some(proxy) = &config.proxy_url {
        return Err(refuse(&format_args!(
            "it names the proxy {proxy} (proxy-url, or HTTPS_PROXY), and the agent goes through none"
        )));
    }
    let tls = config.rustls_client_config().map_err(|error| refuse(&error))?;
    let mut https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into();
        let name = name.map_err(|_| refuse(&"tls-server-name is not a name of a server"))?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    let https = https.enable_http1().enable_http2().wrap_connector(http);
    let mut connector = TimeoutConnector::new(https);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_read_timeout(Some(SILENCE));
    connector.set_reset_reader_on_write(true);
    let service = hyper_util::client::legacy::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PONG)
        .http2_keep_alive_while_idle(true)
        .http2_initial_stream_window_size(ANSWER)
        .http2_initial_connection_window_size(CONNECTION)
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(|error| refuse(&error))?)
        .layer(config.extra_headers_layer().map_err(|error| refuse(&error))?)
        .map_err(tower::BoxError::from)
        .service(service);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
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

#[cfg(test)]
mod tests {
    use super::super::trouble::Trouble;
    use super::*;

    #[tokio::test]
    async fn a_server_that_says_nothing_gives_no_answer() {
        let silent = in_time(Duration::ZERO, std::future::pending::<()>()).await.unwrap_err();
        let trouble = Trouble::of(&kube::Error::Service(silent.into()));
        assert!(matches!(trouble, Trouble::Unreachable(_)), "{trouble:?}");
        assert!(trouble.to_string().contains("silent for 0 s"), "{trouble}");
        assert_eq!(in_time(SILENT, async { 1 }).await.unwrap(), 1);
    }
}
