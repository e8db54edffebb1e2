//! The configurations that are measured.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// Where the server listens. Endpoints are other addresses of the same
/// listener: all of 127.0.0.0/8 is local.
pub const PORT: u16 = 9000;

/// The workload that clients run in, by its cgroup's name below the stage's.
pub const CLIENT: &str = "client";

/// No frontend: what every other connection of the node pays.
pub const MISS: SocketAddr = v4([127, 0, 0, 1], PORT);
/// A Service without a rule, with one endpoint.
pub const PLAIN: SocketAddr = v4([10, 96, 0, 10], 19000);
/// A rule with source labels, two weighted subsets and two endpoints in each.
pub const FULL: SocketAddr = v4([10, 96, 0, 20], 19000);

const fn v4(ip: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]), port))
}

/// How many Services stand in one file: a file may hold only so many values.
const PER_FILE: u32 = 10_000;

/// The documents of all files. `more` Services without a rule stand beside those
/// that are dialled.
pub fn files(client_cgroup: &str, more: u32) -> Vec<String> {
    let mut files = vec![dialled(client_cgroup)];
    for first in (0..more).step_by(PER_FILE as usize) {
        let mut text = String::new();
        for number in first..more.min(first + PER_FILE) {
            let [_, a, b, c] = number.to_be_bytes();
            service(&mut text, &format!("more-{number}"), v4([11, a, b, c], 19000), "plain");
        }
        files.push(text);
    }
    files
}

fn dialled(client_cgroup: &str) -> String {
    let mut text = format!(
        "\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: client, annotations: {{redirector.io/cgroup: {client_cgroup}}}}}
spec: {{address: 127.1.0.1, labels: {{app: client}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: full}}
spec:
  host: full.default.svc.cluster.local
  subsets:
    - {{name: one, labels: {{version: one}}}}
    - {{name: two, labels: {{version: two}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: full}}
spec:
  hosts: [full.default.svc.cluster.local]
  tcp:
    - match: [{{sourceLabels: {{app: client}}, port: 19000}}]
      route:
        - {{destination: {{host: full.default.svc.cluster.local, subset: one}}, weight: 80}}
        - {{destination: {{host: full.default.svc.cluster.local, subset: two}}, weight: 20}}
"
    );
    service(&mut text, "plain", PLAIN, "plain");
    service(&mut text, "full", FULL, "full");
    workload(&mut text, "plain", "one", [127, 0, 1, 1]);
    workload(&mut text, "full-1", "one", [127, 0, 2, 1]);
    workload(&mut text, "full-2", "one", [127, 0, 2, 2]);
    workload(&mut text, "full-3", "two", [127, 0, 2, 3]);
    workload(&mut text, "full-4", "two", [127, 0, 2, 4]);
    text
}

fn service(text: &mut String, name: &str, address: SocketAddr, app: &str) {
    let _ = write!(
        text,
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  clusterIP: {}
  selector: {{app: {app}}}
  ports: [{{name: tcp, port: {}, targetPort: {PORT}}}]
",
        address.ip(),
        address.port()
    );
}

fn workload(text: &mut String, name: &str, version: &str, address: [u8; 4]) {
    let app = name.split('-').next().unwrap_or(name);
    let _ = write!(
        text,
        "---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}}}
spec: {{address: {}, labels: {{app: {app}, version: {version}}}}}
",
        Ipv4Addr::from(address)
    );
}

/// The same for nftables: a map from address and port to the server's address.
pub fn nftables(services: u32) -> String {
    let mut text = String::from(
        "table ip bench {\n map services {\n  type ipv4_addr . inet_service : ipv4_addr . inet_service\n  elements = {\n",
    );
    let _ = write!(text, "   {} . {} : 127.0.1.1 . {PORT}", PLAIN.ip(), PLAIN.port());
    for number in 1..services {
        let [_, a, b, c] = number.to_be_bytes();
        let _ = write!(text, ",\n   11.{a}.{b}.{c} . 19000 : 127.0.1.1 . {PORT}");
    }
    text += "\n  }\n }\n chain output {\n  type nat hook output priority -100;\n  \
             dnat ip to ip daddr . tcp dport map @services\n }\n}\n";
    text
}
