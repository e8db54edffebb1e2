//! Why a watch does not work, in words that lead to the remedy.

use std::error::Error as _;
use std::fmt;

use super::resource::Resource;

/// An error with what caused it.
pub(super) fn in_full(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// Why a watch does not work at the moment. What it brought before stays in
/// force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// 401.
    Unauthorized,
    /// 403, in the server's words.
    Forbidden(String),
    /// 404: nothing is served at the path.
    NotServed,
    /// Too old a version; a fresh list follows.
    Expired,
    /// Any other answer of the server: code and message.
    Refused(u16, String),
    /// No answer, or an unintelligible one.
    Unreachable(String),
    /// It works, and there is no Node of the name that this agent was given.
    NoSuchNode(String),
}

impl Trouble {
    /// What a request met.
    pub fn of(error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            return Self::of_status(status.code, &status.message);
        }
        Self::Unreachable(in_full(error))
    }

    fn of_status(code: u16, message: &str) -> Self {
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden(message.to_owned()),
            404 => Self::NotServed,
            410 => Self::Expired,
            code => Self::Refused(code, message.to_owned()),
        }
    }

    /// How to mend it, where that is known.
    pub fn help(&self, resource: Resource) -> Option<String> {
        match self {
            Self::Unauthorized => Some(
                "renew the kubeconfig's credentials; in a pod, the token of its service account \
                 is mounted and renewed by the kubelet"
                    .to_owned(),
            ),
            Self::Forbidden(_) => Some(format!(
                "the agent's ClusterRole needs the rule apiGroups: [\"{}\"], resources: [\"{}\"], \
                 verbs: [\"list\", \"watch\"]",
                resource.group(),
                resource.plural()
            )),
            Self::NoSuchNode(_) => Some(
                "give the name that `kubectl get nodes` shows with --node-name; the DaemonSet \
                 takes it from spec.nodeName"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthorized => f.write_str("the API server does not know who we are (401)"),
            Self::Forbidden(message) => write!(f, "the API server refuses (403): {message}"),
            Self::NotServed => f.write_str("the API server serves no such kind (404)"),
            Self::Expired => f.write_str("the version to go on from has expired (410)"),
            Self::Refused(code, message) => write!(f, "the API server answers {code}: {message}"),
            Self::Unreachable(why) => write!(f, "the API server gives no answer: {why}"),
            Self::NoSuchNode(name) => write!(f, "the cluster has no Node named {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_watch_names_the_rule_that_is_missing() {
        let trouble = Trouble::of_status(403, "virtualservices is forbidden");
        let help = trouble.help(Resource::VirtualServices).unwrap();
        assert!(help.contains(r#"apiGroups: ["networking.istio.io"]"#), "{help}");
        assert!(help.contains(r#"resources: ["virtualservices"]"#), "{help}");
        let help = trouble.help(Resource::OwnPods).unwrap();
        assert!(help.contains(r#"apiGroups: [""], resources: ["pods"]"#), "{help}");
    }
}
