//! What the recording build of the programs notes, for the tests.

/// What the recording build of the programs notes about each decision, in
/// `RECORDS`, by socket cookie.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// The epoch that was read.
    pub epoch: u64,
    /// The random numbers drawn, in order.
    pub draws: [u32; 2],
    /// How many of them.
    pub drawn: u32,
    /// 1 when the class of the caller was asked for.
    pub asked: u32,
    /// The identity that the caller was taken for, when asked.
    pub identity: u32,
    /// Its class, when asked.
    pub class: u32,
    /// [`record_decision`].
    pub decision: u32,
    /// Route, leg and backend chosen, as far as the decision has them.
    pub route: u32,
    /// See `route`.
    pub leg: u32,
    /// See `route`.
    pub backend: u32,
}

/// Values of [`Record::decision`].
#[expect(missing_docs, reason = "the decisions, by the same names")]
pub mod record_decision {
    pub const MISS: u32 = 1;
    pub const PASS: u32 = 2;
    pub const REFUSE: u32 = 3;
    pub const REFUSE_LEG: u32 = 4;
    pub const ROUTE: u32 = 5;
}
