//! What deploy/ holds: decoded as the API server would decode it, and compared
//! with what the agent really does.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use redirector::identity::Direct;
use redirector::kubernetes::Timing;
use redirector::kubernetes::agent::{Agent, Setup};
use redirector::kubernetes::findings::Judged;
use redirector::kubernetes::gateways::Near;
use redirector_core::in_force::InForce;
use redirector_core::store::Store;
use redirector_core::world::{Settings, World};
use redirector_tests::apiserver::{ApiServer, Rule, TOKEN, documents};
use redirector_tests::chart;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn deploy(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn what_is_removed_with_a_package_is_where_the_flags_say_and_they_are_no_shell() {
    let root = tempfile::tempdir().unwrap();
    let below = |name: &str| root.path().join(name);
    let flags = below("default");
    std::fs::write(
        &flags,
        "# A comment\nREDIRECTOR_BPFFS=\"/sys/fs/bpf/my place\"\nREDIRECTOR_CGROUP=a.slice b.slice\n\
         PATH=/nowhere\nexit 7\nREDIRECTOR_STATE=$(touch hacked)",
    )
    .unwrap();
    let script = deploy("package/prerm").replace("/etc/default/redirector", "./default");
    // Nothing of this machine is touched.
    let script = script.replace("/run/systemd/system", "./systemd");
    let answer = std::process::Command::new("sh")
        .args(["-c", &format!("redirector() {{ env >environment; }}\n{script}"), "prerm", "remove"])
        .current_dir(root.path())
        .output()
        .unwrap();
    assert!(answer.status.success() && answer.stderr.is_empty(), "{answer:?}");
    let environment = std::fs::read_to_string(below("environment")).unwrap();
    let mut given: Vec<_> =
        environment.lines().filter(|line| line.starts_with("REDIRECTOR_")).collect();
    given.retain(|line| !line.starts_with("REDIRECTOR_TESTS_"));
    given.sort_unstable();
    let expected = [
        "REDIRECTOR_BPFFS=/sys/fs/bpf/my place",
        "REDIRECTOR_CGROUP=a.slice b.slice",
        "REDIRECTOR_STATE=$(touch hacked)",
    ];
    assert_eq!(given, expected);
    assert!(!below("hacked").exists());
}

/// Every value that switches something on.
fn everything() -> Value {
    json!({
        "gateways": { "enabled": true },
        "detachOnExit": true,
        "drain": true,
        "startupTaint": "redirector.io/agent-not-ready",
        "podMonitor": { "enabled": true, "labels": { "release": "prometheus" } },
        "metrics": { "tokenSecret": { "name": "scrape" } },
        "crds": true,
        "imagePullSecrets": [{ "name": "pull" }],
        "affinity": { "nodeAffinity": {} },
        "podLabels": { "team": "mesh" },
        "podAnnotations": { "a/b": "true" },
        "cgroups": ["kubepods.slice"],
        "args": ["--accounting"],
    })
}

/// Decodes an object as its type and checks that nothing of it was unknown.
fn decode<T: DeserializeOwned + Serialize>(object: &Value) {
    let typed: T =
        serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
    let again = serde_json::to_value(&typed).unwrap();
    let mut lost = Vec::new();
    missing("", object, &again, &mut lost);
    assert_eq!(lost, [""; 0], "fields that the API does not have");
}

/// The paths of what is in one value and not in another.
fn missing(path: &str, value: &Value, other: &Value, lost: &mut Vec<String>) {
    match (value, other) {
        (Value::Object(a), b) => {
            for (name, value) in a {
                let empty = value.as_object().is_some_and(serde_json::Map::is_empty)
                    || value.as_array().is_some_and(Vec::is_empty);
                match b.get(name) {
                    Some(b) => missing(&format!("{path}.{name}"), value, b, lost),
                    None if empty => {}
                    None => lost.push(format!("{path}.{name}")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                missing(&format!("{path}[{i}]"), a, b, lost);
            }
        }
        _ => {}
    }
}

fn decode_any(object: &Value) {
    match object["kind"].as_str().unwrap() {
        "DaemonSet" => decode::<DaemonSet>(object),
        "ServiceAccount" => decode::<ServiceAccount>(object),
        "ClusterRole" => decode::<ClusterRole>(object),
        "ClusterRoleBinding" => decode::<ClusterRoleBinding>(object),
        "Role" => decode::<Role>(object),
        "RoleBinding" => decode::<RoleBinding>(object),
        "NetworkPolicy" => decode::<NetworkPolicy>(object),
        "CustomResourceDefinition" => decode::<CustomResourceDefinition>(object),
        // Not a type of Kubernetes: it comes with the Prometheus operator.
        "PodMonitor" => assert_eq!(object["apiVersion"], "monitoring.coreos.com/v1"),
        "Namespace" => decode::<k8s_openapi::api::core::v1::Namespace>(object),
        kind => panic!("{kind} is not known here"),
    }
}

fn kinds(objects: &[Value]) -> BTreeSet<String> {
    objects.iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn the_chart_makes_objects_that_the_api_server_knows() {
    for values in [json!({}), everything()] {
        let objects = chart::objects(&values);
        objects.iter().for_each(decode_any);
    }
    let plain = kinds(&chart::objects(&json!({})));
    assert!(!plain.contains("PodMonitor") && !plain.contains("CustomResourceDefinition"));
    let all = kinds(&chart::objects(&everything()));
    for kind in ["DaemonSet", "PodMonitor", "CustomResourceDefinition", "ClusterRole"] {
        assert!(all.contains(kind), "{all:?}");
    }
    // It would keep nobody from the node's network.
    assert!(plain.contains("NetworkPolicy") && !all.contains("NetworkPolicy"));
}

#[test]
fn every_value_of_the_chart_has_an_effect() {
    let values = documents(&deploy("chart/values.yaml")).remove(0);
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart/templates");
    let mut text = String::new();
    for entry in std::fs::read_dir(templates).unwrap() {
        text.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    for (name, value) in values.as_object().unwrap() {
        let used = |path: &str| text.contains(&format!(".Values.{path}"));
        let whole = used(&format!("{name} ")) || used(&format!("{name})"));
        let inner = |(inner, _): (&String, &Value)| used(&format!("{name}.{inner}"));
        let each = value.as_object().is_some_and(|fields| fields.iter().all(inner));
        assert!(whole || each, "{name} is not used");
    }
}

/// Each value with its path, as a list of names; those in lists are left out.
fn each(value: &Value, path: &[String], all: &mut Vec<Vec<String>>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let path = [path, std::slice::from_ref(name)].concat();
        each(value, &path, all);
        all.push(path);
    }
}

#[test]
fn a_value_that_is_mistyped_or_of_another_kind_is_refused_by_its_path() {
    let values = documents(&deploy("chart/values.yaml")).remove(0);
    let mut all = Vec::new();
    each(&values, &[], &mut all);
    let at = |path: &[String], value: Value| {
        path.iter().rev().fold(value, |value, name| json!({ name: value }))
    };
    let free = ["requests", "limits", "labels", "nodeSelector", "affinity", "podLabels"];
    let free = |name: &String| free.contains(&name.as_str()) || name == "podAnnotations";
    for path in all.into_iter().filter(|path| !path.iter().rev().skip(1).any(free)) {
        let name = path.join(".");
        // Of another kind than any setting is.
        let why = chart::try_render(&at(&path, json!([7]))).unwrap_err();
        assert!(why.starts_with(&format!(".{name}")), "{name}: {why}");
        // Beside it, with one letter too many.
        let (last, above) = path.split_last().unwrap();
        let beside = [above, &[format!("{last}x")]].concat();
        let why = chart::try_render(&at(&beside, json!(true))).unwrap_err();
        assert_eq!(why, format!(".{name}x: there is no such setting"));
    }
    let wrong = [
        json!({ "metrics": { "port": "9464" } }),
        json!({ "metrics": { "port": 0 } }),
        json!({ "gateways": { "ports": "15400" } }),
        json!({ "gateways": { "enabled": "yes" } }),
        json!({ "capabilities": ["CAP-BPF"] }),
        json!({ "paths": { "state": "run/redirector" } }),
        json!({ "image": { "pullPolicy": "Sometimes" } }),
        json!({ "imagePullSecrets": [{}] }),
        json!({ "args": [""] }),
    ];
    for values in wrong {
        assert!(chart::try_render(&values).is_err(), "{values}");
    }
}

#[test]
fn the_daemon_set_is_set_up_as_the_design_says() {
    let objects = chart::objects(&json!({}));
    let set = of_kind(&objects, "DaemonSet");
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["hostNetwork"], false);
    assert_eq!(pod["hostPID"], false);
    let context = &container["securityContext"];
    assert_eq!(context["privileged"], false);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    let least = json!({ "drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"] });
    assert_eq!(context["capabilities"], least);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(set["spec"]["updateStrategy"]["rollingUpdate"], json!({ "maxUnavailable": 1 }));
    assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]));
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1, "nothing relays");
    assert_eq!(pod.get("shareProcessNamespace"), None);
    let all = chart::objects(&json!({ "privileged": true }));
    let context =
        &of_kind(&all, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    let all = json!({ "privileged": true, "readOnlyRootFilesystem": true, "runAsUser": 0 });
    assert_eq!(*context, all);
    let gateways = chart::objects(&json!({ "gateways": { "enabled": true } }));
    let set = of_kind(&gateways, "DaemonSet");
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["hostNetwork"], true);
    // In a roll-out both pods are on the node, which no port of it may hinder; and the old one
    // stays until the new one has answered its probes itself.
    let strategy = &set["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!(*strategy, json!({ "maxSurge": 1, "maxUnavailable": 0 }));
    assert!(pod["containers"].as_array().unwrap().iter().all(|one| one.get("ports").is_none()));
    let probe = &pod["containers"][0]["readinessProbe"];
    let (period, failures) = (&probe["periodSeconds"], &probe["failureThreshold"]);
    assert!(set["spec"]["minReadySeconds"].as_u64() > period.as_u64() && *failures == 1);
    assert!(pod["containers"][0]["args"].as_array().unwrap().contains(&json!("--replace")));
    // What relays is no part of the agent's container, and has no privilege.
    assert_eq!(pod["shareProcessNamespace"], true);
    let relay = &pod["containers"][1];
    let context = &relay["securityContext"];
    let confined = json!({
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "runAsUser": 65534,
        "runAsGroup": 65534,
    });
    assert_eq!(*context, confined);
    // Nor the agent's token: what is mounted there already is left by the API server.
    let of = |list: &Value, field: &str, value: &str| {
        let mut all = list.as_array().unwrap().iter();
        all.find(|one| one[field] == value).unwrap_or_else(|| panic!("{value}")).clone()
    };
    let at = "/var/run/secrets/kubernetes.io/serviceaccount";
    let token = of(&relay["volumeMounts"], "mountPath", at);
    let volume = of(&pod["volumes"], "name", token["name"].as_str().unwrap());
    assert_eq!(volume["emptyDir"], json!({}));
    let at = relay["args"][2].as_str().unwrap();
    assert_eq!(relay["args"], json!(["relay", "--listen", at]));
    let args = pod["containers"][0]["args"].as_array().unwrap();
    assert!(args.contains(&json!(format!("--relay-socket={at}"))), "{args:?}");
}

