//! The entries of `LIVE` that connections are counted in: of a destination with a limit and
//! of its endpoint, while the daemon gives the endpoint's to another owner (and the
//! destination's, too). The words are the real ones.

use redirector_common::abi::Live;
use stateright::{Model, Property};

use super::{breaks, holds};

/// What is left out, to see that it is missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    /// Waiting for whoever reads tables that give the entries to the earlier owners.
    Waiting,
    /// Taking back what was taken from another owner.
    GivingBack,
    /// Reading whose endpoint it is before it is taken.
    ReadingFirst,
    /// Counting oneself before the limit is asked.
    CountingFirst,
}

struct Lives {
    without: Without,
    /// Whether the destination gets another owner, too.
    both: bool,
}

/// The numbers of the entries.
const DESTINATION: u32 = 1;
const ENDPOINT: usize = 2;
/// How many connections the destination may have.
const MOST: u32 = 2;
const CONNECTIONS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Connection {
    New,
    /// It read how many there are, and has not counted itself.
    Asked(u64),
    Admitted,
    /// It has found itself one too many, and is still counted.
    Full,
    Linked,
    /// It is there, and has this stamp.
    Open(u16),
    /// It knows whose endpoint it has.
    Going {
        stamp: u16,
        parent: u64,
    },
    /// The endpoint is its own, by the stamp.
    Takes {
        stamp: u16,
        parent: u64,
    },
    Took {
        parent: u64,
        mistaken: bool,
    },
    /// The destination is its own, by the stamp.
    TakesParent(u16),
    TookParent {
        mistaken: bool,
    },
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Daemon {
    Idle,
    Destination,
    /// The endpoint's entry gets a new stamp.
    Swap,
    /// Its connections are taken from the destination.
    Take(u64),
    Unlink,
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    words: [u64; 3],
    parent: u64,
    connections: [Connection; CONNECTIONS],
    /// Of which of the two owners each one is: whose tables it has read.
    of: [u8; CONNECTIONS],
    daemon: Daemon,
}

impl State {
    /// The connections that have counted at the destination's owner of now.
    fn open(&self, owner: u8) -> u64 {
        let is_open = |at: &usize| {
            matches!(self.connections[*at], Connection::Open(_)) && self.of[*at] == owner
        };
        (0..CONNECTIONS).filter(is_open).count() as u64
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Goes(usize),
    Daemon,
}

impl Lives {
    fn goes(&self, state: &mut State, at: usize) -> Option<()> {
        let parent = DESTINATION as usize;
        let add = |word: &mut u64| *word = word.wrapping_add(Live::ONE);
        let take = |word: &mut u64| {
            let before = *word;
            *word = word.wrapping_sub(Live::ONE);
            Live::stamp(before)
        };
        state.connections[at] = match state.connections[at] {
            Connection::New => {
                state.of[at] = u8::from(state.daemon == Daemon::Done);
                let count = Live::connections(state.words[parent]);
                if self.without == Without::CountingFirst {
                    Connection::Asked(count)
                } else {
                    add(&mut state.words[parent]);
                    match Live::is_full(count, 0, MOST) {
                        true => Connection::Full,
                        false => Connection::Admitted,
                    }
                }
            }
            Connection::Asked(count) if Live::is_full(count, 0, MOST) => Connection::Gone,
            Connection::Asked(_) => {
                add(&mut state.words[parent]);
                Connection::Admitted
            }
            Connection::Full => {
                state.words[parent] = state.words[parent].wrapping_sub(Live::ONE);
                Connection::Gone
            }
            Connection::Admitted => {
                state.parent = Live::link(DESTINATION, Live::stamp(state.words[parent]));
                Connection::Linked
            }
            Connection::Linked => {
                let stamp = Live::stamp(state.words[ENDPOINT]);
                add(&mut state.words[ENDPOINT]);
                Connection::Open(stamp)
            }
            Connection::Open(stamp) => Connection::Going { stamp, parent: state.parent },
            Connection::Going { stamp, parent } => {
                match Live::stamp(state.words[ENDPOINT]) == stamp {
                    true => Connection::Takes { stamp, parent },
                    false => Connection::Gone,
                }
            }
            Connection::Takes { stamp, parent } => {
                let mistaken = take(&mut state.words[ENDPOINT]) != stamp;
                Connection::Took { parent, mistaken }
            }
            Connection::Took { mistaken: true, .. } => {
                if self.without != Without::GivingBack {
                    add(&mut state.words[ENDPOINT]);
                }
                Connection::Gone
            }
            Connection::Took { parent: link, mistaken: false } => {
                let link = match self.without {
                    Without::ReadingFirst => state.parent,
                    _ => link,
                };
                let stamp = (link >> 32) as u16;
                let is_own = link as u32 == DESTINATION;
                match is_own && Live::stamp(state.words[parent]) == stamp {
                    true => Connection::TakesParent(stamp),
                    false => Connection::Gone,
                }
            }
            Connection::TakesParent(stamp) => {
                let mistaken = take(&mut state.words[parent]) != stamp;
                Connection::TookParent { mistaken }
            }
            Connection::TookParent { mistaken } => {
                if mistaken {
                    add(&mut state.words[parent]);
                }
                Connection::Gone
            }
            Connection::Gone => return None,
        };
        Some(())
    }

    fn daemon(&self, state: &mut State) -> Option<()> {
        let parent = DESTINATION as usize;
        let counts = |one: &Connection| {
            matches!(
                one,
                Connection::Asked(_) | Connection::Admitted | Connection::Full | Connection::Linked
            )
        };
        state.daemon = match state.daemon {
            Daemon::Idle => {
                if self.without != Without::Waiting && state.connections.iter().any(counts) {
                    return None;
                }
                if self.both { Daemon::Destination } else { Daemon::Swap }
            }
            Daemon::Destination => {
                state.words[parent] = Live::stamp(state.words[parent]).wrapping_add(1).into();
                Daemon::Swap
            }
            Daemon::Swap => {
                let before = state.words[ENDPOINT];
                state.words[ENDPOINT] = Live::stamp(before).wrapping_add(1).into();
                Daemon::Take(Live::connections(before))
            }
            Daemon::Take(connections) => {
                let link = Live::link(DESTINATION, Live::stamp(state.words[parent]));
                if connections > 0 && state.parent == link {
                    let less = connections * Live::ONE;
                    state.words[parent] = state.words[parent].wrapping_sub(less);
                }
                Daemon::Unlink
            }
            Daemon::Unlink => {
                state.parent = 0;
                Daemon::Done
            }
            Daemon::Done => return None,
        };
        Some(())
    }
}

impl Model for Lives {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            words: [0; 3],
            parent: 0,
            connections: [Connection::New; CONNECTIONS],
            of: [0; CONNECTIONS],
            daemon: Daemon::Idle,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        // While the daemon writes, nothing that is new is in force, and what was before
        // gives the entries to nobody.
        let waits = !matches!(state.daemon, Daemon::Idle | Daemon::Done);
        for at in 0..CONNECTIONS {
            let may = !waits || self.without == Without::Waiting;
            if may || state.connections[at] != Connection::New {
                actions.push(Step::Goes(at));
            }
        }
        actions.push(Step::Daemon);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Goes(at) => self.goes(&mut state, at)?,
            Step::Daemon => self.daemon(&mut state)?,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no more than may be", |_, state: &State| {
                state.open(0) <= MOST.into() && state.open(1) <= MOST.into()
            }),
            Property::always("what is gone is not counted", |_, state: &State| {
                let is_still = |one: &Connection| {
                    matches!(one, Connection::New | Connection::Open(_) | Connection::Gone)
                };
                let rests = state.connections.iter().all(is_still)
                    && matches!(state.daemon, Daemon::Idle | Daemon::Done);
                let owner = u8::from(state.daemon == Daemon::Done);
                let counted = [DESTINATION as usize, ENDPOINT]
                    .map(|entry| Live::connections(state.words[entry]));
                !rests || counted == [state.open(owner); 2]
            }),
            Property::sometimes(
                "a connection of the earlier owner ends after it",
                |_, state: &State| {
                    state.daemon == Daemon::Done
                        && state.connections[0] == Connection::Gone
                        && state.open(1) == 2
                },
            ),
        ]
    }
}

#[test]
fn connections_are_counted_for_their_owner_and_no_longer_than_they_are_there() {
    for both in [false, true] {
        holds("live entries", Lives { without: Without::Nothing, both });
    }
}

#[test]
fn entries_that_are_renewed_under_readers_count_what_is_not_there() {
    let model = Lives { without: Without::Waiting, both: false };
    breaks("what is gone is not counted", model);
}

#[test]
fn what_is_taken_from_another_owner_and_not_given_back_is_missing_there() {
    let model = Lives { without: Without::GivingBack, both: false };
    breaks("what is gone is not counted", model);
}

#[test]
fn whose_endpoint_it_was_is_not_known_after_it_is_taken() {
    let model = Lives { without: Without::ReadingFirst, both: false };
    breaks("what is gone is not counted", model);
}

#[test]
fn a_limit_that_is_asked_before_one_is_counted_is_exceeded() {
    let model = Lives { without: Without::CountingFirst, both: false };
    breaks("no more than may be", model);
}
