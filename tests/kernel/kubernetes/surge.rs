//! A roll-out of an agent that serves gateways: on a node there is the new pod beside the old
//! one for a while, and neither sees the other's processes.

use std::net::SocketAddr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use redirector_tests::agent::{Agent, command, free_port};
use redirector_tests::cgroup::enter;
use redirector_tests::kernel::privileged;
use redirector_tests::load::Interrupted;
use redirector_tests::node::Node;
use redirector_tests::scene::dial;

use super::gateways::{gateways_are_served, make_gateways};
use super::{Cluster, node, uid};

/// Both containers of a pod, which share a PID namespace: first the agent, and what starts
/// relays once it is [let](Pod::relays). When the pod is told to end, each of them is.
const CONTAINERS: &str = r#"
program=$0 socket=$1
shift
"$program" "$@" & agent=$!
(
    while [ ! -e "$socket.let" ]; do sleep 0.01; done
    exec "$program" relay --listen "$socket"
) & starter=$!
trap 'kill $agent $starter' TERM
wait $agent
code=$?
if [ $code = 143 ]; then
    # It was interrupted.
    wait $agent
    code=$?
fi
wait $starter
exit $code
"#;

/// A pod of the DaemonSet: its agent, and what starts relays for it.
struct Pod {
    agent: Agent,
    socket: PathBuf,
}

impl Pod {
    /// Starts the containers of one, by its number, as the chart has them with gateways.
    fn start(node: &Node, number: u32, metrics: SocketAddr) -> Self {
        let directory = node.directory.path().join(format!("pod-{number}"));
        std::fs::create_dir(&directory).expect("a directory");
        let arguments = node.arguments().into_iter();
        let arguments = arguments.filter(|one| !one.starts_with("--daemon-cgroup"));
        let socket = directory.join("start.sock");
        let agent = command(
            ["run".to_owned(), "--replace".into(), "--gateways".into()]
                .into_iter()
                .chain(arguments)
                .chain([
                    format!("--metrics-address={metrics}"),
                    format!("--relay-socket={}", socket.display()),
                ]),
        );
        let mut containers = Command::new("unshare");
        containers
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", CONTAINERS])
            .arg(agent.get_program())
            .arg(&socket)
            .args(agent.get_args());
        // A group of its own: where the last one outside of a group that has a stopped process
        // ends, the kernel hangs all of the group up.
        containers.process_group(0);
        let cgroup = node.cgroup(&format!("kubepods/besteffort/pod{}/ab", uid(900 + number)));
        enter(&mut containers, &cgroup);
        Self { agent: Agent::of(&directory, &mut containers, metrics), socket }
    }

    /// Lets its second container begin.
    fn relays(&self) {
        std::fs::write(format!("{}.let", self.socket.display()), "").expect("written");
    }

    /// Waits until its log says something for so many times.
    fn says(&mut self, what: &str, times: usize) {
        self.agent.wait(what, |agent| agent.log().matches(what).count() >= times);
    }

    /// Sends a signal to its agent, and not to what relays.
    fn tell_agent(&self, signal: libc::c_int) {
        tell(first_child(first_child(self.agent.pid())), signal);
    }

    /// Ends it as a kubelet does.
    fn stop(self) {
        tell(first_child(self.agent.pid()), libc::SIGTERM);
        let status = self.agent.end();
        assert_eq!((status.code(), status.signal()), (Some(0), None));
    }
}

/// The first process that this one has started, of those that live.
fn first_child(pid: u32) -> u32 {
    let children = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(children).expect("it runs");
    let first = children.split_whitespace().next().expect("it has started one");
    first.parse().expect("a process id")
}

