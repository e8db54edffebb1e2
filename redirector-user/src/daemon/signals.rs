//! Signals: heard once for the process, and told to whichever control loop there is.

use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Event;

/// Hears signals for as long as the process lives.
pub struct Signals(Arc<Mutex<Sender<Event>>>);

impl Signals {
    /// Hears them from now on.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn hear(sender: &Sender<Event>) -> io::Result<Self> {
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let to = Arc::new(Mutex::new(sender.clone()));
        let this = Self(Arc::clone(&to));
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                let event = if signal == SIGHUP { Event::Reread } else { Event::Stop(signal) };
                // Where nobody listens any more, the process is about to end.
                let _ = to.lock().unwrap_or_else(PoisonError::into_inner).send(event);
            }
        })?;
        Ok(this)
    }

    /// Tells another control loop from now on.
    pub fn tell(&self, sender: &Sender<Event>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sender.clone();
    }
}
