//! What kinds the server serves, and how discovery describes them.

use serde_json::{Value, json};

/// A kind of objects.
#[derive(Clone, Debug)]
pub struct Resource {
    /// The group; empty for core.
    pub group: String,
    /// The served versions, the preferred one first.
    pub versions: Vec<String>,
    /// The name in paths.
    pub plural: String,
    /// The name in `kind:`.
    pub kind: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether a CustomResourceDefinition defines it. Lists of built-in kinds
    /// leave out `kind` and `apiVersion` of their items.
    pub custom: bool,
}

impl Resource {
    /// A built-in kind with one version.
    pub fn builtin(group: &str, version: &str, plural: &str, kind: &str, namespaced: bool) -> Self {
        Self {
            group: group.into(),
            versions: vec![version.into()],
            plural: plural.into(),
            kind: kind.into(),
            namespaced,
            custom: false,
        }
    }

    /// One of Istio's kinds, with the versions that its CRDs serve.
    pub fn istio(plural: &str, kind: &str) -> Self {
        Self {
            group: "networking.istio.io".into(),
            versions: ["v1", "v1beta1", "v1alpha3"].map(Into::into).to_vec(),
            plural: plural.into(),
            kind: kind.into(),
            namespaced: true,
            custom: true,
        }
    }

    /// The built-in kinds that the agent has to do with.
    pub fn builtins() -> Vec<Self> {
        vec![
            Self::builtin("", "v1", "namespaces", "Namespace", false),
            Self::builtin("", "v1", "nodes", "Node", false),
            Self::builtin("", "v1", "pods", "Pod", true),
            Self::builtin("", "v1", "services", "Service", true),
            Self::builtin("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true),
            Self::builtin("events.k8s.io", "v1", "events", "Event", true),
            Self::builtin("coordination.k8s.io", "v1", "leases", "Lease", true),
        ]
    }

    /// Istio's networking kinds, as far as the agent reads them.
    pub fn istios() -> Vec<Self> {
        vec![
            Self::istio("virtualservices", "VirtualService"),
            Self::istio("destinationrules", "DestinationRule"),
            Self::istio("gateways", "Gateway"),
            Self::istio("serviceentries", "ServiceEntry"),
            Self::istio("workloadentries", "WorkloadEntry"),
        ]
    }

    /// `virtualservices.networking.istio.io`, `pods`: how messages name it.
    pub fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// `apiVersion` of a version.
    pub fn api_version(&self, version: &str) -> String {
        match self.group.as_str() {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }

    /// Its entry in an APIResourceList.
    fn entry(&self) -> Value {
        json!({
            "name": self.plural,
            "singularName": self.kind.to_lowercase(),
            "namespaced": self.namespaced,
            "kind": self.kind,
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        })
    }
}

/// `GET /apis`.
pub fn group_list(resources: &[Resource]) -> Value {
    let mut groups: Vec<Value> = Vec::new();
    for resource in resources.iter().filter(|resource| !resource.group.is_empty()) {
        if !groups.iter().any(|group| group["name"] == resource.group.as_str()) {
            groups.extend(group(resources, &resource.group));
        }
    }
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `GET /apis/GROUP`, without its kind; `None` when nothing is served there.
pub fn group(resources: &[Resource], name: &str) -> Option<Value> {
    let mut versions: Vec<&String> = Vec::new();
    for resource in resources.iter().filter(|resource| resource.group == name) {
        for version in &resource.versions {
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
    }
    let preferred = versions.first()?;
    let of =
        |version: &str| json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    Some(json!({
        "name": name,
        "versions": versions.iter().map(|version| of(version)).collect::<Vec<_>>(),
        "preferredVersion": of(preferred),
    }))
}

/// `GET /api/v1`, `GET /apis/GROUP/VERSION`; `None` when nothing is served
/// there.
pub fn resource_list(resources: &[Resource], group: &str, version: &str) -> Option<Value> {
    let entries: Vec<Value> = (resources.iter())
        .filter(|resource| {
            resource.group == group && resource.versions.iter().any(|v| v == version)
        })
        .map(Resource::entry)
        .collect();
    let group_version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    (!entries.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version,
            "resources": entries,
        })
    })
}
