//! The gateway proxy over real sockets on loopback.

mod clients;
mod connect;
mod documents;
mod kit;
mod near;
mod process;
mod relay;
mod reload;
mod scale;
mod soak;
mod tls;
