//! The load: what one client process does for a while, and what came of it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize, Deserialize)]
pub enum Kind {
    /// Connect, a byte each way, close.
    Crr,
    /// Request and response on connections that are kept.
    Rr,
    /// One way, as fast as it goes.
    Bulk,
}

/// A load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::Args)]
pub struct Load {
    /// What is done
    #[arg(long)]
    pub kind: Kind,
    /// How many connections at a time, each with a thread
    #[arg(long)]
    pub streams: usize,
    /// Bytes of a request, or of one write
    #[arg(long)]
    pub size: usize,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Connections, or requests.
    pub operations: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Processor time of this process.
    pub cpu: f64,
    /// Half of the operations took less, in microseconds.
    pub median: f64,
}

/// Applies the load for a while.
pub fn run(load: Load, to: SocketAddr, time: Duration) -> Result<Outcome> {
    let began = Instant::now();
    let end = began + time;
    let threads: Vec<_> =
        (0..load.streams).map(|_| std::thread::spawn(move || stream(load, to, end))).collect();
    let mut outcome = Outcome::default();
    let mut times = Vec::new();
    for thread in threads {
        let Ok(done) = thread.join() else { bail!("a stream has panicked") };
        let (bytes, mut took) = done?;
        outcome.bytes += bytes;
        times.append(&mut took);
    }
    outcome.seconds = began.elapsed().as_secs_f64();
    outcome.operations = times.len() as u64;
    times.sort_unstable();
    outcome.median = times.get(times.len() / 2).map_or(0.0, |time| f64::from(*time) / 1e3);
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    outcome.cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    Ok(outcome)
}

/// One stream: bytes sent, and how long each operation took, in nanoseconds.
fn stream(load: Load, to: SocketAddr, end: Instant) -> Result<(u64, Vec<u32>)> {
    let mut times = Vec::with_capacity(1 << 16);
    let mut bytes = 0;
    let data = vec![7; load.size];
    let mut back = vec![0; load.size];
    let mut timed = |operation: &mut dyn FnMut() -> Result<()>| -> Result<Instant> {
        let before = Instant::now();
        operation()?;
        let now = Instant::now();
        times.push(u32::try_from((now - before).as_nanos()).unwrap_or(u32::MAX));
        Ok(now)
    };
    match load.kind {
        Kind::Crr => loop {
            let now = timed(&mut || {
                let mut stream = TcpStream::connect(to).context("cannot connect")?;
                stream.write_all(&data)?;
                stream.read_exact(&mut back)?;
                bytes += data.len() as u64;
                Ok(())
            })?;
            if now >= end {
                break;
            }
        },
        Kind::Rr => {
            let mut stream = TcpStream::connect(to).context("cannot connect")?;
            stream.set_nodelay(true)?;
            loop {
                let now = timed(&mut || {
                    stream.write_all(&data)?;
                    stream.read_exact(&mut back)?;
                    bytes += data.len() as u64;
                    Ok(())
                })?;
                if now >= end {
                    break;
                }
            }
        }
        Kind::Bulk => {
            let mut stream = TcpStream::connect(to).context("cannot connect")?;
            while Instant::now() < end {
                stream.write_all(&data)?;
                bytes += data.len() as u64;
            }
            // It counts when the other end has it.
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut back)?;
        }
    }
    Ok((bytes, times))
}

/// Opens connections, says so, and holds them until standard input ends.
pub fn hold(to: SocketAddr, count: usize) -> Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?;
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(to).context("cannot connect")?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0]).with_context(|| format!("after {} served", held.len()))?;
        held.push(stream);
    }
    println!("ready");
    let _ = std::io::stdin().read(&mut [0])?;
    Ok(())
}
