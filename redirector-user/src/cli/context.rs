//! What a command gets from outside, and what it gives back.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read, Write};

use rustix::termios::tcgetwinsize;
use serde::Serialize;

use super::Format;
use super::{Common, Exit, Failure};
use crate::daemon::log;
use crate::output::{Encoding, Style, UNLIMITED, WIDTH, folded, plain};

/// The environment that a command runs in.
#[derive(Clone, Debug, Default)]
pub struct Env {
    /// Environment variables.
    pub vars: BTreeMap<OsString, OsString>,
    /// Whether standard output is a terminal.
    pub out_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub err_is_terminal: bool,
    /// Whether standard input is a terminal, so that a question can be asked.
    pub in_is_terminal: bool,
    /// Whether standard error is the journal, which takes priorities.
    pub err_is_journal: bool,
    /// How many columns the terminal has, where there is one that says so.
    pub terminal_columns: Option<usize>,
}

/// No terminal is taken for narrower.
const NARROWEST: usize = 20;

impl Env {
    /// That of this process.
    pub fn of_process(out_is_terminal: bool, err_is_terminal: bool) -> Self {
        let journal = std::env::var_os("JOURNAL_STREAM");
        Self {
            vars: std::env::vars_os().collect(),
            err_is_journal: log::is_journal(journal.as_deref(), io::stderr()),
            out_is_terminal,
            err_is_terminal,
            in_is_terminal: io::stdin().is_terminal(),
            terminal_columns: terminal_size().map(|(columns, _)| columns),
        }
    }

    /// How many columns a line may take: those that COLUMNS says, or those of the
    /// terminal. Where there is none, a line is a record, however long.
    pub fn columns(&self, terminal: bool) -> usize {
        let said = self.var("COLUMNS").and_then(OsStr::to_str).and_then(|text| text.parse().ok());
        let columns = said.filter(|columns| *columns > 0);
        let columns = match terminal {
            true => columns.or(self.terminal_columns).unwrap_or(WIDTH),
            false => columns.unwrap_or(UNLIMITED),
        };
        columns.max(NARROWEST)
    }

    /// A variable that is set and not empty.
    pub fn var(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        self.vars.get(name.as_ref()).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    fn style(&self, terminal: bool) -> Style {
        // https://no-color.org: set and not empty.
        let dumb = self.var("TERM").is_some_and(|term| term == "dumb");
        let colours = terminal && self.var("NO_COLOR").is_none() && !dumb;
        Style::new(colours, self.columns(terminal))
    }
}

/// The columns and rows of the terminal that standard output is, or else standard
/// error.
pub fn terminal_size() -> Option<(usize, usize)> {
    let sizes = [tcgetwinsize(io::stdout()), tcgetwinsize(io::stderr())];
    let size = sizes.into_iter().flatten().find(|size| size.ws_col > 0)?;
    Some((size.ws_col.into(), size.ws_row.into()))
}

/// Everything that a command may touch of its surroundings, apart from what
/// its arguments name.
pub struct Context<'a> {
    /// Variables and terminals.
    pub env: Env,
    /// Standard output: answers.
    pub out: &'a mut dyn Write,
    /// Standard error: errors and notes.
    pub err: &'a mut dyn Write,
}

impl Context<'_> {
    /// Colours and width of standard output.
    pub fn style(&self, common: &Common) -> Style {
        let style = self.env.style(self.env.out_is_terminal);
        if common.output == Format::Wide { style.unlimited() } else { style }
    }

    /// Colours and width of standard error.
    pub fn err_style(&self) -> Style {
        self.env.style(self.env.err_is_terminal)
    }

    /// Writes an answer for people: no line is wider than a terminal.
    pub fn print_text(&mut self, text: &str, style: Style) -> Result<(), Failure> {
        self.print(&folded(text, style.columns()))
    }

    /// Writes an answer as it is.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                // The reader has seen enough, `redirector maps | head`.
                return Failure { exit: Exit::Fine, message: String::new(), help: None };
            }
            Failure::new(Exit::No, format!("cannot write to standard output: {error}"))
        })
    }

    /// Writes an answer: `text` for people, `value` for scripts.
    pub fn answer(
        &mut self,
        common: &Common,
        value: &impl Serialize,
        text: impl FnOnce(Style) -> String,
    ) -> Result<(), Failure> {
        match common.output.encoding() {
            Some(encoding) => self.print_value(encoding, value),
            None => {
                let style = self.style(common);
                self.print_text(&text(style), style)
            }
        }
    }

    /// The same of what is a list of things with `names`.
    pub fn answer_list<S: AsRef<str>>(
        &mut self,
        common: &Common,
        value: &impl Serialize,
        names: impl IntoIterator<Item = S>,
        text: impl FnOnce(Style) -> String,
    ) -> Result<(), Failure> {
        if common.output != Format::Name {
            return self.answer(common, value, text);
        }
        let lines = names.into_iter().map(|name| format!("{}\n", plain(name.as_ref())));
        self.print(&lines.collect::<String>())
    }

    /// Writes an answer for scripts.
    pub fn print_value(
        &mut self,
        encoding: Encoding,
        value: &impl Serialize,
    ) -> Result<(), Failure> {
        let text = encoding.answer(value, self.env.out_is_terminal);
        self.print(&text.map_err(|error| Failure::new(Exit::No, error))?)
    }

    /// Writes one of several answers that follow each other, for scripts.
    pub fn print_record(
        &mut self,
        encoding: Encoding,
        value: &impl Serialize,
    ) -> Result<(), Failure> {
        let text = encoding.record(value);
        self.print(&text.map_err(|error| Failure::new(Exit::No, error))?)
    }

    /// The exit code of an answer that was written. A reader who has seen enough
    /// (`redirector status | head -1`) does not change the answer.
    pub fn answered(&self, written: Result<(), Failure>, exit: Exit) -> Result<Exit, Failure> {
        match written {
            Ok(()) => Ok(exit),
            Err(failure) if failure.exit == Exit::Fine => Ok(exit),
            Err(failure) => Err(failure),
        }
    }

    /// Writes a note to standard error; nobody is there to be told when that
    /// fails.
    pub fn note(&mut self, text: &str) {
        let text = folded(text, self.err_style().columns());
        let _ = writeln!(self.err, "{text}");
    }

    /// Asks a question that `y` answers with yes. Only to be called when
    /// standard input is a terminal.
    pub fn ask(&mut self, question: &str) -> bool {
        let _ = write!(self.err, "{question} [y/N] ");
        let _ = self.err.flush();
        let mut answer = Vec::new();
        for byte in io::stdin().lock().bytes() {
            match byte {
                Ok(b'\n') | Err(_) => break,
                Ok(byte) => answer.push(byte),
            }
        }
        matches!(answer.trim_ascii(), b"y" | b"Y" | b"yes" | b"Yes")
    }
}
