//! What this node's gateway workloads listen on, and with which rules.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;

use rustc_hash::FxHashSet;

use super::destinations::{Destinations, Family};
use super::readers::Trace;
use crate::client::Asker;
use crate::model::{RuleId, speaks_proxy_protocol};
use crate::plan::Verdict;
use crate::plan::gateway::{Dropped, GatewayPlan, GatewayRule, KnownClient, Listener, Mode};
use crate::registry::{Registry, Workload};
use crate::rules::{
    Block, Outdone, RuleBook, Serving, Unwatched, as_client, bound_elsewhere, servers,
};
use crate::world::World;

/// So many rules of a listener are compared with each that stands behind them;
/// beyond, only blocks that are equal are found.
const MAX_COMPARED: usize = 100;

/// Rules by the full name of a Gateway: one that takes what they match at all
/// listeners; `None` where they decide.
pub(super) type Behind = BTreeMap<(RuleId, String), Option<RuleId>>;

/// The rules of a listener so far.
#[derive(Default)]
struct Above {
    always: Option<RuleId>,
    equal: HashMap<Block, RuleId>,
    first: Vec<(Block, RuleId)>,
}

impl Above {
    /// A rule that takes what one with these conditions matches, when there are
    /// such for all of its blocks.
    fn taking(&self, conditions: &[Block]) -> Option<RuleId> {
        if self.always.is_some() || conditions.is_empty() {
            return self.always.clone();
        }
        let mut found = None;
        for block in conditions {
            let wider = || self.first.iter().find(|(other, _)| block.implies(other));
            found = Some(self.equal.get(block).or_else(|| Some(&wider()?.1))?);
        }
        found.cloned()
    }

    fn add(&mut self, conditions: &[Block], rule: &RuleId) {
        if conditions.is_empty() {
            self.always.get_or_insert_with(|| rule.clone());
        }
        for block in conditions {
            self.equal.entry(block.clone()).or_insert_with(|| rule.clone());
            if self.first.len() < MAX_COMPARED {
                self.first.push((block.clone(), rule.clone()));
            }
        }
    }
}

/// Compiles what this node serves, and says what that was made from. Which rules
/// never decide is found out where `behind` asks for it; they are left out then.
pub(super) fn compile<'q>(
    world: &World,
    registry: &'q Registry,
    book: &'q RuleBook,
    destinations: &mut Destinations<'q>,
    mut behind: Option<&mut Behind>,
) -> (GatewayPlan, Trace) {
    let mut plan = GatewayPlan::default();
    let mut hosts = FxHashSet::default();
    for workload in registry.workloads.all().filter(|workload| workload.gateway) {
        for &address in &workload.addresses {
            let (serving, outdone) = servers(world, workload, Some(address));
            plan.dropped.extend(outdone.into_iter().map(dropped));
            for (port, servers) in serving {
                let at = SocketAddr::new(address, port);
                let who = Asker::recording(as_client(workload));
                let behind = behind.as_deref_mut();
                let listener = listener(at, workload, &servers, book, &who, destinations, behind);
                hosts.extend(who.into_record().hosts);
                let Some(listener) = listener else { continue };
                if let Mode::Refuse(reason) = &listener.mode {
                    plan.dropped.push(Dropped {
                        gateway: listener.gateway.clone(),
                        server: listener.server,
                        reason: reason.clone(),
                    });
                }
                // The oldest workload of two with one address, in their order.
                plan.listeners.entry(at).or_insert(listener);
            }
        }
    }
    let gateways = registry.workloads.all().filter(|workload| workload.gateway);
    plan.dropped.extend(bound_elsewhere(world, gateways).into_iter().map(dropped));
    plan.dropped.dedup();
    if plan.asks_clients() {
        plan.clients = clients(registry);
    }
    (plan, Trace { hosts: hosts.into_iter().collect(), ..destinations.trace() })
}

impl GatewayPlan {
    /// Whether any rule asks who the client is.
    pub(super) fn asks_clients(&self) -> bool {
        let rules = self.listeners.values().flat_map(|listener| &listener.rules);
        rules.flat_map(|rule| &rule.conditions).any(Block::asks_client)
    }
}

