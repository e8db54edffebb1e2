//! The header of the PROXY protocol, by which a load balancer says who its client is,
//! before anything that the client says: as the specification of HAProxy has it, versions
//! 1 (a line of text) and 2 (binary).
//!
//! Reading takes bytes that may come from anybody: it looks at no more than [`LIMIT`] of
//! them, whatever lengths they claim, and keeps nothing between two looks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Longest header that is read, in bytes, as nginx has it. Those of load balancers have
/// up to some two hundred.
pub const LIMIT: usize = 4096;

/// What a header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a header of version 1 begins with.
const WORD: &[u8] = b"PROXY ";

/// Longest header of version 1, in bytes, with the end of its line.
const LINE: usize = 107;

/// What is before the addresses of version 2, in bytes: signature, command, family, and
/// the length of what follows.
const HEAD: usize = 16;

/// Further fields of version 2: a checksum over the header, and filling. Neither holds
/// for another header.
const CHECKSUM: u8 = 3;
const FILLING: u8 = 4;

/// Bytes before the value of a further field: its type, and the length of the value.
const FIELD: usize = 3;

/// The versions that there are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary, and with room for further fields.
    V2,
}

/// What a header says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// Its own length, in bytes: what follows is the client's.
    pub length: usize,
    /// The client, and the address that it has dialled. `None`: those of the connection
    /// itself, as for a health check of the load balancer's own.
    pub between: Option<(SocketAddr, SocketAddr)>,
    /// Further fields of version 2 as they came, without those that concern this one
    /// header only. Empty where there are no addresses.
    pub fields: Vec<u8>,
}

/// Why bytes are no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// They begin otherwise.
    Absent,
    /// They begin as one, and do not go on as one.
    Malformed(&'static str),
    /// It is longer than [`LIMIT`], or, in version 1, than any can be.
    TooLong,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("it begins without a PROXY protocol header"),
            Self::Malformed(what) => write!(f, "its PROXY protocol header is wrong: {what}"),
            Self::TooLong => f.write_str("its PROXY protocol header is too long"),
        }
    }
}

/// Reads the header at the beginning of these bytes; `None` while more of it must come,
/// which is never so for [`LIMIT`] bytes.
///
/// # Errors
///
/// When whatever follows, it is none.
pub fn read(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(one, other)| one == other);
    match (begins(SIGNATURE), begins(WORD)) {
        (true, _) => read_binary(bytes),
        (false, true) => read_line(bytes),
        (false, false) => Err(Fault::Absent),
    }
}

/// The same of version 1.
fn read_line(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    let Some(end) = bytes.iter().take(LINE).position(|&byte| byte == b'\n') else {
        return if bytes.len() >= LINE { Err(Fault::TooLong) } else { Ok(None) };
    };
    let line = bytes[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(WORD));
    let line = line.ok_or(Fault::Malformed("its line does not end with CR LF"))?;
    let text = std::str::from_utf8(line).map_err(|_| Fault::Malformed("it is no text"))?;
    let words: Vec<&str> = text.split(' ').collect();
    let between = match words[..] {
        ["UNKNOWN", ..] => None,
        ["TCP4", client, dialled, from, to] => {
            let address = |text: &str| text.parse().ok().map(IpAddr::V4);
            Some(between(address, [client, dialled], [from, to])?)
        }
        ["TCP6", client, dialled, from, to] => {
            let address = |text: &str| text.parse().ok().map(IpAddr::V6);
            Some(between(address, [client, dialled], [from, to])?)
        }
        _ => {
            return Err(Fault::Malformed("it has neither UNKNOWN nor TCP4 or TCP6 and four words"));
        }
    };
    Ok(Some(Header { length: end + 1, between, fields: Vec::new() }))
}

