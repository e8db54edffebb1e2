//! Watches: streams of what changes after a resource version.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::resource::Resource;
use super::respond::{Answer, Cut, failure, stream};
use super::select::Selection;
use super::{Inner, Shared};

/// What a watch asks for.
pub struct Watch {
    /// The kind.
    pub resource: Resource,
    /// The version that it is served in.
    pub version: String,
    /// Which objects.
    pub selection: Selection,
    /// `resourceVersion`, as given.
    pub from: String,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub initial: bool,
    /// `timeoutSeconds`.
    pub timeout: Duration,
}

/// An open watch: counted while it lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.lock().watches += 1;
        Self(shared.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().watches -= 1;
    }
}

impl Watch {
    /// Answers it. What is there already is settled before the call returns;
    /// the rest goes on in a task.
    pub fn answer(self, shared: &Arc<Shared>) -> Answer {
        let (lines, receiver) = mpsc::channel(1024);
        let mut first = Vec::new();
        let mut at = {
            let inner = shared.lock();
            match self.begin(&inner, &mut first) {
                Ok(at) => at,
                Err(error) => {
                    drop(inner);
                    return self.only(&error);
                }
            }
        };
        let shared = shared.clone();
        let open = Open::new(&shared);
        tokio::spawn(async move {
            let _open = open;
            let mut changed = shared.changed.subscribe();
            let mut cut = shared.cut.subscribe();
            let end = Instant::now() + self.timeout;
            for line in first {
                if lines.send(Ok(line)).await.is_err() {
                    return;
                }
            }
            loop {
                changed.mark_unchanged();
                let (news, served, bookmark_every) = {
                    let inner = shared.lock();
                    let news = self.since(&inner, &mut at);
                    let served = inner.state.resources.iter().any(|resource| {
                        resource.group == self.resource.group
                            && resource.plural == self.resource.plural
                    });
                    (news, served, inner.bookmark_every)
                };
                for line in news {
                    if lines.send(Ok(line)).await.is_err() {
                        return;
                    }
                }
                if !served {
                    // Its definition is gone: the stream ends.
                    return;
                }
                let bookmark = Instant::now() + bookmark_every;
                tokio::select! {
                    _ = changed.changed() => {}
                    _ = cut.changed() => {
                        let _ = lines.send(Err(Cut)).await;
                        return;
                    }
                    () = lines.closed() => return,
                    () = sleep_until(end) => {
                        if self.bookmarks && !self.is_in_the_future(&shared.lock(), at) {
                            for _ in 0..2 {
                                let _ = lines.send(Ok(self.bookmark(at, false))).await;
                            }
                        }
                        return;
                    }
                    () = sleep_until(bookmark) => {
                        if self.bookmarks && lines.send(Ok(self.bookmark(at, false))).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        stream(receiver)
    }

    /// A stream of one ERROR event.
    pub fn only(&self, error: &Value) -> Answer {
        let (lines, receiver) = mpsc::channel(1);
        // There is room for one.
        let _ = lines.try_send(Ok(line("ERROR", error)));
        stream(receiver)
    }

    /// Where it begins, and the events of what is there already.
    fn begin(&self, inner: &Inner, first: &mut Vec<Bytes>) -> Result<u64, Value> {
        let state = &inner.state;
        let now = state.version;
        if self.initial && !inner.streaming_lists {
            let message = "etcd event received with PrevKv=nil: required storage feature \
                           RequestWatchProgress is disabled";
            return Err(failure(500, "InternalError", message, None));
        }
        let synthetic = self.initial || self.from.is_empty() || self.from == "0";
        if synthetic {
            for (key, object) in state.at(&self.resource, now) {
                if self.selection.matches(&key.namespace, &object) {
                    first.push(self.event("ADDED", &object));
                }
            }
            if self.initial {
                first.push(self.bookmark(now, true));
            }
            return Ok(now);
        }
        let from: u64 = self.from.parse().unwrap_or(0);
        if from < state.compacted {
            let message = format!("too old resource version: {from} ({})", state.compacted);
            return Err(failure(410, "Expired", &message, None));
        }
        Ok(from)
    }

    /// The events after `at`, which moves on.
    fn since(&self, inner: &Inner, at: &mut u64) -> Vec<Bytes> {
        let mut events = Vec::new();
        let from = *at;
        for change in inner.state.history.iter().filter(|change| change.version > from) {
            *at = change.version;
            if change.key.group != self.resource.group || change.key.plural != self.resource.plural
            {
                continue;
            }
            let meant = |object: &Option<Value>| {
                object
                    .as_ref()
                    .filter(|o| self.selection.matches(&change.key.namespace, o))
                    .cloned()
            };
            match (meant(&change.before), meant(&change.after)) {
                (None, Some(after)) => events.push(self.event("ADDED", &after)),
                (Some(_), Some(after)) => events.push(self.event("MODIFIED", &after)),
                (Some(mut before), None) => {
                    before["metadata"]["resourceVersion"] = json!(change.version.to_string());
                    events.push(self.event("DELETED", &before));
                }
                (None, None) => {}
            }
        }
        events
    }

    fn is_in_the_future(&self, inner: &Inner, at: u64) -> bool {
        at > inner.state.version
    }

    fn event(&self, kind: &str, object: &Value) -> Bytes {
        line(kind, &self.selection.form(&self.resource, &self.version, object, false))
    }

    fn bookmark(&self, at: u64, initial: bool) -> Bytes {
        let mut meta = json!({ "resourceVersion": at.to_string() });
        if initial {
            meta["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        line(
            "BOOKMARK",
            &self.selection.form(
                &self.resource,
                &self.version,
                &json!({ "metadata": meta }),
                false,
            ),
        )
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({ "type": kind, "object": object })))
}
