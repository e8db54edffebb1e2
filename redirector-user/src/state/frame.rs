//! Frames: what a journal consists of.
//!
//! Each has a mark, its kind, its length and a checksum; what is in it is JSON,
//! packed by LZ4. Where one is damaged the next one is found by its mark, so that
//! damage costs what it hits.

use std::io;
use std::ops::Range;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What begins a frame. No byte of it occurs in JSON or in text.
const MARK: [u8; 4] = [0xf5, 0xff, 0xc1, 0xfe];

/// Mark, kind, length and checksum.
const HEADER: usize = MARK.len() + 1 + 4 + 4;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    /// Objects, which the record that follows refers to.
    Contents = b'c',
    /// What makes the numbers of the tables those of the record that follows.
    Layout = b'l',
    /// A record.
    Record = b'r',
}

/// Puts a frame behind what is there.
pub(super) fn put(to: &mut Vec<u8>, kind: Kind, value: &impl Serialize) -> io::Result<()> {
    put_text(to, kind, &serde_json::to_vec(value)?)
}

/// Puts a frame with this in it, which was JSON before, behind what is there.
pub(super) fn put_text(to: &mut Vec<u8>, kind: Kind, json: &[u8]) -> io::Result<()> {
    let packed = lz4_flex::compress_prepend_size(json);
    let length = u32::try_from(packed.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    to.extend(MARK);
    to.push(kind as u8);
    to.extend(length.to_le_bytes());
    to.extend(checksum(kind as u8, length, &packed).to_le_bytes());
    to.extend(packed);
    Ok(())
}

fn checksum(kind: u8, length: u32, packed: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(&length.to_le_bytes());
    hasher.update(packed);
    hasher.finalize()
}

/// A whole frame.
#[derive(Clone, Debug)]
pub(super) struct Frame<'a> {
    pub kind: Kind,
    packed: &'a [u8],
}

impl Frame<'_> {
    /// What was put into it.
    ///
    /// # Errors
    ///
    /// Why it cannot be read, as where another version wrote it.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.text()?).map_err(|error| error.to_string())
    }

    /// The same, as it is written.
    pub(super) fn text(&self) -> Result<Vec<u8>, String> {
        lz4_flex::decompress_size_prepended(self.packed).map_err(|error| error.to_string())
    }
}

/// What stands at some place.
#[derive(Debug)]
pub(super) enum Scanned<'a> {
    /// A whole frame.
    Frame(Frame<'a>),
    /// Something else.
    Damage,
}

/// The frames of a file, each with the bytes that it takes.
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The frame that begins there, and where it ends.
    fn frame(&self, at: usize) -> Option<(Frame<'a>, usize)> {
        let (mark, rest) = self.bytes.get(at..)?.split_first_chunk()?;
        let (kind, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (sum, rest) = rest.split_first_chunk()?;
        let length = u32::from_le_bytes(*length);
        let packed = rest.get(..length as usize)?;
        if *mark != MARK || checksum(*kind, length, packed) != u32::from_le_bytes(*sum) {
            return None;
        }
        let known = [Kind::Contents, Kind::Layout, Kind::Record];
        let kind = known.into_iter().find(|known| *known as u8 == *kind)?;
        Some((Frame { kind, packed }, at + HEADER + packed.len()))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = (Scanned<'a>, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        let begin = self.at;
        if begin >= self.bytes.len() {
            return None;
        }
        if let Some((frame, end)) = self.frame(begin) {
            self.at = end;
            return Some((Scanned::Frame(frame), begin..end));
        }
        // Packed text may hold the mark by chance: only a whole frame counts.
        let next = (begin + 1..self.bytes.len()).find(|at| {
            self.bytes[*at] == MARK[0]
                && self.bytes[*at..].starts_with(&MARK)
                && self.frame(*at).is_some()
        });
        self.at = next.unwrap_or(self.bytes.len());
        Some((Scanned::Damage, begin..self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(bytes: &[u8]) -> Vec<Option<String>> {
        let text = |found| match found {
            Scanned::Frame(frame) => Some(frame.read().unwrap()),
            Scanned::Damage => None,
        };
        Frames::of(bytes).map(|(found, _)| text(found)).collect()
    }

    #[test]
    fn damage_costs_the_frame_that_it_hits() {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        let all = ["one", "two", "three"];
        for text in all {
            put(&mut bytes, Kind::Record, &text).unwrap();
            ends.push(bytes.len());
        }
        let expected: Vec<_> = all.iter().map(|text| Some((*text).to_owned())).collect();
        assert_eq!(texts(&bytes), expected);
        for at in 0..bytes.len() {
            let hit = ends.iter().position(|end| at < *end).unwrap();
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let mut expected = expected.clone();
                expected[hit] = None;
                assert_eq!(texts(&damaged), expected, "byte {at}, bit {bit}");
            }
            let whole = ends.iter().filter(|end| **end <= at).count();
            let mut expected = expected[..whole].to_vec();
            if !ends.contains(&at) && at != 0 {
                expected.push(None);
            }
            assert_eq!(texts(&bytes[..at]), expected, "cut off at {at}");
        }
    }
}
