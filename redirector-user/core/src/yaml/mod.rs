//! Text to a located tree: YAML (and JSON, which is YAML) as `kubectl` reads it.
//!
//! [`parse`] never stops at the first broken document: documents are split at
//! their `---` lines, which YAML allows nowhere else, and each is parsed by
//! itself. Scalars follow YAML 1.1, as they do in Kubernetes ([`scalar`]).
//! Aliases and merge keys share what they repeat, and what they would expand to
//! is counted before anything looks at it: a hostile text costs time and memory
//! in proportion to its length, at most.

mod bytes;
mod complaint;
mod events;
mod mended;
mod parse;
mod scalar;
#[cfg(test)]
mod tests;
mod tree;

use std::sync::Arc;

pub use bytes::{EncodingError, MAX_FILE_BYTES, decode_bytes};
pub(crate) use parse::{Chunk, parse_parts};
pub use parse::{Document, Parsed, parse};

/// The most nodes that a file may hold, every alias counted as what it repeats.
pub const MAX_NODES: usize = 1_000_000;
/// The deepest nesting of lists and maps.
pub const MAX_DEPTH: usize = 200;

/// Why a document could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyntaxError {
    /// What is wrong.
    pub message: String,
    /// How to mend it, where that can be told.
    pub help: Option<String>,
    /// Where.
    pub position: Position,
    /// Whether the text exceeds a limit ([`MAX_NODES`], [`MAX_DEPTH`]) rather
    /// than a rule of the language. Nothing behind it was read.
    pub limit: bool,
}

/// A place in a text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position {
    /// The line, counted from 1; 0 when unknown.
    pub line: u32,
    /// The column in characters, counted from 1; 0 when unknown.
    pub column: u32,
}

/// A value and where it stands. Cloning is cheap: contents are shared.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it begins. A value that was never written (`key:`) stands at its
    /// key; one that came over the API stands nowhere.
    pub position: Position,
}

/// What a node is. Scalars that are not strings keep the text they were
/// written as, so that a message can show it.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true`, and YAML 1.1's other words for it (`y`, `on`).
    Bool(bool, Arc<str>),
    /// A whole number. What does not fit is a [`Value::Float`].
    Int(i64, Arc<str>),
    /// Any other number.
    Float(f64, Arc<str>),
    /// A string.
    String(Arc<str>),
    /// A list.
    List(Arc<[Node]>),
    /// A map.
    Map(Arc<[Entry]>),
}

/// A key and its value.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The key as Kubernetes reads it: always a string (`on: x` has the key
    /// `true`).
    pub key: Arc<str>,
    /// The key as it was written, where that differs.
    pub written: Option<Arc<str>>,
    /// Where the key stands.
    pub position: Position,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// A tree out of JSON, without positions.
    pub fn from_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b, b.to_string().into()),
            Json::Number(n) => match n.as_i64() {
                Some(i) => Value::Int(i, n.to_string().into()),
                None => Value::Float(n.as_f64().unwrap_or(f64::NAN), n.to_string().into()),
            },
            Json::String(s) => Value::String(s.as_str().into()),
            Json::Array(items) => Value::List(items.iter().map(Self::from_json).collect()),
            Json::Object(map) => Value::Map(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.as_str().into(),
                        written: None,
                        position: Position::default(),
                        value: Self::from_json(value),
                    })
                    .collect(),
            ),
        };
        Self { value, position: Position::default() }
    }

    /// The value of a key, when this is a map that has it and it is not null.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value).filter(|node| node.value != Value::Null)
    }

    /// The entry of a key, when this is a map that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| &*entry.key == key),
            _ => None,
        }
    }

    /// The string, when this is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// The node at a path such as `spec.tcp[0].route[1].weight` or
    /// `metadata.labels["a.b/c"]`, or the nearest existing one above it.
    pub fn nearest(&self, path: &str) -> &Self {
        let mut node = self;
        let mut rest = path;
        loop {
            let step;
            (step, rest) = match next_step(rest) {
                Some(split) => split,
                None => return node,
            };
            let next = match (step, &node.value) {
                (PathStep::Field(name), Value::Map(_)) => {
                    node.entry(name).map(|entry| &entry.value)
                }
                (PathStep::Index(i), Value::List(items)) => items.get(i),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => return node,
            }
        }
    }
}

enum PathStep<'a> {
    Field(&'a str),
    Index(usize),
}

/// Splits the first step off a path.
fn next_step(path: &str) -> Option<(PathStep<'_>, &str)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    if let Some(rest) = path.strip_prefix("[\"") {
        let end = rest.find("\"]")?;
        return Some((PathStep::Field(&rest[..end]), &rest[end + 2..]));
    }
    if let Some(rest) = path.strip_prefix('[') {
        let end = rest.find(']')?;
        return Some((PathStep::Index(rest[..end].parse().ok()?), &rest[end + 1..]));
    }
    if path.is_empty() {
        return None;
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    Some((PathStep::Field(&path[..end]), &path[end..]))
}

impl Value {
    /// What it is, in the words of a message: "a list", "the number 5".
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value, text) if value.to_string() == **text => format!("the boolean {text}"),
            Self::Bool(value, text) => format!("{text}, which YAML reads as the boolean {value}"),
            Self::Int(value, text) if value.to_string() == **text => format!("the number {text}"),
            Self::Int(value, text) => format!("{text}, which YAML reads as the number {value}"),
            Self::Float(_, text) => format!("the number {text}"),
            Self::String(text) if text.chars().count() <= 60 => format!("the string \"{text}\""),
            Self::String(text) => {
                format!("the string \"{}...\"", text.chars().take(60).collect::<String>())
            }
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a map".to_owned(),
        }
    }
}
