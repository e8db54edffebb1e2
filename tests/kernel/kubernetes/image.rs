//! The container image, run by podman as a kubelet would run it for the chart's
//! DaemonSet: the very arguments, mounts, capabilities and limits that the chart
//! renders. What differs: the API server is on this machine's loopback, so that
//! the container is in its network namespace, and there is a kubeconfig instead
//! of a service account.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use redirector_tests::agent::{Agent, free_port};
use redirector_tests::cgroup;
use redirector_tests::chart;
use redirector_tests::child::wait_for;
use redirector_tests::established::{Established, was_reset};
use redirector_tests::kernel::unique;
use redirector_tests::load::Interrupted;
use redirector_tests::netns::NetNs;
use redirector_tests::node::Node;
use redirector_tests::scene::dial;
use serde_json::{Value, json};

use super::{Cluster, TREES, answered, node, uid};

/// The image that `cargo xtask test image` has built, and podman's settings with it.
const IMAGE: &str = "REDIRECTOR_TESTS_IMAGE";

/// The address of the node.
const HOST_IP: &str = "127.0.0.1";

#[test]
#[ignore = "needs the container image: cargo xtask test image"]
fn image_redirects_as_the_privileged_daemon_set() {
    redirects(true);
}

#[test]
#[ignore = "needs the container image: cargo xtask test image"]
fn image_redirects_with_the_least_capabilities() {
    redirects(false);
}

#[test]
#[ignore = "needs the container image: cargo xtask test image"]
fn image_resets_connections_as_the_privileged_daemon_set() {
    resets(true);
}

#[test]
#[ignore = "needs the container image: cargo xtask test image"]
fn image_resets_connections_with_the_least_capabilities() {
    resets(false);
}

#[test]
#[ignore = "needs the container image: cargo xtask test image"]
fn image_serves_gateways_as_the_privileged_daemon_set() {
    serves_gateways(true);
}

#[test]
#[ignore = "needs the container image: cargo xtask test image"]
fn image_serves_gateways_with_the_least_capabilities() {
    serves_gateways(false);
}

fn redirects(privileged: bool) {
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    cluster.pod("a", "node-a", &uid(1), "two", &json!({}));
    let pod = node.cgroup(&format!("kubepods/burstable/pod{}", uid(1)));
    let stranger = node.cgroup(&format!("kubepods/burstable/pod{}", uid(2)));
    let (container, mut agent) = start(&node, privileged, &json!({}));
    agent.wait("its pod", |_| node.sources().len() == 1);
    assert_eq!(answered(&pod, cluster.service()), "two", "{}", agent.log());
    assert_eq!(answered(&stranger, cluster.service()), "one", "{}", agent.log());
    // As docs/kubernetes.md has it, with kubectl.
    assert!(container.status(&node).is_object());
    assert!(agent.stop().success());
    assert_eq!(answered(&pod, cluster.service()), "two", "it stays in force");
}

/// Pods' network namespaces lie where container runtimes keep them, some made
/// after the agent was started.
fn resets(privileged: bool) {
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    let mut service = cluster.server.get("Service", "default", "two").expect("it is there");
    service["metadata"]["annotations"] = json!({ "redirector.io/drain": "500ms" });
    cluster.server.apply(service);
    cluster.pod("a", "node-a", &uid(1), "two", &json!({}));
    let pod = node.cgroup(&format!("kubepods/burstable/pod{}", uid(1)));
    let before = NetNs::new("before");
    let (container, mut agent) = start(&node, privileged, &json!({ "drain": true }));
    agent.wait("its pod", |_| node.sources().len() == 1);
    let after = NetNs::new("after");
    let endpoint = cluster.endpoint("two");
    let connections = [("before", &before), ("after", &after)].map(|(name, netns)| {
        let place = (node.directory.path(), name);
        Established::new(place, &pod, netns, cluster.service(), endpoint)
    });
    assert!(cluster.server.delete("EndpointSlice", "default", "two-x"));
    agent.wait("both to be reset", |_| container.status(&node)["draining"]["reset"] == 2);
    for connection in connections {
        assert_eq!(connection.ends(), was_reset(), "{}", agent.log());
    }
}

