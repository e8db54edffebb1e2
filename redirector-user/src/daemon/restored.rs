//! The state directory, when somebody has removed what was in it.

use std::sync::mpsc::Sender;

use super::Event;
use super::control_loop::Daemon;
use crate::failure::Failure;

impl Daemon {
    /// Makes anew what was removed of the state directory: commands find this daemon by it, and
    /// the next one what is in force. What is nowhere else is lost: earlier generations.
    pub(super) fn see_to_state(&mut self, sender: &Sender<Event>) {
        self.gateways.see_to_door();
        let is_locked = self.state.is_locked_by(&self.lock);
        if is_locked && self.keeper.is_there() && self.state.control_socket().exists() {
            return;
        }
        let made = self.make_state_anew(sender, is_locked);
        let directory = self.state.path().display();
        match made {
            Ok(()) => tracing::warn!(
                "somebody has removed what was in {directory}: it is made anew, without earlier \
                 generations"
            ),
            Err(failure) => tracing::error!(
                "somebody has removed what was in {directory}, and it cannot be made anew: \
                 {failure}; trying again"
            ),
        }
    }

    fn make_state_anew(&mut self, sender: &Sender<Event>, is_locked: bool) -> Result<(), Failure> {
        self.state.create()?;
        if !is_locked {
            self.lock = self.state.lock()?;
        }
        let engine = &self.engine;
        self.keeper.begin_anew(|| engine.whole(false))?;
        self.state.save_bypassed(&self.bypassed)?;
        self.state.save_draining(&self.draining)?;
        self.state.save_grown(&self.options.sizes, &self.datapath.sizes())?;
        self.state.admit_readers()?;
        self.take_requests(sender)?;
        self.published = None;
        Ok(())
    }
}
