//! The way of a connection through claims and rules, which whoever compiles,
//! explains or checks goes: the narrowest claim that the client sees, the first
//! rule that matches, what is bypassed, and whether we serve the address.
//!
//! A [`Witness`] looks on. The one of `explain` keeps the reasons; compiling has
//! what it needs in the questions that the [`Asker`] records, and looks at none.
//! (Which claims and rules an answer was read from, which is what compiling only
//! what a change concerns will ask, is told to a witness as well.)

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;

use super::book::{Rule, RuleBook, RuleSet, in_order};
use super::claims::{Claim, ClaimKind};
use super::condition::Dial;
use super::destination::subsets_resolve;
use crate::client::{Asker, Question};
use crate::registry::{Protocol, Registry};

/// Looks on, at whatever it says that it wants to see.
pub(crate) trait Witness<'q> {
    /// Whether every rule is shown, those too that cannot match where the
    /// connection goes.
    const ALL: bool;

    /// A claim does not stand for the client.
    fn passed_over(&mut self, _prefix: &IpNet, _claim: &Claim<'q>) {}

    /// A rule was looked at: why it matches, or why not.
    fn compared(
        &mut self,
        _set: &'q RuleSet,
        _rule: &'q Rule,
        _because: impl FnOnce() -> Result<String, String>,
    ) {
    }

    /// A host leads to the address, and it is in a prefix that somebody is said to have.
    fn outranked(&mut self, _claim: &Claim<'q>, _prefix: &IpNet, _by: &Claim<'q>) {}

    /// Two hosts lead to the address, and not to the same: it is left alone.
    fn contested(&mut self, _prefix: &IpNet, _claim: &Claim<'q>, _other: &Claim<'q>) {}

    /// The rule that matches is left aside, because the client is bypassed or,
    /// if not, because the rule's object is.
    fn bypassed(&mut self, _set: &'q RuleSet, _client: bool) {}
}

/// Looks at nothing.
pub(crate) struct Unwatched;

impl Witness<'_> for Unwatched {
    const ALL: bool = false;
}

