//! The functional core: `documents -> World -> Plan -> Image -> Delta`.
//!
//! Everything here is a function of its arguments: no clock, no IO, no kernel,
//! no async runtime. `cargo xtask test lint` checks that it stays so. The same code
//! serves files and the Kubernetes API, the daemon, `check`, `explain` and the
//! fuzzers.
//!
//! * [`yaml`]: text to a located tree.
//! * [`documents`]: the documents of a text to objects, bad ones told apart.
//! * [`decode`]: a tree to an object, with every complaint.
//! * [`validate`]: what Istio's admission asks of single values.
//! * [`analysis`]: what is wrong between objects that are each admitted.
//! * [`check`]: all of it, over files, as a report.
//! * [`diag`]: what is wrong with a document, and where.
//! * [`model`]: the objects, typed: what the documents say.
//! * [`store`]: the last good version of every object, and what is refused.
//! * [`stored`]: reading objects that an earlier daemon wrote down.
//! * [`world`]: the objects in force, and the settings.
//! * [`budget`]: how much one object, and one namespace, may ask for.
//! * [`names`]: completing and matching names of hosts and gateways.
//! * [`registry`]: services, endpoints, DestinationRules and workloads, resolved.
//! * [`client`]: the one that connects, as rules see it.
//! * [`rules`]: the conditions and the order of rules, and the one walk.
//! * [`in_force`]: what is said of a configuration in force.
//! * [`compile`]: from the World to the Plan.
//! * [`drain`]: endpoints that go away.
//! * [`explain`]: why a connection goes where it goes.
//! * [`expect`]: routing tests: what is expected of connections, and what they get.
//! * [`plan`]: what the kernel is to hold, and what the proxy serves, with names
//!   instead of numbers.
//! * [`proxy_header`]: the PROXY protocol's header.
//! * [`alias`]: draws among weighted things, in whole numbers.
//! * [`image`]: the same, number by number: one side of the tables; the Delta
//!   between two; deciding over one.
//! * [`difference`]: what makes a map another, to be written down.
//! * [`layout`]: from the Plan to the Image, and back from numbers to names.
//! * [`intern`]: values that many hold, once.
//! * [`work`]: how much was made anew for a change.

pub mod alias;
pub mod analysis;
pub mod budget;
pub mod check;
pub mod client;
pub mod compile;
pub mod decode;
pub mod diag;
pub mod difference;
pub mod documents;
pub mod drain;
pub mod expect;
pub mod explain;
pub mod image;
pub mod in_force;
pub mod intern;
mod join;
pub mod layout;
pub mod model;
pub mod names;
mod pairs;
pub mod plan;
pub mod proxy_header;
pub mod registry;
pub mod rendezvous;
pub mod rules;
pub mod store;
pub mod stored;
#[cfg(test)]
mod testing;
pub mod validate;
pub mod work;
pub mod world;
pub mod yaml;
