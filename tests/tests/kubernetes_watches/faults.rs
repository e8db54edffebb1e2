//! What the server does to watches: forgets, cuts, refuses, fails, and is restored
//! from a backup.

use std::time::Duration;

use redirector::kubernetes::trouble::Trouble as Why;
use redirector::kubernetes::{Health, Resource as Watched, Timing};
use redirector_core::model::Kind;
use redirector_core::store::Store;
use redirector_tests::apiserver::{ApiServer, Rule, TOKEN, Trouble, Used};
use serde_json::json;

use super::{Agent, NODE, cluster, destination, node, pod, route, service, timing, wait};

#[test]
fn a_server_that_forgets_a_kind_for_a_moment_changes_nothing() {
    let server = cluster();
    let agent = Agent::start(&server);
    agent.wait_synced();
    let batches = agent.batches();
    server.order("", "networking.istio.io", usize::MAX, Trouble::Status(404));
    server.cut_watches();
    agent.wait_health(Watched::VirtualServices, |health| {
        *health == Health::Troubled(Why::NotServed)
    });
    assert_eq!(agent.names(Kind::VirtualService), ["echo"]);
    server.behave();
    agent.wait_health(Watched::VirtualServices, |health| *health == Health::Fine);
    assert_eq!(
        (agent.names(Kind::VirtualService), agent.batches()),
        (vec!["echo".into()], batches)
    );
}

#[test]
fn a_kind_that_stays_gone_is_believed_to_be_gone() {
    let server = cluster();
    let timing = Timing { absent: Duration::from_millis(50), ..timing() };
    let agent = Agent::with(&server, timing, TOKEN, Store::default());
    agent.wait_synced();
    server.order("", "networking.istio.io", usize::MAX, Trouble::Status(404));
    server.cut_watches();
    agent.wait_names(Kind::VirtualService, &[]);
    agent.wait_health(Watched::VirtualServices, |health| *health == Health::Absent);
}

#[test]
fn only_the_oldest_version_being_served_is_enough() {
    let server = ApiServer::start();
    server.apply(node());
    server.apply(route("echo", "one"));
    server.serve_versions("virtualservices", &["v1alpha3"]);
    let agent = Agent::start(&server);
    agent.wait_synced();
    assert_eq!(agent.names(Kind::VirtualService), ["echo"]);
    // A cluster that is upgraded under the agent.
    server.serve_versions("virtualservices", &["v1", "v1beta1"]);
    server.apply(route("echo", "two"));
    wait("the change", || destination(&agent, "echo").as_deref() == Some("two"));
}

#[test]
fn cut_watches_and_expired_versions_lose_nothing() {
    let server = cluster();
    let agent = Agent::start(&server);
    agent.wait_synced();
    for round in 0..10 {
        server.set_streaming_lists(round < 5);
        let name = format!("r{round}");
        server.cut_watches();
        server.apply(route(&name, "one"));
        server.delete("VirtualService", "default", &format!("r{}", round - 1));
        if round % 2 == 0 {
            server.compact();
        }
        server.cut_watches();
        agent.wait_names(Kind::VirtualService, &["echo", &name]);
    }
    agent.wait_health(Watched::VirtualServices, |health| *health == Health::Fine);
}

#[test]
fn a_watch_goes_on_from_a_bookmark_where_its_last_event_has_expired() {
    let server = cluster();
    server.set_bookmarks(Duration::from_millis(30));
    let agent = Agent::start(&server);
    agent.wait_synced();
    for i in 0..5 {
        server.apply(service(&format!("s{i}"), "10.96.0.1"));
    }
    wait("the services", || agent.names(Kind::Service).len() == 5);
    // Sooner or later every watch was told the newest version before it is cut,
    // also those without events.
    let resumed = (0..50).any(|round| {
        std::thread::sleep(Duration::from_millis(100));
        server.compact();
        server.take_used();
        server.cut_watches();
        let host = format!("round-{round}");
        server.apply(route("echo", &host));
        wait("the change", || destination(&agent, "echo").as_deref() == Some(&*host));
        let list = |used: &Used| used.target.contains("sendInitialEvents");
        !server.take_used().iter().any(list)
    });
    assert!(resumed, "a list was needed every time");
}

#[test]
fn what_is_in_force_stays_while_the_server_is_away() {
    let mut server = cluster();
    server.apply(pod("mine", NODE));
    let agent = Agent::start(&server);
    agent.wait_synced();
    server.stop();
    agent.wait_health(Watched::Services, |health| {
        matches!(health, Health::Troubled(Why::Unreachable(_)))
    });
    assert_eq!(agent.names(Kind::VirtualService), ["echo"]);
    assert_eq!(agent.names(Kind::Pod), ["mine"]);
    server.apply(route("meanwhile", "one"));
    server.delete("VirtualService", "default", "echo");
    server.resume();
    agent.wait_names(Kind::VirtualService, &["meanwhile"]);
    agent.wait_health(Watched::Services, |health| *health == Health::Fine);
}

