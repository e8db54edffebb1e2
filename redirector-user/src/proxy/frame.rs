//! How messages cross a Unix socket: the length of what follows and the number of
//! sockets, four bytes each, little-endian; the message in JSON; the sockets.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::rights;

/// Longer messages, and more sockets with one, are nonsense.
const MOST_BYTES: usize = 1 << 30;
const MOST_SOCKETS: usize = 1 << 20;

/// Says something, with these sockets.
///
/// # Errors
///
/// When the other side has gone, or does not listen in time.
pub(super) fn send(
    stream: &UnixStream,
    message: &impl Serialize,
    sockets: &[OwnedFd],
) -> io::Result<()> {
    let mut bytes = vec![0; 8];
    serde_json::to_writer(&mut bytes, message)?;
    let length = |count: usize| u32::try_from(count).map_err(io::Error::other);
    let head = [length(bytes.len() - 8)?, length(sockets.len())?].map(u32::to_le_bytes);
    bytes[..8].copy_from_slice(&head.concat());
    (&mut &*stream).write_all(&bytes)?;
    sockets.chunks(rights::AT_ONCE).try_for_each(|some| rights::pass(stream, some))
}

/// Hears something.
///
/// # Errors
///
/// When the other side has gone, is silent for too long, or says what is not understood.
pub(super) fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut head = [[0; 4]; 2];
    (&mut &*stream).read_exact(head.as_flattened_mut())?;
    let [length, sockets] = head.map(|word| u32::from_le_bytes(word) as usize);
    if length > MOST_BYTES || sockets > MOST_SOCKETS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too long a message"));
    }
    // Grows with what comes, whatever was said.
    let mut bytes = Vec::new();
    stream.take(length as u64).read_to_end(&mut bytes)?;
    let message = serde_json::from_slice(&bytes)?;
    Ok((message, rights::take(stream, sockets)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_said_is_heard_with_its_sockets_and_nonsense_is_refused() {
        let (one, other) = UnixStream::pair().unwrap();
        let sockets: Vec<OwnedFd> =
            (0..150).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap().into()).collect();
        send(&one, &"hello", &sockets).unwrap();
        send(&one, &vec![7; 1000], &[]).unwrap();
        let (said, passed) = receive::<String>(&other).unwrap();
        assert_eq!((said.as_str(), passed.len()), ("hello", 150));
        let port = |socket: &OwnedFd| rustix::net::getsockname(socket).unwrap();
        assert!(sockets.iter().map(port).eq(passed.iter().map(port)), "in their order");
        assert_eq!(receive::<Vec<u32>>(&other).unwrap().0, vec![7; 1000]);
        send(&one, &7, &[]).unwrap();
        assert!(receive::<String>(&other).is_err());
        (&one).write_all(&[0xff; 8]).unwrap();
        assert!(receive::<String>(&other).is_err());
        other.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        assert!(receive::<String>(&other).is_err(), "who is silent holds up nobody");
        drop(one);
        assert!(receive::<String>(&other).is_err());
    }
}
