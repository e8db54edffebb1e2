//! The answer of the tables themselves: what the next connection gets, whatever
//! the documents say.

use std::net::SocketAddr;

use ipnet::IpNet;
use redirector_common::abi::{Backend, Leg, Verdict, VerdictKind};
use redirector_common::addr::{Addr, V4_MAPPED_BITS};

use super::shares::rounded;
use super::{
    DestinationView, Explanation, FrontendView, Query, QuerySource, RuleView, VerdictWord,
};
use super::{explain_with, list_word};
use crate::image::{Image, Prefix};
use crate::layout::{Layout, Names};
use crate::model::{RuleId, RuleList, Spec};
use crate::plan::FrontendId;
use crate::registry::Registry;
use crate::world::World;

/// Replaces everything in an explanation that the tables decide by what the
/// tables say, for callers of this class. Where that is not what the documents
/// say, a note tells so; who asks without documents has nothing to compare.
pub fn answer(
    explanation: &mut Explanation,
    image: &Image,
    names: &Names<'_>,
    documents: Option<&World>,
    dialled: SocketAddr,
    class: u32,
) {
    let said = explanation.clone();
    explanation.verdict = VerdictWord::Passthrough;
    (explanation.frontend, explanation.rule) = (None, None);
    explanation.destinations.clear();
    explanation.endpoints.clear();
    explanation.refused_share = 0.0;
    let addr = Addr::from(dialled.ip());
    if let Some((id, verdict)) = frontend(image, addr, dialled.port()) {
        let owner = names.frontends.get(&id);
        explanation.frontend = Some(FrontendView {
            prefix: id.prefix.to_string(),
            port: id.port,
            service: owner.map(|o| format!("{}/{}", o.namespace, o.name)),
        });
        match for_class(image, verdict, class).kind() {
            VerdictKind::Pass => {}
            VerdictKind::Refuse | VerdictKind::Classes(_) => refuse(explanation),
            VerdictKind::Route(route) => {
                let rule = names.routes.get(&route).and_then(|route| route.rule.as_ref());
                explanation.rule = rule.map(|rule| rule_view(rule, documents));
                take(explanation, image, names, route, dialled);
            }
        }
    }
    // Why a share is refused is known by the documents alone.
    for destination in &mut explanation.destinations {
        let same = |other: &&DestinationView| {
            (&other.host, &other.subset, other.port)
                == (&destination.host, &destination.subset, destination.port)
        };
        if let Some(said) = said.destinations.iter().find(same) {
            destination.because.clone_from(&said.because);
            destination.unresolved.clone_from(&said.unresolved);
        }
    }
    let differs = said.verdict != explanation.verdict
        || said.rule.as_ref().map(|rule| (&rule.object, rule.index))
            != explanation.rule.as_ref().map(|rule| (&rule.object, rule.index))
        || !same_shares(&said, explanation);
    if documents.is_some() && differs {
        explanation.notes.push(
            "the tables in the kernel say otherwise than the documents that they were made of: \
             somebody else has changed them (the daemon mends that), or a change is being made"
                .to_owned(),
        );
    }
}

/// The class in the tables that a described source would be in: one whose
/// workloads get the same answer for this destination. `None` when there is
/// none like it.
pub fn class_like(
    world: &World,
    registry: &Registry,
    layout: &Layout,
    query: &Query,
) -> Option<u32> {
    let wanted = explain_with(world, registry, query).ok()?;
    let alike = |source: QuerySource| {
        let query = Query { source, ..query.clone() };
        explain_with(world, registry, &query).is_ok_and(|got| {
            got.frontend == wanted.frontend
                && got.rule == wanted.rule
                && got.verdict == wanted.verdict
                && got.destinations == wanted.destinations
                && got.endpoints == wanted.endpoints
        })
    };
    if alike(QuerySource::Unknown) {
        return Some(0);
    }
    let names = layout.names();
    names.classes.iter().find_map(|(number, example)| {
        let (namespace, name) = (example.namespace.to_string(), example.name.to_string());
        alike(QuerySource::Workload { namespace, name }).then_some(*number)
    })
}

/// The frontend that an address and port belong to, and what it says.
fn frontend(image: &Image, addr: Addr, port: u16) -> Option<(FrontendId, Verdict)> {
    if let Some(verdict) = image.frontends.get(&(addr, port)) {
        let prefix = IpNet::from(std::net::IpAddr::from(addr));
        return Some((FrontendId { prefix, port }, *verdict));
    }
    (0..=128_u8).rev().find_map(|len| {
        let mask = if len == 0 { 0 } else { u128::MAX << (128 - len) };
        let network = Addr::from_bits(addr.to_bits() & mask);
        let verdict = image.prefixes.get(&Prefix { addr: network, len, port })?;
        Some((FrontendId { prefix: prefix_of(network, len)?, port }, *verdict))
    })
}

