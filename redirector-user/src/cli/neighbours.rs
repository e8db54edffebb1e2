//! Who else decides where connections go: for `status`.

use redirector_core::model::{Kind, Object};
use redirector_core::world::World;

use crate::datapath::{Attached, Hook};

/// What Istio's injector and its CNI agent write on a Pod whose connections they
/// redirect.
const CAPTURED: [(&str, &str); 2] =
    [("sidecar.istio.io/status", ""), ("ambient.istio.io/redirection", "enabled")];

/// How many Pods are named.
const NAMED: usize = 3;

/// What there is to say about programs of others on the hooks that rewrite
/// addresses. `below` are those attached below our cgroups.
pub fn programs(attached: &[Attached], below: &[Attached]) -> Vec<String> {
    let mut said = Vec::new();
    let others = attached.iter().filter(|one| !one.ours && rewrites(one.hook));
    for other in others.chain(below) {
        let of_ours = |one: &&Attached| {
            one.ours && one.hook == other.hook && other.cgroup.starts_with(&one.cgroup)
        };
        let ours = attached.iter().find(of_ours);
        // Those of a child run before those of its parents.
        let first = ours.is_none_or(|ours| ours.cgroup != other.cgroup || other.order < ours.order);
        let order = match (other.hook, first) {
            (Hook::Connect4 | Hook::Connect6, true) => {
                "runs before ours: it sees the address dialled, and ours the one that it leaves"
            }
            (Hook::Connect4 | Hook::Connect6, false) => {
                "runs after ours: it sees the endpoint's address instead of the one dialled"
            }
            (_, true) => "runs before ours, which may overwrite the address that it shows",
            (_, false) => "runs after ours, and may overwrite the address dialled that ours shows",
        };
        let alone = match other.exclusive {
            true => "; it is attached exclusively, so nobody else can attach there or below",
            false => "",
        };
        said.push(format!(
            "{} (id {}, attached to {}) is on {}, too, and {order}{alone}",
            name(other),
            other.program_id,
            other.at.display(),
            other.hook.name(),
        ));
    }
    said
}

fn rewrites(hook: Hook) -> bool {
    !matches!(hook, Hook::Release | Hook::Sockops)
}

/// A program's name; it may have none.
fn name(program: &Attached) -> &str {
    if program.name.is_empty() { "a program" } else { &program.name }
}

/// What there is to say about Pods whose connections a proxy of Istio's takes.
pub fn sidecars(world: &World) -> Option<String> {
    let node = world.settings.node_name.as_deref();
    let pods: Vec<String> = (world.pods())
        .filter(|(_, pod)| node.is_none_or(|node| *pod.node == *node) && !pod.finished)
        .filter(|(object, _)| is_captured(object))
        .map(|(object, _)| format!("{}/{}", object.meta.namespace, object.meta.name))
        .collect();
    if pods.is_empty() {
        return None;
    }
    let mut names = pods.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if pods.len() > NAMED {
        names.push_str(&format!(" and {} more", pods.len() - NAMED));
    }
    Some(format!(
        "a proxy of Istio's takes the connections of {names}, after they were decided here: where a \
         rule matches, it sees the endpoint's address instead of the service's. Leave one of the \
         two out (the label sidecar.istio.io/inject: \"false\", or `redirector bypass`)"
    ))
}

fn is_captured(object: &Object) -> bool {
    let says = |(annotation, value): &(&str, &str)| {
        let found = object.meta.annotations.get(annotation);
        found.is_some_and(|found| value.is_empty() || found == *value)
    };
    object.reference().kind == Kind::Pod && CAPTURED.iter().any(says)
}

#[cfg(test)]
mod tests {
    use super::*;
    use redirector_core::documents;
    use redirector_core::world::Settings;

    fn program(ours: bool, cgroup: &str, order: usize) -> Attached {
        Attached {
            cgroup: cgroup.into(),
            hook: Hook::Connect4,
            order,
            program_id: 7,
            name: if ours { "rd_connect4" } else { "cil_sock4" }.into(),
            ours,
            at: cgroup.into(),
            exclusive: false,
        }
    }

    #[test]
    fn who_runs_before_and_who_after_is_told() {
        let ours = program(true, "/c", 1);
        let said = programs(&[program(false, "/c", 0), ours.clone(), program(false, "/c", 2)], &[]);
        assert!(said[0].contains("cil_sock4 (id 7, attached to /c) is on connect4"), "{said:?}");
        assert!(said[0].contains("before ours") && said[1].contains("after ours"), "{said:?}");
        let below = Attached { exclusive: true, ..program(false, "/c/d", 0) };
        let said = programs(&[ours], &[below]);
        assert!(said[0].contains("before ours") && said[0].contains("exclusively"), "{said:?}");
    }

    #[test]
    fn pods_with_a_proxy_are_told_for_this_node() {
        let pod = |name: &str, node: &str, annotations: &str| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: \
                 {annotations}}}\nspec: {{nodeName: {node}}}\nstatus: {{podIP: 10.0.0.1}}\n"
            )
        };
        let text = [
            pod("a", "here", "{sidecar.istio.io/status: '{}'}"),
            pod("b", "here", "{ambient.istio.io/redirection: enabled}"),
            pod("c", "here", "{ambient.istio.io/redirection: disabled}"),
            pod("d", "there", "{sidecar.istio.io/status: '{}'}"),
        ];
        let settings = Settings { node_name: Some("here".into()), ..Settings::default() };
        let mut world = World::new(settings);
        for read in documents::read(None, &text.concat()).objects {
            world.insert(read.object.unwrap());
        }
        let said = sidecars(&world).unwrap();
        assert!(said.contains("of default/a, default/b, after"), "{said}");
        assert_eq!(sidecars(&World::new(Settings::default())), None);
    }
}
