//! The packages, on a machine that was never met before: a fresh Debian with systemd as
//! its first process, in namespaces of its own; their [life] on one with a kernel of its own.

mod examples;
mod life;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use redirector_tests::machine::{GIVEN, Machine};
use redirector_tests::page::steps;
use redirector_tests::terminal::Terminal;

/// What `cargo xtask test package` has made: the packages of two versions.
const PACKAGES: &str = "REDIRECTOR_TESTS_PACKAGES";
/// The root of the machines.
const ROOT: &str = "REDIRECTOR_TESTS_ROOT";

/// The files that a user has, of the version and of the next one.
const DEB: [&str; 2] = ["redirector_0.2.0_amd64.deb", "redirector_0.2.1_amd64.deb"];
/// The same of the other kin of distributions.
const RPM: [&str; 2] = ["redirector-0.2.0-1.x86_64.rpm", "redirector-0.2.1-1.x86_64.rpm"];

fn packages() -> PathBuf {
    std::env::var_os(PACKAGES).expect("set by cargo xtask test package").into()
}

fn boot(what: &str, given: &Path) -> Machine {
    let root = std::env::var_os(ROOT).expect("set by cargo xtask test package");
    Machine::boot(what, Path::new(&root), given)
}

/// All files, users, pins and units of a machine, but for what is Debian's account of
/// what was installed when.
fn everything(machine: &Machine) -> BTreeSet<String> {
    let all = machine.succeed(
        "find / -xdev \\( -path /var/lib/dpkg -o -path /var/log -o -path /var/cache/apt -o -path /var/cache/man \
             -o -path /var/lib/apt -o -path /var/lib/rpm -o -path /root -o -path /var/lib/systemd \\) -prune -o -print
         find /run /var/log /sys/fs/bpf /sys/fs/cgroup -name '*redirector*'
         cut -d: -f1 /etc/passwd /etc/group
         systemctl list-unit-files --no-legend --no-pager",
    );
    all.lines().map(str::to_owned).collect()
}

fn assert_same(machine: &Machine, before: &BTreeSet<String>) {
    let after = everything(machine);
    let left: Vec<_> = after.symmetric_difference(before).collect();
    assert!(left.is_empty(), "before and after differ: {left:#?}");
}

#[test]
#[ignore = "needs the packages: cargo xtask test package"]
fn package_tour_of_the_readme_works_as_printed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let below = |path: &str| directory.path().join(path);
    fs::create_dir_all(below("clone/target/debug")).expect("a directory");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let copied = Command::new("cp")
        .arg("-rL")
        .arg(root.join("deploy/examples"))
        .arg(below("clone/examples"))
        .status();
    assert!(copied.expect("cp starts").success());
    fs::copy(packages().join(DEB[0]), below(DEB[0])).expect("a package");
    let machine = boot("tour", directory.path());
    // The program of this checkout, where cargo would have put it.
    machine.succeed(&format!(
        "dpkg -i {0} && cp -a /usr/bin/redirector clone/target/debug/ && apt-get purge -y redirector",
        DEB[0]
    ));
    let before = everything(&machine);
    for step in steps(include_str!("../../README.md"), "## A quick tour") {
        // Who tries it is root already.
        let command = format!("cd {GIVEN}/clone\n{}", step.command.replace("sudo ", ""));
        let shown = format!("line {}: {}", step.line, step.command);
        if step.command.contains(" run ") {
            // In a terminal of its own.
            let log = format!("{GIVEN}/log");
            machine.succeed(&format!("{command} >{log} 2>&1 & echo $! >{GIVEN}/daemon"));
            machine
                .wait("it is in force", &format!("cat {log}"), |log| log.out.contains("in force"));
            continue;
        }
        if step.command.contains("unload") {
            // Ctrl-C there.
            machine.succeed("kill -INT $(cat daemon)");
            machine.wait("it ends", "kill -0 $(cat daemon)", |answer| answer.exit != 0);
        }
        let answer = machine.run(&command);
        assert_eq!(answer.exit, 0, "{shown}: {answer:?}");
        step.compare(&answer.out).unwrap_or_else(|why| panic!("{why}"));
    }
    assert_same(&machine, &before);
}

#[test]
#[ignore = "needs the packages: cargo xtask test package"]
fn package_names_in_force_are_completed_by_every_shell() {
    let machine = boot("shells", &packages());
    let page = steps(include_str!("../../docs/install.md"), "### The first rule");
    machine.succeed(&format!(
        "dpkg -i {}
         {}
         systemctl start redirector
         echo 'autoload -U compinit && compinit -u' > /root/.zshrc",
        DEB[0], page[0].command
    ));
    for shell in ["bash --login", "zsh", "fish"] {
        let typing = format!("TERM=xterm script --quiet --command '{shell}' /dev/null");
        let mut terminal = Terminal::start(machine.command(&typing), 200, 40);
        terminal.wait(shell, |shown| shown.contains("# "));
        for begun in ["db.", "db.shop.internal:5"] {
            let typed = format!("redirector explain --from-workload s\t --to {begun}\t\r");
            terminal.press(&typed);
            terminal.wait(shell, |shown| shown.contains("rule VirtualService/shop/db tcp[0]"));
        }
        terminal.press("redirector bypass --rule V\t\r");
        terminal.wait(shell, |shown| shown.contains("VirtualService/shop/db is bypassed for"));
        machine.succeed("redirector bypass --end");
    }
}

