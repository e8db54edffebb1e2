//! A roll-out: the agent of a new pod follows that of the pod before, which it does not see.
//! Either agent may be killed, twice in all, and is started again by its kubelet; and in the
//! end the pod before is deleted, or the new one is, as when the roll-out is taken back.

use stateright::{Model, Property};

use super::daemons::{Lock, is_over};
use super::{breaks, holds};

/// What is left out, to see that it is missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    /// Standing by: who is followed ends, as beside a daemon of the same machine.
    StandingBy,
    /// Standing by again, where somebody else was sooner.
    StandingByAgain,
    /// Looking whether anybody is in charge.
    Looking,
    /// Waiting for the own relay, before the other one is told.
    Accepting,
    /// Waiting for who has handed over, to be in charge again.
    Waiting,
    /// The lock of the state directory.
    Lock,
}

struct RollOut {
    without: Without,
}

/// What has been heard of the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Heard {
    Nothing,
    InForce,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Agent {
    /// Its pod has not been made.
    Absent,
    /// It asks whoever is in charge to hand over.
    Asks,
    /// Nobody holds tables and state for it any more; whether the other one waits for it.
    Waits(bool),
    /// It writes tables and state.
    Takes(bool),
    /// They are in force, and its relay need not accept yet.
    InForce(bool),
    /// Its relay accepts, and it follows.
    Accepts,
    InCharge,
    Lingers(Heard),
    StandsBy,
    /// It takes over again; whether it has handed over, and not stood by since.
    Returns(bool),
    /// Its container has ended.
    Restarts,
    /// Its pod is gone.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// Of the pod before, and of the new one.
    agents: [Agent; 2],
    lock: Lock,
    /// Whose relay accepts: another container, which its agent's end does not end.
    accepts: [bool; 2],
    /// Whose pod is to end.
    told: [bool; 2],
    /// Whose container has ended by itself.
    ended: [bool; 2],
    faults: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Goes(usize),
    Killed(usize),
    /// The pod is deleted.
    Told(usize),
    /// It has heard so.
    Ends(usize),
}

impl State {
    fn writers(&self) -> usize {
        use Agent::{Accepts, InCharge, InForce, Takes};
        let writes = |one: &&Agent| matches!(one, Takes(_) | InForce(_) | Accepts | InCharge);
        self.agents.iter().filter(writes).count()
    }

    fn lives(&self, number: usize) -> bool {
        !matches!(self.agents[number], Agent::Absent | Agent::Restarts | Agent::Gone)
    }

    /// The process ends, and with it what others have of it.
    fn ends(&mut self, number: usize, how: Agent) {
        self.agents[number] = how;
        self.lock.ends(number);
        if self.agents[1 - number] == Agent::Lingers(Heard::Nothing) {
            self.agents[1 - number] = Agent::Lingers(Heard::Gone);
        }
    }

    /// Its container ends by itself.
    fn gives_up(&mut self, number: usize) {
        self.ended[number] = true;
        self.ends(number, Agent::Restarts);
    }
}

impl RollOut {
    fn goes(&self, state: &mut State, number: usize) -> Option<()> {
        let other = 1 - number;
        let next = match state.agents[number] {
            Agent::Absent => Agent::Asks,
            Agent::Restarts if state.told[number] => Agent::Gone,
            Agent::Restarts => Agent::Asks,
            // Who has handed over is in charge again first, now that whoever asked has gone.
            Agent::Asks if self.waits_for(state.agents[other]) => return None,
            Agent::Asks => match state.lock.0 {
                None => Agent::Waits(false),
                Some(_) if state.agents[other] == Agent::InCharge => {
                    state.agents[other] = Agent::Lingers(Heard::Nothing);
                    state.lock.ends(other);
                    Agent::Waits(true)
                }
                // That one does not answer yet: tried again later.
                Some(_) => return None,
            },
            Agent::Waits(follows) => {
                if state.lock.0.is_some() && state.agents[other] == Agent::InCharge {
                    state.ends(number, Agent::Restarts);
                    return Some(());
                }
                state.lock.take(number, self.without == Without::Lock)?;
                Agent::Takes(follows)
            }
            Agent::Takes(follows) => Agent::InForce(follows),
            // Who follows nobody does not wait for its relay.
            Agent::InForce(follows) if !follows || self.without == Without::Accepting => {
                self.confirm(state, other, follows);
                Agent::InCharge
            }
            Agent::InForce(_) => {
                state.accepts[number] = true;
                Agent::Accepts
            }
            Agent::Accepts => {
                self.confirm(state, other, true);
                Agent::InCharge
            }
            Agent::InCharge if !state.accepts[number] => {
                state.accepts[number] = true;
                Agent::InCharge
            }
            Agent::Lingers(Heard::InForce) => {
                state.accepts[number] = false;
                if self.without == Without::StandingBy {
                    state.gives_up(number);
                    return Some(());
                }
                Agent::StandsBy
            }
            Agent::Lingers(Heard::Gone) => Agent::Returns(true),
            Agent::StandsBy if state.lock.0.is_none() && self.without != Without::Looking => {
                Agent::Returns(false)
            }
            Agent::Returns(_) if state.lock.0.is_some() && self.without != Without::Lock => {
                if self.without == Without::StandingByAgain {
                    state.gives_up(number);
                    return Some(());
                }
                // Its relay may accept beside the other's.
                state.accepts[number] = false;
                Agent::StandsBy
            }
            Agent::Returns(_) => {
                state.lock.take(number, self.without == Without::Lock)?;
                Agent::Takes(false)
            }
            Agent::InCharge | Agent::Lingers(Heard::Nothing) | Agent::StandsBy | Agent::Gone => {
                return None;
            }
        };
        state.agents[number] = next;
        Some(())
    }

