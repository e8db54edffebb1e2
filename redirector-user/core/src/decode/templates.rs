//! Deployments and the like, which are no objects of ours: what they promise of Pods.

use std::sync::Arc;

use crate::model::Labels;
use crate::yaml::{Node, Position, Value};

/// A pod template of a Deployment or the like: a promise of Pods.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodTemplate {
    /// The namespace of the Pods.
    pub namespace: Arc<str>,
    /// Their labels.
    pub labels: Labels,
}

/// A Deployment of a file, as far as the Services of its Pods concern it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deployment {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: String,
    /// The labels of its Pods.
    pub(crate) labels: Labels,
    /// Whether its Pods have a sidecar, when the Deployment itself says so.
    pub(crate) sidecar: Option<bool>,
    /// Where its name stands.
    pub(crate) position: Position,
}

/// The Deployment of a document; `None` for other kinds, and for waypoints,
/// which Istio makes itself.
pub(crate) fn deployment(root: &Node) -> Option<Deployment> {
    let is = |field: &str, value: &str| root.get(field).and_then(Node::as_str) == Some(value);
    let managed = root.get("metadata").and_then(|metadata| metadata.get("labels"));
    let managed = managed.and_then(|labels| labels.get("gateway.istio.io/managed")?.as_str());
    if !is("apiVersion", "apps/v1")
        || !is("kind", "Deployment")
        || managed == Some("istio.io-mesh-controller")
    {
        return None;
    }
    let template = root.get("spec")?.get("template")?;
    let metadata = template.get("metadata")?;
    let containers = template.get("spec").and_then(|spec| spec.get("containers"));
    let has_proxy = matches!(
        containers.map(|containers| &containers.value),
        Some(Value::List(all)) if all.iter().any(|one| {
            one.get("name").and_then(Node::as_str) == Some("istio-proxy")
                && one.get("image").is_some()
        })
    );
    let said = ["labels", "annotations"].into_iter().find_map(|place| {
        let said = metadata.get(place)?.get("sidecar.istio.io/inject")?;
        Some(said.as_str() == Some("true"))
    });
    let name = root.get("metadata")?.get("name")?;
    Some(Deployment {
        namespace: root.nearest("metadata.namespace").as_str().unwrap_or("default").into(),
        name: name.as_str()?.to_owned(),
        labels: labels(metadata.get("labels")?)?,
        sidecar: if has_proxy { Some(true) } else { said },
        position: name.position,
    })
}

/// What are strings in a map.
fn labels(node: &Node) -> Option<Labels> {
    let Value::Map(entries) = &node.value else { return None };
    let pairs = entries.iter();
    let pairs = pairs.filter_map(|one| Some((one.key.to_string(), one.value.as_str()?.to_owned())));
    Some(pairs.collect())
}

/// The pod template of a Deployment, StatefulSet, DaemonSet or the like.
pub(crate) fn pod_template(root: &Node) -> Option<PodTemplate> {
    labelled(root, root.get("spec")?.get("template")?)
}

/// A Pod, as far as it can be read.
pub(crate) fn pod(root: &Node) -> Option<PodTemplate> {
    labelled(root, root)
}

fn labelled(root: &Node, pod: &Node) -> Option<PodTemplate> {
    let namespace = root.nearest("metadata.namespace").as_str().unwrap_or("default");
    let labels = labels(pod.get("metadata")?.get("labels")?)?;
    Some(PodTemplate { namespace: namespace.into(), labels })
}
