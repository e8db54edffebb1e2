//! The access log: a line for each connection that has ended.

use std::io::{Read, Write};
use std::num::NonZero;
use std::sync::Arc;

use redirector::identity::Locals;
use redirector::proxy::{AccessFormat, Proxy, Settings};
use redirector_core::model::Accepting;
use redirector_core::proxy_header::{Version, write};

use crate::kit::*;

#[test]
fn each_connection_is_told_of_at_its_end_with_who_where_how_much_and_why() {
    let port = reserve();
    let (backend, refusing) = (Backend::named("hello"), reserve());
    let mut accepting = Accepting::default();
    accepting.read("redirector.io/accept-proxy-protocol", "127.0.0.0/8").expect("a subnet");
    let setup = Setup::to(port.address, &[refusing.address, backend.address]).with(|config| {
        config.listeners[0].accepting = accepting;
        config.destinations[0].algorithm = redirector_core::plan::Algorithm::RoundRobin;
    });
    let path = std::env::temp_dir().join(format!("redirector-access-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let settings = Settings {
        workers: NonZero::new(1).expect("one"),
        program: env!("CARGO_BIN_EXE_redirector").into(),
        access: Some((AccessFormat::Json, Some(path.clone()))),
        ..Settings::default()
    };
    let proxy = Proxy::start(settings, Arc::new(Locals::default()), Vec::new()).expect("a proxy");
    proxy.update(setup.0).expect("in force");
    let lines = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
    };
    let client = "203.0.113.9:4711".parse().expect("an address");
    let mut stream = connect(port.address);
    let own = stream.local_addr().expect("an address").to_string();
    stream.write_all(&write(Version::V2, client, port.address, b"")).expect("written");
    stream.read_exact(&mut [0; 5]).expect("a greeting");
    stream.write_all(b"bye").expect("written");
    stream.read_exact(&mut [0; 3]).expect("an echo");
    assert!(lines().is_empty(), "it has not ended");
    drop(stream);
    eventually("a line", || lines().len() == 1);
    let line = &lines()[0];
    let of = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    assert_eq!([of("client"), of("via")], ["203.0.113.9:4711".to_owned(), own], "{line}");
    assert_eq!([of("route"), of("server"), of("ended")], ["route-0", "default/gateway", "closed"]);
    assert_eq!(of("endpoint"), backend.address.to_string());
    assert_eq!((&line["sent"], &line["received"]), (&3.into(), &8.into()));
    assert_eq!(line["attempts"], 2, "the first endpoint refuses");
    let mut stream = connect(port.address);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
    assert!(is_reset(&stream));
    eventually("another", || lines().len() == 2);
    assert_eq!(lines()[1]["ended"], "no PROXY header");
    // What ends with the gateway is told, too.
    let mut stream = connect(port.address);
    stream.write_all(&write(Version::V1, client, port.address, b"")).expect("written");
    stream.read_exact(&mut [0; 5]).expect("a greeting");
    drop(stream);
    proxy.shutdown();
    assert_eq!(lines().len(), 3);
    let _ = std::fs::remove_file(&path);
}

#[test]
fn who_is_turned_away_by_a_rule_is_told_of_with_the_rule_and_the_destination_drawn() {
    let ports = [reserve(), reserve(), reserve()];
    let addresses = ports.each_ref().map(|port| port.address);
    let backend = Backend::echo();
    let directory = tempfile::tempdir().expect("a directory");
    let wanted = |format| match format {
        AccessFormat::Text => [
            "route=route-0 destination=destination-0 attempts=0 ",
            "route=route-1 attempts=0 ",
            "route=route-2 destination=destination-2 attempts=0 ",
        ],
        AccessFormat::Json => [
            r#""route":"route-0","destination":"destination-0","attempts":0,"#,
            r#""route":"route-1","attempts":0,"#,
            r#""route":"route-2","destination":"destination-2","attempts":0,"#,
        ],
    };
    for format in [AccessFormat::Text, AccessFormat::Json] {
        let path = directory.path().join(format!("{format:?}"));
        let access = Some((format, Some(path.clone())));
        let proxy = Setup::new(&addresses)
            .route(&[(&[], 1)])
            .route(&[(&[backend.address], 0)])
            .route(&[(&[backend.address], 1)])
            .with(|config| config.destinations[2].max_connections = Some(0))
            .start_as(&Locals::default(), |settings| settings.access = access);
        let why = ["no endpoint", "no endpoint", "destination full"];
        for (place, (wanted, why)) in wanted(format).into_iter().zip(why).enumerate() {
            assert!(is_refused(addresses[place]), "{why}");
            let lines = || std::fs::read_to_string(&path).unwrap_or_default();
            eventually("a line", || lines().lines().count() == place + 1);
            let line = lines().lines().last().unwrap_or_default().to_owned();
            assert!(line.contains(wanted) && line.contains(why), "{line}");
        }
        proxy.shutdown();
    }
}
