//! What is said of the configuration in force: worked out in a thread of its own
//! when another one has come in force, for `status`, the metrics, the log and
//! Events. No change waits for it.
//!
//! Looking takes time that grows with the configuration, and endpoints move all the
//! time: after each look the thread rests, the longer the longer that took, and
//! shorter when what people write has changed, or when connections are refused that
//! were not. Only then it is given what is in force by then, so that a change costs
//! nothing but a note that there was one.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use redirector_core::analysis::refusals::{Share, shares};
use redirector_core::diag::Diagnostic;
use redirector_core::in_force::InForce;
use redirector_core::layout::Emptied;
use redirector_core::plan::{DestinationId, Plan};
use redirector_core::world::World;

use super::control_loop::Daemon;
use super::engine::PreparedChange;
use crate::daemon::now;
use crate::output::{destination_name, route_name};
use crate::scheduling::{give_way, worked};
use crate::state::{EmptiedShare, Finding, Unexamined};

/// So many findings are shown one by one; of the others, how many there are. They are
/// written down whenever anything changes that `status` tells.
const SHOWN: usize = 100;

/// So many new ones are logged at once.
const LOGGED: usize = 20;

/// After looking, the thread rests for so many times as long as it worked: it takes less
/// than a hundredth of one processor.
const REST: u32 = 199;

/// When what people write has changed: no more than a tenth.
const SHORT_REST: u32 = 9;

/// What the thread that looks says.
#[derive(Debug)]
pub enum Looked {
    /// What it found, of what, and the key of each.
    Found(Arc<InForce>, Vec<Diagnostic>, Vec<u64>),
    /// It has rested.
    Rested,
}

/// What it is told.
#[derive(Debug)]
enum Wake {
    /// Look at this.
    Look(Arc<InForce>),
    /// A short rest is enough.
    Hurry,
}

/// The thread that looks.
#[derive(Debug)]
pub struct Looker {
    wake: Sender<Wake>,
    /// It has nothing to do, and has rested.
    idle: bool,
    /// Something is another since it was given anything; whether it is to hurry.
    wanted: Option<bool>,
    /// Of what people write: what it was not given yet, and what it was given and has not told
    /// of.
    waiting: Option<Unexamined>,
    under_way: Option<Unexamined>,
    /// What it was given last.
    given: Option<Arc<InForce>>,
    /// What it found last, and of what.
    found: Option<(Arc<InForce>, Vec<Diagnostic>)>,
    /// What is known of it already, by its key.
    known: HashSet<u64>,
}

/// What tells one finding from others, and is the same as long as the daemon lives.
fn key(object: Option<&str>, path: &str, message: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    (object, path, message).hash(&mut hash);
    hash.finish()
}

fn key_of(one: &Diagnostic) -> u64 {
    key(one.object_name().as_deref(), &one.path, &one.message)
}

impl Looker {
    /// Starts it; `send` gets what it says, and returns `false` to end it.
    pub fn start(mut send: impl FnMut(Looked) -> bool + Send + 'static) -> io::Result<Self> {
        let (wake, woken) = mpsc::channel();
        thread::Builder::new().name("findings".into()).spawn(move || {
            give_way();
            while let Ok(wake) = woken.recv() {
                let Wake::Look(in_force) = wake else { continue };
                let before = worked();
                let findings = in_force.findings();
                // There may be as many as there are rules, and the control loop has no time.
                let keys = findings.iter().map(key_of).collect();
                if !send(Looked::Found(in_force, findings, keys)) {
                    return;
                }
                rest(&woken, worked().saturating_sub(before));
                if !send(Looked::Rested) {
                    return;
                }
            }
        })?;
        Ok(Self {
            wake,
            idle: true,
            wanted: None,
            waiting: None,
            under_way: None,
            given: None,
            found: None,
            known: HashSet::new(),
        })
    }

    /// What is in force, or what was refused, may be another; `soon` when it is what
    /// people write that is, or what they have to know of.
    pub fn want(&mut self, soon: bool) {
        self.wanted = Some(soon || self.wanted == Some(true));
    }

    /// The same, where people wrote this generation.
    pub fn want_written(&mut self, generation: u64) {
        self.waiting.get_or_insert_with(|| Unexamined { generation, since: now() });
        self.want(true);
    }

