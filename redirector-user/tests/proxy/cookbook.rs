//! The recipes of docs/cookbook.md about gateways, as they stand there.

use std::process::Command;
use std::thread;

use crate::documents::serve;
use crate::kit::*;
use crate::peers::Peer;

const PAGE: &str = include_str!("../../../docs/cookbook.md");

/// The blocks of this kind in a section.
fn blocks<'p>(section: &'p str, kind: &str) -> Vec<&'p str> {
    let begins = format!("```{kind}\n");
    let blocks = section.split(&*begins).skip(1);
    blocks.map(|block| block.split("\n```").next().expect("its end")).collect()
}

fn section(title: &str) -> &'static str {
    let mut sections = PAGE.split("\n## ");
    let found = sections.find(|section| section.starts_with(title));
    found.unwrap_or_else(|| panic!("there is no section {title}"))
}

/// Runs the commands of a transcript, and compares what they say.
fn run(transcript: &str) {
    let mut lines = transcript.lines().peekable();
    while let Some(command) = lines.next() {
        let command = command.strip_prefix("$ ").expect("a command");
        let mut said = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("$ ")) {
            said.push(line);
        }
        let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
        assert!(output.status.success(), "{command}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), said.join("\n"), "{command}");
    }
}

#[test]
#[ignore = "needs root and haproxy"]
fn behind_a_load_balancer_and_in_front_of_haproxy_the_server_knows_the_client() {
    let run = thread::spawn(|| {
        // The addresses of the page are this test's alone.
        own_network().expect("a network namespace");
        let section = section("Behind an NLB, and in front of HAProxy");
        let [yaml] = blocks(section, "yaml")[..] else { panic!("one configuration") };
        let [balancer, server] = blocks(section, "haproxy")[..] else { panic!("two servers") };
        let [transcript] = blocks(section, "console")[..] else { panic!("one transcript") };
        let at = |text: &str| text.parse().expect("an address");
        let _server = Peer::start("haproxy", &format!("{server}\n"), at("127.0.0.22:5432"));
        let _gateway = serve(yaml);
        let _balancer = Peer::start("haproxy", &format!("{balancer}\n"), at("127.0.0.20:5432"));
        run(transcript);
    });
    run.join().expect("as the page has it");
}

#[test]
#[ignore = "needs root and haproxy"]
fn three_tenants_on_one_port_are_told_apart_by_server_name() {
    let tried = thread::spawn(|| {
        own_network().expect("a network namespace");
        let directory = tempfile::tempdir().expect("a directory");
        let section = section("SNI passthrough for three tenants on one port");
        let here = |text: &str| text.replace("/etc", &directory.path().to_string_lossy());
        let [yaml] = blocks(section, "yaml")[..] else { panic!("one configuration") };
        let [servers] = blocks(section, "haproxy")[..] else { panic!("one server") };
        let [certificate, transcript] = blocks(section, "console")[..] else { panic!("two") };
        run(&here(certificate));
        let at = "127.0.0.32:8443".parse().expect("an address");
        let _servers = Peer::start("haproxy", &format!("{}\n", here(servers)), at);
        let _gateway = serve(yaml);
        run(transcript);
    });
    tried.join().expect("as the page has it");
}
