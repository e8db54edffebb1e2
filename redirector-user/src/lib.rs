//! The shell around the functional core: everything that touches files, the
//! kernel, the clock or a terminal.
//!
//! * [`boot`]: which boot of the machine this is.
//! * [`cli`]: the command line, a function of arguments, environment and
//!   writers.
//! * [`daemon`]: the control loop.
//! * [`datapath`]: the programs and tables in the kernel.
//! * [`explain`]: why a connection goes where it goes, from the kernel's tables.
//! * [`failure`]: why something did not happen, and the exit code for it.
//! * [`following`]: threads that follow something for as long as it is wanted.
//! * [`identity`]: which processes are which workload.
//! * [`kubernetes`]: the API server as the source of the configuration.
//! * [`output`]: tables and diagnostics for people.
//! * [`proxy`]: the relay of the gateways.
//! * [`readers`]: the group that may look.
//! * [`scheduling`]: which thread comes before which.
//! * [`source`]: where the configuration comes from.
//! * [`state`]: the state directory.

mod again;
pub mod boot;
pub mod cli;
pub mod daemon;
pub mod datapath;
pub mod explain;
pub mod failure;
pub mod following;
pub mod identity;
pub mod inotify;
pub mod kubernetes;
mod leftovers;
pub mod mounts;
pub mod output;
pub mod proxy;
pub mod readers;
mod rights;
pub mod scheduling;
mod shell;
pub mod source;
pub mod state;
