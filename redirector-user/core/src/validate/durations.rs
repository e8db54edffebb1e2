//! Durations: Go's notation (`1h30m`, `1.5s`, `100ms`), which the API takes.

/// A duration in nanoseconds. `None` when it is not one.
pub fn parse(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || number.len() > 30 {
            return None;
        }
        let (unit, length) = [
            ("ns", 1),
            ("us", 1_000),
            ("µs", 1_000),
            ("μs", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ]
        .into_iter()
        .find_map(|(name, unit)| tail.starts_with(name).then_some((unit, name.len())))?;
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return None;
        }
        if !whole.is_empty() {
            total = total.checked_add(whole.parse::<i128>().ok()?.checked_mul(unit)?)?;
        }
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            total += i128::from(digit - b'0') * scale;
        }
        rest = &tail[length..];
    }
    // Go's durations end at 2^63 ns.
    (total <= i128::from(i64::MAX)).then_some(if negative { -total } else { total })
}

/// A duration in milliseconds, of at least 1 ms and without fractions of one.
/// With `zero`, 0 is taken too. The error says what is wrong.
pub fn milliseconds(text: &str, zero: bool) -> Result<u64, String> {
    let nanoseconds = parse(text).ok_or_else(|| {
        format!("\"{text}\" is not a duration: write a number and a unit, such as 10s or 1m30s")
    })?;
    if zero && nanoseconds == 0 {
        return Ok(0);
    }
    if nanoseconds < 1_000_000 {
        return Err(format!("{text} is too short: the shortest duration is 1ms"));
    }
    if nanoseconds % 1_000_000 != 0 {
        return Err(format!("{text} is too precise: durations are whole milliseconds"));
    }
    u64::try_from(nanoseconds / 1_000_000).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, ms) in [("1s", 1000), ("1.5s", 1500), ("1h2m3s", 3_723_000), ("100ms", 100)] {
            assert_eq!(milliseconds(text, false), Ok(ms), "{text}");
        }
        assert_eq!(milliseconds("0s", true), Ok(0));
        for bad in ["", "10", "s", "1d", "0s", "-1s", "1us", "1.0005s", "1 s", "9999999h"] {
            assert!(milliseconds(bad, false).is_err(), "{bad}");
        }
    }
}