/// Both ends, as they are written in version 1.
fn between(
    address: impl Fn(&str) -> Option<IpAddr>,
    addresses: [&str; 2],
    ports: [&str; 2],
) -> Result<(SocketAddr, SocketAddr), Fault> {
    let port = |text: &str| -> Option<u16> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let is_plain = text == "0" || !text.starts_with('0');
        text.parse().ok().filter(|_| is_number && is_plain)
    };
    let end = |at: usize| {
        let ip = address(addresses[at]).ok_or(Fault::Malformed("an address of its is none"))?;
        let port = port(ports[at]).ok_or(Fault::Malformed("a port of its is none"))?;
        Ok(SocketAddr::new(ip, port))
    };
    Ok((end(0)?, end(1)?))
}

/// The same of version 2.
fn read_binary(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    const TCP4: u8 = 0x11;
    const TCP6: u8 = 0x21;
    // A wrong byte is told as soon as it has come.
    match bytes.get(SIGNATURE.len()) {
        None | Some(&(LOCAL | PROXY)) => {}
        Some(command) if command >> 4 != 2 => return Err(Fault::Malformed("its version is not 2")),
        Some(_) => return Err(Fault::Malformed("its command is neither LOCAL nor PROXY")),
    }
    let Some(&[.., command, family, high, low]) = bytes.first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let length = HEAD + usize::from(u16::from_be_bytes([high, low]));
    if length > LIMIT {
        return Err(Fault::TooLong);
    }
    let addresses = match family {
        TCP4 => 12,
        TCP6 => 36,
        _ => 0,
    };
    if command == PROXY && length - HEAD < addresses {
        return Err(Fault::Malformed("its length leaves no room for its addresses"));
    }
    let Some(whole) = bytes.get(..length) else { return Ok(None) };
    // A health check of the load balancer's own, or what is not relayed here, and of which
    // nothing is to be believed.
    let mut header = Header { length, ..Header::default() };
    if command == LOCAL || addresses == 0 {
        return Ok(Some(header));
    }
    let (addresses, mut fields) = whole[HEAD..].split_at(addresses);
    header.between = ends(addresses);
    while let Some(&[kind, high, low]) = fields.first_chunk::<FIELD>() {
        let length = FIELD + usize::from(u16::from_be_bytes([high, low]));
        let field = fields.get(..length).ok_or(OVERRUN)?;
        match (kind, &field[FIELD..]) {
            (CHECKSUM, &[a, b, c, d]) => {
                let at = whole.len() - fields.len() + FIELD;
                if checksum(whole, at) != u32::from_be_bytes([a, b, c, d]) {
                    return Err(Fault::Malformed("its checksum is that of another"));
                }
            }
            (CHECKSUM, _) => return Err(Fault::Malformed("its checksum has not four bytes")),
            (FILLING, _) => {}
            _ => header.fields.extend_from_slice(field),
        }
        fields = &fields[length..];
    }
    if fields.is_empty() { Ok(Some(header)) } else { Err(OVERRUN) }
}

const OVERRUN: Fault = Fault::Malformed("a field of its is longer than it");

/// Both ends, as they are written in version 2: addresses, then ports, big-endian.
fn ends(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (addresses, ports) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let (client, dialled) = addresses.split_at(addresses.len() / 2);
    let ip = |bytes: &[u8]| match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    let &[a, b, c, d] = ports else { return None };
    Some((
        SocketAddr::new(ip(client)?, u16::from_be_bytes([a, b])),
        SocketAddr::new(ip(dialled)?, u16::from_be_bytes([c, d])),
    ))
}

/// CRC32c of a header, with zeros where it stands itself.
fn checksum(header: &[u8], at: usize) -> u32 {
    /// Castagnoli's polynomial, the lowest bit first.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let stands = at..at + 4;
    !header.iter().enumerate().fold(u32::MAX, |sum, (place, &byte)| {
        let byte = if stands.contains(&place) { 0 } else { byte };
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            if sum & 1 == 0 { sum >> 1 } else { (sum >> 1) ^ POLYNOMIAL }
        })
    })
}

