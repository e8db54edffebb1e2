//! What is left alone for a while: the break-glass of the person on call.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Kind, ObjectRef, SourceId, namespaced};

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
        let (namespace, name) =
            namespaced(text).map_err(|expected| format!("{expected}: {text}"))?;
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
        let (namespace, name) = namespaced(rest).map_err(|_| {
            format!("expected VirtualService/NAMESPACE/NAME, as `explain` shows a rule: {text}")
        })?;
        let (namespace, name) = (namespace.into(), name.into());
        Ok(Self::Rule(ObjectRef { kind: Kind::VirtualService, namespace, name }))
    }
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
