//! Host names, labels, and names of gateways and namespaces, as Istio's
//! admission judges them. Its "DNS-1123 labels" admit upper case.

use std::net::IpAddr;

/// Whether it is a DNS label: letters, digits and '-', beginning and ending with
/// a letter or digit, at most 63 characters.
pub fn is_dns_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

/// Whether it is a DNS label, `*`, or one behind `*` or `*-`.
fn is_wildcard_label(label: &str) -> bool {
    if label.len() > 63 {
        return false;
    }
    let Some(rest) = label.strip_prefix('*') else { return is_dns_label(label) };
    rest.is_empty() || is_dns_label(rest) || rest.strip_prefix('-').is_some_and(is_dns_label)
}

/// Why a name is no fully qualified domain name.
pub fn fqdn(name: &str) -> Result<(), String> {
    length(name)?;
    labels(name, name)
}

/// Why a name is no domain name, a wildcard allowed in its first label.
pub fn wildcard_domain(name: &str) -> Result<(), String> {
    length(name)?;
    let (first, rest) = match name.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    };
    if !is_wildcard_label(first) {
        return Err(bad_label(name, first));
    }
    match rest {
        Some(rest) => labels(name, rest),
        None => Ok(()),
    }
}

/// Whether a host has a wildcard other than a whole first label.
pub fn is_partial_wildcard(host: &str) -> bool {
    host.contains('*') && host.len() != 1 && !host.starts_with("*.")
}

fn length(name: &str) -> Result<(), String> {
    match name.len() {
        0 => Err("a host name cannot be empty".to_owned()),
        1..=255 => Ok(()),
        n => Err(format!("the host name has {n} characters, at most 255 are allowed")),
    }
}

/// Checks `part`, dotted labels, of a name.
fn labels(name: &str, part: &str) -> Result<(), String> {
    let last = part.rsplit('.').next().unwrap_or_default();
    // As Go's strconv.Atoi judges it: a sign counts as numeric.
    let digits = last.strip_prefix(['+', '-']).unwrap_or(last);
    if !digits.is_empty() && digits.len() < 19 && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("\"{name}\" is not a host name: its last part is all digits"));
    }
    // The last part may be empty: `istio.io.`
    let mut parts = part.split('.').peekable();
    while let Some(label) = parts.next() {
        let end = label.is_empty() && parts.peek().is_none();
        if !end && !is_dns_label(label) {
            return Err(bad_label(name, label));
        }
    }
    Ok(())
}

fn bad_label(name: &str, label: &str) -> String {
    let why = if label.is_empty() {
        "a part of it is empty".to_owned()
    } else if label.len() > 63 {
        format!("the part \"{label}\" has {} characters, at most 63 are allowed", label.len())
    } else if label.contains('*') {
        "a wildcard may only stand at the very beginning".to_owned()
    } else if let Some(c) = label.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
        let quote = matches!(c, '\u{2018}'..='\u{201f}');
        let quote = if quote { ": YAML's quotes are \" and '" } else { "" };
        format!("\"{c}\" is not allowed in it{quote}")
    } else {
        format!("the part \"{label}\" must begin and end with a letter or digit")
    };
    format!("\"{name}\" is not a host name: {why}")
}

/// Whether it is an IP address, as Go's `netip` reads one.
pub fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        // A zone is allowed where no prefix is.
        || text.split_once('%').is_some_and(|(address, zone)| {
            !zone.is_empty() && address.parse::<std::net::Ipv6Addr>().is_ok()
        })
}

/// Why a label's key is not legal.
pub fn label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.rsplit_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix
        && (prefix.len() > 253 || !prefix.split('.').all(is_dns_label))
    {
        return Err(format!(
            "\"{key}\" is not a label key: what stands before the '/' must be a DNS name"
        ));
    }
    if qualified(name) {
        return Ok(());
    }
    Err(format!(
        "\"{key}\" is not a label key: it takes 1 to 63 letters, digits, '-', '_' and '.', \
         beginning and ending with a letter or digit"
    ))
}

/// Why a label's value is not legal.
pub fn label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || qualified(value) {
        return Ok(());
    }
    Err(format!(
        "\"{value}\" is not a label value: it takes up to 63 letters, digits, '-', '_' and '.', \
         beginning and ending with a letter or digit"
    ))
}

fn qualified(name: &str) -> bool {
    let bytes = name.as_bytes();
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Whether one host covers another, wildcards on either side: Istio's `SubsetOf`.
pub fn is_subset_of(inner: &str, outer: &str) -> bool {
    match (inner.strip_prefix('*'), outer.strip_prefix('*')) {
        (Some(inner), Some(outer)) => inner.ends_with(outer),
        (None, Some(outer)) => inner.ends_with(outer),
        (Some(_), None) => false,
        (None, None) => inner == outer,
    }
}

/// Whether two hosts have a name in common: Istio's `Matches`.
pub fn overlaps(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (Some(x), Some(y)) => x.ends_with(y) || y.ends_with(x),
        (Some(x), None) => b.ends_with(x),
        (None, Some(y)) => a.ends_with(y),
        (None, None) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_judged_as_istio_judges_them() {
        for good in ["a", "A-b.example.com", "*", "*.a", "*-x.a", "*x.a", "a.b.", "1.a", "a.1b"] {
            assert_eq!(wildcard_domain(good), Ok(()), "{good}");
        }
        let long = "a".repeat(64);
        for bad in
            ["", "a..b", "-a", "a-.b", "a.*", "a_b.c", "a.7", ".a", "a b", "*-", "a..", &long]
        {
            assert!(wildcard_domain(bad).is_err(), "{bad}");
        }
        assert!(fqdn("*.a").is_err());
        assert!(wildcard_domain(&format!("{}a", "a.".repeat(128))).is_err(), "256 characters");
    }

    #[test]
    fn labels_are_judged_as_istio_judges_them() {
        for good in ["app", "app.kubernetes.io/name", "A_b.c-1", "x/y"] {
            assert_eq!(label_key(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "-a", "/a", "a/", "a_b/c", "a/b/c"] {
            assert!(label_key(bad).is_err(), "{bad}");
        }
        assert_eq!(label_value(""), Ok(()));
        assert!(label_value("a/b").is_err());
        assert!(label_value(&"a".repeat(64)).is_err());
    }

    #[test]
    fn wildcards_cover_and_overlap_by_suffix() {
        assert!(is_subset_of("a.foo.com", "*.foo.com"));
        assert!(!is_subset_of("foo.com", "*.foo.com"));
        assert!(!is_subset_of("*.foo.com", "a.foo.com"));
        assert!(overlaps("*.foo.com", "a.foo.com"));
        assert!(overlaps("*.com", "*.foo.com"));
        assert!(!overlaps("*.org", "*.foo.com"));
    }
}