/// A prefix of the tables as people write it.
pub fn prefix_of(addr: Addr, len: u8) -> Option<IpNet> {
    let len = if addr.is_v4() { len.checked_sub(V4_MAPPED_BITS as u8)? } else { len };
    IpNet::new(addr.into(), len).ok()
}

fn for_class(image: &Image, verdict: Verdict, class: u32) -> Verdict {
    let VerdictKind::Classes(table) = verdict.kind() else { return verdict };
    let own = image.class_verdicts.get(&(table, class)).copied();
    // What is absent in an array is zero: to pass.
    own.or_else(|| image.class_defaults.get(&table).copied()).unwrap_or_default()
}

fn refuse(explanation: &mut Explanation) {
    explanation.verdict = VerdictWord::Refuse;
    explanation.endpoints.clear();
    explanation.refused_share = 1.0;
}

fn take(
    explanation: &mut Explanation,
    image: &Image,
    names: &Names<'_>,
    route: u32,
    dialled: SocketAddr,
) {
    let Some(route) = image.routes.get(&route) else { return refuse(explanation) };
    let legs: Vec<Option<&Leg>> =
        (0..route.count).map(|at| image.legs.get(&(route.first + at))).collect();
    let shares = shares(&legs, |leg| (leg.threshold, leg.alias));
    let mut refused = 0.0;
    for (at, (leg, share)) in legs.iter().zip(shares).enumerate() {
        let index = route.first + at as u32;
        let name = names.legs.get(&index);
        explanation.destinations.push(DestinationView {
            host: name.map_or_else(|| format!("leg {index}"), |(_, _, d)| d.host.to_string()),
            subset: name.and_then(|(_, _, d)| d.subset.as_ref().map(ToString::to_string)),
            port: name.map_or(0, |(_, _, d)| d.port),
            share: rounded(share),
            because: None,
            unresolved: Vec::new(),
        });
        let destination = leg.and_then(|leg| image.destinations.get(&leg.destination));
        let backends: Vec<Option<&Backend>> = destination
            .map(|d| (0..d.count).map(|at| image.backends.get(&(d.first + at))).collect())
            .unwrap_or_default();
        if backends.is_empty() {
            refused += share;
        }
        let parts = self::shares(&backends, |backend| (backend.threshold, backend.alias));
        for (backend, part) in backends.iter().zip(parts) {
            match backend {
                Some(backend) if share * part > 0.0 => {
                    let address = address(backend, dialled).to_string();
                    *explanation.endpoints.entry(address).or_default() += share * part;
                }
                Some(_) => {}
                None => refused += share * part,
            }
        }
    }
    for share in explanation.endpoints.values_mut() {
        *share = rounded(*share);
    }
    explanation.refused_share = rounded(refused);
    if explanation.endpoints.is_empty() {
        refuse(explanation);
    } else {
        explanation.verdict = VerdictWord::Route;
    }
}

/// What each place of an alias table is drawn with, from its thresholds.
fn shares<T>(slots: &[Option<&T>], of: impl Fn(&T) -> (u32, u32)) -> Vec<f64> {
    let each = 1.0 / slots.len().max(1) as f64;
    let mut shares = vec![0.0; slots.len()];
    for (at, slot) in slots.iter().enumerate() {
        let Some((threshold, alias)) = slot.map(&of) else {
            shares[at] += each;
            continue;
        };
        // A sole place is taken without a draw.
        let keep = if slots.len() == 1 { 1.0 } else { f64::from(threshold) / 4_294_967_296.0 };
        shares[at] += each * keep;
        if let Some(other) = shares.get_mut(alias as usize) {
            *other += each * (1.0 - keep);
        }
    }
    shares
}

fn address(backend: &Backend, dialled: SocketAddr) -> SocketAddr {
    let (ip, port) = (std::net::IpAddr::from(backend.addr), u16::from_be(backend.port));
    if !ip.is_unspecified() {
        return SocketAddr::new(ip, port);
    }
    // It stands for what was dialled.
    SocketAddr::new(dialled.ip(), if port == 0 { dialled.port() } else { port })
}

