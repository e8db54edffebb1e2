//! TCP servers for the tests.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// How many connections servers have.
#[derive(Debug, Default)]
pub struct Gauge {
    open: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
}

impl Gauge {
    /// Now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// At any moment so far.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// In all.
    pub fn all(&self) -> usize {
        self.all.load(Ordering::SeqCst)
    }

    /// Serves one, until the client closes it.
    fn serve(&self, mut client: TcpStream, name: &str) {
        self.all.fetch_add(1, Ordering::SeqCst);
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        let _ = client.write_all(name.as_bytes());
        let _ = client.shutdown(Shutdown::Write);
        let _ = io::copy(&mut client, &mut io::sink());
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How many clients a server keeps: one that closed at once would reset those
/// that have sent something.
const KEPT: usize = 64;

/// A server that greets each client with its name and the address that the
/// client has reached, and says that nothing else will come.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    listener: i32,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on an address; port 0 takes a free one.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub fn start(name: &str, address: impl Into<SocketAddr>) -> Self {
        let name = name.to_owned();
        let mut kept = VecDeque::new();
        Self::accepting(address.into(), move |mut client| {
            let reached = client.local_addr().map(|address| address.to_string());
            let greeting = format!("{name} {}\n", reached.unwrap_or_default());
            let _ = client.write_all(greeting.as_bytes());
            let _ = client.shutdown(Shutdown::Write);
            kept.push_back(client);
            if kept.len() > KEPT {
                kept.pop_front();
            }
        })
    }

    /// One that greets each client with its name alone, and counts it for as long as
    /// the client stays.
    ///
    /// # Panics
    ///
    /// When it cannot listen.
    pub fn counting(name: &str, address: impl Into<SocketAddr>, gauge: &Arc<Gauge>) -> Self {
        let (name, gauge) = (name.to_owned(), gauge.clone());
        Self::accepting(address.into(), move |client| {
            let (name, gauge) = (name.clone(), gauge.clone());
            thread::spawn(move || gauge.serve(client, &name));
        })
    }

    fn accepting(address: SocketAddr, mut take: impl FnMut(TcpStream) + Send + 'static) -> Self {
        let listener =
            TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().expect("a bound listener");
        // SAFETY: the descriptor is open; a long queue keeps bursts of
        // connections from being dropped, and Fast Open is let in.
        unsafe {
            libc::listen(listener.as_raw_fd(), 4096);
            let queue: libc::c_int = 256;
            libc::setsockopt(
                listener.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_FASTOPEN,
                std::ptr::from_ref(&queue).cast(),
                size_of_val(&queue) as libc::socklen_t,
            );
        }
        let stop = Arc::new(AtomicBool::new(false));
        let descriptor = listener.as_raw_fd();
        let thread = thread::spawn({
            let stop = stop.clone();
            move || {
                while let Ok((client, _)) = listener.accept() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    take(client);
                }
            }
        });
        Self { address, listener: descriptor, stop, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // SAFETY: the listener is open until its thread ends; shutting it down
        // ends the accept that the thread waits in.
        unsafe { libc::shutdown(self.listener, libc::SHUT_RD) };
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
