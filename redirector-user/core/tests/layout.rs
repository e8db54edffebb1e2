//! The Layout over a life of changes: small changes make small Deltas, numbers
//! stay, what is in use is never given to something else.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use redirector_core::compile::compile;
use redirector_core::image::Image;
use redirector_core::layout::{Layout, Table};
use redirector_core::model::{Kind, Object, Spec};
use redirector_core::world::World;

use crate::support::random::Random;
use crate::support::worlds::{PORTS, dials, random_world, resolve};
use crate::support::{LIMITS, client, shares, world};

/// Services `s0`, `s1` and so on, each with two endpoints and a rule for app=a
/// that leads to the next one.
fn services(count: usize) -> World {
    let mut world = world(&documents(count));
    world.insert(of_app_a("client", &[]));
    world
}

/// A workload that the rules of [`services`] are about.
fn of_app_a(name: &str, more: &[(&str, &str)]) -> Object {
    let labels = [("app", "a")].iter().chain(more);
    let labels = labels.copied().collect();
    client("default", name, &labels, "")
}

fn documents(count: usize) -> String {
    let mut yaml = String::new();
    for index in 0..count {
        let next = (index + 1) % count;
        yaml.push_str(&format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{index}}}\n\
             spec: {{clusterIP: 10.96.0.{index}, ports: [{{name: tcp, port: 80}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: s{index}, labels: {{kubernetes.io/service-name: s{index}}}}}\n\
             addressType: IPv4\nports: [{{name: tcp, port: 80, protocol: TCP}}]\n\
             endpoints: [{{addresses: [10.244.{index}.1]}}, {{addresses: [10.244.{index}.2]}}]\n\
             ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s{index}}}\n\
             spec: {{hosts: [s{index}], tcp: [{{match: [{{sourceLabels: {{app: a}}}}], route: [{{destination: {{host: s{next}}}}}]}}]}}\n",
        ));
    }
    yaml
}

fn place(layout: &Layout, world: &World) -> (Layout, Image) {
    layout.place(&compile(world).plan, &LIMITS).expect("there is room")
}

fn change(world: &mut World, name: &str, with: impl FnOnce(&mut Object)) {
    let mut object =
        world.objects().find(|object| &*object.meta.name == name).expect("it is there");
    let slice = |object: &&std::sync::Arc<Object>| {
        &*object.meta.name == name && matches!(object.spec, Spec::EndpointSlice(_))
    };
    object = world.objects().find(slice).unwrap_or(object);
    let mut object = Object::clone(object);
    with(&mut object);
    world.insert(object);
}

#[test]
fn the_same_plan_again_changes_nothing() {
    let world = services(20);
    let (layout, image) = place(&Layout::default(), &world);
    let (again, same) = place(&layout, &world);
    assert!(image.diff(&same).is_empty());
    assert_eq!(layout, again);
}

#[test]
fn one_more_endpoint_touches_one_destination() {
    let mut world = services(20);
    let (layout, image) = place(&Layout::default(), &world);
    change(&mut world, "s7", |object| {
        let Spec::EndpointSlice(slice) = &mut object.spec else { panic!("it is a slice") };
        let mut more = slice.endpoints[0].clone();
        more.addresses = vec!["10.244.7.3".parse().expect("an address")];
        slice.endpoints.push(more);
    });
    let (_, after) = place(&layout, &world);
    let delta = image.diff(&after);
    assert_eq!(delta.destinations.len(), 1);
    assert_eq!(delta.backends.len(), 2 + 3, "the old range goes, the new one comes");
    assert_eq!(delta.len(), 1 + 5, "nothing else changes: {delta:?}");
}

#[test]
fn another_weight_changes_backends_in_place() {
    let mut world = services(4);
    let (layout, image) = place(&Layout::default(), &world);
    change(&mut world, "s2", |object| {
        let Spec::EndpointSlice(slice) = &mut object.spec else { panic!("it is a slice") };
        slice.endpoints[0].addresses = vec!["10.244.2.9".parse().expect("an address")];
    });
    let (_, after) = place(&layout, &world);
    let delta = image.diff(&after);
    assert_eq!(delta.len(), delta.backends.len(), "only backends: {delta:?}");
    assert!(delta.backends.iter().all(|change| change.old.is_some() && change.new.is_some()));
}

