//! Identity: which processes are which workload.
//!
//! The configuration says how the processes of a workload are found (a cgroup
//! path, a network namespace's file); the tracker resolves that to what the
//! kernel compares (a cgroup id, a namespace cookie), follows it as it appears,
//! vanishes and comes back, and keeps the kernel's table of sources right.
//!
//! * [`resolve`]: from selector to key.
//! * [`Tracker`]: what is wanted, what is there, what is missing.
//! * [`Direct`]: the short way of a pod into the table.
//! * [`View`]: what the tables say of pods that they do not know yet.
//! * [`Locals`]: which workload a socket of this machine is.
//! * [`Arrivals`]: how long pods take to be known.
//! * [`watch`]: says when to look again.
//! * [`pods`]: the cgroups of pods, in every layout that kubelets make.

mod arrivals;
mod direct;
mod locals;
mod newcomers;
pub mod pods;
pub mod resolve;
mod tracker;
pub mod watch;

pub use arrivals::{Arrivals, Histogram};
pub use direct::{Direct, Table};
pub use locals::{Local, Locals};
pub use newcomers::View;
pub use resolve::{Missing, OF_ANOTHER, Resolver};
pub use tracker::{Gap, Kernel, Tracker, Wanted};
