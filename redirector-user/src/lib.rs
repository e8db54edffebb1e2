//! The shell around the functional core: everything that touches files, the
//! kernel, the clock or a terminal.
//!
//! * [`boot`]: which boot of the machine this is.
//! * [`cli`]: the command line, a function of arguments, environment and
//!   writers.
//! * [`confined`]: what a process may do.
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
pub mod confined;
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

/// What fuzzers try, each with whatever bytes.
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz {
    pub use crate::daemon::control::fuzz::requests;
    pub use crate::kubernetes::fuzz::objects;
    pub use crate::proxy::fuzz::{client_hello, messages, relay};
    pub use crate::state::fuzz::journal;

    #[cfg(test)]
    mod tests {
        use super::*;

        /// Some inputs of any bytes, which fuzzers make better: that each target can be run.
        fn some(count: u64, target: fn(&[u8])) {
            target(&[]);
            for seed in 0..count {
                let mut random = fastrand::Rng::with_seed(seed);
                let bytes: Vec<u8> = (0..random.usize(1..400)).map(|_| random.u8(..)).collect();
                target(&bytes);
            }
        }

        #[test]
        fn clients_hellos() {
            some(2_000, client_hello);
        }

        #[test]
        fn messages_of_the_relay() {
            some(500, messages);
        }

        #[test]
        fn schedules_of_the_relay() {
            some(40, relay);
        }

        #[test]
        fn requests_at_the_control_socket() {
            some(500, requests);
        }

        #[test]
        fn objects_of_the_api_server() {
            some(500, objects);
            // Maps that came as lists were taken for maps.
            for text in ["[{}]", r#"[{"name":"a"}]"#, r#"{"metadata":["n","a","u","1",7,[]]}"#] {
                for resource in 0..22 {
                    objects(&[&[resource], text.as_bytes()].concat());
                    let line = format!("{{\"type\":\"ADDED\",\"object\":{text}}}");
                    objects(&[&[resource], line.as_bytes()].concat());
                }
            }
        }

        #[test]
        fn journals() {
            some(200, journal);
        }
    }
}
