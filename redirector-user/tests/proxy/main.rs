//! The gateway proxy over real sockets on loopback.

mod connect;
mod kit;
mod relay;
mod reload;
mod scale;
mod tls;
