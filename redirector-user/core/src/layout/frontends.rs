//! The entries of frontends, and the class tables that they lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use redirector_common::abi::{self, Limits, VerdictKind};
use redirector_common::addr::{Addr, V4_MAPPED_BITS};

use super::{ClassTable, Full, Placement, Table, prefix_len};
use crate::image::{Edits, Prefix};
use crate::plan::{Changes, Frontend, FrontendId, Verdict};

/// A class table, and how many frontends lead to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Users {
    table: Arc<ClassTable>,
    count: usize,
}

impl Users {
    /// Nobody.
    pub fn none(table: Arc<ClassTable>) -> Self {
        Self { table, count: 0 }
    }
}

/// Where a frontend stands in the tables.
enum TableKey {
    Exact((Addr, u16)),
    Prefix(Prefix),
}

impl From<&FrontendId> for TableKey {
    fn from(id: &FrontendId) -> Self {
        let addr = Addr::from(id.prefix.addr());
        match id.prefix.prefix_len() == id.prefix.max_prefix_len() {
            true => Self::Exact((addr, id.port)),
            false => Self::Prefix(Prefix { addr, len: prefix_len(&id.prefix), port: id.port }),
        }
    }
}

impl Placement {
    /// Places the frontends that change, and the class tables that they lead to.
    pub(super) fn place_frontends(
        &mut self,
        frontends: &Changes<FrontendId, Frontend>,
        limits: &Limits,
        edits: &mut Edits,
    ) -> Result<(), Full> {
        let mut left = BTreeSet::new();
        if self.is_fresh {
            let nobody = self.users.iter().filter(|(_, users)| users.count == 0);
            left.extend(nobody.map(|(number, _)| *number));
        }
        for id in frontends.keys() {
            if let Some(VerdictKind::Classes(number)) = self.verdict_of(id).map(|one| one.kind())
                && let Some(users) = self.users.get(&number)
            {
                let users = Users { count: users.count.saturating_sub(1), ..users.clone() };
                if users.count == 0 {
                    left.insert(number);
                }
                self.users.insert(number, users);
            }
        }
        let mut wide = BTreeSet::new();
        let mut by_table: BTreeMap<ClassTable, Vec<FrontendId>> = BTreeMap::new();
        for (id, frontend) in frontends {
            wide.extend(is_wide(&id.prefix).then_some(id.port));
            let Some(frontend) = frontend else {
                self.layout.frontends.remove(id);
                self.put(id, None, edits);
                continue;
            };
            if self.layout.frontends.get(id) != Some(&frontend.service) {
                self.layout.frontends.insert(*id, frontend.service.clone());
            }
            let table = self.table_of(frontend);
            if table.exceptions.is_empty() {
                self.put(id, Some(table.default), edits);
            } else {
                by_table.entry(table).or_default().push(*id);
            }
        }
        for (number, ids) in self.place_tables(by_table, left, limits, edits)? {
            let verdict = abi::Verdict::new(VerdictKind::Classes(number));
            for id in ids {
                self.put(&id, Some(verdict), edits);
            }
        }
        self.keep_families_apart(&wide, edits);
        Ok(())
    }

    /// What a frontend says in the tables until this step.
    fn verdict_of(&self, id: &FrontendId) -> Option<abi::Verdict> {
        match id.into() {
            TableKey::Exact(key) => self.image.frontends.get(&key).copied(),
            TableKey::Prefix(prefix) => self.image.prefixes.get(&prefix).copied(),
        }
    }

    fn put(&self, id: &FrontendId, verdict: Option<abi::Verdict>, edits: &mut Edits) {
        match id.into() {
            TableKey::Exact(key) => edits.frontends.push((key, verdict)),
            TableKey::Prefix(prefix) => edits.prefixes.push((prefix, verdict)),
        }
    }

    fn table_of(&self, frontend: &Frontend) -> ClassTable {
        let number = |verdict: &Verdict| match verdict {
            Verdict::Pass => abi::Verdict::PASS,
            Verdict::Refuse => abi::Verdict::REFUSE,
            Verdict::Route(route) => match self.layout.route(route) {
                Some(number) => abi::Verdict::new(VerdictKind::Route(number)),
                None => abi::Verdict::REFUSE,
            },
        };
        let class = |class: &u32| match *class {
            abi::CLASS_UNKNOWN => Some(abi::CLASS_UNKNOWN),
            class => self.class_numbers.get(&class).copied(),
        };
        let exceptions = frontend.exceptions.iter();
        let mut exceptions: Vec<(u32, abi::Verdict)> =
            exceptions.filter_map(|(of, verdict)| Some((class(of)?, number(verdict)))).collect();
        exceptions.sort_unstable_by_key(|(class, _)| *class);
        ClassTable { default: number(&frontend.default), exceptions }
    }

