//! A place in a document: its node, its path, and where complaints go.
//!
//! Nothing here stops at the first mistake: a value that cannot be read is
//! complained of and absent, and the reading goes on.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::rc::Rc;

use crate::diag::codes::syntax;
use crate::diag::{Code, Diagnostic, Severity, Subject, nearest};
use crate::model::{Labels, ObjectRef};
use crate::yaml::{Entry, Node, Position, Value};

/// The fields of every object.
pub const ROOT: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

/// How many findings of one object are kept.
const MAX_FINDINGS: usize = 1000;

/// What an unknown field is.
pub(super) enum Unknown {
    /// Without effect.
    Idle,
    /// This, unless it belongs to the empty field above it.
    Found(Diagnostic),
    /// This, whatever stands above it.
    Sure(Diagnostic),
    /// What follows from something that was told.
    Told,
}

/// Collects the findings of one object.
#[derive(Default)]
pub struct Sink {
    object: RefCell<Option<Subject>>,
    findings: RefCell<Vec<Diagnostic>>,
    errors: Cell<usize>,
}

impl Sink {
    /// Names the object that all findings concern, those before included.
    pub fn name(&self, object: &ObjectRef) {
        let object = Some(Subject::from(object.clone()));
        for finding in self.findings.borrow_mut().iter_mut() {
            finding.object.clone_from(&object);
        }
        *self.object.borrow_mut() = object;
    }

    /// Whether an error was found.
    pub fn failed(&self) -> bool {
        self.errors.get() > 0
    }

    /// The findings, in the order in which they were made.
    pub fn into_findings(self) -> Vec<Diagnostic> {
        self.findings.into_inner()
    }

    /// Takes a finding back.
    fn forget(&self, code: &Code, path: &str) {
        self.findings.borrow_mut().retain(|one| one.code != code.id || one.path != path);
    }

    /// Adds a finding. Its object is filled in.
    pub fn report(&self, mut finding: Diagnostic) {
        if finding.severity == Severity::Error {
            self.errors.set(self.errors.get() + 1);
        }
        finding.object = self.object.borrow().clone();
        let mut findings = self.findings.borrow_mut();
        if findings.len() < MAX_FINDINGS {
            findings.push(finding);
        } else if findings.len() == MAX_FINDINGS {
            let mut rest = Diagnostic::new(
                &syntax::TOO_MANY_FINDINGS,
                format!("more than {MAX_FINDINGS} findings in one object: the rest are left out"),
            );
            rest.object = finding.object;
            (rest.file, rest.line, rest.column) = (finding.file, finding.line, finding.column);
            findings.push(rest);
        }
    }
}

/// Whether somebody else is to put a value in the place of this text, or of a part.
fn is_template(text: &str) -> bool {
    let within = |begin: &str, end: &str| {
        text.find(begin).is_some_and(|at| text[at + begin.len()..].contains(end))
    };
    within("{{", "}}") || within("${", "}") || within("{%", "%}")
}

/// What comes of the absence of a field that says for whom or for what the rest holds, which
/// would otherwise be found out by connections.
fn without(field: &str, known: &[&str]) -> Option<&'static str> {
    match field {
        // Of all that has labels only a subset has a policy.
        "labels" if known.contains(&"trafficPolicy") => {
            Some("without labels the subset is all endpoints of the host")
        }
        "gateways" => Some("without gateways the rules are for every workload of the mesh"),
        "exportTo" => Some("without exportTo every namespace sees the object"),
        "subset" => Some("without subset all endpoints of the host are meant"),
        "resolution" => Some("without resolution the address dialled is used, as with NONE"),
        _ => None,
    }
}

/// Whether these would be key and value, had the colon a space behind it.
fn is_entry((key, value): (&str, &str)) -> bool {
    !value.is_empty() && !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric())
}

/// A path, as a chain from the end.
#[derive(Clone, Default)]
struct Path(Option<Rc<(Path, PathStep)>>);

enum PathStep {
    Field(Rc<str>),
    Index(usize),
}

impl Path {
    fn field(&self, name: &str) -> Self {
        Self(Some(Rc::new((self.clone(), PathStep::Field(name.into())))))
    }

    fn index(&self, index: usize) -> Self {
        Self(Some(Rc::new((self.clone(), PathStep::Index(index)))))
    }

