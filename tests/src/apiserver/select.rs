//! Which objects a list or a watch is about, and in what form.

use serde_json::{Value, json};

use super::resource::Resource;

/// What the query and the headers of a list or watch ask for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only this namespace; empty for all.
    pub namespace: String,
    /// `fieldSelector`, `labelSelector`: path, whether equal, value.
    fields: Vec<(String, bool, String)>,
    labels: Vec<(String, bool, String)>,
    /// Only metadata.
    pub metadata_only: bool,
}

impl Selection {
    /// Reads the query.
    pub fn new(namespace: &str, fields: &str, labels: &str, accept: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            fields: requirements(fields),
            labels: requirements(labels),
            metadata_only: accept.contains("as=PartialObjectMetadata"),
        }
    }

    /// Whether selectors were given.
    pub fn is_selective(&self) -> bool {
        !self.fields.is_empty() || !self.labels.is_empty()
    }

    /// The first field that objects of this kind cannot be selected by.
    pub fn unsupported(&self, resource: &Resource) -> Option<&str> {
        let more: &[&str] = match resource.qualified().as_str() {
            "pods" => &["spec.nodeName", "status.phase", "status.podIP"],
            "nodes" => &["spec.unschedulable"],
            "namespaces" => &["status.phase"],
            "services" => &["spec.clusterIP", "spec.type"],
            _ => &[],
        };
        let known = |path: &str| {
            matches!(path, "metadata.name" | "metadata.namespace") || more.contains(&path)
        };
        self.fields.iter().map(|(path, _, _)| path.as_str()).find(|path| !known(path))
    }

    /// Whether an object is meant.
    pub fn matches(&self, namespace: &str, object: &Value) -> bool {
        if !self.namespace.is_empty() && self.namespace != namespace {
            return false;
        }
        let fields = self.fields.iter().all(|(path, equal, value)| {
            let found = path.split('.').fold(object, |at, step| &at[step]);
            (found.as_str().unwrap_or_default() == value) == *equal
        });
        fields
            && self.labels.iter().all(|(label, equal, value)| {
                let found = &object["metadata"]["labels"][label];
                (found.as_str() == Some(value)) == *equal
            })
    }

    /// An object as it is sent. In lists, items of built-in kinds have no kind.
    pub fn form(&self, resource: &Resource, version: &str, object: &Value, item: bool) -> Value {
        let mut object = object.clone();
        if self.metadata_only {
            return json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"],
            });
        }
        if item && !resource.custom {
            if let Value::Object(fields) = &mut object {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
        } else {
            object["kind"] = json!(resource.kind);
            object["apiVersion"] = json!(resource.api_version(version));
        }
        object
    }

    /// `kind` and `apiVersion` of a list.
    pub fn list_kind(&self, resource: &Resource, version: &str) -> (String, String) {
        if self.metadata_only {
            return ("PartialObjectMetadataList".into(), "meta.k8s.io/v1".into());
        }
        (format!("{}List", resource.kind), resource.api_version(version))
    }
}

/// `a=b,c!=d`.
fn requirements(text: &str) -> Vec<(String, bool, String)> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts
        .filter_map(|part| match part.split_once("!=") {
            Some((key, value)) => Some((key.to_owned(), false, value.to_owned())),
            None => {
                let (key, value) = part.split_once('=')?;
                let value = value.strip_prefix('=').unwrap_or(value);
                Some((key.to_owned(), true, value.to_owned()))
            }
        })
        .collect()
}
