//! Support for the tests: guards that clean up, clients, servers.

pub mod agent;
pub mod apiserver;
pub mod cgroup;
pub mod chart;
pub mod child;
pub mod documents;
pub mod established;
pub mod forbid;
pub mod gate;
pub mod image;
pub mod kernel;
pub mod load;
pub mod machine;
pub mod mount;
pub mod netns;
pub mod node;
pub mod page;
pub mod program;
#[path = "../../redirector-user/core/tests/support/random.rs"]
pub mod random;
pub mod records;
pub mod redirector;
pub mod scene;
pub mod server;
pub mod socket;
pub mod terminal;
