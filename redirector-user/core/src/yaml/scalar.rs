//! Plain scalars as YAML 1.1, and so Kubernetes, reads them.

use std::sync::Arc;

use super::Value;

/// The value of a scalar without quotes and without a tag.
pub fn plain(text: &str) -> Value {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    if let Some(value) = boolean(text) {
        return Value::Bool(value, text.into());
    }
    number(text).unwrap_or_else(|| Value::String(text.into()))
}

/// The value of a scalar with one of YAML's own tags (`!!int "3"`), or `None`
/// when the text does not fit it.
pub fn tagged(suffix: &str, text: &str) -> Option<Value> {
    match suffix {
        "null" => Some(Value::Null),
        "bool" => boolean(text).map(|value| Value::Bool(value, text.into())),
        "int" => number(text).filter(|value| matches!(value, Value::Int(..))),
        "float" => match number(text)? {
            Value::Int(value, text) => Some(Value::Float(value as f64, text)),
            other => Some(other),
        },
        _ => Some(Value::String(text.into())),
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Some(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Some(false)
        }
        _ => None,
    }
}

fn number(text: &str) -> Option<Value> {
    let first = text.chars().next()?;
    if !(first.is_ascii_digit() || matches!(first, '+' | '-' | '.')) || text.len() > 400 {
        return None;
    }
    let written: Arc<str> = text.into();
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Some(Value::Float(f64::INFINITY, written));
        }
        "-.inf" | "-.Inf" | "-.INF" => return Some(Value::Float(f64::NEG_INFINITY, written)),
        ".nan" | ".NaN" | ".NAN" => return Some(Value::Float(f64::NAN, written)),
        _ => {}
    }
    let plain = text.replace('_', "");
    if let Some(value) = integer(&plain) {
        return Some(match i64::try_from(value) {
            Ok(value) => Value::Int(value, written),
            Err(_) => Value::Float(value as f64, written),
        });
    }
    if !looks_like_float(&plain) {
        return None;
    }
    let value: f64 = plain.parse().ok()?;
    // 19000.0 and 1e3 become whole numbers on their way through JSON.
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Some(Value::Int(value as i64, written));
    }
    Some(Value::Float(value, written))
}

/// Signs, then decimal, `0x`, `0b`, `0o`, or a leading zero for octal.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(hex) = lower.strip_prefix("0x") {
        (16, hex)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        (2, binary)
    } else if let Some(octal) = lower.strip_prefix("0o") {
        (8, octal)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, &*lower)
    };
    // from_str_radix takes a sign of its own.
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    // Beyond 64 bits it is read as a float.
    (value <= i128::from(u64::MAX)).then_some(if negative { -value } else { value })
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn looks_like_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let mantissa = match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
        None => digits(mantissa),
    };
    mantissa && exponent.is_none_or(|e| digits(e.strip_prefix(['-', '+']).unwrap_or(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match plain(text) {
            Value::Null => "null".to_owned(),
            Value::Bool(value, _) => format!("bool {value}"),
            Value::Int(value, _) => format!("int {value}"),
            Value::Float(value, _) => format!("float {value}"),
            Value::String(value) => format!("string {value}"),
            Value::List(_) | Value::Map(_) => unreachable!("a scalar"),
        }
    }

    #[test]
    fn plain_scalars_are_read_as_yaml_1_1_reads_them() {
        for (text, expected) in [
            ("", "null"),
            ("~", "null"),
            ("y", "bool true"),
            ("Off", "bool false"),
            ("yEs", "string yEs"),
            ("19000", "int 19000"),
            ("0755", "int 493"),
            ("0o17", "int 15"),
            ("08", "int 8"),
            ("0x1F", "int 31"),
            ("0b101", "int 5"),
            ("1_000", "int 1000"),
            ("-7", "int -7"),
            ("+7", "int 7"),
            ("--7", "string --7"),
            ("1e3", "int 1000"),
            ("1.5", "float 1.5"),
            (".5", "float 0.5"),
            ("5.", "int 5"),
            ("1.2.3", "string 1.2.3"),
            ("10.96.0.10", "string 10.96.0.10"),
            ("10:30", "string 10:30"),
            ("2026-01-01", "string 2026-01-01"),
            (".inf", "float inf"),
            ("-", "string -"),
            ("0x", "string 0x"),
            ("18446744073709551616", "float 18446744073709552000"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }
}
