//! The life of a connection's entry: claimed at connect, followed where there is
//! accounting, and freed by whichever of release and TCP close is the last that counts,
//! while another socket waits for its place and accounting is switched off. A socket whose
//! connection is over may connect once more.
//!
//! The socket's lock keeps connect apart from the events of the network, which come one at
//! a time; release comes after connect, and at the same time as those.

use redirector_common::abi::connection_state as state;
use stateright::{Model, Property};

use super::{breaks, holds};

/// What is left out, to see that it is missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    /// Waiting for programs that saw that there is accounting, before looking for whom
    /// they follow.
    Waiting,
    /// Leaving entries alone that are not followed: they may be gone, and another's.
    Asking,
    /// Agreeing by one word who frees the entry.
    Agreeing,
    /// Forgetting an earlier connect of the socket.
    Forgetting,
}

struct Life {
    without: Without,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum App {
    /// It has connected before: that is forgotten first.
    Again,
    New,
    Claimed,
    /// What its connect knows of accounting.
    Sends(bool),
    Connected,
    Found,
    /// What the entry's state was before it was marked.
    Marked(u32),
    Frees,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Net {
    Quiet,
    Established,
    Open,
    Closed(u32),
    Marked(u32),
    Frees,
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Socket {
    app: App,
    net: Net,
    /// Whether it tells of its states: by this connect, an earlier one or another program.
    tells: bool,
    /// It has connected before.
    again: bool,
    /// How often the entry of this connect was freed.
    freed: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// Whose the place is: what the cookie says; and whether it is of his second connect.
    owner: Option<(usize, bool)>,
    word: u32,
    sockets: [Socket; 2],
    accounting: bool,
    attached: bool,
    daemon: Daemon,
    /// Somebody wrote to another's entry.
    strayed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Daemon {
    Accounts,
    Waits,
    Looks,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    App(usize),
    /// The socket, whose connection is over, connects once more.
    Again(usize),
    /// The next event of the network; or the last one at once.
    Net(usize, bool),
    Daemon,
}

impl State {
    /// Whether this socket finds an entry of its own.
    fn finds(&self, socket: usize) -> bool {
        self.owner.is_some_and(|(owner, _)| owner == socket)
    }

    /// Somebody writes who has found an entry of this socket before.
    fn writes(&mut self, socket: usize) {
        self.strayed |= self.owner != Some((socket, self.sockets[socket].again));
    }

    /// Sets bits of the entry that a socket has found before, and says what they were.
    fn mark(&mut self, socket: usize, bits: u32) -> u32 {
        self.writes(socket);
        let before = self.word;
        self.word |= bits;
        before
    }

    fn free(&mut self, socket: usize) {
        self.writes(socket);
        self.word = 0;
        self.owner = None;
        self.sockets[socket].freed += 1;
    }

    fn ends(&self, life: &Life, before: u32, mark: u32) -> bool {
        // Without agreement each of them looks at what there is, and not at what was.
        let agreed = life.without != Without::Agreeing;
        if agreed { state::ends(before, mark) } else { state::ends(self.word & !mark, mark) }
    }
}

impl Life {
    fn app(&self, state: &mut State, number: usize) -> Option<()> {
        state.sockets[number].app = match state.sockets[number].app {
            App::Again => {
                if state.finds(number) && self.without != Without::Forgetting {
                    state.free(number);
                }
                let socket = &mut state.sockets[number];
                (socket.again, socket.freed, socket.net) = (true, 0, Net::Quiet);
                App::New
            }
            App::New if state.owner.is_none() => {
                state.owner = Some((number, state.sockets[number].again));
                App::Claimed
            }
            // Its own, of before, is what is found instead.
            App::New if state.finds(number) => App::Connected,
            // It goes to the table for those whose place is taken.
            App::New => {
                state.sockets[number].net = Net::Over;
                App::Gone
            }
            App::Claimed => {
                state.word = state::FILLED;
                App::Sends(state.attached && state.accounting)
            }
            App::Sends(follows) => {
                if follows {
                    state.sockets[number].tells = true;
                    state.mark(number, state::FOLLOWED);
                }
                App::Connected
            }
            App::Connected if state.finds(number) => App::Found,
            App::Connected => App::Gone,
            App::Found => App::Marked(state.mark(number, state::RELEASED)),
            App::Marked(before) => {
                if state.ends(self, before, state::RELEASED) {
                    App::Frees
                } else {
                    App::Gone
                }
            }
            App::Frees => {
                state.free(number);
                App::Gone
            }
            App::Gone => return None,
        };
        Some(())
    }

    fn net(&self, state: &mut State, number: usize, last: bool) -> Option<()> {
        let Socket { app, net, tells, .. } = state.sockets[number];
        if matches!(app, App::Again | App::New | App::Claimed | App::Sends(_)) {
            return None;
        }
        let finds = state.attached && state.finds(number);
        let asked = self.without == Without::Asking;
        let counts = |word: u32| asked || word & state::FOLLOWED != 0;
        state.sockets[number].net = match net {
            Net::Quiet if !last && finds && counts(state.word) => Net::Established,
            Net::Quiet | Net::Open if last && finds && tells => Net::Closed(state.word),
            Net::Quiet | Net::Open if last => Net::Over,
            Net::Quiet => Net::Open,
            Net::Established => {
                state.mark(number, state::ESTABLISHED);
                Net::Open
            }
            Net::Closed(word) if counts(word) => Net::Marked(state.mark(number, state::CLOSED)),
            Net::Marked(before) => {
                if state.ends(self, before, state::CLOSED) {
                    Net::Frees
                } else {
                    Net::Over
                }
            }
            Net::Closed(_) => Net::Over,
            Net::Frees => {
                state.free(number);
                Net::Over
            }
            Net::Open | Net::Over => return None,
        };
        Some(())
    }

    fn daemon(&self, state: &mut State) -> Option<()> {
        state.daemon = match state.daemon {
            Daemon::Accounts => {
                state.accounting = false;
                if self.without == Without::Waiting { Daemon::Looks } else { Daemon::Waits }
            }
            Daemon::Waits => {
                if state.sockets.iter().any(|socket| matches!(socket.app, App::Sends(true))) {
                    return None;
                }
                Daemon::Looks
            }
            Daemon::Looks if state.word & state::FOLLOWED != 0 => return None,
            Daemon::Looks => {
                state.attached = false;
                Daemon::Done
            }
            Daemon::Done => return None,
        };
        Some(())
    }
}

impl Model for Life {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let socket =
            |tells| Socket { app: App::New, net: Net::Quiet, tells, again: false, freed: 0 };
        let of = |tells: [bool; 2]| State {
            owner: None,
            word: 0,
            sockets: tells.map(socket),
            accounting: true,
            attached: true,
            daemon: Daemon::Accounts,
            strayed: false,
        };
        vec![of([false, false]), of([true, false]), of([true, true])]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Step>) {
        actions.push(Step::Daemon);
        for number in [0, 1] {
            actions.extend([Step::App(number), Step::Again(number)]);
            actions.extend([Step::Net(number, false), Step::Net(number, true)]);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::App(number) => self.app(&mut state, number)?,
            Step::Again(number) => {
                let socket = &mut state.sockets[number];
                if (socket.app, socket.net, socket.again) != (App::Connected, Net::Over, false) {
                    return None;
                }
                socket.app = App::Again;
            }
            Step::Net(number, last) => self.net(&mut state, number, last)?,
            Step::Daemon => self.daemon(&mut state)?,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nobody writes to another's", |_, state: &State| !state.strayed),
            Property::always("freed once", |_, state: &State| {
                state.sockets.iter().all(|socket| socket.freed < 2)
            }),
            Property::always("nothing outlives its socket", |_, state: &State| {
                !state.owner.is_some_and(|(number, _)| {
                    let socket = &state.sockets[number];
                    socket.app == App::Gone && socket.net == Net::Over
                })
            }),
            Property::sometimes("both have had the place", |_, state: &State| {
                state.sockets.iter().all(|socket| socket.freed == 1)
            }),
            Property::sometimes("one has it twice, and then the other", |_, state: &State| {
                let [one, other] = &state.sockets;
                one.again && one.freed == 1 && !other.again && other.freed == 1
            }),
        ]
    }
}

#[test]
fn an_entry_is_freed_once_by_the_last_of_release_and_close_and_is_nobody_elses_then() {
    holds("connection", Life { without: Without::Nothing });
}

#[test]
fn entries_that_are_not_followed_may_be_anothers_when_they_are_marked() {
    breaks("nobody writes to another's", Life { without: Without::Asking });
}

#[test]
fn accounting_that_ends_without_waiting_leaves_an_entry_for_ever() {
    breaks("nothing outlives its socket", Life { without: Without::Waiting });
}

#[test]
fn ends_that_do_not_agree_leave_an_entry_or_free_it_twice() {
    breaks("freed once", Life { without: Without::Agreeing });
}

#[test]
fn an_earlier_connect_that_is_not_forgotten_is_taken_for_the_next_one() {
    breaks("nobody writes to another's", Life { without: Without::Forgetting });
}
