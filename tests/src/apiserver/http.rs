//! Requests: what they ask for, and the answers that are not watches.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use super::access::Used;
use super::admit::refusal;
use super::counted::Counted;
use super::faults::{Trouble, take};
use super::resource::{Resource, group, group_list, resource_list};
use super::respond::{
    Answer, already_exists, conflict, details, failed, failure, forbidden, json, not_found,
    page_not_found, unauthorized,
};
use super::select::Selection;
use super::state::{Key, merge};
use super::watch::Watch;
use super::{Inner, Shared, USER};

/// Serves until it is stopped, on a thread of its own.
pub fn serve(
    wanted: SocketAddr,
    shared: Arc<Shared>,
    stopped: oneshot::Receiver<()>,
    ready: &std::sync::mpsc::Sender<std::io::Result<SocketAddr>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let listener = TcpSocket::new_v4().and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(wanted)?;
            socket.listen(1024)
        });
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(listener.local_addr());
        let tls = tls();
        let accept = async {
            loop {
                let Ok((connection, _)) = listener.accept().await else { continue };
                let (shared, tls) = (shared.clone(), tls.clone());
                tokio::spawn(async move {
                    let _open = Connected::new(&shared);
                    // Cut connections are what some tests are about.
                    let mut first = [0];
                    if connection.peek(&mut first).await.is_ok() && first[0] == HANDSHAKE {
                        if let Ok(connection) = tls.accept(connection).await {
                            speak(connection, &shared).await;
                        }
                    } else {
                        speak(connection, &shared).await;
                    }
                });
            }
        };
        tokio::select! { () = accept => {}, _ = stopped => {} }
    });
    // Connections end with the runtime.
    runtime.shutdown_background();
}

/// What a connection begins with that speaks TLS.
const HANDSHAKE: u8 = 0x16;

/// The certificate that the server shows, which vouches for itself, and its name.
pub const CERTIFICATE: &str = include_str!("certificate.pem");
pub const SERVER_NAME: &str = "apiserver.tests";

/// As a real server offers it: HTTP/2, and what came before.
fn tls() -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("key.pem"));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.expect("a certificate")], key.expect("a key"))
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Answers the requests of a connection until it ends.
async fn speak(connection: impl AsyncRead + AsyncWrite + Unpin + 'static, shared: &Arc<Shared>) {
    let service = service_fn(|request| answer(request, shared.clone()));
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(Counted(connection, shared.clone())), service)
        .await;
}

/// An open connection: counted while it lives.
struct Connected(Arc<Shared>);

impl Connected {
    fn new(shared: &Arc<Shared>) -> Self {
        let mut inner = shared.lock();
        inner.connections += 1;
        inner.most_connections = inner.most_connections.max(inner.connections);
        drop(inner);
        Self(shared.clone())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.lock().connections -= 1;
    }
}

/// Ends the connection without an answer.
#[derive(Debug)]
struct Hangup;

impl std::fmt::Display for Hangup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hung up as ordered")
    }
}

