//! What people read fits their terminal, whatever is called how, and names are whole
//! all the same; without a terminal, a record is a line.

use std::net::SocketAddr;

use redirector_tests::program::{Foreign, Leave};
use redirector_tests::redirector::{Answer, Redirector};
use redirector_tests::socket::Socket;
use redirector_tests::terminal::Terminal;
use redirector_tests::{child, kernel};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

/// As an IPv6 address of a Service may be.
const SERVICE: &str = "2001:db8:1234:5678:9abc:def0:1234:5678";

/// A container's cgroup, as kubelet and containerd name it with systemd.
fn container() -> String {
    format!(
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-\
         pod0b1f6a52_5a3e_4a6a_9b0e_6c6f0a1d2e3f.slice/cri-containerd-{}.scope",
        "0123456789abcdef".repeat(4)
    )
}

/// Names as long as they may be.
struct Names {
    namespace: String,
    service: String,
    subset: String,
    workload: String,
}

fn names() -> Names {
    let long = |start: &str| format!("{start}-{}", "x".repeat(62 - start.len()));
    Names {
        namespace: long("namespace"),
        service: long("service"),
        subset: long("subset"),
        workload: format!("{}.{}", long("workload"), long("part")),
    }
}

fn documents(names: &Names, cgroup: &str) -> String {
    let Names { namespace, service, subset, workload } = names;
    let endpoint = |number: u32| format!("2001:db8:ffff:ffff:ffff:ffff:ffff:{number:x}");
    let entries: String = (0xfff0..0xfff4)
        .map(|number| {
            format!(
                "---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: e{number}, namespace: {namespace}}}
spec: {{address: '{}', labels: {{app: echo}}}}
",
                endpoint(number)
            )
        })
        .collect();
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {service}, namespace: {namespace}}}
spec:
  clusterIP: '{SERVICE}'
  selector: {{app: echo}}
  ports: [{{name: tcp, port: 19000, targetPort: 65535}}]
{entries}---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: {workload}
  namespace: {namespace}
  annotations: {{redirector.io/cgroup: {cgroup}}}
