//! What a command gets from outside, and what it gives back.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read, Write};

use serde::Serialize;

use super::{Common, Exit, Failure};
use crate::output::{Encoding, Style, folded};

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
}

impl Env {
    /// That of this process.
    pub fn of_process(out_is_terminal: bool, err_is_terminal: bool) -> Self {
        Self {
            vars: std::env::vars_os().collect(),
            out_is_terminal,
            err_is_terminal,
            in_is_terminal: io::stdin().is_terminal(),
        }
    }

    /// A variable that is set and not empty.
    pub fn var(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        self.vars.get(name.as_ref()).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    fn colour(&self, terminal: bool) -> Style {
        // https://no-color.org: set and not empty.
        let dumb = self.var("TERM").is_some_and(|term| term == "dumb");
        Style::new(terminal && self.var("NO_COLOR").is_none() && !dumb)
    }
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
    /// Colours for standard output.
    pub fn style(&self) -> Style {
        self.env.colour(self.env.out_is_terminal)
    }

    /// Colours for standard error.
    pub fn err_style(&self) -> Style {
        self.env.colour(self.env.err_is_terminal)
    }

    /// Writes an answer for people: no line is wider than a terminal.
    pub fn print_text(&mut self, text: &str) -> Result<(), Failure> {
        self.print(&folded(text))
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
            None => self.print_text(&text(self.style())),
        }
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
    /// fails. It is folded on a terminal only: elsewhere, as in a journal, a line
    /// is a record.
    pub fn note(&mut self, text: &str) {
        let text = if self.env.err_is_terminal { folded(text) } else { text.to_owned() };
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
