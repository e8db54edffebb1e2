//! The examples of `--help`, typed as it prints them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use redirector_tests::apiserver::{ApiServer, TOKEN};
use redirector_tests::machine::{GIVEN, Machine};
use redirector_tests::netns;
use redirector_tests::redirector::Answer;
use redirector_tests::terminal::Terminal;

use super::{DEB, boot, packages};

/// What they name: files, a process, addresses where the endpoints of the sample answer.
const SURROUNDINGS: &str = r#"
mkdir new-rules tests
cp rules/rules.yaml rules.yaml
sed 's/weight: 80/weight: 45/; s/weight: 20/weight: 55/' rules.yaml > new-rules/rules.yaml
cat > cluster.yaml <<'END'
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.12, ports: [{port: 80, name: tcp}]}
END
cp cluster.yaml services.yaml
cat > routing-tests.yaml <<'END'
tests:
  - name: one in five goes to the canary
    from: {workload: default/telnet-client-2}
    to: echo-server:19000
    expect: {shares: {echo-server/prod: 80%, echo-server/gray: 20%}}
END
cp routing-tests.yaml tests/
printf '#!/bin/sh\ncat /root/rules.yaml\n' > /usr/bin/kubectl
chmod +x /usr/bin/kubectl
for address in 10.244.1.10 10.244.1.11 10.244.2.10; do
    ip address add $address dev lo
    systemd-run --collect socat TCP-LISTEN:9000,bind=$address,fork,reuseaddr EXEC:cat
done
mkdir -p /sys/fs/cgroup/redirector-demo/telnet-client /sys/fs/cgroup/kubepods.slice
echo 4710 > /proc/sys/kernel/ns_last_pid
sh -c 'echo $$ > /sys/fs/cgroup/redirector-demo/telnet-client/cgroup.procs
       exec sleep infinity' > /dev/null 2>&1 &
