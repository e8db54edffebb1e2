//! Bytes to what daemon and relay say to each other: see there.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| redirector::fuzz::messages(bytes));
