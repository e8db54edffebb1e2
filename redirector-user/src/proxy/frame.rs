//! How messages cross a Unix socket: the length of what follows and the number of
//! sockets, four bytes each, little-endian; the message in JSON; the sockets.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::rights;

/// Longer messages, and more sockets with one, are nonsense: a configuration with a hundred
/// thousand rules has some 50 MB.
const MOST_BYTES: usize = 256 << 20;
const MOST_SOCKETS: usize = 1 << 20;

fn is_nonsense(bytes: usize, sockets: usize) -> bool {
    bytes > MOST_BYTES || sockets > MOST_SOCKETS
}

/// A time for a whole message, however many portions it comes in.
struct Patience<'s> {
    stream: &'s UnixStream,
    until: Instant,
}

impl<'s> Patience<'s> {
    fn new(stream: &'s UnixStream, patience: Duration) -> Self {
        Self { stream, until: Instant::now() + patience }
    }

    /// What is left of it is the time for the next portion.
    fn go_on(&self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.set_write_timeout(Some(left))
    }
}

impl Read for Patience<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.go_on()?;
        self.stream.read(buffer)
    }
}

impl Write for Patience<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.go_on()?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says something, with these sockets, in this time.
///
/// # Errors
///
/// When the other side has gone, or does not listen in time, or it would not be understood.
pub(super) fn send(
    stream: &UnixStream,
    message: &impl Serialize,
    sockets: &[OwnedFd],
    patience: Duration,
) -> io::Result<()> {
    let mut bytes = vec![0; 8];
    serde_json::to_writer(&mut bytes, message)?;
    if is_nonsense(bytes.len() - 8, sockets.len()) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too long a message"));
    }
    let length = |count: usize| u32::try_from(count).map_err(io::Error::other);
    let head = [length(bytes.len() - 8)?, length(sockets.len())?].map(u32::to_le_bytes);
    bytes[..8].copy_from_slice(&head.concat());
    let mut patience = Patience::new(stream, patience);
    patience.write_all(&bytes)?;
    sockets.chunks(rights::AT_ONCE).try_for_each(|some| {
        patience.go_on()?;
        rights::pass(stream, some)
    })
}

/// Hears something, in this time from now on.
///
/// # Errors
///
/// When the other side has gone, is silent for too long, or says what is not understood.
/// Within, when sockets that came along did not fit: the next message can be heard.
pub(super) fn receive<T: DeserializeOwned>(
    stream: &UnixStream,
    patience: Duration,
) -> io::Result<(T, io::Result<Vec<OwnedFd>>)> {
    let mut patience = Patience::new(stream, patience);
    let mut head = [[0; 4]; 2];
    patience.read_exact(head.as_flattened_mut())?;
    let [length, sockets] = head.map(|word| u32::from_le_bytes(word) as usize);
    if is_nonsense(length, sockets) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too long a message"));
    }
    // Grows with what comes, whatever was said.
    let mut bytes = Vec::new();
    (&mut patience).take(length as u64).read_to_end(&mut bytes)?;
    let message = serde_json::from_slice(&bytes)?;
    match rights::take(stream, sockets, || patience.go_on()) {
        Err(error) if error.kind() != rights::LOST => Err(error),
        sockets => Ok((message, sockets)),
    }
}

/// Waits until something is said, however long that takes.
///
/// # Errors
///
/// The kernel's.
pub(super) fn wait(stream: &UnixStream) -> io::Result<()> {
    while let Err(error) = poll(&mut [PollFd::new(stream, PollFlags::IN)], None) {
        if error != Errno::INTR {
            return Err(error.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn what_is_said_is_heard_with_its_sockets_and_nonsense_is_refused() {
        let (one, other) = UnixStream::pair().unwrap();
        let sockets: Vec<OwnedFd> =
            (0..150).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap().into()).collect();
        send(&one, &"hello", &sockets, SOON).unwrap();
        send(&one, &vec![7; 1000], &[], SOON).unwrap();
        let (said, passed) = receive::<String>(&other, SOON).unwrap();
        let passed = passed.unwrap();
        assert_eq!((said.as_str(), passed.len()), ("hello", 150));
        let port = |socket: &OwnedFd| rustix::net::getsockname(socket).unwrap();
        assert!(sockets.iter().map(port).eq(passed.iter().map(port)), "in their order");
        assert_eq!(receive::<Vec<u32>>(&other, SOON).unwrap().0, vec![7; 1000]);
        send(&one, &7, &[], SOON).unwrap();
        assert!(receive::<String>(&other, SOON).is_err());
        (&one).write_all(&[0xff; 8]).unwrap();
        assert!(receive::<String>(&other, SOON).is_err());
        let shortly = Duration::from_millis(1);
        assert!(receive::<String>(&other, shortly).is_err(), "who is silent holds up nobody");
        drop(one);
        assert!(receive::<String>(&other, SOON).is_err());
    }

    #[test]
    fn a_message_has_one_time_however_slowly_its_bytes_come() {
        let (one, other) = UnixStream::pair().unwrap();
        let dripping = std::thread::spawn(move || {
            for byte in [8, 0, 0, 0, 0, 0, 0, 0].into_iter().chain([b' '; 100]) {
                if (&one).write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let begun = Instant::now();
        let heard = receive::<String>(&other, Duration::from_millis(50));
        assert!(heard.is_err());
        assert!(begun.elapsed() < Duration::from_millis(70), "{:?}", begun.elapsed());
        drop(other);
        dripping.join().unwrap();
    }

    #[test]
    fn bytes_without_the_sockets_that_were_said_to_come_end_it() {
        let (one, other) = UnixStream::pair().unwrap();
        let head = [2u32.to_le_bytes(), 70u32.to_le_bytes()].concat();
        (&one).write_all(&[&head[..], b"\"\"", b"ss"].concat()).unwrap();
        let (_, sockets) = receive::<String>(&other, SOON).unwrap();
        assert_eq!(sockets.unwrap_err().kind(), rights::LOST);
        send(&one, &"next", &[], SOON).unwrap();
        assert_eq!(receive::<String>(&other, SOON).unwrap().0, "next");
    }
}
