//! The terminal while somebody is in front of it: given back as it was, whatever ends it.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::unregister;

/// A screen of its own, with every key told at once.
pub struct Screen {
    /// Whether a signal has asked for the end.
    ends: Arc<AtomicBool>,
    signals: Vec<SigId>,
}

/// How long a signal may have to wait until it is noticed.
const NOTICED: Duration = Duration::from_millis(200);

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
        // Whatever ends it: the terminal must not stay as it is made here.
        let ends = Arc::new(AtomicBool::new(false));
        let mut screen = Self { ends, signals: Vec::new() };
        for signal in [SIGTERM, SIGHUP] {
            screen.signals.push(flag::register(signal, Arc::clone(&screen.ends))?);
        }
        enable_raw_mode()?;
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
        let until = Instant::now() + most;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if poll(left.min(NOTICED))? {
                break;
            }
            if self.ends.load(Ordering::Relaxed) {
                return Ok(Happened::End);
            }
            if left <= NOTICED {
                return Ok(Happened::Nothing);
            }
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
        for signal in self.signals.drain(..) {
            unregister(signal);
        }
    }
}