    fn write(&self, out: &mut String) {
        let Some(link) = &self.0 else { return };
        link.0.write(out);
        match &link.1 {
            // Writing to a String cannot fail.
            PathStep::Index(index) => _ = write!(out, "[{index}]"),
            PathStep::Field(name) if !is_plain(name) => _ = write!(out, "[\"{name}\"]"),
            PathStep::Field(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
        }
    }
}

/// Whether a key needs no quotes in a path.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// A node and its place.
#[derive(Clone)]
pub struct At<'a> {
    /// The node.
    pub node: &'a Node,
    /// Where a finding about it points to.
    position: Position,
    path: Path,
    sink: &'a Sink,
}

impl<'a> At<'a> {
    /// The root of an object.
    pub fn root(node: &'a Node, sink: &'a Sink) -> Self {
        Self { node, position: node.position, path: Path::default(), sink }
    }

    /// The path, `spec.tcp[0].route[1].weight`.
    pub fn path(&self) -> String {
        let mut out = String::new();
        self.path.write(&mut out);
        out
    }

    /// The line, for the rules that remember theirs.
    pub fn line(&self) -> u32 {
        self.position.line
    }

    /// Reports a finding here.
    pub fn report(&self, mut finding: Diagnostic) {
        if finding.severity == Severity::Error && self.node.as_str().is_some_and(is_template) {
            finding.help = Some("this is a template: render it first, and check that".to_owned());
        }
        finding.path = self.path();
        (finding.line, finding.column) = (self.position.line, self.position.column);
        self.sink.report(finding);
    }

    /// Reports a finding without help here.
    pub fn complain(&self, code: &'static Code, message: impl Into<String>) {
        self.report(Diagnostic::new(code, message));
    }

    /// That the value has the wrong type.
    pub fn mistyped(&self, expected: &str) -> Diagnostic {
        let found = self.node.value.describe();
        Diagnostic::new(&syntax::WRONG_TYPE, format!("expected {expected}, found {found}"))
    }

    /// Reports that the value has the wrong type.
    pub fn wrong_type(&self, expected: &str) {
        let mut finding = self.mistyped(expected);
        finding.help = match &self.node.value {
            Value::Bool(_, text) | Value::Int(_, text) | Value::Float(_, text)
                if expected.contains("string") || expected.contains("name") =>
            {
                Some(format!("quote it to make it a string: \"{text}\""))
            }
            Value::Map(_) | Value::String(_) if expected.starts_with("a list") => {
                Some("a list has a dash before each item".to_owned())
            }
            Value::List(_) if expected.starts_with("a map") => {
                Some("remove the dash: a map has keys, not items".to_owned())
            }
            Value::String(text)
                if expected.contains("number")
                    && text.strip_suffix('%').is_some_and(|n| n.trim().parse::<f64>().is_ok()) =>
            {
                Some(format!("write it without the percent sign: {}", text.trim_end_matches('%')))
            }
            Value::String(text)
                if expected.contains("number") && text.trim().parse::<f64>().is_ok() =>
            {
                Some(format!("remove the quotes: {}", text.trim()))
            }
            Value::String(text)
                if expected.starts_with("a map") && text.split_once(':').is_some_and(is_entry) =>
            {
                Some("a colon needs a space behind it".to_owned())
            }
            Value::String(text) if expected.contains("boolean") => {
                nearest(text, ["true", "false"]).map(|word| format!("write {word} without quotes"))
            }
            _ => None,
        };
        self.report(finding);
    }