/// Sends a signal to a process of a pod.
fn tell(pid: u32, signal: libc::c_int) {
    // SAFETY: no memory is involved; who waits for it has not ended.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// Clients that dial a gateway, one after the other.
struct Clients {
    until: Arc<AtomicBool>,
    answers: thread::JoinHandle<Vec<String>>,
}

impl Clients {
    fn of(gateway: SocketAddr) -> Self {
        let until = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&until);
        let answers = thread::spawn(move || {
            let mut answers = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                answers.push(dial(gateway));
            }
            answers
        });
        Self { until, answers }
    }

    /// Each of them was answered.
    fn were_served(self) {
        self.until.store(true, Ordering::Relaxed);
        let answers = self.answers.join().expect("clients");
        let refused: Vec<_> = answers.iter().filter(|answer| *answer != "one").collect();
        assert!(refused.is_empty() && !answers.is_empty(), "{refused:?} of {}", answers.len());
    }
}

/// Said once when it is in charge.
const IN_FORCE: &str = "INFO in force generation=";

/// A pod that serves all gateways, and where one of them is.
fn first(cluster: &Cluster, node: &Node, metrics: SocketAddr) -> (Pod, SocketAddr) {
    make_gateways(cluster);
    let mut pod = Pod::start(node, 1, metrics);
    pod.relays();
    pod.says(IN_FORCE, 1);
    gateways_are_served(cluster, node, &mut pod.agent);
    (pod, format!("{}.31:19000", cluster.net).parse().expect("an address"))
}

#[test]
fn a_pod_that_comes_takes_over_all_sockets_and_the_one_before_stands_by_until_it_ends() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    let metrics = free_port();
    let (mut old, gateway) = first(&cluster, &node, metrics);
    let open = Interrupted::open(gateway, "on");
    let clients = Clients::of(gateway);
    let mut new = Pod::start(&node, 2, metrics);
    // It has all but who relays.
    new.says("nobody starts relays there", 1);
    old.says("handed over", 1);
    assert_eq!(dial(gateway), "one");
    assert!(!new.agent.is_ready());
    new.relays();
    new.says(IN_FORCE, 1);
    old.says("standing by", 1);
    clients.were_served();
    assert!(new.agent.is_ready(), "whom probes of both pods come to");
    // What the old pod has, it keeps.
    open.go_on();
    // The roll-out is taken back, and nobody says so.
    drop(new);
    old.says(IN_FORCE, 2);
    gateways_are_served(&cluster, &node, &mut old.agent);
    // Of one that never relays nobody is told that it is in charge.
    let mut never = Pod::start(&node, 4, metrics);
    never.says("nobody starts relays there", 1);
    drop(never);
    old.says(IN_FORCE, 3);
    gateways_are_served(&cluster, &node, &mut old.agent);
    assert_eq!(old.agent.log().matches("standing by").count(), 1);
    // And made again: this time the old pod ends.
    let mut new = Pod::start(&node, 3, metrics);
    new.relays();
    new.says(IN_FORCE, 1);
    old.says("standing by", 2);
    old.stop();
    gateways_are_served(&cluster, &node, &mut new.agent);
    assert_eq!(dial(gateway), "one");
    new.stop();
}

#[test]
fn a_pod_that_is_there_before_the_end_of_the_last_one_is_heard_of_refuses_no_client() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    let metrics = free_port();
    let (mut old, gateway) = first(&cluster, &node, metrics);
    let clients = Clients::of(gateway);
    let mut killed = Pod::start(&node, 2, metrics);
    killed.says("nobody starts relays there", 1);
    old.says("handed over", 1);
    old.tell_agent(libc::SIGSTOP);
    drop(killed);
    let mut new = Pod::start(&node, 3, metrics);
    new.says("waits for the daemon that has handed over", 1);
    old.tell_agent(libc::SIGCONT);
    old.says("handed over", 2);
    new.says("nobody starts relays there", 1);
    new.relays();
    new.says(IN_FORCE, 1);
    old.says("standing by", 1);
    clients.were_served();
    old.stop();
    assert_eq!(dial(gateway), "one");
    new.stop();
}
