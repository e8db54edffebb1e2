//! Class tables: what a frontend says to each source class.

use redirector_common::abi::{Verdict, VerdictKind};
use serde::{Deserialize, Serialize};

/// A frontend's verdicts by class, in the kernel's numbers. Frontends with the
/// same verdicts share one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct ClassTable {
    /// The verdict of all other classes.
    pub default: Verdict,
    /// The classes with another verdict, in their order.
    pub exceptions: Vec<(u32, Verdict)>,
}

impl ClassTable {
    /// What it says to these classes only.
    pub(super) fn of_classes(&self, is_one: impl Fn(u32) -> bool) -> Self {
        let exceptions = self.exceptions.iter().filter(|(class, _)| is_one(*class));
        Self { default: self.default, exceptions: exceptions.copied().collect() }
    }
}

/// As it is written down.
#[derive(Serialize, Deserialize)]
struct Written {
    default: Word,
    exceptions: Vec<(u32, Word)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Pass,
    Route(u32),
    Refuse,
    Classes(u32),
}

impl From<Verdict> for Word {
    fn from(verdict: Verdict) -> Self {
        match verdict.kind() {
            VerdictKind::Pass => Self::Pass,
            VerdictKind::Route(number) => Self::Route(number),
            VerdictKind::Refuse => Self::Refuse,
            VerdictKind::Classes(number) => Self::Classes(number),
        }
    }
}

impl From<Word> for Verdict {
    fn from(word: Word) -> Self {
        Self::new(match word {
            Word::Pass => VerdictKind::Pass,
            Word::Route(number) => VerdictKind::Route(number),
            Word::Refuse => VerdictKind::Refuse,
            Word::Classes(number) => VerdictKind::Classes(number),
        })
    }
}

impl From<Written> for ClassTable {
    fn from(written: Written) -> Self {
        let exceptions = written.exceptions.into_iter();
        Self {
            default: written.default.into(),
            exceptions: exceptions.map(|(class, word)| (class, word.into())).collect(),
        }
    }
}

impl From<ClassTable> for Written {
    fn from(table: ClassTable) -> Self {
        let exceptions = table.exceptions.into_iter();
        Self {
            default: table.default.into(),
            exceptions: exceptions.map(|(class, verdict)| (class, verdict.into())).collect(),
        }
    }
}
