//! What a large configuration takes in memory, and a change of it in instructions: the
//! stages without the disk and the kernel, as `cargo xtask bench memory` and `cargo xtask
//! bench instructions` ask for them.
//!
//! Its arguments are `memory` or `changes`, SERVICES and RULES, which each of them has. Each
//! line of the output is a row in JSON.

mod changes;
mod documents;
mod heap;
mod stages;

use std::fmt::Write as _;

use documents::Scale;
use redirector_core::plan::Plan;
use stages::All;

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

/// Local workloads.
const WORKLOADS: usize = 20;

/// Objects of one file.
const OF_FILE: usize = 100;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &str| text.parse().expect("a number");
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["memory", services, rules] => {
            memory(Scale { services: number(services), rules: number(rules) });
        }
        ["changes", services, rules] => {
            changes::all(Scale { services: number(services), rules: number(rules) });
        }
        _ => panic!("memory or changes, SERVICES and RULES"),
    }
}

/// The files of a configuration, of so many objects each.
fn files(scale: Scale, of_file: usize) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut file = |kind: &str, all: usize, one: &dyn Fn(usize) -> String| {
        for first in (0..all).step_by(of_file) {
            let mut text = String::new();
            for i in first..all.min(first + of_file) {
                let _ = write!(text, "{}", one(i));
            }
            files.push((format!("/etc/redirector/{kind}-{first}.yaml"), text));
        }
    };
    file("workloads", WORKLOADS, &|i| documents::workload(i, "apps"));
    file("services", scale.services, &documents::service);
    file("endpoints", scale.services, &|i| documents::endpoints(i, 2));
    file("rules", scale.services, &|i| documents::rules(i, scale.rules, 30));
    files
}

/// What each stage holds of a configuration.
fn memory(scale: Scale) {
    let texts = files(scale, OF_FILE);
    let mut before = heap::held();
    let mut row = |stage: &str| {
        let now = heap::held();
        let (bytes, blocks) = (now.bytes - before.bytes, now.blocks - before.blocks);
        println!(r#"{{"stage":"{stage}","bytes":{bytes},"blocks":{blocks}}}"#);
        before = now;
    };
    let mut all = All::new();
    for (name, text) in &texts {
        all.put(name, text);
    }
    row("objects and the store");
    drop(all.look_up());
    row("world and registry");
    drop(all.stages.replace(&all.world, &all.registry));
    row("stages and Plan");
    all.place(&Plan::default().difference(all.stages.plan()));
    row("layout and image");
    let texts = texts.iter().map(|(name, text)| name.capacity() + text.capacity()).sum::<usize>();
    let heap::Held { bytes, blocks } = heap::held();
    println!(r#"{{"stage":"all","bytes":{},"blocks":{blocks}}}"#, bytes.saturating_sub(texts));
    // A heap profiler is to see what is held at the end.
    std::mem::forget(all);
}