fn serves_gateways(privileged: bool) {
    let cluster = Cluster::new();
    let node = node(&cluster, "node-a");
    super::gateways::make_gateways(&cluster);
    let values = json!({ "gateways": { "enabled": true, "ports": "15400-15499" } });
    let set = daemon_set(&node, privileged, &values);
    let relay = Container::new(&node, &set, 1);
    let mut relaying = relay.run().spawn().expect("podman starts");
    wait_for(&node.directory.path().join("relay/start.sock"));
    let beside = |set: &Value| {
        let mut container = Container::new(&node, set, 0);
        container.arguments.insert(0, format!("--pid=container:{}", relay.name));
        container
    };
    let container = beside(&set);
    let mut agent = agent_of(&node, &set, &container);
    let exempt = container.status(&node)["exempt"].clone();
    let is_pod = exempt.as_str().is_some_and(|path| path.ends_with(&container.parent));
    // Beside version 1 it depends on where that of version 2 is mounted whether containers
    // have one of it, too.
    let is_given = privileged || is_version_2();
    let is_placed = container.cgroup().starts_with(&format!("/{}/", container.parent));
    assert_eq!((is_pod, exempt.is_null()), (is_given && is_placed, !is_given), "{exempt}");
    super::gateways::gateways_are_served(&cluster, &node, &mut agent);
    // What relays may do nothing, and stays with its connections when the agent's container
    // ends by a fault.
    assert_eq!(relay.capabilities("CapBnd"), 0);
    let gateway = format!("{}.31:19000", cluster.net).parse().expect("an address");
    let open = Interrupted::open(gateway, "on");
    let relayed = container.status(&node)["relay"]["process"].clone();
    assert_eq!(container.status(&node)["relay"]["notExempt"], json!(null));
    assert_eq!((&relayed["uid"], relayed["pid"].is_u64()), (&json!(65534), true), "{relayed:#}");
    podman(["kill", "--signal=KILL", &container.name].iter());
    assert!(!agent.end().success());
    assert_eq!(dial(gateway), "one", "nobody is refused");
    let container = beside(&set);
    let mut agent = agent_of(&node, &set, &container);
    agent.wait("the same relay", |_| container.status(&node)["relay"]["process"] == relayed);
    open.go_on();
    // The end of the pod is that of both.
    assert!(agent.stop().success());
    podman(["kill", "--signal=TERM", &relay.name].iter());
    assert!(relaying.wait().expect("podman ends").success());
}

/// Whether there are cgroups of version 2 only.
fn is_version_2() -> bool {
    cgroup::mount() == Path::new("/sys/fs/cgroup")
}

/// The agent in a container, when it is ready.
fn start(node: &Node, privileged: bool, values: &Value) -> (Container, Agent) {
    let set = daemon_set(node, privileged, values);
    let container = Container::new(node, &set, 0);
    let agent = agent_of(node, &set, &container);
    if !privileged {
        let chart = list(&set["containers"][0]["securityContext"]["capabilities"]["add"]);
        let added = chart.iter().map(|name| 1 << super::capabilities::capability(text(name)));
        assert_eq!(container.capabilities("CapEff"), added.sum::<u64>());
    }
    (container, agent)
}

/// The agent of this container, when it is ready.
fn agent_of(node: &Node, set: &Value, container: &Container) -> Agent {
    let probe = &set["containers"][0]["readinessProbe"]["httpGet"];
    let metrics = probe["port"].as_u64().expect("a port");
    let metrics = (Ipv4Addr::LOCALHOST, u16::try_from(metrics).expect("a port")).into();
    let mut agent = Agent::of(node.directory.path(), &mut container.run(), metrics);
    agent.wait_ready();
    agent
}

