//! From events to trees.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::complaint::syntax_error;
use super::events::{Event, Events, Mark, Refusal};
use super::mended::Mended;
use super::{Entry, Node, Position, Value, scalar};

/// The most nodes that a file may hold, every alias counted as what it repeats.
pub const MAX_NODES: usize = 1_000_000;
/// The deepest nesting of lists and maps.
pub const MAX_DEPTH: usize = 200;

/// More directives than this make a document unreadable.
const MAX_DIRECTIVES: usize = 100;

/// More repeated keys than this make a document unreadable.
const MAX_DUPLICATES: usize = 100;

/// What a text holds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Parsed {
    /// The documents that could be read, in their order. Empty ones are left out.
    pub documents: Vec<Document>,
    /// What is wrong with the others.
    pub errors: Vec<SyntaxError>,
}

/// A document.
#[derive(Clone, PartialEq, Debug)]
pub struct Document {
    /// Its tree.
    pub root: Node,
    /// Keys that stand twice in one map. The first of each is kept.
    pub duplicates: Vec<SyntaxError>,
}

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

/// Reads all documents of a text. Time and memory are linear in its length.
pub fn parse(text: &str) -> Parsed {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parsed = Parsed::default();
    let mut budget = MAX_NODES;
    for chunk in split(text) {
        let (before, left) = (parsed.documents.len(), budget);
        let Err(mut error) = parse_chunk(chunk, &mut budget, &mut parsed.documents) else {
            continue;
        };
        if !error.limit
            && is_json(chunk.text)
            && let Some(values) = json_values(chunk)
        {
            parsed.documents.truncate(before);
            budget = left;
            match json(values, &mut budget, &mut parsed.documents) {
                Ok(()) => continue,
                Err(limit) => error = limit,
            }
        }
        let limit = error.limit;
        parsed.errors.push(error);
        if limit {
            break;
        }
    }
    parsed
}

/// A part of the text that is parsed by itself.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    text: &'a str,
    /// How many lines stand before it.
    line: u32,
    /// How many characters stand before it on its first line.
    column: u32,
}

/// The values of a text of JSON, which may stand one behind the other, and where each
/// is written.
fn json_values(chunk: Chunk<'_>) -> Option<Vec<(serde_json::Value, Chunk<'_>)>> {
    let mut values = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(chunk.text).into_iter();
    let Chunk { mut line, mut column, .. } = chunk;
    let mut pass = |text: &str| match text.rsplit_once('\n') {
        Some((before, last)) => {
            line = line.saturating_add(clamp(before.matches('\n').count() + 1));
            column = clamp(last.chars().count());
            (line, column)
        }
        None => {
            column = column.saturating_add(clamp(text.chars().count()));
            (line, column)
        }
    };
    let mut end = 0;
    while let Some(value) = stream.next() {
        let value = value.ok()?;
        let rest = &chunk.text[end..];
        let (gap, _) = rest.split_at(rest.len() - rest.trim_start().len());
        let (line, column) = pass(gap);
        let text = &chunk.text[end + gap.len()..stream.byte_offset()];
        pass(text);
        end = stream.byte_offset();
        values.push((value, Chunk { text, line, column }));
    }
    Some(values)
}

