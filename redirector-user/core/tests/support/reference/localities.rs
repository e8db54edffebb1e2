//! Which endpoints go first, plainly.

use redirector_core::model::{LocalitySetting, TrafficDistribution};
use redirector_core::world::World;

use super::destination_rules::Policy;
use super::services::{Endpoint, place_of_clients};

/// The endpoints that connections go to, with their weights. The clients are
/// where their node is.
pub(super) fn drawn<'e>(
    world: &World,
    endpoints: &[&'e Endpoint],
    policy: &Policy,
    distribution: Option<TrafficDistribution>,
) -> Vec<(&'e Endpoint, f64)> {
    let own = |endpoints: Vec<&'e Endpoint>| {
        endpoints.into_iter().map(|one| (one, f64::from(one.weight))).collect()
    };
    let node = world.settings.node_name.as_deref().unwrap_or_default();
    let here = place_of_clients(world);
    let known = here.iter().any(|part| !part.is_empty());
    let setting = match (&policy.locality, distribution) {
        (Some(setting), _) if setting.enabled == Some(false) => return own(endpoints.to_vec()),
        (Some(setting), _) => setting.clone(),
        (None, Some(TrafficDistribution::Close)) => labels(&[NETWORK, REGION, ZONE, SUBZONE]),
        (None, Some(TrafficDistribution::SameZone)) => labels(&[NETWORK, REGION, ZONE]),
        (None, Some(TrafficDistribution::SameNode)) => {
            labels(&[NETWORK, REGION, ZONE, SUBZONE, HOSTNAME])
        }
        (None, None) => LocalitySetting::default(),
    };
    if !setting.distribute.is_empty() {
        let said = setting.distribute.iter().find(|(from, _)| known && within(&here, from));
        let Some((_, to)) = said else { return own(endpoints.to_vec()) };
        let mut to: Vec<_> = to.iter().collect();
        to.sort_by_key(|(pattern, _)| {
            std::cmp::Reverse(pattern.split('/').filter(|part| *part != "*").count())
        });
        let group = |one: &Endpoint| to.iter().position(|(pattern, _)| within(&one.place, pattern));
        let sum = |which: Option<usize>| -> u32 {
            endpoints.iter().filter(|one| group(one) == which).map(|one| one.weight).sum()
        };
        return endpoints
            .iter()
            .filter_map(|one| {
                let which = group(one)?;
                let part = f64::from(one.weight) / f64::from(sum(Some(which)));
                Some((*one, f64::from(*to.get(which)?.1) * part))
            })
            .collect();
    }
    let preferred = policy.locality.is_none() && distribution.is_some();
    if !policy.detects_outliers && !preferred {
        return own(endpoints.to_vec());
    }
    let distance = |one: &Endpoint| {
        let mut by_label = 0;
        let count = setting.failover_priority.len();
        for (at, label) in setting.failover_priority.iter().enumerate() {
            let (key, wanted) = match label.split_once('=') {
                Some((key, value)) => (key, value.to_owned()),
                None => (label.as_str(), own_label(label, node, &here)),
            };
            let has = one.labels.as_ref().and_then(|labels| labels.get(key));
            if has.unwrap_or_default() != wanted {
                by_label = count - at;
                break;
            }
        }
        let by_place = if one.place[0] == here[0] {
            if one.place[1] != here[1] { 2 } else { usize::from(one.place[2] != here[2]) }
        } else {
            let to = setting.failover.iter().find(|(from, _)| *from == here[0]);
            3 + usize::from(to.is_some_and(|(_, to)| *to != one.place[0]))
        };
        let places = known && (count == 0 || !setting.failover.is_empty());
        (by_label, if places { by_place } else { 0 })
    };
    let nearest = endpoints.iter().map(|one| distance(one)).min();
    own(endpoints.iter().copied().filter(|one| Some(distance(one)) == nearest).collect())
}

const NETWORK: &str = "topology.istio.io/network";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";
const HOSTNAME: &str = "kubernetes.io/hostname";

fn labels(labels: &[&str]) -> LocalitySetting {
    let failover_priority = labels.iter().map(|label| (*label).to_owned()).collect();
    LocalitySetting { failover_priority, ..LocalitySetting::default() }
}

/// A label of the place of the clients.
fn own_label(label: &str, node: &str, here: &[String; 3]) -> String {
    match label {
        REGION => here[0].clone(),
        ZONE => here[1].clone(),
        SUBZONE => here[2].clone(),
        HOSTNAME => node.to_owned(),
        _ => String::new(),
    }
}

fn within(place: &[String; 3], pattern: &str) -> bool {
    pattern.split('/').zip(place).all(|(wanted, is)| wanted == "*" || wanted == is)
}
