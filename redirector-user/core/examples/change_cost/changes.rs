//! Changes, to be counted by `callgrind`, which is told where each kind begins and ends.

use std::hint::black_box;

use crate::documents::{self, Scale};
use crate::files;
use crate::stages::All;

/// So many of each kind, each of another Service.
const CHANGES: usize = 20;

/// Each kind of change.
pub fn all(scale: Scale) {
    println!(r#"{{"changes":{CHANGES}}}"#);
    let mut all = All::new();
    // As from an API server: each object is one that is told by itself.
    for (name, text) in files(scale, 1) {
        all.put(&name, &text);
    }
    let (changes, changed) = all.look_up();
    let (delta, _) = all.stages.update(&all.world, &all.registry, &changes, &changed);
    all.place(&delta);
    drop((delta, changes, changed));
    let apart = scale.services / CHANGES;
    let texts = |kind: &str, one: &dyn Fn(usize) -> String| -> Vec<(String, String)> {
        let file = |i: usize| (format!("/etc/redirector/{kind}-{i}.yaml"), one(i));
        (0..CHANGES).map(|k| file(k * apart)).collect()
    };
    let kinds = [
        texts("rules", &|i| documents::rules(i, scale.rules, 31)),
        texts("endpoints", &|i| documents::endpoints(i, 3)),
        texts("rules", &|i| documents::rules(i, scale.rules + 1, 31)),
    ];
    for texts in &kinds {
        counted(&mut all, texts);
    }
}

/// All changes of a kind. Callgrind knows it by this name.
#[inline(never)]
fn counted(all: &mut All, texts: &[(String, String)]) {
    for (name, text) in texts {
        let work = all.change(name, text);
        assert!(work.written > 0, "{name} changes nothing");
        black_box(work);
    }
}
