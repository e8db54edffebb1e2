//! `redirector top` and `status --watch` in a pseudo-terminal, with a gateway.

use redirector_tests::scene::{Scene, dial, free, gateway, split};
use redirector_tests::terminal::Terminal;

const PROGRAM: &str = env!("CARGO_BIN_EXE_redirector-under-test");

#[test]
fn top_shows_gateways_too_sorts_filters_scrolls_and_ends_on_q() {
    let Some(scene) = Scene::new("screen", PROGRAM) else { return };
    let redirector = &scene.redirector;
    let edge = free([127, 0, 0, 1]);
    redirector.write("rules.yaml", &split(&[("one", 50), ("two", 50)]));
    redirector.write("gateway.yaml", &gateway(edge, "one"));
    let _daemon = redirector.start();
    assert_eq!(dial(edge), "one");

    let json = redirector.ask("top", &["--interval", "100ms", "--count", "1", "-o", "json"]).json();
    let of_gateway = &json["gateways"][0];
    assert_eq!(of_gateway["route"], "VirtualService/default/edge tcp[0]", "{json:#}");
    let destination = &of_gateway["destinations"][0];
    let host = "echo.default.svc.cluster.local:19000";
    let named = destination["destination"].as_str().is_some_and(|name| name.starts_with(host));
    assert!(named && destination["weight"].is_null(), "{json:#}");

    let mut command = redirector.command("top");
    command.args(["--interval", "200ms"]).env("NO_COLOR", "1");
    let mut terminal = Terminal::start(command, 100, 8);
    let screen = terminal.wait("the first screen", |text| text.contains(" routes"));
    assert!(screen.contains("sort: rate"), "{screen}");
    terminal.press("s");
    terminal.wait("another order", |text| text.contains("sort: name"));
    terminal.press("/edge\r");
    let filtered = terminal.wait("a filter", |text| text.contains("filter: edge (esc)"));
    // The rule's own weights are among the kernel's routes.
    assert!(filtered.contains("2 of 3 routes"), "{filtered}");
    terminal.wait("only that", |text| text.contains("default/edge tcp[0] (gateway)"));
    // By the arrow, and back to all by escape.
    terminal.press("\u{1b}[B");
    terminal.press("\u{1b}");
    terminal.wait("all of them", |text| text.contains("/ filter"));
    terminal.resize(60, 20);
    terminal.wait("the size", |text| text.contains("default/echo tcp[0]"));
    terminal.press("q");
    let answer = terminal.end();
    assert_eq!(answer.exit, 0, "{answer:?}");
    // The screen before, and the cursor, are there again.
    assert!(answer.out.contains("\u{1b}[?1049l") && answer.out.contains("\u{1b}[?25h"));

    // A signal ends it as one does, and gives the terminal back, too.
    let mut terminal = Terminal::start(redirector.command("top"), 100, 8);
    terminal.wait("the first screen", |text| text.contains(" routes"));
    terminal.terminate();
    let answer = terminal.end();
    assert_eq!(answer.exit, -1, "{answer:?}");
    assert!(answer.out.contains("\u{1b}[?1049l") && answer.out.contains("\u{1b}[?25h"));

    let status = redirector.ask("status", &[]);
    let line = status.out.lines().find(|line| line.contains(&edge.to_string()));
    assert!(line.is_some_and(|line| line.contains("listens")), "{status:?}");
    let mut command = redirector.command("status");
    command.args(["--watch", "100ms"]);
    let mut terminal = Terminal::start(command, 100, 40);
    for _ in 0..2 {
        terminal.wait("it is shown anew", |text| text.contains("healthy"));
    }
    let clears = terminal.shown.matches("\u{1b}[2J").count();
    assert!(clears >= 2, "{}", terminal.shown);
}
