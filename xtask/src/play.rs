//! The parts that the demo gives to processes of their own: the echo servers
//! and the line clients. Both speak the reference document's protocol: a line
//! is answered by the server's greeting and the line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How long a client waits for one answer before it calls it an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// A part to play.
#[derive(clap::Subcommand)]
pub enum Part {
    /// Answers every line with a greeting and the line
    Echo {
        /// Where to listen
        #[arg(long)]
        listen: SocketAddr,
        /// What to answer
        #[arg(long)]
        greeting: String,
    },
    /// Connects, says a line, reads a line; prints what came as JSON
    Client {
        /// Where to connect to
        #[arg(long)]
        to: SocketAddr,
        /// The line to say
        #[arg(long, default_value = "test")]
        say: String,
        /// How many connections to make, one after the other
        #[arg(long, default_value_t = 1)]
        count: u32,
    },
}

/// What a client's connections brought.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Answers, and how often each came.
    pub answers: BTreeMap<String, u32>,
    /// Errors, and how often each came.
    pub errors: BTreeMap<String, u32>,
    /// What getpeername said, and how often.
    pub peers: BTreeMap<String, u32>,
}

/// Plays it.
pub fn run(part: Part) -> Result<ExitCode> {
    match part {
        Part::Echo { listen, greeting } => echo(listen, &greeting),
        Part::Client { to, say, count } => {
            let tally = client(to, &say, count);
            println!("{}", serde_json::to_string(&tally)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn echo(listen: SocketAddr, greeting: &str) -> Result<ExitCode> {
    let listener =
        TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    // Tells the parent that connections will be accepted from now on.
    println!("listening on {listen}");
    for stream in listener.incoming() {
        let greeting = greeting.to_owned();
        // A failed accept or a client that goes away concerns only that client.
        if let Ok(stream) = stream {
            std::thread::spawn(move || serve(&stream, &greeting));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(stream: &TcpStream, greeting: &str) -> std::io::Result<()> {
    let mut writer = stream;
    for line in BufReader::new(stream).lines() {
        writer.write_all(format!("{greeting} {}\n", line?).as_bytes())?;
    }
    Ok(())
}

/// Makes `count` connections, one after the other.
pub fn client(to: SocketAddr, say: &str, count: u32) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..count {
        match ask(to, say) {
            Ok((answer, peer)) => {
                *tally.answers.entry(answer).or_default() += 1;
                *tally.peers.entry(peer.to_string()).or_default() += 1;
            }
            Err(error) => *tally.errors.entry(error.to_string()).or_default() += 1,
        }
    }
    tally
}

fn ask(to: SocketAddr, say: &str) -> std::io::Result<(String, SocketAddr)> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let peer = stream.peer_addr()?;
    (&stream).write_all(format!("{say}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    Ok((answer.trim_end().to_owned(), peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_tallies_answers_and_peers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = serve(&stream, "hello");
            }
        });
        let tally = client(address, "test", 3);
        assert_eq!(tally.answers, BTreeMap::from([("hello test".to_owned(), 3)]));
        assert_eq!(tally.peers, BTreeMap::from([(address.to_string(), 3)]));
        assert_eq!(tally.errors, BTreeMap::new());
    }

    #[test]
    fn a_refused_connection_is_an_error_in_the_tally() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let tally = client(address, "test", 1);
        assert_eq!(tally.errors.values().sum::<u32>(), 1);
    }
}
