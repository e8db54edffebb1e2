//! The stages that a change goes through, but for the disk and the kernel.

use std::sync::Arc;

use redirector_common::abi::Limits;
use redirector_core::compile::Stages;
use redirector_core::documents::read;
use redirector_core::layout::{Layout, Newcomers, Placement};
use redirector_core::plan;
use redirector_core::registry::Registry;
use redirector_core::store::Store;
use redirector_core::work::Work;
use redirector_core::world::{Changes, ServiceAddresses, Settings, World};

/// Tables that everything fits into.
const LIMITS: Limits = Limits {
    class_tables: 1 << 20,
    identities: 1 << 16,
    routes: 1 << 21,
    legs: 1 << 22,
    destinations: 1 << 20,
    backends: 1 << 22,
    connections: 1 << 16,
    overflow: 0,
    kernel_socket: 0,
    btf: 0,
    socket_error: 0,
    md5_keys: 0,
    ao_keys: 0,
    stripes: 1,
};

/// What each of them remembers.
pub struct All {
    pub store: Store,
    pub world: World,
    pub registry: Registry,
    pub stages: Stages,
    pub placement: Placement,
}

impl All {
    /// Of nothing yet.
    pub fn new() -> Self {
        let settings = Settings { services: ServiceAddresses::Own, ..Settings::default() };
        let world = World::new(settings);
        let registry = Registry::new(&world);
        let stages = Stages::of(&world, &registry);
        let mut all =
            Self { store: Store::default(), stages, registry, world, placement: nothing() };
        let begin = plan::Plan::default().difference(all.stages.plan());
        all.place(&begin);
        all
    }

    /// Reads a file.
    pub fn put(&mut self, name: &str, text: &str) {
        let name: Arc<str> = name.into();
        let reading = read(Some(name.clone()), text);
        self.store.put(&name, reading.into());
    }

    /// What was read, in the World and its registry.
    pub fn look_up(&mut self) -> (Changes, redirector_core::registry::Changed) {
        let changes = Changes { objects: self.store.changes(), ..Changes::default() };
        self.world.apply(&changes);
        let changed = self.registry.update(&self.world, &changes);
        self.store.accept();
        (changes, changed)
    }

    /// Places what differs.
    pub fn place(&mut self, delta: &plan::Delta) -> Work {
        let placed = self.placement.place(delta, &LIMITS, &Newcomers::default());
        let (_, work) = placed.expect("there is room");
        self.placement.settle();
        work
    }

    /// All of a change.
    pub fn change(&mut self, name: &str, text: &str) -> Work {
        self.put(name, text);
        let (changes, changed) = self.look_up();
        let (delta, mut work) = self.stages.update(&self.world, &self.registry, &changes, &changed);
        work += self.place(&delta);
        work
    }
}

fn nothing() -> Placement {
    Placement::of(Layout::default())
}
