//! What relays connections of gateways in a unit, or container, of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use redirector_tests::cgroup::enter;
use redirector_tests::child;
use redirector_tests::load::Interrupted;
use redirector_tests::redirector::Daemon;
use redirector_tests::scene::{Scene, dial, free};
use serde_json::Value;

use super::gateways::itself;
use super::{has_problem, has_warning, scene};

/// Two cgroups below one, as systemd makes them for units, and container runtimes for
/// containers.
struct Apart<'s> {
    scene: &'s Scene,
    above: PathBuf,
    daemon: PathBuf,
    relay: PathBuf,
    socket: PathBuf,
}

impl<'s> Apart<'s> {
    fn new(scene: &'s Scene, above: &str, [daemon, relay]: [&str; 2]) -> Self {
        let redirector = &scene.redirector;
        let cgroup = |name| redirector.place.cgroup.child(&format!("{above}/{name}"));
        let socket = redirector.directory().join("start.sock");
        let (daemon, relay) = (cgroup(daemon), cgroup(relay));
        Self { scene, above: redirector.place.cgroup.child(above), daemon, relay, socket }
    }

    /// What starts relays, in the second of them.
    fn starter(&self) -> Daemon {
        let redirector = &self.scene.redirector;
        let mut starter = Command::new(&redirector.program);
        starter.args(["relay", "--listen"]).arg(&self.socket);
        enter(&mut starter, &self.relay);
        redirector.launch_command(starter, Stdio::null())
    }

    fn start(&self) -> Daemon {
        let redirector = &self.scene.redirector;
        let mut command = redirector.daemon_command();
        command.args(["--daemon-cgroup", "auto", "--relay-socket"]).arg(&self.socket);
        enter(&mut command, &self.daemon);
        let daemon = redirector.launch_command(command, Stdio::null());
        // Until then what is told of the relay is what an earlier daemon knew, and a relay that
        // ends has nobody who holds its sockets.
        redirector.wait("the daemon", |status| {
            status["daemon"]["pid"] == daemon.pid() && daemon.log().contains("INFO in force")
        });
        daemon
    }

    /// All of the daemon's cgroup ends, as systemd has it for units.
    fn kill(&self, daemon: Daemon) {
        fs::write(self.daemon.join("cgroup.kill"), "1").expect("killed");
        daemon.wait();
    }
}

fn relay(status: &Value) -> Option<u64> {
    status["relay"]["process"]["pid"].as_u64()
}

/// The relay in the place of the first.
fn another(scene: &Scene, first: Option<u64>) -> Option<u64> {
    let is_another = |status: &Value| relay(status).is_some_and(|pid| Some(pid) != first);
    let status = scene.redirector.wait("another relay", is_another);
    assert_eq!(status["relay"]["restarts"], 1, "{status:#}");
    relay(&status)
}

