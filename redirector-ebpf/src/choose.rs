//! The choice of an endpoint where the policy says more than "by weight".
//!
//! A global function: the verifier looks at it once, for any arguments, and not
//! once for each of the ways on which the programs come to it. It takes and
//! gives numbers only.

use redirector_common::abi::{Destination, Side};
use redirector_common::decide::{Caller, Chosen, DraftKind, Tables as _, choose};

use aya_ebpf::helpers::bpf_get_prandom_u32;

use crate::live;
use crate::maps::{CONTROL, Maps};

const ROUTE: u64 = 1 << 32;
const LIMITED: u64 = 2 << 32;

/// Chooses among the backends of a destination. `affinity` is that of the
/// source, `who` the one who is counted, where the policy asks for them; `cookie` that
/// of the socket. (A
/// parameter that is not used would be passed without a value, which the
/// verifier refuses.)
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn rd_choose(
    side: u32,
    number: u32,
    affinity: u32,
    who: u32,
    #[cfg(feature = "record")] cookie: u64,
) -> u64 {
    let Some(control) = CONTROL.get_ptr(0) else { return 0 };
    let maps = Maps { control };
    let side = Side::of_epoch(side.into());
    let Some(destination) = maps.destination(side, number) else { return 0 };
    let mut asked = Asked {
        affinity,
        who,
        #[cfg(feature = "record")]
        record: crate::record::of(cookie),
    };
    let chosen = choose(&maps, side, &destination, &mut asked);
    match chosen.kind {
        DraftKind::Route => ROUTE | u64::from(chosen.backend),
        DraftKind::Limited => LIMITED | u64::from(chosen.backend),
        _ => 0,
    }
}

/// What [`rd_choose`] means.
#[inline(always)]
pub fn unpack(word: u64) -> Chosen {
    let kind = match word & !u64::from(u32::MAX) {
        ROUTE => DraftKind::Route,
        LIMITED => DraftKind::Limited,
        _ => DraftKind::RefuseLeg,
    };
    Chosen { kind, backend: word as u32 }
}

/// Answers what a choice asks.
struct Asked {
    affinity: u32,
    who: u32,
    #[cfg(feature = "record")]
    record: Option<&'static mut redirector_common::abi::Record>,
}

/// Does something with the record, in the recording build.
macro_rules! record {
    ($asked:ident, |$record:ident| $note:expr) => {
        #[cfg(feature = "record")]
        if let Some($record) = &mut $asked.record {
            $note
        }
    };
}

impl Caller for Asked {
    /// The class was asked for before, if at all.
    #[inline(always)]
    fn class(&mut self, _: Side) -> u32 {
        0
    }

    #[inline(always)]
    fn draw(&mut self) -> u32 {
        // SAFETY: the helper has no preconditions.
        let draw = unsafe { bpf_get_prandom_u32() };
        record!(self, |record| crate::record::draw(record, draw));
        draw
    }

    #[inline(always)]
    fn affinity(&mut self) -> u32 {
        self.affinity
    }

    #[inline(always)]
    fn turn(&mut self, destination: u32) -> u32 {
        let turn = live::turn(destination);
        record!(self, |record| record.turn = turn);
        turn
    }

    #[inline(always)]
    fn active(&mut self, endpoint: u32) -> u64 {
        let active = live::active(endpoint);
        record!(self, |record| record.active = [active as u32, record.active[0]]);
        active
    }

    #[inline(always)]
    fn is_ejected(&mut self, destination: u32, endpoint: u32) -> bool {
        let ejected = live::is_ejected(destination, endpoint);
        record!(self, |record| crate::record::ask(record, ejected));
        ejected
    }

    #[inline(always)]
    fn admit(&mut self, destination: &Destination) -> bool {
        let admitted = live::admit(destination, self.who);
        record!(self, |record| record.limited = u32::from(!admitted));
        admitted
    }
}
