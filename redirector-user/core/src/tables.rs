//! An Image as the tables of a decision: user space decides with the very same
//! code, over the very same entries, as the kernel.

use redirector_common::abi::{
    Backend, ClassKey, Destination, FrontendKey, Leg, PrefixKey, Route, Side, Verdict,
};
use redirector_common::addr::Addr;
use redirector_common::decide::Tables;

use crate::image::{Image, Prefix};

/// An Image is one side; asked for either, it answers.
impl Tables for Image {
    fn frontend(&self, key: &FrontendKey) -> Option<Verdict> {
        self.frontends.get(&(key.addr, u16::from_be(key.port))).copied()
    }

    fn prefix(&self, key: &PrefixKey) -> Option<Verdict> {
        if self.prefixes.is_empty() {
            return None;
        }
        let (bits, port) = (key.addr.to_bits(), u16::from_be(key.port));
        (0..=128_u8).rev().find_map(|len| {
            let mask = if len == 0 { 0 } else { u128::MAX << (128 - len) };
            let addr = Addr::from_bits(bits & mask);
            self.prefixes.get(&Prefix { addr, len, port }).copied()
        })
    }

    fn class_verdict(&self, key: &ClassKey) -> Option<Verdict> {
        self.class_verdicts.get(&(key.table, key.class)).copied()
    }

    fn class_default(&self, _: Side, table: u32) -> Option<Verdict> {
        self.class_defaults.get(&table).copied()
    }

    fn route(&self, _: Side, index: u32) -> Option<Route> {
        self.routes.get(&index).copied()
    }

    fn leg(&self, _: Side, index: u32) -> Option<Leg> {
        self.legs.get(&index).copied()
    }

    fn destination(&self, _: Side, index: u32) -> Option<Destination> {
        self.destinations.get(&index).copied()
    }

    fn backend(&self, _: Side, index: u32) -> Option<Backend> {
        self.backends.get(&index).copied()
    }
}