/// Where a connection of the mesh ends up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrival<'q> {
    /// At no service: nobody that the client sees claims the address.
    Unclaimed,
    /// At a rule.
    Rule(IpNet, Claim<'q>, &'q RuleSet, &'q Rule),
    /// At the service itself: no rule matches, and we serve its address.
    Service(IpNet, Claim<'q>),
    /// At whatever else is behind the address: no rule matches.
    Elsewhere(IpNet, Claim<'q>),
}

/// The ways through a World.
#[derive(Debug)]
pub(crate) struct Walk<'q> {
    registry: &'q Registry,
    book: &'q RuleBook,
    hosts: HashMap<&'q str, HostRules<'q>>,
}

impl<'q> Walk<'q> {
    /// Before the first step.
    pub fn new(registry: &'q Registry, book: &'q RuleBook) -> Self {
        Self { registry, book, hosts: HashMap::new() }
    }

    /// The rules of a host; they must have been asked for before a connection
    /// can meet them.
    pub fn rules(&mut self, host: &'q str) -> &HostRules<'q> {
        self.hosts.entry(host).or_insert_with(|| HostRules::new(self.book, host))
    }

    /// Where a connection ends up. `claimed` are the claims to what it dials,
    /// the narrowest prefix first.
    pub fn arrive<'c, W: Witness<'q>>(
        &self,
        claimed: impl IntoIterator<Item = (&'c IpNet, &'c [Claim<'q>])>,
        dial: &Dial<'_>,
        who: &Asker<'_, 'q>,
        witness: &mut W,
    ) -> Arrival<'q>
    where
        'q: 'c,
    {
        let mut claimed = claimed.into_iter();
        let mut stands = |may: fn(ClaimKind) -> bool, witness: &mut W| {
            claimed.find_map(|(prefix, claims)| {
                let mut claims = claims.iter();
                let claim = claims.find(|claim| {
                    let holds = may(claim.kind)
                        && claim.holds(&self.registry.settings, who, prefix, &dial.address);
                    if !holds && may(claim.kind) {
                        witness.passed_over(prefix, claim);
                    }
                    holds
                })?;
                Some((*prefix, *claim, claims))
            })
        };
        let Some(mut standing) = stands(|_| true, witness) else { return Arrival::Unclaimed };
        if standing.1.kind.is_by_host()
            && let Some(said) = stands(ClaimKind::is_said, witness)
        {
            witness.outranked(&standing.1, &said.0, &said.1);
            standing = said;
        }
        let (prefix, claim, others) = standing;
        let found = self.first_match(&claim, dial, who, witness);
        let found = found.filter(|(set, _)| !self.bypasses(set, who, witness));
        if claim.kind.is_by_host()
            && let Some(other) = self.contests(&claim, found, others, dial, who)
        {
            witness.contested(&prefix, &claim, other);
            return Arrival::Elsewhere(prefix, claim);
        }
        if let Some((set, rule)) = found {
            return Arrival::Rule(prefix, claim, set, rule);
        }
        if claim.serves(self.registry.settings.services) {
            Arrival::Service(prefix, claim)
        } else {
            Arrival::Elsewhere(prefix, claim)
        }
    }

    /// The first of the other hosts at an address by which the client would come to
    /// something else than to what was `found` by this one: nothing tells which host was
    /// meant. Who resolved to it until lately is not asked where one does now: hosts may change
    /// places.
    fn contests<'c>(
        &self,
        claim: &Claim<'q>,
        found: Option<(&'q RuleSet, &'q Rule)>,
        others: impl Iterator<Item = &'c Claim<'q>>,
        dial: &Dial<'_>,
        who: &Asker<'_, 'q>,
    ) -> Option<&'c Claim<'q>>
    where
        'q: 'c,
    {
        let settings = &self.registry.settings;
        let unruled =
            |one: &Claim<'q>| self.registry.rules.for_host(&one.service.host).next().is_none();
        let mut others = others.filter(|other| {
            other.kind == claim.kind
                && other.service.host != claim.service.host
                && other.service.export.visible(who)
        });
        others.find(|other| {
            let by_other = self.first_match(other, dial, who, &mut Unwatched);
            let by_other = by_other.filter(|(set, _)| !self.bypasses(set, who, &mut Unwatched));
            match (found, by_other) {
                (Some((_, one)), Some((_, other))) => !std::ptr::eq(one, other),
                (None, None) => {
                    let serve = [claim.serves(settings.services), other.serves(settings.services)];
                    let alike = claim.service.object == other.service.object
                        && unruled(claim)
                        && unruled(other);
                    serve != [false, false] && !alike
                }
                _ => true,
            }
        })
    }

    fn bypasses<W: Witness<'q>>(
        &self,
        set: &'q RuleSet,
        who: &Asker<'_, 'q>,
        witness: &mut W,
    ) -> bool {
        let bypass = &self.registry.settings.bypass;
        let client = !bypass.workloads.is_empty() && who.ask(Question::Bypassed);
        let bypassed = client || bypass.rules.contains(&set.reference);
        if bypassed {
            witness.bypassed(set, client);
        }
        bypassed
    }

    /// The rule that is in force for a client.
    fn first_match<W: Witness<'q>>(
        &self,
        claim: &Claim<'q>,
        dial: &Dial<'_>,
        who: &Asker<'_, 'q>,
        witness: &mut W,
    ) -> Option<(&'q RuleSet, &'q Rule)> {
        let protocol = claim.port.protocol;
        let takes = protocol.takes_tcp_rules();
        let rules = self.hosts.get(&*claim.service.host).filter(|_| takes || W::ALL)?;
        let candidates = if W::ALL { rules.all() } else { rules.candidates(&dial.address) };
        for index in in_order(&rules.sets, who) {
            let set = *rules.sets.get(index)?;
            let takes = takes && self.is_for(set, claim, who);
            let from = candidates.partition_point(|(of, _)| *of < index);
            for (_, rule) in candidates.get(from..)?.iter().take_while(|(of, _)| *of == index) {
                let rule = set.tcp.get(*rule)?;
                witness.compared(set, rule, || match (takes, protocol.takes_tcp_rules()) {
                    (true, _) => rule.because(dial, who),
                    (false, true) => Err(format!(
                        "{} is of namespace {}, and {} belongs to {}: it is for clients of its own \
                         namespace (--cross-namespace=owner)",
                        set.reference,
                        set.namespace(),
                        claim.service.host,
                        claim.service.namespace()
                    )),
                    (false, false) => Err(format!(
                        "port {} of {} is declared {}: tcp rules do not apply to it",
                        dial.port,
                        claim.service.host,
                        protocol.as_str()
                    )),
                });
                if takes && rule.matches(dial, who) {
                    return Some((set, rule));
                }
            }
            if let Ok(rule) = &set.http
                && (takes || !protocol.takes_tcp_rules())
            {
                let applies = self.http_applies(protocol, set, rule, who);
                let matches = applies.is_ok();
                witness.compared(set, rule, || applies);
                if matches {
                    return Some((set, rule));
                }
            }
        }
        None
    }

    /// Whether a set decides for a client about what it reaches by a claim: where each
    /// namespace decides about its own hosts, others decide for their own clients only.
    fn is_for(&self, set: &'q RuleSet, claim: &Claim<'q>, who: &Asker<'_, 'q>) -> bool {
        let (home, owner) = (&set.object.meta.namespace, claim.service.namespace());
        !self.registry.settings.keeps_home(home, owner) || who.in_namespace(home)
    }

    /// Whether an `http` rule without match is honoured as if it were `tcp`.
    fn http_applies(
        &self,
        protocol: Protocol,
        set: &'q RuleSet,
        rule: &'q Rule,
        who: &Asker<'_, 'q>,
    ) -> Result<String, String> {
        if protocol != Protocol::Tcp {
            return Err(format!(
                "http: the port is {}, and such a rule is applied on declared TCP ports only",
                protocol.as_str()
            ));
        }
        subsets_resolve(self.registry, who, set, rule)?;
        Ok("http: a rule without match on a TCP port is applied as if it were tcp; Istio would \
            ignore it"
            .to_owned())
    }
}

/// The rules of a host, with the prefixes of their blocks indexed.
#[derive(Debug)]
pub(crate) struct HostRules<'q> {
    pub sets: Vec<&'q RuleSet>,
    /// By prefix: which rules (set, rule) have a block with it.
    by_subnet: HashMap<IpNet, Vec<(usize, usize)>>,
    /// Rules with a block without subnets.
    everywhere: Vec<(usize, usize)>,
    /// The lengths of the prefixes, by family.
    lengths: [BTreeSet<u8>; 2],
}

