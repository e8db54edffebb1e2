//! A large configuration: Services of two endpoints each, and rules for each of them.

use std::fmt::Write as _;

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Services.
    pub services: usize,
    /// Rules of each Service, for clients with different labels.
    pub rules: usize,
}

/// A local workload in a cgroup below `root`.
pub fn workload(i: usize, root: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata:\n  name: w{i}\n  \
         labels: {{app: client{i}}}\n  annotations: {{redirector.io/cgroup: {root}/w{i}}}\n\
         spec: {{address: 127.93.0.{}}}\n",
        i + 1
    )
}

/// A Service.
pub fn service(i: usize) -> String {
    let (high, low) = (i / 250, i % 250);
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{i}}}\nspec: {{clusterIP: \
         127.90.{high}.{low}, ports: [{{port: 80, name: tcp}}]}}\n"
    )
}

/// Its endpoints, so many.
pub fn endpoints(i: usize, count: usize) -> String {
    let (high, low) = (i / 250, i % 250);
    let networks = 97 - count..97;
    let addresses: Vec<String> =
        networks.map(|net| format!("{{addresses: [127.{net}.{high}.{low}]}}")).collect();
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{i}-x, \
         labels: {{kubernetes.io/service-name: s{i}}}}}\naddressType: IPv4\nports: [{{name: tcp, \
         port: 80, protocol: TCP}}]\nendpoints: [{}]\n",
        addresses.join(", ")
    )
}

/// A VirtualService of so many rules, each for clients with a label of its own, that split
/// between its Service and the next. The first rule gives `weight` to its own.
pub fn rules(i: usize, count: usize, weight: usize) -> String {
    let mut text = format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s{i}}}\n\
         spec:\n  hosts: [s{i}]\n  tcp:\n"
    );
    for k in 0..count {
        let weight = if k == 0 { weight } else { 30 };
        let _ = writeln!(
            text,
            "  - match: [{{sourceLabels: {{app: client{k}}}}}]\n    route: [{{destination: {{host: \
             s{i}}}, weight: {weight}}}, {{destination: {{host: s{}}}, weight: {}}}]",
            i ^ 1,
            100 - weight
        );
    }
    text
}
