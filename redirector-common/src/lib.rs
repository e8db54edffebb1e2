//! What the BPF programs and user space share.
//!
//! * [`abi`]: the keys and values of every map, as `repr(C)` types whose size
//!   and field offsets are asserted at compile time, and the layout version.
//! * [`addr`]: one form for IPv4 and IPv6 addresses.
//! * [`decide`]: the decision itself, written once over the [`decide::Tables`]
//!   trait and compiled both into the BPF programs and into user space.
//! * [`hash`]: a hash that is the same in every version.
//!
//! No IO, no dependency on either side, and no allocation but where user space sums up
//! ([`decide::shares`]).
#![cfg_attr(not(test), no_std)]

#[cfg(not(target_arch = "bpf"))]
extern crate alloc;

#[cfg(target_endian = "big")]
compile_error!(
    "redirector supports little-endian targets only: table keys keep network byte order in \
     native-endian words, and no big-endian kernel was ever tested"
);

pub mod abi;
pub mod addr;
pub mod decide;
pub mod hash;
