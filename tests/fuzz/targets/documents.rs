//! Bytes to objects: whatever the text, reading it ends, without a panic, and
//! says the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redirector_core::documents;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let reading = documents::read(Some("fuzz.yaml".into()), text);
    assert_eq!(reading, documents::read(Some("fuzz.yaml".into()), text));
});
