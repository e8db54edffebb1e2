//! What a report says in words.

use super::*;

#[test]
fn what_is_refused_is_told_with_its_place_what_is_in_force_and_how_to_mend_it() {
    let finding = |line, help: Option<&str>| Finding {
        severity: "error".to_owned(),
        code: "RD2009".to_owned(),
        istio: None,
        message: "it is wrong".to_owned(),
        help: help.map(str::to_owned),
        object: None,
        path: "spec.hosts".to_owned(),
        file: Some("a.yaml".to_owned()),
        line,
        column: 1,
    };
    let refused = |object: Option<&str>, kept, diagnostics| Refused {
        file: "a.yaml".to_owned(),
        object: object.map(str::to_owned),
        kept,
        in_force: None,
        diagnostics,
    };
    let object = Some("VirtualService/default/echo");
    for (one, told) in [
        (
            refused(object, true, vec![finding(7, Some("write it so")), finding(9, None)]),
            "a.yaml:7: VirtualService/default/echo is refused, its last good version stays: it is \
             wrong; write it so",
        ),
        (
            refused(object, false, vec![finding(0, None)]),
            "a.yaml: VirtualService/default/echo is refused, it is absent: it is wrong",
        ),
        (
            refused(None, true, vec![finding(1, None)]),
            "a.yaml:1: the file is refused, the last good version of its objects stays: it is wrong",
        ),
        (
            refused(None, false, Vec::new()),
            "a.yaml: the file is refused, nothing of it is in force: ",
        ),
    ] {
        assert_eq!(one.to_string(), told);
    }
    assert_eq!(finding(7, None).to_string(), "a.yaml:7: spec.hosts: it is wrong (RD2009)");
    assert_eq!(finding(0, None).to_string(), "a.yaml: spec.hosts: it is wrong (RD2009)");
    let nowhere = Finding { file: None, path: String::new(), ..finding(7, None) };
    assert_eq!(nowhere.to_string(), "it is wrong (RD2009)");
}

#[test]
fn an_absent_kind_is_watched_well_and_one_in_trouble_is_told_with_its_help() {
    let watching = |state: &str, error: Option<&str>, help: Option<&str>| Watching {
        resource: "pods".to_owned(),
        state: state.to_owned(),
        since: 0,
        error: error.map(str::to_owned),
        help: help.map(str::to_owned),
    };
    let works =
        ["fine", "absent", "starting", "troubled"].map(|state| watching(state, None, None).works());
    assert_eq!(works, [true, true, false, false]);
    let told = watching("troubled", Some("forbidden"), Some("let it")).to_string();
    assert_eq!(told, "pods is not watched: forbidden (let it)");
    let told = watching("starting", None, None).to_string();
    assert_eq!(told, "pods is not watched: the API server has not answered yet");
}

#[test]
fn what_gateways_suffer_is_told_with_the_address() {
    let address = SocketAddr::from(([192, 0, 2, 1], 80));
    let failing = FailingEndpoint { destination: "db:5432".to_owned(), endpoint: address };
    let told = failing.to_string();
    assert!(told.starts_with("gateways fail to connect to 192.0.2.1:80 of db:5432, "), "{told}");
    let told = StarvedGateway { gateway: "Gateway/a/edge".to_owned(), address }.to_string();
    assert!(told.starts_with("Gateway/a/edge at 192.0.2.1:80 lets clients wait, "), "{told}");
}
