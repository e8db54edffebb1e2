//! Of the state directory.

use super::*;

/// A state directory, and what it lies in.
pub(super) fn directory() -> (tempfile::TempDir, StateDir) {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::new(root.path().join("redirector"));
    state.create().unwrap();
    (root, state)
}

#[test]
fn a_damaged_file_is_named() {
    let (_root, state) = directory();
    fs::write(state.path().join("report.json"), "{\"pid\":").unwrap();
    let error = state.report().unwrap_err().to_string();
    assert!(error.contains("report.json is damaged"), "{error}");
}

#[test]
fn removing_it_leaves_what_is_not_ours() {
    let (_root, state) = directory();
    state.save_report(&Report::default()).unwrap();
    fs::write(state.path().join("notes.txt"), "mine").unwrap();
    state.remove().unwrap();
    assert!(state.path().join("notes.txt").exists());
    assert!(!state.path().join("report.json").exists());
    fs::remove_file(state.path().join("notes.txt")).unwrap();
    state.remove().unwrap();
    assert!(!state.path().exists());
}

#[test]
fn what_was_pinned_is_known_by_directory_and_boot_until_all_is_removed() {
    let (_root, state) = directory();
    let pins = Path::new("/sys/fs/bpf/redirector");
    assert!(state.is_removed() && !state.had_pinned(pins));
    state.save_report(&Report::default()).unwrap();
    assert!(!state.is_removed() && !state.had_pinned(pins));
    let now = Pinned::now(pins);
    let pinned = |pinned| Report { pinned: Some(pinned), ..Report::default() };
    state.save_report(&pinned(now.clone())).unwrap();
    assert!(state.had_pinned(pins) && !state.had_pinned(Path::new("/sys/fs/bpf/other")));
    state.save_report(&pinned(Pinned { boot: "another".to_owned(), ..now })).unwrap();
    assert!(!state.had_pinned(pins));
    fs::write(state.path().join("report.json"), "{").unwrap();
    assert!(!state.is_removed() && !state.had_pinned(pins));
}

#[test]
fn a_report_that_could_not_be_followed_is_stale_until_one_is_written() {
    let (_root, state) = directory();
    let report = |started| Report { started, ..Report::default() };
    let stale = || state.report().unwrap().map(|one| (one.started, one.is_stale));
    state.save_report(&report(1)).unwrap();
    assert_eq!(stale(), Some((1, false)));
    // What is in the way of the file that it is written to.
    let in_the_way = state.path().join("report.json.new");
    fs::create_dir(&in_the_way).unwrap();
    state.save_report(&report(2)).unwrap_err();
    assert_eq!(stale(), Some((1, true)));
    fs::remove_dir(&in_the_way).unwrap();
    state.save_report(&report(3)).unwrap();
    assert_eq!(stale(), Some((3, false)));
    assert!(!state.path().join("report-stale.json").exists());
}

#[test]
fn tables_begin_as_large_as_they_had_grown_where_the_same_was_asked_for() {
    let (_root, state) = directory();
    let asked = Sizes::default();
    let grown = Sizes { frontends: 2 * asked.frontends, ..asked };
    assert_eq!(state.grown(&asked).unwrap(), None);
    state.save_grown(&asked, &grown).unwrap();
    assert_eq!(state.grown(&asked).unwrap(), Some(grown));
    assert_eq!(state.grown(&grown).unwrap(), None);
}

#[test]
fn whom_to_ask_is_where_the_directory_is() {
    let state = StateDir::new("/run/redirector");
    assert_eq!(state.control_socket(), Path::new("/run/redirector/control.sock"));
    assert_eq!(state.relay_socket(), Path::new("/run/redirector/relay.sock"));
}
