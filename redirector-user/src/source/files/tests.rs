use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::inotify::Watches;

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
    let look = files.look(Scope::Tree(BTreeSet::new()));
    let short = |name: &str| name.trim_start_matches(&prefix).to_owned();
    let words = look.changes.iter().map(|change| match change {
        Change::Put(name, Content::Whole(_)) => format!("put {}", short(name)),
        Change::Put(name, Content::Broken(_)) => format!("broken {}", short(name)),
        Change::Put(name, Content::Emptied(_)) => format!("emptied {}", short(name)),
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
fn files_of_another_configuration_are_there_until_one_of_this_has_been_read_or_asked_for() {
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = root.path();
    let before = || std::iter::once(name_of(&other.path().join("a.yaml")));
    let start = || Files::new(vec![root.to_owned()], parse, Duration::ZERO, before());
    let name = before().next().unwrap();
    let [unreadable, removed] = ["unreadable", "removed"].map(|word| format!("{word} {name}"));
    assert_eq!(seen(&mut start(), root), [&*unreadable], "no file");
    fs::write(root.join("b.yaml"), "broken").unwrap();
    let mut files = start();
    assert_eq!(seen(&mut files, root), ["broken b.yaml", &*unreadable]);
    assert!(seen(&mut files, root).is_empty(), "and that is not said again");
    fs::write(root.join("b.yaml"), "1").unwrap();
    assert_eq!(seen(&mut files, root), ["put b.yaml", &*removed]);
    assert!(start().look(Scope::Asked).changes.iter().any(|one| matches!(one, Change::Removed(_))));
}

#[test]
fn an_emptied_file_is_half_written() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::write(root.join("a.yaml"), "1").unwrap();
    let mut files = files(root);
    seen(&mut files, root);
    fs::write(root.join("a.yaml"), "").unwrap();
    assert_eq!(seen(&mut files, root), ["emptied a.yaml"]);
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
    let look = files.look(Scope::Tree(BTreeSet::new()));
    assert!(look.changes.is_empty(), "{look:?}");
    assert!(look.again.is_some_and(|again| again <= absence), "{look:?}");
    // What happens elsewhere waits for nothing.
    fs::write(root.join("b.yaml"), "2").unwrap();
    assert_eq!(seen(&mut files, root), ["put b.yaml"]);
    fs::write(root.join("a.yaml"), "2").unwrap();
    assert_eq!(seen(&mut files, root), ["put a.yaml"]);
    assert_eq!(files.look(Scope::Tree(BTreeSet::new())).again, None);
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
    // The directory may be one in which nothing is mounted yet.
    let words = seen(&mut files, root);
    assert!(words.iter().all(|word| word.starts_with("unreadable")), "{words:?}");
    assert_eq!(words.len(), 2, "the directory, and the file: {words:?}");
    fs::write(root.join("a.yaml"), "1").unwrap();
    assert_eq!(seen(&mut files, root), ["put a.yaml", "removed gone.yaml"]);
}

#[test]
fn an_empty_directory_in_the_place_of_one_with_files_removes_none_until_one_is_there_or_asked() {
    let outer = tempfile::tempdir().unwrap();
    let root = &outer.path().join("rules");
    let deep = root.join("deep");
    let fill = || {
        fs::create_dir_all(&deep).unwrap();
        ["a.yaml", "deep/b.yaml"].map(|name| fs::write(root.join(name), "1").unwrap())
    };
    fill();
    let mut files = files(root);
    seen(&mut files, root);
    for (round, asked) in [false, true].into_iter().enumerate() {
        // As a volume that is unmounted.
        fs::rename(root, outer.path().join(round.to_string())).unwrap();
        fs::create_dir(root).unwrap();
        let words = seen(&mut files, root);
        assert_eq!(words.len(), 3, "{words:?}");
        assert!(words.iter().all(|word| word.starts_with("unreadable")), "{words:?}");
        assert!(seen(&mut files, root).is_empty(), "said once");
        let look = match asked {
            true => files.look(Scope::Asked),
            false => {
                let new = root.join("c.yaml");
                fs::write(&new, "1").unwrap();
                files.look(Scope::Entries([new].into()))
            }
        };
        let gone =
            |change: &&Change| matches!(change, Change::Removed(name) if name.ends_with("yaml"));
        assert_eq!(look.changes.iter().filter(gone).count(), 2, "{look:?}");
        if !asked {
            fill();
            fs::remove_file(root.join("c.yaml")).unwrap();
            seen(&mut files, root);
        }
    }
    // A part of it is another volume.
    fill();
    seen(&mut files, root);
    fs::rename(&deep, outer.path().join("deep")).unwrap();
    fs::create_dir(&deep).unwrap();
    let mut words = seen(&mut files, root);
    words.sort();
    assert_eq!(words, ["unreadable deep", "unreadable deep/b.yaml"]);
    // What somebody removes is gone, one by one or all of it.
    fs::remove_dir(&deep).unwrap();
    fs::remove_file(root.join("a.yaml")).unwrap();
    let mut words = seen(&mut files, root);
    words.sort();
    assert_eq!(words, ["removed a.yaml", "removed deep", "removed deep/b.yaml"]);
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
    let look = files.look(Scope::All);
    // A file system without leases cannot tell.
    if look.changes.is_empty() {
        assert!(look.again.is_some());
    }
    drop(writer);
    let look = files.look(Scope::All);
    assert_eq!(look.again, None);
}

/// The text of every file, by its name; of one that cannot be read, that.
type Texts = BTreeMap<String, String>;

/// Says the text, as why it is broken.
fn text(name: &Arc<str>, text: &[u8], _: &mut Memory) -> Content {
    Content::Broken(vec![unreadable(name, String::from_utf8_lossy(text))])
}

/// Takes what a look saw, to what was seen before.
fn take(look: Look, texts: &mut Texts) {
    for change in look.changes {
        let name = change.name().to_string();
        match change {
            Change::Put(_, Content::Broken(why)) => texts.insert(name, why[0].message.clone()),
            Change::Put(_, Content::Emptied(why)) => texts.insert(name, why.message),
            Change::Put(_, Content::Whole(_)) => unreachable!("every text is said"),
            Change::Unreadable(_, why) => texts.insert(name, why.message),
            Change::Removed(_) => texts.remove(&name),
        };
    }
}

/// Files that are looked at only where something happened.
struct Followed {
    files: Files,
    watches: Watches,
    texts: Texts,
    /// How many looks there were, and how many of them at everything.
    looks: [usize; 2],
}

impl Followed {
    fn new(paths: &[PathBuf]) -> Self {
        let files = Files::new(paths.to_vec(), text, Duration::ZERO, std::iter::empty());
        let watches = Watches::new().unwrap();
        let mut followed = Self { files, watches, texts: Texts::new(), looks: [0; 2] };
        followed.look(Scope::All);
        followed
    }

    /// Looks as [`watch`](crate::source::watch) does.
    fn look(&mut self, scope: Scope) {
        let mut scope = Some(scope);
        while let Some(this) = scope.take() {
            let look = self.files.look(this);
            self.looks[0] += 1;
            self.looks[1] += usize::from(look.is_whole);
            if look.is_whole && self.watches.set(self.files.directories()) {
                scope = Some(Scope::Tree(BTreeSet::new()));
            }
            take(look, &mut self.texts);
        }
    }

    /// Looks at what happened.
    fn follow(&mut self) {
        let happened = self.watches.drain();
        let scope = match happened.to_directories {
            true => Scope::Tree(happened.paths),
            false => Scope::Entries(happened.paths),
        };
        self.look(scope);
    }
}

#[test]
fn a_file_that_is_told_of_costs_no_look_at_the_others() {
    let outer = tempfile::tempdir().unwrap();
    // What happens beside the directory is told, too.
    let (beside, root) = (outer.path().join("beside"), outer.path().join("rules"));
    fs::create_dir(&root).unwrap();
    for name in ["a.yaml", "b.yaml"] {
        fs::write(root.join(name), "1").unwrap();
    }
    let mut followed = Followed::new(std::slice::from_ref(&root));
    let wholes = followed.looks[1];
    // Written, written beside and renamed, new, and what is no document.
    fs::write(root.join("a.yaml"), "2").unwrap();
    followed.follow();
    fs::write(&beside, "3").unwrap();
    followed.follow();
    fs::rename(&beside, root.join("b.yaml")).unwrap();
    followed.follow();
    fs::write(root.join("c.yaml"), "4").unwrap();
    followed.follow();
    fs::write(root.join(".c.yaml.swp"), "5").unwrap();
    followed.follow();
    assert_eq!(followed.looks[1], wholes, "looks at everything");
    let texts: Vec<_> = followed.texts.values().filter_map(|text| text.chars().last()).collect();
    assert_eq!(texts, ['2', '3', '4']);
}

#[test]
fn what_a_file_is_by_one_of_its_names_it_is_by_all() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::write(root.join("a.yaml"), "1").unwrap();
    fs::hard_link(root.join("a.yaml"), root.join("b.yaml")).unwrap();
    symlink("a.yaml", root.join("c.yaml")).unwrap();
    let mut followed = Followed::new(&[root.to_owned()]);
    fs::write(root.join("b.yaml"), "2").unwrap();
    followed.follow();
    let texts: Vec<_> = followed.texts.values().filter_map(|text| text.chars().last()).collect();
    assert_eq!(texts, ['2', '2', '2']);
    // Also by one that it had for a moment.
    fs::hard_link(root.join("a.yaml"), root.join("moment")).unwrap();
    fs::write(root.join("moment"), "3").unwrap();
    fs::remove_file(root.join("moment")).unwrap();
    followed.follow();
    let texts: Vec<_> = followed.texts.values().filter_map(|text| text.chars().last()).collect();
    assert_eq!(texts, ['3', '3', '3']);
}

