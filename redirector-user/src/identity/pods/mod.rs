//! The cgroups of the pods on this node: which directory is which pod's
//! ([`layout`], pure), where the trees are ([`trees`]), and what comes and goes
//! in them ([`PodCgroups`]).
//!
//! A pod is known by the directory that the kubelet makes for it, before the
//! pod has a process; no network namespace is entered for this, and nothing that
//! a workload can choose is looked at.

mod follow;
pub mod layout;
mod tracker;
mod trees;

pub use follow::follow;
pub use layout::PodUid;
pub use tracker::{PodCgroup, PodCgroups, PodEvent};
pub use trees::trees;
