//! Which of the agents speaks for all: the one that holds a Lease.
//!
//! As in Kubernetes' own components, nobody trusts anybody's clock: a holder
//! counts as gone when its Lease has not changed for as long as it lasts, on the
//! clock of the one who watches it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::Instant;

use super::backoff::jitter;

/// The Lease's name; its namespace is the agent's own.
pub const NAME: &str = "redirector-events";

/// An agent that would speak.
pub struct Candidate {
    leases: Api<Lease>,
    identity: String,
    lasts: Duration,
    /// The version of the Lease that was seen last, and since when.
    seen: Option<(String, Instant)>,
    /// Until when nobody else can have it.
    until: Option<Instant>,
}

impl Candidate {
    /// One that has not looked yet. A Lease lasts for `lasts`.
    pub fn new(client: Client, identity: String, lasts: Duration) -> Self {
        let leases = Api::default_namespaced(client);
        Self { leases, identity, lasts, seen: None, until: None }
    }

    /// Whether the Lease is ours, for certain.
    pub fn holds(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// When to look again whether whoever has the Lease has gone: at the latest when it
    /// would be over by what was seen of it. So another agent has it within twice the
    /// time that it lasts.
    pub fn look_again(&self) -> Instant {
        let next = Instant::now() + jitter(self.lasts);
        let over = self.seen.as_ref().map(|(_, since)| *since + self.lasts);
        match over {
            Some(over) if over > Instant::now() => next.min(over),
            _ => next,
        }
    }

    /// Takes the Lease, or renews it, or sees who has it. Returns whether it is
    /// ours.
    pub async fn contend(&mut self) -> kube::Result<bool> {
        // What counts is when it was asked for, not when the answer came.
        let asked = Instant::now();
        let ours = match self.attempt(asked).await {
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => false,
            other => other?,
        };
        // A little earlier than the others think.
        self.until = ours.then(|| asked + self.lasts * 3 / 4);
        Ok(ours)
    }

    async fn attempt(&mut self, asked: Instant) -> kube::Result<bool> {
        let Some(mut lease) = self.leases.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            self.leases.create(&PostParams::default(), &lease).await?;
            return Ok(true);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => asked,
        };
        self.seen = Some((version, since));
        let before = lease.spec.take();
        let holder = before.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        let taken = holder.is_some_and(|holder| !holder.is_empty() && holder != self.identity);
        if taken && asked.duration_since(since) < self.lasts {
            return Ok(false);
        }
        // Its version goes along: of two who are as fast, one is refused.
        lease.spec = Some(self.spec(before));
        self.leases.replace(NAME, &PostParams::default(), &lease).await?;
        Ok(true)
    }

    fn spec(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let before = before.unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(&*self.identity);
        let seconds = self.lasts.as_secs().max(1);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            acquire_time: match before.acquire_time {
                Some(time) if ours => Some(time),
                _ => Some(now.clone()),
            },
            renew_time: Some(now),
            lease_transitions: match before.lease_transitions {
                changes if ours => changes,
                Some(changes) => Some(changes.saturating_add(1)),
                None => Some(0),
            },
            ..LeaseSpec::default()
        }
    }
}
