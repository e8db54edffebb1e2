//! What the parser refuses, in a user's words.

use super::events::{Mark, Refusal};
use super::mended::Mended;
use super::{Position, SyntaxError};

/// The parser's complaint, in a user's words where its own say little.
pub(super) fn syntax_error(text: &Mended<'_>, why: Refusal) -> SyntaxError {
    let line = usize::try_from(why.at.line).unwrap_or(usize::MAX);
    // The scanner often notices a tab one line late.
    let first = line.saturating_sub(1);
    let lines = text.as_str().lines().enumerate().skip(first).take(line + 1 - first);
    let tab = lines.filter(|(_, l)| l[..l.len() - l.trim_start().len()].contains('\t'));
    if let Some((line, l)) = tab.last() {
        let column = l.chars().take_while(|c| *c != '\t').count() as u64;
        return SyntaxError {
            message: "a tab indents this line; YAML allows only spaces there".to_owned(),
            help: Some("replace the tab with spaces".to_owned()),
            position: text.position(Mark { byte: 0, line: line as u64, column }),
            limit: false,
        };
    }
    let lines: Vec<&str> = text.as_str().lines().take(line.saturating_add(1)).collect();
    let mut before = lines.iter().enumerate().filter_map(|(line, l)| {
        let rest = l.trim_start_matches(' ');
        let column = l.len() - rest.len();
        let at = Mark { byte: 0, line: line as u64, column: column as u64 };
        indented(rest, text.position(at)).filter(|_| !is_text(&lines[..line], column))
    });
    if let Some(error) = before.next_back() {
        return error;
    }
    if let Some((message, help, at)) = cause(text.as_str(), &why) {
        return SyntaxError {
            message: format!("this is not YAML: {message}"),
            help: Some(help),
            position: text.position(at),
            limit: false,
        };
    }
    let context = match why.context {
        Some((what, from)) if from.line != why.at.line => {
            format!("{what} (from line {}): ", text.position(from).line)
        }
        Some((what, _)) => format!("{what}: "),
        None => String::new(),
    };
    SyntaxError {
        message: format!("this is not YAML: {context}{}", why.problem),
        help: None,
        position: text.position(why.at),
        limit: false,
    }
}

/// What is wrong with a line, or a key, that begins with what looks like a space and is none.
pub(super) fn indented(text: &str, position: Position) -> Option<SyntaxError> {
    let no_space = |c: char| c.is_whitespace() || matches!(c, '\u{200b}' | '\u{2060}' | '\u{feff}');
    let first = text.chars().next().filter(|c| !c.is_ascii() && no_space(*c))?;
    let what = if first == '\u{a0}' { "a no-break space" } else { "a character that is no space" };
    Some(SyntaxError {
        message: format!(
            "{what} (U+{:04X}) indents this line; YAML allows only spaces there",
            u32::from(first)
        ),
        help: Some("replace it with spaces".to_owned()),
        position,
        limit: false,
    })
}

/// Whether the last line before a place that says anything ends a document.
fn is_behind_end(text: &str, at: Mark) -> bool {
    let before = text.lines().take(usize::try_from(at.line).unwrap_or(usize::MAX));
    before.filter(|line| !line.trim().is_empty()).last().is_some_and(|line| line.starts_with("..."))
}

/// What most often makes the parser complain so, and where that is.
fn cause(text: &str, why: &Refusal) -> Option<(&'static str, String, Mark)> {
    if let Some((what, from)) = &why.context
        && let "while scanning an alias" | "while scanning an anchor" = &**what
    {
        let line = text.lines().nth(usize::try_from(from.line).ok()?)?;
        let rest: String = line.chars().skip(usize::try_from(from.column).ok()?).collect();
        let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ']' | '}');
        let word = rest.split(ends).next().unwrap_or_default();
        let message = "a word that begins so, and is not in quotes, repeats or names another value";
        return Some((message, format!("put it in quotes: \"{word}\""), *from));
    }
    let (message, help, at) = cause_of_lines(text, why)?;
    Some((message, help.to_owned(), at))
}

/// What most often makes it do so where lines are not what they seem.
fn cause_of_lines(text: &str, why: &Refusal) -> Option<(&'static str, &'static str, Mark)> {
    const NO_COLON: &str = "this line is neither a key nor an item of a list";
    const COLON: &str =
        "a key has a colon behind it, and a space or the end of the line behind that";
    const DEEPER: &str = "this key is further in than the item of a list above it, and so a part of that item's text";
    const NO_SPACE: &str = "the dash that begins an item of a list has no space behind it";
    const SPACE: &str = "write a space behind the dash";
    let began = why.context.as_ref();
    let began = began.map(|(what, from)| (what.as_str(), *from));
    match (&*why.problem, began) {
        ("did not find expected <document start>", _) if is_behind_end(text, why.at) => Some((
            "a document begins here that has no --- before it",
            "write --- before it: kubectl leaves out what stands behind the end of a document",
            why.at,
        )),
        (_, Some(("while scanning a quoted scalar", from))) if from.line != why.at.line => {
            Some(("this quote is never closed", "close it, or quote nothing here", from))
        }
        ("could not find expected ':'", Some(("while scanning a simple key", from))) => {
            Some((NO_COLON, COLON, from))
        }
        ("mapping values are not allowed in this context", _) => {
            let at = usize::try_from(why.at.line).ok()?;
            let above = at.saturating_sub(3);
            let lines: Vec<&str> = text.lines().skip(above).take(at + 1 - above).collect();
            let (last, above_it) = lines.split_last()?;
            let column = usize::try_from(why.at.column).ok()?;
            let before: String = last.chars().take(column).collect();
            if before.contains(": ") {
                let help = "write it below, further in; or put what is behind the first in quotes";
                return Some(("a second colon makes a second key on one line", help, why.at));
            }
            let (up, line) = above_it.iter().rev().enumerate().find(|(_, line)| {
                let line = line.trim();
                !line.is_empty() && !line.starts_with('#')
            })?;
            if line.contains(": ") || line.trim_end().ends_with(':') {
                return None;
            }
            let indent = |line: &str| line.chars().take_while(|c| c.is_whitespace()).count();
            if line.trim_start().starts_with("- ") {
                let column = indent(last) as u64;
                let at = Mark { byte: 0, line: why.at.line, column };
                return Some((DEEPER, "write it as far in as the keys that it belongs beside", at));
            }
            let (message, help) = match line.trim_start().strip_prefix('-') {
                Some(rest) if !rest.starts_with('-') => (NO_SPACE, SPACE),
                _ => (NO_COLON, COLON),
            };
            let indent = indent(line);
            let line = why.at.line.checked_sub(up as u64 + 1)?;
            Some((message, help, Mark { byte: 0, line, column: indent as u64 }))
        }
        _ => None,
    }
}

/// Whether what is indented so far below these lines is of a block of text.
fn is_text(above: &[&str], column: usize) -> bool {
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let parent = above.iter().rev().find(|line| !line.trim().is_empty() && indent(line) < column);
    let end = parent.and_then(|line| line.split_whitespace().last());
    end.is_some_and(|end| end.starts_with(['|', '>']))
}
