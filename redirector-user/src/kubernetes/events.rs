//! Kubernetes Events on objects that are refused or have no effect: what
//! `kubectl describe` shows to whoever wrote them.
//!
//! One agent tells them, elected by a [`lease`](super::lease); all others find
//! the same and are silent. An Event's name says what it tells, so that a new
//! teller repeats nothing that the server still has. Nothing else depends on
//! any of this: an agent that may not write Events says so once.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use redirector_core::model::ObjectRef;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::backoff::{Timing, jitter};
use super::findings::{Findings, Judged, Reason, findings};
use super::lease::Candidate;
use super::trouble::Trouble;

/// Events that may be told at once, and the time after which there is room for
/// one more.
const AT_ONCE: u32 = 20;
const ONE_PER: Duration = Duration::from_secs(1);

/// What is found is looked at this long after the first change of a flock.
const FLOCK: Duration = Duration::from_millis(200);

/// After this a finding that lasts is told again: API servers forget Events,
/// most of them after an hour. One that is still there is not made anew.
const AGAIN: Duration = Duration::from_secs(15 * 60);

/// The longest name of an object, in bytes.
const NAME: usize = 253;

/// Which of the objects that had its name an object is, and in which version.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Incarnation {
    /// `apiVersion`, as it was read.
    pub api_version: Arc<str>,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`, where the kind has one.
    pub generation: i64,
}

/// The incarnations of the objects that Events may be about.
#[derive(Clone, Debug, Default)]
pub struct Incarnations(Arc<Mutex<BTreeMap<ObjectRef, Incarnation>>>);

impl Incarnations {
    /// Notes an object.
    pub fn put(&self, object: ObjectRef, incarnation: Incarnation) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(object, incarnation);
    }

    /// Forgets an object.
    pub fn remove(&self, object: &ObjectRef) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }

    fn get(&self, object: &ObjectRef) -> Option<Incarnation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(object).cloned()
    }
}

/// Room for Events: so many at once, and one more after each time.
#[derive(Debug)]
struct Room {
    left: u32,
    since: Instant,
}

impl Room {
    fn new(now: Instant) -> Self {
        Self { left: AT_ONCE, since: now }
    }

    /// Whether there is room for one, which is taken by that.
    fn take(&mut self, now: Instant) -> bool {
        let grown = now.duration_since(self.since).as_nanos() / ONE_PER.as_nanos();
        let grown = u32::try_from(grown).unwrap_or(u32::MAX);
        self.since += ONE_PER.saturating_mul(grown);
        self.left = self.left.saturating_add(grown).min(AT_ONCE);
        self.left.checked_sub(1).map(|left| self.left = left).is_some()
    }
}

/// A finding that is told, or will be.
#[derive(Debug)]
struct Pending {
    note: String,
    due: Instant,
}

/// How telling one went.
enum Told {
    /// The server has it, or never will.
    Done,
    /// Come back later.
    Later,
}

/// What was complained about last, so that it is said once.
#[derive(Debug, Default)]
struct Complaint(Option<std::mem::Discriminant<Trouble>>);

impl Complaint {
    /// Whether it is another one than the last. The server's words differ with
    /// each object.
    fn is_new(&mut self, trouble: &Trouble) -> bool {
        let kind = std::mem::discriminant(trouble);
        self.0.replace(kind) != Some(kind)
    }
}

/// Tells findings, while its agent is the one that does.
pub struct Teller {
    client: Client,
    node: String,
    timing: Timing,
    incarnations: Incarnations,
    candidate: Candidate,
    complaint: Complaint,
    pending: BTreeMap<(ObjectRef, Reason), Pending>,
    room: Room,
}

impl Teller {
    /// Of the agent of a node.
    pub fn new(client: Client, node: String, timing: Timing, incarnations: Incarnations) -> Self {
        let candidate = Candidate::new(client.clone(), node.clone(), timing.lease);
        Self {
            client,
            node,
            timing,
            incarnations,
            candidate,
            complaint: Complaint::default(),
            pending: BTreeMap::new(),
            room: Room::new(Instant::now()),
        }
    }

    /// Tells what is found in what was judged last, until nobody judges any
    /// more.
    pub async fn run(mut self, mut judged: watch::Receiver<Option<Arc<Judged>>>) {
        if judged.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let mut next = Instant::now();
        let mut looked = false;
        loop {
            tokio::select! {
                changed = judged.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    looked = false;
                    // Changes come in flocks.
                    next = next.min(Instant::now() + FLOCK);
                    judged.mark_unchanged();
                    sleep_until(next).await;
                }
                () = sleep_until(next) => {}
            }
            next = match self.contend().await {
                None => {
                    looked = false;
                    self.pending.clear();
                    self.candidate.look_again()
                }
                Some(renew) => {
                    if !looked && let Some(judged) = judged.borrow_and_update().clone() {
                        looked = true;
                        self.found(findings(&judged), Instant::now());
                    }
                    self.tell().await.min(renew)
                }
            };
        }
    }

    /// When the Lease is to be renewed, if it is ours.
    async fn contend(&mut self) -> Option<Instant> {
        let held = self.candidate.holds();
        match self.candidate.contend().await {
            Ok(ours) => {
                if ours && !held {
                    info!("this agent writes the Events of all");
                }
                ours.then(|| Instant::now() + self.timing.lease / 4)
            }
            Err(error) => {
                self.complain(
                    &Trouble::of(&error),
                    "the agent's Role needs apiGroups: [\"coordination.k8s.io\"], resources: \
                     [\"leases\"], verbs: [\"create\", \"get\", \"update\"]",
                );
                self.candidate.holds().then(|| Instant::now() + self.timing.lease / 8)
            }
        }
    }

    fn found(&mut self, found: Findings, now: Instant) {
        self.pending.retain(|about, _| found.contains_key(about));
        for (about, note) in found {
            if self.pending.get(&about).is_some_and(|pending| pending.note == note) {
                continue;
            }
            // What only concerns the order in which objects came is over soon.
            let wait = match about.1 {
                Reason::Rejected | Reason::Ignored => Duration::ZERO,
                Reason::Shadowed | Reason::Unresolved => self.timing.settle,
            };
            self.pending.insert(about, Pending { note, due: now + wait });
        }
    }

    /// Tells what is due, as far as there is room. Returns when to come back.
    async fn tell(&mut self) -> Instant {
        let due: Vec<_> = (self.pending.iter())
            .filter(|(_, pending)| pending.due <= Instant::now())
            .map(|(about, pending)| (about.clone(), pending.note.clone()))
            .collect();
        for (about, note) in due {
            if !self.candidate.holds() {
                return Instant::now();
            }
            if !self.room.take(Instant::now()) {
                return Instant::now() + ONE_PER;
            }
            match self.tell_one(&about.0, about.1, note).await {
                Told::Done => {
                    if let Some(pending) = self.pending.get_mut(&about) {
                        pending.due = Instant::now() + jitter(AGAIN);
                    }
                }
                Told::Later => return Instant::now() + jitter(self.timing.retry_most),
            }
        }
        let next = self.pending.values().map(|pending| pending.due).min();
        next.unwrap_or_else(|| Instant::now() + AGAIN)
    }

    async fn tell_one(&mut self, object: &ObjectRef, reason: Reason, note: String) -> Told {
        // It is gone meanwhile, or of a kind that Events are not written about.
        let Some(incarnation) = self.incarnations.get(object) else { return Told::Done };
        let event = event(&self.node, object, &incarnation, reason, note);
        let events: Api<Event> = Api::namespaced(self.client.clone(), &object.namespace);
        let error = match events.create(&PostParams::default(), &event).await {
            Ok(_) => {
                debug!(%object, reason = reason.as_str(), "told");
                self.complaint = Complaint::default();
                return Told::Done;
            }
            Err(error) => error,
        };
        match Trouble::of(&error) {
            // The server has it already, or the namespace is gone or going.
            Trouble::Refused(409, _) | Trouble::NotServed => Told::Done,
            Trouble::Forbidden(why) if why.contains("being terminated") => Told::Done,
            trouble => {
                let never = matches!(trouble, Trouble::Refused(400..=428, _));
                self.complain(
                    &trouble,
                    "the agent's ClusterRole needs apiGroups: [\"events.k8s.io\"], resources: \
                     [\"events\"], verbs: [\"create\"]",
                );
                if never { Told::Done } else { Told::Later }
            }
        }
    }

    /// Says what is wrong, once.
    fn complain(&mut self, trouble: &Trouble, rule: &str) {
        if self.complaint.is_new(trouble) {
            let help = matches!(trouble, Trouble::Forbidden(_)).then_some(rule);
            warn!(help, "no Events are written for now, everything else goes on: {trouble}");
        }
    }
}

fn event(
    node: &str,
    object: &ObjectRef,
    incarnation: &Incarnation,
    reason: Reason,
    note: String,
) -> Event {
    let mut hasher = DefaultHasher::new();
    (object, incarnation, reason, &note).hash(&mut hasher);
    let suffix = format!(".{:016x}", hasher.finish());
    // Names are ASCII.
    let stem: String = object.name.chars().take(NAME - suffix.len()).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}{suffix}", stem.trim_end_matches(['.', '-']))),
            namespace: Some(object.namespace.to_string()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        type_: Some("Warning".to_owned()),
        action: Some("Apply".to_owned()),
        reason: Some(reason.as_str().to_owned()),
        note: Some(note),
        reporting_controller: Some("redirector.io/agent".to_owned()),
        reporting_instance: Some(node.chars().take(128).collect()),
        regarding: Some(ObjectReference {
            api_version: Some(incarnation.api_version.to_string()),
            kind: Some(object.kind.as_str().to_owned()),
            namespace: Some(object.namespace.to_string()),
            name: Some(object.name.to_string()),
            uid: Some(incarnation.uid.clone()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redirector_core::model::Kind;

    #[test]
    fn after_a_flock_there_is_room_for_one_at_a_time() {
        let start = Instant::now();
        let mut room = Room::new(start);
        assert_eq!((0..100).filter(|_| room.take(start)).count(), 20);
        assert!(!room.take(start + ONE_PER / 2));
        assert!(room.take(start + ONE_PER));
        assert!(!room.take(start + ONE_PER * 3 / 2));
        let later = start + ONE_PER * 10;
        assert_eq!((0..100).filter(|_| room.take(later)).count(), 9);
        let much_later = start + ONE_PER * 1000;
        assert_eq!((0..100).filter(|_| room.take(much_later)).count(), 20);
    }

    #[test]
    fn that_events_are_forbidden_is_said_once() {
        let mut complaint = Complaint::default();
        assert!(complaint.is_new(&Trouble::Forbidden("in the namespace a".to_owned())));
        assert!(!complaint.is_new(&Trouble::Forbidden("in the namespace b".to_owned())));
        assert!(complaint.is_new(&Trouble::Unauthorized));
    }

    #[test]
    fn an_event_has_one_name_for_one_finding_about_one_version() {
        let object = |name: &str| ObjectRef {
            kind: Kind::VirtualService,
            namespace: "n".into(),
            name: name.into(),
        };
        let of = |generation| Incarnation {
            api_version: "networking.istio.io/v1".into(),
            uid: "u".into(),
            generation,
        };
        let name = |node: &str, generation, note: &str| {
            let one = event(node, &object("a"), &of(generation), Reason::Rejected, note.into());
            one.metadata.name.unwrap()
        };
        assert_eq!(name("x", 1, "bad"), name("y", 1, "bad"), "whoever tells it");
        assert_ne!(name("x", 1, "bad"), name("x", 2, "bad"), "made anew and wrong again");
        assert_ne!(name("x", 1, "bad"), name("x", 1, "worse"));
        let long = "a.".repeat(126) + "b";
        let made = event("x", &object(&long), &of(1), Reason::Shadowed, String::new());
        assert!(made.metadata.name.is_some_and(|name| name.len() <= NAME));
    }
}
