//! What changed below the PATHs since the last look.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redirector_core::diag::Diagnostic;
use redirector_core::diag::codes::syntax;
use redirector_core::documents::{self, Memory};
use redirector_core::store::Content;

use super::read::{Fingerprint, ReadError, UNSETTLED, read_any, read_limited, read_settled};
use super::walk::{Walk, walk};
use super::{Change, Parse};

/// How long a file that is held open for writing, and does not change, is
/// waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A change within this time of a look may have the same time stamp as what the
/// look saw, so the next look reads the file again.
const CLOCK_GRAIN: Duration = Duration::from_millis(100);

/// The files below the PATHs, as they were at the last look.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    parse: Parse,
    /// How long a file that vanished is waited for. Editors, and `git`, move or remove
    /// a file and then write the new one under its name: in between nothing is gone.
    absence: Duration,
    known: BTreeMap<Arc<str>, Known>,
}

/// What is known of a file.
#[derive(Debug, Default)]
struct Known {
    /// Of the text that was read last; `None` when it has to be read again.
    fingerprint: Option<Fingerprint>,
    /// Of the same text.
    hash: Option<u64>,
    /// Its documents.
    memory: Memory,
    /// Why it could not be read, as it was reported.
    unreadable: Option<String>,
    /// Since when it is being written without a change.
    writing: Option<(Fingerprint, Instant)>,
    /// Since when it is not there.
    missing: Option<Instant>,
}

/// Which files to read even when they look the same as before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dirty {
    /// These.
    Paths(BTreeSet<PathBuf>),
    /// All.
    All,
}

/// What a look saw.
#[derive(Debug)]
pub struct Look {
    /// What changed.
    pub changes: Vec<Change>,
    /// The directories in which something can change.
    pub directories: Vec<PathBuf>,
    /// When to look again without being told: some file is being written, or has
    /// vanished a moment ago.
    pub again: Option<Duration>,
}

impl Files {
    /// The files below `paths`, which count as removed when they are away for longer
    /// than `absence`. `known` are those of an earlier run whose objects are in force:
    /// what of them is not there at the first look is reported as removed.
    pub fn new(
        paths: Vec<PathBuf>,
        parse: Parse,
        absence: Duration,
        known: impl Iterator<Item = Arc<str>>,
    ) -> Self {
        let begin = Instant::now().checked_sub(absence);
        let known = known.map(|name| (name, Known { missing: begin, ..Known::default() }));
        Self { paths, parse, absence, known: known.collect() }
    }

    /// Looks at all of them, and reads what changed.
    pub fn look(&mut self, dirty: &Dirty) -> Look {
        let found = walk(&self.paths);
        let mut changes = Vec::new();
        let mut again = None;
        for (name, file) in &found.files {
            let now = Fingerprint::of(&file.metadata);
            let dirty = match dirty {
                Dirty::All => true,
                Dirty::Paths(paths) => paths.contains(&file.path),
            };
            let known = self.known.entry(name.clone()).or_default();
            known.missing = None;
            if !dirty && known.fingerprint == Some(now) && known.unreadable.is_none() {
                continue;
            }
            let patient = match known.writing {
                Some((before, since)) if before == now => since.elapsed() < PATIENCE,
                _ => true,
            };
            // A pipe that the user names can be read once.
            let result = if file.metadata.is_file() {
                read_settled(&file.path, patient)
            } else if known.hash.is_some() {
                continue;
            } else {
                read_any(&file.path).map(|text| (text, now))
            };
            match result {
                Ok((text, fingerprint)) => {
                    known.writing = None;
                    known.fingerprint = settled(fingerprint).then_some(fingerprint);
                    let hash = hash(&text);
                    if known.hash == Some(hash) && known.unreadable.is_none() {
                        continue;
                    }
                    known.hash = Some(hash);
                    known.unreadable = None;
                    changes.push(Change::Put(
                        name.clone(),
                        content(self.parse, name, &text, &mut known.memory),
                    ));
                }
                Err(ReadError::BeingWritten) => {
                    again = Some(UNSETTLED);
                    if known.writing.is_none_or(|(before, _)| before != now) {
                        known.writing = Some((now, Instant::now()));
                    }
                }
                // It vanished since it was listed.
                Err(ReadError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                    again = Some(UNSETTLED);
                }
                Err(error) => {
                    known.fingerprint = Some(now);
                    changes
                        .extend(known.report(name, &error.to_string(), || refused(name, &error)));
                }
            }
        }
        let (missing, soonest) = self.missing(&found);
        changes.extend(missing);
        let again = again.into_iter().chain(soonest).min();
        Look { changes, directories: found.directories, again }
    }