#[test]
#[ignore = "needs the packages: cargo xtask test package"]
fn package_of_the_other_kin_is_installed_upgraded_and_removed_with_nothing_left() {
    let machine = boot("rpm", &packages());
    let rpm = |arguments: &str| {
        machine.succeed(&format!("rpm --force-debian --nodeps {arguments}"));
    };
    // Which is that of their zsh, and not of this one.
    machine.succeed("mkdir -p /usr/share/zsh/site-functions");
    let before = everything(&machine);
    rpm(&format!("--install {}", RPM[0]));
    assert_eq!(machine.run("redirector status").exit, 4, "nothing is started");
    machine.succeed(&format!(
        "cat > /etc/redirector/gateway.yaml <<'END'\n{GATEWAY}\nEND
         systemctl enable --now redirector
         systemd-run --collect --unit echo socat TCP-LISTEN:7000,bind=127.0.0.3,fork,reuseaddr EXEC:cat",
    ));
    let answers = "echo ping | socat -t 5 - TCP:127.0.0.9:15400";
    machine.wait("the gateway serves", answers, |answer| answer.out == "ping\n");
    let main = "systemctl show --value --property MainPID redirector";
    let first = machine.succeed(main);
    rpm(&format!("--upgrade {}", RPM[1]));
    assert_ne!(machine.succeed(main), first, "another daemon is in charge");
    assert_eq!(machine.succeed(answers), "ping\n");
    machine.wait("it is healthy", "redirector status", |answer| answer.exit == 0);
    rpm("--erase redirector");
    machine.wait("the relay ends", "pgrep -x redirector", |answer| answer.exit != 0);
    // What somebody has written stays.
    machine.succeed("systemctl stop echo && rm -r /etc/redirector");
    assert_same(&machine, &before);
}

/// A gateway, and a service that only redirector serves.
const GATEWAY: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo, namespace: shop}
spec:
  hosts: [echo.shop.internal]
  addresses: [127.96.0.12]
  ports: [{number: 7000, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.3}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: gate, namespace: shop, annotations: {redirector.io/gateway: "true"}}
spec: {address: 127.0.0.9, labels: {app: gate}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop}
spec:
  selector: {app: gate}
  servers: [{port: {number: 15400, name: tcp, protocol: TCP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: gate, namespace: shop}
spec:
  hosts: ["*"]
  gateways: [gate]
  tcp: [{route: [{destination: {host: echo.shop.internal, port: {number: 7000}}}]}]
"#;

#[test]
#[ignore = "needs the packages: cargo xtask test package"]
fn package_relay_is_a_unit_without_privilege_that_is_started_again_and_nothing_is_left_of_it() {
    let machine = boot("relay", &packages());
    let before = everything(&machine);
    machine.succeed(&format!(
        "dpkg -i {}
         cat > /etc/redirector/gateway.yaml <<'END'\n{GATEWAY}\nEND
         systemctl enable --now redirector
         systemd-run --collect --unit echo socat TCP-LISTEN:7000,bind=127.0.0.3,fork,reuseaddr EXEC:cat",
        DEB[0]
    ));
    let answers = "echo ping | socat -t 5 - TCP:127.0.0.9:15400";
    machine.wait("the gateway serves", answers, |answer| answer.out == "ping\n");
    let relay = || {
        let status = machine.wait("a relay", "redirector status --output json", |status| {
            serde_json::from_str::<serde_json::Value>(&status.out)
                .is_ok_and(|status| status["relay"]["process"]["pid"].is_u64())
        });
        let status: serde_json::Value = serde_json::from_str(&status.out).expect("JSON");
        assert_eq!(status["exempt"], "/sys/fs/cgroup/redirector.slice", "{status:#}");
        let process = status["relay"]["process"].clone();
        assert_eq!(process["capabilities"], "0000000000000000", "{process:#}");
        assert!(process["uid"] != 0 && process["uid"] != 65534, "{process:#}");
        let (pid, cut) = (process["pid"].to_string(), status["relay"]["cut"].clone());
        let cgroup = machine.succeed(&format!("cat /proc/{pid}/cgroup"));
        let unit = "0::/redirector.slice/redirector-relay@";
        assert!(cgroup.lines().any(|line| line.starts_with(unit)), "{cgroup}");
        (pid, cut)
    };
    let (first, _) = relay();
    machine.succeed(
        "systemd-run --collect --unit cut sh -c 'socat -u TCP:127.0.0.9:15400 -; touch /run/cut'",
    );
    // Whoever asks for the metrics has the relay asked.
    let metrics = "printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' | socat -t 5 - TCP:127.0.0.1:9464";
    machine.wait("it is connected", metrics, |answer| {
        let mut lines = answer.out.lines();
        lines.any(|line| {
            line.starts_with("redirector_gateway_active_connections{") && line.ends_with(" 1")
        })
    });
    // One that is stopped cuts what it had, which is said; nobody is refused.
    machine.succeed("systemctl stop 'redirector-relay@*'");
    assert_eq!(machine.succeed(answers), "ping\n");
    machine.wait("it is cut", "test -e /run/cut", |answer| answer.exit == 0);
    let (second, cut) = relay();
    assert!(first != second && cut == 1, "{first} {second} {cut}");
    let said = machine.run("redirector status --output json").out;
    assert!(said.contains("had to be started again: 1 times"), "{said}");
    machine.succeed("apt-get purge -y redirector && systemctl stop echo && rm -f /run/cut");
    machine.wait("the relay ends", "pgrep -x redirector", |answer| answer.exit != 0);
    assert_same(&machine, &before);
}
