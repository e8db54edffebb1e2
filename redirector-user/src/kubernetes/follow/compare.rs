//! What is held, compared with what the server has.

use std::collections::BTreeMap;

use futures::StreamExt;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::{End, Follower, Update};
use crate::kubernetes::api::{Api, Events, Fresh};
use crate::kubernetes::held::{Drift, precedes};
use crate::kubernetes::item::{self, Reader};
use crate::kubernetes::resource::Resource;

/// So many comparisons are of counts; the one after them is of all versions.
const COUNTED: u32 = 11;

impl Follower {
    /// The version of now, and how many objects of the kind there are, those included
    /// that are not followed here.
    pub(super) async fn count(&self, api: &Api) -> Option<(String, Option<u64>)> {
        let counted = api.metadata().selecting(None).count().await;
        // The next comparison will tell.
        let unknown = |error| debug!(resource = %self.resource.describe(), %error, "not counted");
        counted.map_err(unknown).ok()
    }

    /// Whether the server is at an earlier version than the watch was, as after
    /// its storage was restored from a backup: a watch from a version that is to
    /// come is silent, and what it brought may not exist.
    pub(super) fn went_back(&mut self, now: &str) -> bool {
        let back = precedes(now, &self.at);
        if back {
            warn!(
                resource = %self.resource.describe(), now, at = self.at,
                "the API server went back to an earlier state: listing anew"
            );
            self.at.clear();
            self.afresh = true;
        }
        back
    }

    /// Compares what is held with what the server has: how many there are, and now and
    /// then, or when that differs for longer than the watch needs to bring it, which
    /// versions.
    pub(super) async fn has_drifted(
        &mut self,
        api: &Api,
        events: &mut Events,
        reader: &mut Reader,
    ) -> Result<bool, End> {
        self.comparisons += 1;
        let is_whole = self.comparisons.is_multiple_of(COUNTED + 1);
        for _ in 0..2 {
            let Some((now, count)) = self.count(api).await else { return Ok(false) };
            // Versions that are to come are no yardstick.
            if self.went_back(&now) {
                return Ok(true);
            }
            let count = self.followed(api, count).await;
            if !is_whole && count == Some(self.held.len() as u64) {
                return Ok(false);
            }
            if is_whole || count.is_none() {
                break;
            }
            if !self.settle(events, reader).await? {
                return Ok(false);
            }
        }
        let Some(first) = self.drift(api).await else { return Ok(false) };
        if first.is_empty() {
            return Ok(false);
        }
        if !self.settle(events, reader).await? {
            return Ok(false);
        }
        let Some(second) = self.drift(api).await else { return Ok(false) };
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

    /// How many objects of the kind's there should be here. The server counts no
    /// selection: those of this node are few, and are listed.
    async fn followed(&self, api: &Api, all: Option<u64>) -> Option<u64> {
        let listed = async |resource: Resource| {
            let api = api.metadata().selecting(resource.fields(&self.node));
            let mut count = 0;
            let each = |_: &str| {
                count += 1;
                Ok(())
            };
            api.list(Fresh::Since(&self.at), each).await.ok().map(|_| count)
        };
        match self.resource {
            Resource::OwnNode | Resource::OwnPods => None,
            Resource::OtherPods => all?.checked_sub(listed(Resource::OwnPods).await?),
            _ => all,
        }
    }

    /// Gives the watch the time to bring what is under way. `false` when it ended, and
    /// is to be opened again, which settles differences, too.
    async fn settle(&mut self, events: &mut Events, reader: &mut Reader) -> Result<bool, End> {
        let until = Instant::now() + self.timing.settle;
        loop {
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else { return Ok(false) };
                    if !self.take(event, reader).await? {
                        return Ok(false);
                    }
                }
                () = sleep_until(until) => return Ok(true),
            }
        }
    }

    async fn drift(&self, api: &Api) -> Option<Drift> {
        let mut listed = BTreeMap::new();
        let each = |text: &str| {
            item::version(text).map(|(name, version)| {
                listed.insert(name, version);
            })
        };
        match api.metadata().list(Fresh::Since(&self.at), each).await {
            Ok(at) => Some(Drift::between(&self.held, &listed, &at)),
            Err(error) => {
                debug!(resource = %self.resource.describe(), %error, "no comparison");
                None
            }
        }
    }
}