    /// What was there and is no longer seen: removed, or merely out of sight. Also
    /// when the next of those that vanished counts as removed.
    fn missing(&mut self, found: &Walk) -> (Vec<Change>, Option<Duration>) {
        let (mut changes, mut soonest) = (Vec::new(), None);
        // What cannot be looked into is itself worth a word, also when nothing
        // is known of what lies below it.
        for place in &found.unreadable {
            let name: Arc<str> = place.path.to_string_lossy().as_ref().into();
            let why = place.error.to_string();
            let known = self.known.entry(name.clone()).or_default();
            changes.extend(known.report(&name, &why, || unreadable(&name, &why)));
        }
        self.known.retain(|name, known| {
            if found.files.contains_key(name) {
                return true;
            }
            if let Some(place) = found.unreadable.iter().find(|place| place.covers(name)) {
                let why = place.error.to_string();
                changes.extend(known.report(name, &why, || unreadable(name, &why)));
                return true;
            }
            let since = known.missing.get_or_insert_with(Instant::now).elapsed();
            if let Some(left) = self.absence.checked_sub(since).filter(|left| !left.is_zero()) {
                soonest = soonest.into_iter().chain([left]).min();
                return true;
            }
            changes.push(Change::Removed(name.clone()));
            false
        });
        (changes, soonest)
    }
}

impl Known {
    /// Reports once that it cannot be read.
    fn report(
        &mut self,
        name: &Arc<str>,
        why: &str,
        diagnostic: impl FnOnce() -> Diagnostic,
    ) -> Option<Change> {
        if self.unreadable.as_deref() == Some(why) {
            return None;
        }
        self.unreadable = Some(why.to_owned());
        self.hash = None;
        Some(Change::Unreadable(name.clone(), diagnostic()))
    }
}

/// A file by its name, and what is in it.
pub type Text = (Arc<str>, Vec<u8>);

/// The text of all files below the PATHs, once; `-` is `stdin`. For commands
/// that look and do not watch.
pub fn read_all(paths: &[PathBuf], stdin: impl std::io::Read) -> (Vec<Text>, Vec<Diagnostic>) {
    let (mut texts, mut diagnostics) = (Vec::new(), Vec::new());
    let (dashes, paths): (Vec<_>, Vec<_>) =
        paths.iter().cloned().partition(|path| path.as_os_str() == "-");
    if !dashes.is_empty() {
        let name: Arc<str> = "<stdin>".into();
        match read_limited(stdin, 0) {
            Ok(text) => texts.push((name, text)),
            Err(error) => diagnostics.push(refused(&name, &error)),
        }
    }
    let found = walk(&paths);
    for (name, file) in &found.files {
        match read_any(&file.path) {
            Ok(text) => texts.push((name.clone(), text)),
            Err(error) => diagnostics.push(refused(name, &error)),
        }
    }
    for place in &found.unreadable {
        let name: Arc<str> = place.path.to_string_lossy().as_ref().into();
        diagnostics.push(unreadable(&name, &place.error));
    }
    (texts, diagnostics)
}

/// A file that was emptied, or whose contents were lost in a crash, is half
/// written: nobody removes rules that way on purpose.
fn content(parse: Parse, name: &Arc<str>, text: &[u8], memory: &mut Memory) -> Content {
    if text.iter().all(|byte| *byte == 0) {
        let mut why = unreadable(name, "it is empty, so it is taken for half written");
        why.help = Some(
            "its objects stay at their last good version; remove the file to remove them, or \
             leave a comment in it"
                .to_owned(),
        );
        return Content::Broken(vec![why]);
    }
    parse(name, text, memory)
}

/// Whether a later change must show in the fingerprint.
fn settled(fingerprint: Fingerprint) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
    fingerprint.changed_at() + CLOCK_GRAIN.as_nanos() as i128 <= now
}

fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// What is said about a file that cannot be read.
fn unreadable(name: &Arc<str>, why: impl std::fmt::Display) -> Diagnostic {
    let mut finding = Diagnostic::new(&syntax::UNREADABLE, format!("{name} cannot be read: {why}"));
    finding.file = Some(name.clone());
    finding
}

