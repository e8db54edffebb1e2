//! Shares of rules that are refused, told at the destination that is the cause;
//! where the cause is another object's, it is told there alone.

use std::collections::{HashMap, HashSet};

use super::Finding;
use super::facts::Facts;
use super::refusals::Refusal;
use crate::diag::Diagnostic;
use crate::diag::codes::{Code, differences, references};
use crate::model::{ObjectRef, RouteDestination};
use crate::plan::Lacks;
use crate::world::World;

pub(super) fn analyze(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let mut causes = Causes::new(findings);
    let refusals = &facts.examined.refusals;
    // Where the rules are met, by family, but at what was allocated: who dials such an address
    // of one family goes on to the host's other one.
    let lacks_family = refusals.iter().any(|one| one.lacks == Some(Lacks::Family));
    let frontends = facts.examined.plan.frontends.iter().filter(|_| lacks_family);
    let dialled: HashSet<_> = frontends
        .filter(|(id, frontend)| !facts.is_allocated(&frontend.service, id.prefix.addr()))
        .flat_map(|(id, one)| one.routes().map(|(_, route)| (&route.rule, id.prefix.addr())))
        .filter_map(|(rule, address)| Some((rule.as_ref()?, address.is_ipv6())))
        .collect();
    for refusal in refusals {
        let path = refusal.rule.destination_path(refusal.destination);
        let told = causes.at(&refusal.rule.object, &path);
        let elsewhere = match refusal.lacks {
            // The entries say that they are to be resolved, and which endpoints
            // are sockets; the policy says what it refuses.
            Some(Lacks::Resolution | Lacks::Sockets | Lacks::Bytes) => true,
            Some(Lacks::Endpoints) => {
                refusal.id.view.first().is_some_and(|service| facts.lost_elsewhere(service))
            }
            Some(Lacks::Labels) => causes.empty_subset(facts.world, refusal),
            Some(Lacks::Service) if facts.refused_service(&refusal.id.host) => true,
            Some(Lacks::Subset) if facts.refused_rule(&refusal.id.host) => true,
            Some(Lacks::Export) => false,
            Some(Lacks::Port) => !told.is_empty(),
            Some(Lacks::Family)
                if refusal.gateways.is_empty()
                    && !dialled.contains(&(&refusal.rule, refusal.id.v6)) =>
            {
                true
            }
            _ => told.iter().any(|(code, _)| *code != references::PORT_REQUIRED.id),
        };
        if elsewhere {
            continue;
        }
        let Some(mut finding) = finding(facts, refusal) else {
            continue;
        };
        if refusal.lacks == Some(Lacks::Export)
            && causes.take(&refusal.rule.object, &path, findings)
        {
            // What Istio's analysis says, and for whom it is true.
            finding.diagnostic.istio = references::UNKNOWN_HOST.istio;
        }
        findings.push(finding);
    }
    findings.retain(|finding| finding.diagnostic.code != TAKEN);
}

/// What to do about endpoints that are there and cannot be used.
pub(super) const NOT_USABLE: &str =
    "endpoints are known and cannot be used: not ready, or without address";

/// What to do about a ServiceEntry that nothing adds endpoints to.
pub(super) const COMPLETE: &str = "add endpoints, or a workloadSelector, to the ServiceEntry";

/// Stands in the place of a finding that another one says better.
const TAKEN: &str = "";

/// As it is written.
fn written<'w>(world: &'w World, refusal: &Refusal) -> Option<&'w RouteDestination> {
    let spec = world.get(&refusal.rule.object)?.spec.virtual_service()?;
    spec.route(refusal.rule.list, refusal.rule.index as usize).get(refusal.destination)
}