#[test]
fn a_file_that_is_told_of_is_awaited_when_it_is_written_or_has_vanished() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let (a, b) = (root.join("a.yaml"), root.join("b.yaml"));
    fs::write(&a, "1").unwrap();
    let absence = Duration::from_secs(3600);
    let mut files = Files::new(vec![root.to_owned()], parse, absence, std::iter::empty());
    files.look(Scope::All);
    let mut at = |paths: &[&PathBuf]| {
        let look = files.look(Scope::Entries(paths.iter().map(|path| (*path).clone()).collect()));
        assert!(!look.is_whole);
        (look.changes.len(), look.again)
    };
    fs::rename(&a, root.join("a.yaml~")).unwrap();
    let (changes, again) = at(&[&a]);
    assert_eq!(changes, 0, "it may be back");
    assert!(again.is_some_and(|again| again <= absence), "{again:?}");
    // Another file waits for nothing, and that one is not forgotten by it.
    fs::write(&b, "1").unwrap();
    let (changes, again) = at(&[&b]);
    assert_eq!(changes, 1);
    assert!(again.is_some(), "the first one is waited for yet");
    fs::write(&a, "2").unwrap();
    assert_eq!(at(&[]), (1, None), "looked at again without being told");
    let writer = fs::File::options().write(true).open(&a).unwrap();
    let (_, again) = at(&[&a]);
    drop(writer);
    // A file system without leases cannot tell.
    if again.is_some() {
        assert_eq!(at(&[]), (0, None), "written, and the same");
    }
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Does something to the files; what is not possible changes nothing.
fn edit(root: &Path, numbers: &mut Numbers, round: usize) -> String {
    const DIRECTORIES: [&str; 6] =
        ["rules", "rules/deep", "rules/deep/er", "rules/..one", "rules/..two", "store"];
    const NAMES: [&str; 7] =
        ["a.yaml", "b.json", "c.yml", "deep", ".hidden.yaml", "..data", "README"];
    let mut path = || root.join(numbers.of(&DIRECTORIES)).join(numbers.of(&NAMES));
    let (one, other) = (path(), path());
    let target = numbers.of(&[
        "..data/a.yaml",
        "../store/a.yaml",
        "..one",
        "..two",
        "deep",
        "../store",
        "b.json",
        "nowhere",
    ]);
    let (what, result) = match numbers.below(11) {
        0..4 => ("write", fs::write(&one, round.to_string())),
        4 => ("empty", fs::write(&one, "")),
        5 => ("rename", fs::rename(&one, &other)),
        6 => ("remove", fs::remove_file(&one)),
        7 => ("make directory", fs::create_dir_all(root.join(numbers.of(&DIRECTORIES)))),
        8 => ("remove directory", fs::remove_dir_all(root.join(numbers.of(&DIRECTORIES[1..])))),
        9 => (
            "rename directory",
            fs::rename(
                root.join(numbers.of(&DIRECTORIES[1..])),
                root.join(numbers.of(&DIRECTORIES[1..])),
            ),
        ),
        _ => {
            // As a kubelet exchanges the contents of a ConfigMap.
            let beside = root.join("beside");
            (
                "point",
                symlink(target, &beside)
                    .and_then(|()| fs::rename(&beside, &one).or_else(|_| fs::remove_file(&beside))),
            )
        }
    };
    format!("{what} {} {} {target}: {result:?}", one.display(), other.display())
}

