//! Connections end to end: what a client and a server see.

use std::net::SocketAddr;

use redirector_tests::child;
use redirector_tests::image::Builder;
use redirector_tests::kernel::{Place, privileged};
use redirector_tests::server::Server;
use redirector_tests::socket::Socket;

/// An address that no test listens on.
fn vip(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn a_connection_goes_to_the_endpoint_and_the_client_sees_what_it_dialled() {
    if !privileged() {
        return;
    }
    let place = Place::new("redirect");
    let server = Server::start("hello", vip("127.0.0.1:0"));
    let frontend = vip("127.96.0.10:19000");
    let mut image = Builder::default();
    let route = image.route(&[server.address()]);
    image.frontend(frontend, route);
    let datapath = place.start(&place.options(), &image.build()).expect("started");

    let (peer, greeting) = child::run(place.cgroup.path(), || {
        let socket = Socket::stream(frontend, 0).expect("a socket");
        socket.connect(frontend).expect("connected");
        (socket.peer().expect("a peer"), socket.read_all().expect("a greeting"))
    });
    assert_eq!(peer, frontend);
    assert_eq!(greeting, format!("hello {}", server.address()));

    for test in datapath.self_test().expect("tested") {
        assert_eq!(test.outcome, Ok(()), "{test:?}");
    }
    let counters = datapath.counters().expect("counters");
    assert_eq!(counters.totals.routed, 1);
    assert_eq!(datapath.connections().expect("connections"), []);
}
