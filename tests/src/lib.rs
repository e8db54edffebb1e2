//! Support for the tests: guards that clean up, clients, servers.

pub mod apiserver;
