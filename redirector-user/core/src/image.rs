//! The Image: one side of the kernel's tables, entry by entry; and the Delta
//! between two Images.
//!
//! Both are plain data. The shell applies a [`Delta`] to the idle side, flips
//! the epoch, and applies it to the other; a dump of a side is an [`Image`]
//! again, so that the kernel's state and the desired state are compared with
//! the very same [`Image::diff`].

use std::collections::BTreeMap;

use redirector_common::abi::{
    Backend, ClassKey, Destination, FrontendKey, Leg, PrefixKey, Route, Side, Verdict, policy,
};
use redirector_common::addr::Addr;
use redirector_common::decide::Tables;

use crate::join;

/// A prefix of the prefix table and its port: ordered by network address, then
/// length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    /// The network address, host bits zero.
    pub addr: Addr,
    /// Length within an [`Addr`]: 96 more than the length of an IPv4 prefix.
    pub len: u8,
    /// The port, in host byte order.
    pub port: u16,
}

/// All entries of one side. Ports are in host byte order in keys, and as the
/// [`redirector_common::abi`] says in values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Image {
    /// `FRONTENDS`: exact address and port.
    pub frontends: BTreeMap<(Addr, u16), Verdict>,
    /// `PREFIXES`.
    pub prefixes: BTreeMap<Prefix, Verdict>,
    /// `CLASS_VERDICTS`: class table and class.
    pub class_verdicts: BTreeMap<(u32, u32), Verdict>,
    /// `CLASS_DEFAULTS`: by class table.
    pub class_defaults: BTreeMap<u32, Verdict>,
    /// `CLASS_OF`: class by identity number; absent is class 0.
    pub class_of: BTreeMap<u32, u32>,
    /// `ROUTES`.
    pub routes: BTreeMap<u32, Route>,
    /// `LEGS`.
    pub legs: BTreeMap<u32, Leg>,
    /// `DESTINATIONS`.
    pub destinations: BTreeMap<u32, Destination>,
    /// `BACKENDS`.
    pub backends: BTreeMap<u32, Backend>,
}

/// One entry that changes. `None` is "absent"; in an array, absent is zeroed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryChange<K, V> {
    /// Which entry.
    pub key: K,
    /// What it was.
    pub old: Option<V>,
    /// What it becomes.
    pub new: Option<V>,
}

/// What has to change on a side to turn one Image into another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the tables of Image, by the same names")]
pub struct Delta {
    pub frontends: Vec<EntryChange<(Addr, u16), Verdict>>,
    pub prefixes: Vec<EntryChange<Prefix, Verdict>>,
    pub class_verdicts: Vec<EntryChange<(u32, u32), Verdict>>,
    pub class_defaults: Vec<EntryChange<u32, Verdict>>,
    pub class_of: Vec<EntryChange<u32, u32>>,
    pub routes: Vec<EntryChange<u32, Route>>,
    pub legs: Vec<EntryChange<u32, Leg>>,
    pub destinations: Vec<EntryChange<u32, Destination>>,
    pub backends: Vec<EntryChange<u32, Backend>>,
}

/// Calls a macro-like closure over every table of two structs; keeps the list
/// of tables in one place.
macro_rules! each_table {
    ($do:ident) => {
        $do!(frontends);
        $do!(prefixes);
        $do!(class_verdicts);
        $do!(class_defaults);
        $do!(class_of);
        $do!(routes);
        $do!(legs);
        $do!(destinations);
        $do!(backends);
    };
}

/// A comparison of the Image that is kept with one that was made anew, in pieces.
#[derive(Debug, Default)]
pub struct Comparison {
    frontends: Option<(Addr, u16)>,
    prefixes: Option<Prefix>,
    class_verdicts: Option<(u32, u32)>,
    class_defaults: Option<u32>,
    class_of: Option<u32>,
    routes: Option<u32>,
    legs: Option<u32>,
    destinations: Option<u32>,
    backends: Option<u32>,
    /// Whether any entry was found to differ.
    pub differs: bool,
}

impl Comparison {
    /// Compares the next piece, of no more than `most` entries, which becomes less by them;
    /// `made` is used up by that. Returns whether it was the last one.
    pub fn go_on(&mut self, kept: &Image, made: &mut Image, most: &mut usize) -> bool {
        macro_rules! table {
            ($name:ident) => {
                let (after, differs) = (&mut self.$name, &mut self.differs);
                let found = |_, _| *differs = true;
                if !join::compare(&kept.$name, &mut made.$name, after, most, found) {
                    return false;
                }
            };
        }
        each_table!(table);
        true
    }
}