test $! = 4711
cp rules/* /etc/redirector/
systemctl start redirector
systemd-run --collect sh -c 'while sleep 0.2; do echo ping | socat - TCP:10.96.0.10:19000; done'
"#;

/// The examples of a help, each as a shell takes it.
fn examples(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| !line.starts_with("Example")).skip(1);
    let lines: Vec<_> = lines.map_while(|line| line.strip_prefix("  ")).collect();
    lines.join("\n").replace("\\\n", "").lines().map(str::to_owned).collect()
}

/// Those of all commands.
fn all(machine: &Machine) -> Vec<String> {
    let help = machine.succeed("redirector --help");
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let commands = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let commands = commands.filter(|command| !command.is_empty() && *command != "help");
    let mut all = examples(&help);
    for command in commands {
        let its = examples(&machine.succeed(&format!("redirector {command} --help")));
        assert!(its.iter().any(|one| one.contains(&format!("redirector {command}"))), "{its:?}");
        all.extend(its);
    }
    all
}

/// The cluster that `run --kubernetes` finds by the file that kubectl has.
fn cluster(machine: &Machine) -> ApiServer {
    let netns = machine.path("/proc/1/ns/net");
    let server = thread::spawn(move || {
        netns::enter(&netns);
        ApiServer::start()
    });
    let server = server.join().expect("it starts");
    let directory = machine.path(&format!("{GIVEN}/.kube"));
    fs::create_dir(&directory).expect("a directory");
    fs::rename(server.kubeconfig(&directory, TOKEN), directory.join("config")).expect("renamed");
    server
}

/// Somebody who types.
struct Typist {
    machine: Machine,
    _cluster: ApiServer,
}

impl Typist {
    /// Types it where nobody looks. A pipe fails with any of its commands.
    fn run(&self, example: &str) -> Answer {
        self.machine.run(&format!("{}\nbash -eo pipefail example", file(example)))
    }

    /// Types it, waits until it shows this, presses that, and it ends.
    fn press(&self, example: &str, shows: &str, keys: &str) -> Answer {
        let shell = "TERM=xterm script --quiet --return --command 'bash -eo pipefail example'";
        let command = self.machine.command(&format!("{}\n{shell} /dev/null", file(example)));
        let mut terminal = Terminal::start(command, 80, 25);
        // What was in force before is told first, when keys would come too early.
        terminal.wait(example, |shown| shown.replace("what is in force", "").contains(shows));
        terminal.press(keys);
        let answer = terminal.end();
        // What is interrupted in a shell has 130 for that.
        let ended = keys == CTRL_C && answer.exit == 130;
        Answer { exit: if ended { 0 } else { answer.exit }, ..answer }
    }

    /// Types one of `redirector run`, where nothing runs, and ends it when it is in force.
    fn serve(&self, example: &str) -> Answer {
        self.machine.succeed("systemctl stop redirector");
        // That cluster's nodes have other names.
        let shows = match example.contains("--kubernetes") {
            true => "the cluster has no Node named",
            false => "in force",
        };
        let answer = self.press(example, shows, CTRL_C);
        self.machine.succeed("systemctl start redirector");
        answer
    }

    /// Types one that closes a connection, and says yes where it asks.
    fn close(&self, example: &str) -> Answer {
        self.machine.succeed(
            "rm -f closed heard; systemd-run --collect sh -c '
                 echo 0 > /sys/fs/cgroup/redirector-demo/telnet-client/cgroup.procs
                 (echo ping; sleep infinity) | (
                     socat - TCP:10.96.0.10:19000 > /root/heard
                     touch /root/closed)'",
        );
        self.machine.wait("it is connected", "cat heard", |heard| heard.out == "ping\n");
        let answer = match example.contains("--yes") {
            true => self.run(example),
            false => self.press(example, "[y/N]", "y\r"),
        };
        self.machine.wait("its connection is closed", "test -e closed", |test| test.exit == 0);
        answer
    }

    /// Types one that makes something else in force.
    fn roll_back(&self, example: &str) -> Answer {
        if example.starts_with("redirector rollback  ") {
            for weight in [70, 65, 60, 55] {
                self.machine.succeed(&format!(
                    "sed -i 's/weight: [5-8][05]/weight: {weight}/' /etc/redirector/rules.yaml
                     redirector reload"
                ));
            }
        }
        let shares = || {
            let to = "--from-workload default/telnet-client-2 --to 10.96.0.10:19000";
            self.machine.succeed(&format!("redirector explain {to}"))
        };
        let before = shares();
        let answer = self.run(example);
        assert_ne!(shares(), before, "{example}: {answer:?}");
        answer
    }

    /// Types it, whatever it is.
    fn try_out(&self, example: &str) -> Answer {
        let words: Vec<&str> = example.split(' ').collect();
        let own = words.iter().position(|word| *word == "redirector");
        match words[own.map_or(0, |at| at + 1)..] {
            ["run", ..] => self.serve(example),
            ["status", "--watch"] => self.press(example, "healthy", CTRL_C),
            ["flows", "--follow", ..] => self.press(example, "10.96.0.10", CTRL_C),
            ["top"] => self.press(example, "SHARE", "q"),
            ["connections", "close", ..] => self.close(example),
            ["rollback", "--list", ..] => self.run(example),
            ["rollback", ..] => self.roll_back(example),
            ["unload", ..] => {
                self.machine.succeed("systemctl stop redirector");
                let answer = self.run(example);
                assert_eq!(self.machine.run("redirector status").exit, 4, "nothing is loaded");
                answer
            }
            _ => self.run(example),
        }
    }
}

/// To have it in a file.
fn file(example: &str) -> String {
    format!("cat > example <<'END'\n{example}\nEND")
}

const CTRL_C: &str = "\u{3}";

#[test]
#[ignore = "needs the packages: cargo xtask test package"]
fn package_examples_of_help_work_as_printed() {
    let given = tempfile::tempdir().expect("a temporary directory");
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let copied = Command::new("cp").arg("-rL").arg(sample).arg(given.path().join("rules")).status();
    assert!(copied.expect("cp starts").success());
    fs::copy(packages().join(DEB[0]), given.path().join(DEB[0])).expect("a package");
    let machine = boot("examples", given.path());
    machine.succeed(&format!("dpkg -i {}\n{SURROUNDINGS}", DEB[0]));
    let typist = Typist { _cluster: cluster(&machine), machine };
    let mut failed = Vec::new();
    for example in all(&typist.machine) {
        // Who tries it is root already.
        let answer = typist.try_out(&example.replace("sudo ", ""));
        // So that who has to mend one sees what it answers.
        println!("$ {example}\n{}{}\n[{}]", answer.out, answer.err, answer.exit);
        if answer.exit != 0 {
            failed.push(example);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