#[test]
fn what_goes_with_the_agent_finds_its_pods_and_its_port() {
    for values in [json!({ "podMonitor": { "enabled": true } }), everything()] {
        let mut values = values;
        values["metrics"]["port"] = json!(9999);
        let objects = chart::objects(&values);
        let set = of_kind(&objects, "DaemonSet");
        let template = &set["spec"]["template"];
        let container = &template["spec"]["containers"][0];
        for probe in ["readinessProbe", "livenessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], 9999);
        }
        let labels = template["metadata"]["labels"].as_object().unwrap();
        let policy = objects.iter().find(|object| object["kind"] == "NetworkPolicy");
        let monitor = of_kind(&objects, "PodMonitor");
        let selectors = [&set["spec"]["selector"], &monitor["spec"]["selector"]];
        let of_policy = policy.map(|policy| &policy["spec"]["podSelector"]);
        for selector in selectors.into_iter().chain(of_policy) {
            let wanted = selector["matchLabels"].as_object().unwrap();
            assert!(!wanted.is_empty());
            assert!(
                wanted.iter().all(|(name, value)| labels.get(name) == Some(value)),
                "{selector}"
            );
        }
        let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
        match template["spec"]["hostNetwork"] == true {
            true => {
                assert_eq!(policy, None);
                assert!(endpoint["relabelings"].to_string().contains("$1:9999"), "{endpoint}");
            }
            false => {
                let allowed = policy.unwrap()["spec"]["ingress"].as_array().unwrap();
                assert_eq!(allowed.len(), 1);
                assert_eq!(allowed[0]["ports"], json!([{ "protocol": "TCP", "port": 9999 }]));
                assert_eq!(allowed[0]["from"].as_array().map(Vec::len), Some(1), "not everybody");
                let port = &container["ports"][0];
                assert_eq!(
                    (&endpoint["port"], &port["containerPort"]),
                    (&port["name"], &json!(9999))
                );
            }
        }
        // Each role is bound, and to the account that the pods run under.
        let account = &template["spec"]["serviceAccountName"];
        assert_eq!(&of_kind(&objects, "ServiceAccount")["metadata"]["name"], account);
        for (role, binding) in [("ClusterRole", "ClusterRoleBinding"), ("Role", "RoleBinding")] {
            let binding = of_kind(&objects, binding);
            assert_eq!(binding["roleRef"]["kind"], role);
            assert_eq!(binding["roleRef"]["name"], of_kind(&objects, role)["metadata"]["name"]);
            assert_eq!(&binding["subjects"][0]["name"], account);
            assert_eq!(binding["subjects"][0]["namespace"], set["metadata"]["namespace"]);
        }
    }
}

