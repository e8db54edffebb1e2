//! An endpoint that may be ejected leaves its destination, and comes back: connections from
//! before fail meanwhile, others are made, and whoever looks for an endpoint takes it back
//! when its time is over. How many endpoints of a destination are ejected bounds how many
//! more may be, so that none may count which is never asked for again.

use stateright::{Model, Property};

use super::{breaks, holds};

/// What is left out, to see that it is missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    /// Asking whether the endpoint has left, before it is ejected.
    Asking,
    /// Waiting for who has asked before it had.
    Waiting,
    /// Waiting for who reads tables that have it, before it has left.
    InStep,
    /// Saying that it is there again, when a connection is sent to it.
    Clearing,
    /// Agreeing by one word who has ejected it, or takes it back.
    Agreeing,
}

struct Ejection {
    without: Without,
    /// How many endpoints of the destination may be ejected.
    most: i8,
}

/// Programs: each of them is in the middle of it from its first step to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Program {
    /// A connection from before, which fails.
    Open,
    /// A connection that is made: it reads the tables.
    New,
    Sent,
    /// It has failed, and its endpoint may be asked about.
    Failed,
    /// The endpoint is there.
    Asked,
    /// It was not ejected.
    Counts,
    /// It is one of those that may be.
    Counted,
    TakesBack,
    Over,
}

/// Who looks for an endpoint, any number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Looker {
    Out,
    /// It has the endpoint of the tables.
    Has,
    /// Its time was over.
    Saw,
    Takes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Daemon {
    There,
    /// It is in no table any more; some may have read that it was.
    InStep,
    Marks,
    Waits,
    Pardons,
    /// It was ejected.
    Subtracts,
    Gone,
    Back,
}

const PROGRAMS: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    in_tables: bool,
    left: bool,
    ejected_until: bool,
    /// Of the destination.
    ejected: i8,
    programs: [Program; PROGRAMS],
    looker: Looker,
    daemon: Daemon,
    /// A connection was sent to it after it had come back.
    reached: bool,
    /// Who was in the middle when it began to wait, and has not come to an end: programs, and
    /// the looker.
    waits_for: [bool; PROGRAMS + 1],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Goes(usize),
    Looks,
    Daemon,
}

impl State {
    fn is_within(&self, at: usize) -> bool {
        match self.programs.get(at) {
            Some(program) => !matches!(program, Program::Open | Program::New | Program::Over),
            None => self.looker != Looker::Out,
        }
    }

    fn begins_to_wait(&mut self) {
        self.waits_for = std::array::from_fn(|at| self.is_within(at));
    }

    /// Who has come to an end is waited for no more.
    fn ends(&mut self) {
        for at in 0..=PROGRAMS {
            self.waits_for[at] &= self.is_within(at);
        }
    }

    fn rests(&self) -> bool {
        !(0..=PROGRAMS).any(|at| self.is_within(at))
            && matches!(self.daemon, Daemon::There | Daemon::Gone | Daemon::Back)
    }
}

impl Ejection {
    fn goes(&self, state: &mut State, at: usize) -> Option<()> {
        state.programs[at] = match state.programs[at] {
            Program::New if !state.in_tables => return None,
            Program::New => Program::Sent,
            Program::Sent => {
                if self.without != Without::Clearing {
                    state.left = false;
                }
                state.reached |= state.daemon == Daemon::Back;
                // From here on it is a connection as any other.
                Program::Open
            }
            Program::Open => Program::Failed,
            Program::Failed if state.left && self.without != Without::Asking => Program::Over,
            Program::Failed => Program::Asked,
            Program::Asked if state.ejected_until => Program::Over,
            Program::Asked => Program::Counts,
            Program::Counts => {
                state.ejected += 1;
                if state.ejected > self.most { Program::TakesBack } else { Program::Counted }
            }
            Program::Counted if state.ejected_until && self.without != Without::Agreeing => {
                Program::TakesBack
            }
            Program::Counted => {
                state.ejected_until = true;
                Program::Over
            }
            Program::TakesBack => {
                state.ejected -= 1;
                Program::Over
            }
            Program::Over => return None,
        };
        state.ends();
        Some(())
    }

