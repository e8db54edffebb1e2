//! Bytes to a journal of the state directory: see there.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| redirector::fuzz::journal(bytes));
