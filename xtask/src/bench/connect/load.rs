//! The client and the server of the measurement.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What came of a number of connections, one after the other.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Half of the `connect()` calls took less, in nanoseconds.
    pub connect: f64,
    /// Half of the `close()` calls took less, in nanoseconds.
    pub close: f64,
    /// Connections a second: connect, a byte each way, close.
    pub rate: f64,
}

/// Makes connections: a tenth of `count` unmeasured, then `count`.
pub fn client(to: SocketAddr, count: usize) -> Result<Outcome> {
    for _ in 0..count / 10 {
        once(to)?;
    }
    let began = Instant::now();
    let times = (0..count).map(|_| once(to)).collect::<Result<Vec<_>>>()?;
    let rate = count as f64 / began.elapsed().as_secs_f64();
    let (connect, close) = times.into_iter().unzip();
    Ok(Outcome { connect: median(connect), close: median(close), rate })
}

fn median(mut times: Vec<u32>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| f64::from(*time))
}

/// One connection: nanoseconds of connect and of close.
///
/// `TcpStream::connect` makes the socket as well; that costs the same whatever
/// is attached, and would only make ratios look smaller, so it is left out.
fn once(to: SocketAddr) -> Result<(u32, u32)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let before = Instant::now();
    connect(&socket, &to).with_context(|| format!("cannot connect to {to}"))?;
    let connected = before.elapsed();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    let before = Instant::now();
    drop(stream);
    let closed = before.elapsed();
    let nanoseconds =
        |time: std::time::Duration| u32::try_from(time.as_nanos()).unwrap_or(u32::MAX);
    Ok((nanoseconds(connected), nanoseconds(closed)))
}

/// Answers a byte with the same byte, connection after connection; says
/// `ready` once it listens.
pub fn server(at: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at).with_context(|| format!("cannot listen at {at}"))?;
    println!("ready");
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut byte = [0];
        if stream.read(&mut byte)? != 1 {
            bail!("a client said nothing");
        }
        stream.write_all(&byte)?;
        // The client closes first, so that the waiting times are its own.
        let _ = stream.read(&mut byte)?;
    }
}
