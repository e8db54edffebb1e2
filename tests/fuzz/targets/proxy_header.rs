//! Bytes to a header of the PROXY protocol: whatever comes, and in whatever portions, it
//! is settled within the limit, and what was read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redirector_core::proxy_header::{LIMIT, Version, read, write};

fuzz_target!(|bytes: &[u8]| {
    let settled = read(bytes);
    assert!(bytes.len() < LIMIT || settled != Ok(None));
    for end in 0..bytes.len().min(LIMIT) {
        match read(&bytes[..end]) {
            Ok(None) => {}
            before => assert_eq!(before, settled, "what is settled stays so"),
        }
    }
    let Ok(Some(header)) = settled else { return };
    assert!(header.length <= bytes.len());
    let Some((client, dialled)) = header.between else { return };
    let again = write(Version::V2, client, dialled, &header.fields);
    let again = read(&again).expect("a header").expect("all of it");
    assert_eq!((again.between, again.fields), (header.between, header.fields));
});