fn kill(pid: Option<u64>) {
    let pid = pid.and_then(|pid| pid.try_into().ok()).expect("a process");
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

fn cgroup_of(pid: Option<u64>) -> String {
    let path = format!("/proc/{}/cgroup", pid.expect("a process"));
    fs::read_to_string(path).expect("it lives").trim().to_owned()
}

#[test]
fn a_relay_in_a_unit_of_its_own_outlives_the_daemons_and_is_replaced_there() {
    let Some(scene) = scene("unit") else { return };
    let redirector = &scene.redirector;
    let unit = "redirector-relay@1.service";
    let apart = Apart::new(&scene, "redirector.slice", ["redirector.service", unit]);
    let _starter = apart.starter();
    let address = free([127, 0, 0, 9]);
    let itself = itself(&scene, address);
    let answer = |cgroup: &Path| child::run(cgroup, || dial(itself.address()));
    let daemon = apart.start();
    redirector.wait("the gateway", |_| dial(address) == "itself");
    assert_eq!(answer(&scene.client()), "one", "another process's connects are");
    let status = redirector.status().json();
    assert_eq!(status["exempt"], apart.above.to_str().unwrap(), "{status:#}");
    let first = relay(&status);
    assert!(cgroup_of(first).ends_with(unit), "{}", cgroup_of(first));
    let old = Interrupted::open(address, "its");
    apart.kill(daemon);
    assert_eq!(dial(address), "itself", "nobody is refused");
    let daemon = apart.start();
    old.go_on();
    let status = redirector.wait("the same relay", |status| relay(status) == first);
    assert_eq!(status["relay"]["restarts"], 0, "{status:#}");
    kill(first);
    assert_eq!(dial(address), "itself", "clients wait meanwhile: {}", daemon.log());
    let second = another(&scene, first);
    assert!(cgroup_of(second).ends_with(unit), "{}", cgroup_of(second));
    // What else is in there is told of; the next daemon has a cgroup of its own, and of its
    // relay.
    let other = redirector.place.cgroup.child("redirector.slice/other.service");
    redirector.wait("a word about it", |status| {
        has_warning(status, "connects of other.service are not redirected")
    });
    assert_eq!(answer(&other), "itself");
    assert_eq!(daemon.stop(), 0);
    let _daemon = apart.start();
    redirector.wait("its cgroup", |status| status["exempt"] == apart.daemon.to_str().unwrap());
    redirector.wait("the gateway", |_| dial(address) == "itself");
    assert_eq!(answer(&other), "one");
}

#[test]
fn a_pod_whose_container_starts_relays_is_left_alone_and_others_are_not() {
    let Some(scene) = scene("pod") else { return };
    let redirector = &scene.redirector;
    let pod = "kubepods/burstable/pod0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
    let apart = Apart::new(&scene, pod, ["agent", "relay"]);
    let address = free([127, 0, 0, 10]);
    let itself = itself(&scene, address);
    let answer = |cgroup: &Path| child::run(cgroup, || dial(itself.address()));
    let daemon = apart.start();
    let nobody = |status: &Value| has_problem(status, "nobody starts relays there");
    redirector.wait("a word of what is missing", nobody);
    let starter = apart.starter();
    redirector.wait("the gateway", |status| !nobody(status) && dial(address) == "itself");
    let status = redirector.status().json();
    assert_eq!(status["exempt"], apart.above.to_str().unwrap(), "{status:#}");
    assert!(cgroup_of(relay(&status)).ends_with("/relay"), "{status:#}");
    let beside = redirector.place.cgroup.child("kubepods/burstable/pod7/app");
    assert_eq!(answer(&beside), "one");
    let first = relay(&status);
    kill(first);
    assert_eq!(dial(address), "itself", "clients wait for another");
    let second = another(&scene, first);
    // The pod ends: what starts relays ends when they have, and they when connections have.
    // One whose daemon does not know it yet serves as long as that is there.
    let open = Interrupted::open(address, "its");
    tell_to_end(&starter);
    assert_eq!(relay(&redirector.status().json()), second);
    assert_eq!(dial(address), "itself");
    assert_eq!(daemon.stop(), 0);
    refuses(&scene, address);
    open.go_on();
    assert_eq!(starter.wait(), 0);
    // So it is when there is no daemon any more, by a fault.
    let starter = apart.starter();
    let daemon = apart.start();
    redirector.wait("the gateway", |_| dial(address) == "itself");
    let open = Interrupted::open(address, "its");
    apart.kill(daemon);
    assert_eq!(dial(address), "itself");
    tell_to_end(&starter);
    refuses(&scene, address);
    open.go_on();
    assert_eq!(starter.wait(), 0);
}

fn tell_to_end(starter: &Daemon) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::kill(starter.pid().cast_signed(), libc::SIGTERM) }, 0);
}

fn refuses(scene: &Scene, gateway: SocketAddr) {
    scene.redirector.wait("it accepts no more", |_| dial(gateway).contains("refused"));
}

#[test]
fn a_relay_that_cannot_be_left_alone_is_a_problem_until_it_can() {
    let Some(scene) = scene("stray") else { return };
    let redirector = &scene.redirector;
    let apart = Apart::new(&scene, "no-pod", ["agent", "relay"]);
    let _starter = apart.starter();
    let _itself = itself(&scene, free([127, 0, 0, 11]));
    let limit = apart.daemon.join("cgroup.max.descendants");
    fs::write(&limit, "0").expect("a limit");
    let _daemon = apart.start();
    let is_told = |status: &Value| has_problem(status, "that relays for gateways are redirected");
    redirector.wait("a problem", is_told);
    fs::write(&limit, "max").expect("no limit");
    let status = redirector.wait("it is moved", |status| !is_told(status));
    let below = cgroup_of(relay(&status));
    assert!(below.ends_with("no-pod/agent/redirector-relay"), "{below}");
}
