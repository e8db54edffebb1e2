//! What is said of the configuration in force: worked out in a thread of its own
//! whenever another one has come in force, for `status`, the metrics, the log and
//! Events. No change waits for it.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use redirector_core::diag::Diagnostic;
use redirector_core::in_force::InForce;
use redirector_core::layout::Emptied;
use redirector_core::plan::{DestinationId, Plan};

use super::control_loop::Daemon;
use crate::output::{destination_name, route_name};
use crate::scheduling::give_way;
use crate::state::{EmptiedShare, Finding};

/// So many findings are shown one by one; of the others, how many there are. They are
/// written down whenever anything changes that `status` tells.
const SHOWN: usize = 100;

/// So many new ones are logged at once.
const LOGGED: usize = 20;

/// After looking, the thread rests for so many times as long as it took: it takes no
/// more than a tenth of one processor.
const REST: u32 = 9;

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// Of what.
    in_force: InForce,
    /// The warnings.
    findings: Vec<Diagnostic>,
}

/// The thread that looks.
#[derive(Debug)]
pub struct Looker {
    /// What is to be looked at next: the latest only.
    next: Arc<Mutex<Option<InForce>>>,
    wake: Sender<()>,
    /// What it was given last.
    given: Option<InForce>,
}

impl Looker {
    /// Starts it; `send` gets what was found, and returns `false` to end it.
    pub fn start(mut send: impl FnMut(Found) -> bool + Send + 'static) -> io::Result<Self> {
        let (wake, woken) = mpsc::channel();
        let next: Arc<Mutex<Option<InForce>>> = Arc::default();
        let slot = next.clone();
        thread::Builder::new().name("findings".into()).spawn(move || {
            give_way();
            for () in woken {
                let next = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(in_force) = next else { continue };
                let begun = Instant::now();
                let findings = in_force.findings();
                if !send(Found { in_force, findings }) {
                    return;
                }
                thread::sleep(begun.elapsed() * REST);
            }
        })?;
        Ok(Self { next, wake, given: None })
    }

    /// Has it look at what is in force now, unless it has.
    fn look(&mut self, in_force: InForce) {
        if self.given.as_ref().is_some_and(|given| given.says_the_same(&in_force)) {
            return;
        }
        self.given = Some(in_force.clone());
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(in_force);
        // The thread lives as long as the control loop.
        let _ = self.wake.send(());
    }
}

impl Daemon {
    /// Has what is in force looked at.
    pub(super) fn look_for_findings(&mut self) {
        let engine = &self.engine;
        let (settings, resolved) = (engine.settings.clone(), engine.resolved.clone());
        let objects = engine.objects.clone();
        self.looker.look(InForce::new(&engine.store, objects, settings, resolved));
    }

    /// Takes what was found.
    pub(super) fn found(&mut self, found: Found) {
        let Found { in_force, findings } = found;
        self.report.warnings = findings.len();
        let shown: Vec<Finding> = findings.iter().take(SHOWN).map(Finding::from).collect();
        let key = |one: &Finding| (one.object.clone(), one.path.clone(), one.message.clone());
        let known: BTreeSet<_> = self.report.findings.iter().map(key).collect();
        let new: Vec<_> = shown.iter().filter(|one| !known.contains(&key(one))).collect();
        for one in new.iter().take(LOGGED) {
            tracing::warn!(
                file = one.file.as_deref(),
                line = one.line,
                object = one.object.as_deref(),
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
        self.report.findings = shown;
        self.source.judge(&in_force, findings, &self.report);
    }

    /// Notes which shares have lost their last endpoint by a Plan that is in force
    /// from this generation on. To be called while the engine still has the one before.
    pub(super) fn note_emptied(&mut self, plan: &Plan, generation: u64) {
        let emptied = self.engine.layout.emptied(&self.emptied, plan, generation);
        let shares: Vec<EmptiedShare> = match emptied.is_empty() {
            true => Vec::new(),
            false => emptied_shares(plan, &emptied),
        };
        for one in shares.iter().filter(|one| !self.report.emptied.contains(one)) {
            tracing::error!("{one}");
        }
        self.report.emptied = shares;
        self.emptied = emptied;
    }
}

/// The shares of routes that lead to destinations which have lost their endpoints.
fn emptied_shares(plan: &Plan, emptied: &Emptied) -> Vec<EmptiedShare> {
    let mut shares = Vec::new();
    for (route, legs) in &plan.routes {
        let sum: u64 = legs.iter().map(|leg| leg.weight).sum();
        let drawn = route.destinations.iter().zip(legs).filter(|(_, leg)| leg.weight > 0);
        for (id, leg) in drawn {
            let Some(since) = emptied.get(id) else { continue };
            let because = plan.destinations.get(id).and_then(|one| one.empty_because.clone());
            shares.push(EmptiedShare {
                route: route_name(route),
                object: route.rule.as_ref().map(|rule| rule.object.to_string()),
                share: leg.weight as f64 / sum as f64,
                destination: destination_name(id),
                because,
                since_generation: *since,
                id: id.clone(),
            });
        }
    }
    shares
}

/// What had been emptied when an earlier daemon reported last.
pub(super) fn emptied_before(shares: &[EmptiedShare]) -> Emptied {
    let since =
        |one: &EmptiedShare| -> (DestinationId, u64) { (one.id.clone(), one.since_generation) };
    shares.iter().map(since).collect()
}
