//! Which verdict every prefix and port has for every source class.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;

use super::destinations::{Destinations, Family};
use super::rules::{Dial, Rule, RuleBook, Sheet, in_order, is_everything};
use crate::client::{Answers, Asker, Client, Question};
use crate::model::{Resolution, SourceId};
use crate::names::MESH;
use crate::plan::{Class, Frontend, FrontendId, Source, Verdict};
use crate::registry::{Port, Protocol, Registry, Service, ServiceKind};
use crate::world::ServiceAddresses;

/// A service's claim to a prefix and port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'q> {
    pub service: &'q Service,
    pub port: &'q Port,
    pub kind: ClaimKind,
}

/// Why a service has a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClaimKind {
    /// It is one of its addresses.
    Address,
    /// It is an endpoint of a headless service.
    HeadlessEndpoint,
    /// It has no addresses, and so its port everywhere: for rules only.
    Anywhere,
}

/// All claims, by port and prefix; those to one prefix in the order of age.
pub(crate) type Claims<'q> = BTreeMap<u16, BTreeMap<IpNet, Vec<Claim<'q>>>>;

/// What all services claim.
pub(crate) fn claims(registry: &Registry) -> Claims<'_> {
    let mut claims = Claims::new();
    for service in registry.services() {
        if service.rejected.is_some() {
            continue;
        }
        for port in service.ports.iter().filter(|port| port.protocol != Protocol::Other) {
            let mut claim = |prefix: IpNet, kind| {
                let owners = claims.entry(port.number).or_default().entry(prefix).or_default();
                owners.push(Claim { service, port, kind });
            };
            for prefix in &service.addresses {
                claim(*prefix, ClaimKind::Address);
            }
            match service.kind {
                ServiceKind::Headless => {
                    for endpoint in &port.endpoints {
                        claim(endpoint.ip.into(), ClaimKind::HeadlessEndpoint);
                    }
                }
                ServiceKind::Entry(resolution)
                    if service.addresses.is_empty() && resolution != Resolution::DynamicDns =>
                {
                    claim(IpNet::V4(ipnet::Ipv4Net::default()), ClaimKind::Anywhere);
                    claim(IpNet::V6(ipnet::Ipv6Net::default()), ClaimKind::Anywhere);
                }
                _ => {}
            }
        }
    }
    claims
}

impl<'q> Claim<'q> {
    /// Whether the claim stands for this client.
    pub fn holds(&self, who: &Asker<'_, 'q>, prefix: &IpNet) -> bool {
        if !self.service.export.visible(who) {
            return false;
        }
        // A pod that dials itself by a headless service is left alone.
        self.kind != ClaimKind::HeadlessEndpoint || !who.ask(Question::Address(prefix.addr()))
    }

    /// What happens when no rule matches: whether we serve the address.
    pub fn serves(&self, services: ServiceAddresses) -> bool {
        match (&self.service.kind, self.kind) {
            (_, ClaimKind::Anywhere | ClaimKind::HeadlessEndpoint) => false,
            (ServiceKind::Cluster, _) => services == ServiceAddresses::Own,
            (ServiceKind::Entry(Resolution::Static), _) => true,
            // Nothing else is behind such an address either; but before its
            // names are resolved there is nowhere to go.
            (ServiceKind::Entry(Resolution::Dns | Resolution::DnsRoundRobin), _) => {
                !self.port.endpoints.is_empty()
            }
            _ => false,
        }
    }
}

/// The rules of a host, with the prefixes of their blocks indexed.
pub(crate) struct HostRules<'b, 'w> {
    sheets: Vec<&'b Sheet<'w>>,
    /// By prefix: which rules (sheet, rule) have a block with it.
    by_subnet: HashMap<IpNet, Vec<(usize, usize)>>,
    /// Rules with a block without subnets, or with one for every address.
    everywhere: Vec<(usize, usize)>,
    /// The lengths of the prefixes, by family.
    lengths: [BTreeSet<u8>; 2],
}

