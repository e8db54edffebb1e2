//! Budgets: how much one object, and all objects of one namespace together, may ask for.
//!
//! What is asked for is counted from the objects alone, before anything is made of them,
//! so that every node, `check` and the daemon count alike, and what is refused costs
//! nothing more. An object that asks for more than one may is left out; so are the newest
//! of a namespace that asks for more, until the rest fits. By
//! `metadata.creationTimestamp`, then by name: an owner cannot choose the former in a
//! cluster, and no order of arrival decides.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::diag::Code;
use crate::diag::codes::syntax;
use crate::model::VirtualService;

/// Something that is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Quantity {
    /// Addresses, times ports, times hosts, of Services and ServiceEntries. Those of a
    /// namespace that have one host are one service of it: each address has each port.
    Frontends,
    /// Endpoints, times ports, times hosts, of Services and ServiceEntries.
    Endpoints,
    /// Names to resolve.
    Names,
    /// Rules of VirtualServices, times hosts.
    Rules,
    /// What is compared for rules: their match blocks, each as often as it has subnets,
    /// times hosts and gateways.
    Conditions,
    /// Weighted destinations of rules.
    Legs,
}

impl Quantity {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Frontends, Self::Endpoints, Self::Names, Self::Rules, Self::Conditions, Self::Legs];

    /// How flags and messages call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Frontends => "frontends",
            Self::Endpoints => "endpoints",
            Self::Names => "names",
            Self::Rules => "rules",
            Self::Conditions => "conditions",
            Self::Legs => "legs",
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frontends => "frontends (addresses times ports times hosts)",
            Self::Endpoints => "endpoints (addresses of endpoints times ports times hosts)",
            Self::Names => "names to resolve",
            Self::Rules => "rules (times hosts)",
            Self::Conditions => {
                "conditions of rules (match blocks, times subnets, hosts and gateways)"
            }
            Self::Legs => "weighted destinations of rules",
        })
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|one| one.as_str() == text).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            format!("expected one of {all}, not {text:?}")
        })
    }
}

/// So much of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "as in Quantity")]
pub struct Amounts {
    pub frontends: u64,
    pub endpoints: u64,
    pub names: u64,
    pub rules: u64,
    pub conditions: u64,
    pub legs: u64,
}

impl Amounts {
    /// How much of one.
    pub const fn get(&self, quantity: Quantity) -> u64 {
        match quantity {
            Quantity::Frontends => self.frontends,
            Quantity::Endpoints => self.endpoints,
            Quantity::Names => self.names,
            Quantity::Rules => self.rules,
            Quantity::Conditions => self.conditions,
            Quantity::Legs => self.legs,
        }
    }

    /// The same, to be changed.
    pub const fn of(&mut self, quantity: Quantity) -> &mut u64 {
        match quantity {
            Quantity::Frontends => &mut self.frontends,
            Quantity::Endpoints => &mut self.endpoints,
            Quantity::Names => &mut self.names,
            Quantity::Rules => &mut self.rules,
            Quantity::Conditions => &mut self.conditions,
            Quantity::Legs => &mut self.legs,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// Without those that were added before.
    #[must_use]
    pub fn minus(self, other: &Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    fn with(mut self, other: &Self, both: impl Fn(u64, u64) -> u64) -> Self {
        for quantity in Quantity::ALL {
            let one = self.of(quantity);
            *one = both(*one, other.get(quantity));
        }
        self
    }

    /// The first of which there is more than these are: names before all else, since how
    /// many addresses there are is only known where names are asked for.
    pub fn beyond(&self, limits: &Self) -> Option<Quantity> {
        let mut all = std::iter::once(Quantity::Names).chain(Quantity::ALL);
        all.find(|one| self.get(*one) > limits.get(*one))
    }

    /// What a VirtualService asks for.
    pub fn of_rules(spec: &VirtualService) -> Self {
        let count = |len: usize| len as u64;
        let hosts = count(spec.hosts.len());
        let tcp = spec.tcp.iter().flat_map(|rule| &rule.matches);
        let tls = spec.tls.iter().flat_map(|rule| rule.matches.iter().map(|one| &one.l4));
        let blocks = tcp.chain(tls).map(|block| count(block.destination_subnets.len()).max(1));
        let rules = count(spec.tcp.len() + spec.tls.len() + spec.http.len());
        let gateways = count(spec.gateways.len()).max(1);
        let conditions = blocks.sum::<u64>().max(rules);
        Self {
            rules: rules.saturating_mul(hosts),
            conditions: conditions.saturating_mul(hosts).saturating_mul(gateways),
            legs: spec.routes().map(|(.., route)| count(route.len())).sum(),
            ..Self::default()
        }
    }
}

/// How much may be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Budgets {
    /// By one object.
    pub object: Amounts,
    /// By all objects of one namespace together.
    pub namespace: Amounts,
}

impl Default for Budgets {
    /// Far beyond what people write (a hundred thousand rules in one namespace are
    /// within), and so little that one namespace can neither take a node's memory nor hold
    /// up others' changes for long. The tables hold 64 times as many frontends as one
    /// namespace may have.
    fn default() -> Self {
        Self {
            object: Amounts {
                frontends: 1 << 16,
                endpoints: 1 << 18,
                names: 1 << 10,
                rules: 1 << 16,
                conditions: 1 << 18,
                legs: 1 << 18,
            },
            namespace: Amounts {
                frontends: 1 << 18,
                endpoints: 1 << 20,
                names: 1 << 13,
                rules: 1 << 18,
                conditions: 1 << 20,
                legs: 1 << 20,
            },
        }
    }
}

impl<'de> Deserialize<'de> for Budgets {
    /// What another version wrote down: of what it knew nothing, there may be as much as
    /// there may be by default.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(default)]
        #[derive(Default)]
        struct Written {
            object: BTreeMap<String, u64>,
            namespace: BTreeMap<String, u64>,
        }
        let written = Written::deserialize(deserializer)?;
        let mut budgets = Self::default();
        for (limits, written) in
            [(&mut budgets.object, written.object), (&mut budgets.namespace, written.namespace)]
        {
            for (name, most) in written {
                name.parse().into_iter().for_each(|quantity| *limits.of(quantity) = most);
            }
        }
        Ok(budgets)
    }
}

/// Why an object is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Over {
    /// Of what there is too much.
    pub quantity: Quantity,
    /// How much of it the object asks for.
    pub amount: u64,
    /// How much may be asked for.
    pub limit: u64,
    /// By its namespace, and not by one object alone.
    pub of_namespace: bool,
}