/// Entries as they are to be; of two with the same key the later one counts. In arrays,
/// entries that are all zeroes are absent: in the kernel's tables they are the same, and
/// a dump leaves them out.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the tables of Image, by the same names")]
pub struct Edits {
    pub frontends: Vec<((Addr, u16), Option<Verdict>)>,
    pub prefixes: Vec<(Prefix, Option<Verdict>)>,
    pub class_verdicts: Vec<((u32, u32), Option<Verdict>)>,
    pub class_defaults: Vec<(u32, Option<Verdict>)>,
    pub class_of: Vec<(u32, Option<u32>)>,
    pub routes: Vec<(u32, Option<Route>)>,
    pub legs: Vec<(u32, Option<Leg>)>,
    pub destinations: Vec<(u32, Option<Destination>)>,
    pub backends: Vec<(u32, Option<Backend>)>,
}

impl Edits {
    /// What they change about an Image.
    pub fn of(mut self, image: &Image) -> Delta {
        let mut delta = Delta::default();
        without_zeroes(&mut self.class_defaults);
        without_zeroes(&mut self.class_of);
        without_zeroes(&mut self.routes);
        without_zeroes(&mut self.legs);
        without_zeroes(&mut self.destinations);
        without_zeroes(&mut self.backends);
        macro_rules! table {
            ($name:ident) => {
                delta.$name = differing(self.$name, &image.$name);
            };
        }
        each_table!(table);
        delta
    }
}

fn without_zeroes<V: Default + PartialEq>(array: &mut [(u32, Option<V>)]) {
    let zero = V::default();
    for (_, value) in array {
        *value = value.take().filter(|value| *value != zero);
    }
}

/// What is another than it is in a table, in the order of keys.
fn differing<K: Ord + Copy, V: PartialEq + Copy>(
    mut edits: Vec<(K, Option<V>)>,
    table: &BTreeMap<K, V>,
) -> Vec<EntryChange<K, V>> {
    edits.sort_by_key(|(key, _)| *key);
    let last = edits.chunk_by(|(a, _), (b, _)| a == b).filter_map(<[_]>::last);
    last.map(|(key, new)| EntryChange { key: *key, old: table.get(key).copied(), new: *new })
        .filter(|change| change.old != change.new)
        .collect()
}

impl Image {
    /// What has to change to turn `self` into `target`.
    pub fn diff(&self, target: &Self) -> Delta {
        let mut delta = Delta::default();
        macro_rules! table {
            ($name:ident) => {
                delta.$name = changes(&self.$name, &target.$name);
            };
        }
        each_table!(table);
        delta
    }

    /// Whether connections have to be followed until they end for this: failed
    /// connects are seen no other way.
    pub fn follows_connections(&self) -> bool {
        self.destinations.values().any(|one| one.policy & policy::EJECTING != 0)
    }

    /// Applies a Delta. What an entry was before is not checked.
    pub fn apply(&mut self, delta: &Delta) {
        macro_rules! table {
            ($name:ident) => {
                for change in &delta.$name {
                    match change.new {
                        Some(value) => self.$name.insert(change.key, value),
                        None => self.$name.remove(&change.key),
                    };
                }
            };
        }
        each_table!(table);
    }
}

