//! What the recording build of the programs notes, for the tests.

/// What the recording build of the programs notes about each decision, in
/// `RECORDS`, by socket cookie.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// The epoch that was read.
    pub epoch: u64,
    /// The random numbers drawn, in order: one for the leg, two for the
    /// endpoint, and those that find another for an ejected one.
    pub draws: [u32; 12],
    /// How many of them.
    pub drawn: u32,
    /// 1 when the class of the caller was asked for.
    pub asked: u32,
    /// The identity that the caller was taken for, when asked.
    pub identity: u32,
    /// Its class, when asked.
    pub class: u32,
    /// The affinity of the source, when asked.
    pub affinity: u32,
    /// The turn of the destination, when asked.
    pub turn: u32,
    /// The counts of two endpoints, when asked, in order.
    pub active: [u32; 2],
    /// How often it was asked whether an endpoint is ejected.
    pub asks: u32,
    /// Bit by bit, to which of these questions the answer was yes.
    pub skipped: [u32; 3],
    /// 1 when the destination had as many connections as it may.
    pub limited: u32,
    /// [`record_decision`].
    pub decision: u32,
    /// Route, leg and backend chosen, as far as the decision has them.
    pub route: u32,
    /// See `route`.
    pub leg: u32,
    /// See `route`.
    pub backend: u32,
    /// Zero.
    pub reserved: u32,
}

/// Values of [`Record::decision`].
#[expect(missing_docs, reason = "the decisions, by the same names")]
pub mod record_decision {
    pub const MISS: u32 = 1;
    pub const PASS: u32 = 2;
    pub const REFUSE: u32 = 3;
    pub const REFUSE_LEG: u32 = 4;
    pub const ROUTE: u32 = 5;
    pub const LIMITED: u32 = 6;
}
