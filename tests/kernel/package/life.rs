//! What becomes of a package: installed, routed by, upgraded, gone back with, removed. These
//! run on a whole machine: Debian on its own kernel, with systemd as its first process.

use std::collections::BTreeSet;
use std::time::Instant;

use redirector_tests::figure;
use redirector_tests::machine::Machine;
use redirector_tests::page::steps;

use super::{DEB, GATEWAY, assert_same, boot, everything, packages};

#[test]
#[ignore = "needs the packages: cargo xtask test package"]
fn package_page_of_installation_works_as_printed_and_leaves_nothing() {
    let machine = boot("page", &packages());
    let before = everything(&machine);
    let begun = Instant::now();
    let page = include_str!("../../../docs/install.md");
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
    eprintln!("transcript: {}", serde_json::to_string(&transcript).expect("text"));
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

/// What sends all that one unit dials to a server of its own, which answers otherwise.
const ROUTED: &str = r#"
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: mesh, namespace: shop, annotations: {redirector.io/cgroup: system.slice/mesh.service}}
spec: {address: 127.0.0.1, labels: {app: mesh}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: routed, namespace: shop}
spec:
  hosts: [routed.shop.internal]
  addresses: [127.96.0.13]
  ports: [{number: 7000, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.4}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mesh, namespace: shop}
spec:
  hosts: [echo.shop.internal]
  tcp:
    - match: [{sourceLabels: {app: mesh}}]
      route: [{destination: {host: routed.shop.internal}}]
"#;

/// The units that dial until they are told to end, what they dial, and what each of their
/// connections is to be answered.
const LOAD: [(&str, &str, &str); 2] =
    [("mesh", "127.96.0.12:7000", "routed"), ("through", "127.0.0.9:15400", "ping")];

#[test]
#[ignore = "needs the packages: cargo xtask test package"]
fn package_upgrade_and_downgrade_fail_no_connection_and_cut_no_relay_and_removal_leaves_nothing() {
    let machine = boot("upgrade", &packages());
    let before = everything(&machine);
    machine.succeed(&format!("dpkg -i {}", DEB[0]));
    assert_own_files_only(&machine, &before);
    machine.succeed(&format!(
        "{BEFORE}
         cat > /etc/redirector/shop.yaml <<'END'\n{GATEWAY}---{ROUTED}END
         echo REDIRECTOR_DRAIN=1h >> /etc/default/redirector
         systemctl enable --now redirector
         server() {{ systemd-run --collect --unit $1 \
             socat -t 60 TCP-LISTEN:7000,bind=$2,fork,reuseaddr \"$3\"; }}
         server echo 127.0.0.3 EXEC:cat
         server routed 127.0.0.4 'SYSTEM:sed s/ping/routed/'",
    ));
    let answers = "echo ping | socat -t 60 - TCP:127.0.0.9:15400";
    machine.wait("the gateway serves", answers, |answer| answer.out == "ping\n");
    for (unit, address, answer) in LOAD {
        machine.succeed(&format!(
            "systemd-run --unit {unit} sh -c 'while [ ! -e /run/enough ]; do \
                 echo \"answer: $(echo ping | socat -t 60 - TCP:{address})\"; done'"
        ));
        let said = format!("journalctl --unit {unit} --output cat");
        let answer = format!("answer: {answer}");
        machine.wait("it is served", &said, |said| said.out.lines().any(|line| line == answer));
    }
    // Its last word is said when all is over.
    machine.succeed(
        "mkfifo /run/words
         systemd-run --unit relay sh -c 'socat - TCP:127.0.0.9:15400 < /run/words > /run/heard'
         systemd-run --unit speaker sh -c 'exec > /run/words; echo first; \
             while [ ! -e /run/enough ]; do sleep 0.05; done; echo last'",
    );
    machine.wait("the relay stands", "cat /run/heard", |answer| answer.out == "first\n");
    machine.succeed("rm /run/systemd/system/redirector.service.d/before.conf");
    for deb in [DEB[1], DEB[0]] {
        install(&machine, deb);
        machine.succeed("systemctl restart redirector");
    }
    machine.succeed("touch /run/enough");
    machine.wait("the relay ends whole", "cat /run/heard", |answer| answer.out == "first\nlast\n");
    for (unit, _, answer) in LOAD {
        assert_answered(&machine, unit, answer);
    }
    remove(&machine);
    machine.succeed(
        "rm -r /run/words /run/heard /run/enough /run/systemd/system/redirector.service.d",
    );
    assert_same(&machine, &before);
}

/// Whether what is installed is the package's own files and units, and nothing runs.
fn assert_own_files_only(machine: &Machine, before: &BTreeSet<String>) {
    let own = machine.succeed("dpkg -L redirector");
    let own: BTreeSet<&str> = own.lines().collect();
    let is_unit = |one: &str| one.starts_with("redirector") && one.contains(' ');
    let now = everything(machine);
    let others: Vec<_> = now
        .symmetric_difference(before)
        .filter(|one| !own.contains(one.as_str()) && !is_unit(one))
        .collect();
    assert!(others.is_empty(), "installing it has touched {others:#?}");
    assert_eq!(machine.run("pgrep -x redirector").exit, 1, "nothing is started");
}

/// Installs it over another version, and waits until its daemon is in charge.
fn install(machine: &Machine, deb: &str) {
    let main = "systemctl show --value --property MainPID redirector";
    let before = machine.succeed(main);
    machine.succeed(&format!("dpkg -i {deb}"));
    machine.wait("another daemon is in charge", main, |answer| answer.out != before);
    machine.wait("it is healthy", "redirector status", |answer| answer.exit == 0);
}

/// Whether each of its connections, once it was known, got this answer.
fn assert_answered(machine: &Machine, unit: &str, answer: &str) {
    let state = format!("systemctl is-active {unit}");
    machine.wait("the load ends", &state, |answer| answer.out != "active\n");
    let said = machine.succeed(&format!("journalctl --unit {unit} --output cat"));
    let answer = format!("answer: {answer}");
    let known: Vec<_> = said.lines().skip_while(|line| **line != answer).collect();
    let is_wrong = |line: &&str| line.starts_with("answer:") || line.contains("socat[");
    let (good, others): (Vec<_>, Vec<_>) = known.into_iter().partition(|line| *line == answer);
    let wrong: Vec<_> = others.into_iter().filter(is_wrong).collect();
    assert!(wrong.is_empty(), "{unit}: {wrong:#?}\n{}", machine.journal());
    figure!("connections of {unit} while it was upgraded and gone back with: {}", good.len());
    assert!(good.len() > 10, "{said}");
}

/// Removes the package, which leaves what somebody has written, and then that, too.
fn remove(machine: &Machine) {
    machine.succeed("apt-get remove --yes redirector");
    machine.wait("the relay ends", "pgrep -x redirector", |answer| answer.exit != 0);
    let pins = machine.succeed("ls -A /sys/fs/bpf");
    assert!(!pins.contains("redirector"), "it is in the kernel: {pins}");
    machine.succeed("test -e /etc/redirector/shop.yaml && test -e /etc/default/redirector");
    machine.succeed("apt-get purge --yes redirector && systemctl stop echo routed");
}
