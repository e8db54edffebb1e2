//! What is wrong with a document, and where.
//!
//! * [`codes`]: the catalogue: every code with its severity, Istio's code and the
//!   page that explains it.
//! * [`sarif`]: findings in the form that code hosts read.

pub mod codes;
pub mod sarif;

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::model::ObjectRef;

pub use codes::Code;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is refused.
    Error,
    /// The object is taken, and something about it will surprise.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// `error`, `warning` or `info`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// The object that a finding is about. Printed and serialized as
/// `VirtualService/default/echo`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Subject {
    /// One of a kind that is read here.
    Object(ObjectRef),
    /// Another one, as its document says: `Deployment/default/shop`.
    Other(Arc<str>),
}

impl From<ObjectRef> for Subject {
    fn from(object: ObjectRef) -> Self {
        Self::Object(object)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(object) => object.fmt(f),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A finding: what is wrong, where, and how to mend it. Field names are those
/// of `check --output json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Our stable code, `RD1001`.
    pub code: &'static str,
    /// Istio's message code, where one exists.
    pub istio: Option<&'static str>,
    /// What is wrong, and what will happen at run time.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
    /// The object; `None` for what concerns a whole file.
    pub object: Option<Subject>,
    /// The field, `spec.tcp[0].route[1].weight`; empty for the whole object.
    pub path: String,
    /// The file, as the user named it.
    pub file: Option<Arc<str>>,
    /// The line, counted from 1; 0 when unknown.
    pub line: u32,
    /// The column in characters, counted from 1; 0 when unknown.
    pub column: u32,
}

/// So many characters of a message are kept at its beginning, and at its end: it may quote what
/// somebody has written, whatever its length, and goes into reports that all share.
const KEPT: [usize; 2] = [3_000, 1_000];

fn shortened(message: String) -> String {
    let [begin, end] = KEPT;
    let left_out = message.chars().count().saturating_sub(begin + end);
    if left_out == 0 {
        return message;
    }
    let kept = message.chars().take(begin).chain("[...]".chars());
    kept.chain(message.chars().skip(begin + left_out)).collect()
}

impl Diagnostic {
    /// A finding of a code, without help and without a place.
    pub fn new(code: &'static Code, message: impl Into<String>) -> Self {
        Self {
            severity: code.severity,
            code: code.id,
            istio: code.istio,
            message: shortened(message.into()),
            help: None,
            object: None,
            path: String::new(),
            file: None,
            line: 0,
            column: 0,
        }
    }

    /// The same about an object.
    #[must_use]
    pub fn about(mut self, object: &ObjectRef) -> Self {
        self.object = Some(object.clone().into());
        self
    }

    /// Which object of a kind that is read here it is about, if about any.
    pub fn reference(&self) -> Option<&ObjectRef> {
        match self.object.as_ref()? {
            Subject::Object(object) => Some(object),
            Subject::Other(_) => None,
        }
    }

    /// The object that it is about, as it is printed.
    pub fn object_name(&self) -> Option<String> {
        self.object.as_ref().map(Subject::to_string)
    }

    /// The same with help.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same, with what may be meant, if anything is near.
    #[must_use]
    pub fn meant(mut self, near: Option<impl fmt::Display>) -> Self {
        self.help = near.map(|near| format!("did you mean {near}?"));
        self
    }
}

/// "did you mean": the candidate nearest to `name`, when one is near enough to
/// be a slip.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        if candidate == name {
            continue;
        }
        let other = candidate.to_lowercase();
        let distance = strsim::damerau_levenshtein(&lower, &other);
        let longer = lower.chars().count().max(other.chars().count());
        // Either a few slips of the finger, or one is the beginning of the other.
        let near = distance <= 1 + longer / 4;
        let prefix = lower.len() >= 3 && other.starts_with(&lower)
            || other.len() >= 3 && lower.starts_with(&other);
        if !near && !prefix {
            continue;
        }
        let score = distance as f64 / longer.max(1) as f64;
        if best.is_none_or(|(least, _)| score < least) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_quotes_what_is_long_keeps_its_beginning_and_its_end() {
        let name = "ä".repeat(500_000);
        let message = format!("\"{name}\" is not a name that Kubernetes takes");
        let told = Diagnostic::new(&codes::syntax::MISSING_NAME, message).message;
        assert!(told.chars().count() == 4_005 && told.starts_with("\"ä"), "{} bytes", told.len());
        assert!(told.contains("ä[...]ä") && told.ends_with("is not a name that Kubernetes takes"));
    }

    #[test]
    fn nearly_right_names_are_found_and_others_are_not() {
        let known = ["destinationSubnets", "port", "sourceLabels", "sourceNamespace"];
        assert_eq!(nearest("destinationSubnet", known), Some("destinationSubnets"));
        assert_eq!(nearest("sourcelabels", known), Some("sourceLabels"));
        assert_eq!(nearest("prot", known), Some("port"));
        assert_eq!(nearest("timeout", known), None);
    }
}