    /// Whether who begins waits for what that one does.
    fn waits_for(&self, other: Agent) -> bool {
        let has_handed_over = matches!(other, Agent::Lingers(_) | Agent::Returns(true));
        has_handed_over && self.without != Without::Waiting
    }

    /// The one before is told that it is followed.
    fn confirm(&self, state: &mut State, other: usize, follows: bool) {
        if follows && state.agents[other] == Agent::Lingers(Heard::Nothing) {
            state.agents[other] = Agent::Lingers(Heard::InForce);
        }
    }
}

impl Model for RollOut {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            agents: [Agent::InCharge, Agent::Absent],
            lock: Lock(Some(0)),
            accepts: [true, false],
            told: [false; 2],
            ended: [false; 2],
            faults: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        actions.extend((0..2).map(Step::Goes));
        actions.extend((0..2).filter(|one| state.told[*one]).map(Step::Ends));
        if state.faults < 2 {
            actions.extend((0..2).filter(|one| state.lives(*one)).map(Step::Killed));
        }
        if state.told == [false; 2] {
            // The new pod is ready, or has been given up, however far it is.
            let ready = state.agents[1] == Agent::InCharge;
            actions.extend(ready.then_some(Step::Told(0)));
            actions.extend((state.agents[1] != Agent::Absent).then_some(Step::Told(1)));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Goes(number) => self.goes(&mut state, number)?,
            Step::Killed(number) => {
                state.faults += 1;
                state.ends(number, Agent::Restarts);
            }
            Step::Told(number) => state.told[number] = true,
            Step::Ends(number) if state.lives(number) => {
                state.accepts[number] = false;
                state.ends(number, Agent::Gone);
            }
            Step::Ends(_) => return None,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let back = |_: &Self, state: &State| {
            state.agents == [Agent::InCharge, Agent::Gone] && state.faults == 0
        };
        vec![
            Property::always("one writes", |_, state: &State| state.writers() < 2),
            Property::always("somebody is in charge in the end", |model: &Self, state: &State| {
                let is_over = is_over(state, 2, |state, one| model.goes(state, one));
                let told = (0..2).any(|one| state.told[one] && state.lives(one));
                let serves = |one| state.agents[one] == Agent::InCharge && state.accepts[one];
                told || !is_over || (0..2).any(serves)
            }),
            Property::always("nobody ends whose pod stays", |_, state: &State| {
                state.ended == [false; 2]
            }),
            // An agent that was killed, and is back, takes over again: where its pod has just been
            // told to end, that is as where a pod ends that nobody follows.
            Property::always("clients are accepted where the new pod stays", |_, state: &State| {
                let is_deleted = state.told[1] || (state.told[0] && state.faults > 0);
                is_deleted || state.accepts != [false; 2]
            }),
            Property::sometimes("the new pod alone is left", |_, state: &State| {
                state.agents == [Agent::Gone, Agent::InCharge]
            }),
            Property::sometimes("the pod before is in charge again", back),
        ]
    }
}

#[test]
fn whatever_is_killed_in_a_roll_out_one_agent_writes_and_one_is_in_charge_in_the_end() {
    holds("roll-out", RollOut { without: Without::Nothing });
}

#[test]
fn whose_pod_stays_and_does_not_stand_by_is_started_again() {
    for without in [Without::StandingBy, Without::StandingByAgain] {
        breaks("nobody ends whose pod stays", RollOut { without });
    }
}

#[test]
fn who_stands_by_and_does_not_look_leaves_nobody_in_charge() {
    breaks("somebody is in charge in the end", RollOut { without: Without::Looking });
}

#[test]
fn a_successor_whose_relay_does_not_accept_yet_leaves_clients_refused() {
    let property = "clients are accepted where the new pod stays";
    breaks(property, RollOut { without: Without::Accepting });
}

#[test]
fn a_successor_that_is_back_before_who_has_handed_over_leaves_clients_refused() {
    let property = "clients are accepted where the new pod stays";
    breaks(property, RollOut { without: Without::Waiting });
}

#[test]
fn across_pods_too_it_is_the_lock_that_lets_one_write() {
    breaks("one writes", RollOut { without: Without::Lock });
}