    /// The map here. `known` are the fields that exist; others get a warning.
    pub fn fields(&self, known: &'static [&'static str]) -> Option<Fields<'a>> {
        self.fields_or(known, |_| Unknown::Idle)
    }

    /// The map here. `known` are the fields that exist; `other` says what others are.
    pub fn fields_or(
        &self,
        known: &'static [&'static str],
        other: impl Fn(&str) -> Unknown,
    ) -> Option<Fields<'a>> {
        // Of these maps one is the field that is meant where there is only a value.
        if let (Some(field @ ("number" | "simple")), Value::Int(_, text) | Value::String(text)) =
            (known.first().copied(), &self.node.value)
        {
            let help = format!("write {{{field}: {text}}}");
            self.report(self.mistyped("a map").help(help));
            return None;
        }
        let fields = self.any_fields()?;
        if let Value::Map(entries) = &self.node.value {
            let mut last: Option<&Entry> = None;
            for entry in entries.iter() {
                let above = last.replace(entry);
                if known.contains(&&*entry.key) {
                    continue;
                }
                let at = fields.entry_at(entry).at_key(entry.position);
                let name = entry.written.as_ref().unwrap_or(&entry.key);
                // `labels:` and, no further in, what was to be below it.
                let above = above.filter(|above| {
                    above.value.value == Value::Null && known.contains(&&*above.key)
                });
                let below =
                    above.map(|above| format!("indent it, if it belongs to {}:", above.key));
                match other(name) {
                    Unknown::Idle => {}
                    Unknown::Told => continue,
                    Unknown::Found(mut finding) => {
                        finding.help = below.or(finding.help);
                        at.report(finding);
                        continue;
                    }
                    Unknown::Sure(finding) => {
                        at.report(finding);
                        continue;
                    }
                }
                let near = nearest(name, known.iter().copied());
                let missing = near.filter(|near| !fields.has(near));
                let without = missing.and_then(|near| without(near, known));
                let effect = match without {
                    Some(without) => format!("it has no effect, and {without}"),
                    None => "it has no effect".to_owned(),
                };
                let mut finding = Diagnostic::new(
                    &syntax::UNKNOWN_FIELD,
                    format!("there is no field \"{name}\" here: {effect}"),
                );
                let near = near.map(|near| format!("did you mean \"{near}\"?"));
                let help = below.or(near);
                finding.help = help.or_else(|| Some(format!("known are: {}", known.join(", "))));
                at.report(finding);
            }
        }
        Some(Fields { known: Some(known), ..fields })
    }

    /// The map here, whatever its keys are.
    pub fn any_fields(&self) -> Option<Fields<'a>> {
        match &self.node.value {
            Value::Map(_) => Some(Fields { at: self.clone(), known: None }),
            _ => {
                self.wrong_type("a map");
                None
            }
        }
    }

    /// The same place, pointing at a key instead of its value.
    fn at_key(mut self, position: Position) -> Self {
        self.position = position;
        self
    }

    /// The items of the list here; none when it is no list.
    pub fn items(&self) -> Vec<At<'a>> {
        match &self.node.value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(i, node)| At {
                    node,
                    position: node.position,
                    path: self.path.index(i),
                    sink: self.sink,
                })
                .collect(),
            _ => {
                self.wrong_type("a list");
                Vec::new()
            }
        }
    }

    /// The string here.
    pub fn string(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::String(text) => Some(text),
            _ => {
                self.wrong_type("a string");
                None
            }
        }
    }

    /// The boolean here.
    pub fn bool(&self) -> Option<bool> {
        match &self.node.value {
            Value::Bool(value, _) => Some(*value),
            _ => {
                self.wrong_type("a boolean (true or false)");
                None
            }
        }
    }

    /// The whole number here, whatever its size.
    pub fn integer(&self) -> Option<i64> {
        match &self.node.value {
            Value::Int(value, _) => Some(*value),
            _ => {
                self.wrong_type("a whole number");
                None
            }
        }
    }

    /// The whole number here, when it is within a range.
    pub fn integer_in(&self, least: i64, most: i64, what: &str) -> Option<i64> {
        let value = self.integer()?;
        if (least..=most).contains(&value) {
            return Some(value);
        }
        self.complain(
            &syntax::OUT_OF_RANGE,
            format!("{what} {value} is out of range: expected {least} to {most}"),
        );
        None
    }

    /// The number here, whole or not.
    pub fn number(&self) -> Option<f64> {
        match &self.node.value {
            Value::Int(value, _) => Some(*value as f64),
            Value::Float(value, _) => Some(*value),
            _ => {
                self.wrong_type("a number");
                None
            }
        }
    }

    /// One of a fixed set of words, as an index into it.
    pub fn one_of(&self, words: &[&str]) -> Option<usize> {
        let text = self.string()?;
        let found = words.iter().position(|word| *word == text);
        if found.is_none() {
            let finding = Diagnostic::new(
                &syntax::UNKNOWN_VALUE,
                format!("\"{text}\" is not one of {}", words.join(", ")),
            );
            self.report(finding.meant(nearest(text, words.iter().copied())));
        }
        found
    }

    /// A map of strings to strings, with each value's place. Warns of keys that YAML reads as
    /// something else.
    pub fn string_map(&self) -> Vec<(&'a str, &'a str, At<'a>)> {
        let Some(fields) = self.any_fields() else { return Vec::new() };
        if let Value::Map(entries) = &self.node.value {
            for entry in entries.iter() {
                let Some(written) = &entry.written else { continue };
                let message = format!("YAML reads the key {written} as \"{}\"", entry.key);
                let finding = Diagnostic::new(&syntax::AMBIGUOUS_SCALAR, message);
                let finding = finding.help(format!("put it in quotes: \"{written}\""));
                fields.entry_at(entry).at_key(entry.position).report(finding);
            }
        }
        fields.entries().into_iter().filter_map(|(key, at)| Some((key, at.string()?, at))).collect()
    }

    /// A map of strings to strings.
    pub fn labels(&self) -> Labels {
        self.string_map().into_iter().map(|(key, value, _)| (key, value)).collect()
    }

    /// A list of strings.
    pub fn strings(&self) -> Vec<String> {
        self.items().iter().filter_map(|item| item.string().map(str::to_owned)).collect()
    }
}

