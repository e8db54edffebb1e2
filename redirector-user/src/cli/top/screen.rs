//! The terminal while somebody is in front of it: given back as it was, whatever ends it.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};
use rustix::event::{PollFd, PollFlags, Timespec};
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

/// A screen of its own, with every key told at once.
pub struct Screen {
    /// The thread that waits for a signal.
    signals: Handle,
}

/// How long the terminal may take to be given back when a signal ends it: one that is
/// stopped takes nothing.
const TAKES: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

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
        // Whatever ends it: the terminal must not stay as it is made here. SIGHUP ends it as
        // ever: there is no terminal any more, and reading from one that is gone has no end.
        let mut signals = Signals::new([SIGTERM])?;
        let screen = Self { signals: signals.handle() };
        // Not by the thread that reads and writes: whatever that waits for may never come.
        thread::Builder::new().name("signals".into()).spawn(move || {
            if let Some(signal) = signals.forever().next() {
                give_back();
                let _ = emulate_default_handler(signal);
            }
        })?;
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
        give_back();
        self.signals.close();
    }
}

/// Gives the terminal back as it was.
fn give_back() {
    // A terminal that is gone needs nothing.
    let _ = disable_raw_mode();
    let mut bytes = Vec::new();
    let _ = queue!(bytes, Show, LeaveAlternateScreen);
    // Past the lock: whoever has it may wait for the terminal for ever.
    let out = rustix::stdio::stdout();
    if rustix::event::poll(&mut [PollFd::new(&out, PollFlags::OUT)], Some(&TAKES)) == Ok(1) {
        let _ = rustix::io::write(out, &bytes);
    }
}
