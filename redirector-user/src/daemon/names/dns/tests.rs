use std::sync::mpsc;

use super::*;

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn what_one_family_is_and_nobody_knows_of_the_other_takes_nothing_away() {
    let v4 = || Answered::Some(vec![ip("192.0.2.1"), ip("192.0.2.1")], Some(60));
    let v6 = || Answered::Some(vec![ip("fd00::1")], Some(30));
    let none = |gone| Answered::None { gone, ttl: Some(20) };
    let failed = || Answered::Failed("refused".to_owned());
    let found = |addresses: &[&str], silent, ttl| {
        let addresses = addresses.iter().map(|one| ip(one)).collect();
        Ok(Found { addresses, silent, ttl })
    };
    let missed = |because: &str, ttl| Err(Missed { because: because.to_owned(), ttl });
    assert_eq!(both(v4(), v6()), found(&["192.0.2.1", "fd00::1"], None, seconds(30)));
    assert_eq!(both(v4(), none(false)), found(&["192.0.2.1"], None, seconds(20)));
    assert_eq!(both(v4(), failed()), found(&["192.0.2.1"], Some(Family::V6), seconds(60)));
    assert_eq!(both(failed(), v6()), found(&["fd00::1"], Some(Family::V4), seconds(30)));
    let gone = "there is no such name (NXDOMAIN)";
    assert_eq!(both(none(true), none(true)), missed(gone, seconds(20)));
    assert_eq!(both(failed(), none(false)), missed("refused", None), "it may be one of the other");
}

#[test]
fn hosts_go_before_servers_and_are_read_again_when_they_change() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files {
        resolv_conf: directory.path().join("resolv.conf"),
        hosts: directory.path().join("hosts"),
    };
    fs::write(
        &files.hosts,
        "192.0.2.7 db.example.com db # its\nfd00::7 db.example.com\n240.240.0.9 db.example.com\n",
    )
    .unwrap();
    let hosts = files.hosts.clone();
    let mut dns = Dns::reading(files, Vec::new()).unwrap();
    let look_up = |dns: &mut Dns| {
        let (sender, looked) = mpsc::channel();
        let done = move |found| drop(sender.send(found));
        dns.ask(&"db.example.com".into(), Box::new(done)).unwrap();
        looked.recv().unwrap().unwrap()
    };
    let found = look_up(&mut dns);
    assert_eq!((found.addresses, found.ttl), (vec![ip("192.0.2.7"), ip("fd00::7")], None));
    assert!(!dns.has_changed());
    fs::write(&hosts, "192.0.2.17 db.example.com\n").unwrap();
    assert!(dns.has_changed() && !dns.has_changed());
    assert_eq!(look_up(&mut dns).addresses, [ip("192.0.2.17")]);
}

#[test]
fn a_resolv_conf_says_servers_search_and_dots_and_one_without_servers_is_good() {
    let (search, servers, options) = resolv_conf(
        b"search shop.svc.cluster.local svc.cluster.local\nnameserver 192.0.2.53\nnameserver \
          fd00::53\noptions ndots:5 timeout:2 attempts:1\n",
        true,
    )
    .unwrap();
    let search: Vec<String> = search.iter().map(Name::to_ascii).collect();
    assert_eq!(search, ["shop.svc.cluster.local", "svc.cluster.local"]);
    let ips: Vec<IpAddr> = servers.iter().map(|server| server.ip).collect();
    assert_eq!(ips, [ip("192.0.2.53"), ip("fd00::53")]);
    assert_eq!((options.ndots, options.timeout, options.attempts), (5, Duration::from_secs(2), 1));
    let (_, servers, _) = resolv_conf(b"search example.com\n", true).unwrap();
    assert_eq!(servers[0].ip, ip("127.0.0.1"));
    let port = server(&"192.0.2.1:5353".parse().unwrap()).connections[0].port;
    assert_eq!(port, 5353);
}