#[test]
fn a_layout_survives_being_written_down() {
    let (layout, image) = place(&Layout::default(), &services(10));
    let written = serde_json::to_string(&layout).expect("it can be written");
    let read: Layout = serde_json::from_str(&written).expect("it can be read");
    assert_eq!(read, layout);
    let (_, same) = place(&read, &services(10));
    assert!(image.diff(&same).is_empty());
}

#[test]
fn a_plan_survives_being_written_down() {
    for index in 0..30 {
        let plan = compile(&random_world(&mut Random::new(index))).plan;
        let written = serde_json::to_string(&plan).expect("it can be written");
        let read: redirector_core::plan::Plan = serde_json::from_str(&written).expect("and read");
        assert_eq!(read, plan);
    }
}

#[test]
fn what_does_not_fit_is_named_with_both_numbers() {
    let limits = redirector_common::abi::Limits { routes: 5, ..LIMITS };
    let full = Layout::default().place(&compile(&services(20)).plan, &limits).expect_err("5 < 20");
    assert_eq!((full.table, full.capacity), (Table::Routes, 5));
    assert!(full.needed > 5);
}

#[test]
fn one_more_class_is_written_into_the_tables_that_are_there() {
    // A rule that nobody here is meant by yet, and that makes a class of whoever is.
    let gray = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                metadata: {name: gray}\nspec: {hosts: [s0], tcp: [{match: [{sourceLabels: \
                {track: gray}}], route: [{destination: {host: s5}}]}]}\n";
    let mut world = world(&(documents(20) + gray));
    world.insert(of_app_a("client", &[]));
    let (layout, image) = place(&Layout::default(), &world);
    world.insert(of_app_a("another", &[("track", "gray")]));
    let (next, after) = place(&layout, &world);
    let delta = image.diff(&after);
    assert_eq!(delta.frontends, [], "each leads to the table that it led to");
    assert_eq!(delta.class_defaults, []);
    assert_eq!(delta.class_verdicts.len(), 20, "{delta:?}");
    assert!(delta.class_verdicts.iter().all(|change| change.old.is_none()));
    // And goes as it came.
    world.remove(&of_app_a("another", &[]).reference());
    let (_, without) = place(&next, &world);
    let back = after.diff(&without);
    assert_eq!((back.frontends.len(), back.class_verdicts.len()), (0, 20), "{back:?}");
}

#[test]
fn a_class_keeps_its_number_while_anybody_of_it_is_there() {
    let mut world = services(5);
    let (layout, _) = place(&Layout::default(), &world);
    // The first in order, as the one that stands for a class is.
    world.insert(of_app_a("a", &[]));
    let (with, image) = place(&layout, &world);
    world.remove(&of_app_a("a", &[]).reference());
    let (_, after) = place(&with, &world);
    let delta = image.diff(&after);
    assert_eq!(delta.len(), delta.class_of.len(), "{delta:?}");
    assert_eq!(delta.class_of.len(), 1, "its own number goes: {delta:?}");
}

