//! Sockets that the kernel opens for itself: it connects them, and no program is told when
//! they are closed.

use std::net::SocketAddr;

use redirector_tests::child;
use redirector_tests::gate::Gate;
use redirector_tests::server::Server;
use redirector_tests::socket::Socket;

use super::{Scene, maps};

#[test]
#[ignore = "needs the module `smc`: cargo xtask vm --only kernel_sockets"]
fn kernel_sockets_go_where_they_are_sent_and_count_nowhere() {
    let Some(scene) = Scene::new("smc", 1) else { return };
    // Of this test alone: the address has a server, too.
    let address = "127.96.0.43";
    let at: SocketAddr = format!("{address}:19000").parse().expect("an address");
    let _dialled = Server::start("dialled", at);
    let policy = "{connectionPool: {tcp: {maxConnections: 1}}}";
    let documents = scene.documents(&[(1, 1)], policy).replace("127.96.0.20", address);
    scene.redirector.write("all.yaml", &documents);
    let _daemon = scene.redirector.start_with(&["--accounting"]);
    let gate = Gate::new();
    let client = child::spawn(&scene.client(0), || {
        let dial = |socket: std::io::Result<Socket>| {
            let socket = socket.map_err(|error| error.to_string())?;
            socket.connect(at).map_err(|error| error.to_string())?;
            let answer = socket.read_all().map_err(|error| error.to_string())?;
            Ok::<_, String>((answer, socket.peer().map_err(|error| error.to_string())?, socket))
        };
        let kernels: Vec<_> = (0..3).map(|_| dial(Socket::smc())).collect();
        gate.wait();
        let plain = [(); 2].map(|()| dial(Socket::stream(at, 0)));
        let told = |answer: &Result<(String, _, _), String>| match answer {
            Ok((answer, peer, _)) => format!("{answer}, {peer}"),
            Err(error) => error.clone(),
        };
        (kernels.iter().map(told).collect::<Vec<_>>(), plain.each_ref().map(told))
    });
    gate.gathers(1);
    // While they are open.
    let counted = maps(&scene, "destinations")[0]["connections"].take();
    let counters = scene.redirector.ask("maps", &["counters", "--output", "json"]).json();
    let counters = &counters["counters"];
    gate.open();
    let (kernels, [first, second]) = client.join();
    let endpoint = scene.servers[0].as_ref().expect("a server").address();
    assert_eq!(kernels, vec![format!("dialled {at}, {at}"); 3]);
    assert_eq!(
        (counted, &counters["remembered"], &counters["routed"]),
        (0.into(), &0.into(), &0.into())
    );
    // The rule is in force, and its limit.
    assert_eq!(first, format!("1 {endpoint}, {at}"));
    assert!(second.contains("refused"), "{second}");
}
