//! From documents to relayed bytes: the compiled gateway plan in the proxy.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use redirector::datapath::{SourceKey, cgroup_of_socket};
use redirector::identity::{Local, Locals};
use redirector::proxy::{Config, GatewayVerdict, Proxy, Request, decide};
use redirector_core::compile::compile;
use redirector_core::model::SourceId;
use redirector_core::world::{Settings, World};
use rustix::net::{AddressFamily, SocketType, bind, socket};

use crate::kit::*;
use crate::short::written_out;

/// Loopback addresses that no other test uses, in this process or another.
fn own_addresses<const N: usize>() -> [Ipv4Addr; N] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let first = NEXT.fetch_add(N as u8, Ordering::Relaxed);
    std::array::from_fn(|n| Ipv4Addr::new(127, 100 ^ high, low, first + n as u8))
}

/// A gateway workload, and a Gateway with this annotation that selects it.
fn gateway(name: &str, address: Ipv4Addr, annotation: &str) -> String {
    format!(
        "WorkloadEntry istio-system/{name} {{annotations: {{redirector.io/gateway: 'true'}}}}:
  {{address: {address}, labels: {{istio: {name}}}}}
Gateway istio-system/{name} {{annotations: {{{annotation}}}}}:
  selector: {{istio: {name}}}
  servers:
  - hosts: ['*']
    port: {{name: tcp, number: 19000, protocol: TCP}}
"
    )
}

/// A host with these endpoints.
fn host(name: &str, backends: &[&Backend]) -> String {
    let mut text = format!(
        "ServiceEntry istio-system/{name}:
  hosts: [{name}.example]
  resolution: STATIC
  location: MESH_INTERNAL
  ports: [{{name: tcp, number: 19000, protocol: TCP}}]
  endpoints:
"
    );
    for backend in backends {
        let (ip, port) = (backend.address.ip(), backend.address.port());
        let _ = writeln!(text, "  - {{address: {ip}, ports: {{tcp: {port}}}}}");
    }
    text
}

/// A VirtualService of these gateways.
fn rules(gateways: &str, tcp: &str) -> String {
    format!(
        "VirtualService istio-system/rules:
  hosts: ['*']
  gateways: [{gateways}]
{tcp}
"
    )
}

fn configuration(yaml: &str) -> Config {
    let reading = redirector_core::documents::read(None, &written_out(yaml));
    let mut world = World::new(Settings::default());
    for read in &reading.objects {
        let object = read.object.clone();
        let object = object.unwrap_or_else(|| panic!("refused: {:#?}", reading.diagnostics));
        world.insert(object);
    }
    Config::of_plan(&compile(&world).plan)
}

pub fn serve(yaml: &str) -> Proxy {
    let proxy = Setup::new(&[]).start();
    let status = proxy.update(configuration(yaml)).expect("in force");
    assert!(!status.listeners.is_empty(), "something is served");
    proxy
}

fn name(gateway: Ipv4Addr) -> String {
    let stream = connect(SocketAddr::from((gateway, 19000)));
    stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    String::from_utf8(read_all(&stream).expect("a name")).expect("text")
}

#[test]
fn two_gateways_with_one_port_have_their_own_rules() {
    let [one, two] = own_addresses();
    let (a, b) = (Backend::named("hello"), Backend::named("hello-2"));
    let yaml = gateway("ingressgateway-1", one, "")
        + &gateway("ingressgateway-2", two, "")
        + &host("first", &[&a])
        + &host("second", &[&b])
        + &rules(
            "ingressgateway-1, ingressgateway-2",
            "  tcp:
  - match: [{gateways: [ingressgateway-2]}]
    route: [{destination: {host: second.example}}]
  - route: [{destination: {host: first.example}}]",
        );
    let _proxy = serve(&yaml);
    for _ in 0..5 {
        assert_eq!(name(one), "hello");
        assert_eq!(name(two), "hello-2");
    }
}

#[test]
fn a_legs_counters_name_its_host_and_its_subset() {
    let [one] = own_addresses();
    let a = Backend::named("a");
    let policy = "DestinationRule istio-system/first: {host: first.example, subsets: [{name: v1}]}
";
    let to = |subset: &str| format!("{{destination: {{host: first.example{subset}}}, weight: 1}}");
    let yaml = gateway("ingressgateway-1", one, "")
        + &host("first", &[&a])
        + policy
        + &rules(
            "ingressgateway-1",
            &format!("  tcp:\n  - route: [{}, {}]", to(", subset: v1"), to("")),
        );
    let proxy = serve(&yaml);
    for _ in 0..50 {
        name(one);
    }
    let legs = proxy.status().expect("a status").legs;
    let names: Vec<_> = legs
        .iter()
        .map(|leg| (&*leg.route, &*leg.destination.to, leg.destination.subset.as_deref()))
        .collect();
    let route = "VirtualService/istio-system/rules tcp[0]";
    let to = "first.example:19000";
    assert_eq!(names, [(route, to, None), (route, to, Some("v1"))]);
    assert!(legs.iter().all(|leg| leg.taken > 0), "{legs:?}");
}

