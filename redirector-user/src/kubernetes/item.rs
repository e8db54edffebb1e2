//! From what the API server sends to what the core reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::{DynamicObject, PartialObjectMeta};
use redirector_core::diag::Diagnostic;
use redirector_core::diag::codes::differences;
use redirector_core::documents;
use redirector_core::model::annotations;
use redirector_core::model::{Kind, Object, ObjectRef};
use redirector_core::store::Content;
use serde_json::{Value, json};

use super::events::Incarnation;
use super::held::{Name, Version};
use super::resource::Resource;

/// An object of the API server, read.
#[derive(Clone, Debug)]
pub struct Item {
    /// Which.
    pub name: Name,
    /// Which version.
    pub version: Version,
    /// Which object it is to the core.
    pub reference: ObjectRef,
    /// Which of the objects that had its name, and in which version.
    pub incarnation: Incarnation,
    /// What the core makes of it: the object, or why it is refused.
    pub content: Content,
}

/// Annotations that decide nothing here make up most of the metadata of many
/// objects, and are not kept.
fn is_read(annotation: &str) -> bool {
    annotation.contains(annotations::OURS)
        || annotation.contains("istio.io/")
        || annotation.starts_with("kubernetes.io/config.")
}

/// What workloads say of the machine that they are on. It is for machines whose
/// owner writes the objects as well: here, whoever may write some in one
/// namespace would choose who the processes of all others are.
const OF_PLAIN_MACHINES: [&str; 4] =
    [annotations::CGROUP, annotations::NETNS, annotations::GATEWAY, annotations::GATEWAY_FOR];

/// Takes out what is not honoured in a cluster.
fn disregarded(kind: Kind, annotations: &mut BTreeMap<String, String>) -> Vec<&'static str> {
    if !matches!(kind, Kind::Pod | Kind::WorkloadEntry) {
        return Vec::new();
    }
    OF_PLAIN_MACHINES.into_iter().filter(|name| annotations.remove(*name).is_some()).collect()
}

impl Item {
    /// A whole object.
    pub fn full(resource: Resource, api_version: &str, object: DynamicObject) -> Self {
        Self::new(resource, api_version, object.metadata, object.data)
    }

    /// The metadata of an object.
    pub fn metadata(
        resource: Resource,
        api_version: &str,
        object: PartialObjectMeta<DynamicObject>,
    ) -> Self {
        Self::new(resource, api_version, object.metadata, json!({}))
    }

    fn new(
        resource: Resource,
        api_version: &str,
        mut meta: kube::core::ObjectMeta,
        mut data: Value,
    ) -> Self {
        let name = name_of(&meta);
        let version = version_of(&meta);
        meta.managed_fields = None;
        let mut without = Vec::new();
        if let Some(annotations) = &mut meta.annotations {
            annotations.retain(|annotation, _| is_read(annotation));
            without = disregarded(resource.kind(), annotations);
        }
        // In lists, the items of built-in kinds have no kind.
        data["apiVersion"] = json!(api_version);
        data["kind"] = json!(resource.kind().as_str());
        data["metadata"] = serde_json::to_value(&meta).unwrap_or_default();
        let reference = reference(resource, &name);
        let incarnation = Incarnation {
            api_version: api_version.into(),
            uid: version.uid.clone(),
            generation: meta.generation.unwrap_or_default(),
        };
        let mut content = documents::read_json(&data).into();
        if let Content::Whole(documents) = &mut content
            && let Some(document) = documents.first_mut()
        {
            let findings = without.into_iter().map(|annotation| Diagnostic {
                object: Some(reference.to_string()),
                path: format!("metadata.annotations[{annotation}]"),
                ..Diagnostic::new(
                    &differences::PLAIN_MACHINE,
                    "this annotation is read on plain machines only, and has no effect",
                )
            });
            document.diagnostics.extend(findings);
        }
        Self { name, version, reference, incarnation, content }
    }

    /// The object, if it is acceptable.
    pub fn object(&self) -> Option<&Arc<Object>> {
        match &self.content {
            Content::Whole(documents) => documents.first()?.object.as_ref(),
            Content::Broken(_) => None,
        }
    }
}

