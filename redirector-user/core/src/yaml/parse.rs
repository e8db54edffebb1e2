//! From a text to the trees of its documents.

use std::borrow::Cow;

use super::complaint::syntax_error;
use super::events::{Event, Events, Refusal};
use super::mended::Mended;
use super::tree::Builder;
use super::{MAX_NODES, Node, SyntaxError, Value};

/// The byte order mark, which stands before a text, and in texts that were put one
/// behind the other before each.
const MARK: char = '\u{feff}';

/// More directives than this make a document unreadable.
const MAX_DIRECTIVES: usize = 100;

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
    /// A line that is indented with what looks like a space and is none: what stands on it,
    /// and below it, is elsewhere than it seems.
    pub indented: Option<SyntaxError>,
}

/// Reads all documents of a text. Time and memory are linear in its length.
pub fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for part in parse_parts(text, |_| None) {
        parsed.documents.extend(part.documents);
        parsed.errors.extend(part.error);
    }
    parsed
}

/// What stands in a part of a text.
#[derive(Debug, Default)]
pub struct Part {
    /// The documents that could be read: as a rule one.
    pub documents: Vec<Document>,
    /// What is wrong.
    pub error: Option<SyntaxError>,
    /// How many nodes it has.
    pub nodes: usize,
    /// It was not read, as what is in it is known.
    pub is_known: bool,
}

/// Reads a text part by part, but for those that are `known`: that says how many nodes
/// they have.
pub fn parse_parts(text: &str, mut known: impl FnMut(Chunk<'_>) -> Option<usize>) -> Vec<Part> {
    let text = text.strip_prefix(MARK).unwrap_or(text);
    let mut budget = MAX_NODES;
    let mut parts = Vec::new();
    for chunk in split(text) {
        let before = budget;
        // Where there is no room for one that is known, it says so itself.
        let left = known(chunk).and_then(|nodes| budget.checked_sub(nodes));
        let mut part = match left {
            Some(left) => {
                budget = left;
                Part { is_known: true, ..Part::default() }
            }
            None => parse_part(chunk, &mut budget),
        };
        part.nodes = before.saturating_sub(budget);
        let is_over = part.error.as_ref().is_some_and(|error| error.limit);
        parts.push(part);
        if is_over {
            break;
        }
    }
    parts
}

fn parse_part(chunk: Chunk<'_>, budget: &mut usize) -> Part {
    let (mut documents, left) = (Vec::new(), *budget);
    let mut error = parse_chunk(chunk, budget, &mut documents).err();
    if error.as_ref().is_some_and(|error| !error.limit)
        && is_json(chunk.text)
        && let Some(values) = json_values(chunk)
    {
        documents.clear();
        *budget = left;
        error = json(values, budget, &mut documents).err();
    }
    Part { documents, error, ..Part::default() }
}

/// A part of the text that is parsed by itself.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// Its text.
    pub text: &'a str,
    /// How many lines stand before it.
    pub line: u32,
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
                documents.push(Document { root, duplicates: Vec::new(), indented: None });
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
    let mut behind_marker = false;
    for part in text.split_inclusive('\n') {
        let marked = part.strip_prefix(MARK);
        let at = offset + marked.map_or(0, |_| MARK.len_utf8());
        let plain = marked.unwrap_or(part);
        let marker = plain
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker {
            let (end, end_line) = directives.take().unwrap_or((offset, line));
            chunks.push(Chunk { text: &text[start..end], line: start_line, column: 0 });
            (start, start_line) = if end == offset { (at, line) } else { (end, end_line) };
        } else if behind_marker && marked.is_some() {
            // What was a file of its own once begins with its mark.
            (start, start_line) = (at, line);
        } else if part.starts_with('%') {
            directives = directives.or(Some((offset, line)));
        } else if !part.starts_with('#') && !part.trim().is_empty() {
            directives = None;
        }
        behind_marker = marker && plain.trim_end() == "---";
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
    let mut builder = Builder::new(text, budget);
    let mut events = Events::new(text.as_str());
    loop {
        match events.next().map_err(Stop::Refusal)? {
            (Event::StreamEnd, _) => return Ok(()),
            (Event::DocumentEnd, _) => {
                let (root, duplicates, indented) = builder.finish();
                if let Some(root) = root.filter(|root| root.value != Value::Null) {
                    documents.push(Document { root, duplicates, indented });
                }
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
