//! What is kept from step to step against everything made anew: in a thread of its own, now
//! and then. What differs is counted, said and mended.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use redirector_common::abi::Limits;
use redirector_core::compile::compile;
use redirector_core::image::Image;
use redirector_core::layout::Layout;
use redirector_core::plan::Plan;
use redirector_core::world::World;

use super::control_loop::Daemon;
use crate::scheduling::give_way;

/// Time between two audits.
const EVERY: Duration = Duration::from_secs(600);

/// After an audit the thread rests for so many times as long as it took: it takes no more
/// than a hundredth of one processor.
const REST: u32 = 99;

/// What is in force, to be made anew.
#[derive(Debug)]
pub struct Given {
    /// What it is made of.
    pub world: World,
    /// The numbers of everything.
    pub layout: Layout,
    /// How large the tables are.
    pub limits: Limits,
}

/// The same, made anew.
#[derive(Debug)]
pub struct Anew {
    /// What is to be in force, by name.
    pub plan: Plan,
    /// What the tables are to hold, by the numbers that were kept; nothing where they do not
    /// lead to tables that everything fits into.
    pub image: Option<Image>,
}

impl Given {
    /// Makes it anew. Takes time that grows with the configuration.
    pub fn anew(self) -> Anew {
        let plan = compile(&self.world).plan;
        let placed = self.layout.place(&plan, &self.limits);
        Anew { plan, image: placed.ok().map(|(_, image)| image) }
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
        Ok(Self { wake, busy: false, next: Instant::now() + EVERY })
    }
}

impl Daemon {
    /// Has what is kept audited when it is time to.
    pub(super) fn audit(&mut self) {
        if self.auditor.busy || self.auditor.next > Instant::now() {
            return;
        }
        let Some(given) = self.engine.begin_audit() else { return };
        self.auditor.busy = true;
        // The thread lives as long as the control loop.
        let _ = self.auditor.wake.send(given);
    }

    /// Compares what is kept with what was made anew.
    pub(super) fn audited(&mut self, anew: Anew) {
        self.auditor.busy = false;
        self.auditor.next = Instant::now() + EVERY;
        let parts = self.engine.audit(anew);
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
