//! One watch: list, follow, come back from whatever happens.
//!
//! `kube`'s own watcher does the same and does not tell when a watch that broke
//! is open again; the health of each watch is what an operator looks at first,
//! so the loop is written out here, on the client's list and watch requests.

mod compare;
mod list;

use std::hash::RandomState;
use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use kube::core::ApiResource;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::api::{Api, Event, Streams, WATCH_SECONDS};
use super::backoff::{Backoff, Recovery, Timing, jitter};
use super::discover::served;
use super::held::{Held, Name};
use super::item::{self, Item, Reader};
use super::resource::{Detail, Needs, Resource};
use super::trouble::Trouble;
use list::Listed;

/// A watch that ends sooner than this counts as a failure.
const SHORT: Duration = Duration::from_secs(1);

/// How a watch is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// It has not listed yet.
    Starting,
    /// Open, or between two.
    Fine,
    /// The cluster does not define the kind: there are no objects of it.
    Absent,
    /// It does not work; what it brought before stays.
    Troubled(Trouble),
}

/// What a watch brings.
#[derive(Debug)]
pub enum Update {
    /// All objects that there are were seen: those that came or changed, and whether
    /// they were there before; those that are gone.
    Listed {
        /// The first.
        items: Vec<(Item, bool)>,
        /// The second.
        gone: Vec<Name>,
    },
    /// One object came or changed, and whether it was there before.
    Put(Box<Item>, bool),
    /// One object is gone.
    Gone(Name),
    /// It does better or worse.
    Health(Health),
    /// This many objects differed from a fresh list; one follows.
    Drifted(usize),
}

/// What the watches of an agent tell one another of the server.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// It works again.
    recovery: Recovery,
    /// Whether it streams lists.
    streams: Streams,
}

/// Follows one resource.
pub struct Follower {
    /// Speaks to the server.
    pub client: Client,
    /// What is followed.
    pub resource: Resource,
    /// This node's name.
    pub node: String,
    /// How long things take.
    pub timing: Timing,
    /// Where updates go.
    pub updates: mpsc::Sender<(Resource, Update)>,
    /// How much is needed.
    pub needs: watch::Receiver<Needs>,
    /// Who hears when this watch works again.
    recovery: Recovery,
    /// Another watch works again.
    recovered: watch::Receiver<()>,
    /// Whether lists are streamed.
    streams: Streams,
    held: Held,
    /// Of the digests in what is held.
    hasher: RandomState,
    /// The version to go on from; empty before the first list.
    at: String,
    /// What the server has in memory will not do for the next list.
    afresh: bool,
    comparisons: u32,
    /// There was a Node of this node's name.
    node_was_seen: bool,
    detail: Detail,
    health: Health,
    backoff: Backoff,
    compare_at: Instant,
}

/// Why following ended for now.
enum End {
    /// Nobody listens any more.
    Closed,
    /// Start over, with a new list.
    Restart,
    /// The server knows no such kind.
    NotServed,
}

/// Whether the version to go on from is gone, so that only a new list helps.
fn expired(error: &kube::Error) -> bool {
    Trouble::of(error) == Trouble::Expired
}

/// Nobody listens any more.
struct Closed;

impl From<Closed> for End {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

impl Follower {
    /// Ready to [`run`](Self::run).
    pub fn new(
        client: Client,
        resource: Resource,
        node: String,
        timing: Timing,
        updates: mpsc::Sender<(Resource, Update)>,
        needs: watch::Receiver<Needs>,
        Shared { recovery, streams }: Shared,
    ) -> Self {
        Self {
            recovered: recovery.told(),
            recovery,
            node_was_seen: false,
            client,
            resource,
            node,
            timing,
            updates,
            needs,
            streams,
            held: Held::new(),
            hasher: RandomState::new(),
            at: String::new(),
            afresh: false,
            comparisons: 0,
            detail: resource.detail(Needs::default()),
            health: Health::Starting,
            backoff: Backoff::new(timing),
            compare_at: Instant::now() + jitter(timing.compare * 2),
        }
    }

    /// Follows until nobody listens.
    pub async fn run(mut self) {
        let mut missing: Option<Instant> = None;
        loop {
            match served(&self.client, self.resource).await {
                Ok(Some(api)) => match self.follow(&api).await {
                    End::Closed => return,
                    End::Restart => missing = None,
                    End::NotServed => {
                        missing.get_or_insert_with(Instant::now);
                        self.rest().await;
                    }
                },
                Ok(None) => {
                    let since = *missing.get_or_insert_with(Instant::now);
                    let Ok(wait) = self.absent(since).await else { return };
                    sleep(wait).await;
                }
                Err(trouble) => {
                    if self.trouble(trouble).await.is_err() {
                        return;
                    }
                    self.rest().await;
                }
            }
        }
    }