/// Which object of a resource.
pub fn name_of(meta: &kube::core::ObjectMeta) -> Name {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Which version of an object.
pub fn version_of(meta: &kube::core::ObjectMeta) -> Version {
    Version {
        uid: meta.uid.clone().unwrap_or_default(),
        version: meta.resource_version.clone().unwrap_or_default(),
    }
}

/// Which object it is to the core.
pub fn reference(resource: Resource, name: &Name) -> ObjectRef {
    ObjectRef {
        kind: resource.kind(),
        namespace: name.0.as_str().into(),
        name: name.1.as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redirector_core::model::Spec;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_item_of_a_list_gets_its_kind_and_loses_what_is_not_read() {
        let item = Item::full(
            Resource::OwnPods,
            "v1",
            object(json!({
                "metadata": {
                    "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
                    "labels": { "app": "x" },
                    "annotations": { "kubernetes.io/config.hash": "abc", "other/one": "long" },
                },
                "spec": { "nodeName": "worker", "containers": [] },
                "status": { "podIP": "10.0.0.1", "phase": "Running" },
            })),
        );
        assert_eq!(item.name, ("n".to_owned(), "a".to_owned()));
        assert_eq!(item.version, Version { uid: "u".into(), version: "7".into() });
        let object = item.object().unwrap_or_else(|| panic!("{item:?}"));
        assert_eq!(object.reference(), item.reference);
        assert_eq!(object.meta.annotations.len(), 1, "{:?}", object.meta.annotations);
        let Spec::Pod(pod) = &object.spec else { panic!("{object:?}") };
        assert_eq!((&*pod.node, pod.ips.len()), ("worker", 1));
    }

    #[test]
    fn who_may_write_a_workload_does_not_choose_its_processes() {
        for (resource, api_version) in
            [(Resource::WorkloadEntries, "networking.istio.io/v1"), (Resource::OwnPods, "v1")]
        {
            let mut value = json!({
                "metadata": {
                    "name": "a", "namespace": "n", "annotations": {
                        "redirector.io/cgroup": "kubepods/podx",
                        "redirector.io/netns": "/proc/1/ns/net",
                        "redirector.io/gateway": "true",
                        "redirector.io/gateway-for": "10.96.0.1 443=15400",
                        "redirector.io/drain": "30s",
                    },
                },
                "spec": { "address": "10.0.0.1" },
            });
            if resource == Resource::OwnPods {
                value["spec"] = json!({ "nodeName": "worker" });
            }
            let item = Item::full(resource, api_version, object(value));
            let kept = &item.object().unwrap_or_else(|| panic!("{item:?}")).meta.annotations;
            assert_eq!(kept.keys().collect::<Vec<_>>(), ["redirector.io/drain"]);
            let Content::Whole(documents) = &item.content else { panic!("{item:?}") };
            let told = &documents[0].diagnostics;
            let told = told.iter().filter(|one| one.code == differences::PLAIN_MACHINE.id);
            assert_eq!(told.count(), 4, "{documents:?}");
        }
        let service = json!({
            "metadata": {
                "name": "a", "namespace": "n", "annotations": { "redirector.io/gateway": "true" },
            },
            "spec": { "ports": [{ "port": 19000 }] },
        });
        let item = Item::full(Resource::Services, "v1", object(service));
        assert_eq!(item.object().unwrap().meta.annotations.len(), 1);
    }

    #[test]
    fn metadata_alone_is_a_pod_with_labels() {
        let meta: PartialObjectMeta<DynamicObject> = serde_json::from_value(json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": { "name": "a", "namespace": "n", "labels": { "app": "x" } },
        }))
        .unwrap();
        let item = Item::metadata(Resource::OtherPods, "v1", meta);
        let object = item.object().unwrap_or_else(|| panic!("{item:?}"));
        assert_eq!(object.meta.labels["app"], "x");
        assert!(matches!(&object.spec, Spec::Pod(pod) if pod.ips.is_empty()));
    }

    #[test]
    fn what_the_api_server_admits_and_istio_would_not_is_refused_by_itself() {
        let item = Item::full(
            Resource::VirtualServices,
            "networking.istio.io/v1",
            object(json!({
                "metadata": { "name": "bad", "namespace": "n" },
                "spec": { "hosts": ["a"], "tcp": [
                    { "match": [{ "port": 70000 }], "route": [{ "destination": { "host": "x" } }] },
                ] },
            })),
        );
        assert!(item.object().is_none());
        let Content::Whole(documents) = &item.content else { panic!("{item:?}") };
        assert_eq!(documents[0].reference, Some(item.reference));
        assert!(!documents[0].diagnostics.is_empty());
    }
}
