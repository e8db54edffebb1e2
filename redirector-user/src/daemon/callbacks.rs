//! What the daemon's threads call when they have something to say.

use std::sync::mpsc::Sender;

use super::Event;

/// A callback that sends an event, and ends its thread when nobody listens.
pub(super) fn tell(
    sender: &Sender<Event>,
    event: fn() -> Event,
) -> impl FnMut() -> bool + Send + 'static {
    let sender = sender.clone();
    move || sender.send(event()).is_ok()
}

/// The same with something to say.
pub(super) fn sending<T: 'static>(
    sender: &Sender<Event>,
    event: fn(T) -> Event,
) -> impl FnMut(T) -> bool + Send + 'static {
    let sender = sender.clone();
    move |what| sender.send(event(what)).is_ok()
}
