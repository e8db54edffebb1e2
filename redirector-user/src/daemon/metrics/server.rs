//! What is answered over HTTP: `/metrics`, `/readyz`, `/healthz`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tower::ServiceExt;

use super::token;
use crate::daemon::server::{PATIENCE, Server};
use crate::state::Report;

/// Longer heads of requests are nonsense, in bytes.
const MAX_REQUEST: usize = 16 << 10;

/// Longest time that a page may take: the control loop may be busy with a change.
const PAGE: Duration = Duration::from_secs(30);

/// Prometheus' text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What `/readyz` says.
#[derive(Debug, Default)]
pub struct Readiness {
    in_force: AtomicBool,
    /// What does not work, a line each.
    amiss: Mutex<String>,
}

impl Readiness {
    /// Connections are decided from now on.
    pub fn in_force(&self) {
        self.in_force.store(true, Ordering::Release);
    }

    /// Names the watches that do not work, what they wait for and since when.
    pub fn says(&self, report: &Report) {
        let waiting = report.watching.iter().filter(|watch| !watch.works());
        let lines = waiting.map(|one| format!("{one}, since {}\n", when(one.since)));
        let lines = lines.collect();
        *self.amiss.lock().unwrap_or_else(PoisonError::into_inner) = lines;
    }

    fn answer(&self) -> (StatusCode, String) {
        let amiss = self.amiss.lock().unwrap_or_else(PoisonError::into_inner);
        match self.in_force.load(Ordering::Acquire) {
            true => (StatusCode::OK, format!("ready\n{amiss}")),
            false => (StatusCode::SERVICE_UNAVAILABLE, format!("not in force yet\n{amiss}")),
        }
    }
}

/// Somebody who waits for a page.
type Reader = oneshot::Sender<Bytes>;

/// Those who may wait for a page beside those whose page is made.
const READERS: usize = 64;

/// What all requests share.
#[derive(Clone)]
struct Shared {
    readiness: Arc<Readiness>,
    readers: mpsc::Sender<Reader>,
}

/// Where something is served, and to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct At {
    /// Where.
    pub address: SocketAddr,
    /// To who sends the token that is in this file; `None`: to everybody.
    pub token: Option<PathBuf>,
}

/// What is answered, wherever it is asked.
#[derive(Clone)]
pub struct Pages(Router);

impl Pages {
    /// `ask` has the text of a page made and sent, and returns `false` when nobody makes any
    /// more.
    pub fn new(
        server: &Server,
        readiness: Arc<Readiness>,
        ask: impl FnMut(oneshot::Sender<String>) -> bool + Send + 'static,
    ) -> Self {
        let (readers, waiting) = mpsc::channel(READERS);
        server.spawn(pages(waiting, ask));
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/readyz", get(readyz))
            .route("/healthz", get(|| async { text(StatusCode::OK, "ok\n") }))
            .fallback(|| async { text(StatusCode::NOT_FOUND, "see /metrics\n") })
            .with_state(Shared { readiness, readers });
        Self(router)
    }

    /// Serves the clients of a listening socket: all, or those who send the token that is in a
    /// file.
    ///
    /// # Errors
    ///
    /// When the socket cannot be watched.
    pub fn serve(
        &self,
        server: &mut Server,
        listener: TcpListener,
        token: Option<PathBuf>,
    ) -> io::Result<()> {
        let (router, token) = (self.0.clone(), token.map(Arc::new));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(MAX_REQUEST);
        // A connection is a request: its whole time is known. A client that says no more
        // may wait for its answer.
        http.keep_alive(false).half_close(true);
        server.clients(listener, move |stream, asked| {
            let (router, token) = (router.clone(), token.clone());
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                asked.now();
                let (router, token) = (router.clone(), token.clone());
                async move {
                    if let Some(file) = token
                        && let Err(refusal) = token::check(&file, request.headers()).await
                    {
                        return Ok(refusal);
                    }
                    router.oneshot(request.map(Body::new)).await
                }
            });
            let connection = http.serve_connection(TokioIo::new(stream), service);
            // A client that went away, or said nothing, needs no answer.
            async move { drop(timeout(PAGE + PATIENCE, connection).await) }
        })
    }
}

/// Makes pages one at a time: who asks while one is made waits for the next, which is
/// for all of them.
async fn pages(
    mut waiting: mpsc::Receiver<Reader>,
    mut ask: impl FnMut(oneshot::Sender<String>) -> bool,
) {
    while let Some(first) = waiting.recv().await {
        let mut readers = vec![first];
        while let Ok(another) = waiting.try_recv() {
            readers.push(another);
        }
        let (reply, page) = oneshot::channel();
        if !ask(reply) {
            return;
        }
        let Ok(page) = page.await else { continue };
        let page = Bytes::from(page);
        for reader in readers {
            // One that has gone is none of our business.
            let _ = reader.send(page.clone());
        }
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let (reader, page) = oneshot::channel();
    let asked = shared.readers.send(reader).await;
    match (asked, timeout(PAGE, page).await) {
        (Ok(()), Ok(Ok(page))) => text(StatusCode::OK, page),
        _ => text(StatusCode::SERVICE_UNAVAILABLE, "the daemon is busy, or about to end\n"),
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let (status, words) = shared.readiness.answer();
    text(status, words)
}

pub(super) fn text(status: StatusCode, words: impl Into<Body>) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], words.into()).into_response()
}

fn when(since: u64) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(since))
}
