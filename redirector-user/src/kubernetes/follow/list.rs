//! All objects that there are: streamed, or listed.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::timeout;
use tracing::debug;

use super::Follower;
use crate::kubernetes::api::{Api, Event, Events, Fresh};
use crate::kubernetes::held::Held;
use crate::kubernetes::item::{self, Item, Reader};
use crate::kubernetes::trouble::Trouble;

/// A list that is streamed goes on within this time.
const STALLED: Duration = Duration::from_secs(30);

/// What servers whose storage cannot stream lists say that it lacks, by an event.
const STORAGE: &str = "RequestWatchProgress";

/// A list while it is read.
struct Listing<'a> {
    before: &'a Held,
    held: Held,
    items: Vec<(Item, bool)>,
}

impl<'a> Listing<'a> {
    fn new(before: &'a Held) -> Self {
        Self { before, held: Held::new(), items: Vec::new() }
    }

    /// Takes one object; what says the same as before is not decoded.
    fn take(&mut self, reader: &mut Reader, text: &str) -> serde_json::Result<()> {
        let seen = reader.look(text)?;
        let before = self.before.get(&seen.name);
        self.held.insert(seen.name.clone(), (seen.version.clone(), seen.digest));
        if before.is_none_or(|(_, digest)| *digest != seen.digest) {
            self.items.push((reader.decode(seen)?, before.is_some()));
        }
        Ok(())
    }
}

/// What a list came to.
pub(super) struct Listed {
    /// All that there are.
    pub held: Held,
    /// Those that came or changed, and whether they were there before.
    pub items: Vec<(Item, bool)>,
    /// The version that it is of.
    pub at: String,
    /// What follows it, when it was streamed.
    pub events: Option<Events>,
}

/// Why a list was not streamed.
enum NoStream {
    /// The server does not do it.
    Refused(String),
    /// It broke this one off: it may stream others, and this one another time.
    Broken(String),
    /// It did not work.
    Failed(kube::Error),
}

impl From<kube::Error> for NoStream {
    fn from(error: kube::Error) -> Self {
        match Trouble::of(&error) {
            Trouble::Refused(400 | 405 | 422, why) => Self::Refused(why),
            _ => Self::Failed(error),
        }
    }
}

impl Follower {
    /// All objects. Where the server streams them, that costs it and us no memory, and
    /// what changes from then on follows.
    pub(super) async fn list(&self, api: &Api, reader: &mut Reader) -> kube::Result<Listed> {
        if self.streams.are_expected() {
            match self.stream(api, reader).await {
                Ok(listed) => return Ok(listed),
                Err(NoStream::Failed(error)) => return Err(error),
                Err(NoStream::Refused(why)) => {
                    debug!(resource = %self.resource.describe(), why, "no streamed list");
                    self.streams.refused();
                }
                Err(NoStream::Broken(why)) => {
                    debug!(resource = %self.resource.describe(), why, "listed whole for once");
                }
            }
        }
        let fresh = match self.at.as_str() {
            _ if self.afresh => Fresh::Newest,
            "" => Fresh::Any,
            at => Fresh::Since(at),
        };
        let mut listing = Listing::new(&self.held);
        let at = api.list(fresh, |text| listing.take(reader, text)).await?;
        Ok(Listed { held: listing.held, items: listing.items, at, events: None })
    }

    async fn stream(&self, api: &Api, reader: &mut Reader) -> Result<Listed, NoStream> {
        let at = if self.afresh { "" } else { &self.at };
        let mut events = api.stream(at).await?;
        let mut listing = Listing::new(&self.held);
        let ended = || std::io::Error::other("the list ended before its end");
        loop {
            let Ok(event) = timeout(STALLED, events.next()).await else {
                return Err(NoStream::Broken("it does not come to its end".to_owned()));
            };
            match event.ok_or_else(|| kube::Error::ReadEvents(ended()))?? {
                Event::Put(object) => {
                    listing.take(reader, object.get()).map_err(kube::Error::SerdeError)?;
                }
                Event::Gone(object) => {
                    let gone = item::version(object.get());
                    let (name, _) = gone.map_err(kube::Error::SerdeError)?;
                    listing.held.remove(&name);
                    listing.items.retain(|(item, _)| item.name != name);
                }
                Event::Bookmark { version: at, is_all: true } => {
                    let (held, items) = (listing.held, listing.items);
                    return Ok(Listed { held, items, at, events: Some(events) });
                }
                Event::Bookmark { .. } => {}
                Event::Error(status) if status.code == 410 => {
                    return Err(NoStream::Failed(kube::Error::Api(status)));
                }
                Event::Error(status) if status.message.contains(STORAGE) => {
                    return Err(NoStream::Refused(status.message));
                }
                Event::Error(status) => return Err(NoStream::Broken(status.message)),
            }
        }
    }
}