impl std::error::Error for Hangup {}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Answer, Hangup> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let header = |name| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let asked = Asked {
        method: parts.method.clone(),
        path: parts.uri.path().to_owned(),
        target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        query: query(parts.uri.query().unwrap_or_default()),
        accept: header(header::ACCEPT).to_owned(),
        content_type: header(header::CONTENT_TYPE).to_owned(),
        body,
    };
    {
        let inner = shared.lock();
        let token = header(header::AUTHORIZATION).strip_prefix("Bearer ").unwrap_or_default();
        if !inner.tokens.iter().any(|known| known == token) {
            return Ok(unauthorized());
        }
    }
    let target = Target::of(&asked, &shared.lock());
    let verb = match &target {
        Some(target) => asked.verb(target),
        None => "get",
    };
    let trouble = take(&mut shared.lock().faults, verb, &asked.target);
    match trouble {
        None => {}
        Some(Trouble::Hangup) => return Err(Hangup),
        Some(Trouble::Slow(time)) => tokio::time::sleep(time).await,
        Some(Trouble::Status(code)) => {
            let reason = StatusCode::from_u16(code).ok().and_then(|s| s.canonical_reason());
            let reason = reason.unwrap_or_default();
            return Ok(failed(code, &reason.replace(' ', ""), reason, None));
        }
        Some(Trouble::ErrorEvent(code)) => {
            if let Some(target) = &target {
                let error = failure(code, "InternalError", "as ordered", None);
                return Ok(asked.watch(target).only(&error));
            }
        }
        Some(Trouble::Garbage) => {
            return Ok(json(StatusCode::OK, &Value::String("no object".into())));
        }
    }
    let Some(target) = target else {
        return Ok(asked.discovery(&shared.lock()));
    };
    {
        let mut inner = shared.lock();
        let used = Used {
            group: target.resource.group.clone(),
            resource: match target.subresource.as_str() {
                "" => target.resource.plural.clone(),
                sub => format!("{}/{sub}", target.resource.plural),
            },
            verb: verb.to_owned(),
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            target: asked.target.clone(),
            accept: asked.accept.clone(),
            user_agent: header(header::USER_AGENT).to_owned(),
        };
        let allowed =
            inner.rules.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.allows(&used)));
        inner.used.push(used);
        if !allowed {
            let Target { resource, namespace, name, .. } = &target;
            return Ok(forbidden(USER, verb, resource, namespace, name));
        }
    }
    Ok(match verb {
        "watch" => asked.watch(&target).answer(&shared),
        "list" => asked.list(&target, &shared.lock()),
        "get" => match shared.lock().state.objects.get(&target.key()) {
            Some(object) => json(StatusCode::OK, &asked.form(&target, object)),
            None => not_found(&target.resource, &target.name),
        },
        _ => {
            let answer = asked.write(&target, verb, &mut shared.lock());
            shared.changed.send_modify(|count| *count += 1);
            answer
        }
    })
}

/// A request.
struct Asked {
    method: Method,
    path: String,
    target: String,
    query: HashMap<String, String>,
    accept: String,
    content_type: String,
    body: Bytes,
}

/// The resource, and perhaps the object, that a path is about.
struct Target {
    resource: Resource,
    version: String,
    namespace: String,
    name: String,
    subresource: String,
}