/// A header that says who connects and which address was dialled. If they are of two
/// families, the one of IPv4 is written in its mapped form. `fields` are those of
/// [`Header::fields`]: version 1 has no room for them.
pub fn write(version: Version, client: SocketAddr, dialled: SocketAddr, fields: &[u8]) -> Vec<u8> {
    let v6 = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let ports = [client.port(), dialled.port()];
    match (version, client.ip(), dialled.ip()) {
        (Version::V1, IpAddr::V4(from), IpAddr::V4(to)) => line("TCP4", from, to, ports),
        (Version::V1, ..) => line("TCP6", v6(client), v6(dialled), ports),
        (Version::V2, IpAddr::V4(from), IpAddr::V4(to)) => {
            binary(0x11, &[from, to].map(|ip: Ipv4Addr| ip.octets()).concat(), ports, fields)
        }
        (Version::V2, ..) => {
            let ends = [v6(client), v6(dialled)].map(|ip: Ipv6Addr| ip.octets());
            binary(0x21, &ends.concat(), ports, fields)
        }
    }
}

fn line(family: &str, from: impl fmt::Display, to: impl fmt::Display, ports: [u16; 2]) -> Vec<u8> {
    format!("PROXY {family} {from} {to} {} {}\r\n", ports[0], ports[1]).into_bytes()
}

