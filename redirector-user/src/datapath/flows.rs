//! Reading what the programs tell of single connections.

use std::ffi::OsStr;
use std::mem::offset_of;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use redirector_common::abi::{Control, FLOWS, FLOWS_FOREVER, Flow, FlowHead};
use rustix::time::{ClockId, clock_gettime};

use super::layout::Part;
use super::mapped::{Access, Mapped};
use super::maps::Maps;
use super::{Datapath, Error, maps, names, opened};

/// Reads records in their order. Any number of readers do so at a time, also
/// without a daemon.
#[derive(Debug)]
pub struct Flows {
    head: Mapped<FlowHead>,
    ring: Mapped<Flow>,
    /// The number of the next record to be read.
    next: u64,
    lost: u64,
}

impl Flows {
    /// The records since the last call, in order. One that is being written
    /// just now is left to the next call, with all after it.
    pub fn read(&mut self) -> Vec<Flow> {
        let mut flows = Vec::new();
        loop {
            let begun = self.begun();
            if self.next > begun {
                return flows;
            }
            // Those that were overwritten meanwhile, and those that may be while
            // they are read, are gone.
            let oldest = (begun + 1).saturating_sub(u64::from(FLOWS));
            if self.next < oldest {
                self.lost += oldest - self.next;
                self.next = oldest;
            }
            let Some(flow) = self.get(self.next) else {
                if self.begun() >= self.next + u64::from(FLOWS) {
                    continue;
                }
                return flows;
            };
            flows.push(flow);
            self.next += 1;
        }
    }

    /// Goes back by as many records as there are, but for `most`.
    pub fn rewind(&mut self, most: u64) {
        let begun = self.begun();
        self.next = (begun + 1).saturating_sub(most.min(u64::from(FLOWS))).max(1);
    }

    /// How many records were overwritten before they could be read.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn begun(&self) -> u64 {
        self.head.word(0, offset_of!(FlowHead, begun)).load(SeqCst)
    }

    /// A record, if it is whole and still there.
    fn get(&self, number: u64) -> Option<Flow> {
        let index = (number.wrapping_sub(1) % u64::from(FLOWS)) as usize;
        let written = self.ring.word(index, offset_of!(Flow, number));
        if written.load(SeqCst) != number {
            return None;
        }
        let flow = self.ring.get(index)?;
        (written.load(SeqCst) == number).then_some(flow)
    }
}

/// Has connections told in new tables for as long as in those before, of whatever
/// sizes: whoever follows renews the lease of the ones in force only now and then.
pub fn take_lease(maps: &Maps, before: &Path) {
    let is_ours = |name: &OsStr| name.to_string_lossy().starts_with(&Part::Tables.of_version());
    if !before.file_name().is_some_and(is_ours) {
        return;
    }
    // Where the tables before cannot be read any more, nobody follows.
    let control = opened::open(&before.join(names::CONTROL), Access::Read)
        .and_then(|map| Mapped::<Control>::new(names::CONTROL, &map, 1, Access::Read));
    if let Ok(control) = control {
        let until = control.word(0, offset_of!(Control, flows_until)).load(SeqCst);
        maps.control.word(0, offset_of!(Control, flows_until)).fetch_max(until, SeqCst);
    }
}

impl Datapath {
    /// A reader of what is told from now on.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn flows(&self) -> Result<Flows, Error> {
        let head = maps::mapped(&self.places, &self.layout, names::FLOW_HEAD, Access::Read)?;
        let ring = maps::mapped(&self.places, &self.layout, names::FLOWS, Access::Read)?;
        let mut flows = Flows { head, ring, next: 0, lost: 0 };
        flows.next = flows.begun() + 1;
        Ok(flows)
    }

    /// Has connections told for at least so long from now on. Any process with
    /// the privilege may, also without a daemon.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn follow_flows(&self, time: Duration) -> Result<(), Error> {
        let control: Mapped<Control> =
            maps::mapped(&self.places, &self.layout, names::CONTROL, Access::Write)?;
        let until = now().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        control.word(0, offset_of!(Control, flows_until)).fetch_max(until, SeqCst);
        Ok(())
    }

    /// Has connections told always, or only while somebody follows.
    ///
    /// # Errors
    ///
    /// When this is open for reading only.
    pub fn set_flows(&self, always: bool) -> Result<(), Error> {
        self.writing()?;
        let until = self.maps.control.word(0, offset_of!(Control, flows_until));
        if always {
            until.store(FLOWS_FOREVER, SeqCst);
        } else {
            // The lease of somebody who follows stays.
            let _ = until.compare_exchange(FLOWS_FOREVER, 0, SeqCst, SeqCst);
        }
        Ok(())
    }

    /// Whether connections are told now.
    pub fn tells_flows(&self) -> bool {
        self.maps.control.word(0, offset_of!(Control, flows_until)).load(SeqCst) > now()
    }
}

/// The clock of the programs, in nanoseconds.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
