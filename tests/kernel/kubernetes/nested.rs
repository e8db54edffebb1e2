//! Nodes that are containers themselves, as kind and k3d make them: the agent
//! sees the hierarchy from the node's cgroup on, which is the root of a cgroup
//! namespace, and never what lies above it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::time::Duration;

use redirector_tests::agent::{Agent, command};
use redirector_tests::cgroup::{key, mount};
use redirector_tests::child::{self, wait_for};
use redirector_tests::kernel::privileged;
use redirector_tests::node::Node;
use serde_json::{Value, json};

use super::{Cluster, answered, uid};

/// The node, as the machine's container engine names it.
const NODE: &str = "system.slice/docker-0123456789abcdef.scope";

/// Where kind's kubelet has its pods.
const PODS: &str = "kubelet.slice/kubelet-kubepods.slice";

/// A privileged pod of containerd has the cgroup namespace of its node.
#[test]
fn a_node_that_is_a_container_has_its_pods() {
    if !privileged() {
        return;
    }
    run(false);
}

/// Any other has one of its own, beside the node's mount.
#[test]
fn an_agent_with_a_cgroup_namespace_of_its_own_finds_the_nodes() {
    if !privileged() {
        return;
    }
    run(true);
}

fn run(own_namespace: bool) {
    let cluster = Cluster::new();
    let node = Node::new(&cluster.server, "kind-worker", &[]);
    let pod = |class: &str, last: u32| {
        let (dash, uid) = (class.replace('/', ""), uid(last).replace('-', "_"));
        let parent = match class {
            "" => String::new(),
            class => format!("/kubelet-kubepods-{class}.slice"),
        };
        let dash = if dash.is_empty() { dash } else { format!("{dash}-") };
        format!("{PODS}{parent}/kubelet-kubepods-{dash}pod{uid}.slice/cri-containerd-ab.scope")
    };
    let cgroup = |below: &str| node.cgroup(&format!("{NODE}/{below}"));
    for (last, goes) in [(1, "two"), (2, "one"), (3, "two")] {
        cluster.pod(&format!("p{last}"), "kind-worker", &uid(last), goes, &json!({}));
    }
    let agents = pod("besteffort", 1000);
    cgroup(&agents);
    let first = cgroup(&pod("burstable", 1));
    let mut agent = start(&node, &agents, own_namespace);
    agent.wait_ready();
    assert!(!agent.log().contains("not effective"), "{}", agent.log());
    let [second, third] = [cgroup(&pod("", 2)), cgroup(&pod("besteffort", 3))];
    agent.wait("all pods to be known", |_| node.sources().len() == 3);
    // With the ids and the levels of the whole hierarchy.
    for container in [&first, &second, &third] {
        let pod = key(container.parent().expect("its pod's"));
        assert!(node.sources().iter().any(|(key, _)| *key == pod), "{pod:?}: {}", agent.log());
    }
    assert_eq!(answered(&first, cluster.service()), "two");
    assert_eq!(answered(&second, cluster.service()), "one");
    assert_eq!(answered(&third, cluster.service()), "two");
    told_by_pid(&node, &agents, own_namespace, [&first, &second, &third]);
    // What runs on the machine and not in the node is none of its business.
    let outside = node.cgroup("kubepods/besteffort/podx/ab");
    assert!(answered(&outside, cluster.service()).contains("refused"));
    std::fs::remove_dir(&first).expect("it is empty");
    std::fs::remove_dir(first.parent().expect("its pod's")).expect("it is empty");
    agent.wait("its end", |_| node.sources().len() == 2);
}

