//! Bytes to tables: whatever documents say, they compile the same in any
//! order, the tables keep what every reader of them relies on, and what they decide
//! is what the reference says and `explain` tells.
#![no_main]

#[path = "../../../redirector-user/core/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use redirector_common::abi::{Limits, Side, VerdictKind};
use redirector_common::addr::Addr;
use redirector_common::decide::{Caller, Decision, decide};
use redirector_core::compile::compile;
use redirector_core::documents;
use redirector_core::image::Image;
use redirector_core::layout::Layout;
use redirector_core::world::{Settings, World};
use support::judged::Judged;

/// Of frontends, callers and gateways, for what is slow.
const MOST: usize = 32;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let reading = documents::read(None, text);
    let objects: Vec<_> = reading.objects.into_iter().filter_map(|read| read.object).collect();
    let mut world = World::new(Settings::default());
    let mut reversed = World::new(Settings::default());
    for object in &objects {
        world.insert(object.clone());
    }
    // The last of several versions counts: insert each object once.
    for object in objects.iter().rev() {
        if reversed.get(&object.reference()).is_none() {
            reversed.insert(object.clone());
        }
    }
    let compiled = compile(&world);
    assert_eq!(compiled, compile(&reversed), "the order of documents must not matter");

    let limits = Limits {
        class_tables: 1 << 12,
        identities: 1 << 12,
        routes: 1 << 12,
        legs: 1 << 16,
        destinations: 1 << 12,
        backends: 1 << 17,
        connections: 1,
        overflow: 1,
        kernel_socket: 0,
        btf: 0,
        socket_error: 0,
        md5_keys: 0,
        ao_keys: 0,
        stripes: 1,
    };
    let Ok((layout, image)) = Layout::default().place(&compiled.plan, &limits) else { return };
    let again = layout.place(&compiled.plan, &limits);
    let (_, same) = again.expect("what is placed fits where it is");
    assert!(image.diff(&same).is_empty(), "an unchanged Plan must change nothing");
    every_connection_ends_well(&image);
    Judged::new("the input", &world).compare(MOST);
});

/// Dials every exact frontend and the first address of every prefix as every
/// class, with draws from both ends and between.
fn every_connection_ends_well(image: &Image) {
    let side = Side::of_epoch(0);
    let classes = image.class_of.values().copied().max().unwrap_or(0);
    let exact = image.frontends.keys().copied();
    let prefixes = image.prefixes.keys().map(|prefix| (prefix.addr, prefix.port));
    for (addr, port) in exact.chain(prefixes) {
        for class in 0..=classes {
            for draw in [0, u32::MAX / 3, u32::MAX] {
                let decision = decide(image, side, &addr, port.to_be(), &mut Fixed { class, draw });
                match decision {
                    Decision::Miss => panic!("{addr}:{port} is a frontend and was not found"),
                    Decision::Route(_, endpoint) => same_family(addr, endpoint.addr),
                    Decision::Pass
                    | Decision::Refuse
                    | Decision::RefuseLeg(_)
                    | Decision::Limited(_) => {}
                }
            }
        }
    }
    for verdict in image.class_verdicts.values().chain(image.class_defaults.values()) {
        assert!(
            !matches!(verdict.kind(), VerdictKind::Classes(_)),
            "a class table must not lead to another"
        );
    }
}

fn same_family(dialled: Addr, endpoint: Addr) {
    assert_eq!(dialled.is_v4(), endpoint.is_v4(), "{dialled} must not go to {endpoint}");
}

/// A caller of one class whose draws are all the same.
struct Fixed {
    class: u32,
    draw: u32,
}

impl Caller for Fixed {
    fn class(&mut self, _side: Side) -> u32 {
        self.class
    }

    fn draw(&mut self) -> u32 {
        self.draw
    }
}
