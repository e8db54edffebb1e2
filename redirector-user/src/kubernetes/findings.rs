//! What is worth an Event: objects that are refused, that have no effect or not
//! all of it, or that send connections nowhere.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use redirector_core::diag::Diagnostic;
use redirector_core::diag::codes::{Code, admission, differences, references};
use redirector_core::in_force::InForce;
use redirector_core::model::{ObjectRef, ServiceEntry};
use redirector_core::store::Rejected;

use crate::state::{EmptiedShare, UnresolvedName};

/// The longest note that the API server takes, in bytes.
const NOTE: usize = 1024;

/// A part of the object never decides anything.
const SHADOWED: [&Code; 11] = [
    &admission::UNREACHABLE_RULE,
    &admission::DUPLICATE_MATCH,
    &differences::SHADOWED_SUBNET,
    &differences::REPEATED_SUBNET,
    &differences::DEAD_RULE,
    &differences::NEVER_REACHED,
    &differences::USELESS_SUBNETS,
    &differences::GATEWAY_PORT_TAKEN,
    &differences::SHADOWED_NAME,
    &references::HOST_CONFLICT,
    &references::GATEWAY_CONFLICT,
];

/// A share of the connections is refused.
const UNRESOLVED: [&Code; 11] = [
    &references::UNKNOWN_HOST,
    &references::UNKNOWN_PORT,
    &references::UNKNOWN_SUBSET,
    &references::HIDDEN_HOST,
    &references::SUBSET_NOT_IN_FORCE,
    &references::EMPTY_SUBSET,
    &references::SUBSET_WITHOUT_ENDPOINTS,
    &differences::NO_ENDPOINTS,
    &differences::OTHER_FAMILY,
    &differences::ALIAS_HOST,
    &differences::POLICY_REFUSES,
];

/// What was found about the objects in force.
#[derive(Clone, Debug)]
pub struct Judged {
    /// What was read and is not in force.
    pub rejected: Vec<Rejected>,
    /// The warnings about what is.
    pub findings: Vec<Diagnostic>,
    /// Rules of which a share has lost its last endpoint, and ServiceEntries with a name
    /// that does not resolve, and what is said of that.
    pub unresolved: Vec<(ObjectRef, String)>,
}

impl Judged {
    /// Of what is in force.
    pub fn new(
        in_force: &InForce,
        mut findings: Vec<Diagnostic>,
        emptied: &[EmptiedShare],
        unresolved: &[UnresolvedName],
    ) -> Self {
        let world = &in_force.world;
        findings.retain(|one| one.reference().is_some_and(|object| world.get(object).is_some()));
        let emptied = emptied.iter().filter_map(|one| {
            let of_it = |object: &&ObjectRef| Some(object.to_string()) == one.object;
            let mut known = world.by_reference().map(|(object, _)| object);
            Some((known.find(of_it)?.clone(), one.to_string()))
        });
        let named = |object: &ObjectRef, entry: &ServiceEntry| {
            let names = entry.endpoints.iter().map(|endpoint| &endpoint.address);
            let names: HashSet<&str> = names.chain(&entry.hosts).map(String::as_str).collect();
            let those = unresolved.iter().filter(|one| names.contains(&*one.name));
            those.map(|one| (object.clone(), one.to_string())).collect::<Vec<_>>()
        };
        // Most of the time there is none, and then nobody is looked through.
        let entries = world.service_entries().take_while(|_| !unresolved.is_empty());
        let entries = entries.flat_map(|(object, entry)| named(&object.reference(), entry));
        let unresolved = emptied.chain(entries).collect();
        Self { rejected: in_force.rejected.clone(), findings, unresolved }
    }
}

/// Why there is an Event: the word that `kubectl get events` shows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// The object, or its newest version, is not in force.
    Rejected,
    /// Something before it takes what a part of it was written for.
    Shadowed,
    /// It sends connections to what does not exist: they are refused.
    Unresolved,
    /// A part of it is not for clusters, or not for clients of other namespaces.
    Ignored,
}