/// `explain --from-pid` of processes in these containers, asked on the machine and
/// where the agent is, whoever of them has a cgroup namespace of its own.
fn told_by_pid(node: &Node, agents: &str, own_namespace: bool, containers: [&PathBuf; 3]) {
    let to = "--to=192.0.2.1:80";
    let ask = |pid: i32, inside: bool| {
        let pins = format!("--bpffs={}", node.place.pins().display());
        let state = format!("--state-dir={}", node.directory.path().join("state").display());
        let pid = format!("--from-pid={pid}");
        let mut explain = command(["explain", to, "--output=json", &pins, &state, &pid]);
        if inside {
            enter(node, agents, own_namespace, &mut explain);
        }
        let output = explain.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let answer: Result<Value, _> = serde_json::from_slice(&output.stdout);
        answer.map_or(said, |answer| answer["source"]["workload"].to_string())
    };
    for (i, container) in (1..).zip(containers) {
        let ready = node.directory.path().join(format!("ready-{i}-{own_namespace}"));
        let is_ready = ready.clone();
        // Every other one has a namespace of its own, as containers have.
        let process = child::spawn(container, move || {
            if i % 2 == 1 {
                // SAFETY: no memory is involved.
                check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }).expect("a namespace");
            }
            std::fs::write(is_ready, "").expect("a file");
            std::thread::sleep(Duration::from_secs(600));
        });
        wait_for(&ready);
        for inside in [false, true] {
            let told = ask(process.pid(), inside);
            assert_eq!(told, format!("\"default/p{i}\""), "inside: {inside}");
        }
        process.kill();
    }
    // Of what the node does not show nothing can be said, and that is said.
    let outside = node.cgroup("elsewhere");
    let ready = node.directory.path().join(format!("ready-{own_namespace}"));
    let is_ready = ready.clone();
    let process = child::spawn(&outside, move || {
        std::fs::write(is_ready, "").expect("a file");
        std::thread::sleep(Duration::from_secs(600));
    });
    wait_for(&ready);
    let told = ask(process.pid(), true);
    assert!(told.contains("lies outside of what"), "{told}");
    process.kill();
}

/// Starts the agent in a container of the node.
fn start(node: &Node, container: &str, own_namespace: bool) -> Agent {
    let arguments = node.arguments().into_iter().filter(|one| !one.starts_with("--daemon-cgroup"));
    Agent::start_as(node.directory.path(), arguments, |command| {
        enter(node, container, own_namespace, command);
    })
}

/// Has a command run in a container of the node.
fn enter(node: &Node, container: &str, own_namespace: bool, command: &mut Command) {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("no zero byte");
    let root = text(&node.place.cgroup.path().join(NODE).join("cgroup.procs"));
    let (point, own) = (mount(), node.directory.path().join("own"));
    std::fs::create_dir_all(&own).expect("a directory");
    let container = text(&point.join(container).join("cgroup.procs"));
    let (point, own) = (text(&point), text(&own));
    let enter = move || {
        join(&root)?;
        // SAFETY: no memory is involved.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP) })?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: the text ends with a zero byte; the rest is not looked at.
        let result =
            unsafe { libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), private, ptr::null()) };
        check(result)?;
        // SAFETY: the text ends with a zero byte.
        check(unsafe { libc::umount2(point.as_ptr(), libc::MNT_DETACH) })?;
        show(&point)?;
        join(&container)?;
        if own_namespace {
            // SAFETY: no memory is involved.
            check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) })?;
            show(&own)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(enter) };
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Mounts what this process sees of cgroup2.
fn show(at: &CStr) -> io::Result<()> {
    let kind = c"cgroup2".as_ptr();
    // SAFETY: all texts end with a zero byte.
    check(unsafe { libc::mount(kind, at.as_ptr(), kind, 0, ptr::null()) })
}

/// Moves this process, by the file of the cgroup's processes.
fn join(procs: &CStr) -> io::Result<()> {
    // SAFETY: the text ends with a zero byte, and the one that is written is as
    // long as said; the descriptor is closed before anybody else has it.
    unsafe {
        let file = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(file)?;
        let written = libc::write(file, c"0".as_ptr().cast(), 1);
        let error = io::Error::last_os_error();
        libc::close(file);
        if written == 1 { Ok(()) } else { Err(error) }
    }
}
