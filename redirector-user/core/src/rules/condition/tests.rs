//! Of conditions and blocks.

use proptest::prelude::*;

use super::*;
use crate::names::MESH;

fn blocks() -> impl Strategy<Value = Block> {
    let subnets =
        prop::sample::subsequence(vec!["10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "0.0.0.0/0"], 0..3);
    let names = prop::sample::subsequence(vec!["mesh", "edge", "ns/other"], 0..3);
    let sni = prop::sample::subsequence(vec!["*", "*.a.example", "b.a.example"], 0..3);
    let labels = prop::sample::subsequence(vec!["app", "version"], 0..3);
    let namespace = prop::sample::select(vec!["", "default", "shop"]);
    let within = prop::sample::select(vec![None, Some("10.0.0.0/8"), Some("10.1.0.0/16")]);
    let port = prop::sample::select(vec![None, Some(0), Some(80), Some(443)]);
    (subnets, names, sni, labels, namespace, within, port).prop_map(
        |(subnets, names, sni, labels, namespace, within, port)| {
            let net = |text: &str| text.parse().expect("a prefix");
            let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
            let l4 = L4Match {
                destination_subnets: subnets.into_iter().map(net).collect(),
                port,
                source_labels: labels
                    .into_iter()
                    .map(|key| (key.to_owned(), "v1".to_owned()))
                    .collect(),
                gateways: owned(names),
                source_namespace: namespace.to_owned(),
                source_subnet: within.map(net),
            };
            Block::new(&l4, &owned(sni) as &Vec<String>, "default")
        },
    )
}

/// Whether a block holds for some connections that differ in everything that
/// is asked.
fn holds(block: &Block) -> Vec<bool> {
    let all: Labels = ["app", "version"].map(|key| (key.to_owned(), "v1".to_owned())).into();
    let app: Labels = [("app".to_owned(), "v1".to_owned())].into();
    let addresses: [IpAddr; 2] = ["10.1.2.3", "10.2.2.3"].map(|ip| ip.parse().expect("one"));
    let clients = [
        Client::default(),
        Client { namespace: Some("default"), labels: Some(&all), ..Client::default() },
        Client {
            namespace: Some("shop"),
            labels: Some(&app),
            addresses: &addresses[..1],
            bypassed: false,
        },
        Client {
            namespace: Some("default"),
            labels: Some(&all),
            addresses: &addresses[1..],
            bypassed: false,
        },
    ];
    let mut results = Vec::new();
    for client in clients {
        let who = Asker::new(client);
        for address in ["10.1.2.3", "10.9.9.9", "192.0.2.1", "fd00::1"] {
            let address = IpNet::from(address.parse::<IpAddr>().expect("one"));
            for gateway in [MESH, "default/edge", "ns/other"] {
                for (port, sni) in
                    [(80, None), (443, Some("b.a.example")), (443, Some("C.A.example"))]
                {
                    let dial = Dial { address, port, gateway, sni: ServerName::Read(sni) };
                    let failing = block.failing(&dial, &who);
                    let left = block.left_over(gateway, port);
                    let left =
                        left.is_some_and(|left| left.failing(&dial, &Asker::new(client)).is_none());
                    assert_eq!(failing.is_none(), left, "{block:?} at {dial:?}");
                    if let Some(condition) = failing {
                        assert!(!condition.because(&dial, &client).is_empty());
                    }
                    results.push(failing.is_none());
                }
            }
        }
    }
    results
}

proptest! {
    #[test]
    fn what_is_left_over_holds_where_the_whole_does_and_what_is_implied_holds_too(
        a in blocks(), b in blocks(),
    ) {
        let (holds_a, holds_b) = (holds(&a), holds(&b));
        if a.implies(&b) {
            prop_assert!(holds_a.iter().zip(&holds_b).all(|(a, b)| !a || *b), "{a:?} {b:?}");
            prop_assert!(a.anchors().contains(&b.anchor()), "{a:?} {b:?}");
        }
    }

    #[test]
    fn what_is_written_down_is_read_again(block in blocks()) {
        let text = serde_json::to_string(&block).expect("it can be written");
        prop_assert_eq!(serde_json::from_str::<Block>(&text).expect("it can be read"), block);
    }
}

#[test]
fn what_asks_for_more_implies_what_asks_for_less_and_not_the_other_way_round() {
    for (narrow, wide) in [
        (r#"{"gateways":["a/one"]}"#, r#"{"gateways":["a/one","a/two"]}"#),
        (r#"{"port":80,"source_namespace":"a"}"#, r#"{"port":80}"#),
        (r#"{"port":80,"source_namespace":"a"}"#, r#"{"source_namespace":"a"}"#),
        (r#"{"destination_subnets":["10.1.0.0/16"]}"#, r#"{"destination_subnets":["10.0.0.0/8"]}"#),
        (r#"{"source_labels":{"app":"a","version":"1"}}"#, r#"{"source_labels":{"app":"a"}}"#),
        (r#"{"source_subnet":"10.1.0.0/16"}"#, r#"{"source_subnet":"10.0.0.0/8"}"#),
        (r#"{"sni_hosts":["a.example"]}"#, r#"{"sni_hosts":["*.EXAMPLE"]}"#),
    ] {
        let [one, other] =
            [narrow, wide].map(|text| serde_json::from_str::<Block>(text).expect("it is read"));
        assert!(one.implies(&other) && one.implies(&one), "{narrow} {wide}");
        assert!(!other.implies(&one), "{wide} {narrow}");
    }
    let [one, other] =
        [80, 81].map(|port| Block::from(Stored { port: Some(port), ..Stored::default() }));
    assert!(!one.implies(&other));
}

#[test]
fn a_server_name_makes_a_difference_where_not_any_will_do() {
    for (text, asks, always) in [
        ("{}", false, true),
        (r#"{"sni_hosts":["*"]}"#, false, true),
        (r#"{"sni_hosts":["a.example","*"]}"#, false, true),
        (r#"{"sni_hosts":["a.example","*.example"]}"#, true, false),
        (r#"{"sni_hosts":["*"],"port":80}"#, false, false),
    ] {
        let block: Block = serde_json::from_str(text).expect("it is read");
        assert_eq!((block.asks_name(), block.always_holds()), (asks, always), "{text}");
    }
}

#[test]
fn a_server_name_decides_as_far_as_it_is_known() {
    use ServerName::{Of, Read, Unknown};
    for (wanted, known, holds, is_open) in [
        ("*", Read(None), true, false),
        ("*", Unknown, true, true),
        ("*.example", Read(Some("A.EXAMPLE")), true, false),
        ("a.example", Read(Some("b.example")), false, false),
        ("a.example", Read(None), false, false),
        ("a.example", Unknown, false, true),
        ("A.example", Of("a.Example"), true, true),
        ("*.example", Of("*.a.example"), true, true),
        ("a.example", Of("*.example"), false, true),
        ("a.other", Of("*.example"), false, false),
    ] {
        let condition = Condition::SniHosts(vec![wanted.to_owned()]);
        let address = IpNet::from(IpAddr::from([192, 0, 2, 1]));
        let dial = Dial { address, port: 443, gateway: MESH, sni: known };
        let who = Asker::new(Client::default());
        let told = (condition.holds(&dial, &who), condition.is_open(&dial));
        assert_eq!(told, (holds, is_open), "{wanted} {known:?}");
    }
}

#[test]
fn why_a_condition_does_not_hold_is_told_with_what_is_there_and_what_is_wanted() {
    let subnet = |text: &str| text.parse::<IpNet>().expect("a prefix");
    let labels: Labels = [("app", "b")].into();
    let addresses = ["192.0.2.7", "192.0.2.8"].map(|ip| ip.parse().expect("an address"));
    let unknown = Client::default();
    let known = Client { labels: Some(&labels), addresses: &addresses, ..unknown };
    let of_labels = Condition::SourceLabels([("app", "a"), ("version", "v1")].into());
    let within = Condition::SourceSubnet(subnet("10.0.0.0/8"));
    let subnets = Condition::DestinationSubnets(vec![subnet("10.0.0.1/32"), subnet("10.1.0.0/16")]);
    for (condition, client, told) in [
        (
            &of_labels,
            unknown,
            "sourceLabels: source is no known workload, rule wants app=a,version=v1",
        ),
        (
            &of_labels,
            known,
            "sourceLabels: app is b, rule wants a; source has no version, rule wants v1",
        ),
        (
            &within,
            unknown,
            "sourceSubnet: no address of the source is known, rule wants 10.0.0.0/8",
        ),
        (&within, known, "sourceSubnet: 192.0.2.7, 192.0.2.8 is not in 10.0.0.0/8"),
        (&subnets, unknown, "destinationSubnets: 192.0.2.1 is not in 10.0.0.1 or 10.1.0.0/16"),
    ] {
        let address = IpNet::from(IpAddr::from([192, 0, 2, 1]));
        let dial = Dial { address, port: 443, gateway: MESH, sni: ServerName::Unknown };
        assert_eq!(condition.because(&dial, &client), told);
    }
}

#[test]
fn blocks_that_earlier_versions_wrote_down_are_read() {
    let text = r#"{"destination_subnets":["10.0.0.0/8"],"source_namespace":"","source_labels":
        {"app":"a"},"source_subnet":null,"sni_hosts":["*.example"]}"#;
    let block: Block = serde_json::from_str(text).expect("it is read");
    let wanted = [
        Condition::DestinationSubnets(vec!["10.0.0.0/8".parse().expect("a prefix")]),
        Condition::SourceLabels([("app", "a")].into()),
        Condition::SniHosts(vec!["*.example".to_owned()]),
    ];
    assert_eq!(*block.conditions, wanted);
}