    /// What people wrote that it has not told of.
    pub fn unexamined(&self) -> Option<Unexamined> {
        self.under_way.or(self.waiting)
    }

    /// Gives it what is in force, when that is wanted and it has rested.
    fn look(&mut self, in_force: impl FnOnce() -> InForce) {
        let Some(soon) = self.wanted else { return };
        if !self.idle {
            if soon {
                self.wanted = Some(false);
                let _ = self.wake.send(Wake::Hurry);
            }
            return;
        }
        (self.wanted, self.under_way) = (None, self.waiting.take());
        let in_force = Arc::new(in_force());
        if self.given.as_ref().is_some_and(|given| given.says_the_same(&in_force)) {
            self.under_way = None;
            return;
        }
        self.given = Some(in_force.clone());
        self.idle = false;
        // The thread lives as long as the control loop.
        let _ = self.wake.send(Wake::Look(in_force));
    }
}

/// Rests after something that took so long.
fn rest(woken: &Receiver<Wake>, took: Duration) {
    let begun = Instant::now();
    let mut rest = took * REST;
    // It is given nothing to look at before it has said that it has rested.
    while woken.recv_timeout(rest.saturating_sub(begun.elapsed())).is_ok() {
        rest = took * SHORT_REST;
    }
}

impl Daemon {
    /// Has what is in force looked at, when that is wanted and the thread has rested.
    pub(super) fn look_for_findings(&mut self) {
        let engine = &self.engine;
        // What was compiled last is something else until that is put in force.
        if engine.is_ahead() {
            return;
        }
        self.looker.look(|| {
            let world = engine.world().cloned();
            let world = world.unwrap_or_else(|| World::new(engine.settings.clone()));
            InForce { rejected: engine.rejected(), ..InForce::new(&engine.store, world) }
        });
    }

    /// Takes what the thread says.
    pub(super) fn looked(&mut self, looked: Looked) {
        match looked {
            Looked::Found(in_force, findings, keys) => {
                self.looker.under_way = None;
                self.found(&in_force, findings, keys);
                self.spare.note();
            }
            Looked::Rested => self.looker.idle = true,
        }
    }

    fn found(&mut self, in_force: &Arc<InForce>, mut findings: Vec<Diagnostic>, keys: Vec<u64>) {
        // That a share has lost its endpoints is said of it already.
        let emptied = &self.report.emptied;
        let mut all = keys.into_iter();
        let mut keys = Vec::with_capacity(findings.len());
        findings.retain(|one| {
            let stays = !emptied.iter().any(|share| share.is_told_by(one));
            keys.extend(all.next().filter(|_| stays));
            stays
        });
        self.report.warnings = findings.len();
        let shown: Vec<Finding> = findings.iter().take(SHOWN).map(Finding::from).collect();
        let mut before = std::mem::take(&mut self.looker.known);
        let shown_before = self.report.findings.iter();
        before.extend(shown_before.map(|one| key(one.object.as_deref(), &one.path, &one.message)));
        let of_keys = findings.iter().zip(&keys);
        let new = of_keys.filter(|(_, key)| !before.contains(key)).map(|(one, _)| one);
        let new: Vec<&Diagnostic> = new.collect();
        for one in new.iter().take(LOGGED) {
            tracing::warn!(
                file = one.file.as_deref(),
                line = one.line,
                object = one.object_name(),
                path = one.path,
                "{} ({})",
                one.message,
                one.code
            );
        }
        if new.len() > LOGGED {
            let more = new.len() - LOGGED;
            tracing::warn!("{more} more warnings about what is in force: redirector status");
        }
        self.looker.known = keys.into_iter().collect();
        self.report.findings = shown;
        self.looker.found = Some((in_force.clone(), findings));
        self.judge_again();
    }

    /// Tells those who write what is in force what was found of it, and what has become
    /// known since.
    pub(super) fn judge_again(&self) {
        if let Some((in_force, findings)) = &self.looker.found {
            self.source.judge(in_force, findings, &self.report);
        }
    }

