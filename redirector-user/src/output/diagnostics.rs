//! Diagnostics the way a compiler shows them: what, where, the line with a
//! caret under the column, and how to mend it.

use std::fmt::Write;

use redirector_core::diag::{Diagnostic, Severity};

use super::{Style, WIDTH};

/// Where the text of a file comes from when one of its lines is shown.
pub trait SourceLines {
    /// The line (counted from 1) of a file, without its end.
    fn line(&mut self, file: &str, line: u32) -> Option<String>;
}

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
    let mut text = format!("{severity}{}: {}\n", style.strong(code), diagnostic.message);
    let mut place = String::new();
    if let Some(file) = &diagnostic.file {
        place.push_str(file);
        if diagnostic.line > 0 {
            let _ = write!(place, ":{}", diagnostic.line);
            if diagnostic.column > 0 {
                let _ = write!(place, ":{}", diagnostic.column);
            }
        }
    }
    let what = [diagnostic.object.as_deref().unwrap_or(""), &diagnostic.path];
    let what = what.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ");
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
    let line = match (&diagnostic.file, diagnostic.line) {
        (Some(file), line) if line > 0 => sources.line(file, line),
        _ => None,
    };
    if let Some(line) = line {
        let number = diagnostic.line.to_string();
        let room = WIDTH.saturating_sub(number.len() + BESIDE);
        let (shown, caret) = around(&line, diagnostic.column as usize, room);
        let _ = writeln!(text, "{} {} {shown}", style.faint(&number), style.faint("|"));
        if let Some(caret) = caret {
            let blank = " ".repeat(number.len());
            let pointer = style.error("^");
            let _ = writeln!(text, "{blank} {} {}{pointer}", style.faint("|"), " ".repeat(caret));
        }
    }
    if let Some(help) = &diagnostic.help {
        let _ = writeln!(text, "  {}: {help}", style.help("help"));
    }
    text.push('\n');
    text
}

/// The part of a line to show, no more than `most` characters, and where in it the
/// caret stands. Tabs and control characters become single spaces, so that the
/// caret is under its column whatever the terminal does.
fn around(line: &str, column: usize, most: usize) -> (String, Option<usize>) {
    let characters: Vec<char> =
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let caret = column.checked_sub(1).map(|at| at.min(characters.len()));
    let start = match caret {
        Some(at) if at > most * 3 / 4 => at - most / 2,
        _ => 0,
    };
    let end = characters.len().min(start + most);
    let mut shown = String::new();
    let mut shift = 0;
    if start > 0 {
        shown.push('…');
        shift = 1;
    }
    shown.extend(&characters[start..end]);
    if end < characters.len() {
        shown.push('…');
    }
    (shown, caret.map(|at| at - start + shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct OneLine(&'static str);

    impl SourceLines for OneLine {
        fn line(&mut self, _: &str, _: u32) -> Option<String> {
            Some(self.0.to_owned())
        }
    }

    fn diagnostic(column: u32) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code: "RD1001",
            istio: None,
            message: "weight is negative".into(),
            help: Some("write a number from 0".into()),
            object: Some("VirtualService/default/echo".into()),
            path: "spec.tcp[0].route[1].weight".into(),
            file: Some("rules.yaml".into()),
            line: 17,
            column,
        }
    }

    #[test]
    fn the_caret_stands_under_the_column() {
        let text = render(&diagnostic(11), &mut OneLine("  weight: -1"), Style::new(false));
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
        let (shown, caret) = around(&"x".repeat(100_000), 50_000, 70);
        assert_eq!(shown.chars().count(), 72, "with a mark on both sides");
        assert_eq!(caret, Some(36));
    }

    #[test]
    fn a_column_beyond_the_line_points_behind_it() {
        assert_eq!(around("ab", 9, 70), ("ab".to_owned(), Some(2)));
        assert_eq!(around("", 1, 70), (String::new(), Some(0)));
    }
}