#[test]
fn numbers_that_are_kept_say_to_every_workload_what_fresh_ones_do() {
    let mut layout = Layout::default();
    let (mut asked, mut in_place) = (0, 0);
    let mut before = Image::default();
    for step in 0..120_u64 {
        let mut world = random_world(&mut Random::new(7_000 + step / 6));
        // Workloads come and go, and now and then something else.
        let all: Vec<_> = world.objects().map(|object| object.reference()).collect();
        for (index, reference) in all.iter().enumerate() {
            let often = if reference.kind == Kind::WorkloadEntry { 3 } else { 11 };
            if (index as u64 * 7 + step).is_multiple_of(often) {
                world.remove(reference);
            }
        }
        let plan = compile(&world).plan;
        let (next, image) = layout.place(&plan, &LIMITS).expect("there is room");
        let (fresh, other) = Layout::default().place(&plan, &LIMITS).expect("there is room");
        let classes =
            next.classes_of(&plan).into_values().zip(fresh.classes_of(&plan).into_values());
        for (kept, fresh) in classes {
            for (ip, port) in dials().into_iter().flat_map(|ip| PORTS.map(|port| (ip, port))) {
                let to = SocketAddr::new(ip, port);
                let (kept, fresh) = (shares(&image, kept, to), shares(&other, fresh, to));
                asked += u64::from(!kept.passed);
                assert!(kept.near(&fresh), "step {step}: to {to}: {kept:?}, fresh {fresh:?}");
            }
        }
        for (id, number) in next.identities() {
            let class = image.class_of.get(&number).copied().unwrap_or(0);
            let wanted = plan.sources[id].class;
            assert_eq!(class, next.classes_of(&plan)[&wanted], "step {step}: {id:?}");
        }
        let numbers: BTreeSet<u32> = next.classes_of(&plan).into_values().collect();
        assert_eq!(numbers.len(), plan.classes.len(), "step {step}: two classes share a number");
        let changed = before.diff(&image);
        in_place += changed.class_verdicts.iter().filter(|c| c.old.is_none()).count();
        (before, layout) = (image, next);
    }
    assert!(asked > 1000 && in_place > 20, "{asked} {in_place}");
}

/// The entries of arrays that an Image uses: routes and destinations, then legs
/// and backends.
fn in_use(image: &Image) -> [BTreeSet<u32>; 2] {
    let legs = image.routes.values().flat_map(|route| route.first..route.first + route.count);
    let backends = image.destinations.values().flat_map(|one| one.first..one.first + one.count);
    [legs.collect(), backends.collect()]
}

#[test]
fn through_a_life_of_changes_every_image_is_that_of_its_plan_and_ranges_rest_for_a_step() {
    let mut layout = Layout::default();
    let mut before: Option<Image> = None;
    for step in 0..60_u64 {
        // Worlds that share much: the same seed for three steps, a part removed.
        let mut world = random_world(&mut Random::new(step / 3));
        let gone: Vec<_> = world.objects().map(|object| object.reference()).collect();
        for (index, reference) in gone.iter().enumerate() {
            if (index as u64 + step).is_multiple_of(5) {
                world.remove(reference);
            }
        }
        let plan = compile(&world).plan;
        let (next, image) = layout.place(&plan, &LIMITS).expect("there is room");
        let (_, fresh) = Layout::default().place(&plan, &LIMITS).expect("there is room");
        assert_eq!(image.frontends.len(), fresh.frontends.len());
        assert_eq!(image.prefixes.len(), fresh.prefixes.len());
        let ranges: u32 = image.routes.values().map(|route| route.count).sum();
        assert_eq!(in_use(&image)[0].len() as u32, ranges, "no two routes share a leg");
        let ranges: u32 = image.destinations.values().map(|one| one.count).sum();
        assert_eq!(in_use(&image)[1].len() as u32, ranges, "no two destinations share a backend");
        if let Some(before) = &before {
            // A destination that came or moved lies where nothing lay before.
            let occupied = &in_use(before)[1];
            for (number, destination) in &image.destinations {
                let old = before.destinations.get(number);
                let moved = old.is_none_or(|old| {
                    (old.first, old.count) != (destination.first, destination.count)
                });
                if moved {
                    let mut range = destination.first..destination.first + destination.count;
                    assert!(range.all(|index| !occupied.contains(&index)), "step {step}");
                }
            }
        }
        before = Some(image);
        layout = next;
    }
}

#[test]
fn the_order_of_documents_does_not_matter() {
    for index in 0..50 {
        let world = random_world(&mut Random::new(1000 + index));
        let mut objects: Vec<_> = world.objects().cloned().collect();
        objects.reverse();
        let mut other = World::new(world.settings.clone());
        resolve(&mut other);
        for object in objects {
            other.insert(object);
        }
        assert_eq!(compile(&world), compile(&other));
    }
}