#[test]
fn a_refused_watch_says_which_permission_is_missing_and_comes_back() {
    let server = cluster();
    let rule = |group: &str, resource: &str| {
        ["list", "watch"].map(|verb| Rule {
            namespace: String::new(),
            group: group.into(),
            resource: resource.into(),
            verb: verb.into(),
            name: String::new(),
        })
    };
    let all = Watched::ALL.iter().flat_map(|r| rule(r.group(), r.plural()));
    let without = all.filter(|rule| rule.resource != "virtualservices").collect();
    server.allow_only(without);
    let agent = Agent::start(&server);
    agent.wait_health(Watched::VirtualServices, |health| match health {
        Health::Troubled(why @ Why::Forbidden(_)) => {
            let help = why.help(Watched::VirtualServices).unwrap();
            help.contains("virtualservices") && help.contains("networking.istio.io")
        }
        _ => false,
    });
    agent.wait_health(Watched::Services, |health| *health == Health::Fine);
    assert_eq!(agent.batches(), 0, "half of a configuration is none");
    server.allow_all();
    agent.wait_synced();
    assert_eq!(agent.names(Kind::VirtualService), ["echo"]);
}

/// An agent whose token the server takes no more.
fn expired() -> (ApiServer, Agent) {
    let server = cluster();
    let agent = Agent::start(&server);
    agent.wait_synced();
    server.accept_tokens(&["another"]);
    server.cut_watches();
    agent.wait_health(Watched::OwnPods, |health| *health == Health::Troubled(Why::Unauthorized));
    (server, agent)
}

#[test]
fn a_token_that_expired_is_named_and_what_is_in_force_stays() {
    let (server, agent) = expired();
    assert_eq!(agent.names(Kind::VirtualService), ["echo"]);
    server.accept_tokens(&[TOKEN]);
    agent.wait_health(Watched::OwnPods, |health| *health == Health::Fine);
}

#[test]
fn a_kubeconfig_that_is_written_anew_is_taken_when_the_old_credentials_are_refused() {
    let (server, agent) = expired();
    // While it is written it is nothing at all.
    let path = agent.directory.path().join("kubeconfig");
    std::fs::write(&path, "{").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.kubeconfig(agent.directory.path(), "another");
    for resource in Watched::ALL {
        agent.wait_health(resource, |health| *health == Health::Fine);
    }
    server.apply(route("echo", "two"));
    wait("the change", || destination(&agent, "echo").as_deref() == Some("two"));
}

#[test]
fn an_overloaded_or_failing_server_is_asked_again() {
    let server = cluster();
    for trouble in [
        Trouble::Status(429),
        Trouble::Status(500),
        Trouble::Status(503),
        Trouble::Hangup,
        Trouble::Garbage,
        Trouble::ErrorEvent(500),
    ] {
        server.order("list", "", 3, trouble.clone());
        server.order("watch", "", 3, trouble);
    }
    let agent = Agent::start(&server);
    agent.wait_synced();
    assert_eq!(agent.names(Kind::VirtualService), ["echo"]);
    server.apply(route("echo", "two"));
    wait("the change", || destination(&agent, "echo").as_deref() == Some("two"));
}

#[test]
fn what_a_watch_lost_is_found_by_the_comparison() {
    let server = cluster();
    let timing = Timing { compare: Duration::from_millis(300), ..timing() };
    let agent = Agent::with(&server, timing, TOKEN, Store::default());
    agent.wait_synced();
    // Stored behind the watches' back, as after a restore from a backup.
    let mut lost = route("lost", "one");
    lost["metadata"]["resourceVersion"] = json!("2");
    lost["metadata"]["uid"] = json!("x");
    server.restore(lost);
    agent.wait_names(Kind::VirtualService, &["echo", "lost"]);
    wait("the count", || agent.watches.borrow().drifted >= 1);
}

#[test]
fn what_was_written_behind_the_watches_back_is_found_by_a_comparison_of_versions() {
    let server = cluster();
    let (compare, settle) = (Duration::from_millis(30), Duration::from_millis(30));
    let agent =
        Agent::with(&server, Timing { compare, settle, ..timing() }, TOKEN, Store::default());
    agent.wait_synced();
    // There are as many as before.
    let mut other = server.get("VirtualService", "default", "echo").unwrap();
    other["spec"]["tcp"][0]["route"][0]["destination"]["host"] = json!("two");
    other["metadata"]["resourceVersion"] = json!("3");
    server.restore(other);
    wait("the change", || destination(&agent, "echo").as_deref() == Some("two"));
    wait("the count", || agent.watches.borrow().drifted >= 1);
}

#[test]
fn a_server_that_was_restored_from_a_backup_is_listed_anew() {
    // Whether the connection was lost for a moment, for longer, or not at all.
    let all = ["cut", "away", "compared"].map(|how| [(how, true), (how, false)]);
    for (how, streams) in all.into_iter().flatten() {
        let mut server = cluster();
        server.set_streaming_lists(streams);
        let compare = match how {
            "compared" => Duration::from_millis(300),
            _ => timing().compare,
        };
        let timing = Timing { compare, ..timing() };
        let agent = Agent::with(&server, timing, TOKEN, Store::default());
        agent.wait_synced();
        let backup = server.backup();
        server.apply(route("later", "one"));
        agent.wait_names(Kind::VirtualService, &["echo", "later"]);
        match how {
            "cut" => {
                server.go_back(backup);
                server.cut_watches();
            }
            "away" => {
                server.stop();
                let away = |health: &Health| matches!(health, Health::Troubled(_));
                agent.wait_health(Watched::VirtualServices, away);
                server.go_back(backup);
                server.resume();
            }
            _ => server.go_back(backup),
        }
        agent.wait_names(Kind::VirtualService, &["echo"]);
        server.apply(route("new", "one"));
        agent.wait_names(Kind::VirtualService, &["echo", "new"]);
    }
}
