//! Bytes to a schedule for a connection that is relayed: see there.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| redirector::fuzz::relay(bytes));
