//! The terminal while somebody is in front of it: given back as it was, whatever ends it.

use std::io::{self, Write};
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};

/// A screen of its own, with every key told at once.
pub struct Screen(());

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Happened {
    /// The time is over.
    Nothing,
    /// Something was pressed.
    Pressed(super::view::Key),
    /// The terminal has another size.
    Resized,
    /// It is to end.
    End,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    ///
    /// When standard output is none.
    pub fn take() -> io::Result<Self> {
        enable_raw_mode()?;
        let screen = Self(());
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    /// Shows this instead of what was shown.
    ///
    /// # Errors
    ///
    /// When the terminal is gone.
    pub fn show(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        queue!(out, MoveTo(0, 0))?;
        for (at, line) in text.lines().enumerate() {
            // In this mode a line break is only that.
            let before: &[u8] = if at == 0 { b"" } else { b"\r\n" };
            out.write_all(before)?;
            out.write_all(line.as_bytes())?;
            queue!(out, Clear(ClearType::UntilNewLine))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }

    /// Waits for something to happen, and so long at most.
    ///
    /// # Errors
    ///
    /// When the terminal is gone.
    pub fn wait(&self, most: Duration) -> io::Result<Happened> {
        use super::view::Key;
        if !poll(most)? {
            return Ok(Happened::Nothing);
        }
        let key = match read()? {
            Event::Resize(..) => return Ok(Happened::Resized),
            Event::Key(key) if key.kind != KeyEventKind::Release => key,
            _ => return Ok(Happened::Nothing),
        };
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        Ok(match key.code {
            KeyCode::Char('c' | 'd') if control => Happened::End,
            KeyCode::Char(character) if !control => Happened::Pressed(Key::Text(character)),
            KeyCode::Enter => Happened::Pressed(Key::Enter),
            KeyCode::Esc => Happened::Pressed(Key::Escape),
            KeyCode::Backspace => Happened::Pressed(Key::Backspace),
            KeyCode::Up => Happened::Pressed(Key::Up),
            KeyCode::Down => Happened::Pressed(Key::Down),
            KeyCode::PageUp => Happened::Pressed(Key::PageUp),
            KeyCode::PageDown => Happened::Pressed(Key::PageDown),
            KeyCode::Home => Happened::Pressed(Key::Home),
            KeyCode::End => Happened::Pressed(Key::End),
            _ => Happened::Nothing,
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}
