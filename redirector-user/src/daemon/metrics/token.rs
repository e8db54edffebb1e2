//! The token without which nothing is answered where others than this machine's processes may
//! ask.

use std::io;
use std::path::Path;

use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;

use super::server::text;
use crate::confined::keep_none;

/// Whether a file has a token that can be read when it is asked for: then, as now, by a thread
/// without any capability.
///
/// # Errors
///
/// The system's, or that there is nothing in it.
pub fn is_there(file: &Path) -> io::Result<()> {
    let read = || {
        keep_none();
        std::fs::read(file)
    };
    let read = std::thread::scope(|scope| scope.spawn(read).join());
    let read = read.unwrap_or_else(|_| Err(io::Error::other("the thread that reads it died")))?;
    match read.trim_ascii() {
        [] => Err(io::Error::new(io::ErrorKind::InvalidData, "there is no token in it")),
        _ => Ok(()),
    }
}

/// Refuses a request that does not come with the token that is in the file now, so that another
/// one is put in its place without a restart.
pub(super) async fn check(file: &Path, headers: &HeaderMap) -> Result<(), Response> {
    let read = tokio::fs::read(file).await;
    let token = read.as_ref().map(|token| token.trim_ascii()).unwrap_or_default();
    if token.is_empty() {
        let why = read.as_ref().err().map_or_else(|| "it is empty".to_owned(), ToString::to_string);
        tracing::error!(file = %file.display(), "nobody is admitted, as there is no token: {why}");
        return Err(text(StatusCode::SERVICE_UNAVAILABLE, "the daemon has no token\n"));
    }
    if headers.get(AUTHORIZATION).and_then(sent).is_some_and(|sent| is_same(sent, token)) {
        return Ok(());
    }
    let mut refusal = text(StatusCode::UNAUTHORIZED, "this takes the bearer token\n");
    refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Err(refusal)
}

/// The token that a client sends.
fn sent(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Whether it is that, in a time that does not tell how much of it is.
fn is_same(sent: &[u8], token: &[u8]) -> bool {
    let differs = sent.iter().zip(token).fold(0, |differs, (a, b)| differs | (a ^ b));
    sent.len() == token.len() && std::hint::black_box(differs) == 0
}