    /// Waits before another attempt: for less time when another watch works again.
    async fn rest(&mut self) {
        tokio::select! {
            () = sleep(self.backoff.wait()) => {}
            Ok(()) = self.recovered.changed() => {
                self.backoff.reset();
                sleep(self.backoff.wait()).await;
            }
        }
    }

    /// The kind is not served. That is believed at once when the server deleted
    /// its objects, or never had it; a server that only forgets it for a moment,
    /// as one that starts does, changes nothing. Returns how long to wait.
    async fn absent(&mut self, since: Instant) -> Result<Duration, Closed> {
        if !self.held.is_empty() && since.elapsed() < self.timing.absent {
            self.trouble(Trouble::NotServed).await?;
            return Ok(self.backoff.wait());
        }
        if self.health != Health::Absent {
            let gone = std::mem::take(&mut self.held).into_keys().collect();
            self.send(Update::Listed { items: Vec::new(), gone }).await?;
            self.set_health(Health::Absent).await?;
        }
        Ok(jitter(self.timing.recheck))
    }

    async fn follow(&mut self, kind: &ApiResource) -> End {
        let needs = *self.needs.borrow_and_update();
        self.detail = self.resource.detail(needs);
        let fields = self.resource.fields(&self.node);
        let api = Api::new(&self.client, kind, fields, self.detail);
        let mut reader = Reader::new(self.resource, &kind.api_version, self.hasher.clone());
        match self.list_and_watch(&api, &mut reader).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn list_and_watch(&mut self, api: &Api, reader: &mut Reader) -> Result<End, End> {
        let listed = match self.list(api, reader).await {
            Ok(listed) => listed,
            Err(error) => {
                // Perhaps a version that is to come.
                self.afresh |= matches!(Trouble::of(&error), Trouble::Refused(504, _));
                return self.failed(&error).await;
            }
        };
        let Listed { held, items, at, events: mut streamed } = listed;
        let before = std::mem::replace(&mut self.held, held);
        let gone = before.into_keys().filter(|name| !self.held.contains_key(name)).collect();
        (self.at, self.afresh) = (at, false);
        // Under a name that no Node ever had, no pod of this node is found: what an
        // earlier agent knew of them stays until there is one.
        let is_nobody = self.resource == Resource::OwnNode && self.held.is_empty();
        self.node_was_seen |= self.resource == Resource::OwnNode && !is_nobody;
        if !is_nobody || self.node_was_seen {
            self.send(Update::Listed { items, gone }).await?;
        }
        let health = match is_nobody {
            true => Health::Troubled(Trouble::NoSuchNode(self.node.clone())),
            false => Health::Fine,
        };
        self.set_health(health).await?;
        // Whether something may have happened to the server.
        let mut doubtful = false;
        loop {
            let opened = Instant::now();
            let mut events = match streamed.take() {
                Some(events) => events,
                None => match api.watch(&self.at).await {
                    Ok(events) => events,
                    Err(error) => match self.failed(&error).await? {
                        // The server may be away: go on where it was left.
                        End::Restart if !expired(&error) => {
                            doubtful = true;
                            continue;
                        }
                        end => return Ok(end),
                    },
                },
            };
            if std::mem::take(&mut doubtful) {
                let counted = self.count(api).await;
                if counted.is_some_and(|(now, _)| self.went_back(&now)) {
                    return Ok(End::Restart);
                }
            }
            if self.resource != Resource::OwnNode || !self.held.is_empty() {
                self.set_health(Health::Fine).await?;
            }
            // The server ends a watch by itself before this.
            let silence = Duration::from_secs(u64::from(WATCH_SECONDS) + 10);
            loop {
                let event = tokio::select! {
                    event = timeout(silence, events.next()) => event,
                    () = sleep_until(self.compare_at) => {
                        self.compare_at = Instant::now() + jitter(self.timing.compare * 2);
                        if self.has_drifted(api, &mut events, reader).await? {
                            return Ok(End::Restart);
                        }
                        continue;
                    }
                    changed = self.needs.changed() => {
                        if changed.is_err() {
                            return Ok(End::Closed);
                        }
                        let needs = *self.needs.borrow_and_update();
                        if self.resource.detail(needs) != self.detail {
                            return Ok(End::Restart);
                        }
                        continue;
                    }
                };
                let Ok(Some(event)) = event else { break };
                if !self.take(event, reader).await? {
                    break;
                }
            }
            // Otherwise the server ended it when it was asked to.
            doubtful |= opened.elapsed() + SHORT < Duration::from_secs(u64::from(WATCH_SECONDS));
            if opened.elapsed() < SHORT {
                sleep(self.backoff.wait()).await;
            } else {
                self.backoff.reset();
            }
        }
    }

    /// Takes one event; `false` when the watch has to be opened again.
    async fn take(&mut self, event: kube::Result<Event>, reader: &mut Reader) -> Result<bool, End> {
        let event = match event {
            Ok(event) => event,
            Err(error) => return Ok(self.cut(&error)),
        };
        match event {
            Event::Put(_) if self.resource == Resource::OwnNode && !self.node_was_seen => {
                Err(End::Restart)
            }
            Event::Put(object) => {
                let seen = match reader.look(object.get()) {
                    Ok(seen) => seen,
                    Err(error) => return Ok(self.cut(&error)),
                };
                self.at = seen.version.0.to_string();
                let digest = seen.digest;
                let before = self.held.insert(seen.name.clone(), (seen.version.clone(), digest));
                self.backoff.reset();
                // Most changes, such as a status, say nothing new here.
                if before.as_ref().is_none_or(|(_, before)| *before != digest) {
                    match reader.decode(seen) {
                        Ok(item) => self.send(Update::Put(item.into(), before.is_some())).await?,
                        Err(error) => return Ok(self.cut(&error)),
                    }
                }
                self.set_health(Health::Fine).await?;
                Ok(true)
            }
            Event::Gone(object) => {
                let (name, version) = match item::version(object.get()) {
                    Ok(seen) => seen,
                    Err(error) => return Ok(self.cut(&error)),
                };
                self.at = version.0.into_string();
                if self.held.remove(&name).is_some() {
                    self.send(Update::Gone(name)).await?;
                }
                if self.resource == Resource::OwnNode {
                    let trouble = Trouble::NoSuchNode(self.node.clone());
                    self.set_health(Health::Troubled(trouble)).await?;
                }
                Ok(true)
            }
            Event::Bookmark { version, .. } => {
                self.at = version;
                Ok(true)
            }
            Event::Error(status) => {
                let error = kube::Error::Api(status);
                match self.failed(&error).await? {
                    End::Restart if !expired(&error) => Ok(false),
                    end => Err(end),
                }
            }
        }
    }

    /// The watch was cut: it goes on where it was left.
    fn cut(&self, error: &dyn std::fmt::Display) -> bool {
        debug!(resource = %self.resource.describe(), %error, "the watch was cut");
        false
    }

    /// A request failed: what to do next, after the wait that it costs.
    async fn failed(&mut self, error: &kube::Error) -> Result<End, End> {
        match Trouble::of(error) {
            Trouble::NotServed if self.resource.is_optional() => Ok(End::NotServed),
            Trouble::Expired => {
                debug!(resource = %self.resource.describe(), "expired: listing anew");
                sleep(self.backoff.wait_expired()).await;
                Ok(End::Restart)
            }
            trouble => {
                self.trouble(trouble).await?;
                self.rest().await;
                Ok(End::Restart)
            }
        }
    }

    async fn trouble(&mut self, trouble: Trouble) -> Result<(), Closed> {
        self.set_health(Health::Troubled(trouble)).await
    }

    async fn set_health(&mut self, health: Health) -> Result<(), Closed> {
        if self.health == health {
            return Ok(());
        }
        let resource = self.resource.describe();
        match &health {
            Health::Troubled(trouble) => {
                let help = trouble.help(self.resource);
                warn!(%resource, help, "{trouble}");
            }
            Health::Absent => {
                info!(%resource, "the cluster does not define this kind; it is looked for again");
            }
            Health::Fine if self.health != Health::Starting => info!(%resource, "watched again"),
            Health::Fine | Health::Starting => debug!(%resource, "watched"),
        }
        if matches!((&self.health, &health), (Health::Troubled(_), Health::Fine)) {
            self.recovery.tell();
        }
        self.health = health.clone();
        self.send(Update::Health(health)).await
    }

    async fn send(&self, update: Update) -> Result<(), Closed> {
        self.updates.send((self.resource, update)).await.map_err(|_| Closed)
    }
}
