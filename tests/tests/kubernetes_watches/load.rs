//! What the watches cost the API server: connections, requests, and who asks.

use redirector::kubernetes::Resource as Watched;

use super::{Agent, cluster, destination, route, wait};

#[test]
fn all_watches_share_one_connection_and_say_who_asks() {
    let mut server = cluster();
    let agent = Agent::start(&server);
    agent.wait_synced();
    wait("all watches", || server.open_watches() == Watched::ALL.len());
    assert_eq!(server.most_connections(), 1);
    let version = concat!("redirector/", env!("CARGO_PKG_VERSION"));
    let used = server.take_used();
    assert!(used.iter().all(|used| used.user_agent == version), "{used:?}");
    // All of them come back at once.
    server.stop();
    server.resume();
    server.apply(route("echo", "two"));
    wait("the change", || destination(&agent, "echo").as_deref() == Some("two"));
    wait("all watches", || server.open_watches() == Watched::ALL.len());
    assert!(server.most_connections() <= 2, "{}", server.most_connections());
}

#[test]
fn a_server_that_speaks_no_http2_is_watched_all_the_same() {
    let server = cluster();
    let agent = Agent::plain(&server);
    agent.wait_synced();
    server.apply(route("echo", "two"));
    wait("the change", || destination(&agent, "echo").as_deref() == Some("two"));
}
