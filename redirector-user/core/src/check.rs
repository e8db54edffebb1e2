//! `check`: everything that is wrong or suspicious in a set of files.
//!
//! Pure: whoever has the texts hands in what was read of them, in path order,
//! and gets a [`Report`]. It needs no privilege and no kernel.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::analysis::{self, Around, Finding, deployments, part};
use crate::diag::codes::syntax;
use crate::diag::{Diagnostic, Severity};
use crate::documents::{Read, Reading};
use crate::layout;
use crate::model::ObjectRef;
use crate::registry::Registry;
use crate::store::stands_again;
use crate::world::{Settings, World};
use crate::yaml::Node;

/// The most findings of the analysis that are told of one object.
const MAX_FINDINGS: usize = 1000;

/// What `check` found. The fields are those of `check --output json`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// All findings, by file and place.
    pub diagnostics: Vec<Diagnostic>,
    /// How many of them are errors.
    pub errors: usize,
    /// How many of them are warnings.
    pub warnings: usize,
    /// How many documents were looked at.
    pub documents: usize,
}

impl Report {
    /// The same, with errors in the place of warnings.
    #[must_use]
    pub fn strict(mut self) -> Self {
        for finding in &mut self.diagnostics {
            if finding.severity == Severity::Warning {
                finding.severity = Severity::Error;
            }
        }
        self.errors += std::mem::take(&mut self.warnings);
        self
    }
}

/// Judges files together: each by itself, and what they say of each other and
/// of what stands `around` them, which is not judged, but where documents of it
/// cannot be read. `unreadable` are findings about files that could not be read.
pub fn check(
    readings: &[Reading],
    around: &[Reading],
    unreadable: &[Diagnostic],
    settings: &Settings,
) -> Report {
    let mut diagnostics = unreadable.to_vec();
    let mut world = World::new(settings.clone());
    let mut beside = Around::default();
    for reading in around {
        diagnostics.extend(reading.hiding().into_iter().cloned());
        beside.templates.extend(reading.templates.iter().cloned());
        for object in reading.objects.iter().filter_map(|read| read.object.as_ref()) {
            world.insert(object.clone());
        }
    }
    // Of two with one name the last is in force.
    let mut places: HashMap<ObjectRef, WrittenAt<'_>> = HashMap::new();
    for reading in readings {
        diagnostics.extend(reading.diagnostics.iter().cloned());
        let is_empty = reading.documents == 0 && reading.diagnostics.is_empty();
        if is_empty && !reading.only_comments {
            let mut finding = Diagnostic::new(&syntax::NO_DOCUMENT, "there is no document in it");
            finding.file.clone_from(&reading.file);
            diagnostics.push(finding);
        }
        beside.templates.extend(reading.templates.iter().cloned());
        for read in &reading.objects {
            let Some(reference) = &read.reference else { continue };
            match &read.object {
                Some(object) => drop(world.insert(object.clone())),
                None => beside.refused.add(reference, &read.tree, &settings.cluster_domain),
            }
            let place = WrittenAt { file: reading.file.as_ref(), read };
            if let Some(earlier) = places.insert(reference.clone(), place) {
                diagnostics.push(repeated(reference, &earlier, &place));
            }
        }
    }
    let mut registry = Registry::new(&world);
    let (mut findings, examined) = analysis::analyze(&world, &mut registry, &beside);
    diagnostics.extend(examined.not_examined());
    findings.extend(budgets(&registry));
    let beyond = layout::beyond_endpoints(&examined.plan, &world).into_iter();
    findings.extend(beyond.map(|(object, _, why)| {
        let diagnostic = Diagnostic::new(&syntax::OVER_BUDGET, why);
        Finding { object, path: String::new(), diagnostic }
    }));
    if let Some((full, heaviest)) = layout::beyond_lives(&examined.plan, &world) {
        findings.extend(heaviest.into_iter().map(|(object, count)| {
            let why = layout::because(&full, &object, count);
            let diagnostic = Diagnostic::new(&syntax::NO_ROOM, why);
            Finding { object, path: String::new(), diagnostic }
        }));
    }
    findings.retain(|finding| places.contains_key(&finding.object));
    // What could not be read may be what is missing.
    if let Some(hidden) = hidden(readings, around, unreadable) {
        let missing = |one: &&mut Finding| part::says_missing(one.diagnostic.code);
        for finding in findings.iter_mut().filter(missing) {
            let message = &mut finding.diagnostic.message;
            *message = format!("{message}; it may be in what could not be read: {hidden}");
        }
    }
    analysis::retain_still_true(&mut diagnostics, &world, &registry, &findings);
    diagnostics.extend(part::only_a_part(&world, &registry, &beside, &mut findings));
    let mut told: HashMap<ObjectRef, usize> = HashMap::new();
    for finding in findings {
        let told = told.entry(finding.object.clone()).or_default();
        *told += 1;
        let mut diagnostic = match (*told).cmp(&(MAX_FINDINGS + 1)) {
            Ordering::Less => finding.diagnostic,
            Ordering::Equal => Diagnostic::new(
                &syntax::TOO_MANY_FINDINGS,
                format!("more than {MAX_FINDINGS} findings in one object: the rest are left out"),
            ),
            Ordering::Greater => continue,
        };
        diagnostic.path = finding.path;
        if let Some(place) = places.get(&finding.object) {
            place.fill(&mut diagnostic);
        }
        diagnostic.object = Some(finding.object.into());
        diagnostics.push(diagnostic);
    }
    let deployments = readings.iter().flat_map(|reading| {
        reading.deployments.iter().map(|deployment| (reading.file.as_ref(), deployment))
    });
    diagnostics.extend(deployments::analyze(&world, deployments));
    sort(readings, &mut diagnostics);
    let count = |severity| diagnostics.iter().filter(|f| f.severity == severity).count();
    Report {
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        documents: readings.iter().map(|reading| reading.documents).sum(),
        diagnostics,
    }
}