spec: {{address: '{}', labels: {{app: client}}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: edge
  namespace: {namespace}
  annotations: {{redirector.io/gateway: 'true'}}
spec: {{address: '2001:db8:aaaa:aaaa:aaaa:aaaa:aaaa:aaaa', labels: {{gateway: edge}}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {service}, namespace: {namespace}}}
spec:
  selector: {{gateway: edge}}
  servers: [{{port: {{number: 65000, name: tcp, protocol: TCP}}, hosts: ['*']}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {service}, namespace: {namespace}}}
spec:
  host: {service}
  trafficPolicy:
    connectionPool: {{tcp: {{maxConnections: 100000}}}}
    outlierDetection: {{consecutive5xxErrors: 5}}
  subsets: [{{name: {subset}, labels: {{app: echo}}}}, {{name: none, labels: {{app: other}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}, namespace: {namespace}}}
spec:
  hosts: [{service}]
  gateways: [mesh, {service}]
  tcp:
  - match: [{{sourceLabels: {{app: client}}}}]
    route:
    - {{destination: {{host: {service}, subset: {subset}}}, weight: 80}}
    - {{destination: {{host: {service}, subset: none}}, weight: 20}}
  - route:
    - destination: {{host: {service}, port: {{number: 19000}}}}
",
        endpoint(1)
    )
}

/// How wide terminals are.
const COLUMNS: [u16; 4] = [60, 80, 120, 200];

fn fits(command: &[&str], text: &str, columns: u16) {
    // What clears the screen has no width.
    for line in text.replace("\u{1b}[H\u{1b}[2J", "").lines() {
        let width = line.chars().count();
        assert!(width <= columns.into(), "{command:?}: {width} > {columns}: {line}\n{text}");
    }
}

/// Whether the text has this, folded or not.
fn has(text: &str, whole: &str) -> bool {
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    squeezed(text).contains(&squeezed(whole))
}

fn ask(redirector: &Redirector, command: &[&str]) -> Answer {
    let answer = redirector.ask(command[0], &command[1..]);
    assert!(answer.exit <= 1, "{command:?}: {answer:?}");
    answer
}

/// What a command answers in a terminal.
fn shown(redirector: &Redirector, command: &[&str], columns: u16) -> String {
    let mut program = redirector.command(command[0]);
    program.args(&command[1..]).env("NO_COLOR", "1");
    let answer = Terminal::answer(program, columns);
    assert!(answer.exit <= 1, "{command:?}: {answer:?}");
    fits(command, &answer.out, columns);
    answer.out
}

#[test]
fn no_line_is_wider_than_its_terminal_and_long_names_are_whole() {
    if !kernel::privileged() {
        return;
    }
    let redirector = Redirector::new("text", PROGRAM);
    let client = redirector.place.cgroup.child(&container());
    let names = names();
    let documents = documents(&names, &redirector.cgroup(&container()));
    redirector.write("all.yaml", &documents);
    let _daemon = redirector.start_with(&["--flows"]);
    redirector.wait("all objects", |status| status["config"]["objects"] == 10);
    let _foreign = Foreign::attach(&client, Leave::Nobody);
    let to: SocketAddr = format!("[{SERVICE}]:19000").parse().expect("an address");
    for _ in 0..20 {
        // Nobody has those addresses: it fails, and is decided all the same.
        child::run(&client, move || {
            let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
            let _ = Socket::new(to, kind, 0).expect("a socket").connect(to);
        });
    }
    let bad = documents.replace("weight: 80", "weight: -80");
    redirector.write("all.yaml", &bad);
    redirector.wait("the refusal", |status| status["config"]["rejected"][0].is_object());

    let rule = format!("VirtualService/{}/{}", names.namespace, names.service);
    let destination = format!("{}.{}.svc.cluster.local", names.service, names.namespace);
    let workload = format!("{}/{}", names.namespace, names.workload);
    let dialled = format!("[{SERVICE}]:19000");
    let shows = |command: &[&str], all: &[&str]| {
        let terminals = COLUMNS.map(|columns| shown(&redirector, command, columns));
        let piped = ask(&redirector, command).out;
        for whole in all {
            assert!(piped.lines().any(|line| line.contains(whole)), "{whole} in {piped}");
            for text in &terminals {
                assert!(has(text, whole), "{whole} is not in {text}");
            }
        }
        piped
    };
    shows(&["status"], &[&container(), &rule, "weight -80 is out of range"]);
    shows(&["maps", "all"], &[&destination, &container(), &rule, SERVICE, "[2001:db8:aaaa"]);
    let explain = ["explain", "--from-workload", &workload, "--to", &dialled];
    shows(&explain, &[&workload, &rule, &format!("{destination}:19000/{}", names.subset)]);
    let flows = shows(&["flows"], &[&workload, &rule, &dialled]);
    assert!(flows.lines().all(|line| line.as_bytes()[2] == b':'), "a line is a record: {flows}");
    let backends = shows(&["maps", "backends"], &[&destination]);
    let rows = ask(&redirector, &["maps", "backends", "-o", "json"]).json();
    let rows = ["destinations", "backends"].map(|part| rows[part].as_array().map_or(0, Vec::len));
    // What it is of, two headings, and what stands between them.
    assert_eq!(backends.lines().count(), rows[0] + rows[1] + 4, "{backends}");
    let names = ask(&redirector, &["maps", "sources", "-o", "name"]).out;
    assert_eq!(names, format!("{workload}\n"));
    let names = ask(&redirector, &["maps", "-o", "name"]).out;
    assert!(names.contains(&format!("sources/{workload}\n")), "{names}");
    shows(&["top", "--interval", "100ms", "--count", "1"], &["80.0%"]);
    let file = redirector.directory().join("other.yaml");
    let other = documents.replace("weight: 80", "weight: 30").replace("[2001", "[2002");
    std::fs::write(&file, other.replace("fff1", "fff9")).expect("a file is written");
    let file = file.to_string_lossy();
    shows(&["diff", &file], &["+ 60.00%"]);
    ask(&redirector, &["bypass", "--workload", &workload]);
    shows(&["status"], &[&format!("{workload} is bypassed")]);
}