impl<'b, 'w> HostRules<'b, 'w> {
    fn new(book: &'b RuleBook<'w>, host: &str) -> Self {
        let mut rules = Self {
            sheets: book.for_host(host),
            by_subnet: HashMap::new(),
            everywhere: Vec::new(),
            lengths: Default::default(),
        };
        for (sheet_index, sheet) in rules.sheets.iter().enumerate() {
            for (rule_index, rule) in sheet.tcp.iter().enumerate() {
                let place = (sheet_index, rule_index);
                if rule.blocks.is_empty() {
                    rules.everywhere.push(place);
                }
                for block in &rule.blocks {
                    let subnets = &block.l4.destination_subnets;
                    if subnets.is_empty() || subnets.iter().any(is_everything) {
                        rules.everywhere.push(place);
                        continue;
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
    fn inside<'r>(&'r self, prefix: &'r IpNet) -> impl Iterator<Item = IpNet> + 'r {
        self.by_subnet
            .keys()
            .filter(move |subnet| *subnet != prefix && prefix.contains(*subnet))
            .copied()
    }

    /// The rules that may match at a prefix, in written order within each
    /// sheet and sheets by age: those whose subnets contain it.
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

/// The rule that is in force for a client.
pub(crate) fn first_match<'b, 'w, 'q>(
    sheets: &[&'b Sheet<'w>],
    candidates: &[(usize, usize)],
    dial: &Dial<'_>,
    who: &Asker<'_, 'q>,
    mut http: impl FnMut(&'b Sheet<'w>, &'b Rule<'w>) -> bool,
) -> Option<(&'b Sheet<'w>, &'b Rule<'w>)>
where
    'b: 'q,
    'w: 'q,
{
    for index in in_order(sheets, who) {
        let sheet = *sheets.get(index)?;
        let from = candidates.partition_point(|(of, _)| *of < index);
        for (_, rule) in candidates.get(from..)?.iter().take_while(|(of, _)| *of == index) {
            let rule = sheet.tcp.get(*rule)?;
            if rule.matches(dial, who).is_ok() {
                return Some((sheet, rule));
            }
        }
        if let Some(rule) = &sheet.http
            && http(sheet, rule)
        {
            return Some((sheet, rule));
        }
    }
    None
}

/// Compiles the frontends.
pub(super) fn compile<'b, 'q>(
    registry: &'q Registry,
    book: &'b RuleBook<'q>,
    classes: &[Class],
    sources: &BTreeMap<SourceId, Source>,
    destinations: &mut Destinations<'q>,
) -> BTreeMap<FrontendId, Frontend>
where
    'b: 'q,
{
    let clients: Vec<Client<'_>> = classes
        .iter()
        .map(|class| {
            let example = class.example.as_ref();
            let source = example.and_then(|id| Some((id, sources.get(id)?)));
            source.map_or_else(Client::default, |(id, source)| Client {
                namespace: Some(&id.namespace),
                labels: Some(&source.labels),
                addresses: &source.addresses,
                bypassed: registry.settings.bypass.has_workload(&id.namespace, &id.name),
            })
        })
        .collect();
    let mut compiler = Compiler { registry, book, clients, destinations, hosts: HashMap::new() };
    let mut frontends = BTreeMap::new();
    for (port, prefixes) in claims(registry) {
        compiler.port(port, &prefixes, &mut frontends);
    }
    frontends
}

struct Compiler<'a, 'b, 'q> {
    registry: &'q Registry,
    book: &'b RuleBook<'q>,
    clients: Vec<Client<'a>>,
    destinations: &'a mut Destinations<'q>,
    hosts: HashMap<&'q str, HostRules<'b, 'q>>,
}

impl<'b, 'q> Compiler<'_, 'b, 'q>
where
    'b: 'q,
{
    fn port(
        &mut self,
        port: u16,
        prefixes: &BTreeMap<IpNet, Vec<Claim<'q>>>,
        frontends: &mut BTreeMap<FrontendId, Frontend>,
    ) {
        // Where a prefix begins, the answer may change: at every claim, and
        // inside a claimed CIDR at every subnet of its rules.
        let mut points: BTreeSet<IpNet> = prefixes.keys().copied().collect();
        for (prefix, claims) in prefixes {
            for claim in claims {
                let rules = self.rules(claim.service);
                if prefix.prefix_len() < prefix.max_prefix_len() {
                    points.extend(rules.inside(prefix));
                }
            }
        }
        // Parents come before what lies in them. The stacks hold what encloses
        // the point at hand: claimed prefixes, and the values that stand at
        // the enclosing points.
        let mut claimed: Vec<(IpNet, &[Claim<'q>])> = Vec::new();
        let mut values: Vec<(IpNet, Frontend)> = Vec::new();
        for point in points {
            while claimed.last().is_some_and(|(prefix, _)| !prefix.contains(&point)) {
                claimed.pop();
            }
            while values.last().is_some_and(|(prefix, _)| !prefix.contains(&point)) {
                values.pop();
            }
            if let Some(claims) = prefixes.get(&point) {
                claimed.push((point, claims));
            }
            let Some(value) = self.point(port, &point, &claimed) else { continue };
            // What says the same as what encloses it, or nothing where nothing
            // encloses it, need not be there.
            let needed = match values.last() {
                Some((_, enclosing)) => *enclosing != value,
                None => value.default != Verdict::Pass || !value.exceptions.is_empty(),
            };
            if needed {
                frontends.insert(FrontendId { prefix: point, port }, value.clone());
                values.push((point, value));
            }
        }
    }

    /// What holds at a point for every class.
    fn point(
        &mut self,
        port: u16,
        point: &IpNet,
        claimed: &[(IpNet, &[Claim<'q>])],
    ) -> Option<Frontend> {
        let owner = claimed.last()?.1.first()?;
        for (_, claims) in claimed {
            for claim in *claims {
                self.rules(claim.service);
            }
        }
        let clients = self.clients.clone();
        let mut answers = Answers::default();
        let mut frontend = None;
        for (class, client) in clients.into_iter().enumerate() {
            // Whoever answers the same questions alike gets the same verdict.
            let verdict = match answers.find(&client) {
                Some(_) if answers.is_settled() => break,
                Some(verdict) => Verdict::clone(verdict),
                None => {
                    let who = Asker::recording(client);
                    let verdict = self.verdict(port, point, claimed, &who);
                    answers.insert(who.into_record(), verdict.clone());
                    verdict
                }
            };
            let frontend = frontend.get_or_insert_with(|| Frontend {
                service: owner.service.object.clone(),
                default: verdict.clone(),
                exceptions: BTreeMap::new(),
            });
            if frontend.default != verdict {
                frontend.exceptions.insert(u32::try_from(class).ok()?, verdict);
            }
        }
        frontend
    }

    fn verdict(
        &mut self,
        port: u16,
        point: &IpNet,
        claimed: &[(IpNet, &[Claim<'q>])],
        who: &Asker<'_, 'q>,
    ) -> Verdict {
        let standing = claimed
            .iter()
            .rev()
            .find_map(|(prefix, claims)| claims.iter().find(|claim| claim.holds(who, prefix)));
        let Some(claim) = standing else { return Verdict::Pass };
        let v6 = matches!(point, IpNet::V6(_));
        let bypass = &self.registry.settings.bypass;
        let bypassed = !bypass.workloads.is_empty() && who.ask(Question::Bypassed);
        if !bypassed
            && claim.port.protocol.takes_tcp_rules()
            && let Some(rules) = self.hosts.get(&*claim.service.host)
        {
            let dial = Dial { address: *point, port, gateway: MESH };
            let declared = claim.port.protocol == Protocol::Tcp;
            let found =
                first_match(&rules.sheets, &rules.candidates(point), &dial, who, |sheet, rule| {
                    declared && self.destinations.subsets_resolve(who, sheet, rule).is_ok()
                });
            if let Some((sheet, rule)) = found
                && !bypass.rules.contains(&sheet.reference)
            {
                return self.destinations.rule(who, sheet, rule, port, Family::Only { v6 }).1;
            }
        }
        if claim.serves(self.registry.settings.services) {
            return self.destinations.service(who, claim.service, claim.port, v6).1;
        }
        Verdict::Pass
    }

    fn rules(&mut self, service: &'q Service) -> &HostRules<'b, 'q> {
        self.hosts.entry(&service.host).or_insert_with(|| HostRules::new(self.book, &service.host))
    }
}
