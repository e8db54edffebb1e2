//! The reference document as data: each section's files, who dials what, and
//! what must come back.

/// Where an echo server listens, and what it answers.
pub struct Server {
    /// Address and port.
    pub endpoint: &'static str,
    /// What it answers.
    pub greeting: &'static str,
}

/// The echo servers of the sample configuration.
pub const SERVERS: &[Server] = &[
    Server { endpoint: "10.244.1.10:9000", greeting: "hello" },
    Server { endpoint: "10.244.1.11:9000", greeting: "hello-gray" },
    Server { endpoint: "10.244.2.10:9000", greeting: "hello-2" },
];

/// The cluster IP and port of the service echo-server.
pub const ECHO_SERVER: &str = "10.96.0.10:19000";
/// The cluster IP and port of the service echo-server-2.
pub const ECHO_SERVER_2: &str = "10.96.0.20:19000";

/// Where the first gateway listens.
const GATEWAY_1: &str = "10.244.9.1:19000";
/// Where the second gateway listens.
const GATEWAY_2: &str = "10.244.9.2:19000";

/// Addresses that the demo's network namespace has, beside the servers'.
pub const GATEWAY_ADDRESSES: &[&str] = &["10.244.9.1", "10.244.9.2"];

/// A client of the demo, named by the cgroup it runs in.
pub type Client = &'static str;

const TELNET_CLIENT: Client = "telnet-client";
const TELNET_CLIENT_2: Client = "telnet-client-2";
const TELNET_CLIENT_FOO: Client = "telnet-client-foo";
/// A process that belongs to no workload.
const NOBODY: Client = "nobody";

/// Every client, and its workload.
const WORKLOADS: &[(Client, &str)] = &[
    (TELNET_CLIENT, "default/telnet-client"),
    (TELNET_CLIENT_2, "default/telnet-client-2"),
    (TELNET_CLIENT_FOO, "foo/telnet-client-foo"),
];

/// All clients.
pub const CLIENTS: &[Client] = &[TELNET_CLIENT, TELNET_CLIENT_2, TELNET_CLIENT_FOO, NOBODY];

/// What must come back.
pub enum Expect {
    /// This greeting.
    Greeting(&'static str),
    /// Many connections, split by these weights.
    Split(&'static [(&'static str, u32)]),
    /// What `explain` says of it.
    Explained,
}

/// One thing to try.
pub struct Row {
    /// Who dials.
    pub from: Client,
    /// What it dials.
    pub to: &'static str,
    /// The Gateway that listens there, as `namespace/name`; none where the
    /// kernel decides.
    pub gateway: Option<&'static str>,
    /// What must come back.
    pub expect: Expect,
}

impl Row {
    /// The workload that dials, as `namespace/name`; none for a process that is
    /// in no workload.
    pub fn workload(&self) -> Option<&'static str> {
        WORKLOADS.iter().find(|one| one.0 == self.from).map(|one| one.1)
    }
}

/// A section of the document, or a variation of one.
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// The rules, a file in deploy/demo.
    pub rules: &'static str,
    /// Whether the canary version is deployed.
    pub canary: bool,
    /// What is tried.
    pub rows: &'static [Row],
    /// A file in deploy/demo that `redirector check` is shown on as well.
    pub check: Option<&'static str>,
}

const fn row(from: Client, to: &'static str, greeting: &'static str) -> Row {
    Row { from, to, gateway: None, expect: Expect::Greeting(greeting) }
}

/// A client from outside, through a gateway.
const fn through(gateway: &'static str, to: &'static str, greeting: &'static str) -> Row {
    Row { from: NOBODY, to, gateway: Some(gateway), expect: Expect::Greeting(greeting) }
}