/// The pod's specification, with the chart's settings for this node.
fn daemon_set(node: &Node, privileged: bool, more: &Value) -> Value {
    let mut args = vec!["--kubeconfig=/etc/redirector/kubeconfig"];
    // See docs/kubernetes.md.
    if !privileged && !is_version_2() {
        args.push("--daemon-cgroup=none");
    }
    let below = |tree| node.below_mount(tree);
    let (repository, tag) = image();
    let mut values = json!({
        "image": { "repository": repository, "tag": tag },
        "privileged": privileged,
        "cgroups": TREES.map(below),
        "args": args,
        "metrics": { "port": free_port().port() },
        "paths": {
            "bpffs": node.place.bpffs.path(),
            "cgroup": cgroup::mount(),
            "state": node.directory.path().join("state"),
        },
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        values[name] = value.clone();
    }
    let objects = chart::objects(&values);
    let set = objects.into_iter().find(|object| object["kind"] == "DaemonSet");
    set.expect("a DaemonSet")["spec"]["template"]["spec"].take()
}

fn image() -> (String, String) {
    let image = std::env::var(IMAGE).expect("it was there");
    let (repository, tag) = image.rsplit_once(':').expect("a tag");
    (repository.to_owned(), tag.to_owned())
}

/// A container of podman's; removed when this is dropped.
struct Container {
    name: String,
    /// What podman is given after `run`.
    arguments: Vec<String>,
    /// The cgroup that podman makes its own in, below each hierarchy's mount.
    parent: String,
}

impl Container {
    /// A container of a pod, by its number.
    fn new(node: &Node, pod: &Value, number: usize) -> Self {
        let parent = node.below_mount(&format!("kubepods/besteffort/pod{}", uid(9)));
        let name = unique("container");
        let container = &pod["containers"][number];
        let mut arguments = vec![
            format!("--name={name}"),
            format!("--cgroup-parent=/{parent}"),
            "--rm".into(),
            "--pull=never".into(),
            "--network=host".into(),
            format!("--env=NODE_NAME={}", node.name),
        ];
        let kubeconfig = node.directory.path().join("kubeconfig");
        arguments.push(format!("--volume={}:/etc/redirector/kubeconfig:ro", kubeconfig.display()));
        // A service account brings the authority that the client wants to have; this
        // kubeconfig has none, and the image has nothing but the program.
        let roots = "/etc/ssl/certs/ca-certificates.crt";
        arguments.push(format!("--volume={roots}:{roots}:ro"));
        arguments.extend(confined(container));
        for mount in list(&container["volumeMounts"]) {
            assert_eq!(
                mount["mountPropagation"].as_str().unwrap_or("HostToContainer"),
                "HostToContainer"
            );
            let volumes = list(&pod["volumes"]);
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
            let volume = volume.expect("every mount has a volume");
            let on_node = match volume["hostPath"]["path"].as_str() {
                Some(path) => PathBuf::from(path),
                None => node.directory.path().join(text(&volume["name"])),
            };
            if volume["hostPath"]["type"] != "Directory" {
                std::fs::create_dir_all(&on_node).expect("a directory");
            }
            if volume["emptyDir"].is_object() {
                // As the kubelet makes it.
                let mode = std::fs::Permissions::from_mode(0o777);
                std::fs::set_permissions(&on_node, mode).expect("its mode");
            }
            let (on_node, path) = (on_node.display(), text(&mount["mountPath"]));
            arguments.push(format!("--volume={on_node}:{path}:rslave"));
        }
        arguments.push(text(&container["image"]).to_owned());
        let args = list(&container["args"]);
        // What the kubelet puts there; every address of this net is the node's.
        let filled = |arg: &Value| {
            text(arg).replace("$(NODE_NAME)", &node.name).replace("$(HOST_IPS)", HOST_IP)
        };
        arguments.extend(args.iter().map(filled));
        Self { name, arguments, parent }
    }

    fn run(&self) -> Command {
        let mut podman = Command::new("podman");
        podman.arg("run").args(&self.arguments);
        podman
    }

    /// What `redirector status` says in it.
    fn status(&self, node: &Node) -> Value {
        let pins = format!("--bpffs={}", node.place.pins().display());
        let state = format!("--state-dir={}", node.directory.path().join("state").display());
        let status = ["exec", &self.name, "redirector", "status", "--output=json", &pins, &state];
        // It has answered also when the answer is "not healthy", with exit code 1.
        let output = Command::new("podman").args(status).output().expect("podman runs");
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// What /proc says in this file of its first process.
    fn proc(&self, file: &str) -> String {
        let pid = podman(["inspect", "--format={{.State.Pid}}", &self.name].iter());
        std::fs::read_to_string(format!("/proc/{}/{file}", pid.trim())).expect("it runs")
    }

    /// The cgroup of version 2 that it is in, from the root of the hierarchy on.
    fn cgroup(&self) -> String {
        let cgroups = self.proc("cgroup");
        let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
        own.expect("one of version 2").to_owned()
    }

    /// The capabilities that its first process has in this set, as /proc names it.
    fn capabilities(&self, set: &str) -> u64 {
        let status = self.proc("status");
        let found = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':'));
        u64::from_str_radix(found.expect("capabilities").trim(), 16).expect("a number")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended, and been removed, by itself.
        let mut remove = Command::new("podman");
        let _ = remove.args(["rm", "--force", "--ignore", "--time=0", &self.name]).output();
        // Version 2's is the node's; of version 1 there may be many.
        let top = self.parent.split('/').next().unwrap_or_default();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let cgroup = hierarchy.path().join(top);
            // Podman's monitor ends a moment after its container.
            for _ in 0..100 {
                if hierarchy.path() == cgroup::mount() || !cgroup.exists() {
                    break;
                }
                cgroup::remove(&cgroup);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// What a container's `securityContext` and `resources` are for podman.
fn confined(container: &Value) -> Vec<String> {
    let context = &container["securityContext"];
    let mut arguments = Vec::new();
    let set = |field: &str| context[field] == json!(true);
    if set("privileged") {
        arguments.extend(["--privileged".to_owned(), "--cgroupns=host".into()]);
    } else {
        let capabilities = &context["capabilities"];
        for (option, field) in [("--cap-drop", "drop"), ("--cap-add", "add")] {
            let each = list(&capabilities[field]);
            arguments.extend(each.iter().map(|name| format!("{option}={}", text(name))));
        }
        assert_eq!(context["allowPrivilegeEscalation"], false);
        arguments.push("--security-opt=no-new-privileges".into());
        if context["seccompProfile"]["type"] == "Unconfined" {
            arguments.push("--security-opt=seccomp=unconfined".into());
        }
        if context["appArmorProfile"]["type"] == "Unconfined" {
            arguments.push("--security-opt=apparmor=unconfined".into());
        }
        if let Some(kind) = context["seLinuxOptions"]["type"].as_str() {
            arguments.push(format!("--security-opt=label=type:{kind}"));
        }
    }
    if set("readOnlyRootFilesystem") {
        arguments.extend(["--read-only".to_owned(), "--read-only-tmpfs=false".into()]);
    }
    arguments.push(format!("--user={}", context["runAsUser"]));
    let memory = text(&container["resources"]["limits"]["memory"]);
    arguments.push(format!("--memory={}", memory.replace("Mi", "m")));
    arguments
}

/// What podman prints.
fn podman<'a>(arguments: impl Iterator<Item = &'a &'a str>) -> String {
    let output = Command::new("podman").args(arguments).output().expect("podman runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text"))
}
