//! A service with two servers, a client, and the daemon that knows them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

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
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: echo}}
spec:
  hosts: [echo]
  tcp:
  - route:
    - destination: {{host: echo, subset: {subset}}}
"
    )
}
