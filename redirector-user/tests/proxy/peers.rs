//! HAProxy and nginx before the gateway, and behind it: what they say to each other of the
//! client by the PROXY protocol.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use redirector::proxy::{Proxy, RuleSpec};
use redirector_core::model::Accepting;

use crate::kit::*;

/// A server of its own, with a directory, until it is dropped.
pub struct Peer {
    child: Child,
    directory: PathBuf,
}

impl Peer {
    /// Starts a program with this configuration, and waits until it listens.
    pub fn start(program: &str, configuration: &str, at: SocketAddr) -> Self {
        let name = format!("redirector-{program}-{}-{}", std::process::id(), at.port());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = directory.join("configuration");
        std::fs::write(&file, configuration).expect("a file");
        let mut command = Command::new(program);
        match program {
            "haproxy" => command.arg("-db").arg("-f").arg(&file),
            _ => {
                let log = directory.join("error.log");
                command.arg("-e").arg(log).arg("-p").arg(&directory).arg("-c").arg(&file)
            }
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
        let why = "cargo xtask setup installs it";
        let peer =
            Self { child: child.unwrap_or_else(|error| panic!("{error}: {why}")), directory };
        eventually(program, || TcpStream::connect(at).is_ok());
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// HAProxy, relaying to this server.
fn haproxy(at: SocketAddr, to: SocketAddr, how: &str) -> Peer {
    let configuration = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
         listen l\n bind {at}\n server s {to} {how}\n"
    );
    Peer::start("haproxy", &configuration, at)
}

/// nginx, with these servers of its stream module.
fn nginx(at: SocketAddr, server: &str) -> Peer {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    assert!(Path::new(module).exists(), "cargo xtask setup installs nginx's stream module");
    let configuration = format!(
        "load_module {module};\ndaemon off;\nmaster_process off;\npid nginx.pid;\n\
         events {{}}\nstream {{ server {{ {server} }} }}\n"
    );
    Peer::start("nginx", &configuration, at)
}

/// A gateway that believes its own machine, before this endpoint, which it tells the client.
fn gateway(at: SocketAddr, endpoint: SocketAddr) -> Proxy {
    let mut accepting = Accepting::default();
    accepting.read("redirector.io/accept-proxy-protocol", "127.0.0.1").expect("an address");
    Setup::to(at, &[endpoint])
        .rule(RuleSpec { announced: true, ..always(0) })
        .with(|config| config.listeners[0].accepting = accepting)
        .start()
}

#[test]
fn behind_haproxy_and_before_nginx_the_client_is_told_all_the_way() {
    let ports = [(); 4].map(|()| reserve());
    let [text, binary, edge, behind] = ports.each_ref().map(|port| port.address);
    let answers = format!(
        "listen {behind} reuseport proxy_protocol; return \"$proxy_protocol_addr \
         $proxy_protocol_port $proxy_protocol_server_port\";"
    );
    let _nginx = nginx(behind, &answers);
    let proxy = gateway(edge, behind);
    let _haproxies = [
        haproxy(text, edge, "send-proxy"),
        haproxy(binary, edge, "send-proxy-v2 proxy-v2-options unique-id,crc32c"),
    ];
    for before in [text, binary] {
        let stream = connect(before);
        let own = stream.local_addr().expect("an address").port();
        let answer = String::from_utf8(read_all(&stream).expect("an answer")).expect("text");
        assert_eq!(answer, format!("127.0.0.1 {own} {}", before.port()));
    }
    let status = proxy.status().expect("a status");
    assert_eq!(status.listeners[0].counts.refused, [0; 8], "{status:?}");
}

#[test]
fn behind_nginx_and_before_haproxy_the_client_is_told_all_the_way() {
    let ports = [(); 3].map(|()| reserve());
    let [before, edge, behind] = ports.each_ref().map(|port| port.address);
    let configuration = format!(
        "defaults\n mode http\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
         frontend f\n bind {behind} accept-proxy\n http-request return status 200 content-type \
         text/plain lf-string \"%[src] %[src_port] %[dst_port]\"\n"
    );
    let _haproxy = Peer::start("haproxy", &configuration, behind);
    let _gateway = gateway(edge, behind);
    let server = format!("listen {before} reuseport; proxy_pass {edge}; proxy_protocol on;");
    let _nginx = nginx(before, &server);
    let mut stream = connect(before);
    let own = stream.local_addr().expect("an address").port();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let expected = format!("{} {own} {}", Ipv4Addr::LOCALHOST, before.port());
    assert!(answer.ends_with(&expected), "{answer} has not {expected}");
}