impl<'q> HostRules<'q> {
    fn new(book: &'q RuleBook, host: &str) -> Self {
        let mut rules = Self {
            sets: book.for_host(host),
            by_subnet: HashMap::new(),
            everywhere: Vec::new(),
            lengths: Default::default(),
        };
        for (set_index, set) in rules.sets.iter().enumerate() {
            for (rule_index, rule) in set.tcp.iter().enumerate() {
                let place = (set_index, rule_index);
                if rule.blocks.is_empty() {
                    rules.everywhere.push(place);
                }
                for block in &rule.blocks {
                    let subnets = block.subnets();
                    if subnets.is_empty() {
                        rules.everywhere.push(place);
                    }
                    for subnet in subnets {
                        rules.by_subnet.entry(*subnet).or_default().push(place);
                        let family = usize::from(matches!(subnet, IpNet::V6(_)));
                        rules.lengths[family].insert(subnet.prefix_len());
                    }
                }
            }
        }
        rules
    }

    /// The subnets that lie inside a prefix and are narrower.
    pub fn inside<'r>(&'r self, prefix: &'r IpNet) -> impl Iterator<Item = IpNet> + 'r {
        self.by_subnet
            .keys()
            .filter(move |subnet| *subnet != prefix && prefix.contains(*subnet))
            .copied()
    }

    fn all(&self) -> Vec<(usize, usize)> {
        let rules = self.sets.iter().enumerate();
        rules.flat_map(|(set, rules)| (0..rules.tcp.len()).map(move |rule| (set, rule))).collect()
    }

    /// The rules that may match at a prefix, in written order within each set
    /// and sets by age: those whose subnets contain it.
    fn candidates(&self, at: &IpNet) -> Vec<(usize, usize)> {
        let mut found = self.everywhere.clone();
        let family = usize::from(matches!(at, IpNet::V6(_)));
        for &length in self.lengths[family].range(..=at.prefix_len()) {
            let Ok(wide) = IpNet::new(at.addr(), length) else { continue };
            found.extend(self.by_subnet.get(&wide.trunc()).into_iter().flatten());
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}
