//! What is asked of the API server about one resource.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{AsyncBufReadExt, StreamExt};
use kube::api::{DynamicObject, ListParams, VersionMatch, WatchParams};
use kube::core::watch::Bookmark;
use kube::core::{ApiResource, Request, Resource as _, Status};
use kube::{Client, Error};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::client::{SILENT, in_time};
use super::resource::Detail;
use super::split::Split;

/// How long the server is asked to keep a watch open.
pub const WATCH_SECONDS: u32 = 290;

/// A server that refused to stream a list is not asked to for so long: it may be
/// another by then.
const REFUSED: Duration = Duration::from_secs(3600);

/// Whether the server streams lists, as far as is known: it is one for all resources.
#[derive(Clone, Debug, Default)]
pub struct Streams(Arc<AtomicU64>);

impl Streams {
    /// Seconds since the first of these was asked anything.
    fn now() -> u64 {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        BEGIN.get_or_init(Instant::now).elapsed().as_secs()
    }

    /// Whether it is worth asking.
    pub fn are_expected(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= Self::now()
    }

    /// It refused.
    pub fn refused(&self) {
        self.0.store(Self::now() + REFUSED.as_secs(), Ordering::Relaxed);
    }
}

/// How fresh a list has to be.
#[derive(Clone, Copy, Debug)]
pub enum Fresh<'a> {
    /// Whatever the server has at hand.
    Any,
    /// At least of this version.
    Since(&'a str),
    /// Of now: the server asks its storage.
    Newest,
}

/// A resource in a version that is served, as far as it is followed.
#[derive(Clone)]
pub struct Api {
    client: Client,
    url: String,
    fields: Option<String>,
    detail: Detail,
}

/// The metadata of a list.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    /// The version that it is of.
    resource_version: String,
    /// Where the next page begins, if there is one.
    #[serde(rename = "continue")]
    more: Option<String>,
    /// How many objects there are beyond this page.
    remaining_item_count: Option<u64>,
}

#[derive(Deserialize)]
struct Envelope {
    metadata: ListMeta,
}

impl Api {
    /// Of those objects that a field selector means.
    pub fn new(
        client: &Client,
        kind: &ApiResource,
        fields: Option<String>,
        detail: Detail,
    ) -> Self {
        let url = DynamicObject::url_path(kind, None);
        Self { client: client.clone(), url, fields, detail }
    }

    /// The same objects, their metadata only.
    pub fn metadata(&self) -> Self {
        Self { detail: Detail::Metadata, ..self.clone() }
    }

    /// The same kind's objects that another field selector means.
    pub fn selecting(&self, fields: Option<String>) -> Self {
        Self { fields, ..self.clone() }
    }

    /// All objects, given one by one, and the version that they are of. The server
    /// takes it from what it has in memory, but for [`Fresh::Newest`].
    ///
    /// # Errors
    /// What the server answers instead, or that it answers something else than a list.
    pub async fn list(
        &self,
        fresh: Fresh<'_>,
        mut each: impl FnMut(&str) -> serde_json::Result<()>,
    ) -> kube::Result<String> {
        let mut params =
            ListParams { field_selector: self.fields.clone(), ..ListParams::default() };
        params = match fresh {
            Fresh::Any => params.match_any(),
            Fresh::Since(version) => params.at(version).matching(VersionMatch::NotOlderThan),
            Fresh::Newest => params,
        };
        // Pages would be read from the storage.
        Ok(self.request(&params, &mut each).await?.resource_version)
    }

