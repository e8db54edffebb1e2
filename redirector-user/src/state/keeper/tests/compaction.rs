//! Journals that are begun anew, and those that are forgotten.

use super::*;

#[test]
fn a_journal_that_has_grown_is_begun_anew_and_the_older_one_forgotten_in_time() {
    let mut scene = Scene::new();
    let mut generation = 0;
    let mut most = 0;
    while scene.journals().last() < Some(&4) {
        generation += 1;
        scene.change(generation, &text(40 + u32::try_from(generation % 9 * 4).unwrap(), 1));
        scene.tend(5, None);
        most = most.max(scene.journals().len());
        scene.is_as_told(generation.saturating_sub(4));
        assert!(generation < 2000, "never anew");
    }
    assert!(most <= 2, "{most} journals at once");
    let kept = scene.state.generations();
    assert!(kept.len() >= 5, "{kept:?}");
    // In their order, each once, and the youngest without a gap.
    assert_eq!(kept, (generation + 1 - kept.len() as u64..=generation).collect::<Vec<_>>());
    scene.restarted();
    assert_eq!(scene.store.kept(), scene.told[&generation].1);
    scene.change(generation + 1, &text(41, 2));
    scene.is_as_told(generation.saturating_sub(4));
}

#[test]
fn what_comes_and_goes_by_itself_takes_no_place_of_what_people_changed() {
    let mut scene = Scene::new();
    let endpoint = |number: u64| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: w}}\n\
             spec: {{address: 10.9.{}.{}}}\n",
            number / 250,
            number % 250
        )
    };
    for generation in 1..=3 {
        let weight = u32::try_from(generation).unwrap();
        scene.change(generation, &(text(3, weight) + &endpoint(0)));
        scene.tend(2, None);
    }
    let mut generation = 3;
    let mut most = 0;
    while scene.journals().last() < Some(&5) {
        generation += 1;
        scene.change(generation, &(text(3, 3) + &endpoint(generation)));
        scene.tend(2, None);
        most = most.max(scene.journals().len());
        assert!(generation < 2000, "never anew");
    }
    assert!(most <= 3, "{most} journals at once");
    let changed = || -> Vec<u64> {
        let history = scene.state.history().unwrap();
        history.iter().filter(|one| one.is_change).map(|one| one.head.generation).collect()
    };
    assert_eq!(changed(), [1, 2, 3]);
    for before in [1, 2] {
        assert_eq!(scene.state.snapshot(before).unwrap().as_ref(), Some(&scene.told[&before].0));
    }
    scene.restarted();
    for step in [1, 2] {
        generation += 1;
        let weight = u32::try_from(10 + step).unwrap();
        scene.change(generation, &(text(3, weight) + &endpoint(generation)));
    }
    let history = scene.state.history().unwrap();
    assert_eq!(history.iter().filter(|one| one.is_change).count(), 5);
}

#[test]
fn what_is_needed_is_not_forgotten() {
    let mut scene = Scene::new();
    scene.change(1, &text(40, 1));
    let mut generation = 1;
    while scene.journals().last() < Some(&3) {
        generation += 1;
        scene.change(generation, &text(40 + u32::try_from(generation % 9 * 4).unwrap(), 1));
        scene.tend(2, Some(1));
    }
    assert_eq!(scene.state.snapshot(1).unwrap().as_ref(), Some(&scene.told[&1].0));
    scene.tend(2, None);
    assert!(scene.state.snapshot(1).unwrap().is_none());
    scene.is_as_told(generation - 1);
}