impl Reason {
    /// `Rejected`, `Shadowed`, `Unresolved`, `Ignored`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "Rejected",
            Self::Shadowed => "Shadowed",
            Self::Unresolved => "Unresolved",
            Self::Ignored => "Ignored",
        }
    }

    fn of(code: &str) -> Option<Self> {
        let is = |codes: &[&Code]| codes.iter().any(|known| known.id == code);
        if is(&SHADOWED) {
            return Some(Self::Shadowed);
        }
        if is(&[&differences::PLAIN_MACHINE, &differences::KEPT_AT_HOME]) {
            return Some(Self::Ignored);
        }
        is(&UNRESOLVED).then_some(Self::Unresolved)
    }
}

/// What is to be told about an object: one note for each reason.
pub type Findings = BTreeMap<(ObjectRef, Reason), String>;

/// What is to be told.
pub fn findings(judged: &Judged) -> Findings {
    let mut notes: BTreeMap<(ObjectRef, Reason), Vec<String>> = BTreeMap::new();
    for rejected in &judged.rejected {
        let Some(object) = &rejected.object else { continue };
        let outcome = match rejected.kept {
            true => {
                "its last good version stays, on agents that have seen one: on others it is absent"
            }
            false => "it is absent",
        };
        let notes = notes.entry((object.clone(), Reason::Rejected)).or_default();
        for finding in &rejected.diagnostics {
            let mut note = sentence(finding, &finding.path);
            if notes.is_empty() {
                let _ = write!(note, "; {outcome}");
            }
            notes.push(note);
        }
    }
    for finding in &judged.findings {
        if let (Some(object), Some(reason)) = (finding.reference(), Reason::of(finding.code)) {
            let notes = notes.entry((object.clone(), reason)).or_default();
            notes.push(sentence(finding, &finding.path));
        }
    }
    for (object, note) in &judged.unresolved {
        notes.entry((object.clone(), Reason::Unresolved)).or_default().push(note.clone());
    }
    notes.into_iter().map(|(about, notes)| (about, joined(&notes))).collect()
}

/// `spec.tcp[0]: what is wrong (RD2009)`.
fn sentence(finding: &Diagnostic, path: &str) -> String {
    let mut text = String::new();
    if !path.is_empty() {
        let _ = write!(text, "{path}: ");
    }
    let _ = write!(text, "{} ({})", finding.message, finding.code);
    text
}

/// As many as a note holds, and how many more there are.
fn joined(notes: &[String]) -> String {
    let mut text = String::new();
    for (i, note) in notes.iter().enumerate() {
        let more = format!("; and {} more", notes.len() - i);
        let space = NOTE - more.len();
        let separator = if text.is_empty() { "" } else { "; " };
        if text.len() + separator.len() + note.len() > space {
            if text.is_empty() {
                let whole = note.char_indices().map(|(at, c)| at + c.len_utf8());
                let end = whole.take_while(|end| *end <= space).last().unwrap_or(0);
                text.push_str(&note[..end]);
            } else {
                text.push_str(&more);
            }
            break;
        }
        text.push_str(separator);
        text.push_str(note);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_never_longer_than_the_api_server_takes() {
        let long = "ä".repeat(700);
        assert!(joined(std::slice::from_ref(&long)).len() <= NOTE);
        let many: Vec<String> = (0..100).map(|i| format!("spec.tcp[{i}] is wrong")).collect();
        let note = joined(&many);
        assert!(note.len() <= NOTE && note.contains("; and ") && note.ends_with(" more"), "{note}");
        assert_eq!(joined(&["a".to_owned(), "b".to_owned()]), "a; b");
        let two = joined(&["a".to_owned(), long]);
        assert_eq!(two, "a; and 1 more");
    }
}
