//! What is left alone for a while: the break-glass of the person on call.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{Kind, ObjectRef, Spec};
use crate::names::MESH;
use crate::plan::SourceId;
use crate::world::World;

/// What is left alone: its connections go as if no rule matched.
///
/// Addresses that only we serve keep their endpoints, as they do without a
/// rule: nothing else is behind them. Gateways are not concerned: a connection
/// that has arrived there cannot be left alone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Bypass {
    /// Whatever these workloads dial.
    pub workloads: BTreeSet<SourceId>,
    /// What rules of these VirtualServices would decide.
    pub rules: BTreeSet<ObjectRef>,
}

impl Bypass {
    /// Whether a workload is left alone.
    pub fn has_workload(&self, namespace: &str, name: &str) -> bool {
        self.workloads.iter().any(|id| &*id.namespace == namespace && &*id.name == name)
    }
}

impl<'t> FromIterator<&'t Target> for Bypass {
    fn from_iter<T: IntoIterator<Item = &'t Target>>(targets: T) -> Self {
        let mut bypass = Self::default();
        for target in targets {
            match target {
                Target::Workload(id) => drop(bypass.workloads.insert(id.clone())),
                Target::Rule(object) => drop(bypass.rules.insert(object.clone())),
            }
        }
        bypass
    }
}

/// One thing that can be left alone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub enum Target {
    /// A workload.
    Workload(SourceId),
    /// A VirtualService.
    Rule(ObjectRef),
}

/// A [`Target`] as it is written down.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Text {
    /// `namespace/name`.
    Workload(String),
    /// `VirtualService/namespace/name`.
    Rule(String),
}

impl Target {
    /// A workload, from `namespace/name`.
    ///
    /// # Errors
    ///
    /// What was expected.
    pub fn workload(text: &str) -> Result<Self, String> {
        let (namespace, name) = pair(text)
            .ok_or_else(|| format!("expected NAMESPACE/NAME, such as default/client: {text}"))?;
        Ok(Self::Workload(SourceId { namespace: namespace.into(), name: name.into() }))
    }

    /// A VirtualService, from `VirtualService/namespace/name`, the way in which
    /// it is shown everywhere, or `namespace/name`.
    ///
    /// # Errors
    ///
    /// What was expected.
    pub fn rule(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("VirtualService/").unwrap_or(text);
        let (namespace, name) = pair(rest).ok_or_else(|| {
            format!("expected VirtualService/NAMESPACE/NAME, as `explain` shows a rule: {text}")
        })?;
        let (namespace, name) = (namespace.into(), name.into());
        Ok(Self::Rule(ObjectRef { kind: Kind::VirtualService, namespace, name }))
    }

    /// Whether there is something to leave alone.
    ///
    /// # Errors
    ///
    /// Why there is not.
    pub fn is_in(&self, world: &World) -> Result<(), String> {
        match self {
            Self::Workload(id) => {
                let known = [Kind::WorkloadEntry, Kind::Pod]
                    .into_iter()
                    .any(|kind| world.find(kind, &id.namespace, &id.name).is_some());
                if known {
                    return Ok(());
                }
                Err(format!(
                    "there is no Pod or WorkloadEntry {}/{} in force",
                    id.namespace, id.name
                ))
            }
            Self::Rule(object) => {
                let Some(Spec::VirtualService(spec)) = world.get(object).map(|found| &found.spec)
                else {
                    return Err(format!("there is no {object} in force"));
                };
                if spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == MESH) {
                    return Ok(());
                }
                Err(format!(
                    "{object} is for gateways only, and a connection that has arrived at a gateway \
                     cannot be left alone"
                ))
            }
        }
    }
}

fn pair(text: &str) -> Option<(&str, &str)> {
    let (namespace, name) = text.split_once('/')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains('/')).then_some((namespace, name))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => write!(f, "workload {}/{}", id.namespace, id.name),
            Self::Rule(object) => object.fmt(f),
        }
    }
}

impl From<Target> for Text {
    fn from(target: Target) -> Self {
        match target {
            Target::Workload(id) => Self::Workload(format!("{}/{}", id.namespace, id.name)),
            Target::Rule(object) => Self::Rule(object.to_string()),
        }
    }
}

