//! A service with two servers, a client, and the daemon that knows them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData};
use redirector_common::abi::{FrontendKey, Side, Verdict};
use redirector_common::addr::Addr;

use crate::child::{self, Child};
use crate::kernel::privileged;
use crate::redirector::Redirector;
use crate::server::Server;
use crate::socket::Socket;

/// The address of the service: loopback, so that what is missed stays here.
pub const ECHO: &str = "127.96.0.10:19000";

/// Two servers, and documents that know them.
#[derive(Debug)]
pub struct Scene {
    /// The program under test.
    pub redirector: Redirector,
    /// The server of the subset `one`, where everything goes at first.
    pub one: Server,
    _two: Server,
}

impl Scene {
    /// One with this program, or with the one that `REDIRECTOR_PROGRAM` names;
    /// none without privilege.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn new(what: &str, program: &str) -> Option<Self> {
        if !privileged() {
            return None;
        }
        let redirector = Redirector::new(what, program);
        let one = Server::start("one", SocketAddr::from(([127, 0, 0, 1], 0)));
        let two = Server::start("two", SocketAddr::from(([127, 0, 0, 2], one.address().port())));
        let scene = Self { redirector, one, _two: two };
        scene.redirector.place.cgroup.child("client");
        scene.redirector.write("base.yaml", &scene.base());
        scene.redirector.write("rules.yaml", &to("one"));
        Some(scene)
    }

    /// The documents but for the rule.
    pub fn base(&self) -> String {
        let port = self.one.address().port();
        let client = self.redirector.cgroup("client");
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: echo}}
spec:
  clusterIP: 127.96.0.10
  selector: {{app: echo}}
  ports: [{{name: tcp, port: 19000, targetPort: {port}}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: one}}
spec: {{address: 127.0.0.1, labels: {{app: echo, v: one}}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: two}}
spec: {{address: 127.0.0.2, labels: {{app: echo, v: two}}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: client, annotations: {{redirector.io/cgroup: {client}}}}}
spec: {{address: 127.0.0.9, labels: {{app: client}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: echo}}
spec:
  host: echo
  subsets: [{{name: one, labels: {{v: one}}}}, {{name: two, labels: {{v: two}}}}]
"
        )
    }

    /// Puts entries into the tables that nobody asked for, on both sides, for an
    /// address that nobody dials, and waits until the daemon has mended that.
    ///
    /// # Panics
    ///
    /// When they cannot be written.
    pub fn meddle_until_mended(&self) {
        let repaired = |status: &serde_json::Value| status["drift"]["repaired"].as_u64();
        let before = repaired(&self.redirector.status().json());
        let current = self.redirector.place.pins().join("current");
        let map = MapData::from_pin(current.join("FRONTENDS")).expect("the map");
        let map = Map::from_map_data(map).expect("a known type");
        let mut frontends: HashMap<_, FrontendKey, Verdict> =
            HashMap::try_from(map).expect("a hash table");
        for side in [Side::of_epoch(0), Side::of_epoch(1)] {
            let addr = Addr::from(std::net::IpAddr::from([127, 96, 66, 66]));
            let key = FrontendKey { addr, port: 66_u16.to_be(), side: side.index() as u16 };
            frontends.insert(key, Verdict::REFUSE, 0).expect("inserted");
        }
        self.redirector.wait("the repair", |status| repaired(status) > before);
    }

    /// The cgroup of the client.
    pub fn client(&self) -> PathBuf {
        self.redirector.place.cgroup.path().join("client")
    }

    /// Who answers a client in this cgroup.
    pub fn answer(&self, cgroup: &Path) -> String {
        child::run(cgroup, || dial(ECHO.parse().expect("an address")))
    }

    /// Dials without a pause until the file is there, and gives every answer
    /// that came, with how often.
    pub fn load(&self, until: &Path) -> Child<Vec<(String, u64)>> {
        let until = until.to_owned();
        child::spawn(&self.client(), move || {
            let mut answers: Vec<(String, u64)> = Vec::new();
            while !until.exists() {
                let answer = dial(ECHO.parse().expect("an address"));
                match answers.iter_mut().find(|(known, _)| *known == answer) {
                    Some((_, count)) => *count += 1,
                    None => answers.push((answer, 1)),
                }
            }
            answers
        })
    }
}

/// The name of the server that answers, or the error; and "but" when
/// `getpeername` does not show what was dialled.
pub fn dial(to: SocketAddr) -> String {
    let ask = || -> std::io::Result<String> {
        let socket = Socket::stream(to, 0)?;
        socket.reset_on_close()?;
        socket.connect(to)?;
        let peer = socket.peer()?;
        let text = socket.read_all()?;
        let name = text.split(' ').next().unwrap_or_default().to_owned();
        Ok(if peer == to { name } else { format!("{name}, but from {peer}") })
    };
    ask().unwrap_or_else(|error| error.to_string())
}

/// Services without endpoints.
pub fn many_services(count: u32) -> String {
    (0..count)
        .map(|number| {
            let [_, _, c, d] = number.to_be_bytes();
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{number}}}\nspec:\n  \
                 clusterIP: 127.97.{c}.{d}\n  ports: [{{name: tcp, port: 80}}]\n"
            )
        })
        .collect()
}

/// A rule that sends everything to a subset.
pub fn to(subset: &str) -> String {
    split(&[(subset, 100)])
}

/// A rule that splits connections among subsets by these weights.
pub fn split(subsets: &[(&str, u32)]) -> String {
    let destinations: Vec<String> = subsets
        .iter()
        .map(|(subset, weight)| {
            format!("    - {{destination: {{host: echo, subset: {subset}}}, weight: {weight}}}\n")
        })
        .collect();
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: echo}}
spec:
  hosts: [echo]
  tcp:
  - route:
{}",
        destinations.concat()
    )
}

/// A gateway at an address, whose rule sends everything to a subset.
pub fn gateway(address: SocketAddr, subset: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: edge, annotations: {{redirector.io/gateway: 'true'}}}}
spec: {{address: {ip}, labels: {{gateway: edge}}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{gateway: edge}}
  servers: [{{port: {{number: {port}, name: tcp, protocol: TCP}}, hosts: ['*']}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: edge}}
spec:
  hosts: [edge.example.com]
  gateways: [edge]
  tcp:
  - route:
    - destination: {{host: echo, subset: {subset}, port: {{number: 19000}}}}
",
        ip = address.ip(),
        port = address.port()
    )
}

/// An address of this machine with a port that nobody listens on.
///
/// # Panics
///
/// When there is none.
pub fn free(ip: [u8; 4]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::from(ip), 0)).expect("a free port");
    listener.local_addr().expect("an address")
}

/// The metrics that are served at an address.
///
/// # Panics
///
/// When there are none.
pub fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("the metrics are served");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}