fn clamp(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Reads values of JSON: as YAML, which has places, but where they have escapes that
/// YAML lacks.
///
/// # Errors
///
/// A limit that they exceed.
fn json(
    values: Vec<(serde_json::Value, Chunk<'_>)>,
    budget: &mut usize,
    documents: &mut Vec<Document>,
) -> Result<(), SyntaxError> {
    for (value, chunk) in values {
        let before = documents.len();
        match parse_chunk(chunk, budget, documents) {
            Ok(()) => {}
            Err(error) if error.limit => return Err(error),
            Err(_) => {
                documents.truncate(before);
                let root = Node::from_json(&value);
                documents.push(Document { root, duplicates: Vec::new() });
            }
        }
    }
    Ok(())
}

/// Splits at lines that begin with `---`: YAML allows them nowhere inside of a
/// document, not even in a block of text. Directives (`%TAG`) and comments right
/// before such a line belong to the document that it begins.
fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let (mut offset, mut line) = (0, 0);
    // Where the directives begin that nothing but comments stands behind.
    let mut directives = None;
    for part in text.split_inclusive('\n') {
        let marker = part
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker {
            let (at, at_line) = directives.take().unwrap_or((offset, line));
            chunks.push(Chunk { text: &text[start..at], line: start_line, column: 0 });
            (start, start_line) = (at, at_line);
        } else if part.starts_with('%') {
            directives = directives.or(Some((offset, line)));
        } else if !part.starts_with('#') && !part.trim().is_empty() {
            directives = None;
        }
        offset += part.len();
        line += 1;
    }
    chunks.push(Chunk { text: &text[start..], line: start_line, column: 0 });
    chunks
}

fn is_json(text: &str) -> bool {
    let text = text.strip_prefix("---").unwrap_or(text);
    text.trim_start().starts_with(['{', '['])
}

/// A list or a map that is not yet closed.
struct Open {
    anchor: Option<Arc<str>>,
    position: Position,
    content: Content,
    /// Nodes in it so far, aliases expanded; itself included.
    nodes: usize,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, keys: HashSet<Arc<str>>, key: Option<Key>, merges: Vec<Node> },
}

/// A key whose value has not come yet.
struct Key {
    text: Arc<str>,
    written: Option<Arc<str>>,
    position: Position,
    merge: bool,
}

struct Builder<'a> {
    text: &'a Mended<'a>,
    budget: &'a mut usize,
    open: Vec<Open>,
    anchors: HashMap<Arc<str>, (Node, usize)>,
    root: Option<Node>,
    duplicates: Vec<SyntaxError>,
}

fn parse_chunk(
    chunk: Chunk<'_>,
    budget: &mut usize,
    documents: &mut Vec<Document>,
) -> Result<(), SyntaxError> {
    // A tab may stand between JSON's tokens, and nowhere else in it.
    let Chunk { text, line, column } = chunk;
    let text = if is_json(text) && text.contains('\t') {
        Cow::Owned(text.replace('\t', " "))
    } else {
        Cow::Borrowed(text)
    };
    check_directives(&text, line)?;
    let mut mended = Mended::new(text, line, column);
    loop {
        let (left, before) = (*budget, documents.len());
        match read(&mended, budget, documents) {
            Ok(()) => return Ok(()),
            Err(Stop::Error(error)) => return Err(error),
            Err(Stop::Refusal(why)) if !mended.mend(&why) => {
                return Err(syntax_error(&mended, why));
            }
            Err(Stop::Refusal(_)) => {
                *budget = left;
                documents.truncate(before);
            }
        }
    }
}

/// Why a text is read no further.
enum Stop {
    /// The parser refuses it.
    Refusal(Refusal),
    /// We do.
    Error(SyntaxError),
}

fn read(text: &Mended<'_>, budget: &mut usize, documents: &mut Vec<Document>) -> Result<(), Stop> {
    let mut builder = Builder {
        text,
        budget,
        open: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        duplicates: Vec::new(),
    };
    let mut events = Events::new(text.as_str());
    loop {
        match events.next().map_err(Stop::Refusal)? {
            (Event::StreamEnd, _) => return Ok(()),
            (Event::DocumentEnd, _) => {
                let duplicates = std::mem::take(&mut builder.duplicates);
                if let Some(root) = builder.root.take()
                    && root.value != Value::Null
                {
                    documents.push(Document { root, duplicates });
                }
                builder.anchors.clear();
            }
            (event, mark) => builder.event(event, mark).map_err(Stop::Error)?,
        }
    }
}

/// Refuses more directives than anybody writes: the parser compares each one with
/// all before it.
fn check_directives(text: &str, lines_before: u32) -> Result<(), SyntaxError> {
    let directives = text.lines().enumerate().filter(|(_, line)| line.starts_with('%'));
    match directives.take(MAX_DIRECTIVES + 1).nth(MAX_DIRECTIVES) {
        None => Ok(()),
        Some((line, _)) => Err(SyntaxError {
            message: format!("a document has more than {MAX_DIRECTIVES} directives (%)"),
            help: None,
            position: super::mended::position((lines_before, 0), line as u64, 0),
            limit: true,
        }),
    }
}

