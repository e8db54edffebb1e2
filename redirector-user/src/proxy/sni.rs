//! The server name of a TLS ClientHello, read without taking a byte.
//!
//! The bytes are looked at where they lie, in the socket's receive queue, so
//! that they can be relayed as they came. How many are looked at is bounded;
//! the caller bounds the time.

use tls_parser::{
    TlsExtension, TlsRecordType, parse_tls_client_hello_extensions,
    parse_tls_handshake_client_hello, parse_tls_record_header,
};

/// A ClientHello beyond this many bytes is not looked at any further. Real ones
/// have up to some two thousand.
pub(super) const LIMIT: usize = 17 << 10;

/// Longest server name, in bytes, as the DNS has it.
const LONGEST: usize = 255;

/// What the first bytes of a connection are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Hello {
    /// The beginning of what may become a ClientHello.
    Partial,
    /// A ClientHello, with its server name in lower case.
    Tls(Option<String>),
    /// Anything else.
    Other,
}

/// Looks at the first bytes of a connection.
pub(super) fn inspect(bytes: &[u8]) -> Hello {
    const CLIENT_HELLO: u8 = 1;
    const HEADER: usize = 5;
    const RECORD: usize = 1 << 14;
    // A handshake message may be spread over several records.
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let length = match parse_tls_record_header(rest) {
            Ok((after, header)) => {
                let length = usize::from(header.len);
                let is_handshake = header.record_type == TlsRecordType::Handshake;
                if !is_handshake || header.version.0 >> 8 != 3 || !(1..=RECORD).contains(&length) {
                    return Hello::Other;
                }
                message.extend_from_slice(&after[..after.len().min(length)]);
                length
            }
            Err(_) if rest.first().is_some_and(|&kind| kind != TlsRecordType::Handshake.0) => {
                return Hello::Other;
            }
            Err(_) => 0,
        };
        if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Hello::Other;
        }
        if let [_, a, b, c, body @ ..] = &message[..] {
            let expected = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if expected > LIMIT {
                return Hello::Other;
            }
            if let Some(body) = body.get(..expected) {
                return match parse_tls_handshake_client_hello(body) {
                    Ok((_, hello)) => Hello::Tls(hello.ext.and_then(server_name)),
                    Err(_) => Hello::Other,
                };
            }
        }
        match rest.get(HEADER + length..).filter(|next| length > 0 && !next.is_empty()) {
            Some(next) => rest = next,
            None if bytes.len() >= LIMIT => return Hello::Other,
            None => return Hello::Partial,
        }
    }
}

/// The host name among the extensions of a ClientHello. What cannot be one is none: it would
/// only be written to logs.
fn server_name(extensions: &[u8]) -> Option<String> {
    const HOST_NAME: u8 = 0;
    let (_, extensions) = parse_tls_client_hello_extensions(extensions).ok()?;
    let names = extensions.into_iter().find_map(|extension| match extension {
        TlsExtension::SNI(names) => Some(names),
        _ => None,
    })?;
    let (_, name) = names.into_iter().find(|(kind, _)| kind.0 == HOST_NAME)?;
    if name.len() > LONGEST || !name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    Some(name.trim_end_matches('.').to_owned()).filter(|name| !name.is_empty())
}

/// A ClientHello for `name`, in records of at most `record` bytes.
#[cfg(any(test, feature = "fuzz"))]
pub(super) fn client_hello(name: &str, record: usize) -> Vec<u8> {
    let host = [&[0][..], &(name.len() as u16).to_be_bytes(), name.as_bytes()].concat();
    let list = [&(host.len() as u16).to_be_bytes()[..], &host].concat();
    let sni = [&[0, 0][..], &(list.len() as u16).to_be_bytes(), &list].concat();
    let grease = [0x3a, 0x3a, 0, 1, 0];
    let extensions = [&grease[..], &sni].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &[0, 2, 0x13, 0x01],
        &[1, 0],
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    message
        .chunks(record)
        .flat_map(|part| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found_in_one_record_or_in_many() {
        for record in [1 << 14, 100, 7, 1] {
            let hello = client_hello("Shop.Example.COM", record);
            assert_eq!(inspect(&hello), Hello::Tls(Some("shop.example.com".into())), "{record}");
        }
    }

    #[test]
    fn what_cannot_be_a_name_of_a_host_is_none() {
        let longest = "a".repeat(LONGEST);
        assert_eq!(inspect(&client_hello(&longest, 1 << 14)), Hello::Tls(Some(longest.clone())));
        for name in [&*(longest + "a"), "a b", "a\n", "a\u{1b}[2J", "a\u{85}", "a\u{2028}", "a\x7f"]
        {
            assert_eq!(inspect(&client_hello(name, 1 << 14)), Hello::Tls(None), "{name:?}");
        }
    }

    #[test]
    fn every_beginning_is_partial() {
        for record in [1 << 14, 3] {
            let hello = client_hello("a.example", record);
            for end in 0..hello.len() {
                assert_eq!(inspect(&hello[..end]), Hello::Partial, "{end} of {}", hello.len());
            }
        }
    }

    #[test]
    fn anything_else_is_told_apart_at_once_and_never_panics() {
        assert_eq!(inspect(b"GET / HTTP/1.1\r\n"), Hello::Other);
        assert_eq!(inspect(&[22, 3, 1, 0, 0]), Hello::Other, "an empty record");
        assert_eq!(inspect(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), Hello::Other, "a ServerHello");
        assert_eq!(inspect(&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff]), Hello::Other, "too long");
        let mut random = fastrand::Rng::with_seed(3);
        let whole = client_hello("a.example", 50);
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(0..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(0..=bytes.len()));
            inspect(&bytes);
            let garbage: Vec<u8> = (0..random.usize(0..200)).map(|_| random.u8(..)).collect();
            inspect(&garbage);
        }
    }
}