#[test]
fn metrics_are_for_the_node_itself_or_for_who_is_named_or_sends_the_token() {
    let container = |values: &Value| {
        let objects = chart::objects(values);
        let pod = of_kind(&objects, "DaemonSet")["spec"]["template"]["spec"].clone();
        let arguments = pod["containers"][0]["args"].as_array().unwrap().clone();
        let metrics = arguments.iter().filter_map(|one| one.as_str()?.strip_prefix("--metrics-"));
        (pod.clone(), metrics.map(str::to_owned).collect::<Vec<_>>())
    };
    let (pod, metrics) = container(&json!({}));
    assert_eq!(metrics, ["address=0.0.0.0:9464"]);
    assert_eq!(pod["containers"][0]["readinessProbe"]["httpGet"].get("host"), None);
    let (pod, metrics) = container(&json!({ "gateways": { "enabled": true } }));
    assert_eq!(metrics, ["address=127.0.0.1:9464"]);
    for probe in ["readinessProbe", "livenessProbe"] {
        assert_eq!(pod["containers"][0][probe]["httpGet"]["host"], "127.0.0.1");
    }
    let (pod, metrics) = container(&everything());
    let expected = [
        "address=127.0.0.1:9464",
        "token-address=$(HOST_IP):9464",
        "token-file=/run/redirector-metrics/token",
    ];
    assert_eq!(metrics, expected);
    let named = |list: &Value, name: &str| {
        let mut all = list.as_array().unwrap().iter();
        all.find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    let mount = named(&pod["containers"][0]["volumeMounts"], "metrics-token");
    assert_eq!(mount["mountPath"], "/run/redirector-metrics");
    let secret = named(&pod["volumes"], "metrics-token")["secret"].clone();
    assert_eq!(secret["items"], json!([{ "key": "token", "path": "token" }]));
    let address = named(&pod["containers"][0]["env"], "HOST_IP");
    assert_eq!(address["valueFrom"]["fieldRef"]["fieldPath"], "status.hostIP");
    let objects = chart::objects(&everything());
    let sent = &of_kind(&objects, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["authorization"];
    let credentials = json!({ "name": secret["secretName"], "key": "token" });
    assert_eq!(*sent, json!({ "type": "Bearer", "credentials": credentials }));
    // What relays has no part in it.
    assert!(!pod["containers"][1]["volumeMounts"].to_string().contains("metrics-token"));

    let refused = |values: Value| chart::try_render(&values).unwrap_err();
    let nobody = refused(json!({ "networkPolicy": { "from": [] } }));
    assert!(nobody.contains("name who may scrape"), "{nobody}");
    chart::try_render(&json!({ "networkPolicy": { "from": [], "enabled": false } })).unwrap();
    let without =
        refused(json!({ "gateways": { "enabled": true }, "podMonitor": { "enabled": true } }));
    assert!(without.contains("metrics.tokenSecret.name"), "{without}");
}

#[test]
fn every_argument_that_the_chart_gives_is_one_of_the_program() {
    let help = redirector_tests::agent::help("run");
    for values in [json!({}), everything()] {
        let objects = chart::objects(&values);
        let container =
            &of_kind(&objects, "DaemonSet")["spec"]["template"]["spec"]["containers"][0];
        let args = container["args"].as_array().unwrap();
        assert_eq!(args[0], "run");
        for arg in &args[1..] {
            let name = arg.as_str().unwrap().split('=').next().unwrap();
            let known = help.split_whitespace().any(|word| word == name);
            assert!(known, "{name} is not an argument of `redirector run`");
        }
    }
}

/// The chart's objects without what only Helm puts there.
fn plain(mut objects: Vec<Value>) -> Vec<Value> {
    for object in &mut objects {
        let labels = object["metadata"].get_mut("labels");
        if let Some(labels) = labels.and_then(Value::as_object_mut) {
            labels.remove("helm.sh/chart");
            labels.remove("app.kubernetes.io/managed-by");
        }
    }
    objects
}

/// What a manifest should hold: the chart's objects that `keep` wants.
fn same_as_chart(path: &str, values: &Value, keep: impl Fn(&str) -> bool) {
    let expected: Vec<Value> = plain(chart::objects(values))
        .into_iter()
        .filter(|object| keep(object["kind"].as_str().unwrap()))
        .collect();
    let found: Vec<Value> = documents(&deploy(path));
    let found: Vec<Value> =
        found.into_iter().filter(|object| object["kind"] != "Namespace").collect();
    let sorted = |objects: Vec<Value>| -> BTreeSet<String> {
        objects.iter().map(|object| serde_json::to_string_pretty(object).unwrap()).collect()
    };
    assert_eq!(sorted(found), sorted(expected), "{path}: render the chart anew");
}

#[test]
fn the_plain_manifests_hold_what_the_chart_makes() {
    same_as_chart("manifests/redirector.yaml", &json!({}), |_| true);
    same_as_chart(
        "manifests/podmonitor.yaml",
        &json!({ "podMonitor": { "enabled": true } }),
        |kind| kind == "PodMonitor",
    );
    same_as_chart("manifests/crds.yaml", &json!({ "crds": true }), |kind| {
        kind == "CustomResourceDefinition"
    });
}

#[test]
fn the_plain_manifests_are_objects_that_the_api_server_knows() {
    for path in ["redirector.yaml", "podmonitor.yaml", "crds.yaml"] {
        let objects = documents(&deploy(&format!("manifests/{path}")));
        assert!(!objects.is_empty());
        objects.iter().for_each(decode_any);
    }
}

#[test]
fn the_role_allows_exactly_what_the_agent_does() {
    let taint = "redirector.io/agent-not-ready";
    for values in [json!({}), json!({ "startupTaint": taint })] {
        let objects = chart::objects(&values);
        let mut rules: Vec<Rule> = Vec::new();
        for object in &objects {
            if matches!(object["kind"].as_str(), Some("ClusterRole" | "Role")) {
                rules.extend(Rule::of_role(object));
            }
        }
        let server = ApiServer::start();
        // One that streams them is asked for lists by comparisons only.
        server.set_streaming_lists(false);
        server.apply(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n" },
            "spec": { "taints": [{ "key": taint, "effect": "NoSchedule" }] },
        }));
        // Something that an Event is written about.
        server.apply(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": { "name": "bad", "namespace": "default" },
            "spec": { "hosts": ["a"], "tcp": [
                { "match": [{ "port": 70000 }], "route": [{ "destination": { "host": "a" } }] },
            ] },
        }));
        server.allow_only(rules.clone());
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup {
            kubeconfig: Some(server.kubeconfig(directory.path(), TOKEN)),
            gateways: Some(Near { addresses: Vec::new(), ports: 15400..=15499 }),
            startup_taint: values["startupTaint"].as_str().map(str::to_owned),
            // The Lease has to be renewed once.
            timing: Timing { lease: Duration::from_secs(2), ..Timing::default() },
        };
        let mut agent = Agent::new(setup, "n".into()).unwrap();
        let (sender, first) = std::sync::mpsc::channel();
        agent.follow(
            Vec::new(),
            Direct::default(),
            move |batch| sender.send(batch).is_ok(),
            || true,
        );
        let patience = Duration::from_secs(60);
        let batch = first.recv_timeout(patience).expect("every watch is allowed to list");
        let mut store = Store::default();
        batch.put_into(&mut store);
        let world = World::of(Settings::default(), store.effective());
        let in_force = InForce::new(&store, world);
        let findings = in_force.findings();
        agent.judge(Judged::new(&in_force, findings, &[], &[]));
        agent.ready();
        let end = Instant::now() + patience;
        let used = || -> BTreeSet<(String, String, String)> { server.used() };
        let wanted: BTreeSet<(String, String, String)> = rules
            .iter()
            .map(|rule| (rule.group.clone(), rule.resource.clone(), rule.verb.clone()))
            .collect();
        while used() != wanted && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Equal: no watch without a rule, and no rule without a use.
        assert_eq!(used(), wanted);
    }
}

#[test]
fn the_definitions_are_of_the_kinds_that_are_watched() {
    use redirector::kubernetes::Resource;
    let defined: BTreeSet<(String, String)> = documents(&deploy("manifests/crds.yaml"))
        .iter()
        .map(|crd| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let versions = crd["spec"]["versions"].as_array().unwrap();
            assert_eq!(
                versions.iter().map(|v| text(&v["name"])).collect::<Vec<_>>(),
                Resource::VirtualServices.versions()
            );
            (text(&crd["spec"]["names"]["kind"]), text(&crd["spec"]["names"]["plural"]))
        })
        .collect();
    let watched = Resource::ALL.iter().filter(|resource| resource.is_optional());
    let watched: BTreeSet<(String, String)> =
        watched.map(|r| (r.kind().as_str().to_owned(), r.plural().to_owned())).collect();
    assert_eq!(defined, watched);
}