/// The same for an error that may be the limit of size.
fn refused(name: &Arc<str>, error: &ReadError) -> Diagnostic {
    match error {
        ReadError::TooLarge { bytes } => documents::too_large(Some(name.clone()), *bytes),
        error => unreadable(name, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// Every file is a single document, and "broken" is broken.
    fn parse(_: &Arc<str>, text: &[u8], _: &mut Memory) -> Content {
        if text == b"broken" { Content::Broken(Vec::new()) } else { Content::Whole(Vec::new()) }
    }

    fn files(root: &Path) -> Files {
        Files::new(vec![root.to_owned()], parse, Duration::ZERO, std::iter::empty())
    }

    /// The changes, one word each.
    fn seen(files: &mut Files, root: &Path) -> Vec<String> {
        let prefix = format!("{}/", root.display());
        let look = files.look(&Dirty::Paths(BTreeSet::new()));
        let short = |name: &str| name.trim_start_matches(&prefix).to_owned();
        let words = look.changes.iter().map(|change| match change {
            Change::Put(name, Content::Whole(_)) => format!("put {}", short(name)),
            Change::Put(name, Content::Broken(_)) => format!("broken {}", short(name)),
            Change::Unreadable(name, _) => format!("unreadable {}", short(name)),
            Change::Removed(name) => format!("removed {}", short(name)),
        });
        words.collect()
    }

    #[test]
    fn only_what_changed_is_read_again() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::write(root.join("a.yaml"), "1").unwrap();
        fs::write(root.join("b.yaml"), "1").unwrap();
        let mut files = files(root);
        assert_eq!(seen(&mut files, root), ["put a.yaml", "put b.yaml"]);
        assert!(seen(&mut files, root).is_empty());
        fs::write(root.join("b.yaml"), "2").unwrap();
        assert_eq!(seen(&mut files, root), ["put b.yaml"]);
        fs::write(root.join("b.yaml"), "2").unwrap();
        assert!(seen(&mut files, root).is_empty(), "written, and the same");
        fs::remove_file(root.join("a.yaml")).unwrap();
        assert_eq!(seen(&mut files, root), ["removed a.yaml"]);
        fs::write(root.join("new"), "3").unwrap();
        fs::rename(root.join("new"), root.join("b.yaml")).unwrap();
        assert_eq!(seen(&mut files, root), ["put b.yaml"]);
    }

    #[test]
    fn an_emptied_file_is_half_written() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::write(root.join("a.yaml"), "1").unwrap();
        let mut files = files(root);
        seen(&mut files, root);
        fs::write(root.join("a.yaml"), "").unwrap();
        assert_eq!(seen(&mut files, root), ["broken a.yaml"]);
    }

    #[test]
    fn a_file_that_is_moved_away_and_written_anew_was_never_gone() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::write(root.join("a.yaml"), "1").unwrap();
        fs::write(root.join("b.yaml"), "1").unwrap();
        let absence = Duration::from_secs(3600);
        let mut files = Files::new(vec![root.to_owned()], parse, absence, std::iter::empty());
        seen(&mut files, root);
        fs::rename(root.join("a.yaml"), root.join("a.yaml~")).unwrap();
        let look = files.look(&Dirty::Paths(BTreeSet::new()));
        assert!(look.changes.is_empty(), "{look:?}");
        assert!(look.again.is_some_and(|again| again <= absence), "{look:?}");
        // What happens elsewhere waits for nothing.
        fs::write(root.join("b.yaml"), "2").unwrap();
        assert_eq!(seen(&mut files, root), ["put b.yaml"]);
        fs::write(root.join("a.yaml"), "2").unwrap();
        assert_eq!(seen(&mut files, root), ["put a.yaml"]);
        assert_eq!(files.look(&Dirty::Paths(BTreeSet::new())).again, None);
    }

    #[test]
    fn a_directory_that_vanishes_keeps_its_files_until_it_is_back() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("rules");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("a.yaml"), "1").unwrap();
        fs::write(root.join("b.yaml"), "1").unwrap();
        let mut files = files(&root);
        seen(&mut files, &root);
        fs::rename(&root, outer.path().join("away")).unwrap();
        let vanished = seen(&mut files, &root);
        assert_eq!(vanished.len(), 3, "{vanished:?}");
        assert!(vanished.iter().all(|word| word.starts_with("unreadable")), "{vanished:?}");
        assert!(seen(&mut files, &root).is_empty(), "said once");
        fs::remove_file(outer.path().join("away/b.yaml")).unwrap();
        fs::rename(outer.path().join("away"), &root).unwrap();
        let mut back = seen(&mut files, &root);
        back.sort();
        assert_eq!(back[0], "put a.yaml");
        assert!(back.contains(&"removed b.yaml".to_owned()), "{back:?}");
    }

    #[test]
    fn files_of_an_earlier_run_that_are_gone_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let known = format!("{}/gone.yaml", root.display());
        let known = std::iter::once(known.into());
        let absence = Duration::from_secs(3600);
        let mut files = Files::new(vec![root.to_owned()], parse, absence, known);
        assert_eq!(seen(&mut files, root), ["removed gone.yaml"]);
    }

    #[test]
    fn a_file_that_is_being_written_waits_for_its_end() {
        use std::io::Write;
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::write(root.join("a.yaml"), "1").unwrap();
        let mut files = files(root);
        seen(&mut files, root);
        let mut writer = fs::File::create(root.join("a.yaml")).unwrap();
        writer.write_all(b"2").unwrap();
        let look = files.look(&Dirty::All);
        // A file system without leases cannot tell.
        if look.changes.is_empty() {
            assert!(look.again.is_some());
        }
        drop(writer);
        let look = files.look(&Dirty::All);
        assert_eq!(look.again, None);
    }
}
