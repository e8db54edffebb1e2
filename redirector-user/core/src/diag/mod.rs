//! What is wrong with a document, and where.

use std::sync::Arc;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is refused.
    Error,
    /// The object is taken, and something about it will surprise.
    Warning,
    /// Worth knowing.
    Info,
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
    /// The object, `VirtualService/default/echo`; `None` for what concerns a
    /// whole file.
    pub object: Option<String>,
    /// The field, `spec.tcp[0].route[1].weight`; empty for the whole object.
    pub path: String,
    /// The file, as the user named it.
    pub file: Option<Arc<str>>,
    /// The line, counted from 1; 0 when unknown.
    pub line: u32,
    /// The column in characters, counted from 1; 0 when unknown.
    pub column: u32,
}
