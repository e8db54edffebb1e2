//! What the store keeps and what it lets go.

use super::*;
use crate::model::{Kind, Meta, Spec, VirtualService};

fn reference(name: &str) -> ObjectRef {
    ObjectRef { kind: Kind::VirtualService, namespace: "default".into(), name: name.into() }
}

/// `host` tells versions apart.
fn good(name: &str, host: &str) -> Document {
    let meta = Meta::new("default", name);
    let spec = VirtualService { hosts: vec![host.to_owned()], ..VirtualService::default() };
    Document {
        reference: Some(reference(name)),
        object: Some(Arc::new(Object { meta, spec: Spec::VirtualService(spec) })),
        diagnostics: Vec::new(),
    }
}

fn error() -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: "RD0000",
        istio: None,
        message: "wrong".into(),
        help: None,
        object: None,
        path: String::new(),
        file: None,
        line: 1,
        column: 1,
    }
}

fn bad(name: &str) -> Document {
    Document { reference: Some(reference(name)), object: None, diagnostics: vec![error()] }
}

fn nameless() -> Document {
    Document { reference: None, object: None, diagnostics: vec![error()] }
}

fn put(store: &mut Store, file: &str, documents: Vec<Document>) {
    store.put(&file.into(), Content::Whole(documents));
}

fn broken(store: &mut Store, file: &str) {
    store.put(&file.into(), Content::Broken(vec![error()]));
}

