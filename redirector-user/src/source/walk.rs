//! Which files a PATH stands for.
//!
//! A PATH is a file, or a directory and then every `*.yaml`, `*.yml` and
//! `*.json` below it. Names that begin with a dot are left out: they are what
//! editors and ConfigMap volumes keep beside the files that are meant.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Deeper directories are taken for a loop.
const MAX_DEPTH: usize = 64;

/// What there is below the PATHs.
#[derive(Debug, Default)]
pub struct Walk {
    /// The files, by the name the user knows them by.
    pub files: BTreeMap<Arc<str>, FoundFile>,
    /// What could not be looked into: nothing below it counts as removed.
    pub unreadable: Vec<Unreadable>,
    /// Where something can appear, vanish or be exchanged.
    pub places: WatchedPlaces,
}

/// Where something can appear, vanish or be exchanged.
#[derive(Debug, Default)]
pub struct WatchedPlaces {
    /// The directories to be watched.
    pub directories: BTreeSet<PathBuf>,
    /// Those of them whose entries were looked through.
    pub listed: BTreeMap<PathBuf, Listed>,
    /// What lies on the way to a PATH or to what a link points to, these included.
    steps: BTreeSet<PathBuf>,
}

/// A directory whose entries were looked through.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// Which one it is: its device and its inode.
    pub identity: (u64, u64),
    /// Something is below it that is meant, or that could not be looked into.
    pub holds: bool,
}

/// What became of an entry of a directory.
#[derive(Debug)]
pub enum FileEntry {
    /// It is a file that is meant.
    File(Arc<str>, FoundFile),
    /// If it was one, it is no longer.
    Gone(Arc<str>),
    /// What comes of it shows in a walk only.
    Unclear,
}

/// A file.
#[derive(Debug)]
pub struct FoundFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it is, links followed.
    pub metadata: Metadata,
}

/// A file or directory that could not be looked into.
#[derive(Debug)]
pub struct Unreadable {
    /// The file, or the directory.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

impl Unreadable {
    /// Whether a file of this name lies there.
    pub fn covers(&self, name: &str) -> bool {
        Path::new(name).starts_with(&self.path)
    }
}

/// Looks through the PATHs.
pub fn walk(paths: &[PathBuf]) -> Walk {
    let mut walk = Walk::default();
    for path in paths {
        walk.watch_way_to(path);
        walk.visit(path, true, &mut Vec::new());
    }
    walk
}

impl WatchedPlaces {
    /// Looks at an entry, no directory, to which something happened since the walk.
    pub fn entry(&self, path: &Path) -> FileEntry {
        // The kernel tells of `rules.yaml` as of something in `.`.
        let plain = path.strip_prefix(".").unwrap_or(path);
        if self.steps.contains(path) || self.steps.contains(plain) {
            return FileEntry::Unclear;
        }
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => return FileEntry::Unclear,
        };
        // What a file is by one of its names it is by all of them.
        let is_more = |one: &Metadata| one.is_dir() || one.is_symlink() || one.nlink() > 1;
        if metadata.as_ref().is_some_and(is_more) {
            return FileEntry::Unclear;
        }
        // As the walk named it.
        let directory = path.parent().and_then(|parent| self.listed.get_key_value(parent));
        let (directory, name) = match directory.map(|(path, _)| path).zip(path.file_name()) {
            Some(of) if !is_hidden(path) && is_document(path) => of,
            _ => return FileEntry::Gone(name_of(path)),
        };
        let path = directory.join(name);
        match metadata.filter(Metadata::is_file) {
            Some(metadata) => FileEntry::File(name_of(&path), FoundFile { path, metadata }),
            None => FileEntry::Gone(name_of(&path)),
        }
    }
}