impl Over {
    /// In which way `amounts` are more than one object may ask for, if they are.
    pub fn of_object(amounts: &Amounts, budgets: &Budgets) -> Option<Self> {
        let quantity = amounts.beyond(&budgets.object)?;
        let (amount, limit) = (amounts.get(quantity), budgets.object.get(quantity));
        Some(Self { quantity, amount, limit, of_namespace: false })
    }

    /// What of an object is there, and counts for its namespace.
    pub fn counted(amounts: &Amounts, budgets: &Budgets) -> Amounts {
        match Self::of_object(amounts, budgets) {
            None => *amounts,
            Some(over) if over.resolves() => Amounts { names: amounts.names, ..Amounts::default() },
            Some(_) => Amounts::default(),
        }
    }

    /// Whether the names of an object are resolved though it is left out: what it asks for
    /// may be less when they resolve to less, and would seem less if nobody asked.
    pub fn resolves(&self) -> bool {
        self.quantity != Quantity::Names
    }

    /// Why an object is left out, of which what [is counted](Self::counted) does not fit into
    /// what those before it, which have `all` of these, have left of their namespace's.
    pub fn of_namespace(amounts: &Amounts, all: &mut Amounts, budgets: &Budgets) -> Option<Self> {
        let limits = &budgets.namespace;
        let with = all.plus(amounts);
        let Some(quantity) = with.beyond(limits) else {
            *all = with;
            return None;
        };
        if quantity != Quantity::Names {
            all.names = with.names;
        }
        let (amount, limit) = (amounts.get(quantity), limits.get(quantity));
        Some(Self { quantity, amount, limit, of_namespace: true })
    }

    /// What is said of it.
    pub const fn code(&self) -> &'static Code {
        if self.of_namespace { &syntax::OVER_BUDGET } else { &syntax::OVER_LIMIT }
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { quantity, amount, limit, of_namespace } = self;
        if *of_namespace {
            return write!(
                f,
                "it asks for {amount} {quantity}, and with the older objects of its namespace \
                 that is more than the {limit} that one namespace may have"
            );
        }
        write!(f, "it asks for {amount} {quantity}, and one object may have {limit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rules: u64) -> Amounts {
        Amounts { rules, ..Amounts::default() }
    }

    #[test]
    fn the_newest_that_does_not_fit_is_left_out_and_what_fits_beside_it_is_not() {
        let budgets = Budgets { namespace: rules(10), ..Budgets::default() };
        let objects = [("a", rules(4)), ("b", rules(5)), ("c", rules(2)), ("d", rules(1))];
        let mut all = Amounts::default();
        let over = objects.iter().filter_map(|(object, amounts)| {
            Some((*object, Over::of_namespace(amounts, &mut all, &budgets)?))
        });
        let over: Vec<_> = over.collect();
        let [("c", over)] = over[..] else { panic!("{over:?}") };
        assert_eq!((over.quantity, over.amount, over.limit), (Quantity::Rules, 2, 10));
    }

    #[test]
    fn what_another_version_did_not_know_has_its_default_and_is_not_nothing() {
        let written = r#"{"object": {"rules": 7, "what is no more": 1}, "namespace": {}}"#;
        let read: Budgets = serde_json::from_str(written).expect("budgets");
        let mut expected = Budgets::default();
        expected.object.rules = 7;
        assert_eq!(read, expected);
        let again = serde_json::to_string(&expected).expect("JSON");
        assert_eq!(serde_json::from_str::<Budgets>(&again).expect("budgets"), expected);
    }

    #[test]
    fn what_one_object_may_ask_for_is_its_own_limit() {
        let budgets = Budgets { object: rules(3), ..Budgets::default() };
        assert_eq!(Over::of_object(&rules(3), &budgets), None);
        let over = Over::of_object(&rules(4), &budgets).expect("beyond");
        assert!(over.to_string().ends_with("one object may have 3"), "{over}");
    }

    #[test]
    fn quantities_are_called_as_flags_call_them() {
        for quantity in Quantity::ALL {
            assert_eq!(quantity.as_str().parse(), Ok(quantity));
        }
        assert!("rulez".parse::<Quantity>().is_err());
    }
}
