//! What rules and workloads are named by.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ObjectRef;

/// A rule: an entry of a VirtualService's `tcp` (or `tls`, or an `http` entry
/// that is honoured at L4).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RuleId {
    /// The VirtualService.
    pub object: ObjectRef,
    /// Which of its lists.
    pub list: RuleList,
    /// Its place in that list.
    pub index: u32,
}

impl RuleId {
    /// Where it stands in its object, `spec.tcp[0]`.
    pub fn path(&self) -> String {
        format!("spec.{}[{}]", self.list, self.index)
    }

    /// Where a destination of its route stands.
    pub fn destination_path(&self, place: usize) -> String {
        format!("{}.route[{place}].destination", self.path())
    }
}

/// The list of a VirtualService that a rule stands in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the API")]
pub enum RuleList {
    Tcp,
    Tls,
    Http,
}

impl RuleList {
    /// As it is written in the spec.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for RuleList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which local workload: `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SourceId {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// How the processes of a workload are found.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum SourceSelector {
    /// A cgroup, as a path below the cgroup2 mount without leading slash.
    Cgroup(Arc<str>),
    /// A network namespace, as the path of a file that holds it.
    Netns(Arc<str>),
    /// A pod, by its uid (or the hash of a static pod's configuration).
    PodUid(Arc<str>),
}

/// Whether Kubernetes takes this for a name: a DNS-1123 label or, with `dots`, a subdomain, in
/// lower case.
pub fn is_name(name: &str, dots: bool) -> bool {
    let label = |label: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(label.bytes().next())
            && edge(label.bytes().next_back())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if dots {
        name.len() <= 253 && name.split('.').all(label)
    } else {
        name.len() <= 63 && label(name)
    }
}

/// The parts of `namespace/name`.
///
/// # Errors
///
/// What was expected, where no object can be called so.
pub fn namespaced(text: &str) -> Result<(&str, &str), String> {
    let parts = text.split_once('/');
    parts
        .filter(|(namespace, name)| is_name(namespace, false) && is_name(name, true))
        .ok_or_else(|| "expected NAMESPACE/NAME, such as default/client".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        assert!(is_name("a-1.b", true));
        assert!(!is_name("a-1.b", false));
        for bad in ["", "A", "-a", "a-", "a_b", "a..b", "ä"] {
            assert!(!is_name(bad, true), "{bad}");
        }
    }

    #[test]
    fn what_no_object_can_be_called_is_not_taken_apart() {
        assert_eq!(namespaced("shop/web-0.x"), Ok(("shop", "web-0.x")));
        for bad in
            ["", "web", "/web", "shop/", "a.b/web", "shop/web/x", "shop/web tcp[0]", "Shop/w"]
        {
            assert!(namespaced(bad).is_err(), "{bad}");
        }
    }
}
