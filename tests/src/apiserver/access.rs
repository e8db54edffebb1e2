//! Who may do what, and who did what.

use serde_json::Value;

/// What a role allows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rule {
    /// The namespace of the Role that it stands in; empty for a ClusterRole.
    pub namespace: String,
    /// The group; empty for core.
    pub group: String,
    /// The plural, with `/subresource` if any.
    pub resource: String,
    /// The verb.
    pub verb: String,
    /// The one object that it is limited to; empty for all.
    pub name: String,
}

impl Rule {
    /// The rules of a Role or ClusterRole, one for each group, resource and
    /// verb.
    pub fn of_role(role: &Value) -> Vec<Self> {
        let list = |value: &Value| -> Vec<String> {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let mut rules = Vec::new();
        for rule in role["rules"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let mut names = list(&rule["resourceNames"]);
            if names.is_empty() {
                names.push(String::new());
            }
            for group in list(&rule["apiGroups"]) {
                for resource in list(&rule["resources"]) {
                    for verb in list(&rule["verbs"]) {
                        rules.extend(names.iter().map(|name| Self {
                            namespace: role["metadata"]["namespace"].as_str().unwrap_or("").into(),
                            group: group.clone(),
                            resource: resource.clone(),
                            verb: verb.clone(),
                            name: name.clone(),
                        }));
                    }
                }
            }
        }
        rules
    }

    /// Whether it allows a request.
    pub fn allows(&self, used: &Used) -> bool {
        (self.namespace.is_empty() || self.namespace == used.namespace)
            && self.group == used.group
            && self.resource == used.resource
            && self.verb == used.verb
            && (self.name.is_empty() || self.name == used.name)
    }
}

/// A request that was made, as authorization sees it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Used {
    /// The group.
    pub group: String,
    /// The plural, with `/subresource` if any.
    pub resource: String,
    /// The verb.
    pub verb: String,
    /// Empty at the cluster scope.
    pub namespace: String,
    /// Empty for lists, watches and creations.
    pub name: String,
    /// Path and query.
    pub target: String,
    /// The `Accept` header.
    pub accept: String,
    /// The `User-Agent` header.
    pub user_agent: String,
}
