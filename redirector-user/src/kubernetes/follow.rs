//! One watch: list, follow, come back from whatever happens.
//!
//! `kube`'s own watcher does the same and does not tell when a watch that broke
//! is open again; the health of each watch is what an operator looks at first,
//! so the loop is written out here, on the client's list and watch requests.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, PartialObjectMeta, WatchEvent, WatchParams};
use kube::core::ApiResource;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::backoff::{Backoff, Recovery, Timing, jitter};
use super::discover::served;
use super::held::{Drift, Held, Name, precedes};
use super::item::{Item, name_of, version_of};
use super::resource::{Detail, Needs, Resource};
use super::trouble::Trouble;

/// Objects per request of a list.
const PAGE: u32 = 500;

/// How long the server is asked to keep a watch open.
const WATCH_SECONDS: u32 = 290;

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
    /// All objects that there are.
    Listed(Vec<Item>),
    /// One object came or changed.
    Put(Box<Item>),
    /// One object is gone.
    Gone(Name),
    /// It does better or worse.
    Health(Health),
    /// This many objects differed from a fresh list; one follows.
    Drifted(usize),
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
    held: Held,
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
        recovery: Recovery,
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
            held: Held::new(),
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
            self.held.clear();
            self.send(Update::Listed(Vec::new())).await?;
            self.set_health(Health::Absent).await?;
        }
        Ok(jitter(self.timing.recheck))
    }

    async fn follow(&mut self, api: &ApiResource) -> End {
        let version = api.api_version.clone();
        let resource = self.resource;
        let client = self.client.clone();
        let needs = *self.needs.borrow_and_update();
        self.detail = resource.detail(needs);
        let result = match self.detail {
            Detail::Full => {
                let read = |object: DynamicObject| Item::full(resource, &version, object);
                self.list_and_watch(Api::all_with(client, api), api, read).await
            }
            Detail::Metadata => {
                let read = |object: PartialObjectMeta<DynamicObject>| {
                    Item::metadata(resource, &version, object)
                };
                self.list_and_watch(Api::all_with(client, api), api, read).await
            }
        };
        match result {
            Ok(end) | Err(end) => end,
        }
    }

    async fn list_and_watch<K>(
        &mut self,
        api: Api<K>,
        kind: &ApiResource,
        read: impl Fn(K) -> Item,
    ) -> Result<End, End>
    where
        K: Clone + DeserializeOwned + Debug + 'static,
    {
        let (items, mut at) = match self.list(&api, &read).await {
            Ok(listed) => listed,
            Err(error) => return self.failed(&error).await,
        };
        self.held = items.iter().map(|item| (item.name.clone(), item.version.clone())).collect();
        // Under a name that no Node ever had, no pod of this node is found: what an
        // earlier agent knew of them stays until there is one.
        let is_nobody = self.resource == Resource::OwnNode && items.is_empty();
        self.node_was_seen |= self.resource == Resource::OwnNode && !is_nobody;
        if !is_nobody || self.node_was_seen {
            self.send(Update::Listed(items)).await?;
        }
        let health = match is_nobody {
            true => Health::Troubled(Trouble::NoSuchNode(self.node.clone())),
            false => Health::Fine,
        };
        self.set_health(health).await?;
        let mut params = WatchParams::default().timeout(WATCH_SECONDS);
        params.field_selector = self.resource.fields(&self.node);
        // Whether something may have happened to the server.
        let mut doubtful = false;
        loop {
            let opened = Instant::now();
            let mut events = match api.watch(&params, &at).await {
                Ok(events) => events.boxed(),
                Err(error) => match self.failed(&error).await? {
                    // The server may be away: go on where it was left.
                    End::Restart if !expired(&error) => {
                        doubtful = true;
                        continue;
                    }
                    end => return Ok(end),
                },
            };
            if std::mem::take(&mut doubtful) && self.went_back(kind, &at).await {
                return Ok(End::Restart);
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
                        if self.has_drifted(kind, &mut events, &mut at, &read).await? {
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
                if !self.take(event, &mut at, &read).await? {
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
    async fn take<K>(
        &mut self,
        event: kube::Result<WatchEvent<K>>,
        at: &mut String,
        read: &impl Fn(K) -> Item,
    ) -> Result<bool, End> {
        match event {
            Ok(WatchEvent::Added(_) | WatchEvent::Modified(_))
                if self.resource == Resource::OwnNode && !self.node_was_seen =>
            {
                Err(End::Restart)
            }
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                let item = read(object);
                at.clone_from(&item.version.version);
                self.held.insert(item.name.clone(), item.version.clone());
                self.backoff.reset();
                self.send(Update::Put(Box::new(item))).await?;
                self.set_health(Health::Fine).await?;
                Ok(true)
            }
            Ok(WatchEvent::Deleted(object)) => {
                let item = read(object);
                at.clone_from(&item.version.version);
                self.held.remove(&item.name);
                self.send(Update::Gone(item.name)).await?;
                if self.resource == Resource::OwnNode {
                    let trouble = Trouble::NoSuchNode(self.node.clone());
                    self.set_health(Health::Troubled(trouble)).await?;
                }
                Ok(true)
            }
            Ok(WatchEvent::Bookmark(bookmark)) => {
                at.clone_from(&bookmark.metadata.resource_version);
                Ok(true)
            }
            Ok(WatchEvent::Error(status)) => {
                let error = kube::Error::Api(status);
                match self.failed(&error).await? {
                    End::Restart if !expired(&error) => Ok(false),
                    end => Err(end),
                }
            }
            Err(error) => {
                debug!(resource = %self.resource.describe(), %error, "the watch was cut");
                Ok(false)
            }
        }
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

    /// Whether the server is at an earlier version than the watch was, as after
    /// its storage was restored from a backup: a watch from a version that is to
    /// come is silent, and what it brought may not exist.
    async fn went_back(&self, kind: &ApiResource, at: &str) -> bool {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), kind);
        let resource = self.resource.describe();
        match api.list(&ListParams::default().limit(1)).await {
            Ok(list) => {
                let now = list.metadata.resource_version.unwrap_or_default();
                let back = precedes(&now, at);
                if back {
                    warn!(
                        %resource, now, at,
                        "the API server went back to an earlier state: listing anew"
                    );
                }
                back
            }
            // Comparisons will tell.
            Err(error) => {
                debug!(%resource, %error, "not known whether the server went back");
                false
            }
        }
    }

    /// All objects, page by page, and the version that they are of.
    async fn list<K>(
        &self,
        api: &Api<K>,
        read: &impl Fn(K) -> Item,
    ) -> Result<(Vec<Item>, String), kube::Error>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector = self.resource.fields(&self.node);
        let mut items = Vec::new();
        loop {
            let page = api.list(&params).await?;
            // Read at once: the page's JSON is much larger than what is kept.
            items.extend(page.items.into_iter().map(read));
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => return Ok((items, page.metadata.resource_version.unwrap_or_default())),
            }
        }
    }

    /// Compares what is held with a fresh list, and when something differs,
    /// with another one after the watch had time to bring it.
    async fn has_drifted<K>(
        &mut self,
        kind: &ApiResource,
        events: &mut (impl futures::Stream<Item = kube::Result<WatchEvent<K>>> + Unpin),
        at: &mut String,
        read: &impl Fn(K) -> Item,
    ) -> Result<bool, End> {
        // Versions that are to come are no yardstick.
        if self.went_back(kind, at).await {
            return Ok(true);
        }
        let Some(first) = self.drift(kind).await else { return Ok(false) };
        if first.is_empty() {
            return Ok(false);
        }
        let until = Instant::now() + self.timing.settle;
        loop {
            tokio::select! {
                event = events.next() => {
                    // A watch that ends is opened again, which settles it too.
                    let Some(event) = event else { return Ok(false) };
                    if !self.take(event, at, read).await? {
                        return Ok(false);
                    }
                }
                () = sleep_until(until) => break,
            }
        }
        let Some(second) = self.drift(kind).await else { return Ok(false) };
        let lasting = first.lasting(&second);
        if lasting.is_empty() {
            return Ok(false);
        }
        warn!(
            resource = %self.resource.describe(),
            objects = lasting.len(),
            "what is held differs from the API server: listing anew"
        );
        self.send(Update::Drifted(lasting.len())).await?;
        Ok(true)
    }

    async fn drift(&self, kind: &ApiResource) -> Option<Drift> {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), kind);
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector = self.resource.fields(&self.node);
        let mut listed = Held::new();
        loop {
            let page = match api.list(&params).await {
                Ok(page) => page,
                Err(error) => {
                    debug!(resource = %self.resource.describe(), %error, "no comparison");
                    return None;
                }
            };
            let versions =
                page.items.iter().map(|o| (name_of(&o.metadata), version_of(&o.metadata)));
            listed.extend(versions);
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params.continue_token = Some(token),
                _ => {
                    let at = page.metadata.resource_version.unwrap_or_default();
                    return Some(Drift::between(&self.held, &listed, &at));
                }
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
