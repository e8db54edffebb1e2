//! What a text for people is written on: colours, and how wide it is.

use std::fmt::Display;

use super::fold::UNLIMITED;

/// How to colour a piece of text, or not to, and how many columns there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    enabled: bool,
    columns: usize,
}

impl Style {
    /// Without colours, and as wide as a line is.
    pub const PLAIN: Self = Self::new(false, UNLIMITED);

    /// With colours or without, and so many columns.
    pub const fn new(enabled: bool, columns: usize) -> Self {
        Self { enabled, columns }
    }

    /// The same, however wide.
    pub const fn unlimited(self) -> Self {
        Self { columns: UNLIMITED, ..self }
    }

    /// The same, so wide.
    pub const fn with_columns(self, columns: usize) -> Self {
        Self { columns, ..self }
    }

    /// How many columns a line may take.
    pub const fn columns(self) -> usize {
        self.columns
    }

    /// Whether there are colours.
    pub const fn enabled(self) -> bool {
        self.enabled
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.enabled { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// Something is wrong.
    pub fn error(self, text: impl Display) -> String {
        self.paint("1;31", text)
    }

    /// Something will surprise.
    pub fn warning(self, text: impl Display) -> String {
        self.paint("1;33", text)
    }

    /// All is well.
    pub fn good(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    /// Worth knowing, or how to mend it.
    pub fn help(self, text: impl Display) -> String {
        self.paint("36", text)
    }

    /// Headings.
    pub fn strong(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    /// Beside the point.
    pub fn faint(self, text: impl Display) -> String {
        self.paint("2", text)
    }
}