#[test]
fn destination_subnets_are_compared_with_the_address_dialled() {
    let [one, two] = own_addresses();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let yaml = gateway("ingressgateway-1", one, "")
        + &gateway("ingressgateway-2", two, "")
        + &host("first", &[&a])
        + &host("second", &[&b])
        + &rules(
            "ingressgateway-1, ingressgateway-2",
            &format!(
                "  tcp:
  - match: [{{destinationSubnets: ['{two}/32']}}]
    route: [{{destination: {{host: second.example}}}}]
  - match: [{{destinationSubnets: ['{one}']}}]
    route: [{{destination: {{host: first.example}}}}]"
            ),
        );
    let _proxy = serve(&yaml);
    assert_eq!((name(one), name(two)), ("a".into(), "b".into()));
}

#[test]
fn clients_of_this_namespace_are_known_by_their_cgroup_and_others_by_their_address() {
    let [gateway_address, shop] = own_addresses();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let client = |name: &str, namespace: &str, address: Ipv4Addr| {
        format!(
            "WorkloadEntry {namespace}/{name}: {{address: {address}, labels: {{app: {name}}}}}
"
        )
    };
    let (bank, twice) = (Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(192, 0, 2, 8));
    let yaml = gateway("ingressgateway-1", gateway_address, "")
        + &client("shop", "default", shop)
        + &client("bank", "money", bank)
        + &client("one", "money", twice)
        + &client("other", "money", twice)
        + &host("first", &[&a])
        + &host("second", &[&b])
        + &rules(
            "ingressgateway-1",
            "  tcp:
  - match: [{sourceLabels: {app: shop}}]
    route: [{destination: {host: first.example}}]
  - match: [{sourceNamespace: money}]
    route: [{destination: {host: second.example}}]",
        );
    let locals = Locals::default();
    let proxy = Setup::new(&[]).start_knowing(Duration::from_millis(200), &locals);
    proxy.update(configuration(&yaml)).expect("in force");
    let gateway = SocketAddr::from((gateway_address, 19000));
    let from = |address: Ipv4Addr| {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&socket, &SocketAddr::from((address, 0))).expect("the client's address");
        rustix::net::connect(&socket, &gateway).expect("connected");
        TcpStream::from(socket)
    };
    let said = |mut stream: TcpStream| {
        let mut said = [0];
        stream.read_exact(&mut said).map(|()| said[0]).ok()
    };
    // Whoever is here can have any address of this namespace.
    assert_eq!(said(from(shop)), None, "its address makes it no other");
    // What the kernel says of any socket of this process.
    let any = connect(a.address);
    let [own, peer] = [any.local_addr(), any.peer_addr()].map(|address| address.expect("one"));
    let id = cgroup_of_socket(own, peer).expect("sock_diag").expect("its cgroup");
    let key = SourceKey::Cgroup { id, level: 1 };
    let source = SourceId { namespace: "default".into(), name: "shop".into() };
    assert!(locals.set(vec![Local { key, directories: Vec::new(), source }]));
    proxy.forget();
    // Asked afterwards, it is answered afterwards.
    proxy.status().expect("a status");
    for address in [shop, gateway_address] {
        assert_eq!(said(from(address)), Some(b'a'));
    }
    // From elsewhere there is nothing but the address, where it says who it is.
    let config = configuration(&yaml);
    let decided = |client: Ipv4Addr| {
        let client = SocketAddr::from((client, 4711));
        let request = Request { client, dialled: gateway, sni: None };
        decide(&config.listeners[0], &config.clients, &request, &locals)
    };
    assert_eq!(decided(bank), GatewayVerdict::Route { route: 1, rule: 1 });
    assert_eq!(decided(twice), GatewayVerdict::Refuse, "it is of two");
    assert_eq!(decided(shop), GatewayVerdict::Refuse, "whose socket is gone");
}