/// What is looked at only where something happened comes to the same as a look at everything.
#[test]
fn what_happens_is_seen_as_by_a_look_at_everything() {
    let mut looks = [0; 2];
    for seed in 0..40 {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for directory in ["rules/deep", "rules/..one", "rules/..two", "store"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let paths = [root.join("rules"), root.join("rules/a.yaml"), root.join("store/a.yaml")];
        let paths = &paths[..1 + seed % 3];
        let mut numbers = Numbers(seed as u64);
        let mut followed = Followed::new(paths);
        // What is out of sight stays, so that has to have seen the same before.
        let mut whole = Files::new(paths.to_vec(), text, Duration::ZERO, std::iter::empty());
        let (mut texts, mut edits) = (Texts::new(), Vec::new());
        take(whole.look(Scope::All), &mut texts);
        for round in 0..60 {
            for _ in 0..=numbers.below(2) {
                edits.push(edit(root, &mut numbers, round));
            }
            followed.follow();
            take(whole.look(Scope::All), &mut texts);
            assert_eq!(followed.texts, texts, "seed {seed}, after {edits:#?}");
        }
        looks = [looks[0] + followed.looks[0], looks[1] + followed.looks[1]];
    }
    assert!(looks[1] < looks[0], "no look was at anything less than everything");
}

#[test]
fn what_is_read_on_several_processors_is_told_in_its_order() {
    let jobs: Vec<usize> = (0..1000).collect();
    let made = in_parallel(jobs.clone(), |job| {
        // The first ones take longest.
        std::thread::sleep(Duration::from_micros(if job < 4 { 10_000 } else { 0 }));
        job
    });
    assert_eq!(made, jobs);
    assert!(in_parallel(Vec::new(), |job: usize| job).is_empty());
}