impl Walk {
    /// Says whether there is something that is meant, or that could not be looked into.
    fn visit(&mut self, path: &Path, named: bool, above: &mut Vec<(u64, u64)>) -> bool {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => return self.cannot(path, named, error),
        };
        if !metadata.is_dir() {
            let is_meant = named || (metadata.is_file() && is_document(path));
            if is_meant {
                self.files.insert(name_of(path), FoundFile { path: path.to_owned(), metadata });
            }
            return is_meant;
        }
        let this = (metadata.dev(), metadata.ino());
        if above.contains(&this) || above.len() > MAX_DEPTH {
            return false;
        }
        self.places.directories.insert(path.to_owned());
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.cannot(path, named, error),
        };
        let (mut below, mut holds) = (Vec::new(), false);
        for entry in entries {
            match entry {
                Ok(entry) => below.push(entry.path()),
                Err(error) => holds |= self.cannot(path, named, error),
            }
        }
        below.sort();
        above.push(this);
        for path in below {
            if is_hidden(&path) {
                continue;
            }
            let is_link = path.is_symlink();
            if is_link && (is_document(&path) || path.is_dir()) {
                self.watch_way_to(&path);
            }
            // A link that leads nowhere is worth a word only where a document
            // should be.
            if is_link && !is_document(&path) && !path.exists() {
                continue;
            }
            holds |= self.visit(&path, false, above);
        }
        above.pop();
        self.places.listed.insert(path.to_owned(), Listed { identity: this, holds });
        holds
    }

    /// Notes that it could not be looked into, unless it is gone.
    fn cannot(&mut self, path: &Path, named: bool, error: io::Error) -> bool {
        // What vanished between the listing of its directory and now is gone;
        // only what the user named, or a link points to, is missing.
        if error.kind() == io::ErrorKind::NotFound && !named && !path.is_symlink() {
            return false;
        }
        self.unreadable.push(Unreadable { path: path.to_owned(), error });
        true
    }

    /// Watches every directory in which a step on the way to `path` can be
    /// exchanged: its parent, the parents of what links point to, and where
    /// one is missing the next above.
    fn watch_way_to(&mut self, path: &Path) {
        let mut path = path.to_owned();
        for _ in 0..MAX_DEPTH {
            let mut parent = parent_of(&path);
            while !parent.is_dir() {
                let above = parent_of(&parent);
                if above == parent {
                    break;
                }
                parent = above;
            }
            self.places.directories.insert(parent);
            self.places.steps.extend(path.ancestors().map(Path::to_owned));
            // A link further up the way, as `..data` in a ConfigMap volume.
            for step in path.ancestors().skip(1).filter(|step| step.is_symlink()) {
                self.places.directories.insert(parent_of(step));
            }
            let Ok(target) = fs::read_link(&path) else { return };
            path = parent_of(&path).join(target);
        }
    }
}

/// What the user knows it by.
pub fn name_of(path: &Path) -> Arc<str> {
    path.to_string_lossy().as_ref().into()
}

fn parent_of(path: &Path) -> PathBuf {
    match path.components().next_back() {
        Some(Component::Normal(_)) => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        },
        Some(Component::RootDir) => PathBuf::from("/"),
        _ => path.join(".."),
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_document(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| ["yaml", "yml", "json"].contains(&extension))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(walk: &Walk, root: &Path) -> Vec<String> {
        let prefix = format!("{}/", root.display());
        walk.files.keys().map(|name| name.trim_start_matches(&prefix).to_owned()).collect()
    }

    #[test]
    fn a_directory_stands_for_the_documents_below_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("b/c")).unwrap();
        for file in ["z.yaml", "a.yml", "b/x.json", "b/c/y.yaml", "README.md", ".x.yaml", "a.yaml~"]
        {
            fs::write(root.join(file), "").unwrap();
        }
        let found = walk(&[root.to_owned()]);
        assert_eq!(names(&found, root), ["a.yml", "b/c/y.yaml", "b/x.json", "z.yaml"]);
        assert!(found.unreadable.is_empty());
    }

    #[test]
    fn a_file_of_the_working_directory_is_one_however_it_is_written() {
        for path in ["Cargo.toml", "./Cargo.toml"] {
            let places = walk(&[path.into()]).places;
            assert!(places.directories.contains(Path::new(".")), "{path}");
            assert!(matches!(places.entry(Path::new("./Cargo.toml")), FileEntry::Unclear));
        }
    }

    #[test]
    fn a_file_that_is_named_needs_no_extension() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("rules.conf");
        fs::write(&file, "").unwrap();
        assert_eq!(walk(&[file]).files.len(), 1);
    }

    #[test]
    fn a_config_map_volume_is_read_once_and_its_swap_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir(root.join("..2026_01")).unwrap();
        fs::write(root.join("..2026_01/rules.yaml"), "").unwrap();
        symlink("..2026_01", root.join("..data")).unwrap();
        symlink("..data/rules.yaml", root.join("rules.yaml")).unwrap();
        let found = walk(&[root.to_owned()]);
        assert_eq!(names(&found, root), ["rules.yaml"]);
        assert!(found.places.directories.contains(&root.to_owned()));
        assert!(found.places.directories.contains(&root.join("..data")));
    }

    #[test]
    fn a_path_that_is_missing_is_unreadable_and_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("a/b");
        let found = walk(std::slice::from_ref(&missing));
        assert!(found.unreadable[0].covers(missing.join("x.yaml").to_str().unwrap()));
        assert!(found.places.directories.contains(&root.path().to_owned()));
    }

    #[test]
    fn links_that_go_round_in_circles_end() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::write(root.join("a.yaml"), "").unwrap();
        symlink(".", root.join("again")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        symlink("b.yaml", root.join("b.yaml")).unwrap();
        let found = walk(&[root.to_owned()]);
        assert_eq!(names(&found, root), ["a.yaml"]);
        assert_eq!(found.unreadable.len(), 1, "b.yaml points to itself");
    }
}
