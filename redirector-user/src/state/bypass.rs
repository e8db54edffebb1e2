//! What is left alone, and until when.

use redirector_core::model::bypass::{Bypass, Target};
use serde::{Deserialize, Serialize};

/// One thing that is left alone. Times are in seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bypassed {
    /// Which.
    #[serde(flatten)]
    pub target: Target,
    /// Since when.
    pub since: u64,
    /// Until when.
    pub until: u64,
}

/// A change of what is left alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BypassChange {
    /// Leave this alone from now on, for so many seconds.
    Begin(Target, u64),
    /// No longer.
    End(Target),
    /// Nothing any longer.
    EndAll,
}

impl BypassChange {
    /// What is left alone afterwards.
    ///
    /// # Errors
    ///
    /// When that which is to end has never begun.
    pub fn apply(&self, all: &[Bypassed], now: u64) -> Result<Vec<Bypassed>, String> {
        let mut after = all.to_vec();
        match self {
            Self::Begin(target, seconds) => {
                after.retain(|one| one.target != *target);
                let until = now.saturating_add(*seconds);
                after.push(Bypassed { target: target.clone(), since: now, until });
            }
            Self::End(target) => {
                after.retain(|one| one.target != *target);
                if after.len() == all.len() {
                    return Err(format!("{target} is not bypassed"));
                }
            }
            Self::EndAll => after.clear(),
        }
        Ok(after)
    }
}

/// As the compiler wants it.
pub fn bypass(all: &[Bypassed]) -> Bypass {
    all.iter().map(|one| &one.target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_again_is_prolonged_and_what_never_began_cannot_end() {
        let target = Target::workload("default/client").unwrap();
        let begin = |seconds| BypassChange::Begin(target.clone(), seconds);
        let all = begin(60).apply(&[], 1000).unwrap();
        let all = begin(600).apply(&all, 1030).unwrap();
        assert_eq!(all, [Bypassed { target: target.clone(), since: 1030, until: 1630 }]);
        let other = Target::rule("default/echo").unwrap();
        let error = BypassChange::End(other).apply(&all, 1030).unwrap_err();
        assert_eq!(error, "VirtualService/default/echo is not bypassed");
        assert!(BypassChange::End(target).apply(&all, 1030).unwrap().is_empty());
    }
}
