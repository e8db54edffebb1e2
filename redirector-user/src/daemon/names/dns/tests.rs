use std::net::UdpSocket;
use std::sync::mpsc;

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::rdata::CNAME;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn what_one_family_is_and_nobody_knows_of_the_other_takes_nothing_away() {
    let v4 = || Answered::Some(vec![ip("192.0.2.1")], Some(60));
    let v6 = || Answered::Some(vec![ip("fd00::1")], Some(30));
    let none = |gone| Answered::None { gone, ttl: Some(20) };
    let failed = || Answered::Failed("refused".to_owned());
    let found = |addresses: &[&str], ttl| {
        Answered::Some(addresses.iter().map(|one| ip(one)).collect(), Some(ttl))
    };
    assert_eq!(both(v4(), v6()), (found(&["192.0.2.1", "fd00::1"], 30), None));
    assert_eq!(both(v4(), none(false)), (found(&["192.0.2.1"], 20), None));
    assert_eq!(both(v4(), none(true)), (found(&["192.0.2.1"], 20), None), "as old servers say it");
    assert_eq!(both(v4(), failed()), (v4(), Some(Family::V6)));
    assert_eq!(both(failed(), v6()), (v6(), Some(Family::V4)));
    assert_eq!(both(none(true), none(true)), (none(true), None));
    assert_eq!(both(failed(), none(false)), (failed(), None), "it may be one of the other");
    assert_eq!(both(failed(), none(true)), (failed(), None), "as old servers say it");
    assert_eq!(both(none(true), failed()), (none(true), None), "there is none of the other either");
}

#[test]
fn only_what_is_said_of_a_name_and_its_aliases_counts() {
    let asked = name("db.example.com.");
    let is = |owner: &str, ttl, at: &str| Record::from_rdata(name(owner), ttl, ip(at).into());
    let alias = |owner: &str, ttl, target: &str| {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    };
    let chain = [
        is("b.example.com.", 50, "192.0.2.1"),
        is("other.example.com.", 1, "192.0.2.66"),
        alias("A.example.com.", 20, "b.example.com."),
        alias("other.example.com.", 1, "db.example.com."),
        alias("DB.example.com.", 40, "a.example.com."),
    ];
    assert_eq!(of_name(&asked, &chain), Answered::Some(vec![ip("192.0.2.1")], Some(20)));
    let none = Answered::None { gone: false, ttl: None };
    assert_eq!(of_name(&asked, &chain[1..4]), none);
    assert_eq!(of_name(&asked, &[]), none, "an answer without records is no answer");
    let ring = [alias("db.example.com.", 1, "a."), alias("a.", 1, "db.example.com.")];
    assert_eq!(of_name(&asked, &ring), none);
}

/// A server of these names and their addresses. There are no others; it does not answer for
/// AAAA records, but of liar.example, of which it says what another one has, and of those below
/// `ring`, which are aliases.
fn serve(names: &'static [(&str, &str)]) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = socket.local_addr().unwrap();
    // It ends with the test.
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let asked = &query.queries[0];
            let (owner, kind) = (asked.name().clone(), asked.query_type());
            let known = names.iter().find(|(known, _)| name(known) == owner);
            let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
            answer.add_query(asked.clone());
            match (known, kind) {
                (None, _) => answer.metadata.response_code = ResponseCode::NXDomain,
                (Some(("liar.example.", at)), _) => {
                    let other = Record::from_rdata(name("other.example."), 60, ip(at).into());
                    _ = answer.add_answer(other);
                }
                (Some((known, target)), _) if known.ends_with(".ring.") => {
                    let alias = RData::CNAME(CNAME(name(target)));
                    _ = answer.add_answer(Record::from_rdata(owner, 60, alias));
                }
                (Some(_), RecordType::AAAA) => continue,
                (Some((_, at)), _) => {
                    _ = answer.add_answer(Record::from_rdata(owner, 60, ip(at).into()));
                }
            }
            socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
        }
    });
    at
}

fn ask(dns: &mut Dns, name: &str) -> mpsc::Receiver<Looked> {
    let (sender, looked) = mpsc::channel();
    dns.ask(&name.into(), Box::new(move |found| drop(sender.send(found)))).unwrap();
    looked
}

fn files(directory: &Path) -> Files {
    Files { resolv_conf: directory.join("resolv.conf"), hosts: directory.join("hosts") }
}

#[test]
fn the_first_of_the_search_list_that_has_addresses_counts_and_a_silent_family_holds_up_none() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    fs::write(&files.resolv_conf, "search a.example b.example c.example\noptions ndots:2\n")
        .unwrap();
    let known = &[
        ("db.b.example.", "192.0.2.1"),
        ("db.c.example.", "192.0.2.2"),
        ("x.db.", "192.0.2.3"),
        ("x.y.db.", "192.0.2.4"),
        ("x.y.db.a.example.", "192.0.2.5"),
    ];
    let patience = Patience { whole: Duration::from_secs(2), of_gone: Duration::from_secs(2) };
    let mut dns = Dns::reading(files, vec![serve(known)], patience).unwrap();
    let all = [("db", "192.0.2.1"), ("x.db", "192.0.2.3"), ("x.y.db", "192.0.2.4")];
    for ((name, at), looked) in all.map(|one| (one, ask(&mut dns, one.0))) {
        let found = looked.recv().unwrap().unwrap();
        assert_eq!((found.addresses, found.silent), (vec![ip(at)], Some(Family::V6)), "{name}");
    }
    assert!(ask(&mut dns, "none.db").recv().unwrap().unwrap_err().because.contains("NXDOMAIN"));
}

