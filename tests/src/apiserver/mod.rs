//! An API server of the tests' own: the part of Kubernetes that the agent talks
//! to, over a real socket, with faults to order.
//!
//! It is held to recorded exchanges of a real server
//! (`tests/transcripts`, replayed by `tests/kubernetes_apiserver.rs`): what it
//! says is what that one says, also where that is odd. It does not imitate what
//! the agent has no use for: admission, controllers, field managers.

mod access;
mod admit;
mod counted;
mod faults;
mod http;
pub mod objects;
mod resource;
mod respond;
mod select;
mod state;
mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch as signal};

pub use access::{Rule, Used};
pub use faults::{Fault, Trouble};
pub use resource::Resource;
pub use state::{Key, State, merge};

/// The token that the server accepts.
pub const TOKEN: &str = "a-valid-token";

/// The user that it stands for.
pub const USER: &str = "system:serviceaccount:redirector-system:redirector";

/// What the connections share.
pub(crate) struct Shared {
    pub(crate) inner: Mutex<Inner>,
    /// Counts up with every change, so that watches look again.
    pub(crate) changed: signal::Sender<u64>,
    /// Counts up when all watches are to be cut.
    pub(crate) cut: signal::Sender<u64>,
    /// How many bytes it has answered, before TLS.
    pub(crate) sent: AtomicU64,
}

