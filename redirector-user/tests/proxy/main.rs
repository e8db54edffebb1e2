//! The gateway proxy over real sockets on loopback.

mod access;
mod announced;
mod clients;
mod connect;
mod cookbook;
mod documents;
mod kit;
mod near;
mod peers;
mod process;
mod relay;
mod reload;
mod scale;
#[path = "../../core/tests/support/short.rs"]
mod short;
mod soak;
mod tls;