fn dropped(server: Outdone) -> Dropped {
    let Outdone { gateway, index, reason } = server;
    Dropped { gateway, server: number(index), reason }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// The workloads by address, those left out that share one.
fn clients(registry: &Registry) -> BTreeMap<IpAddr, KnownClient> {
    let mut having: BTreeMap<IpAddr, Option<KnownClient>> = BTreeMap::new();
    // What listens for another address has that of its node, which is not its own.
    let all = registry.workloads.all().filter(|workload| workload.stands_for.is_none());
    for workload in all {
        for address in &workload.addresses {
            let client =
                KnownClient { workload: workload.object.clone(), labels: workload.labels.clone() };
            having.entry(*address).and_modify(|other| *other = None).or_insert(Some(client));
        }
    }
    having.into_iter().filter_map(|(address, client)| Some((address, client?))).collect()
}

fn listener<'q>(
    at: SocketAddr,
    workload: &Workload,
    servers: &[Serving],
    book: &'q RuleBook,
    who: &Asker<'_, 'q>,
    destinations: &mut Destinations<'q>,
    behind: Option<&mut Behind>,
) -> Option<Listener> {
    let mut behind = behind.map(|behind| (behind, Above::default()));
    let first = servers.first()?;
    let mut listener = Listener {
        workload: workload.object.clone(),
        gateway: first.gateway().reference(),
        server: number(first.index),
        port: first.port,
        dialled: workload.stands_for.as_ref().map(|other| other.address),
        mode: first.mode.clone(),
        accepting: first.accepting.clone(),
        rules: Vec::new(),
    };
    for serving in servers {
        let name = serving.name();
        let proxy_protocol = speaks_proxy_protocol(&serving.gateway().meta.annotations);
        let done = serving.rules(book, who, &mut Unwatched, |set, rule, _| {
            let Some(conditions) = rule.left_over(&name, serving.port) else {
                return ControlFlow::Continue(());
            };
            if let Some((behind, above)) = &mut behind {
                let there = (rule.id.clone(), name.clone());
                if let Some(taking) = above.taking(&conditions) {
                    behind.entry(there).or_insert(Some(taking));
                    return ControlFlow::Continue(());
                }
                behind.insert(there, None);
                above.add(&conditions, &rule.id);
            }
            let family = Family::Preferred { v6: at.is_ipv6() };
            let (_, verdict) = destinations.rule(who, set, rule, serving.port, family);
            let always = conditions.is_empty();
            listener.rules.push(GatewayRule {
                rule: rule.id.clone(),
                conditions,
                route: match verdict {
                    Verdict::Route(route) => Some(route),
                    Verdict::Pass | Verdict::Refuse => None,
                },
                proxy_protocol,
            });
            // Below a rule that always matches nothing is ever reached.
            match always && behind.is_none() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        if done.is_break() {
            break;
        }
    }
    Some(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::compile::compile;
    use crate::plan::gateway::Incoming;
    use crate::testing;
    use crate::world::Settings;

    const DOCUMENTS: &str = "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: stand-in
  annotations: {redirector.io/gateway: 'true', redirector.io/gateway-for: 10.96.1.1 19000=15400}
spec: {address: 192.0.2.1, labels: {istio: edge}}
Gateway edge:
  selector: {istio: edge}
  servers:
    - {port: {number: 19000, name: tcp, protocol: TCP}, hosts: ['*']}
    - {port: {number: 19001, name: more, protocol: TCP}, hosts: ['*']}
VirtualService edge:
  hosts: ['*']
  gateways: [edge]
  tcp:
    - match: [{port: 19000, destinationSubnets: [10.96.1.1]}]
      route: [{destination: {host: nowhere.example.com}}]
";

    #[test]
    fn a_stand_in_listens_on_its_own_ports_and_rules_see_what_was_dialled() {
        let world = testing::world(Settings::default(), DOCUMENTS);
        let plan = compile(&world).plan.gateways;
        let listens: Vec<String> = plan.listeners.keys().map(SocketAddr::to_string).collect();
        assert_eq!(listens, ["192.0.2.1:15400"]);
        let listener = plan.listeners.values().next().expect("one");
        assert_eq!(listener.port, 19000);
        let incoming = Incoming { client: Client::default(), sni: None };
        let there = "192.0.2.1".parse().expect("an address");
        assert_eq!(listener.matching(&incoming, there), Some(0));
    }
}
