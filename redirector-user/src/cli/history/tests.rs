use super::*;
use crate::state::Head;

fn object(name: &str, before: bool, after: bool, by: &str) -> Replacement {
    let digest = |there: bool| there.then(|| "0".to_owned());
    let by = (!by.is_empty()).then(|| by.into());
    Replacement { object: name.to_owned(), before: digest(before), after: digest(after), by }
}

fn entry(generation: u64, is_change: bool, objects: Vec<Replacement>) -> HistoryEntry {
    HistoryEntry {
        head: Head { generation, made: generation, ..Head::default() },
        objects,
        names: Vec::new(),
        settings: false,
        is_first: false,
        is_change,
    }
}

fn told(history: &[HistoryEntry]) -> Vec<Generation<'_>> {
    let back = steps_back(history, history.last().unwrap().head.generation);
    let one = |entry| Generation {
        entry,
        what: what(entry, NAMED),
        rollback: back.iter().position(|one| *one == entry.head.generation).map(|at| at + 1),
        damaged: None,
        in_force: false,
    };
    history.iter().rev().map(one).collect()
}

#[test]
fn a_generation_is_told_in_words() {
    let many = (0..5).map(|i| object(&format!("Service/shop/s{i}"), false, true, "helm"));
    let mut one = entry(7, true, many.collect());
    one.objects.push(object("VirtualService/shop/db", true, true, "rules.yaml"));
    one.objects.push(object("VirtualService/shop/old", true, false, ""));
    one.names.push("db.example.com".into());
    one.settings = true;
    assert_eq!(
        what(&one, 3),
        "new: Service/shop/s0, Service/shop/s1, Service/shop/s2 and 2 more; changed: \
         VirtualService/shop/db; gone: VirtualService/shop/old; resolve to something else: \
         db.example.com; settings"
    );
    let history = [one];
    assert_eq!(authors(&told(&history).iter().collect::<Vec<_>>()), "helm, rules.yaml");
    let back = Head { of_generation: Some(3), ..Head::default() };
    assert_eq!(
        what(&HistoryEntry { head: back, ..entry(9, true, vec![]) }, 3),
        "rollback to generation 3"
    );
}

#[test]
fn a_load_in_parts_and_endpoints_that_move_are_a_row_each_and_one_step_back_each() {
    let rule = || vec![object("VirtualService/shop/db", true, true, "rules.yaml")];
    let slice = || vec![object("EndpointSlice/shop/db", true, true, "")];
    let mut history = vec![
        entry(1, true, rule()),
        entry(2, true, rule()),
        entry(3, false, rule()),
        entry(4, false, slice()),
        entry(5, false, slice()),
        entry(6, true, rule()),
        entry(7, false, slice()),
        entry(8, false, slice()),
    ];
    history[1].head.partial = true;
    let by_itself = |one: &Generation<'_>| !one.entry.is_change && one.entry.head.generation > 3;
    let told = told(&history);
    let rows: Vec<_> = rows(&told, by_itself)
        .iter()
        .map(|row| {
            let numbers: Vec<u64> = row.of.iter().map(|one| one.entry.head.generation).collect();
            (numbers, row.of.iter().find_map(|one| one.rollback), row.what.clone())
        })
        .collect();
    let db = "changed: VirtualService/shop/db".to_owned();
    assert_eq!(
        rows,
        [
            (vec![8, 7], None, "endpoints and names, 2 times".to_owned()),
            (vec![6], None, db.clone()),
            (vec![5, 4], Some(1), "endpoints and names, 2 times".to_owned()),
            (vec![3, 2], None, format!("a load in 2 parts, of 2 objects: {db}")),
            (vec![1], Some(2), db),
        ]
    );
}

#[test]
fn who_has_no_history_is_told_where_to_look() {
    let root = tempfile::tempdir().unwrap();
    let (bpffs, state_dir) = (root.path().join("pins"), root.path().into());
    let kernel = KernelArgs { bpffs, state_dir, silent: Default::default() };
    let failure = read(&kernel).unwrap_err();
    assert_eq!(failure.exit, Exit::NotLoaded);
    assert!(failure.message.contains("no history"), "{failure:?}");
}