#[test]
fn an_answer_about_another_name_is_not_told_to_say_that_there_are_no_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let known = &[("liar.example.", "192.0.2.66")];
    let mut dns = Dns::reading(files(directory.path()), vec![serve(known)], PATIENCE).unwrap();
    let missed = ask(&mut dns, "liar.example").recv().unwrap().unwrap_err();
    assert!(missed.because.contains("it may be about another name"), "{missed:?}");
}

#[test]
fn of_an_alias_it_is_told_where_it_leads() {
    let directory = tempfile::tempdir().unwrap();
    let known = &[
        ("a.ring.", "b.ring."),
        ("b.ring.", "a.ring."),
        ("c.ring.", "liar.example."),
        ("liar.example.", "192.0.2.66"),
    ];
    let mut dns = Dns::reading(files(directory.path()), vec![serve(known)], PATIENCE).unwrap();
    let mut because = |name| ask(&mut dns, name).recv().unwrap().unwrap_err().because;
    let circle = because("a.ring");
    assert!(circle.ends_with("leads back to itself: a.ring. -> b.ring. -> a.ring."), "{circle}");
    let elsewhere = because("c.ring");
    assert!(elsewhere.contains("an alias (CNAME) of liar.example., and"), "{elsewhere}");
}

#[test]
fn all_lines_of_a_hosts_file_for_one_name_count_however_many_they_are() {
    let line = |n: u32| format!("{} Db.example.com db\n", Ipv4Addr::from(0xC612_0000 + n));
    let text: String = (0..60_000).map(line).collect();
    let hosts = hosts(&format!("\u{feff}fd00::7\tdb\nno.address db\nfe80::1%lo db\n{text}"));
    assert_eq!(hosts[&name("db.example.com.")].len(), 60_000);
    let all = &hosts[&name("db.")];
    assert_eq!((all.len(), all[0], all[60_000]), (60_001, ip("198.18.0.0"), ip("fd00::7")));
}

#[test]
fn hosts_go_before_servers_and_are_read_again_when_they_change() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let text = b"# caf\xe9\n192.0.2.7 db.example.com db # its\nfd00::7 db.example.com\n\
                 240.240.0.9 db.example.com\n";
    fs::write(&files.hosts, text).unwrap();
    let (hosts, resolv_conf) = (files.hosts.clone(), files.resolv_conf.clone());
    let mut dns = Dns::reading(files, Vec::new(), PATIENCE).unwrap();
    let look_up = |dns: &mut Dns| ask(dns, "db.example.com").recv().unwrap().unwrap();
    let found = look_up(&mut dns);
    assert_eq!((found.addresses, found.ttl), (vec![ip("192.0.2.7"), ip("fd00::7")], None));
    assert!(!dns.has_changed());
    fs::write(&hosts, "192.0.2.17 db.example.com\n").unwrap();
    assert!(dns.has_changed() && !dns.has_changed());
    assert_eq!(look_up(&mut dns).addresses, [ip("192.0.2.17")]);
    fs::create_dir(&resolv_conf).unwrap();
    fs::write(&hosts, "192.0.2.27 db.example.com\n").unwrap();
    assert!(!dns.has_changed());
    assert_eq!(look_up(&mut dns).addresses, [ip("192.0.2.17")], "what was read before stays");
    fs::remove_dir(&resolv_conf).unwrap();
    assert!(dns.has_changed() && !dns.has_changed());
    assert_eq!(look_up(&mut dns).addresses, [ip("192.0.2.27")]);
}

#[test]
fn a_resolv_conf_says_servers_search_and_dots_and_one_without_servers_is_good() {
    let (search, servers, options) = resolv_conf(
        "search shop.svc.cluster.local svc.cluster.local\nnameserver 192.0.2.53\nnameserver \
          fd00::53\noptions ndots:5 timeout:2 attempts:1\n",
        true,
    )
    .unwrap();
    let search: Vec<String> = search.iter().map(Name::to_ascii).collect();
    assert_eq!(search, ["shop.svc.cluster.local", "svc.cluster.local"]);
    let ips: Vec<IpAddr> = servers.iter().map(|server| server.ip).collect();
    assert_eq!(ips, [ip("192.0.2.53"), ip("fd00::53")]);
    assert_eq!((options.ndots, options.timeout, options.attempts), (5, Duration::from_secs(2), 1));
    let (_, servers, _) = resolv_conf("search example.com\n", true).unwrap();
    assert_eq!(servers[0].ip, ip("127.0.0.1"));
    let port = server(&"192.0.2.1:5353".parse().unwrap()).connections[0].port;
    assert_eq!(port, 5353);
}
