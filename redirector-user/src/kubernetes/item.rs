//! From what the API server sends to what the core reads.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use redirector_core::diag::Diagnostic;
use redirector_core::diag::codes::differences;
use redirector_core::documents;
use redirector_core::model::annotations;
use redirector_core::model::{Kind, Object, ObjectRef};
use redirector_core::store::Content;
use rustc_hash::FxHashSet;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::events::Incarnation;
use super::held::{Name, Version};
use super::managers::Newest;
use super::prune;
use super::resource::Resource;

/// An object of the API server, read.
#[derive(Clone, Debug)]
pub struct Item {
    /// Which.
    pub name: Name,
    /// Which object it is to the core.
    pub reference: ObjectRef,
    /// Which of the objects that had its name, and in which version.
    pub incarnation: Incarnation,
    /// What the core makes of it: the object, or why it is refused.
    pub content: Content,
}

/// What workloads say of the machine that they are on. It is for machines whose
/// owner writes the objects as well: here, whoever may write some in one
/// namespace would choose who the processes of all others are.
const OF_PLAIN_MACHINES: [&str; 4] =
    [annotations::CGROUP, annotations::NETNS, annotations::GATEWAY, annotations::GATEWAY_FOR];

/// Takes out what is not honoured in a cluster.
fn disregarded(kind: Kind, annotations: &mut Map<String, Value>) -> Vec<&'static str> {
    if !matches!(kind, Kind::Pod | Kind::WorkloadEntry) {
        return Vec::new();
    }
    OF_PLAIN_MACHINES.into_iter().filter(|name| annotations.remove(*name).is_some()).collect()
}

/// What tells an object, and a version of it, from another.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which object.
    pub name: Name,
    /// Which version.
    pub version: Version,
    /// Of what is read of it: two versions of which this is equal say the same.
    pub digest: u64,
    uid: String,
    generation: i64,
    /// Who wrote it last.
    manager: Option<Arc<str>>,
}

/// As much of an object as tells what it is.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata<'a> {
    namespace: String,
    name: String,
    uid: String,
    resource_version: String,
    generation: i64,
    #[serde(borrow)]
    managed_fields: Newest<'a>,
}

/// Which object, and which version of it, as the server sends it.
///
/// # Errors
/// When it is not JSON, or has no metadata.
pub fn version(text: &str) -> serde_json::Result<(Name, Version)> {
    let Head { metadata } = serde_json::from_str(text)?;
    Ok(((metadata.namespace, metadata.name), Version(metadata.resource_version.into())))
}

/// So many names of those who write are remembered.
const MANAGERS: usize = 256;

/// Reads the objects of a resource.
#[derive(Debug)]
pub struct Reader {
    resource: Resource,
    api_version: String,
    /// What is kept of the object that was looked at last.
    kept: Vec<u8>,
    hasher: RandomState,
    /// The few names of those who write.
    managers: FxHashSet<Arc<str>>,
}

impl Reader {
    /// Of the objects of a resource. Digests of one hasher are no other's.
    pub fn new(resource: Resource, api_version: &str, hasher: RandomState) -> Self {
        let (api_version, kept) = (api_version.to_owned(), Vec::new());
        Self { resource, api_version, kept, hasher, managers: FxHashSet::default() }
    }

    /// Looks at an object, as the server sends it, without decoding it.
    ///
    /// # Errors
    /// When it is not JSON, or has no metadata.
    pub fn look(&mut self, text: &str) -> serde_json::Result<Seen> {
        let Head { metadata } = serde_json::from_str(text)?;
        let name = (metadata.namespace, metadata.name);
        let manager = metadata.managed_fields.manager().map(|manager| self.intern(manager));
        self.kept.clear();
        prune::copy(text, prune::of(self.resource.kind()), &mut self.kept)?;
        Ok(Seen {
            name,
            version: Version(metadata.resource_version.into()),
            digest: self.hasher.hash_one((&self.api_version, &self.kept)),
            uid: metadata.uid,
            generation: metadata.generation,
            manager,
        })
    }

    fn intern(&mut self, manager: &str) -> Arc<str> {
        if let Some(known) = self.managers.get(manager) {
            return known.clone();
        }
        // Whoever writes under ever new names gains nothing by it.
        if self.managers.len() >= MANAGERS {
            self.managers.clear();
        }
        let new: Arc<str> = manager.into();
        self.managers.insert(new.clone());
        new
    }

