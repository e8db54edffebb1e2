//! What the models of daemons that follow each other share.

/// The lock of the state directory, which goes with who holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lock(pub Option<usize>);

impl Lock {
    /// This one takes it, unless somebody has it; where there `is_none`, at any time.
    pub fn take(&mut self, number: usize, is_none: bool) -> Option<()> {
        if self.0.is_some() && !is_none {
            return None;
        }
        self.0 = Some(number);
        Some(())
    }

    /// This one ends.
    pub fn ends(&mut self, number: usize) {
        self.0.take_if(|holder| *holder == number);
    }
}

/// Whether none of so many can take a step.
pub fn is_over<S: Clone>(
    state: &S,
    daemons: usize,
    mut goes: impl FnMut(&mut S, usize) -> Option<()>,
) -> bool {
    (0..daemons).all(|one| goes(&mut state.clone(), one).is_none())
}