#[test]
fn weights_and_policies_come_from_the_documents() {
    let [one] = own_addresses();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let yaml = gateway("ingressgateway-1", one, "")
        + &host("first", &[&a])
        + &host("second", &[&b])
        + &rules(
            "ingressgateway-1",
            "  tcp:
  - route:
    - {destination: {host: first.example}, weight: 80}
    - {destination: {host: second.example}, weight: 20}",
        )
        + "DestinationRule istio-system/first:
  host: first.example
  trafficPolicy:
    connectionPool:
      tcp:
        maxConnections: 7
        connectTimeout: 3s
        idleTimeout: 0s
        maxConnectionDuration: 90s
        tcpKeepalive: {probes: 4, time: 60s, interval: 5s}
";
    let config = configuration(&yaml);
    let first = &config.destinations[0];
    assert_eq!(first.max_connections, Some(7));
    assert_eq!(first.connect_timeout.as_secs(), 3);
    let keepalive = first.keepalive.expect("keepalive");
    assert_eq!((keepalive.probes, keepalive.time.map(|t| t.as_secs())), (Some(4), Some(60)));
    assert_eq!(config.routes[0].idle_timeout, None);
    assert_eq!(config.routes[0].max_duration.map(|t| t.as_secs()), Some(90));
    assert_eq!(config.destinations[1].connect_timeout.as_secs(), 10);
    let written = serde_json::to_string(&config).expect("data");
    assert_eq!(serde_json::from_str::<Config>(&written).expect("the same"), config);
    let proxy = serve(&yaml);
    let named_a = (0..400).filter(|_| name(one) == "a").count();
    assert!((280..=360).contains(&named_a), "about 320 of 400, got {named_a}");
    let status = proxy.status().expect("a status");
    let leg = &status.legs[0];
    assert_eq!(&*leg.route, "VirtualService/istio-system/rules tcp[0]");
    assert_eq!(leg.destination.to_string(), "first.example:19000");
}

#[test]
fn an_annotation_switches_the_proxy_protocol_on() {
    let [one] = own_addresses();
    let a = Backend::new(|mut stream| {
        let mut header = [0; 28];
        stream.read_exact(&mut header).expect("a header");
        stream.write_all(&header[..12]).expect("written");
    });
    let annotation = "redirector.io/proxy-protocol: v2";
    let yaml = gateway("ingressgateway-1", one, annotation)
        + &host("first", &[&a])
        + &rules("ingressgateway-1", "  tcp: [{route: [{destination: {host: first.example}}]}]");
    let _proxy = serve(&yaml);
    let stream = connect((one, 19000).into());
    assert_eq!(read_all(&stream).expect("the signature"), b"\r\n\r\n\0\r\nQUIT\n");
}

