//! The packages, on a machine that was never met before: a fresh Debian with systemd as
//! its first process, in namespaces of its own.

mod examples;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use redirector_tests::figure;
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
fn package_page_of_installation_works_as_printed_and_leaves_nothing() {
    let machine = boot("page", &packages());
    let before = everything(&machine);
    let begun = Instant::now();
    let page = include_str!("../../docs/install.md");
    let mut transcript = Vec::new();
    for step in steps(page, "## A machine in ten minutes") {
        let answer = machine.run(&step.command);
        let shown = format!("line {}: {}", step.line, step.command);
        transcript.push((step.command.clone(), format!("{}{}", answer.out, answer.err)));
        let shows_failure = step.answer.iter().any(|line| line.starts_with("error: "));
        assert_eq!(answer.exit != 0, shows_failure, "{shown}: {answer:?}\n{}", machine.journal());
        step.compare(&format!("{}{}", answer.out, answer.err))
            .unwrap_or_else(|why| panic!("{why}"));
        follow(&machine, &step.command);
        if step.command.starts_with("systemctl enable") {
            figure!("from the package to the canary of one unit: {:.1?}", begun.elapsed());
        }
    }
    // `cargo xtask pictures` shows it.
    let transcript = serde_json::to_string(&transcript).expect("text");
    fs::write(packages().join("page.json"), transcript).expect("written");
    assert_same(&machine, &before);
}

/// What the page says of what follows from a command.
fn follow(machine: &Machine, command: &str) {
    let says = |what: &str, since: &str, word: &str| {
        let script = format!("journalctl --unit shop-web --output cat {since}");
        machine.wait(what, &script, |answer| answer.out.lines().any(|line| line == word));
    };
    let is_pinned = || machine.succeed("ls -A /sys/fs/bpf").contains("redirector");
    match command.split_whitespace().collect::<Vec<_>>()[..] {
        ["apt-get", "install", ..] => {
            let version = machine.succeed("redirector --version");
            // The packages differ in their number only: they hold one program.
            assert!(version.starts_with("redirector "), "{version}");
            assert_eq!(
                machine.succeed(
                    "systemd-analyze verify --man=no redirector.service redirector-relay.socket \
                         redirector-relay@1.service redirector.slice 2>&1"
                ),
                ""
            );
        }
        ["systemd-run", ..] => {
            assert!(!is_pinned(), "nothing is touched before it is asked for");
            says("the first server answers", "", "v1");
        }
        ["systemctl", "enable", ..] => {
            let said = machine.succeed("journalctl --unit redirector --output cat");
            let whole = "every process of this machine is served";
            let place = said.find(whole).unwrap_or_else(|| panic!("{said}"));
            assert!(said[place..].contains("in force"), "{said}");
            says("the canary answers", "", "v2");
        }
        ["rm", ..] => {
            machine.wait("it is taken back", "redirector maps all", |answer| {
                answer.exit == 0 && !answer.out.contains("shop/db")
            });
        }
        _ => {}
    }
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

/// As the unit was when the daemon started what relays itself, below it.
const BEFORE: &str = "
mkdir -p /run/systemd/system/redirector.service.d
cat > /run/systemd/system/redirector.service.d/before.conf <<'END'
[Service]
ExecStart=
ExecStart=/usr/bin/redirector run --config /etc/redirector
UnsetEnvironment=REDIRECTOR_RELAY_SOCKET
Slice=system.slice
CapabilityBoundingSet=~
SystemCallFilter=
END
systemctl daemon-reload
# Another program than that of both packages, which have one time.
touch /usr/bin/redirector";

#[test]
#[ignore = "needs the packages: cargo xtask test package"]
fn package_upgrade_and_downgrade_fail_no_connection_and_cut_no_relay() {
    let machine = boot("upgrade", &packages());
    let install = |deb: &str| {
        let main = "systemctl show --value --property MainPID redirector";
        let before = machine.succeed(main);
        machine.succeed(&format!("dpkg -i {deb}"));
        machine.wait("another daemon is in charge", main, |answer| answer.out != before);
        let healthy = |answer: &redirector_tests::redirector::Answer| answer.exit == 0;
        machine.wait("it is healthy", "redirector status", healthy);
    };
    machine.succeed(&format!(
        "dpkg -i {}
         {BEFORE}
         cat > /etc/redirector/gateway.yaml <<'END'\n{GATEWAY}\nEND
         echo REDIRECTOR_DRAIN=1h >> /etc/default/redirector
         systemctl enable --now redirector
         systemd-run --collect --unit echo socat TCP-LISTEN:7000,bind=127.0.0.3,fork,reuseaddr EXEC:cat",
        DEB[0]
    ));
    let answers = "echo ping | socat -t 5 - TCP:127.0.0.9:15400";
    machine.wait("the gateway serves", answers, |answer| answer.out == "ping\n");
    // Both go on until they are told, and note what came of each connection.
    let load = |unit: &str, address: &str| {
        machine.succeed(&format!(
            "systemd-run --unit {unit} sh -c 'while [ ! -e /run/enough ]; do \
                 echo ping | socat -t 5 - TCP:{address} || echo failed; done'"
        ));
    };
    load("mesh", "127.96.0.12:7000");
    load("through", "127.0.0.9:15400");
    // Its last word is said when all is over.
    machine.succeed(
        "mkfifo /run/words
         systemd-run --unit relay sh -c 'socat - TCP:127.0.0.9:15400 < /run/words > /run/heard'
         systemd-run --unit speaker sh -c 'exec > /run/words; echo first; \
             while [ ! -e /run/enough ]; do sleep 0.05; done; echo last'",
    );
    machine.wait("the relay stands", "cat /run/heard", |answer| answer.out == "first\n");
    machine.succeed("rm /run/systemd/system/redirector.service.d/before.conf");
    install(DEB[1]);
    machine.succeed("systemctl restart redirector");
    install(DEB[0]);
    machine.succeed("systemctl restart redirector");
    machine.succeed("touch /run/enough");
    machine.wait("the relay ends whole", "cat /run/heard", |answer| answer.out == "first\nlast\n");
    for unit in ["mesh", "through"] {
        let state = format!("systemctl is-active {unit}");
        machine.wait("the load ends", &state, |answer| answer.out != "active\n");
        let said = machine.succeed(&format!("journalctl --unit {unit} --output cat"));
        let pings = said.lines().filter(|line| *line == "ping").count();
        println!("{unit}: {pings} connections");
        assert!(pings > 10, "{said}");
        let is_wrong = |line: &&str| *line == "failed" || line.contains("socat[");
        let wrong: Vec<_> = said.lines().filter(is_wrong).collect();
        assert!(wrong.is_empty(), "{wrong:#?}\n{}", machine.journal());
    }
}

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
