//! Files that somebody has read again: who asked hears what came of it.

use tokio::sync::oneshot;

use super::control::{Answer, Response};
use super::control_loop::Daemon;

/// Who waits for everything to be read again, and to be in force or refused.
pub(super) struct Waiter {
    /// The reading that is to be over.
    reading: u64,
    /// The generation when it was asked for.
    before: u64,
    reply: oneshot::Sender<Answer>,
}

impl Daemon {
    /// Reads everything again; `reply` hears of it when that is over.
    pub(super) fn reread(&mut self, reply: oneshot::Sender<Answer>) {
        tracing::info!("reading everything again");
        let Some(reading) = self.source.reread() else {
            let error =
                "the API server is watched: what it has is known, and nothing is read again";
            let error = Some(error.to_owned());
            let response = Response { error, generation: self.generation, ..Response::default() };
            // Who has gone needs no answer.
            let _ = reply.send(Answer::plain(response));
            return;
        };
        self.rereading.push(Waiter { reading, before: self.generation, reply });
    }

    /// Answers those whose reading is over, and nothing of it waits.
    pub(super) fn answer_rereads(&mut self) {
        if self.rereading.is_empty() {
            return;
        }
        // What a reading brought waits before the reading is over.
        let read = self.source.read();
        if !self.waiting.is_empty() {
            return;
        }
        let over: Vec<Waiter> = self.rereading.extract_if(.., |one| one.reading <= read).collect();
        self.note_names();
        for Waiter { before, reply, .. } in over {
            let (generation, report) = (self.generation, Some(Box::new(self.report.clone())));
            let before = Some(before);
            let response = Response { generation, before, report, ..Response::default() };
            let _ = reply.send(Answer::plain(response));
        }
    }
}
