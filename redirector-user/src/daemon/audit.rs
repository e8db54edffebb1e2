//! What is kept from step to step against everything made anew: in a thread of its own, now
//! and then. What differs is counted, said and mended.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use redirector_common::abi::Limits;
use redirector_core::compile::compile;
use redirector_core::image::{self, Image};
use redirector_core::layout::Layout;
use redirector_core::plan::{self, Plan};
use redirector_core::world::World;

use super::control_loop::Daemon;
use crate::scheduling::give_way;

/// Time between two audits.
const EVERY: Duration = Duration::from_secs(600);

/// After an audit the thread rests for so many times as long as it took: it takes no more
/// than a hundredth of one processor.
const REST: u32 = 99;

/// So many entries are compared at once: changes do not wait for more.
const PIECE: usize = 1000;

/// What is in force, to be made anew.
#[derive(Debug)]
pub struct Given {
    /// What it is made of.
    pub world: World,
    /// The numbers of everything.
    pub layout: Layout,
    /// How large the tables are.
    pub limits: Limits,
    /// The workloads and classes of it: the numbers of classes.
    pub numbers: Plan,
}

/// The same, made anew.
#[derive(Debug)]
pub struct Anew {
    /// What is to be in force, by name.
    pub plan: Plan,
    /// What the tables are to hold, by the numbers that were kept; nothing where they do not
    /// lead to tables that everything fits into.
    pub image: Option<Image>,
    /// How far that was compared with what is kept.
    pub compared: Compared,
}

/// How far a comparison has come.
#[derive(Debug, Default)]
pub struct Compared {
    /// Of the Plans.
    pub plan: plan::Comparison,
    /// Of the Images.
    pub image: image::Comparison,
}

impl Given {
    /// Makes it anew. Takes time that grows with the configuration.
    pub fn anew(self) -> Anew {
        let mut plan = compile(&self.world).plan;
        let placed = self.layout.place(&plan, &self.limits);
        let image = placed.ok().map(|(_, image)| image);
        // As it was then: workloads may be in other classes since.
        plan.renumber_as(&self.numbers);
        Anew { plan, image, compared: Compared::default() }
    }
}

/// The thread that audits.
#[derive(Debug)]
pub struct Auditor {
    wake: Sender<Given>,
    /// It is at it.
    busy: bool,
    /// When it is to begin.
    next: Instant,
    /// What it made, until that is compared.
    made: Option<Box<Anew>>,
}

impl Auditor {
    /// Starts it; `send` gets what it made, and returns `false` to end it.
    pub fn start(mut send: impl FnMut(Anew) -> bool + Send + 'static) -> io::Result<Self> {
        let (wake, woken) = mpsc::channel::<Given>();
        thread::Builder::new().name("audit".into()).spawn(move || {
            give_way();
            for given in woken {
                let begun = Instant::now();
                if !send(given.anew()) {
                    return;
                }
                thread::sleep(begun.elapsed() * REST);
            }
        })?;
        Ok(Self { wake, busy: false, next: Instant::now() + EVERY, made: None })
    }
}

impl Auditor {
    /// Takes what was made anew: it is to be compared.
    pub(super) fn made(&mut self, anew: Box<Anew>) {
        self.made = Some(anew);
    }

    /// Whether there is something to be compared.
    pub(super) fn has_made(&self) -> bool {
        self.made.is_some()
    }
}

impl Daemon {
    /// Has what is kept audited when it is time to, and compares it with what was made anew,
    /// a piece each time.
    pub(super) fn audit(&mut self) {
        if let Some(mut anew) = self.auditor.made.take() {
            match self.engine.audit(&mut anew, PIECE) {
                Some(parts) => self.audited(&parts),
                None => self.auditor.made = Some(anew),
            }
        }
        if self.auditor.busy || self.auditor.next > Instant::now() {
            return;
        }
        let Some(given) = self.engine.begin_audit() else { return };
        self.auditor.busy = true;
        // The thread lives as long as the control loop.
        let _ = self.auditor.wake.send(given);
    }

    /// These parts of what is kept differed from what was made anew.
    fn audited(&mut self, parts: &[&str]) {
        self.auditor.busy = false;
        self.auditor.next = Instant::now() + EVERY;
        if parts.is_empty() {
            return;
        }
        let parts = parts.join(", ");
        tracing::error!(
            parts,
            "what was compiled step by step differed from all of it compiled anew: mending"
        );
        if !self.reapply() {
            // The next change that comes in force mends it.
            self.changed = true;
        }
    }
}