/// The first place where something could not be read that may be an object.
fn hidden(readings: &[Reading], around: &[Reading], unreadable: &[Diagnostic]) -> Option<String> {
    let all = readings.iter().chain(around).flat_map(Reading::hiding).chain(unreadable);
    let first = all.into_iter().find(|one| one.severity == Severity::Error)?;
    let file = first.file.as_deref().unwrap_or("the documents");
    Some(match first.line {
        0 => file.to_owned(),
        line => format!("{file}, line {line}"),
    })
}

/// What is left out because it asks for too much.
fn budgets(registry: &Registry) -> impl Iterator<Item = Finding> + '_ {
    registry.all_over().map(|(object, over)| Finding {
        object: object.clone(),
        path: String::new(),
        diagnostic: Diagnostic::new(over.code(), over.to_string()),
    })
}

/// Where an object is written.
#[derive(Clone, Copy)]
struct WrittenAt<'r> {
    file: Option<&'r Arc<str>>,
    read: &'r Read,
}

impl WrittenAt<'_> {
    /// Fills in where the path of a finding stands.
    fn fill(&self, finding: &mut Diagnostic) {
        place(finding, &self.read.tree);
        finding.file = self.file.cloned();
    }
}

fn repeated(reference: &ObjectRef, earlier: &WrittenAt<'_>, later: &WrittenAt<'_>) -> Diagnostic {
    let line = later.read.tree.position.line;
    let mut finding = stands_again(reference, earlier.file, (later.file, line));
    earlier.fill(&mut finding);
    finding
}

/// By file in the order in which they came, then by place. What is no mistake comes
/// last of its file, and what is of no file last of all.
fn sort(readings: &[Reading], diagnostics: &mut [Diagnostic]) {
    let order: HashMap<Option<&str>, usize> =
        readings.iter().map(|reading| reading.file.as_deref()).zip(1..).collect();
    diagnostics.sort_by_cached_key(|finding| {
        let nowhere = match (&finding.file, finding.severity, finding.line) {
            (None, Severity::Info, 0) => usize::MAX,
            _ => 0,
        };
        let file = order.get(&finding.file.as_deref()).copied().unwrap_or(0).max(nowhere);
        let info = finding.severity == Severity::Info;
        let place = (finding.line, finding.column);
        (file, info, place, finding.severity, finding.code, finding.path.clone())
    });
}

/// Fills in where the path of a finding stands in its object's tree.
pub fn place(finding: &mut Diagnostic, tree: &Node) {
    let node = tree.nearest(&finding.path);
    (finding.line, finding.column) = (node.position.line, node.position.column);
}