    /// Notes which shares have lost their last endpoint by a step that is in force
    /// from this generation on. To be called before the engine adopts it.
    ///
    /// The routes of the whole Plan are looked through only when a destination loses its
    /// last endpoint or has one again, or a route to such a one changes.
    pub(super) fn note_emptied(&mut self, step: &PreparedChange, generation: u64) {
        let emptied = self.engine.emptied(&self.emptied, step, generation);
        let plan = self.engine.plan();
        let routes = step.changes.routes.keys().flat_map(|route| &route.destinations);
        let mut concerned = routes.chain(step.changes.destinations.keys());
        if emptied.is_empty()
            && !step.is_first
            && !concerned.any(|id| self.emptied.contains_key(id))
        {
            return;
        }
        for (id, since) in emptied {
            match since {
                Some(since) => self.emptied.insert(id, since),
                None => self.emptied.remove(&id),
            };
        }
        // An earlier daemon may have known others.
        self.emptied.retain(|id, _| !step.is_first || plan.destinations.contains_key(id));
        let shares: Vec<EmptiedShare> = match self.emptied.is_empty() {
            true => Vec::new(),
            false => emptied_shares(plan, &self.emptied),
        };
        for one in shares.iter().filter(|one| !self.report.emptied.contains(one)) {
            tracing::error!("{one}");
        }
        if self.report.emptied != shares {
            // Events tell it, and whoever is called by one does not wait for a long rest.
            self.looker.want(true);
        }
        self.report.emptied = shares;
    }
}

/// The shares of routes that lead to destinations which have lost their endpoints.
fn emptied_shares(plan: &Plan, emptied: &Emptied) -> Vec<EmptiedShare> {
    let mut found = Vec::new();
    for (route, legs) in &plan.routes {
        let sum: u64 = legs.iter().map(|leg| leg.weight).sum();
        for Share { place, id, destination, weight } in shares(plan, route, legs) {
            let Some(since) = emptied.get(id).filter(|_| weight > 0) else { continue };
            let rule = route.rule.as_ref();
            found.push(EmptiedShare {
                route: route_name(route),
                object: rule.map(|rule| rule.object.to_string()),
                path: rule.map(|rule| rule.destination_path(place)).unwrap_or_default(),
                share: weight as f64 / sum as f64,
                destination: destination_name(id),
                because: destination.empty_because.clone(),
                since_generation: *since,
                id: id.clone(),
            });
        }
    }
    found
}

/// What had been emptied when an earlier daemon reported last.
pub(super) fn emptied_before(shares: &[EmptiedShare]) -> Emptied {
    let since =
        |one: &EmptiedShare| -> (DestinationId, u64) { (one.id.clone(), one.since_generation) };
    shares.iter().map(since).collect()
}

#[cfg(test)]
mod tests {
    use redirector_core::store::Store;
    use redirector_core::world::Settings;

    use super::*;

    #[test]
    fn what_is_in_force_is_asked_for_when_the_thread_has_rested_and_looked_at_once() {
        let in_force = |node: &str| {
            let settings = Settings { node_name: Some(node.into()), ..Settings::default() };
            InForce::new(&Store::default(), World::new(settings))
        };
        let (said, heard) = mpsc::channel();
        let mut looker = Looker::start(move |what| said.send(what).is_ok()).unwrap();
        looker.look(|| unreachable!("nothing is wanted"));
        looker.want(false);
        looker.look(|| in_force("a"));
        let Ok(Looked::Found(of, findings, _)) = heard.recv() else { panic!("it looks first") };
        assert_eq!((of.world.settings.node_name.as_deref(), findings.len()), (Some("a"), 0));
        assert_eq!(looker.unexamined(), None, "nobody wrote it");
        looker.want_written(7);
        looker.want_written(8);
        looker.look(|| unreachable!("it rests"));
        let unexamined = |looker: &Looker| looker.unexamined().map(|one| one.generation);
        assert_eq!(unexamined(&looker), Some(7));
        assert!(matches!(heard.recv(), Ok(Looked::Rested)));
        looker.idle = true;
        looker.look(|| in_force("a"));
        assert!(looker.idle, "the same is not looked at again");
        assert_eq!(unexamined(&looker), None);
        looker.want_written(9);
        looker.look(|| in_force("b"));
        assert_eq!(unexamined(&looker), Some(9), "it is looked at");
        let Ok(Looked::Found(of, ..)) = heard.recv() else { panic!("it looks again") };
        assert_eq!(of.world.settings.node_name.as_deref(), Some("b"));
    }
}