pub(crate) struct Inner {
    pub(crate) state: State,
    pub(crate) faults: Vec<Fault>,
    pub(crate) used: Vec<Used>,
    /// What the user may do; `None`: everything.
    pub(crate) rules: Option<Vec<Rule>>,
    pub(crate) tokens: Vec<String>,
    /// Whether this server can do streaming lists (WatchList).
    pub(crate) streaming_lists: bool,
    /// How many watches are open now.
    pub(crate) watches: usize,
    /// How many connections are open now, and the most that were at once.
    pub(crate) connections: usize,
    pub(crate) most_connections: usize,
    /// Time between the BOOKMARK events of a quiet watch.
    pub(crate) bookmark_every: Duration,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server. Dropping it closes all of its connections.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl ApiServer {
    /// Starts a server with the built-in kinds and Istio's, and no objects.
    pub fn start() -> Self {
        let mut resources = Resource::builtins();
        resources.extend(Resource::istios());
        Self::with(resources)
    }

    /// Starts a server with these kinds.
    pub fn with(resources: Vec<Resource>) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, resources)
    }

    /// The same at an address of the calling thread's network namespace.
    pub fn at(address: Ipv4Addr, resources: Vec<Resource>) -> Self {
        let inner = Inner {
            state: State::serving(resources),
            faults: Vec::new(),
            used: Vec::new(),
            rules: None,
            tokens: vec![TOKEN.to_owned()],
            streaming_lists: true,
            watches: 0,
            connections: 0,
            most_connections: 0,
            bookmark_every: Duration::from_secs(60),
        };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            changed: signal::Sender::new(0),
            cut: signal::Sender::new(0),
            sent: AtomicU64::new(0),
        });
        let mut server = Self { shared, address: SocketAddr::from((address, 0)), running: None };
        server.resume();
        server
    }

    /// Stops listening and closes all connections; what it holds stays.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            // It may have ended by itself.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }

    /// Listens again, at the same address. A server that starts has no history:
    /// its cache begins with what there is, and every earlier version has expired.
    pub fn resume(&mut self) {
        self.stop();
        self.shared.lock().state.compact();
        let (stop, stopped) = oneshot::channel();
        let (ready, address) = std::sync::mpsc::channel();
        let shared = self.shared.clone();
        let wanted = self.address;
        let thread = std::thread::spawn(move || http::serve(wanted, shared, stopped, &ready));
        self.address = address.recv().expect("the server listens").expect("the address is free");
        self.running = Some((stop, thread));
    }

    /// `http://127.0.0.1:PORT`; TLS is spoken there as well.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes a kubeconfig with a token and returns its path. It asks for TLS, and by
    /// that gets HTTP/2, as with a real server.
    pub fn kubeconfig(&self, directory: &Path, token: &str) -> PathBuf {
        self.kubeconfig_for(
            directory,
            token,
            &json!({
                "server": format!("https://{}", self.address),
                "tls-server-name": http::SERVER_NAME,
                "certificate-authority-data": STANDARD.encode(http::CERTIFICATE),
            }),
        )
    }

    /// The same for a server that speaks HTTP/1.1 without TLS, as `kubectl proxy` does.
    pub fn plain_kubeconfig(&self, directory: &Path, token: &str) -> PathBuf {
        self.kubeconfig_for(directory, token, &json!({ "server": self.url() }))
    }

    fn kubeconfig_for(&self, directory: &Path, token: &str, cluster: &Value) -> PathBuf {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{ "name": "tests", "cluster": cluster }],
            "users": [{ "name": "tests", "user": { "token": token } }],
            "contexts": [{ "name": "tests", "context": {
                "cluster": "tests", "user": "tests", "namespace": "redirector-system",
            } }],
        });
        let path = directory.join("kubeconfig");
        std::fs::write(&path, config.to_string()).expect("a kubeconfig can be written");
        path
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.shared.lock());
        self.shared.changed.send_modify(|count| *count += 1);
        result
    }

    /// Makes or replaces an object, and returns it as stored.
    pub fn apply(&self, object: Value) -> Value {
        self.change(|inner| {
            let key = key_of(&inner.state, &object);
            inner.state.put(&key, object)
        })
    }

    /// Makes or replaces all objects of a multi-document YAML text.
    pub fn apply_yaml(&self, text: &str) {
        for object in documents(text) {
            self.apply(object);
        }
    }

    /// Puts an object with the resource version that it has.
    pub fn restore(&self, object: Value) {
        self.change(|inner| {
            let key = key_of(&inner.state, &object);
            inner.state.restore(&key, object);
        });
    }

    /// What the server keeps, as a backup of its storage has it.
    pub fn backup(&self) -> State {
        self.shared.lock().state.clone()
    }

    /// Goes back to a backup, with the counter of resource versions that it had.
    pub fn go_back(&self, backup: State) {
        self.change(|inner| inner.state = backup);
    }

    /// Sets the counter of resource versions, and forgets everything before.
    pub fn set_version(&self, version: u64, compacted: u64) {
        self.change(|inner| {
            inner.state.version = version;
            inner.state.compacted = compacted;
        });
    }

    /// Deletes an object by its kind; `false` when there is none.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> bool {
        self.change(|inner| {
            let found = inner.state.objects.keys().find(|key| {
                let of_kind = inner.state.resources.iter().any(|resource| {
                    resource.kind == kind
                        && resource.group == key.group
                        && resource.plural == key.plural
                });
                of_kind && key.namespace == namespace && key.name == name
            });
            let Some(key) = found.cloned() else { return false };
            inner.state.remove(&key).is_some()
        })
    }

    /// An object by its kind.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.all(kind).into_iter().find(|object| {
            let meta = &object["metadata"];
            meta["name"] == name && meta["namespace"].as_str().unwrap_or_default() == namespace
        })
    }

    /// All objects of a kind.
    pub fn all(&self, kind: &str) -> Vec<Value> {
        let inner = self.shared.lock();
        let plurals: Vec<&Resource> =
            inner.state.resources.iter().filter(|resource| resource.kind == kind).collect();
        (inner.state.objects.iter())
            .filter(|(key, _)| {
                plurals.iter().any(|r| r.group == key.group && r.plural == key.plural)
            })
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Serves one more kind, as after its CustomResourceDefinition was made.
    pub fn define(&self, resource: Resource) {
        self.change(|inner| inner.state.resources.push(resource));
    }

    /// Serves a kind no more, as after its CustomResourceDefinition was
    /// deleted: its objects are deleted one by one, its watches end.
    pub fn undefine(&self, plural: &str) {
        self.change(|inner| {
            let keys: Vec<Key> =
                (inner.state.objects.keys()).filter(|key| key.plural == plural).cloned().collect();
            for key in keys {
                inner.state.remove(&key);
            }
            inner.state.resources.retain(|resource| resource.plural != plural);
        });
    }

    /// Changes the versions in which a kind is served.
    pub fn serve_versions(&self, plural: &str, versions: &[&str]) {
        self.change(|inner| {
            for resource in &mut inner.state.resources {
                if resource.plural == plural {
                    resource.versions = versions.iter().map(|v| (*v).to_owned()).collect();
                }
            }
        });
        self.cut_watches();
    }

    /// Orders trouble.
    pub fn order(&self, verb: &str, contains: &str, times: usize, trouble: Trouble) {
        let fault = Fault { verb: verb.into(), contains: contains.into(), times, trouble };
        self.shared.lock().faults.push(fault);
    }

    /// Takes all orders back.
    pub fn behave(&self) {
        self.shared.lock().faults.clear();
    }

    /// Cuts all open watches, in the middle of their connections.
    pub fn cut_watches(&self) {
        self.shared.cut.send_modify(|count| *count += 1);
    }

    /// Forgets all history: watches from older versions have expired.
    pub fn compact(&self) {
        self.change(|inner| inner.state.compact());
    }

    /// What the user may do from now on.
    pub fn allow_only(&self, rules: Vec<Rule>) {
        self.shared.lock().rules = Some(rules);
    }

    /// Lets the user do everything again.
    pub fn allow_all(&self) {
        self.shared.lock().rules = None;
    }

    /// The tokens that are accepted from now on.
    pub fn accept_tokens(&self, tokens: &[&str]) {
        self.shared.lock().tokens = tokens.iter().map(|token| (*token).to_owned()).collect();
    }

    /// Whether streaming lists work, as they do on etcd 3.6.
    pub fn set_streaming_lists(&self, on: bool) {
        self.shared.lock().streaming_lists = on;
    }

    /// Time between BOOKMARK events of quiet watches.
    pub fn set_bookmarks(&self, every: Duration) {
        self.shared.lock().bookmark_every = every;
    }

    /// Every request since the last call.
    pub fn take_used(&self) -> Vec<Used> {
        std::mem::take(&mut self.shared.lock().used)
    }

    /// Every kind of request so far: group, resource, verb.
    pub fn used(&self) -> std::collections::BTreeSet<(String, String, String)> {
        let inner = self.shared.lock();
        let kinds = inner
            .used
            .iter()
            .map(|used| (used.group.clone(), used.resource.clone(), used.verb.clone()));
        kinds.collect()
    }

    /// How many bytes it has answered, before TLS.
    pub fn bytes_sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// The most connections that were open at once.
    pub fn most_connections(&self) -> usize {
        self.shared.lock().most_connections
    }

    /// How many watches are open.
    pub fn open_watches(&self) -> usize {
        self.shared.lock().watches
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The documents of a YAML text, as JSON.
pub fn documents(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text).map(Value::deserialize);
    let documents: Vec<Value> = documents.collect::<Result<_, _>>().expect("YAML");
    documents.into_iter().filter(|value| !value.is_null()).collect()
}

/// Which object a document is.
fn key_of(state: &State, object: &Value) -> Key {
    let kind = object["kind"].as_str().unwrap_or_default();
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let resource = state
        .resource_of_kind(kind, api_version)
        .unwrap_or_else(|| panic!("the server has no kind {kind} in {api_version}"));
    let meta = &object["metadata"];
    let namespace = match resource.namespaced {
        true => meta["namespace"].as_str().unwrap_or("default"),
        false => "",
    };
    Key {
        group: resource.group.clone(),
        plural: resource.plural.clone(),
        namespace: namespace.to_owned(),
        name: meta["name"].as_str().expect("an object has a name").to_owned(),
    }
}