fn too_deep(position: Position) -> SyntaxError {
    SyntaxError {
        message: format!("lists and maps are nested more than {MAX_DEPTH} levels deep"),
        help: None,
        position,
        limit: true,
    }
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, mark: Mark) -> Result<(), SyntaxError> {
        let position = self.text.position(mark);
        let named = |anchor: Option<Cow<'_, str>>| anchor.map(Arc::from);
        match event {
            Event::Scalar { text, plain, tag, anchor } => {
                let value = scalar_value(&text, plain, tag.as_deref(), position)?;
                if self.wants_key() {
                    let merge = plain && tag.is_none() && text == "<<";
                    return self.key(value, &text, merge, named(anchor), position);
                }
                // A value that was never written has no place; its key has one.
                let position = match (&value, self.pending_key()) {
                    (Value::Null, Some(key)) if text.is_empty() => key.position,
                    _ => position,
                };
                self.add(Node { value, position }, 1, named(anchor))
            }
            Event::Alias(name) => {
                let Some((node, nodes)) = self.anchors.get(&*name).cloned() else {
                    let is_open =
                        self.open.iter().any(|open| open.anchor.as_deref() == Some(&name));
                    return Err(SyntaxError {
                        message: match is_open {
                            true => "an alias stands inside of what it repeats".to_owned(),
                            false => {
                                format!("the alias *{name} repeats what no anchor &{name} names")
                            }
                        },
                        help: Some("write the value out".to_owned()),
                        position,
                        limit: false,
                    });
                };
                if self.wants_key() {
                    return match &node.value {
                        Value::String(text) => {
                            let text = text.clone();
                            self.key(node.value, &text, false, None, position)
                        }
                        _ => Err(key_error(position)),
                    };
                }
                self.add(Node { value: node.value, position }, nodes, None)
            }
            Event::List(anchor) => self.start(named(anchor), position, Content::List(Vec::new())),
            Event::Map(anchor) => {
                let content = Content::Map {
                    entries: Vec::new(),
                    keys: HashSet::new(),
                    key: None,
                    merges: Vec::new(),
                };
                self.start(named(anchor), position, content)
            }
            Event::End => self.end(),
            Event::DocumentEnd | Event::StreamEnd | Event::Other => Ok(()),
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Map { key: None, .. }, .. }))
    }

    fn pending_key(&self) -> Option<&Key> {
        match &self.open.last()?.content {
            Content::Map { key, .. } => key.as_ref(),
            Content::List(_) => None,
        }
    }

    fn start(
        &mut self,
        anchor: Option<Arc<str>>,
        position: Position,
        content: Content,
    ) -> Result<(), SyntaxError> {
        if self.wants_key() {
            return Err(key_error(position));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(position));
        }
        self.spend(1, position)?;
        self.open.push(Open { anchor, position, content, nodes: 1 });
        Ok(())
    }

    fn end(&mut self) -> Result<(), SyntaxError> {
        let Some(Open { anchor, position, content, nodes }) = self.open.pop() else {
            return Ok(());
        };
        let value = match content {
            Content::List(items) => Value::List(items.into()),
            Content::Map { mut entries, mut keys, merges, .. } => {
                for merge in merges {
                    self.merge(&mut entries, &mut keys, &merge, position)?;
                }
                Value::Map(entries.into())
            }
        };
        // Its nodes are already paid for, one by one.
        self.place(Node { value, position }, nodes, anchor);
        Ok(())
    }

    /// Adds what a merge key names; keys that are there already win.
    fn merge(
        &mut self,
        entries: &mut Vec<Entry>,
        keys: &mut HashSet<Arc<str>>,
        from: &Node,
        position: Position,
    ) -> Result<(), SyntaxError> {
        let error = || SyntaxError {
            message: "a merge key (<<) takes a map or a list of maps".to_owned(),
            help: None,
            position: from.position,
            limit: false,
        };
        match &from.value {
            Value::Map(merged) => {
                self.spend(merged.len(), position)?;
                for entry in merged.iter() {
                    if keys.insert(entry.key.clone()) {
                        entries.push(entry.clone());
                    }
                }
                Ok(())
            }
            Value::List(items) => {
                for item in items.iter() {
                    match item.value {
                        Value::Map(_) => self.merge(entries, keys, item, position)?,
                        _ => return Err(error()),
                    }
                }
                Ok(())
            }
            _ => Err(error()),
        }
    }

    /// A key of the map on top.
    fn key(
        &mut self,
        value: Value,
        text: &str,
        merge: bool,
        anchor: Option<Arc<str>>,
        position: Position,
    ) -> Result<(), SyntaxError> {
        let as_read: Arc<str> = match &value {
            Value::Null => "null".into(),
            Value::Bool(value, _) => value.to_string().into(),
            Value::Int(value, _) => value.to_string().into(),
            Value::Float(value, _) => value.to_string().into(),
            Value::String(text) => text.clone(),
            Value::List(_) | Value::Map(_) => return Err(key_error(position)),
        };
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, (Node { value, position }, 1));
        }
        self.spend(1, position)?;
        let Some(Open { content: Content::Map { entries, keys, key, .. }, nodes, .. }) =
            self.open.last_mut()
        else {
            return Ok(());
        };
        if !merge && !keys.insert(as_read.clone()) {
            let first = entries.iter().find(|entry| entry.key == as_read);
            if self.duplicates.len() >= MAX_DUPLICATES {
                return Err(SyntaxError {
                    message: format!("more than {MAX_DUPLICATES} keys stand twice in their maps"),
                    help: None,
                    position,
                    limit: false,
                });
            }
            self.duplicates.push(SyntaxError {
                message: match first {
                    Some(first) => format!(
                        "the key \"{as_read}\" stands twice in one map, first on line {}",
                        first.position.line
                    ),
                    None => format!("the key \"{as_read}\" stands twice in one map"),
                },
                help: Some("keep one of them; where both are lists, join the lists".to_owned()),
                position,
                limit: false,
            });
        }
        *nodes += 1;
        let written = (*as_read != *text).then(|| text.into());
        *key = Some(Key { text: as_read, written, position, merge });
        Ok(())
    }

    /// Adds a finished node that is worth `nodes` and not yet paid for.
    fn add(
        &mut self,
        node: Node,
        nodes: usize,
        anchor: Option<Arc<str>>,
    ) -> Result<(), SyntaxError> {
        self.spend(nodes, node.position)?;
        self.place(node, nodes, anchor);
        Ok(())
    }

    fn place(&mut self, node: Node, nodes: usize, anchor: Option<Arc<str>>) {
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, (node.clone(), nodes));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(open) => {
                open.nodes += nodes;
                match &mut open.content {
                    Content::List(items) => items.push(node),
                    Content::Map { entries, key, merges, .. } => match key.take() {
                        Some(key) if key.merge => merges.push(node),
                        Some(Key { text, written, position, .. }) => {
                            entries.push(Entry { key: text, written, position, value: node });
                        }
                        None => {}
                    },
                }
            }
        }
    }

    fn spend(&mut self, nodes: usize, position: Position) -> Result<(), SyntaxError> {
        match self.budget.checked_sub(nodes) {
            Some(left) => {
                *self.budget = left;
                Ok(())
            }
            None => Err(SyntaxError {
                message: format!(
                    "the file holds more than {MAX_NODES} values (every alias counts as what it \
                     repeats)"
                ),
                help: Some("split it into several files".to_owned()),
                position,
                limit: true,
            }),
        }
    }
}

fn key_error(position: Position) -> SyntaxError {
    SyntaxError {
        message: "the key of a map must be a string".to_owned(),
        help: Some("a value in braces, such as a template's {{ ... }}, needs quotes".to_owned()),
        position,
        limit: false,
    }
}

fn scalar_value(
    text: &str,
    plain: bool,
    tag: Option<&str>,
    position: Position,
) -> Result<Value, SyntaxError> {
    match tag.map(|tag| tag.strip_prefix("tag:yaml.org,2002:")) {
        Some(Some(tag)) => scalar::tagged(tag, text).ok_or_else(|| SyntaxError {
            message: format!("\"{text}\" is no {tag}, as its tag says"),
            help: None,
            position,
            limit: false,
        }),
        Some(None) => Ok(Value::String(text.into())),
        None if plain => Ok(scalar::plain(text)),
        None => Ok(Value::String(text.into())),
    }
}