    /// Numbers the class tables that frontends lead to from now on; `left` are those that
    /// nobody leads to otherwise. One that is there in the same words keeps its number, and
    /// so does one that says the same to the classes that were there before: what came or
    /// went is written where it lies, and the frontends that lead to it stay as they are.
    fn place_tables(
        &mut self,
        wanted: BTreeMap<ClassTable, Vec<FrontendId>>,
        mut left: BTreeSet<u32>,
        limits: &Limits,
        edits: &mut Edits,
    ) -> Result<Vec<(u32, Vec<FrontendId>)>, Full> {
        let mut placed = Vec::new();
        let mut vacant = Vec::new();
        for (table, ids) in wanted {
            match self.layout.tables.get(&table).copied() {
                Some(number) => {
                    left.remove(&number);
                    self.lead_to(number, Arc::new(table), ids.len(), edits);
                    placed.push((number, ids));
                }
                None => vacant.push((table, ids)),
            }
        }
        let steady = |table: &ClassTable| table.of_classes(|class| self.is_steady(class));
        let candidates = left.iter().filter(|_| !vacant.is_empty());
        let mut alike: BTreeMap<ClassTable, u32> = candidates
            .filter_map(|number| Some((steady(&self.users.get(number)?.table), *number)))
            .collect();
        let vacant: Vec<_> = (vacant.into_iter())
            .map(|(table, ids)| (alike.remove(&steady(&table)), Arc::new(table), ids))
            .collect();
        for (kept, ..) in &vacant {
            kept.inspect(|number| _ = left.remove(number));
        }
        for number in left {
            if let Some(users) = self.users.remove(&number) {
                self.layout.tables.remove(&users.table);
                erase(number, &users.table, edits);
            }
            self.layout.table_numbers.free(number);
        }
        for (kept, table, ids) in vacant {
            let numbers = &mut self.layout.table_numbers;
            let number = match kept {
                Some(number) => number,
                None => numbers.take(limits.class_tables, Table::ClassTables)?,
            };
            if let Some(users) = self.users.get(&number) {
                let before = users.table.clone();
                self.layout.tables.remove(&before);
                erase(number, &before, edits);
            }
            self.layout.tables.insert(table.clone(), number);
            self.lead_to(number, table, ids.len(), edits);
            placed.push((number, ids));
        }
        Ok(placed)
    }

    /// More frontends lead to a table, which says this.
    fn lead_to(&mut self, number: u32, table: Arc<ClassTable>, more: usize, edits: &mut Edits) {
        edits.class_defaults.push((number, Some(table.default)));
        let exceptions = table.exceptions.iter();
        let entry = |(class, verdict): &(u32, abi::Verdict)| ((number, *class), Some(*verdict));
        edits.class_verdicts.extend(exceptions.map(entry));
        let users = self.users.get(&number).filter(|users| users.table == table);
        let (table, count) = match users {
            Some(users) => (users.table.clone(), users.count),
            None => (table, 0),
        };
        self.users.insert(number, Users { table, count: count + more });
    }

    /// IPv4 addresses lie within the wide IPv6 prefixes that contain all mapped addresses,
    /// such as `::/0`. On ports where the prefix table has one, "all of IPv4" passes, unless
    /// it is said otherwise.
    fn keep_families_apart(&self, ports: &BTreeSet<u16>, edits: &mut Edits) {
        let all_of_v4 = Addr::from_v4_word(0);
        for port in ports {
            let own = FrontendId { prefix: IpNet::V4(Ipv4Net::default()), port: *port };
            if self.layout.frontends.contains_key(&own) {
                continue;
            }
            let is_within = (0..V4_MAPPED_BITS as u8).any(|len| {
                let mask = if len == 0 { 0 } else { u128::MAX << (128 - len) };
                let prefix = Ipv6Addr::from_bits(all_of_v4.to_bits() & mask);
                let prefix = Ipv6Net::new_assert(prefix, len).into();
                self.layout.frontends.contains_key(&FrontendId { prefix, port: *port })
            });
            let prefix = Prefix { addr: all_of_v4, len: V4_MAPPED_BITS as u8, port: *port };
            edits.prefixes.push((prefix, is_within.then_some(abi::Verdict::PASS)));
        }
    }
}

/// Nothing stands under the number of this table any more.
fn erase(number: u32, table: &ClassTable, edits: &mut Edits) {
    edits.class_defaults.push((number, None));
    let classes = table.exceptions.iter().map(|(class, _)| *class);
    edits.class_verdicts.extend(classes.map(|class| ((number, class), None)));
}

/// Whether a prefix is all of IPv4, or holds it.
fn is_wide(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(prefix) => prefix.prefix_len() == 0,
        IpNet::V6(prefix) => {
            let len = u32::from(prefix.prefix_len());
            let all_of_v4 = Ipv6Addr::from_bits(Addr::from_v4_word(0).to_bits());
            len < V4_MAPPED_BITS && prefix.contains(&all_of_v4)
        }
    }
}