/// A map and its place.
#[derive(Clone)]
pub struct Fields<'a> {
    /// The map itself.
    pub at: At<'a>,
    known: Option<&'static [&'static str]>,
}

impl<'a> Fields<'a> {
    /// The field of that name, unless it is absent or null.
    pub fn get(&self, name: &str) -> Option<At<'a>> {
        debug_assert!(
            self.known.is_none_or(|known| known.contains(&name)),
            "the field {name} is read and not known"
        );
        let entry = self.at.node.entry(name)?;
        (entry.value.value != Value::Null).then(|| self.entry_at(entry))
    }

    /// The place of an unknown field that is nearly one of these, which is missing: not
    /// told as unknown then, but as what it is.
    pub fn misspelt(&self, names: &[&'static str]) -> Option<(&'static str, &'a str, At<'a>)> {
        let Value::Map(entries) = &self.at.node.value else { return None };
        let unknown = |name: &str| match self.known {
            Some(known) => !known.contains(&name),
            None => !ROOT.contains(&name),
        };
        entries.iter().filter(|entry| unknown(&entry.key)).find_map(|entry| {
            let name = nearest(&entry.key, names.iter().copied())?;
            let at = self.entry_at(entry).at_key(entry.position);
            self.at.sink.forget(&syntax::UNKNOWN_FIELD, &at.path());
            Some((names.iter().copied().find(|one| *one == name)?, &*entry.key, at))
        })
    }

    /// Whether the field says nothing: it is absent, or a list or map of nothing. One
    /// of a wrong type was complained of, and is not missing as well.
    pub fn is_empty(&self, name: &str) -> bool {
        self.get(name).is_none_or(|at| match &at.node.value {
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
            _ => false,
        })
    }

    /// Whether the field is written, be it as null.
    pub fn has(&self, name: &str) -> bool {
        self.at.node.entry(name).is_some()
    }

    /// The place of a field, or of the map when the field is absent.
    pub fn place(&self, name: &str) -> At<'a> {
        match self.at.node.entry(name) {
            Some(entry) => self.entry_at(entry),
            None => At { path: self.at.path.field(name), ..self.at.clone() },
        }
    }

    /// The place of a field's name, or of the map when the field is absent.
    pub fn key_place(&self, name: &str) -> At<'a> {
        match self.at.node.entry(name) {
            Some(entry) => self.entry_at(entry).at_key(entry.position),
            None => self.at.clone(),
        }
    }

    /// All entries.
    pub fn entries(&self) -> Vec<(&'a str, At<'a>)> {
        match &self.at.node.value {
            Value::Map(entries) => {
                entries.iter().map(|entry| (&*entry.key, self.entry_at(entry))).collect()
            }
            _ => Vec::new(),
        }
    }

    fn entry_at(&self, entry: &'a Entry) -> At<'a> {
        At {
            node: &entry.value,
            position: entry.value.position,
            path: self.at.path.field(&entry.key),
            sink: self.at.sink,
        }
    }

    /// The string of a field; `None` when absent or complained of.
    pub fn string(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.string()
    }

    /// The string of a field, empty when absent.
    pub fn text(&self, name: &str) -> String {
        self.string(name).unwrap_or_default().to_owned()
    }

    /// The boolean of a field, false when absent.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(|at| at.bool()).unwrap_or(false)
    }

    /// The items of a field that is a list; none when absent.
    pub fn items(&self, name: &str) -> Vec<At<'a>> {
        self.get(name).map(|at| at.items()).unwrap_or_default()
    }

    /// The labels of a field; empty when absent.
    pub fn labels(&self, name: &str) -> Labels {
        self.get(name).map(|at| at.labels()).unwrap_or_default()
    }

    /// The strings of a field that is a list; empty when absent.
    pub fn strings(&self, name: &str) -> Vec<String> {
        self.get(name).map(|at| at.strings()).unwrap_or_default()
    }

    /// A port, 1 to 65535; `None` when absent or complained of.
    pub fn port(&self, name: &str) -> Option<u16> {
        let value = self.get(name)?.integer_in(1, 65535, "port")?;
        u16::try_from(value).ok()
    }
}
