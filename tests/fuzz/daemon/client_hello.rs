//! Bytes to the name in a ClientHello: see there.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| redirector::fuzz::client_hello(bytes));
