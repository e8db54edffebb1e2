//! Placing what changes is placing everything, but for the numbers: over lives of
//! random Plans, of which some are none that a World has.

use std::collections::BTreeSet;

use redirector_common::abi::{self, Limits, policy};
use redirector_core::compile::compile;
use redirector_core::image::Image;
use redirector_core::layout::{Layout, Newcomers, Placement};
use redirector_core::plan::{self, Plan};

use crate::support::LIMITS;
use crate::support::edits::Edited;
use crate::support::placed::{assert_kept, named};
use crate::support::random::Random;

/// A life of Plans that share much.
fn plans(seed: u64) -> impl Iterator<Item = Plan> {
    let mut random = Random::new(seed);
    let mut edited = Edited::random(&mut random, 60);
    (0..12).map(move |_| {
        edited.edit(&mut random, 12);
        let mut plan = compile(&edited.world).plan;
        // What no World would do, and a Plan may.
        plan.frontends.retain(|_, _| !random.once_in(9));
        for destination in plan.destinations.values_mut() {
            if random.once_in(9) {
                destination.endpoints.iter_mut().for_each(|endpoint| endpoint.weight = 0);
            }
        }
        plan
    })
}

fn step(placement: &mut Placement, delta: &plan::Delta, limits: &Limits) -> bool {
    placement.place(delta, limits, &Newcomers::default()).is_ok()
}

#[test]
fn what_changes_placed_step_by_step_is_what_the_whole_is_but_for_numbers_that_are_kept() {
    let (mut writes, mut entries, mut refused) = (0, 0, 0);
    for seed in 0..24 {
        let mut random = Random::new(seed);
        let mut placement = Placement::of(Layout::default());
        let (mut before, mut image) = (Plan::default(), Image::default());
        for (index, plan) in plans(seed).enumerate() {
            let at = format!("seed {seed}, step {index}");
            let delta = before.difference(&plan);
            let was = placement.clone();
            // Nothing is changed by what does not fit, or is taken back.
            let tight = Limits {
                routes: random.below(20) as u32,
                backends: random.below(60) as u32,
                class_tables: random.below(8) as u32,
                ..LIMITS
            };
            refused += u32::from(!step(&mut placement, &delta, &tight));
            placement.take_back();
            assert_eq!(placement.layout(), was.layout(), "{at}");
            assert_eq!(placement.image(), was.image(), "{at}");

            let (changes, work) = placement
                .place(&delta, &LIMITS, &Newcomers::default())
                .unwrap_or_else(|full| panic!("{at}: {full}"));
            image.apply(&changes);
            assert_eq!(placement.image(), &image, "{at}");
            assert_eq!(was.image().diff(&image), changes, "{at}");
            (writes, entries) = (writes + work.written, entries + work.placed);
            let of_routes: BTreeSet<u32> = (image.routes.values())
                .flat_map(|route| route.first..route.first + route.count)
                .collect();
            assert!(image.legs.keys().all(|leg| of_routes.contains(leg)), "{at}: nobody's legs");
            let ejects = |one: &abi::Destination| one.policy & policy::EJECTING != 0;
            assert_eq!(placement.follows_connections(), image.destinations.values().any(ejects));
            let written = serde_json::to_string(&placement.difference()).expect("written");
            let difference = serde_json::from_str(&written).expect("read");
            placement.settle();
            let followed = was.layout().clone().with(difference);
            assert_eq!(&followed, placement.layout(), "{at}");

            let (layout, whole) = Layout::default().place(&plan, &LIMITS).expect("there is room");
            assert_eq!(named(placement.layout(), &image), named(&layout, &whole), "{at}");
            assert_kept(was.layout(), placement.layout(), &plan);

            // Another daemon goes on with what was written down.
            if random.once_in(4) {
                let written = serde_json::to_string(placement.layout()).expect("written");
                let read: Layout = serde_json::from_str(&written).expect("read");
                assert_eq!(&read, placement.layout(), "{at}");
                let mut delta = read.removal();
                delta.then(Plan::default().difference(&plan));
                let mut other = Placement::of(read);
                assert!(step(&mut other, &delta, &LIMITS), "{at}");
                other.settle();
                assert_eq!(other.image(), &image, "{at}: by the numbers that it found");
                placement = other;
            }
            before = plan;
        }
    }
    assert!(writes > 1000 && entries > 1000 && refused > 20, "{writes} {entries} {refused}");
}

#[test]
fn several_changes_at_once_are_placed_as_one() {
    for seed in 0..30 {
        let mut placement = Placement::of(Layout::default());
        let (mut before, mut pending) = (Plan::default(), plan::Delta::default());
        for (index, plan) in plans(seed).enumerate() {
            pending.then(before.difference(&plan));
            if index % 3 == 2 {
                assert!(step(&mut placement, &std::mem::take(&mut pending), &LIMITS));
                let (layout, whole) = Layout::default().place(&plan, &LIMITS).expect("room");
                let now = named(placement.layout(), placement.image());
                assert_eq!(now, named(&layout, &whole), "seed {seed}, step {index}");
            }
            before = plan;
        }
    }
}