fn binary(family: u8, addresses: &[u8], ports: [u16; 2], fields: &[u8]) -> Vec<u8> {
    let rest = addresses.len() + 4;
    // Those of a header that was read always fit; of others none is cut.
    let length = u16::try_from(rest + fields.len());
    let fields = if length.is_ok() { fields } else { &[] };
    let mut header = SIGNATURE.to_vec();
    header.extend([0x21, family]);
    header.extend(length.unwrap_or(rest as u16).to_be_bytes());
    header.extend(addresses);
    header.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    header.extend(fields);
    header
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// A header of version 2 with these fields.
    fn with(fields: &[u8]) -> Vec<u8> {
        write(Version::V2, at("192.0.2.1:51000"), at("198.51.100.7:443"), fields)
    }

    #[test]
    fn headers_are_as_the_specification_says() {
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        expected.extend([192, 0, 2, 1, 198, 51, 100, 7, 0xc7, 0x38, 1, 0xbb]);
        assert_eq!(with(&[]), expected);
        let v6 = [at("[2001:db8::1]:1"), at("[2001:db8::2]:2")];
        let header = write(Version::V2, v6[0], v6[1], &[]);
        assert_eq!((header.len(), &header[13..16]), (16 + 36, &[0x21, 0, 36][..]));
        let text = |a, b| String::from_utf8(write(Version::V1, a, b, &[1])).expect("text");
        assert_eq!(text(v6[0], v6[1]), "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n");
        let v4 = at("192.0.2.1:51000");
        assert_eq!(text(v4, v4), "PROXY TCP4 192.0.2.1 192.0.2.1 51000 51000\r\n");
        assert_eq!(text(v4, v6[1]), "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 51000 2\r\n");
        let widest = SocketAddr::new([u8::MAX; 16].into(), u16::MAX);
        assert!(write(Version::V1, widest, widest, &[]).len() <= LINE);
    }

    fn address(v6: bool) -> impl Strategy<Value = SocketAddr> {
        let ip = any::<u128>().prop_map(move |bits| match v6 {
            true => IpAddr::from(bits.to_be_bytes()),
            false => IpAddr::from((bits as u32).to_be_bytes()),
        });
        (ip, any::<u16>()).prop_map(SocketAddr::from)
    }

    fn ends_of(v6: bool) -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        (address(v6), address(v6))
    }

    /// Fields that go on to another header.
    fn lasting() -> impl Strategy<Value = Vec<u8>> {
        let field = (0xe0u8.., vec(any::<u8>(), 0..40))
            .prop_map(|(kind, value)| [&[kind, 0, value.len() as u8][..], &value].concat());
        vec(field, 0..4).prop_map(|fields| fields.concat())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_from_its_last_byte_on_and_not_before(
            (client, dialled) in any::<bool>().prop_flat_map(ends_of),
            is_text in any::<bool>(),
            fields in lasting(),
        ) {
            let version = if is_text { Version::V1 } else { Version::V2 };
            let fields = if is_text { Vec::new() } else { fields };
            let mut bytes = write(version, client, dialled, &fields);
            let length = bytes.len();
            bytes.extend(b"the client's own");
            let header = Header { length, between: Some((client, dialled)), fields };
            prop_assert_eq!(read(&bytes), Ok(Some(header)));
            for end in 0..length {
                prop_assert_eq!(read(&bytes[..end]), Ok(None), "{} of {}", end, length);
            }
        }

        #[test]
        fn whatever_comes_it_is_settled_within_the_limit_and_by_no_later_byte(
            seed in 0..3usize,
            changes in vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
            more in prop_oneof![vec(any::<u8>(), 0..120), vec(any::<u8>(), LIMIT)],
        ) {
            let seeds = [with(b"\x05\0\x02id\x03\0\x04\0\0\0\0"), b"PROXY TCP4 ".to_vec(), Vec::new()];
            let mut bytes = seeds[seed].clone();
            for (at, byte) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            bytes.extend(more);
            let settled = read(&bytes);
            prop_assert!(bytes.len() < LIMIT || settled != Ok(None));
            if let Ok(Some(header)) = &settled {
                prop_assert!(header.length <= bytes.len().min(LIMIT));
                prop_assert_eq!(read(&bytes[..header.length]), settled);
            }
        }
    }

    #[test]
    fn a_health_check_and_what_is_no_tcp_say_nothing_of_a_client() {
        let mut local = with(b"\xea\0\x01x");
        local[12] = 0x20;
        let mut datagrams = with(&[]);
        datagrams[13] = 0x12;
        let mut neither = SIGNATURE.to_vec();
        neither.extend([0x21, 0, 0, 0]);
        let line = b"PROXY UNKNOWN ffff::1 and whatever\r\n".to_vec();
        for bytes in [local, datagrams, neither, line, b"PROXY UNKNOWN\r\n".to_vec()] {
            let header = Header { length: bytes.len(), ..Header::default() };
            assert_eq!(read(&bytes), Ok(Some(header)), "{bytes:?}");
        }
    }

    #[test]
    fn a_checksum_must_be_right_and_does_not_go_on_to_another_header() {
        // Of nine digits, as everywhere.
        assert_eq!(checksum(b"123456789\0\0\0\0", 9), checksum(b"123456789abcd", 9));
        assert_eq!(checksum(b"123456789", 100), 0xe306_9283);
        let mut bytes = with(b"\x05\0\x02id\x03\0\x04\0\0\0\0\x04\0\x01\0");
        let at = bytes.len() - 8;
        let sum = checksum(&bytes, at).to_be_bytes();
        bytes[at..at + 4].copy_from_slice(&sum);
        let header = read(&bytes).expect("right").expect("whole");
        assert_eq!(header.fields, b"\x05\0\x02id");
        bytes[20] ^= 1;
        assert!(matches!(read(&bytes), Err(Fault::Malformed(_))));
    }

    #[test]
    fn lies_are_told_apart_and_never_waited_for() {
        let malformed = [
            &b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n"[..],
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY \xff\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x11",
            b"\r\n\r\n\0\r\nQUIT\n\x22",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0b",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x0c",
        ];
        for bytes in malformed {
            assert!(matches!(read(bytes), Err(Fault::Malformed(_))), "{bytes:?}");
        }
        for fields in [&b"\x05"[..], b"\x05\0", b"\x05\0\x03id", b"\x03\0\x03abc", b"\x05\xff\xff"]
        {
            assert!(matches!(read(&with(fields)), Err(Fault::Malformed(_))), "{fields:?}");
        }
        assert_eq!(read(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"), Err(Fault::TooLong));
        let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
        assert_eq!(read(&endless), Err(Fault::TooLong));
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"proxy ", b"\r\n\r\r"] {
            assert_eq!(read(other), Err(Fault::Absent), "{other:?}");
        }
        assert_eq!(read(b""), Ok(None));
    }
}