impl Target {
    fn of(asked: &Asked, inner: &Inner) -> Option<Self> {
        let parts: Vec<&str> = asked.path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, "", ""),
            [plural, name] => (*plural, *name, ""),
            [plural, name, subresource] => (*plural, *name, *subresource),
            _ => return None,
        };
        let resource = inner.state.resources.iter().find(|resource| {
            resource.group == group
                && resource.plural == plural
                && resource.versions.iter().any(|served| served == version)
        })?;
        Some(Self {
            resource: resource.clone(),
            version: version.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }

    fn key(&self) -> Key {
        Key {
            group: self.resource.group.clone(),
            plural: self.resource.plural.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

impl Asked {
    fn param(&self, name: &str) -> &str {
        self.query.get(name).map(String::as_str).unwrap_or_default()
    }

    fn is_set(&self, name: &str) -> bool {
        matches!(self.param(name), "1" | "true")
    }

    fn verb(&self, target: &Target) -> &'static str {
        match self.method {
            Method::GET if self.is_set("watch") => "watch",
            Method::GET if target.name.is_empty() => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "get",
        }
    }

    fn selection(&self, target: &Target) -> Selection {
        let (fields, labels) = (self.param("fieldSelector"), self.param("labelSelector"));
        Selection::new(&target.namespace, fields, labels, &self.accept)
    }

    fn form(&self, target: &Target, object: &Value) -> Value {
        self.selection(target).form(&target.resource, &target.version, object, false)
    }

    fn discovery(&self, inner: &Inner) -> Answer {
        let resources = &inner.state.resources;
        let parts: Vec<&str> = self.path.split('/').filter(|part| !part.is_empty()).collect();
        let found = match parts.as_slice() {
            ["version"] => Some(json!({
                "major": "1",
                "minor": "36",
                "gitVersion": "v1.36.2",
                "gitCommit": "",
                "gitTreeState": "clean",
                "buildDate": "1970-01-01T00:00:00Z",
                "goVersion": "go1.27.3",
                "compiler": "gc",
                "platform": "linux/amd64",
            })),
            ["api"] => Some(json!({ "kind": "APIVersions", "versions": ["v1"] })),
            ["apis"] => Some(group_list(resources)),
            ["apis", name] => group(resources, name).map(|mut group| {
                group["kind"] = json!("APIGroup");
                group["apiVersion"] = json!("v1");
                group
            }),
            ["api", version] => resource_list(resources, "", version),
            ["apis", group, version] => resource_list(resources, group, version),
            _ => None,
        };
        found.map_or_else(page_not_found, |found| json(StatusCode::OK, &found))
    }

    fn watch(&self, target: &Target) -> Watch {
        let timeout = self.param("timeoutSeconds").parse().unwrap_or(1800);
        Watch {
            resource: target.resource.clone(),
            version: target.version.clone(),
            selection: self.selection(target),
            from: self.param("resourceVersion").to_owned(),
            bookmarks: self.is_set("allowWatchBookmarks"),
            initial: self.is_set("sendInitialEvents"),
            timeout: Duration::from_secs(timeout),
        }
    }

    fn list(&self, target: &Target, inner: &Inner) -> Answer {
        let state = &inner.state;
        let selection = self.selection(target);
        if let Some(label) = selection.unsupported(&target.resource) {
            let message = format!("field label not supported: {label}");
            return failed(400, "BadRequest", &message, None);
        }
        let mut version = state.version;
        let mut start = String::new();
        let expired = |message| failed(410, "Expired", message, None);
        if !self.param("continue").is_empty() {
            (version, start) = match continued(self.param("continue")) {
                Ok(token) => token,
                Err(why) => {
                    let message = format!("invalid continue token: {why}");
                    return failed(400, "BadRequest", &message, None);
                }
            };
            if version < state.compacted {
                return expired(
                    "The provided continue parameter is too old to display a consistent list \
                     result. You can start a new list without the continue parameter, or use the \
                     continue token in this response to retrieve the remainder of the results. \
                     Continuing with the provided token results in an inconsistent list - objects \
                     that were created, modified, or deleted between the time the first chunk was \
                     returned and now may show up in the list.",
                );
            }
        } else if self.param("resourceVersionMatch") == "Exact" {
            version = self.param("resourceVersion").parse().unwrap_or(0);
            if version < state.compacted {
                return expired("The resourceVersion for the provided list is too old.");
            }
        }
        let mut items: Vec<(Key, Value)> = state
            .at(&target.resource, version)
            .into_iter()
            .filter(|(key, object)| selection.matches(&key.namespace, object))
            .filter(|(key, _)| {
                start.is_empty() || place(key).as_str() > start.trim_end_matches('\0')
            })
            .collect();
        let limit = self.param("limit").parse().unwrap_or(0);
        // The version "0" is answered from the cache, which knows no limit.
        let limit = if self.param("resourceVersion") == "0" { 0 } else { limit };
        let mut meta = json!({ "resourceVersion": version.to_string() });
        if target.resource.custom {
            meta["continue"] = json!("");
        }
        if limit > 0 && items.len() > limit {
            let remaining = items.len() - limit;
            items.truncate(limit);
            let last = items.last().map(|(key, _)| place(key)).unwrap_or_default();
            let token = format!(
                "{{\"v\":\"meta.k8s.io/v1\",\"rv\":{version},\"start\":\"{last}\\u0000\"}}"
            );
            meta["continue"] = json!(URL_SAFE_NO_PAD.encode(token));
            if !selection.is_selective() {
                meta["remainingItemCount"] = json!(remaining);
            }
        }
        let (kind, api_version) = selection.list_kind(&target.resource, &target.version);
        let form = |(_, object): &(Key, Value)| {
            selection.form(&target.resource, &target.version, object, true)
        };
        json(
            StatusCode::OK,
            &json!({
                "kind": kind,
                "apiVersion": api_version,
                "metadata": meta,
                "items": items.iter().map(form).collect::<Vec<_>>(),
            }),
        )
    }

    fn write(&self, target: &Target, verb: &str, inner: &mut Inner) -> Answer {
        const PATCHES: [&str; 2] = ["application/merge-patch+json", "application/apply-patch+yaml"];
        if verb == "patch" && !PATCHES.contains(&self.content_type.as_str()) {
            let message = "415: Unsupported Media Type";
            return failed(415, "UnsupportedMediaType", message, Some(json!({})));
        }
        let mut body: Value = match serde_json::from_slice(&self.body) {
            Ok(body) => body,
            Err(_) if verb == "delete" => Value::Null,
            Err(error) => return failed(400, "BadRequest", &error.to_string(), None),
        };
        let mut key = target.key();
        if key.name.is_empty() {
            key.name = match (body["metadata"]["name"].as_str(), &body["metadata"]["generateName"])
            {
                (Some(name), _) => name.to_owned(),
                (None, Value::String(prefix)) => format!("{prefix}{:05}", inner.state.version),
                _ => return failed(422, "Invalid", "name or generateName is required", None),
            };
        }
        let resource = &target.resource;
        let there = inner.state.objects.get(&key).cloned();
        let stale = |there: &Value, given: &Value| {
            let given = &given["metadata"]["resourceVersion"];
            given.is_string() && *given != there["metadata"]["resourceVersion"]
        };
        match (verb, there) {
            ("create", Some(_)) => already_exists(resource, &key.name),
            ("create", None) => {
                if let Some(refusal) = refusal(&inner.state, resource, &key, &body, false) {
                    return refusal;
                }
                let made = inner.state.put(&key, body);
                json(StatusCode::CREATED, &self.form(target, &made))
            }
            ("delete", Some(there)) => {
                inner.state.remove(&key);
                let mut details = details(resource, Some(&key.name));
                details["uid"] = there["metadata"]["uid"].clone();
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {},
                    "status": "Success", "details": details,
                });
                json(StatusCode::OK, &status)
            }
            ("update" | "patch", Some(there)) if stale(&there, &body) => {
                conflict(resource, &key.name)
            }
            ("update", Some(_)) => {
                if let Some(refusal) = refusal(&inner.state, resource, &key, &body, true) {
                    return refusal;
                }
                let made = inner.state.put(&key, body);
                json(StatusCode::OK, &self.form(target, &made))
            }
            ("patch", there) => {
                let apply = self.content_type.starts_with("application/apply-patch");
                let created = there.is_none();
                if created && !apply {
                    return not_found(resource, &key.name);
                }
                let mut object = there.unwrap_or(Value::Null);
                if let Value::Object(fields) = &mut body {
                    fields.remove("apiVersion");
                    fields.remove("kind");
                }
                merge(&mut object, &body);
                let made = inner.state.put(&key, object);
                let status = if created { StatusCode::CREATED } else { StatusCode::OK };
                json(status, &self.form(target, &made))
            }
            _ => not_found(resource, &key.name),
        }
    }
}

/// Where an object stands in the order of lists.
fn place(key: &Key) -> String {
    match key.namespace.as_str() {
        "" => format!("/{}", key.name),
        namespace => format!("/{namespace}/{}", key.name),
    }
}

/// The version and the place that a continue token stands for.
fn continued(token: &str) -> Result<(u64, String), String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    let odd = || match bytes.first() {
        Some(byte) => format!(
            "continue key is not valid: invalid character '\\x{byte:x}' looking for beginning of value"
        ),
        None => "continue key is not valid: unexpected end of JSON input".to_owned(),
    };
    let token: Value = serde_json::from_str(&text).map_err(|_| odd())?;
    let version = token["rv"].as_u64().ok_or_else(odd)?;
    Ok((version, token["start"].as_str().unwrap_or_default().to_owned()))
}

/// `a=b&c=d`, decoded.
fn query(text: &str) -> HashMap<String, String> {
    let decode = |text: &str| -> String {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}
