//! Trouble to order.

use std::time::Duration;

/// What happens to a request instead of, or before, its answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// This HTTP status with a Status object.
    Status(u16),
    /// The answer comes this much later.
    Slow(Duration),
    /// The connection is closed without an answer.
    Hangup,
    /// A watch answers 200 and then one ERROR event with this code, as
    /// compacted versions and refused WatchLists do.
    ErrorEvent(u16),
    /// A body that is no JSON.
    Garbage,
}

/// An order: the next `times` requests that have a verb and whose path and
/// query contain a text.
#[derive(Clone, Debug)]
pub struct Fault {
    /// `list`, `watch`, `get`, `create`, `update`, `patch`, `delete`, or empty
    /// for any.
    pub verb: String,
    /// Part of the path and query; empty for any.
    pub contains: String,
    /// How often still.
    pub times: usize,
    /// What happens.
    pub trouble: Trouble,
}

/// Takes the trouble that a request is in for.
pub fn take(faults: &mut Vec<Fault>, verb: &str, path_and_query: &str) -> Option<Trouble> {
    let fault = faults.iter_mut().find(|fault| {
        fault.times > 0
            && (fault.verb.is_empty() || fault.verb == verb)
            && path_and_query.contains(&fault.contains)
    })?;
    fault.times -= 1;
    let trouble = fault.trouble.clone();
    faults.retain(|fault| fault.times > 0);
    Some(trouble)
}