#[test]
fn a_crash_at_any_point_of_beginning_anew_loses_nothing() {
    let mut scene = Scene::new();
    for generation in 1..=3 {
        scene.change(generation, &text(3, u32::try_from(generation).unwrap()));
    }
    let old = fs::read(journal::path(&scene.state, 1)).unwrap();
    // What a new one is, and what came meanwhile.
    let compaction = scene.compaction(old.len() as u64);
    scene.change(4, &text(4, 4));
    let grown = fs::read(journal::path(&scene.state, 1)).unwrap();
    compaction.run().unwrap();
    assert_eq!(scene.journals(), [1, 2]);
    scene.is_as_told(1);
    let new = fs::read(journal::path(&scene.state, 2)).unwrap();
    // The last one may still be taken back, there, too.
    scene.keeper.take_back();
    assert_eq!(scene.state.snapshot(4).unwrap(), None);
    assert_eq!(scene.state.generations(), [1, 2, 3]);

    let (_root, other) = directory();
    let is_found = |point: &str| {
        let mut next = Scene::of(other.clone(), 4);
        assert_eq!(
            (&next.now, &next.store.kept()),
            (&scene.told[&4].0, &scene.told[&4].1),
            "{point}"
        );
        assert!(journal::leftovers(&other).is_empty(), "{point}");
        next.change(5, &text(5, 5));
        next.is_as_told(5);
        for (generation, (told, _)) in &scene.told {
            assert_eq!(other.snapshot(*generation).unwrap().as_ref(), Some(told), "{point}");
        }
        let entries = other.history().unwrap();
        let numbers: Vec<u64> = entries.iter().map(|entry| entry.head.generation).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5], "{point}");
        forget_journals(&other);
    };
    // While it is written beside the other one ...
    for at in (0..=new.len()).step_by(97).chain([new.len()]) {
        fs::write(journal::path(&other, 1), &grown).unwrap();
        fs::write(journal::path(&other, 2).with_extension("new"), &new[..at]).unwrap();
        is_found(&format!("{at} bytes of the new one"));
    }
    // ... when it has its place ...
    fs::write(journal::path(&other, 1), &grown).unwrap();
    fs::write(journal::path(&other, 2), &new).unwrap();
    is_found("both");
    // ... and where the other one is still written to, and dies in the middle of that.
    for at in (old.len()..grown.len()).step_by(7) {
        fs::write(journal::path(&other, 1), &grown[..at]).unwrap();
        let (_, left) = Keeper::open(&other, 3).unwrap();
        assert_eq!(left.snapshot.as_ref(), Some(&scene.told[&3].0));
        assert_eq!(left.not_read, Vec::<String>::new(), "{at}");
    }
}

#[test]
fn one_that_ends_puts_nothing_in_the_place_of_anything() {
    let mut scene = Scene::new();
    scene.change(1, &text(3, 1));
    let compaction = scene.compaction(0);
    drop(std::mem::replace(&mut scene.keeper, Keeper::new(scene.state.clone())));
    compaction.run().unwrap();
    assert_eq!(scene.journals(), [1]);
    assert!(journal::leftovers(&scene.state).is_empty());
}

#[test]
fn readers_find_what_was_in_force_while_the_journal_grows_and_is_begun_anew() {
    let mut scene = Scene::new();
    scene.change(1, &text(60, 1));
    let (sender, in_force) = std::sync::mpsc::channel::<Option<u64>>();
    let state = scene.state.clone();
    let reader = thread::spawn(move || {
        let mut read = 0;
        while let Ok(Some(generation)) = in_force.recv() {
            let latest = in_force.try_iter().last().unwrap_or(Some(generation));
            let Some(latest) = latest else { break };
            let snapshot = state.snapshot(latest).unwrap().unwrap_or_else(|| panic!("{latest}"));
            assert_eq!(snapshot.lost, []);
            assert_eq!(snapshot.made, 1000 + latest);
            read += 1;
        }
        read
    });
    let mut generation = 1;
    while scene.journals().last() < Some(&3) {
        generation += 1;
        let next = scene.step(generation, &text(60 + u32::try_from(generation % 7).unwrap(), 9));
        // Now and then something does not come in force.
        if generation % 5 == 0 {
            scene.append(&next).unwrap();
            scene.keeper.take_back();
        }
        scene.apply(next);
        sender.send(Some(generation)).unwrap();
        let whole = scene.whole();
        scene.keeper.tend(50, None, || whole);
    }
    sender.send(None).unwrap();
    assert!(reader.join().unwrap() > 0);
}
