//! Times for people.

/// A time of so many seconds, in the unit that suits it and with no more digits
/// than say something.
pub fn time(seconds: f64) -> String {
    let microseconds = (seconds.max(0.0) * 1e6).round();
    match microseconds {
        ..1e3 => format!("{microseconds} us"),
        1e3..1e4 => format!("{:.1} ms", microseconds / 1e3),
        1e4..1e7 => format!("{:.0} ms", microseconds / 1e3),
        _ => format!("{:.0} s", microseconds / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn a_time_has_the_unit_that_suits_it() {
        let cases = [
            (0.0, "0 us"),
            (0.000_031, "31 us"),
            (0.001_25, "1.2 ms"),
            (0.25, "250 ms"),
            (9.5, "9500 ms"),
            (75.4, "75 s"),
        ];
        for (seconds, text) in cases {
            assert_eq!(time(seconds), text);
        }
    }
}
