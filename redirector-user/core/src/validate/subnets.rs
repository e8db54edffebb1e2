//! Subnets: an address, or an address and the length of its prefix.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// An address. One of IPv4 that is written as one of IPv6 (`::ffff:10.0.0.1`) is the
/// same address to the kernel, and is so here.
pub fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Subnets likewise.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(length)) => Ipv4Net::new(v4, length).map_or(net, IpNet::V4),
        _ => net,
    }
}

/// A subnet as Go's `netip` reads it: no leading zeros, no zone in a prefix; a
/// bare address is a prefix of full length, and host bits are masked. The error
/// says what is wrong.
pub fn parse(text: &str) -> Result<IpNet, String> {
    if text.contains(',') {
        return Err(format!("\"{text}\" is not one subnet: each is an item of its own"));
    }
    if text.trim() != text {
        return Err(format!("\"{text}\" is not a subnet: a space stands at one end of it"));
    }
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let parsed: IpAddr = match (address.parse(), length, address.split_once('%')) {
        (Ok(parsed), ..) => parsed,
        // A bare address may have a zone, which means nothing here.
        (Err(_), None, Some((address, zone))) if !zone.is_empty() => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| not_an_address(text, text))?.into()
        }
        _ => return Err(not_an_address(text, address)),
    };
    let most = if parsed.is_ipv4() { 32 } else { 128 };
    let Some(length) = length else {
        return IpNet::new(parsed, most).map(canonical).map_err(|error| error.to_string());
    };
    let digits = !length.is_empty()
        && length.bytes().all(|b| b.is_ascii_digit())
        && (length == "0" || !length.starts_with('0'));
    let length = digits
        .then(|| length.parse::<u8>().ok())
        .flatten()
        .filter(|length| *length <= most)
        .ok_or_else(|| {
            format!("\"{text}\" is not a subnet: the length behind the '/' must be 0 to {most}")
        })?;
    let net = IpNet::new(parsed, length).map_err(|error| error.to_string())?;
    Ok(canonical(net.trunc()))
}

fn not_an_address(text: &str, address: &str) -> String {
    let mut message = format!("\"{text}\" is not a subnet");
    if text.is_empty() {
        message.push_str(": it is empty");
    } else if address.split('.').count() == 4
        && address.split('.').any(|part| part.len() > 1 && part.starts_with('0'))
    {
        message.push_str(": leading zeros are not allowed");
    } else {
        message.push_str(": expected an IP address, or one with a prefix such as 10.0.0.0/8");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_read_as_istio_reads_them() {
        for (text, net) in [
            ("10.96.5.7/16", "10.96.0.0/16"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("fd00::1/64", "fd00::/64"),
            ("fd00::1", "fd00::1/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fe80::1%eth0", "fe80::1/128"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:10.0.5.1/120", "10.0.5.0/24"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
        ] {
            assert_eq!(parse(text).map(|net| net.to_string()), Ok(net.to_owned()), "{text}");
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "010.0.0.0/8",
            "10.0.0.0/08",
            "10.0.0.0/8/8",
            "a/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "fe80::1%eth0/64",
            "fd00::/129",
            " 10.0.0.1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
