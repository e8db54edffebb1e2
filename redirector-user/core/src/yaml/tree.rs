//! From events to a tree.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::complaint::indented;
use super::events::{Event, Mark};
use super::mended::Mended;
use super::{Entry, MAX_DEPTH, MAX_NODES, Node, Position, SyntaxError, Value, scalar};

/// More repeated keys than this make a document unreadable.
const MAX_DUPLICATES: usize = 100;

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

/// A tree that is being built, of one document after another.
pub(super) struct Builder<'a> {
    text: &'a Mended<'a>,
    budget: &'a mut usize,
    open: Vec<Open>,
    anchors: HashMap<Arc<str>, (Node, usize)>,
    root: Option<Node>,
    duplicates: Vec<SyntaxError>,
    indented: Option<SyntaxError>,
}

fn too_deep(position: Position) -> SyntaxError {
    SyntaxError {
        message: format!("lists and maps are nested more than {MAX_DEPTH} levels deep"),
        help: None,
        position,
        limit: true,
    }
}

impl<'a> Builder<'a> {
    /// Before the first event.
    pub fn new(text: &'a Mended<'a>, budget: &'a mut usize) -> Self {
        Self {
            text,
            budget,
            open: Vec::new(),
            anchors: HashMap::new(),
            root: None,
            duplicates: Vec::new(),
            indented: None,
        }
    }

    /// A document has ended: its tree, the keys that stand twice in it, and one that is
    /// not where it seems.
    pub fn finish(&mut self) -> (Option<Node>, Vec<SyntaxError>, Option<SyntaxError>) {
        self.anchors.clear();
        (self.root.take(), std::mem::take(&mut self.duplicates), self.indented.take())
    }

    /// Takes an event of a document.
    pub fn event(&mut self, event: Event<'_>, mark: Mark) -> Result<(), SyntaxError> {
        let position = self.text.position(mark);
        let named = |anchor: Option<Cow<'_, str>>| anchor.map(Arc::from);
        match event {
            Event::Scalar { text, plain, tag, anchor } => {
                let value = scalar_value(&text, plain, tag.as_deref(), position)?;
                if self.wants_key() {
                    if plain && self.indented.is_none() {
                        self.indented = indented(&text, position);
                    }
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
            let other = first.and_then(|first| first.written.as_deref()).unwrap_or(&as_read);
            let read = match *as_read == *text && other == text {
                true => String::new(),
                false => format!(" (YAML reads {text} and {other} as {as_read})"),
            };
            self.duplicates.push(SyntaxError {
                message: match first {
                    Some(first) => format!(
                        "the key \"{text}\" stands twice in one map, first on line {}{read}",
                        first.position.line
                    ),
                    None => format!("the key \"{text}\" stands twice in one map{read}"),
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