    /// Decodes the object that was looked at last.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub fn decode(&self, seen: Seen) -> serde_json::Result<Item> {
        let mut data: Value = serde_json::from_slice(&self.kept)?;
        // A list of what is in a map is taken for one where only that is looked at.
        if !(data.is_object() && data["metadata"].is_object()) {
            return Err(serde::de::Error::custom("this is no object with metadata"));
        }
        let kind = self.resource.kind();
        // In lists, the items of built-in kinds have no kind.
        data["apiVersion"] = json!(self.api_version);
        data["kind"] = json!(kind.as_str());
        let without = match &mut data["metadata"]["annotations"] {
            Value::Object(annotations) => disregarded(kind, annotations),
            _ => Vec::new(),
        };
        let reference = reference(self.resource, &seen.name);
        let incarnation = Incarnation {
            api_version: self.api_version.as_str().into(),
            uid: seen.uid,
            generation: seen.generation,
        };
        let mut content = documents::read_json(&data).into();
        if let Content::Whole(documents) = &mut content
            && let Some(document) = documents.first_mut()
        {
            let findings = without.into_iter().map(|annotation| Diagnostic {
                path: format!("metadata.annotations[{annotation}]"),
                ..Diagnostic::new(
                    &differences::PLAIN_MACHINE,
                    "this annotation is read on plain machines only, and has no effect",
                )
                .about(&reference)
            });
            document.diagnostics.extend(findings);
            if let Some(object) = document.object.as_mut().and_then(Arc::get_mut) {
                object.meta.origin.manager = seen.manager;
            }
        }
        Ok(Item { name: seen.name, reference, incarnation, content })
    }
}

impl Item {
    /// The object, if it is acceptable.
    pub fn object(&self) -> Option<&Arc<Object>> {
        object(&self.content)
    }
}

/// The object of what was read, if it is acceptable.
pub fn object(content: &Content) -> Option<&Arc<Object>> {
    match content {
        Content::Whole(documents) => documents.first()?.object.as_ref(),
        Content::Broken(_) | Content::Emptied(_) => None,
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

    fn read(resource: Resource, api_version: &str, value: &Value) -> Item {
        let mut reader = Reader::new(resource, api_version, RandomState::new());
        let seen = reader.look(&value.to_string()).unwrap();
        reader.decode(seen).unwrap()
    }

    #[test]
    fn an_item_of_a_list_gets_its_kind_and_loses_what_is_not_read() {
        let item = read(
            Resource::OwnPods,
            "v1",
            &json!({
                "metadata": {
                    "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7",
                    "labels": { "app": "x" },
                    "annotations": { "kubernetes.io/config.hash": "abc", "other/one": "long" },
                    "managedFields": [
                        { "manager": "kubectl-edit", "time": "2026-01-31T12:00:00Z" },
                        { "manager": "kubelet", "time": "2026-01-31T12:00:01Z", "fieldsV1": {},
                          "subresource": "status" },
                    ],
                },
                "spec": { "nodeName": "worker", "containers": [] },
                "status": { "podIP": "10.0.0.1", "phase": "Running" },
            }),
        );
        assert_eq!(item.name, ("n".to_owned(), "a".to_owned()));
        assert_eq!(item.incarnation.uid, "u");
        let object = item.object().unwrap_or_else(|| panic!("{item:?}"));
        assert_eq!(object.reference(), item.reference);
        assert_eq!(object.meta.annotations.len(), 1, "{:?}", object.meta.annotations);
        assert_eq!(object.meta.origin.manager.as_deref(), Some("kubectl-edit"));
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
            let item = read(resource, api_version, &value);
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
        let item = read(Resource::Services, "v1", &service);
        assert_eq!(item.object().unwrap().meta.annotations.len(), 1);
    }

    #[test]
    fn metadata_alone_is_a_pod_with_labels() {
        let meta = json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": { "name": "a", "namespace": "n", "labels": { "app": "x" } },
        });
        let item = read(Resource::OtherPods, "v1", &meta);
        let object = item.object().unwrap_or_else(|| panic!("{item:?}"));
        assert_eq!(object.meta.labels.get("app"), Some("x"));
        assert!(matches!(&object.spec, Spec::Pod(pod) if pod.ips.is_empty()));
    }

    #[test]
    fn what_the_api_server_admits_and_istio_would_not_is_refused_by_itself() {
        let item = read(
            Resource::VirtualServices,
            "networking.istio.io/v1",
            &json!({
                "metadata": { "name": "bad", "namespace": "n" },
                "spec": { "hosts": ["a"], "tcp": [
                    { "match": [{ "port": 70000 }], "route": [{ "destination": { "host": "x" } }] },
                ] },
            }),
        );
        assert!(item.object().is_none());
        let Content::Whole(documents) = &item.content else { panic!("{item:?}") };
        assert_eq!(documents[0].reference, Some(item.reference));
        assert!(!documents[0].diagnostics.is_empty());
    }
}
