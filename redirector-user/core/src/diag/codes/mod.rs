//! The catalogue of codes. A code never changes its meaning and is never used
//! again for another one.
//!
//! * `RD1xxx`, [`syntax`]: the text and its types.
//! * `RD2xxx`, [`admission`]: what Istio's admission refuses, or warns of.
//! * `RD3xxx`, [`references`]: what objects say of each other.
//! * `RD4xxx`, [`differences`]: where this project and Istio's data plane differ,
//!   and slips that Istio does not look for.
//! * `RD5xxx`, [`l7`]: what only works at L7.

pub mod admission;
pub mod differences;
pub mod l7;
pub mod references;
pub mod syntax;

use super::Severity;

/// A kind of finding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code {
    /// `RD1001`.
    pub id: &'static str,
    /// Its severity, always the same.
    pub severity: Severity,
    /// Istio's message code, where one exists.
    pub istio: Option<&'static str>,
    /// What it is, in a line.
    pub title: &'static str,
    /// What it means, and what happens at run time.
    pub meaning: &'static str,
    /// How to mend it.
    pub mend: &'static str,
    /// YAML (or text) that triggers it.
    pub example: &'static str,
}

impl Code {
    /// The page that explains it, in Markdown.
    pub fn page(&self) -> String {
        let istio = match self.istio {
            Some(istio) => format!(" · Istio: {istio}"),
            None => String::new(),
        };
        format!(
            "### {id}: {title}\n\n*{severity}{istio}*\n\n{meaning}\n\n**Mend it:** {mend}\n\n\
             **Example:**\n\n{example}\n",
            id = self.id,
            title = self.title,
            severity = self.severity.as_str(),
            meaning = self.meaning,
            mend = self.mend,
            example = self
                .example
                .lines()
                .map(|line| format!("    {line}").trim_end().to_owned())
                .collect::<Vec<_>>()
                .join("\n"),
        )
    }
}

/// Defines codes as statics, and the list of them.
macro_rules! codes {
    ($($name:ident = $id:literal $severity:ident $istio:ident $title:literal
        { $meaning:literal $mend:literal $example:literal })*) => {
        $(
            #[doc = concat!($id, ": ", $title)]
            pub static $name: Code = Code {
                id: $id,
                severity: Severity::$severity,
                istio: $istio,
                title: $title,
                meaning: $meaning,
                mend: $mend,
                example: $example,
            };
        )*
        /// The codes of this group, in order.
        pub static ALL: &[&Code] = &[$(&$name),*];
    };
}
use codes;

/// No message of Istio's says this.
const NONE: Option<&str> = None;
/// Istio's code for what its schema or its admission refuses.
const SCHEMA: Option<&str> = Some("IST0106");
/// Istio's code for what its admission warns of.
const WARNED: Option<&str> = Some("IST0133");

/// The groups, with what they are about.
pub const GROUPS: [(&str, &[&Code]); 5] = [
    ("The text and its types", syntax::ALL),
    ("What Istio's admission refuses, and what it warns of", admission::ALL),
    ("What objects say of each other", references::ALL),
    (
        "Where this project and Istio differ, and slips that Istio does not look for",
        differences::ALL,
    ),
    ("What only works at L7", l7::ALL),
];

/// All codes, in order.
pub fn all() -> impl Iterator<Item = &'static Code> {
    GROUPS.into_iter().flat_map(|(_, group)| group.iter().copied())
}

/// The code of an id, in either case.
pub fn find(id: &str) -> Option<&'static Code> {
    all().find(|code| code.id.eq_ignore_ascii_case(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinct_and_in_order() {
        let ids: Vec<&str> = all().map(|code| code.id).collect();
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(ids, sorted);
    }

    #[test]
    fn every_code_has_a_whole_page() {
        for code in all() {
            for (part, text) in [
                ("title", code.title),
                ("meaning", code.meaning),
                ("mend", code.mend),
                ("example", code.example),
            ] {
                assert!(!text.trim().is_empty(), "{} has no {part}", code.id);
            }
            assert!(!code.title.ends_with('.'), "{}: a title is no sentence", code.id);
        }
    }
}