impl TryFrom<Text> for Target {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        match text {
            Text::Workload(text) => Self::workload(&text),
            Text::Rule(text) => Self::rule(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents;
    use crate::explain::{Explanation, Query, QuerySource, VerdictWord, explain};
    use crate::world::{ServiceAddresses, Settings};

    const DOCUMENTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {clusterIP: 10.96.0.10, selector: {app: echo}, ports: [{name: tcp, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: one}
spec: {address: 10.0.0.1, labels: {app: echo}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: client, annotations: {redirector.io/cgroup: client}}
spec: {address: 10.0.0.9, labels: {app: client}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: other, annotations: {redirector.io/cgroup: other}}
spec: {address: 10.0.0.8, labels: {app: client}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out}
spec:
  hosts: [out.example.com]
  addresses: [10.97.0.1]
  resolution: STATIC
  ports: [{number: 80, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.0.0.2}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: first}
spec: {hosts: [echo], tcp: [{match: [{port: 80}], route: [{destination: {host: out.example.com}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: second}
spec: {hosts: [echo, out.example.com], tcp: [{route: [{destination: {host: nowhere}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec: {hosts: [echo], gateways: [edge], tcp: [{route: [{destination: {host: echo}}]}]}
";

    fn world(services: ServiceAddresses, targets: &[Target]) -> World {
        let settings =
            Settings { services, bypass: targets.iter().collect(), ..Settings::default() };
        let objects = documents::read(None, DOCUMENTS).objects;
        let mut world = World::new(settings);
        for read in objects {
            world.insert(read.object.expect("the documents are good"));
        }
        world
    }

    fn ask(world: &World, name: &str, to: &str) -> Explanation {
        let source = QuerySource::Workload { namespace: "default".into(), name: name.into() };
        let destination = format!("{to}:80").parse().expect("an address");
        explain(world, &Query { source, destination, gateway: None, sni: None }).expect("known")
    }

    fn endpoint(explanation: &Explanation) -> Option<&str> {
        explanation.endpoints.keys().next().map(String::as_str)
    }

    #[test]
    fn a_bypassed_workload_goes_as_if_no_rule_matched_and_others_as_before() {
        let target = Target::workload("default/client").unwrap();
        let world = world(ServiceAddresses::Leave, &[target]);
        let left = ask(&world, "client", "10.96.0.10");
        assert_eq!((left.verdict, &left.rule), (VerdictWord::Passthrough, &None));
        assert!(left.notes.iter().any(|note| note.contains("bypassed")), "{left:?}");
        assert_eq!(endpoint(&ask(&world, "other", "10.96.0.10")), Some("10.0.0.2:80"));
        // Nothing else is behind this address.
        assert_eq!(endpoint(&ask(&world, "client", "10.97.0.1")), Some("10.0.0.2:80"));
        assert_eq!(ask(&world, "other", "10.97.0.1").verdict, VerdictWord::Refuse);
    }

    #[test]
    fn what_a_bypassed_rule_would_take_is_not_given_to_the_next_one() {
        let target = Target::rule("VirtualService/default/first").unwrap();
        let leave = world(ServiceAddresses::Leave, std::slice::from_ref(&target));
        assert_eq!(ask(&leave, "client", "10.96.0.10").verdict, VerdictWord::Passthrough);
        let own = world(ServiceAddresses::Own, &[target]);
        assert_eq!(endpoint(&ask(&own, "client", "10.96.0.10")), Some("10.0.0.1:80"));
        assert_eq!(ask(&own, "client", "10.97.0.1").verdict, VerdictWord::Refuse);
    }

    #[test]
    fn the_tables_say_what_explain_says() {
        use crate::compile::compile;
        use crate::plan::{FrontendId, Verdict};
        let target = Target::workload("default/client").unwrap();
        let plan = compile(&world(ServiceAddresses::Leave, &[target])).plan;
        let id = FrontendId { prefix: "10.96.0.10/32".parse().unwrap(), port: 80 };
        let verdict = |name: &str| {
            let source = SourceId { namespace: "default".into(), name: name.into() };
            let frontend = &plan.frontends[&id];
            let class = plan.sources[&source].class;
            frontend.exceptions.get(&class).unwrap_or(&frontend.default)
        };
        assert_eq!(verdict("client"), &Verdict::Pass);
        assert!(matches!(verdict("other"), Verdict::Route(_)));
    }

    #[test]
    fn what_is_not_there_or_for_gateways_cannot_be_left_alone() {
        let world = world(ServiceAddresses::Leave, &[]);
        assert!(Target::workload("client").is_err());
        assert!(Target::rule("Service/default/echo").is_err());
        Target::workload("default/client").unwrap().is_in(&world).unwrap();
        Target::rule("default/first").unwrap().is_in(&world).unwrap();
        for (target, why) in [
            (Target::workload("default/nobody"), "there is no Pod or WorkloadEntry default/nobody"),
            (Target::rule("default/third"), "there is no VirtualService/default/third"),
            (Target::rule("default/edge"), "for gateways only"),
        ] {
            let error = target.unwrap().is_in(&world).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn it_is_written_down_by_name() {
        let target = Target::rule("default/first").unwrap();
        let text = serde_json::to_string(&target).unwrap();
        assert_eq!(text, "{\"rule\":\"VirtualService/default/first\"}");
        assert_eq!(serde_json::from_str::<Target>(&text).unwrap(), target);
    }
}