#[test]
fn a_destination_rule_has_endpoints_told_the_client_in_the_version_that_it_names() {
    let [one] = own_addresses();
    let a = Backend::new(|mut stream| {
        let mut first = [0; 6];
        stream.read_exact(&mut first).expect("a header");
        stream.write_all(&first).expect("written");
        // Closed with a part of the header unread, it would reset the client.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let rule = |version: &str| {
        format!(
            "DestinationRule istio-system/first: {{host: first.example, trafficPolicy: {{proxyProtocol: {{{version}}}}}}}
"
        )
    };
    let rest = gateway("ingressgateway-1", one, "redirector.io/proxy-protocol: v2")
        + &host("first", &[&a])
        + &rules("ingressgateway-1", "  tcp: [{route: [{destination: {host: first.example}}]}]");
    let proxy = serve(&(rule("") + &rest));
    for (version, begins) in
        [("", b"PROXY "), ("version: V2", b"\r\n\r\n\0\r"), ("version: V1", b"PROXY ")]
    {
        proxy.update(configuration(&(rule(version) + &rest))).expect("in force");
        let mut said = [0; 6];
        connect((one, 19000).into()).read_exact(&mut said).expect("a header");
        assert_eq!(said, *begins, "{version}");
    }
}

#[test]
fn an_annotation_says_who_announces_clients_and_without_it_nobody_does() {
    let a = Backend::echo();
    let header = b"PROXY TCP4 203.0.113.9 198.51.100.7 4711 443\r\n";
    let rules =
        rules("ingressgateway-1", "  tcp: [{route: [{destination: {host: first.example}}]}]");
    let annotation = "redirector.io/accept-proxy-protocol: '127.0.0.0/8'";
    for (annotation, heard) in [(annotation, &b"hello"[..]), ("", b"PROXY")] {
        let [one] = own_addresses();
        let yaml = gateway("ingressgateway-1", one, annotation) + &host("first", &[&a]) + &rules;
        let _proxy = serve(&yaml);
        let mut stream = connect((one, 19000).into());
        stream.write_all(&[&header[..], b"hello"].concat()).expect("written");
        let mut said = [0; 5];
        stream.read_exact(&mut said).expect("echoed");
        assert_eq!(said, heard);
    }
}

#[test]
fn gateways_that_share_a_port_announce_the_clients_of_their_own_rules_only() {
    let [one] = own_addresses();
    // Answers with the first byte: of a PROXY protocol header, or of a ClientHello.
    let a = Backend::new(|mut stream| {
        let mut first = [0];
        stream.read_exact(&mut first).expect("a byte");
        stream.write_all(&first).expect("written");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let tls = |text: String| {
        text.replace(
            "    port: {name: tcp, number: 19000, protocol: TCP}",
            "    port: {name: tls, number: 19000, protocol: TLS}\n    tls: {mode: PASSTHROUGH}",
        )
    };
    let workload_and_old = tls(gateway("edge", one, ""));
    let (_, old) = workload_and_old.split_once("Gateway ").expect("two documents");
    let meta = "newer {creationTimestamp: 2024-01-02T00:00:00Z, annotations: \
                {redirector.io/proxy-protocol: v2";
    let new = format!("Gateway {}", old.replacen("edge {annotations: {", meta, 1));
    let rule = |gateways: &str, name: &str| {
        rules(gateways, &format!("  tls:\n  - match: [{{sniHosts: [{name}.example.org]}}]\n    route: [{{destination: {{host: first.example}}}}]"))
            .replace("system/rules", &format!("system/{name}"))
            .replace("hosts: ['*']", "hosts: ['*.example.org']")
    };
    let yaml = workload_and_old.clone()
        + &new
        + &host("first", &[&a])
        + &rule("edge", "plain")
        + &rule("newer", "announced")
        + &rule("newer, edge", "both");
    let _proxy = serve(&yaml);
    for (server, first) in [("plain", 22), ("announced", b'\r'), ("both", 22)] {
        let mut stream = connect((one, 19000).into());
        let hello = crate::tls::client_hello(&format!("{server}.example.org"), 1 << 14);
        stream.write_all(&hello).expect("written");
        let mut said = [0];
        stream.read_exact(&mut said).expect("a byte");
        assert_eq!(said, [first], "{server}");
    }
}

#[test]
fn servers_that_end_tls_or_speak_http_are_refused_and_the_others_of_the_gateway_work() {
    let [one] = own_addresses();
    let a = Backend::named("a");
    let tcp = "  - hosts: ['*']\n    port: {name: tcp, number: 19000, protocol: TCP}\n";
    let others = "  - hosts: ['*']
    port: {name: http, number: 19001, protocol: HTTP}
  - hosts: ['*']
    port: {name: tls, number: 19002, protocol: TLS}
    tls: {mode: SIMPLE, credentialName: cert}
  - hosts: ['*']
    port: {name: tls-auto, number: 19003, protocol: TLS}
    tls: {mode: AUTO_PASSTHROUGH}
";
    let yaml = gateway("ingressgateway-1", one, "").replace(tcp, &(others.to_owned() + tcp))
        + &host("first", &[&a])
        + &rules("ingressgateway-1", "  tcp: [{route: [{destination: {host: first.example}}]}]");
    let _proxy = serve(&yaml);
    assert_eq!(name(one), "a");
    for port in 19001..=19003 {
        let refused = TcpStream::connect((one, port)).expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{port}");
    }
}

#[test]
fn a_passthrough_server_routes_by_server_name() {
    let [one] = own_addresses();
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let yaml = gateway("ingressgateway-1", one, "").replace(
        "    port: {name: tcp, number: 19000, protocol: TCP}",
        "    port: {name: tls, number: 19000, protocol: TLS}\n    tls: {mode: PASSTHROUGH}",
    ) + &host("first", &[&a])
        + &host("second", &[&b])
        + &rules(
            "ingressgateway-1",
            "  tls:
  - match: [{sniHosts: [a.example.org]}]
    route: [{destination: {host: first.example}}]
  - match: [{sniHosts: ['*.example.org']}]
    route: [{destination: {host: second.example}}]",
        )
        .replace("hosts: ['*']\n  gateways", "hosts: ['*.example.org']\n  gateways");
    let _proxy = serve(&yaml);
    for (server, backend) in [("a.example.org", b'a'), ("other.example.org", b'b')] {
        let mut stream = connect((one, 19000).into());
        stream.write_all(&crate::tls::client_hello(server, 1 << 14)).expect("written");
        let mut said = [0];
        stream.read_exact(&mut said).expect("a name");
        assert_eq!(said, [backend], "{server}");
    }
    let mut stream = connect((one, 19000).into());
    stream.write_all(&crate::tls::client_hello("a.example.com", 1 << 14)).expect("written");
    assert!(is_reset(&stream));
}
