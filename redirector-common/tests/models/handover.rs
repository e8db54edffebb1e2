//! One daemon follows another (`run --replace`): each step of the successor may fail, and
//! each of the two may be killed, twice in all, while a second successor comes at any time.

use stateright::{Model, Property};

use super::daemons::{Lock, is_over};
use super::{breaks, holds};

/// What is left out, to see that it is missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    /// Lingering until the successor is in force.
    Lingering,
    /// Trying again when taking over again fails.
    Again,
    /// The lock of the state directory.
    Lock,
}

struct HandOver {
    without: Without,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Daemon {
    /// It has not been started.
    Absent,
    /// It asks the daemon in charge to hand over, if there is one.
    Asks,
    /// It has asked this one.
    Waits(Option<usize>),
    /// It writes tables and state: as a successor of this one, or again.
    Takes(Option<usize>),
    /// It is in force, but the one before does not know.
    InForce(Option<usize>),
    InCharge,
    /// It has handed over to this one.
    Lingers(usize),
    /// It was not confirmed, and takes over again.
    Returns,
    Ended,
    /// Killed, or failed as no successor does: whoever supervises it starts it again.
    Restarts,
    /// A successor that was killed: its predecessor has to go on.
    Killed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    daemons: [Daemon; 3],
    lock: Lock,
    /// Which of them were in charge.
    were: [bool; 3],
    faults: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Goes(usize),
    Fails(usize),
    Killed(usize),
}

impl State {
    fn writers(&self) -> usize {
        let writes = |daemon: &&Daemon| {
            matches!(daemon, Daemon::Takes(_) | Daemon::InForce(_) | Daemon::InCharge)
        };
        self.daemons.iter().filter(writes).count()
    }

    fn lives(&self, number: usize) -> bool {
        use Daemon::{Absent, Ended, Killed, Restarts};
        !matches!(self.daemons[number], Ended | Restarts | Killed | Absent)
    }

    fn ends(&mut self, number: usize, how: Daemon) {
        self.daemons[number] = how;
        self.lock.ends(number);
    }
}

impl HandOver {
    fn goes(&self, state: &mut State, number: usize) -> Option<()> {
        state.daemons[number] = match state.daemons[number] {
            Daemon::Absent => Daemon::Asks,
            Daemon::Asks => match state.lock.0 {
                None => Daemon::Waits(None),
                Some(before) if state.daemons[before] == Daemon::InCharge => {
                    // It lets go of tables and state as it answers.
                    state.daemons[before] = match self.without {
                        Without::Lingering => Daemon::Ended,
                        _ => Daemon::Lingers(number),
                    };
                    state.lock.ends(before);
                    Daemon::Waits(Some(before))
                }
                // That one does not answer yet.
                Some(_) => Daemon::Ended,
            },
            // Somebody else has come in between, and it has waited for long enough.
            Daemon::Waits(_)
                if self.without != Without::Lock
                    && state.lock.0.is_some_and(|one| state.daemons[one] == Daemon::InCharge) =>
            {
                Daemon::Ended
            }
            Daemon::Waits(before) => {
                state.lock.take(number, self.without == Without::Lock)?;
                Daemon::Takes(before)
            }
            Daemon::Takes(before) => Daemon::InForce(before),
            Daemon::InForce(before) => {
                if let Some(before) = before
                    && state.daemons[before] == Daemon::Lingers(number)
                {
                    state.daemons[before] = Daemon::Ended;
                }
                state.were[number] = true;
                Daemon::InCharge
            }
            Daemon::Lingers(after) => {
                if state.lives(after) {
                    return None;
                }
                Daemon::Returns
            }
            Daemon::Returns if state.lock.0.is_some_and(|other| other != number) => Daemon::Ended,
            Daemon::Returns => {
                state.lock.take(number, self.without == Without::Lock)?;
                Daemon::Takes(None)
            }
            Daemon::InCharge | Daemon::Ended | Daemon::Restarts | Daemon::Killed => return None,
        };
        Some(())
    }

    /// A step fails that can.
    fn fails(&self, state: &mut State, number: usize) -> Option<()> {
        match state.daemons[number] {
            // It has been in charge before, and tries again.
            Daemon::Returns | Daemon::Takes(None) if state.were[number] => match self.without {
                Without::Again => state.ends(number, Daemon::Ended),
                _ => state.ends(number, Daemon::Returns),
            },
            // It follows nobody.
            Daemon::Waits(None) | Daemon::Takes(None) | Daemon::InForce(None) => {
                state.ends(number, Daemon::Restarts);
            }
            Daemon::Asks | Daemon::Waits(_) | Daemon::Takes(_) | Daemon::InForce(_) => {
                state.ends(number, Daemon::Ended);
            }
            _ => return None,
        }
        Some(())
    }
}

impl Model for HandOver {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let daemons = [Daemon::InCharge, Daemon::Absent, Daemon::Absent];
        vec![State { daemons, lock: Lock(Some(0)), were: [true, false, false], faults: 0 }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        actions.extend((0..3).map(Step::Goes));
        if state.faults < 2 {
            actions.extend((0..3).map(Step::Fails));
            actions.extend((0..3).filter(|one| state.lives(*one)).map(Step::Killed));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Goes(number) => self.goes(&mut state, number)?,
            Step::Fails(number) => {
                state.faults += 1;
                self.fails(&mut state, number)?;
            }
            Step::Killed(number) => {
                state.faults += 1;
                let follows = matches!(
                    state.daemons[number],
                    Daemon::Asks
                        | Daemon::Waits(Some(_))
                        | Daemon::Takes(Some(_))
                        | Daemon::InForce(Some(_))
                );
                let how = if follows { Daemon::Killed } else { Daemon::Restarts };
                state.ends(number, how);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one writes", |_, state: &State| state.writers() < 2),
            Property::always("somebody is in charge in the end", |model: &Self, state: &State| {
                let is_over = is_over(state, 3, |state, one| model.goes(state, one));
                let waits = |one: &Daemon| matches!(one, Daemon::Lingers(_) | Daemon::Returns);
                !is_over
                    || (!state.daemons.iter().any(waits)
                        && [Daemon::InCharge, Daemon::Restarts]
                            .iter()
                            .any(|one| state.daemons.contains(one)))
            }),
            Property::sometimes("the second successor is in charge", |_, state: &State| {
                state.daemons[2] == Daemon::InCharge && state.daemons[1] == Daemon::Ended
            }),
        ]
    }
}

#[test]
fn whatever_fails_of_a_successor_one_daemon_writes_and_one_is_in_charge_in_the_end() {
    holds("hand-over", HandOver { without: Without::Nothing });
}

#[test]
fn a_predecessor_that_does_not_linger_leaves_nobody_in_charge() {
    breaks("somebody is in charge in the end", HandOver { without: Without::Lingering });
}

#[test]
fn a_predecessor_that_tries_once_leaves_nobody_in_charge() {
    breaks("somebody is in charge in the end", HandOver { without: Without::Again });
}

#[test]
fn without_the_lock_two_write() {
    breaks("one writes", HandOver { without: Without::Lock });
}