impl Delta {
    /// The Delta that takes this one back.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let mut inverse = self.clone();
        macro_rules! table {
            ($name:ident) => {
                for change in &mut inverse.$name {
                    std::mem::swap(&mut change.old, &mut change.new);
                }
            };
        }
        each_table!(table);
        inverse
    }

    /// How many entries change.
    pub fn len(&self) -> usize {
        let mut len = 0;
        macro_rules! table {
            ($name:ident) => {
                len += self.$name.len();
            };
        }
        each_table!(table);
        len
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Tables whose nested prefixes can be told apart.
pub trait Prefixes: Tables {
    /// As [`Tables::prefix`], among the prefixes that are no longer than this, in an
    /// [`Addr`].
    fn prefix_within(&self, key: &PrefixKey, len: u8) -> Option<Verdict>;
}

impl Prefixes for Image {
    fn prefix_within(&self, key: &PrefixKey, len: u8) -> Option<Verdict> {
        if self.prefixes.is_empty() {
            return None;
        }
        let (bits, port) = (key.addr.to_bits(), u16::from_be(key.port));
        (0..=len).rev().find_map(|len| {
            let mask = if len == 0 { 0 } else { u128::MAX << (128 - len) };
            let addr = Addr::from_bits(bits & mask);
            self.prefixes.get(&Prefix { addr, len, port }).copied()
        })
    }
}

/// An Image is one side; asked for either, it answers. So user space decides with
/// the very same code, over the very same entries, as the kernel: an entry of an array
/// that it does not have is all zeroes. How long the arrays are, it does not know.
impl Tables for Image {
    fn frontend(&self, key: &FrontendKey) -> Option<Verdict> {
        self.frontends.get(&(key.addr, u16::from_be(key.port))).copied()
    }

    fn prefix(&self, key: &PrefixKey) -> Option<Verdict> {
        self.prefix_within(key, 128)
    }

    fn class_verdict(&self, key: &ClassKey) -> Option<Verdict> {
        self.class_verdicts.get(&(key.table, key.class)).copied()
    }

    fn class_default(&self, _: Side, table: u32) -> Option<Verdict> {
        Some(self.class_defaults.get(&table).copied().unwrap_or_default())
    }

    fn route(&self, _: Side, index: u32) -> Option<Route> {
        Some(self.routes.get(&index).copied().unwrap_or_default())
    }

    fn leg(&self, _: Side, index: u32) -> Option<Leg> {
        Some(self.legs.get(&index).copied().unwrap_or_default())
    }

    fn destination(&self, _: Side, index: u32) -> Option<Destination> {
        Some(self.destinations.get(&index).copied().unwrap_or_default())
    }

    fn backend(&self, _: Side, index: u32) -> Option<Backend> {
        Some(self.backends.get(&index).copied().unwrap_or_default())
    }
}

/// The changes between two sorted tables, in key order.
fn changes<K: Ord + Copy, V: PartialEq + Copy>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> Vec<EntryChange<K, V>> {
    let differing = join::outer(old, new).filter(|(_, old, new)| old != new);
    differing
        .map(|(key, old, new)| EntryChange { key: *key, old: old.copied(), new: new.copied() })
        .collect()
}

#[cfg(test)]
mod tests {
    use redirector_common::abi::VerdictKind;
    use redirector_common::decide::{Caller, Decision, decide};

    use super::*;

    fn image(entries: &[(u32, u32)]) -> Image {
        Image { class_of: entries.iter().copied().collect(), ..Image::default() }
    }

    #[test]
    fn a_delta_leads_there_and_its_inverse_back() {
        let old = image(&[(1, 1), (2, 2), (4, 4)]);
        let new = image(&[(2, 3), (3, 3), (4, 4)]);
        let delta = old.diff(&new);
        assert_eq!(delta.len(), 3, "1 goes, 2 changes, 3 comes, 4 stays: {delta:?}");
        let mut image = old.clone();
        image.apply(&delta);
        assert_eq!(image, new);
        image.apply(&delta.inverse());
        assert_eq!(image, old);
    }

    /// A caller of class 0, for whom every draw is 0.
    struct Somebody;

    impl Caller for Somebody {
        fn class(&mut self, _: Side) -> u32 {
            0
        }

        fn draw(&mut self) -> u32 {
            0
        }
    }

    #[test]
    fn an_array_entry_that_is_absent_means_what_zeroes_mean_in_the_kernel() {
        let addr = Addr::from_v4_word(1);
        let decision = |verdict, image: Image| {
            let mut image = image;
            image.frontends.insert((addr, 80), Verdict::new(verdict));
            decide(&image, Side::of_epoch(0), &addr, 80_u16.to_be(), &mut Somebody)
        };
        // The default of a class table is to pass.
        assert_eq!(decision(VerdictKind::Classes(7), Image::default()), Decision::Pass);
        // A route without legs refuses.
        assert_eq!(decision(VerdictKind::Route(7), Image::default()), Decision::Refuse);
        // A leg of zeroes leads to destination 0.
        let backend =
            Backend { addr: Addr::from_v4_word(2), port: 90_u16.to_be(), ..Backend::default() };
        let image = Image {
            routes: [(0, Route { first: 3, count: 1 })].into(),
            destinations: [(0, Destination { first: 5, count: 1, ..Destination::default() })]
                .into(),
            backends: [(5, backend)].into(),
            ..Image::default()
        };
        let Decision::Route(choice, endpoint) = decision(VerdictKind::Route(0), image) else {
            panic!("it has an endpoint")
        };
        assert_eq!((choice.leg, endpoint.addr, endpoint.port), (3, backend.addr, backend.port));
    }
}