fn finding(facts: &Facts<'_>, refusal: &Refusal) -> Option<Finding> {
    let (world, examined) = (facts.world, facts.examined);
    let written = written(world, refusal)?;
    let place = refusal.rule.destination_path(refusal.destination);
    let host = format!("{place}.host");
    let subset = match &written.subset {
        Some(_) => format!("{place}.subset"),
        None => host.clone(),
    };
    let id = &refusal.id;
    let name = match id.subset.as_deref() {
        Some(subset) => format!("the subset {subset} of {}:{}", id.host, id.port),
        None => format!("{}:{}", id.host, id.port),
    };
    let for_whom = match examined.for_whom(refusal) {
        Some(whom) => format!(" for {whom}"),
        None => String::new(),
    };
    let refused = format!("its share of the connections is refused{for_whom}");
    let because = &refusal.because;
    let is_complete = id.view.first().is_some_and(|service| facts.complete(service));
    type Told = (String, &'static Code, String);
    let (path, code, message): Told = match refusal.lacks {
        Some(Lacks::Service) => (host, &references::UNKNOWN_HOST, format!("{because}: {refused}")),
        Some(Lacks::Export) => (host, &references::HIDDEN_HOST, format!("{because}: {refused}")),
        Some(Lacks::Alias) => (host, &differences::ALIAS_HOST, format!("{because}: {refused}")),
        Some(Lacks::Port) => (
            if written.port.is_some() { format!("{place}.port.number") } else { host },
            &references::UNKNOWN_PORT,
            format!("{because}: {refused}"),
        ),
        Some(Lacks::Subset) => {
            (subset, &references::SUBSET_NOT_IN_FORCE, format!("{because}: {refused}"))
        }
        Some(Lacks::Endpoints) if facts.is_all || is_complete => {
            (subset, &differences::NO_ENDPOINTS, format!("{because}: {refused}"))
        }
        Some(Lacks::Endpoints) => (
            subset,
            &differences::NO_KNOWN_ENDPOINT,
            format!("the documents have no endpoint of {name}: {refused}"),
        ),
        Some(Lacks::Family) => {
            let family = if id.v6 { "IPv6" } else { "IPv4" };
            let message = format!(
                "{name} has no {family} endpoint: connections to an {family} address of the hosts \
                 are refused{for_whom} when they come here"
            );
            (subset, &differences::OTHER_FAMILY, message)
        }
        Some(Lacks::Usable) | None => (
            subset,
            &differences::NO_ENDPOINTS,
            format!("{name} has no usable endpoint: {refused}"),
        ),
        Some(
            Lacks::Labels
            | Lacks::Node
            | Lacks::Locality
            | Lacks::Limit
            | Lacks::Bytes
            | Lacks::Way
            | Lacks::Resolution
            | Lacks::Sockets,
        ) => (subset, &differences::NO_ENDPOINTS, format!("{because}: {refused}")),
    };
    let mut diagnostic = Diagnostic::new(code, message);
    diagnostic.help = match refusal.lacks {
        Some(Lacks::Usable) => Some(NOT_USABLE.to_owned()),
        Some(Lacks::Endpoints) if is_complete => Some(COMPLETE.to_owned()),
        Some(Lacks::Export) => Some("export it, or choose another destination".to_owned()),
        Some(Lacks::Subset) => Some(
            "define it in the DestinationRule that is in force for these clients, or in the \
             namespace of the service, and export that"
                .to_owned(),
        ),
        _ => None,
    };
    // What of Istio's this code stands for was not found by its way of looking.
    diagnostic.istio = None;
    Some(Finding { object: refusal.rule.object.clone(), path, diagnostic })
}

/// What was found that explains a refusal.
struct Causes {
    /// At a `destination`: the codes, and which findings they are.
    destinations: HashMap<(ObjectRef, String), Vec<(&'static str, usize)>>,
    /// Subsets of DestinationRules that have nobody in them, with their paths.
    empty_subsets: HashSet<(ObjectRef, String)>,
}

impl Causes {
    fn new(findings: &[Finding]) -> Self {
        let mut causes = Self { destinations: HashMap::new(), empty_subsets: HashSet::new() };
        let told: [&Code; 4] = [
            &references::UNKNOWN_HOST,
            &references::UNKNOWN_PORT,
            &references::PORT_REQUIRED,
            &references::UNKNOWN_SUBSET,
        ];
        for (at, Finding { object, path, diagnostic }) in findings.iter().enumerate() {
            let code = diagnostic.code;
            if told.iter().any(|told| told.id == code)
                && let Some(end) = path.find(".destination")
            {
                let place = path[..end + ".destination".len()].to_owned();
                causes.destinations.entry((object.clone(), place)).or_default().push((code, at));
            }
            if code == references::EMPTY_SUBSET.id
                || code == references::SUBSET_WITHOUT_ENDPOINTS.id
            {
                causes.empty_subsets.insert((object.clone(), path.clone()));
            }
        }
        causes
    }

    /// What was found at a `destination`.
    fn at(&self, object: &ObjectRef, path: &str) -> &[(&'static str, usize)] {
        let found = self.destinations.get(&(object.clone(), path.to_owned()));
        found.map(Vec::as_slice).unwrap_or_default()
    }

    /// Takes away that the host of a `destination` is not known to Istio's
    /// analysis.
    fn take(&mut self, object: &ObjectRef, path: &str, findings: &mut [Finding]) -> bool {
        let mut told = self.at(object, path).iter();
        let Some((_, at)) = told.find(|(code, _)| *code == references::UNKNOWN_HOST.id) else {
            return false;
        };
        if let Some(finding) = findings.get_mut(*at) {
            finding.diagnostic.code = TAKEN;
        }
        true
    }

    /// Whether a DestinationRule was told that this subset of it is empty.
    fn empty_subset(&self, world: &World, refusal: &Refusal) -> bool {
        let wanted = refusal.id.subset.as_deref();
        refusal.id.view.iter().skip(1).any(|rule| {
            let spec = world.get(rule).and_then(|object| object.spec.destination_rule());
            let subsets = spec.map_or(&[][..], |spec| &spec.subsets);
            let place = subsets.iter().position(|subset| Some(&*subset.name) == wanted);
            place.is_some_and(|place| {
                let path = format!("spec.subsets[{place}]");
                self.empty_subsets.contains(&(rule.clone(), path))
            })
        })
    }
}