fn hosts(store: &Store) -> Vec<(String, String)> {
    store
        .effective()
        .into_iter()
        .map(|(reference, object)| match &object.spec {
            Spec::VirtualService(spec) => (reference.name.to_string(), spec.hosts[0].clone()),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn a_refused_object_stays_at_its_last_good_version() {
    let mut store = Store::default();
    put(&mut store, "a", vec![good("x", "1"), good("y", "1")]);
    store.accept();
    put(&mut store, "a", vec![bad("x"), good("y", "2")]);
    assert_eq!(hosts(&store), pairs(&[("x", "1"), ("y", "2")]));
    store.accept();
    put(&mut store, "a", vec![bad("x"), good("y", "3")]);
    assert_eq!(hosts(&store), pairs(&[("x", "1"), ("y", "3")]));
    let rejected = store.rejected();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].object, Some(reference("x")));
    assert!(rejected[0].kept);
    put(&mut store, "a", vec![good("x", "4"), good("y", "3")]);
    assert_eq!(hosts(&store), pairs(&[("x", "4"), ("y", "3")]));
    assert!(store.rejected().is_empty());
}

#[test]
fn an_object_that_never_was_good_is_absent_and_listed() {
    let mut store = Store::default();
    put(&mut store, "a", vec![bad("x"), good("y", "1")]);
    assert_eq!(hosts(&store), pairs(&[("y", "1")]));
    assert!(!store.rejected()[0].kept);
}

#[test]
fn a_file_that_does_not_parse_leaves_all_of_its_objects() {
    let mut store = Store::default();
    put(&mut store, "a", vec![good("x", "1"), good("y", "1")]);
    put(&mut store, "b", vec![good("z", "1")]);
    store.accept();
    broken(&mut store, "a");
    put(&mut store, "b", vec![good("z", "2")]);
    assert_eq!(hosts(&store), pairs(&[("x", "1"), ("y", "1"), ("z", "2")]));
    assert_eq!(store.rejected()[0].object, None);
    assert!(store.rejected()[0].kept);
    put(&mut store, "a", vec![good("y", "2")]);
    assert_eq!(hosts(&store), pairs(&[("y", "2"), ("z", "2")]), "whole again: x is gone");
}

#[test]
fn a_removed_file_takes_its_objects_along() {
    let mut store = Store::default();
    put(&mut store, "a", vec![good("x", "1")]);
    put(&mut store, "b", vec![good("y", "1")]);
    store.accept();
    store.remove("a");
    assert_eq!(hosts(&store), pairs(&[("y", "1")]));
    store.accept();
    put(&mut store, "c", vec![bad("x")]);
    assert!(hosts(&store).len() == 1, "what was removed does not come back as its last version");
}

#[test]
fn a_document_that_cannot_be_told_keeps_what_vanished_with_it() {
    let mut store = Store::default();
    put(&mut store, "a", vec![good("x", "1"), good("y", "1")]);
    store.accept();
    put(&mut store, "a", vec![nameless(), good("y", "2")]);
    assert_eq!(hosts(&store), pairs(&[("x", "1"), ("y", "2")]));
    put(&mut store, "a", vec![good("y", "2")]);
    assert_eq!(hosts(&store), pairs(&[("y", "2")]));
}

#[test]
fn of_one_object_in_two_files_the_last_in_path_order_counts() {
    let mut store = Store::default();
    put(&mut store, "b", vec![good("x", "b")]);
    put(&mut store, "a", vec![good("x", "a")]);
    assert_eq!(hosts(&store), pairs(&[("x", "b")]));
    store.accept();
    put(&mut store, "b", vec![bad("x")]);
    assert_eq!(hosts(&store), pairs(&[("x", "b")]), "its own last good version first");
    store.remove("b");
    assert_eq!(hosts(&store), pairs(&[("x", "a")]));
}

#[test]
fn that_an_object_stands_twice_is_told_for_as_long_as_it_does() {
    let mut store = Store::default();
    put(&mut store, "a", vec![good("one", "1"), good("two", "1")]);
    assert_eq!(store.repeated(), []);
    put(&mut store, "b", vec![good("one", "2")]);
    let [one] = &store.repeated()[..] else { panic!("{:?}", store.repeated()) };
    assert_eq!((one.code, one.file.as_deref()), ("RD3001", Some("a")));
    assert!(one.message.contains("stands again in b"), "{}", one.message);
    let world = crate::world::World::default();
    assert_eq!(crate::in_force::InForce::new(&store, world).warnings, store.repeated());
    put(&mut store, "a", vec![good("two", "1"), good("two", "2")]);
    assert!(store.repeated()[0].message.contains("stands again on line"));
    store.remove("a");
    assert_eq!(store.repeated(), []);
}

#[test]
fn an_object_that_moves_and_breaks_on_the_way_stays() {
    let mut store = Store::default();
    put(&mut store, "a", vec![good("x", "1")]);
    store.accept();
    put(&mut store, "b", vec![bad("x")]);
    store.remove("a");
    assert_eq!(hosts(&store), pairs(&[("x", "1")]));
    store.accept();
    put(&mut store, "b", vec![bad("x")]);
    assert_eq!(hosts(&store), pairs(&[("x", "1")]));
}

#[test]
fn an_object_that_moves_while_its_file_is_emptied_is_as_it_is_written_now() {
    let emptied =
        |store: &mut Store, file: &str| store.put(&file.into(), Content::Emptied(error()));
    for (from, to) in [("a", "b"), ("b", "a")] {
        for first in [from, to] {
            let mut store = Store::default();
            put(&mut store, from, vec![good("x", "1"), good("y", "1")]);
            store.accept();
            for file in [first, if first == from { to } else { from }] {
                match file == from {
                    true => emptied(&mut store, from),
                    false => put(&mut store, to, vec![good("x", "2")]),
                }
            }
            let moved = pairs(&[("x", "2"), ("y", "1")]);
            assert_eq!(hosts(&store), moved, "from {from} to {to}, first {first}");
            let since = store.kept_since();
            store.accept();
            assert_eq!(hosts(&store), moved);
            assert!(since.files[from].as_ref().is_some_and(|mentions| mentions.len() == 1));
            assert_eq!(hosts(&Store::of_kept(&store.kept())), moved);
        }
    }
    // What was written twice before is as it was, and so is what is refused where it went.
    let mut store = Store::default();
    put(&mut store, "a", vec![good("x", "1")]);
    put(&mut store, "b", vec![good("x", "2"), good("y", "2")]);
    store.accept();
    emptied(&mut store, "b");
    put(&mut store, "a", vec![good("x", "3"), bad("y")]);
    let stays = pairs(&[("x", "2"), ("y", "2")]);
    assert_eq!(hosts(&store), stays);
    put(&mut store, "a", vec![good("x", "3"), good("y", "3")]);
    assert_eq!(hosts(&store), pairs(&[("x", "2"), ("y", "3")]));
    assert!(store.reject(&reference("y"), vec![error()]));
    assert_eq!(hosts(&store), stays);
}

#[test]
fn what_the_compiler_refuses_falls_back_to_what_was_in_force() {
    let mut store = Store::default();
    put(&mut store, "a", vec![good("x", "1")]);
    store.accept();
    put(&mut store, "a", vec![good("x", "2")]);
    assert_eq!(hosts(&store), pairs(&[("x", "2")]));
    assert!(store.reject(&reference("x"), vec![error()]));
    assert_eq!(hosts(&store), pairs(&[("x", "1")]));
    assert!(!store.reject(&reference("x"), vec![error()]), "that one was in force");
    store.accept();
    assert_eq!(hosts(&store), pairs(&[("x", "1")]));
}

#[test]
fn a_store_of_what_was_in_force_has_last_good_versions() {
    let object = good("x", "1").object.map(|object| {
        let mut object = (*object).clone();
        object.meta.origin.file = Some("a".into());
        Arc::new(object)
    });
    let mut store = Store::of_objects(object);
    assert!(store.is_unchanged());
    put(&mut store, "a", vec![bad("x"), good("y", "1")]);
    assert_eq!(hosts(&store), pairs(&[("x", "1"), ("y", "1")]));
    assert!(store.is_new(&reference("y")) && !store.is_new(&reference("x")));
    assert!(!store.is_unchanged());
}

#[test]
fn a_text_is_broken_when_it_does_not_parse_and_judged_by_object_when_it_does() {
    let read = |text: &str| Content::from(crate::documents::read(Some("a".into()), text));
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec:\n  ports: [{port: ";
    assert!(matches!(read(service), Content::Broken(why) if !why.is_empty()));
    let Content::Whole(documents) =
        read(&format!("{service}80}}]\n---\n{}70000}}]\n", service.replace("x}", "y}")))
    else {
        panic!("it parses")
    };
    assert!(documents[0].object.is_some() && documents[0].diagnostics.is_empty());
    assert!(documents[1].object.is_none() && !documents[1].diagnostics.is_empty());
}

#[test]
fn the_last_good_versions_survive_the_daemon() {
    let mut store = Store::default();
    put(&mut store, "a", vec![good("x", "1"), good("y", "1")]);
    put(&mut store, "b", vec![good("x", "0")]);
    store.accept();
    put(&mut store, "b", vec![good("x", "2"), bad("z")]);
    let kept = store.kept();
    store.accept();
    assert_eq!(store.kept(), kept, "it is written down before it is in force");
    let mut store = Store::of_kept(&kept);
    assert_eq!(store.kept(), kept);
    assert!(store.is_unchanged());
    put(&mut store, "b", Vec::new());
    broken(&mut store, "a");
    assert_eq!(hosts(&store), pairs(&[("x", "1"), ("y", "1")]));
    put(&mut store, "a", vec![bad("x"), good("y", "2")]);
    assert_eq!(hosts(&store), pairs(&[("x", "1"), ("y", "2")]));
}

/// What may happen to a store, by number.
fn something(store: &mut Store, next: &mut impl FnMut(u64) -> u64) {
    let (file, name) = (["a", "b", "c"][next(3) as usize], |n| ["x", "y", "z"][n as usize]);
    match next(10) {
        0 => store.remove(file),
        1 => broken(store, file),
        2 => drop(store.reject(&reference(name(next(3))), vec![error()])),
        3 => store.accept(),
        4 => store.remember(good(name(next(3)), "remembered").object),
        _ => {
            let documents = (0..next(5)).map(|_| match next(8) {
                0 => nameless(),
                1 | 2 => bad(name(next(3))),
                _ => good(name(next(3)), ["1", "2"][next(2) as usize]),
            });
            let documents = documents.collect();
            put(store, file, documents);
        }
    }
}

#[test]
fn what_was_touched_is_all_that_there_is_to_accept() {
    for seed in 0..400_u64 {
        let mut state = seed;
        // An LCG; its high bits.
        let mut next = |end: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % end
        };
        let mut store = Store::default();
        let mut kept = Kept::default();
        for step in 0..40 {
            let since = store.kept_since();
            something(&mut store, &mut next);
            if store.touched().is_empty() && store.index.files.is_empty() {
                kept.apply(since);
            } else {
                // Something may have been remembered.
                kept.good.clone_from(&store.in_force);
            }
            let mut now = kept.clone();
            now.apply(store.kept_since());
            assert_eq!(now, store.kept(), "{seed} {step}");
            let effective = store.effective();
            let all: BTreeSet<_> = effective.keys().chain(store.in_force.keys()).cloned().collect();
            let mut expected = BTreeMap::new();
            for one in all {
                let (before, after) = (store.in_force.get(&one), effective.get(&one));
                assert_eq!(store.effective_of(&one), after, "{seed} {step} {one}");
                if before != after {
                    let (before, after) = (before.cloned(), after.cloned());
                    expected.insert(one, Replaced { before, after });
                }
            }
            assert_eq!(store.changes(), expected, "{seed} {step}");
            let mut fresh = Store::of(store.files.clone(), BTreeMap::new()).index;
            fresh.touched.clone_from(store.touched());
            fresh.files.clone_from(&store.index.files);
            assert_eq!(store.index, fresh, "{seed} {step}");
            let mut accepted = store.clone();
            accepted.accept();
            assert_eq!(accepted.in_force, effective, "{seed} {step}");
            assert!(accepted.touched().is_empty() && accepted.is_unchanged());
            for mention in accepted.mentions() {
                assert!(mention.candidate.is_none(), "{seed} {step}");
                let lost = mention.is_refused() && mention.accepted.is_none();
                assert!(!lost || !effective.contains_key(&mention.reference), "{seed} {step}");
            }
        }
    }
}

#[test]
fn what_is_read_again_after_a_restart_is_held_once() {
    let file: Arc<str> = "a.yaml".into();
    let document = good("a", "x");
    let mut store = Store::default();
    store.put(&file, Content::Whole(vec![document.clone()]));
    store.accept();
    let mut again = Store::of_kept(&store.kept());
    let read = good("a", "x");
    let object = read.object.clone().expect("it is good");
    again.put(&file, Content::Whole(vec![read]));
    assert!(again.is_unchanged());
    assert!(Arc::ptr_eq(again.good().next().expect("in force"), &object));
    assert!(Arc::ptr_eq(&again.effective()[&reference("a")], &object));
    // Later on what is in force is that which others hold.
    again.accept();
    again.put(&file, Content::Whole(vec![document]));
    assert!(Arc::ptr_eq(&again.effective()[&reference("a")], &object));
}
