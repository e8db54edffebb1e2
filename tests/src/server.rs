//! TCP servers for the tests.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

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
        let address = address.into();
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
            let (stop, name) = (stop.clone(), name.to_owned());
            move || {
                let mut kept = VecDeque::new();
                while let Ok((mut client, _)) = listener.accept() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let reached = client.local_addr().map(|address| address.to_string());
                    let greeting = format!("{name} {}\n", reached.unwrap_or_default());
                    let _ = client.write_all(greeting.as_bytes());
                    let _ = client.shutdown(Shutdown::Write);
                    kept.push_back(client);
                    if kept.len() > KEPT {
                        kept.pop_front();
                    }
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
