//! Bytes to text: UTF-8 with or without a mark, UTF-16 with one or recognisable.

use std::borrow::Cow;

use super::Position;

/// The largest file that is read, in bytes. Whoever reads files refuses larger
/// ones by name, before reading them.
pub const MAX_FILE_BYTES: u64 = 128 << 20;

/// The bytes are no text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncodingError {
    /// What is wrong.
    pub message: String,
    /// Where, as far as it can be told.
    pub position: Position,
}

/// The text that the bytes of a file hold. UTF-16 is recognised by its byte
/// order mark, or by every other one of the first bytes being zero.
pub fn decode_bytes(bytes: &[u8]) -> Result<Cow<'_, str>, EncodingError> {
    match bytes {
        [0xFF, 0xFE, rest @ ..] => return utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => return utf16(rest, u16::from_be_bytes),
        [a, 0, b, 0, ..] if *a != 0 && *b != 0 => return utf16(bytes, u16::from_le_bytes),
        [0, a, 0, b, ..] if *a != 0 && *b != 0 => return utf16(bytes, u16::from_be_bytes),
        _ => {}
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Cow::Borrowed(text)),
        Err(error) => {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            Err(EncodingError {
                message: format!(
                    "the file is not UTF-8 text: byte {} is 0x{:02x}",
                    error.valid_up_to() + 1,
                    bytes.get(error.valid_up_to()).copied().unwrap_or(0),
                ),
                position: end_of(&good),
            })
        }
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Cow<'_, str>, EncodingError> {
    let pairs = bytes.chunks_exact(2);
    let whole = pairs.remainder().is_empty();
    let mut text = String::with_capacity(bytes.len() / 2);
    for c in char::decode_utf16(pairs.map(|pair| unit([pair[0], pair[1]]))) {
        match c {
            Ok(c) => text.push(c),
            Err(_) => return Err(broken_utf16(&text)),
        }
    }
    if whole { Ok(Cow::Owned(text)) } else { Err(broken_utf16(&text)) }
}

fn broken_utf16(good: &str) -> EncodingError {
    EncodingError {
        message: "the file looks like UTF-16 and breaks off in the middle of a character"
            .to_owned(),
        position: end_of(good),
    }
}

/// The place right behind a text.
fn end_of(text: &str) -> Position {
    let last = text.rsplit('\n').next().unwrap_or_default();
    Position {
        line: u32::try_from(text.matches('\n').count() + 1).unwrap_or(u32::MAX),
        column: u32::try_from(last.chars().count() + 1).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf_16_is_read_with_and_without_its_mark() {
        for (mark, order) in [
            (true, u16::to_le_bytes as fn(u16) -> [u8; 2]),
            (true, u16::to_be_bytes),
            (false, u16::to_le_bytes),
            (false, u16::to_be_bytes),
        ] {
            let text = "kind: Ж\n";
            let units = mark.then_some(0xFEFF).into_iter().chain(text.encode_utf16());
            let bytes: Vec<u8> = units.flat_map(order).collect();
            assert_eq!(decode_bytes(&bytes).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_byte_that_is_no_text_is_named_with_its_place() {
        let error = decode_bytes(b"a: b\nc: \xFFx").unwrap_err();
        assert_eq!(error.position, Position { line: 2, column: 4 });
        assert!(error.message.contains("byte 9 is 0xff"), "{}", error.message);
    }
}