fn rule_view(rule: &RuleId, documents: Option<&World>) -> RuleView {
    let object = documents.and_then(|world| world.get(&rule.object));
    let at = rule.index as usize;
    let line = object.and_then(|object| match (&object.spec, rule.list) {
        (Spec::VirtualService(spec), RuleList::Tcp) => spec.tcp.get(at).map(|rule| rule.line),
        (Spec::VirtualService(spec), RuleList::Tls) => spec.tls.get(at).map(|rule| rule.line),
        (Spec::VirtualService(spec), RuleList::Http) => spec.http.get(at).map(|rule| rule.line),
        _ => None,
    });
    let origin = object.map(|object| object.meta.origin.clone()).unwrap_or_default();
    RuleView {
        object: rule.object.to_string(),
        list: list_word(rule.list).to_owned(),
        index: rule.index,
        file: origin.file,
        line: line.filter(|line| *line != 0).unwrap_or(origin.line),
    }
}

fn same_shares(one: &Explanation, other: &Explanation) -> bool {
    let near = |one: f64, other: f64| (one - other).abs() < 5e-6;
    one.endpoints.len() == other.endpoints.len()
        && near(one.refused_share, other.refused_share)
        && one.endpoints.iter().all(|(endpoint, share)| {
            other.endpoints.get(endpoint).is_some_and(|other| near(*share, *other))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::compile;
    use crate::documents;
    use crate::explain::explain;
    use crate::layout::ROOMY;
    use crate::world::{ServiceAddresses, Settings};

    const DOCUMENTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  clusterIP: 10.96.0.10
  selector: {app: echo}
  ports: [{name: tcp, port: 19000, targetPort: 9000}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: echo-1}
spec: {address: 10.0.0.1, labels: {app: echo, v: a}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: echo-2}
spec: {address: 10.0.0.2, labels: {app: echo, v: b}, weight: 3}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: client, annotations: {redirector.io/cgroup: client}}
spec: {address: 10.0.0.9, labels: {app: client}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo
  subsets: [{name: a, labels: {v: a}}, {name: none, labels: {v: c}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo]
  tcp:
  - match: [{sourceLabels: {app: client}}]
    route:
    - destination: {host: echo, subset: a}
      weight: 70
    - destination: {host: echo, subset: none}
      weight: 30
";

    fn world() -> World {
        let reading = documents::read(Some("rules.yaml".into()), DOCUMENTS);
        let settings = Settings { services: ServiceAddresses::Own, ..Settings::default() };
        let mut world = World::new(settings);
        for read in reading.objects {
            world.insert(read.object.expect("the documents are good"));
        }
        world
    }

    fn query(source: QuerySource, to: &str) -> Query {
        Query { source, destination: to.parse().unwrap(), gateway: None, sni: None }
    }

    fn client() -> QuerySource {
        QuerySource::Workload { namespace: "default".into(), name: "client".into() }
    }

    #[test]
    fn the_tables_say_what_the_documents_say() {
        let world = world();
        let (layout, image) = Layout::default().place(&compile(&world).plan, &ROOMY).unwrap();
        let names = layout.names();
        for (source, to) in [
            (client(), "10.96.0.10:19000"),
            (QuerySource::Unknown, "10.96.0.10:19000"),
            (client(), "10.96.0.10:19001"),
            (client(), "10.96.0.11:19000"),
        ] {
            let query = query(source, to);
            let class = class_like(&world, &Registry::new(&world), &layout, &query).unwrap();
            let said = explain(&world, &query).unwrap();
            let mut answered = said.clone();
            answer(&mut answered, &image, &names, Some(&world), query.destination, class);
            assert_eq!(answered.notes, said.notes, "{to}");
            assert_eq!(answered.rule, said.rule, "{to}");
            assert_eq!(answered.frontend, said.frontend, "{to}");
            assert_eq!(answered.destinations, said.destinations, "{to}");
            assert_eq!(answered.endpoints, said.endpoints, "{to}");
            assert_eq!(answered.verdict, said.verdict, "{to}");
        }
    }

    #[test]
    fn where_the_tables_differ_they_are_believed_and_it_is_said() {
        let world = world();
        let (layout, mut image) = Layout::default().place(&compile(&world).plan, &ROOMY).unwrap();
        image.frontends.clear();
        let query = query(client(), "10.96.0.10:19000");
        let mut answered = explain(&world, &query).unwrap();
        answer(&mut answered, &image, &layout.names(), Some(&world), query.destination, 1);
        assert_eq!(answered.verdict, VerdictWord::Passthrough);
        assert!(answered.endpoints.is_empty());
        assert!(answered.notes.last().unwrap().contains("say otherwise"), "{answered:?}");
    }
}
