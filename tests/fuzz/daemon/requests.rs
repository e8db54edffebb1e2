//! Bytes to what is asked at the control socket: see there.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| redirector::fuzz::requests(bytes));
