//! `check`: everything that is wrong or suspicious in a set of files.
//!
//! Pure: whoever has the bytes hands them in, file by file in path order, and
//! gets a [`Report`]. It needs no privilege and no kernel.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::analysis::{self, PodTemplate};
use crate::diag::codes::references;
use crate::diag::{Diagnostic, Severity};
use crate::documents::{self, Read};
use crate::model::ObjectRef;
use crate::registry::Registry;
use crate::world::{Settings, World};
use crate::yaml::{self, Node};

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

/// Collects files, then judges them together.
#[derive(Debug, Default)]
pub struct Check {
    settings: Settings,
    /// Files in the order in which they came.
    files: Vec<Option<Arc<str>>>,
    objects: Vec<(usize, Read)>,
    templates: Vec<PodTemplate>,
    diagnostics: Vec<Diagnostic>,
    documents: usize,
}

impl Check {
    /// Begins.
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Reads a file: its name as the user wrote it, and its bytes.
    pub fn file(&mut self, name: impl Into<Arc<str>>, bytes: &[u8]) {
        let name = Some(name.into());
        match yaml::decode_bytes(bytes) {
            Ok(text) => {
                let reading = documents::read(name.clone(), &text);
                self.documents += reading.documents;
                self.templates.extend(reading.templates);
                self.diagnostics.extend(reading.diagnostics);
                let index = self.files.len();
                self.objects.extend(reading.objects.into_iter().map(|read| (index, read)));
            }
            Err(error) => self.diagnostics.push(documents::not_text(name.clone(), error)),
        }
        self.files.push(name);
    }

    /// Adds a finding about something that could not be read.
    pub fn unreadable(&mut self, finding: Diagnostic) {
        self.diagnostics.push(finding);
    }

    /// Judges everything that was read.
    pub fn finish(mut self) -> Report {
        let mut world = World::new(self.settings.clone());
        // Of two with one name the last is in force.
        let mut places: HashMap<ObjectRef, usize> = HashMap::new();
        for index in 0..self.objects.len() {
            let (_, read) = &self.objects[index];
            let Some(reference) = read.reference.clone() else { continue };
            if let Some(object) = &read.object {
                world.insert(object.clone());
            }
            if let Some(earlier) = places.insert(reference.clone(), index) {
                self.repeated(&reference, earlier, index);
            }
        }
        let registry = Registry::new(&world);
        for finding in analysis::analyze(&world, &registry, &self.templates) {
            let mut diagnostic = finding.diagnostic;
            diagnostic.object = Some(finding.object.to_string());
            if let Some((file, read)) =
                places.get(&finding.object).and_then(|index| self.objects.get(*index))
            {
                place(&mut diagnostic, &read.tree, &finding.path);
                diagnostic.file = self.files.get(*file).cloned().flatten();
            }
            diagnostic.path = finding.path;
            self.diagnostics.push(diagnostic);
        }
        self.sort();
        let count = |severity| {
            self.diagnostics.iter().filter(|finding| finding.severity == severity).count()
        };
        Report {
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            documents: self.documents,
            diagnostics: self.diagnostics,
        }
    }

    fn repeated(&mut self, reference: &ObjectRef, earlier: usize, later: usize) {
        let (later_file, later_read) = &self.objects[later];
        let (file, read) = &self.objects[earlier];
        let whereabouts = match &self.files[*later_file] {
            Some(name) => format!("{name}:{}", later_read.tree.position.line),
            None => format!("line {}", later_read.tree.position.line),
        };
        let mut finding = Diagnostic::new(
            &references::REPEATED_OBJECT,
            format!("{reference} stands again in {whereabouts}: only the last one counts"),
        )
        .help("remove one of the two, or give it another name");
        finding.object = Some(reference.to_string());
        finding.file.clone_from(&self.files[*file]);
        place(&mut finding, &read.tree, "metadata.name");
        finding.path = "metadata.name".to_owned();
        self.diagnostics.push(finding);
    }

    /// By file in the order in which they came, then by place.
    fn sort(&mut self) {
        let order: HashMap<Option<Arc<str>>, usize> = self.files.iter().cloned().zip(0..).collect();
        self.diagnostics.sort_by(|a, b| {
            let key = |finding: &Diagnostic| {
                let file = order.get(&finding.file).copied().unwrap_or(usize::MAX);
                (file, finding.line, finding.column, finding.severity, finding.code)
            };
            key(a).cmp(&key(b))
        });
    }
}

/// Fills in where a path stands in a tree.
pub fn place(finding: &mut Diagnostic, tree: &Node, path: &str) {
    let node = tree.nearest(path);
    (finding.line, finding.column) = (node.position.line, node.position.column);
}