/// The sections, in the document's order.
pub const SECTIONS: &[Section] = &[
    Section {
        title: "Match by destination subnet (destinationSubnets), the block as printed",
        about: "192.168.0.0/16 does not hold the cluster IP 10.96.0.10: no rule matches, and the \
                service itself answers",
        rules: "destination-subnets-as-printed.yaml",
        canary: false,
        rows: &[row(TELNET_CLIENT, ECHO_SERVER, "hello")],
        check: None,
    },
    Section {
        title: "Match by destination subnet (destinationSubnets), adjusted to this environment",
        about: "10.96.0.0/16 holds the cluster IP of echo-server; echo-server-2 has no rule",
        rules: "destination-subnets.yaml",
        canary: false,
        rows: &[
            row(TELNET_CLIENT, ECHO_SERVER, "hello-2"),
            row(TELNET_CLIENT_2, ECHO_SERVER, "hello-2"),
            row(TELNET_CLIENT, ECHO_SERVER_2, "hello-2"),
        ],
        check: None,
    },
    Section {
        title: "Match by destination port (port)",
        about: "port 19000 of echo-server goes to echo-server-2",
        rules: "port.yaml",
        canary: false,
        rows: &[
            row(TELNET_CLIENT, ECHO_SERVER, "hello-2"),
            row(TELNET_CLIENT_FOO, ECHO_SERVER, "hello-2"),
            row(NOBODY, ECHO_SERVER, "hello-2"),
        ],
        check: None,
    },
    Section {
        title: "Match by source labels (sourceLabels)",
        about: "only workloads labelled app: telnet-client go to echo-server-2",
        rules: "source-labels.yaml",
        canary: false,
        rows: &[
            row(TELNET_CLIENT, ECHO_SERVER, "hello-2"),
            row(TELNET_CLIENT_2, ECHO_SERVER, "hello"),
            row(TELNET_CLIENT_FOO, ECHO_SERVER, "hello"),
            row(NOBODY, ECHO_SERVER, "hello"),
        ],
        check: None,
    },
    Section {
        title: "Match by gateway (gateways)",
        about: "the same port at two gateways: the first leads to echo-server, the second to \
                echo-server-2; workloads that dial the service are not concerned",
        rules: "gateways.yaml",
        canary: false,
        rows: &[
            through("istio-system/ingressgateway-1", GATEWAY_1, "hello"),
            through("istio-system/ingressgateway-2", GATEWAY_2, "hello-2"),
            row(TELNET_CLIENT, ECHO_SERVER, "hello"),
            row(TELNET_CLIENT_2, ECHO_SERVER, "hello"),
        ],
        check: None,
    },
    Section {
        title: "Match by source namespace (sourceNamespace)",
        about: "namespace foo goes to echo-server-2, everybody else to echo-server",
        rules: "source-namespace.yaml",
        canary: false,
        rows: &[
            row(TELNET_CLIENT_FOO, ECHO_SERVER, "hello-2"),
            row(TELNET_CLIENT, ECHO_SERVER, "hello"),
            row(TELNET_CLIENT_2, ECHO_SERVER, "hello"),
            row(NOBODY, ECHO_SERVER, "hello"),
        ],
        check: None,
    },
    Section {
        title: "Weighted routing across subsets",
        about: "80 of 100 connections go to the prod version, 20 to the gray one; \
                the example as printed has two slips, which `redirector check` names",
        rules: "weighted-subsets.yaml",
        canary: true,
        rows: &[Row {
            from: TELNET_CLIENT,
            to: ECHO_SERVER,
            gateway: None,
            expect: Expect::Split(&[("hello", 80), ("hello-gray", 20)]),
        }],
        check: Some("weighted-subsets-as-printed.yaml"),
    },
    Section {
        title: "AND, OR and first match",
        about: "all conditions of a block must hold, one block is enough, and the first rule wins \
                also where a narrower subnet stands below a wider one",
        rules: "and-or-first-match.yaml",
        canary: true,
        rows: &[
            row(TELNET_CLIENT, ECHO_SERVER, "hello-gray"),
            row(TELNET_CLIENT_2, ECHO_SERVER, "hello-2"),
            row(TELNET_CLIENT_FOO, ECHO_SERVER, "hello-2"),
            row(NOBODY, ECHO_SERVER, "hello-gray"),
        ],
        check: None,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_every_section_exists() {
        let demo = crate::workspace::root().join("deploy/demo");
        for section in SECTIONS {
            for file in [Some(section.rules), section.check].into_iter().flatten() {
                assert!(demo.join(file).is_file(), "{file}");
            }
        }
    }

    #[test]
    fn every_greeting_is_one_that_a_server_gives() {
        let known = |greeting: &str| SERVERS.iter().any(|server| server.greeting == greeting);
        for row in SECTIONS.iter().flat_map(|section| section.rows) {
            match &row.expect {
                Expect::Greeting(greeting) => assert!(known(greeting), "{greeting}"),
                Expect::Split(parts) => assert!(parts.iter().all(|part| known(part.0))),
                Expect::Explained => {}
            }
        }
    }
}