    /// The version of now, and how many objects there are, where the server tells.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub async fn count(&self) -> kube::Result<(String, Option<u64>)> {
        let mut params = ListParams::default().limit(1);
        params.field_selector.clone_from(&self.fields);
        let mut first = 0;
        let mut each = |_: &str| {
            first += 1;
            Ok(())
        };
        let page = self.request(&params, &mut each).await?;
        let more = page.more.is_some_and(|token| !token.is_empty());
        let count = match page.remaining_item_count {
            Some(remaining) => Some(first + remaining),
            None => (!more).then_some(first),
        };
        Ok((page.resource_version, count))
    }

    async fn request(
        &self,
        params: &ListParams,
        each: &mut impl FnMut(&str) -> serde_json::Result<()>,
    ) -> kube::Result<ListMeta> {
        let request = Request::new(&self.url);
        let request = match self.detail {
            Detail::Full => request.list(params),
            Detail::Metadata => request.list_metadata(params),
        };
        let request = request.map_err(Error::BuildRequest)?;
        let mut body = pin!(self.client.request_stream(request).await?);
        let mut split = Split::default();
        loop {
            let bytes = in_time(SILENT, body.fill_buf()).await;
            let bytes = bytes.and_then(|bytes| bytes).map_err(Error::ReadEvents)?;
            if bytes.is_empty() {
                break;
            }
            let each = |item: &[u8]| -> serde_json::Result<()> {
                each(std::str::from_utf8(item).map_err(serde::de::Error::custom)?)
            };
            split.feed(bytes, each).map_err(Error::SerdeError)?;
            let read = bytes.len();
            body.consume_unpin(read);
        }
        let envelope = serde_json::from_slice::<Envelope>(&split.rest());
        Ok(envelope.map_err(Error::SerdeError)?.metadata)
    }

    /// What changes after a version.
    ///
    /// # Errors
    /// What the server answers instead.
    pub async fn watch(&self, at: &str) -> kube::Result<Events> {
        self.events(WatchParams::default(), at).await
    }

    /// All objects one by one, at least of this version (of now, when it is empty);
    /// then a bookmark that says so; then what changes.
    ///
    /// # Errors
    /// What the server answers instead. It may also do so by an event.
    pub async fn stream(&self, at: &str) -> kube::Result<Events> {
        self.events(WatchParams::streaming_lists(), at).await
    }

    async fn events(&self, params: WatchParams, at: &str) -> kube::Result<Events> {
        let mut params = params.timeout(WATCH_SECONDS);
        params.field_selector.clone_from(&self.fields);
        let request = Request::new(&self.url);
        let request = match self.detail {
            Detail::Full => request.watch(&params, at),
            Detail::Metadata => request.watch_metadata(&params, at),
        };
        let request = request.map_err(Error::BuildRequest)?;
        let lines = self.client.request_stream(request).await?.lines();
        Ok(lines
            .map(|line| event(&line.map_err(Error::ReadEvents)?).map_err(Error::SerdeError))
            .boxed())
    }
}

/// The events of a watch.
pub type Events = BoxStream<'static, kube::Result<Event>>;

/// What a watch tells.
#[derive(Debug)]
pub enum Event {
    /// An object came or changed.
    Put(Box<RawValue>),
    /// An object is gone.
    Gone(Box<RawValue>),
    /// All before a version was told.
    Bookmark {
        /// The version.
        version: String,
        /// All objects of the list that was to be streamed were told.
        is_all: bool,
    },
    /// The watch ends by this.
    Error(Box<Status>),
}

/// A line of a watch. `kube`'s own type has its object decoded, not passed on.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

pub(super) fn event(line: &str) -> serde_json::Result<Event> {
    let Line { kind, object } = serde_json::from_str(line)?;
    Ok(match kind {
        "DELETED" => Event::Gone(object.to_owned()),
        "BOOKMARK" => {
            let bookmark: Bookmark = serde_json::from_str(object.get())?;
            let is_all = bookmark.metadata.annotations.contains_key("k8s.io/initial-events-end");
            Event::Bookmark { version: bookmark.metadata.resource_version, is_all }
        }
        "ERROR" => Event::Error(serde_json::from_str(object.get())?),
        _ => Event::Put(object.to_owned()),
    })
}
