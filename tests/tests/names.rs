//! Names of ServiceEntries, asked of a DNS server that says what it is told to.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use redirector::daemon::names::{Resolved, Resolver, Setup, Via, resolve};
use redirector_tests::dns::{DnsServer, Says};

fn via(server: &DnsServer) -> Via {
    Via::Dns { servers: vec![server.address()] }
}

fn names(all: &[&str]) -> BTreeSet<Arc<str>> {
    all.iter().map(|name| Arc::from(*name)).collect()
}

fn addresses(resolved: &Resolved, name: &str) -> String {
    let found = resolved.answers.get(name).map(|found| &found.addresses);
    let all = found.into_iter().flatten().map(IpAddr::to_string).collect::<Vec<_>>();
    all.join(" ")
}

#[test]
fn both_families_aliases_and_how_long_they_hold() {
    let server = DnsServer::start();
    server.say_addresses("db.example.com", 60, &["192.0.2.1", "fd00::1", "192.0.2.2"]);
    server.say_addresses("six.example.com", 70, &["fd00::2"]);
    server.say("alias.example.com", Says::Alias(20, "db.example.com".to_owned()));
    let all = names(&["db.example.com", "six.example.com", "alias.example.com"]);
    let resolved = resolve(&via(&server), &all);
    assert!(resolved.failed.is_empty(), "{resolved:?}");
    assert_eq!(addresses(&resolved, "db.example.com"), "192.0.2.1 192.0.2.2 fd00::1");
    assert_eq!(addresses(&resolved, "six.example.com"), "fd00::2");
    assert_eq!(addresses(&resolved, "alias.example.com"), "192.0.2.1 192.0.2.2 fd00::1");
    let ttl = |name: &str| resolved.answers[name].ttl.map(|ttl| ttl.as_secs());
    assert_eq!(ttl("db.example.com"), Some(60));
    assert_eq!(ttl("alias.example.com"), Some(20), "the shortest of the chain");
}

#[test]
fn what_is_no_answer_to_the_question_is_none() {
    let server = DnsServer::start();
    server.say("gone.example.com", Says::Nothing(30));
    server.say_addresses("empty.example.com", 30, &[]);
    let address = IpAddr::from([192, 0, 2, 66]);
    let other = |own| Says::OfAnother(own, "another.example.com".to_owned(), address);
    server.say("asked.example.com", other(Vec::new()));
    server.say("mixed.example.com", other(vec![IpAddr::from([192, 0, 2, 1])]));
    let all = ["gone.example.com", "empty.example.com", "asked.example.com", "mixed.example.com"];
    let resolved = resolve(&via(&server), &names(&all));
    assert_eq!(resolved.answers.len(), 1, "{resolved:?}");
    assert_eq!(addresses(&resolved, "mixed.example.com"), "192.0.2.1");
    assert!(resolved.failed["gone.example.com"].contains("NXDOMAIN"), "{resolved:?}");
    assert!(resolved.failed["empty.example.com"].contains("neither A nor AAAA"), "{resolved:?}");
    assert_eq!(resolved.failed.len(), 3);
}

#[test]
fn more_addresses_than_a_datagram_holds_come_by_tcp() {
    let server = DnsServer::start();
    let many = (0..1500_u32).map(|n| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n)));
    server.say("many.example.com", Says::Addresses(60, many.collect()));
    let resolved = resolve(&via(&server), &names(&["many.example.com"]));
    assert!(resolved.failed.is_empty(), "{resolved:?}");
    assert_eq!(resolved.answers["many.example.com"].addresses.len(), 1500);
}

#[test]
fn an_answer_is_asked_for_again_when_it_holds_no_longer_and_a_silent_name_holds_up_none() {
    let server = DnsServer::start();
    server.say_addresses("db.example.com", 1, &["192.0.2.1"]);
    server.say_addresses("long.example.com", 3600, &["192.0.2.9"]);
    for silent in 0..20 {
        server.say(&format!("silent-{silent}.example.com"), Says::Silence);
    }
    let (sender, answers) = mpsc::channel();
    let setup = Setup { via: via(&server), again: Duration::from_secs(3600) };
    let mut resolver =
        Resolver::start(&setup, move |resolved| sender.send(resolved).is_ok()).expect("a thread");
    let mut wanted = names(&["db.example.com", "long.example.com"]);
    wanted.extend((0..20).map(|silent| Arc::from(format!("silent-{silent}.example.com"))));
    resolver.want(&wanted);
    let until = |address: &str| {
        while addresses(&answers.recv().expect("an answer"), "db.example.com") != address {}
    };
    until("192.0.2.1");
    server.say_addresses("db.example.com", 1, &["192.0.2.2"]);
    until("192.0.2.2");
    assert_eq!(server.asked("long.example.com"), 1);
    assert!(server.asked("db.example.com") > 1);
}
