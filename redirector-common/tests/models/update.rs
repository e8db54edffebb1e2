//! A change of the tables, as `Datapath::apply` makes it, under programs that read them.
//!
//! Two sides of two entries each, a reader on each of two CPUs or both on one, three
//! changes (the last one mends what differs, and has the generation of the one before), a
//! crash anywhere. Every access is a step; they are seen in one order by all, as the
//! fences and atomic additions of the code have it.

use redirector_common::abi::Side;
use stateright::{Model, Property};

use super::{breaks, holds};

/// What is left out, to see that it is missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    /// Waiting for the readers of the old side.
    Waiting,
    /// Counting readers in before they read the epoch.
    CountingFirst,
    /// Comparing the sides after a crash, whatever their words say.
    Comparing,
    /// Waiting, where there are always readers, for those that were there at first.
    Grace,
}

struct Update {
    without: Without,
    /// The CPU of each reader.
    cpus: [usize; 2],
}

/// Which entry each change writes.
const ENTRY: [usize; 3] = [0, 1, 0];
/// Under which generation.
const GENERATION: [u8; 3] = [1, 2, 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Table {
    /// None while the side is written.
    generation: Option<u8>,
    entries: [u8; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Out,
    /// How many changes were in force when it began.
    Counted {
        began: u8,
    },
    Knows {
        began: u8,
        side: u8,
    },
    HasOne {
        began: u8,
        side: u8,
        first: u8,
    },
    Leaves,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Daemon {
    Idle,
    /// The idle side is to be written: what differs from the other, or what changes.
    Dirty(Why),
    Write(Why),
    Tell(Why),
    Flip,
    /// The sides would look alike, under one generation.
    Doubt,
    /// For the readers of this CPU, before the side that they may read is written.
    Wait(Why, usize),
}

/// Why a side is written that nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Why {
    /// It gets the change before it comes in force.
    Before,
    /// The other side gets it, too.
    After,
    /// It lies behind, and gets what differs: entry by entry.
    Behind(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    epoch: u8,
    sides: [Table; 2],
    counts: [u8; 2],
    readers: [Reader; 2],
    daemon: Daemon,
    /// Where counts did not come to zero: who was there then, of those that have not come
    /// to their end (the kernel tells, by its own counts).
    starved: Option<[bool; 2]>,
    /// Changes that came in force.
    made: u8,
    crashed: bool,
    /// Whether the words of the sides may say what is not so.
    doubted: bool,
    mixed: bool,
}

impl State {
    fn active(&self) -> usize {
        Side::of_epoch(self.epoch.into()).index() as usize
    }

    fn is_in_step(&self) -> bool {
        let [one, other] = self.sides;
        one.generation == other.generation && one.generation.is_some() && !self.doubted
    }

    /// What every entry was after so many changes.
    fn after(changes: u8) -> [u8; 2] {
        let mut entries = [0; 2];
        for change in 0..changes {
            entries[ENTRY[usize::from(change)]] = change + 1;
        }
        entries
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read(usize),
    Daemon,
    /// Readers took too long: the side stays behind.
    GiveUp,
    Crash,
}

impl Update {
    fn read(&self, state: &mut State, number: usize) {
        let cpu = self.cpus[number];
        let counts_first = self.without != Without::CountingFirst;
        state.readers[number] = match state.readers[number] {
            Reader::Out => {
                state.counts[cpu] += u8::from(counts_first);
                Reader::Counted { began: state.made }
            }
            Reader::Counted { began } => {
                let side = state.active() as u8;
                Reader::Knows { began, side }
            }
            Reader::Knows { began, side } => {
                state.counts[cpu] += u8::from(!counts_first);
                let first = state.sides[usize::from(side)].entries[0];
                Reader::HasOne { began, side, first }
            }
            Reader::HasOne { began, side, first } => {
                let seen = [first, state.sides[usize::from(side)].entries[1]];
                // What was in force at some time between its beginning and now.
                state.mixed |= !(began..=state.made).any(|made| State::after(made) == seen);
                Reader::Leaves
            }
            Reader::Leaves => {
                state.counts[cpu] -= 1;
                if let Some(there) = &mut state.starved {
                    there[number] = false;
                }
                Reader::Out
            }
        };
    }

    fn change(&self, state: &mut State) -> Option<()> {
        let active = state.active();
        let idle = 1 - active;
        // The change that is being made, or was last.
        let change = match state.daemon {
            Daemon::Dirty(Why::Before) | Daemon::Write(Why::Before) | Daemon::Tell(Why::Before) => {
                usize::from(state.made)
            }
            _ => usize::from(state.made).saturating_sub(1),
        };
        state.daemon = match state.daemon {
            Daemon::Idle if !state.is_in_step() => Daemon::Wait(Why::Behind(0), 0),
            Daemon::Idle if usize::from(state.made) == ENTRY.len() => return None,
            Daemon::Idle => Daemon::Dirty(Why::Before),
            Daemon::Wait(why, cpu) => {
                let over = match state.starved {
                    Some(there) => self.without == Without::Grace || there == [false; 2],
                    None => false,
                };
                if self.without != Without::Waiting && state.counts[cpu] != 0 && !over {
                    return None;
                }
                if cpu == 0 { Daemon::Wait(why, 1) } else { Daemon::Dirty(why) }
            }
            Daemon::Dirty(why) => {
                state.sides[idle].generation = None;
                Daemon::Write(why)
            }
            Daemon::Write(Why::Behind(entry)) => {
                state.sides[idle].entries[entry] = state.sides[active].entries[entry];
                match entry {
                    0 => Daemon::Write(Why::Behind(1)),
                    _ => Daemon::Tell(Why::Behind(0)),
                }
            }
            Daemon::Write(why) => {
                state.sides[idle].entries[ENTRY[change]] = change as u8 + 1;
                Daemon::Tell(why)
            }
            Daemon::Tell(why) => {
                state.sides[idle].generation = match why {
                    Why::Behind(_) => state.sides[active].generation,
                    _ => Some(GENERATION[change]),
                };
                match why {
                    Why::Before => Daemon::Flip,
                    Why::After => Daemon::Idle,
                    Why::Behind(_) => {
                        state.doubted = false;
                        Daemon::Idle
                    }
                }
            }
            Daemon::Flip => {
                state.epoch += 1;
                state.made += 1;
                state.starved = None;
                // Which side is the idle one is asked anew from here on.
                Daemon::Doubt
            }
            Daemon::Doubt => {
                if state.sides[idle].generation == Some(GENERATION[change]) {
                    state.sides[idle].generation = None;
                }
                Daemon::Wait(Why::After, 0)
            }
        };
        Some(())
    }
}

impl Model for Update {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let side = Table { generation: Some(0), entries: [0; 2] };
        vec![State {
            epoch: 0,
            sides: [side; 2],
            counts: [0; 2],
            readers: [Reader::Out; 2],
            daemon: Daemon::Idle,
            starved: None,
            made: 0,
            crashed: false,
            doubted: false,
            mixed: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        actions.extend([Step::Read(0), Step::Read(1), Step::Daemon]);
        if matches!(state.daemon, Daemon::Wait(_, cpu) if state.counts[cpu] != 0) {
            actions.push(Step::GiveUp);
        }
        if !state.crashed {
            actions.push(Step::Crash);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Read(number) => self.read(&mut state, number),
            Step::Daemon => self.change(&mut state)?,
            Step::GiveUp => {
                state.daemon = Daemon::Idle;
                let there = state.readers.map(|reader| reader != Reader::Out);
                state.starved.get_or_insert(there);
            }
            Step::Crash => {
                state.starved = None;
                state.crashed = true;
                state.daemon = Daemon::Idle;
                state.doubted = self.without != Without::Comparing;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one configuration", |_, state: &State| !state.mixed),
            Property::always("alike when in step", |_, state: &State| {
                let [one, other] = state.sides;
                state.daemon != Daemon::Idle || !state.is_in_step() || one == other
            }),
            Property::always("in force is what was asked for", |_, state: &State| {
                state.sides[state.active()].entries == State::after(state.made)
            }),
            Property::sometimes("all changes come in force", |_, state: &State| {
                usize::from(state.made) == ENTRY.len() && state.is_in_step()
            }),
        ]
    }
}

#[test]
fn a_change_is_seen_whole_or_not_at_all_whenever_it_is_read_and_wherever_it_ends() {
    for cpus in [[0, 1], [0, 0]] {
        holds("update", Update { without: Without::Nothing, cpus });
    }
}

#[test]
fn readers_that_are_not_waited_for_see_half_a_change() {
    breaks("one configuration", Update { without: Without::Waiting, cpus: [0, 1] });
}

#[test]
fn readers_that_were_there_at_first_and_are_not_waited_for_see_half_a_change() {
    breaks("one configuration", Update { without: Without::Grace, cpus: [0, 1] });
}

#[test]
fn readers_that_are_counted_too_late_see_half_a_change() {
    breaks("one configuration", Update { without: Without::CountingFirst, cpus: [0, 1] });
}

#[test]
fn sides_under_one_generation_that_are_believed_after_a_crash_differ() {
    breaks("alike when in step", Update { without: Without::Comparing, cpus: [0, 1] });
}