    fn looks(&self, state: &mut State) -> Option<()> {
        state.looker = match state.looker {
            Looker::Out if !state.in_tables => return None,
            Looker::Out => Looker::Has,
            Looker::Has if state.ejected_until => Looker::Saw,
            Looker::Has => Looker::Out,
            Looker::Saw if !state.ejected_until && self.without != Without::Agreeing => Looker::Out,
            Looker::Saw => {
                state.ejected_until = false;
                Looker::Takes
            }
            Looker::Takes => {
                state.ejected -= 1;
                Looker::Out
            }
        };
        state.ends();
        Some(())
    }

    fn daemon(&self, state: &mut State) -> Option<()> {
        let waits = state.waits_for.contains(&true);
        state.daemon = match state.daemon {
            Daemon::There => {
                state.in_tables = false;
                state.begins_to_wait();
                Daemon::InStep
            }
            Daemon::InStep if waits && self.without != Without::InStep => return None,
            Daemon::InStep => Daemon::Marks,
            Daemon::Marks => {
                state.left = true;
                state.begins_to_wait();
                Daemon::Waits
            }
            Daemon::Waits if waits && self.without != Without::Waiting => return None,
            Daemon::Waits => Daemon::Pardons,
            Daemon::Pardons => match std::mem::take(&mut state.ejected_until) {
                true => Daemon::Subtracts,
                false => Daemon::Gone,
            },
            Daemon::Subtracts => {
                state.ejected -= 1;
                Daemon::Gone
            }
            Daemon::Gone => {
                state.in_tables = true;
                Daemon::Back
            }
            Daemon::Back => return None,
        };
        Some(())
    }
}

impl Model for Ejection {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            in_tables: true,
            left: false,
            ejected_until: false,
            ejected: 0,
            programs: [Program::Open, Program::Open, Program::New],
            looker: Looker::Out,
            daemon: Daemon::There,
            reached: false,
            waits_for: [false; PROGRAMS + 1],
        }]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Step>) {
        actions.extend((0..PROGRAMS).map(Step::Goes));
        actions.extend([Step::Looks, Step::Daemon]);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Goes(at) => self.goes(&mut state, at)?,
            Step::Looks => self.looks(&mut state)?,
            Step::Daemon => self.daemon(&mut state)?,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("as many count as are ejected", |_, state: &State| {
                !state.rests() || state.ejected == i8::from(state.ejected_until)
            }),
            Property::always("what is gone is not ejected", |_, state: &State| {
                !state.rests() || state.in_tables || !state.ejected_until
            }),
            Property::always("what has a connection is there", |_, state: &State| {
                !state.reached || !state.left
            }),
            Property::sometimes("it is ejected again when it is back", |_, state: &State| {
                state.daemon == Daemon::Back && state.ejected_until
            }),
        ]
    }
}

#[test]
fn an_endpoint_that_has_left_counts_no_more_among_those_that_are_ejected() {
    for most in [1, 2] {
        holds("ejection", Ejection { without: Without::Nothing, most });
    }
}

#[test]
fn connections_from_before_eject_what_is_gone_where_nobody_asks() {
    breaks("what is gone is not ejected", Ejection { without: Without::Asking, most: 1 });
}

#[test]
fn who_has_asked_before_it_left_ejects_it_after_it_was_pardoned() {
    breaks("what is gone is not ejected", Ejection { without: Without::Waiting, most: 1 });
}

#[test]
fn who_reads_tables_that_have_it_says_that_it_is_there() {
    breaks("what is gone is not ejected", Ejection { without: Without::InStep, most: 1 });
}

#[test]
fn what_is_back_is_never_ejected_where_nobody_says_so() {
    breaks("what has a connection is there", Ejection { without: Without::Clearing, most: 1 });
}

#[test]
fn ends_of_an_ejection_that_do_not_agree_count_it_twice() {
    breaks("as many count as are ejected", Ejection { without: Without::Agreeing, most: 2 });
}
