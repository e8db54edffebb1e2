//! From what the API server sends to what the core reads.

use std::sync::Arc;

use kube::api::{DynamicObject, PartialObjectMeta};
use redirector_core::documents;
use redirector_core::model::{Object, ObjectRef};
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
    annotation.contains("redirector.io/")
        || annotation.contains("istio.io/")
        || annotation.starts_with("kubernetes.io/config.")
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
        if let Some(annotations) = &mut meta.annotations {
            annotations.retain(|annotation, _| is_read(annotation));
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
        let content = documents::read_json(&data).into();
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
        assert_eq!((pod.node.as_str(), pod.ips.len()), ("worker", 1));
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
