//! The datapath: the programs and tables in the kernel, as the daemon and the
//! read-only commands handle them.
//!
//! A daemon calls [`Datapath::take_over`], fills the tables with
//! [`apply`](Datapath::apply) and [`insert_source`](Datapath::insert_source),
//! and then [`attach`](Datapath::attach)es: no connection ever meets half a
//! configuration. Everything stays in force when the process ends.
//! Read-only commands use [`Datapath::open_read_only`].
#![expect(
    unused_variables,
    clippy::unused_self,
    clippy::missing_errors_doc,
    reason = "signatures first"
)]

use std::path::Path;

use redirector_common::abi::Side;
use redirector_core::image::{Delta, Image};

mod error;
mod types;

pub use error::Error;
pub use types::*;

/// The tables and programs in the kernel.
#[derive(Debug)]
pub struct Datapath {}

impl Datapath {
    /// Takes charge: locks the pin directory, loads the programs and makes the
    /// tables, or takes over those that are there. Nothing is attached by it,
    /// and what is attached stays so.
    pub fn take_over(options: &Options) -> Result<Self, Error> {
        Err(unbuilt())
    }
    /// Opens what is loaded, for reading.
    pub fn open_read_only(pins: &Path) -> Result<Self, Error> {
        Err(unbuilt())
    }
    /// Attaches to the cgroups of the options, or moves existing links over to
    /// these programs and tables; detaches from cgroups no longer named.
    pub fn attach(&mut self) -> Result<(), Error> {
        Err(unbuilt())
    }
    /// Puts a change in force: at one instant for all connections, on both
    /// sides when it returns. Nothing is changed when it does not fit. The
    /// generation must be neither 0 nor `u64::MAX`.
    pub fn apply(&mut self, delta: &Delta, generation: u64) -> Result<(), Error> {
        Err(unbuilt())
    }
    /// What is in force.
    pub fn active(&self) -> Active {
        unreachable!()
    }
    /// Everything that a side holds.
    pub fn dump(&self, side: Side) -> Result<Image, Error> {
        Err(unbuilt())
    }
    /// Everything that is in force, in one consistent piece (re-read when it
    /// changed meanwhile).
    pub fn dump_active(&self) -> Result<(Active, Image), Error> {
        Err(unbuilt())
    }
    /// Makes processes known as a workload. Takes effect at once.
    pub fn insert_source(&mut self, key: SourceKey, identity: u32) -> Result<(), Error> {
        Err(unbuilt())
    }
    /// Forgets one; fine when it is not there.
    pub fn remove_source(&mut self, key: SourceKey) -> Result<(), Error> {
        Err(unbuilt())
    }
    /// All sources: key and identity number.
    pub fn sources(&self) -> Result<Vec<(SourceKey, u32)>, Error> {
        Err(unbuilt())
    }
    /// The cgroup whose connects are never redirected.
    pub fn set_daemon_cgroup(&mut self, id: Option<u64>) -> Result<(), Error> {
        Err(unbuilt())
    }
    /// Switches accounting (the sockops program) on or off.
    pub fn set_accounting(&mut self, on: bool) -> Result<(), Error> {
        Err(unbuilt())
    }
    /// What was counted.
    pub fn counters(&self) -> Result<Counters, Error> {
        Err(unbuilt())
    }
    /// What is remembered.
    pub fn connections(&self) -> Result<Vec<Remembered>, Error> {
        Err(unbuilt())
    }
    /// All programs on our hooks of our cgroups, in the order they run.
    pub fn attachments(&self) -> Result<Vec<Attached>, Error> {
        Err(unbuilt())
    }
    /// Proves with real connects, from a probe cgroup below each attached one,
    /// that the programs are effective.
    pub fn self_test(&self) -> Result<Vec<SelfTest>, Error> {
        Err(unbuilt())
    }
    /// The sizes of the tables in force.
    pub fn sizes(&self) -> Sizes {
        Sizes::default()
    }
    /// Detaches and removes everything below the pin directory.
    pub fn unload(pins: &Path) -> Result<(), Error> {
        Err(unbuilt())
    }
}

/// The cookie of the network namespace that a file holds.
pub fn netns_cookie(path: &Path) -> Result<u64, Error> {
    Err(unbuilt())
}

fn unbuilt() -> Error {
    Error::NoPrograms("the datapath is not built yet".into())
}

pub mod cgroup {
    //! Cgroups by path.
    use std::path::{Path, PathBuf};

    use super::Error;

    /// A cgroup of the cgroup2 hierarchy.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Cgroup {
        /// Where it is.
        pub path: PathBuf,
        /// Its id: the inode number of its directory.
        pub id: u64,
        /// How many levels below the root of the hierarchy.
        pub level: u32,
    }

    impl Cgroup {
        /// Looks it up; refuses what is not in a cgroup2 hierarchy.
        pub fn open(path: &Path) -> Result<Self, Error> {
            Err(super::unbuilt())
        }
    }
}
