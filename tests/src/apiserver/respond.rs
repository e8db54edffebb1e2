//! Answers, down to the headers and the words of a 1.36 server.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Bytes, Frame};
use hyper::{Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::resource::Resource;

/// Why a body ends before its end: the connection is to be cut.
#[derive(Debug)]
pub struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut as ordered")
    }
}

impl std::error::Error for Cut {}

/// What the server answers with.
pub type Answer = Response<UnsyncBoxBody<Bytes, Cut>>;

/// A stream of watch events, one line each.
pub struct Lines(pub mpsc::Receiver<Result<Bytes, Cut>>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| line.map(Frame::data)))
    }
}

fn with_headers(status: StatusCode, content_type: &str) -> hyper::http::response::Builder {
    Response::builder()
        .status(status)
        .header("Audit-Id", "00000000-0000-4000-8000-000000000000")
        .header(header::CACHE_CONTROL, "no-cache, private")
        .header(header::CONTENT_TYPE, content_type)
}

/// An answer of a stream of lines.
pub fn stream(lines: mpsc::Receiver<Result<Bytes, Cut>>) -> Answer {
    with_headers(StatusCode::OK, "application/json")
        .body(Lines(lines).boxed_unsync())
        .expect("fixed headers")
}

fn full(text: String) -> UnsyncBoxBody<Bytes, Cut> {
    Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// An answer of one JSON value.
pub fn json(status: StatusCode, value: &Value) -> Answer {
    with_headers(status, "application/json").body(full(value.to_string())).expect("fixed headers")
}

/// Paths that nothing is served at: not a Status.
pub fn page_not_found() -> Answer {
    with_headers(StatusCode::NOT_FOUND, "text/plain; charset=utf-8")
        .header("X-Content-Type-Options", "nosniff")
        .body(full("404 page not found\n".into()))
        .expect("fixed headers")
}

/// A Status of a failure.
pub fn failure(code: u16, reason: &str, message: &str, details: Option<Value>) -> Value {
    let mut status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    });
    if let Some(details) = details {
        status["details"] = details;
    }
    status
}

/// The answer of a failure.
pub fn failed(code: u16, reason: &str, message: &str, details: Option<Value>) -> Answer {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = json(status, &failure(code, reason, message, details));
    if code == 429 {
        answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    answer
}

/// `details` about an object or a whole resource.
pub fn details(resource: &Resource, name: Option<&str>) -> Value {
    let mut details = json!({ "kind": resource.plural });
    if !resource.group.is_empty() {
        details["group"] = json!(resource.group);
    }
    if let Some(name) = name {
        details["name"] = json!(name);
    }
    details
}

/// 401.
pub fn unauthorized() -> Answer {
    failed(401, "Unauthorized", "Unauthorized", None)
}

/// 403.
pub fn forbidden(
    user: &str,
    verb: &str,
    resource: &Resource,
    namespace: &str,
    name: &str,
) -> Answer {
    let quoted = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
    let scope = match namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let message = format!(
        "{}{quoted} is forbidden: User \"{user}\" cannot {verb} resource \"{}\" in API group \"{}\" {scope}",
        resource.qualified(),
        resource.plural,
        resource.group,
    );
    let details = details(resource, (!name.is_empty()).then_some(name));
    let mut answer = failed(403, "Forbidden", &message, Some(details));
    let nosniff = header::HeaderValue::from_static("nosniff");
    answer.headers_mut().insert("X-Content-Type-Options", nosniff);
    answer
}

/// 404 of one object.
pub fn not_found(resource: &Resource, name: &str) -> Answer {
    let message = format!("{} \"{name}\" not found", resource.qualified());
    failed(404, "NotFound", &message, Some(details(resource, Some(name))))
}

/// 409 of an object that is there.
pub fn already_exists(resource: &Resource, name: &str) -> Answer {
    let message = format!("{} \"{name}\" already exists", resource.qualified());
    failed(409, "AlreadyExists", &message, Some(details(resource, Some(name))))
}

/// 409 of an object that changed meanwhile.
pub fn conflict(resource: &Resource, name: &str) -> Answer {
    let message = format!(
        "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply \
         your changes to the latest version and try again",
        resource.qualified()
    );
    failed(409, "Conflict", &message, Some(details(resource, Some(name))))
}
