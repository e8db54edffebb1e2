//! A DNS server whose answers are said by the test.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

/// How often the threads look whether the server is to end.
const LOOK: Duration = Duration::from_millis(50);

/// For so long the next question of a connection is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is answered to questions about a name.
#[derive(Clone, Debug)]
pub enum Says {
    /// These addresses, for so many seconds.
    Addresses(u32, Vec<IpAddr>),
    /// It is another name for this one, for so many seconds; what is known of that one comes
    /// with it.
    Alias(u32, String),
    /// There is no such name, for so many seconds.
    Nothing(u32),
    /// Nothing at all.
    Silence,
    /// These addresses, and that another name has this one.
    OfAnother(Vec<IpAddr>, String, IpAddr),
}

#[derive(Debug, Default)]
struct Script {
    says: BTreeMap<String, Says>,
    /// How often each was asked about, in questions for A.
    asked: BTreeMap<String, usize>,
}

/// The server, on UDP and TCP of one port of 127.0.0.1.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl DnsServer {
    /// One that knows nothing.
    ///
    /// # Panics
    ///
    /// When it cannot listen.
    pub fn start() -> Self {
        let (udp, tcp) = sockets();
        let address = udp.local_addr().expect("an address");
        let (script, end) = (Arc::<Mutex<Script>>::default(), Arc::new(AtomicBool::new(false)));
        let (said, ends) = (script.clone(), end.clone());
        let datagrams = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !ends.load(Ordering::Relaxed) {
                let Ok((length, from)) = udp.recv_from(&mut buffer) else { continue };
                if let Some((query, answer)) = answer(&said, &buffer[..length]) {
                    let most = usize::from(query.max_payload());
                    let whole = answer.to_vec().expect("a message");
                    let part = || answer.truncate().to_vec().expect("a message");
                    let bytes = if whole.len() > most { part() } else { whole };
                    // Who has gone does not ask any more.
                    let _ = udp.send_to(&bytes, from);
                }
            }
        });
        let (said, ends) = (script.clone(), end.clone());
        let streams = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((stream, _)) => {
                        // It ends with the connection.
                        let said = said.clone();
                        thread::spawn(move || serve(&said, stream));
                    }
                    Err(_) => thread::sleep(LOOK),
                }
            }
        });
        Self { address, script, end, threads: vec![datagrams, streams] }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it says of a name from now on.
    pub fn say(&self, name: &str, says: Says) {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.says.insert(name.to_owned(), says);
    }

    /// The same of addresses.
    ///
    /// # Panics
    ///
    /// When one is none.
    pub fn say_addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let addresses = addresses.iter().map(|one| one.parse().expect("an address"));
        self.say(name, Says::Addresses(ttl, addresses.collect()));
    }

    /// How often it was asked about a name.
    pub fn asked(&self, name: &str) -> usize {
        let script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.asked.get(name).copied().unwrap_or_default()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Sockets of one port that is free for both.
fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        udp.set_read_timeout(Some(LOOK)).expect("a timeout");
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("an address")) {
            tcp.set_nonblocking(true).expect("a flag");
            return (udp, tcp);
        }
    }
}

/// Questions that come by TCP, until there are no more.
fn serve(script: &Mutex<Script>, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query)?;
        if let Some((_, answer)) = answer(script, &query) {
            let bytes = answer.to_vec().map_err(io::Error::other)?;
            let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat())?;
        }
    }
}

fn answer(script: &Mutex<Script>, bytes: &[u8]) -> Option<(Message, Message)> {
    let query = Message::from_vec(bytes).ok()?;
    let question = query.queries.first()?.clone();
    let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
    let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    if question.query_type() == RecordType::A {
        *script.asked.entry(name.clone()).or_default() += 1;
    }
    let mut answer = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_query(question.clone());
    let (mut name, mut owner, kind) = (name, question.name().clone(), question.query_type());
    let is_asked_for = |ip: &&IpAddr| ip.is_ipv4() == (kind == RecordType::A);
    let address =
        |owner: &Name, ttl, ip: &IpAddr| Record::from_rdata(owner.clone(), ttl, RData::from(*ip));
    loop {
        match script.says.get(&name) {
            Some(Says::Silence) => return None,
            Some(Says::Alias(ttl, other)) => {
                let target: Name = format!("{other}.").parse().ok()?;
                let alias = RData::CNAME(CNAME(target.clone()));
                answer.add_answer(Record::from_rdata(owner, *ttl, alias));
                (name, owner) = (other.clone(), target);
                continue;
            }
            Some(Says::Addresses(ttl, all)) => {
                let all = all.iter().filter(is_asked_for);
                answer.add_answers(all.map(|ip| address(&owner, *ttl, ip)));
                if answer.answers.is_empty() {
                    answer.add_authority(authority(*ttl));
                }
            }
            Some(Says::OfAnother(all, other, ip)) => {
                let other: Name = format!("{other}.").parse().ok()?;
                let all = all.iter().filter(is_asked_for);
                answer.add_answers(all.map(|ip| address(&owner, 60, ip)));
                let own = Some(ip).filter(is_asked_for);
                answer.add_answers(own.map(|ip| address(&other, 60, ip)));
            }
            Some(Says::Nothing(ttl)) => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(authority(*ttl));
            }
            None => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(authority(1));
            }
        }
        return Some((query, answer));
    }
}

/// By this it is known for how long there is nothing.
fn authority(ttl: u32) -> Record {
    let soa = SOA::new(Name::root(), Name::root(), 1, 60, 60, 60, ttl);
    Record::from_rdata(Name::root(), ttl, RData::SOA(soa))
}
