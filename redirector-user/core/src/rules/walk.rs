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
use super::destination::{lead_alike, subsets_resolve};
use crate::client::{Asker, Question};
use crate::model::RuleList;
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

    /// Hosts lead to the address, if there are any, and it is in a prefix that somebody else is
    /// said to have.
    fn outranked<'c>(
        &mut self,
        _hosts: impl Iterator<Item = &'c Claim<'q>>,
        _prefix: &IpNet,
        _by: &Claim<'q>,
    ) where
        'q: 'c,
    {
    }

    /// Two hosts lead to the address, and not to the same: it is left alone. Or both have it,
    /// and a server name would tell them apart: no rule is applied.
    fn contested(&mut self, _prefix: &IpNet, _claim: &Claim<'q>, _other: &Claim<'q>) {}

    /// Another host has the address, too, and this set's rule for it leads to the same.
    fn alike(&mut self, _prefix: &IpNet, _other: &Claim<'q>, _set: &'q RuleSet) {}

    /// Only a server name could tell whether a `tls` rule matches: none does, this one and
    /// those below it.
    fn undecided(&mut self, _set: &'q RuleSet, _rule: &'q Rule, _claim: &Claim<'q>) {}

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
            witness.outranked(std::iter::once(&standing.1), &said.0, &said.1);
            standing = said;
        }
        let (prefix, claim, others) = standing;
        if claim.kind.is_said() {
            let hosts = others.clone().filter(|other| {
                other.kind.is_by_host()
                    && other.service.host != claim.service.host
                    && other.service.export.visible(who)
            });
            witness.outranked(hosts, &prefix, &claim);
        }
        let found = self.first_match(&claim, dial, who, witness);
        let mut found = found.filter(|(set, _)| !self.bypasses(set, who, witness));
        if let Some(other) = self.contests((&prefix, &claim), found, others, (dial, who), witness) {
            witness.contested(&prefix, &claim, other);
            if claim.kind.is_by_host() {
                return Arrival::Elsewhere(prefix, claim);
            }
            found = None;
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
    /// places. An address that is written is its owner's, whoever else writes it; but where
    /// server names tell hosts apart, one namespace may have several there. (Pods that several
    /// headless services select are the oldest one's: they cannot have addresses of their own.)
    fn contests<'c, W: Witness<'q>>(
        &self,
        (prefix, claim): (&IpNet, &Claim<'q>),
        found: Option<(&'q RuleSet, &'q Rule)>,
        others: impl Iterator<Item = &'c Claim<'q>>,
        (dial, who): (&Dial<'_>, &Asker<'_, 'q>),
        witness: &mut W,
    ) -> Option<&'c Claim<'q>>
    where
        'q: 'c,
    {
        let settings = &self.registry.settings;
        let unruled =
            |one: &Claim<'q>| self.registry.rules.for_host(&one.service.host).next().is_none();
        let by_host = claim.kind.is_by_host();
        let mut others = others.filter(|other| {
            other.kind == claim.kind
                && (by_host || claim.is_told_by_name(other))
                && other.service.host != claim.service.host
                && other.service.export.visible(who)
        });
        others.find(|other| {
            let by_other = self.first_match(other, dial, who, &mut Unwatched);
            let by_other = by_other.filter(|(set, _)| !self.bypasses(set, who, &mut Unwatched));
            match (found, by_other) {
                (Some(one), Some(by)) => {
                    let same = std::ptr::eq(one.1, by.1);
                    let alike = same || lead_alike(self.registry, who, dial.port, (one, by));
                    if alike && !same {
                        witness.alike(prefix, other, by.0);
                    }
                    !alike
                }
                (None, None) if !by_host => false,
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
        let taken = protocol.takes();
        let rules = self.hosts.get(&*claim.service.host).filter(|_| taken.is_some() || W::ALL)?;
        let dial = &Dial { sni: claim.server_name(), ..*dial };
        let candidates = rules.lists.each_ref().map(|list| match () {
            () if W::ALL => list.all.clone(),
            () if taken == Some(list.list) => list.candidates(&dial.address),
            () => Vec::new(),
        });
        for index in in_order(&rules.sets, who) {
            let set = *rules.sets.get(index)?;
            let is_for = self.is_for(set, claim, who);
            for (list, candidates) in rules.lists.iter().map(|one| one.list).zip(&candidates) {
                let takes = is_for && taken == Some(list);
                let from = candidates.partition_point(|(of, _)| *of < index);
                for (_, rule) in candidates.get(from..)?.iter().take_while(|(of, _)| *of == index) {
                    let rule = set.list(list).get(*rule)?;
                    witness.compared(set, rule, || match (takes, taken == Some(list)) {
                        (true, _) => rule.because(dial, who),
                        (false, true) => Err(format!(
                            "{} is of namespace {}, and {} belongs to {}: it is for clients of \
                             its own namespace (--cross-namespace=owner)",
                            set.reference,
                            set.namespace(),
                            claim.service.host,
                            claim.service.namespace()
                        )),
                        (false, false) => Err(format!(
                            "port {} of {} is declared {}: {list} rules do not apply to it",
                            dial.port,
                            claim.service.host,
                            protocol.as_str()
                        )),
                    });
                    if !takes {
                        continue;
                    }
                    match rule.matches(dial, who) {
                        Some(true) => return Some((set, rule)),
                        Some(false) => {}
                        None => {
                            witness.undecided(set, rule, claim);
                            return None;
                        }
                    }
                }
            }
            if let Ok(rule) = &set.http
                && (is_for || taken != Some(RuleList::Tcp))
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

/// The rules of a host.
#[derive(Debug)]
pub(crate) struct HostRules<'q> {
    pub sets: Vec<&'q RuleSet>,
    /// Their `tcp` and their `tls` rules.
    lists: [Listed; 2],
}

/// The rules of a list, as places (set, rule), with the prefixes of their blocks indexed.
#[derive(Debug)]
struct Listed {
    list: RuleList,
    all: Vec<(usize, usize)>,
    /// By prefix: which rules have a block with it.
    by_subnet: HashMap<IpNet, Vec<(usize, usize)>>,
    /// Rules with a block without subnets.
    everywhere: Vec<(usize, usize)>,
    /// The lengths of the prefixes, by family.
    lengths: [BTreeSet<u8>; 2],
}

impl<'q> HostRules<'q> {
    fn new(book: &'q RuleBook, host: &str) -> Self {
        let sets = book.for_host(host);
        let lists = [RuleList::Tcp, RuleList::Tls].map(|list| Listed::new(&sets, list));
        Self { sets, lists }
    }

    /// The subnets that lie inside a prefix and are narrower.
    pub fn inside<'r>(&'r self, prefix: &'r IpNet) -> impl Iterator<Item = IpNet> + 'r {
        let subnets = self.lists.iter().flat_map(|list| list.by_subnet.keys());
        subnets.filter(move |subnet| *subnet != prefix && prefix.contains(*subnet)).copied()
    }
}

impl Listed {
    fn new(sets: &[&RuleSet], list: RuleList) -> Self {
        let mut rules = Self {
            list,
            all: Vec::new(),
            by_subnet: HashMap::new(),
            everywhere: Vec::new(),
            lengths: Default::default(),
        };
        for (set_index, set) in sets.iter().enumerate() {
            for (rule_index, rule) in set.list(list).iter().enumerate() {
                let place = (set_index, rule_index);
                rules.all.push(place);
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
