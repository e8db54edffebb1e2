//! Bytes to lists and watches of the API server: see there.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| redirector::fuzz::objects(bytes));
