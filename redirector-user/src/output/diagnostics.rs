//! Diagnostics the way a compiler shows them: what, where, the line with a
//! caret under the column, and how to mend it.

use std::fmt::Write;

use redirector_core::diag::{Diagnostic, Severity};

use super::{Style, plain, short};

/// Where the text of a file comes from when one of its lines is shown.
pub trait SourceLines {
    /// A line (counted from 1) of a file, without its end, or where it is long
    /// `most` characters of it around the column (counted from 1, 0 for none).
    fn excerpt(&mut self, file: &str, line: u32, column: u32, most: usize) -> Option<Excerpt>;
}

/// A line of a file, or the part of it around a column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Excerpt {
    /// What there is to show.
    pub shown: String,
    /// The line has more before it.
    pub more_before: bool,
    /// The line has more behind it.
    pub more_behind: bool,
    /// The column, as the number of characters of `shown` that stand before it.
    pub caret: Option<usize>,
}

/// More of a line than this is not shown, however wide the terminal.
const MOST: usize = 240;

/// What stands beside a line that is shown: " | " and two marks where it is cut.
const BESIDE: usize = 5;

/// One diagnostic as text, with an empty line after it.
pub fn render(diagnostic: &Diagnostic, sources: &mut dyn SourceLines, style: Style) -> String {
    let severity = match diagnostic.severity {
        Severity::Error => style.error("error"),
        Severity::Warning => style.warning("warning"),
        Severity::Info => style.help("info"),
    };
    let code = match diagnostic.istio {
        Some(istio) => format!("[{} {istio}]", diagnostic.code),
        None => format!("[{}]", diagnostic.code),
    };
    let mut text = format!("{severity}{}: {}\n", style.strong(code), short(&diagnostic.message));
    let mut place = String::new();
    if let Some(file) = &diagnostic.file {
        place.push_str(&plain(file));
        if diagnostic.line > 0 {
            let _ = write!(place, ":{}", diagnostic.line);
            if diagnostic.column > 0 {
                let _ = write!(place, ":{}", diagnostic.column);
            }
        }
    }
    let object = diagnostic.object_name().unwrap_or_default();
    let what = [object.as_str(), &diagnostic.path];
    let what = what.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ");
    let what = short(&what);
    match (place.is_empty(), what.is_empty()) {
        (false, false) => {
            let _ = writeln!(text, "  {} {place} ({what})", style.faint("-->"));
        }
        (false, true) => {
            let _ = writeln!(text, "  {} {place}", style.faint("-->"));
        }
        (true, false) => {
            let _ = writeln!(text, "  {} {what}", style.faint("-->"));
        }
        (true, true) => {}
    }
    let excerpt = match (&diagnostic.file, diagnostic.line) {
        (Some(file), line) if line > 0 => {
            let room = style.columns().min(MOST);
            let room = room.saturating_sub(line.to_string().len() + BESIDE);
            sources.excerpt(file, line, diagnostic.column, room)
        }
        _ => None,
    };
    if let Some(excerpt) = excerpt {
        let number = diagnostic.line.to_string();
        let (shown, caret) = drawn(&excerpt);
        let _ = writeln!(text, "{} {} {shown}", style.faint(&number), style.faint("|"));
        if let Some(caret) = caret {
            let blank = " ".repeat(number.len());
            let pointer = style.error("^");
            let _ = writeln!(text, "{blank} {} {}{pointer}", style.faint("|"), " ".repeat(caret));
        }
    }
    if let Some(help) = &diagnostic.help {
        let _ = writeln!(text, "  {}: {}", style.help("help"), short(help));
    }
    text.push('\n');
    text
}

/// A line, or its part, and where in it the caret stands. Tabs and control
/// characters become single spaces, so that the caret is under its column
/// whatever the terminal does.
fn drawn(excerpt: &Excerpt) -> (String, Option<usize>) {
    let mut shown = String::new();
    if excerpt.more_before {
        shown.push('…');
    }
    shown.extend(excerpt.shown.chars().map(|c| if c.is_control() { ' ' } else { c }));
    if excerpt.more_behind {
        shown.push('…');
    }
    (shown, excerpt.caret.map(|caret| caret + usize::from(excerpt.more_before)))
}

#[cfg(test)]
mod tests {
    use redirector_core::diag::Subject;

    use super::*;
    use crate::output::{Lines, WIDTH};

    fn diagnostic(column: u32) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code: "RD1001",
            istio: None,
            message: "weight is negative".into(),
            help: Some("write a number from 0".into()),
            object: Some(Subject::Other("VirtualService/default/echo".into())),
            path: "spec.tcp[0].route[1].weight".into(),
            file: Some("rules.yaml".into()),
            line: 17,
            column,
        }
    }

    #[test]
    fn the_caret_stands_under_the_column() {
        let texts = [("rules.yaml".into(), format!("{}\t weight: -1", "\n".repeat(16)).into())];
        let text = render(&diagnostic(11), &mut Lines::new(&texts), Style::PLAIN);
        assert_eq!(
            text,
            "error[RD1001]: weight is negative\n  \
               --> rules.yaml:17:11 (VirtualService/default/echo spec.tcp[0].route[1].weight)\n\
             17 |   weight: -1\n   \
                |           ^\n  \
               help: write a number from 0\n\n"
        );
    }

    #[test]
    fn a_very_long_line_is_shown_around_its_column() {
        let long = format!("{}{}^{}", "\n".repeat(16), "x".repeat(50_000), "x".repeat(50_000));
        let texts = [("rules.yaml".into(), long.into())];
        let text = render(&diagnostic(50_001), &mut Lines::new(&texts), Style::new(false, WIDTH));
        let lines: Vec<&str> = text.lines().collect();
        let caret = lines[3].chars().position(|c| c == '^').expect("a caret");
        assert_eq!(lines[2].chars().nth(caret), Some('^'), "{text}");
        assert!(lines[2].chars().count() <= WIDTH, "{text}");
        assert!(lines[2].ends_with('…') && lines[2].contains("| …"), "{text}");
    }

    #[test]
    fn names_and_texts_of_others_cannot_paint_the_terminal() {
        let mut finding = diagnostic(0);
        finding.message = "found \"\u{1b}[2J\"".into();
        finding.file = Some("a\u{1b}[31m\n.yaml".into());
        finding.help = Some("\u{1b}]0;title\u{7}".into());
        let text = render(&finding, &mut Lines::new(&[]), Style::PLAIN);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text}");
        assert_eq!(text.lines().count(), 4, "{text}");
    }
}
