//! The annotations and labels that mean something here: each name is written once.

use super::Kind;
use crate::diag::nearest;

/// The value by which an annotation switches something on.
pub const ON: &str = "true";

/// What the names of this project's own annotations begin with.
pub const OURS: &str = "redirector.io/";

/// Of a WorkloadEntry: the cgroup of its processes, as a path below the cgroup2
/// mount.
pub const CGROUP: &str = "redirector.io/cgroup";

/// Of a WorkloadEntry: a file that holds the network namespace of its processes.
pub const NETNS: &str = "redirector.io/netns";

/// Of a WorkloadEntry (or Pod of this node), `"true"`: this node serves it as a
/// gateway. Of a Service in a cluster: each node's proxy serves its gateway.
pub const GATEWAY: &str = "redirector.io/gateway";

/// Of a gateway's WorkloadEntry at whose address connections to another address
/// arrive: a [`StandsFor`](crate::registry::StandsFor).
pub const GATEWAY_FOR: &str = "redirector.io/gateway-for";

/// Of a Service with [`GATEWAY`]: its node ports are served, too, at the addresses of
/// the node.
pub const GATEWAY_NODE_PORTS: &str = "redirector.io/gateway-node-ports";

/// Of a Service, ServiceEntry or DestinationRule: how long connections to an endpoint
/// may go on when it has left the destination or its subset, a duration such as `30s`, or
/// `now`.
pub const DRAIN: &str = "redirector.io/drain";

/// Of a Gateway: backends are told the client by a PROXY protocol header; its value
/// is [`PROXY_PROTOCOL_V2`](super::PROXY_PROTOCOL_V2).
pub const PROXY_PROTOCOL: &str = "redirector.io/proxy-protocol";

/// Of a Gateway: the subnets of those who connect for others, and say so by a PROXY
/// protocol header; with commas between them.
pub const ACCEPT_PROXY_PROTOCOL: &str = "redirector.io/accept-proxy-protocol";

/// Of a Gateway: how many connections one of its servers may have at a time.
pub const MAX_CONNECTIONS: &str = "redirector.io/max-connections";

/// Of a Gateway: how many of them may have one client address.
pub const MAX_CONNECTIONS_PER_CLIENT: &str = "redirector.io/max-connections-per-client";

/// Of a Gateway: how long a client is idle before it is asked whether it is still there,
/// a duration such as `300s`, or `off`.
pub const CLIENT_KEEPALIVE: &str = "redirector.io/client-keepalive";

/// Of a DestinationRule: what becomes of connections for which it asks for ISTIO_MUTUAL,
/// `refuse` or `plain`.
pub const ISTIO_MUTUAL: &str = "redirector.io/istio-mutual";

/// Of a ServiceEntry without addresses, `"true"`: its rules take its ports at every
/// address.
pub const CLAIM_PORT: &str = "redirector.io/claim-port";

/// All that begin with [`OURS`], and the kinds that they mean something for.
pub const ALL: [(&str, &[Kind]); 13] = [
    (CGROUP, &[Kind::WorkloadEntry]),
    (NETNS, &[Kind::WorkloadEntry]),
    (GATEWAY, &[Kind::WorkloadEntry, Kind::Pod, Kind::Service]),
    (GATEWAY_FOR, &[Kind::WorkloadEntry]),
    (GATEWAY_NODE_PORTS, &[Kind::Service]),
    (DRAIN, &[Kind::Service, Kind::ServiceEntry, Kind::DestinationRule]),
    (PROXY_PROTOCOL, &[Kind::Gateway]),
    (ACCEPT_PROXY_PROTOCOL, &[Kind::Gateway, Kind::Service]),
    (MAX_CONNECTIONS, &[Kind::Gateway]),
    (MAX_CONNECTIONS_PER_CLIENT, &[Kind::Gateway]),
    (CLIENT_KEEPALIVE, &[Kind::Gateway]),
    (ISTIO_MUTUAL, &[Kind::DestinationRule]),
    (CLAIM_PORT, &[Kind::ServiceEntry]),
];

/// What is wrong with one of these, or of Istio's of a Service, where it stands, and how to mend
/// it: it means nothing for the kind, has a value that is neither yes nor no, names no place, or
/// is another's name but for a slip.
pub fn idle(name: &str, value: &str, kind: Kind) -> Option<(String, Option<String>)> {
    if let (Kind::Service, Some(word)) = (kind, name.strip_prefix(ISTIOS)) {
        let known = [EXPORT_TO, TRAFFIC_DISTRIBUTION];
        let near = nearest(word, known.iter().filter_map(|known| known.strip_prefix(ISTIOS)))?;
        let problem = format!("there is no annotation {name}: it has no effect");
        return Some((problem, Some(format!("did you mean {ISTIOS}{near}?"))));
    }
    let (_, kinds) = ALL.iter().find(|(known, _)| *known == name)?;
    if !kinds.contains(&kind) {
        return Some((format!("{name} has no meaning for a {kind}"), None));
    }
    let said = |why: &str| format!("{name}: \"{value}\" {why}");
    match name {
        GATEWAY | GATEWAY_NODE_PORTS | CLAIM_PORT if !matches!(value, ON | "false") => {
            Some((said(&format!("is not \"{ON}\"")), Some(format!("write {name}: \"{ON}\""))))
        }
        CGROUP if !value.is_empty() && cgroup(value).is_none() => {
            let below = value
                .trim_matches('/')
                .strip_prefix("sys/fs/cgroup")
                .map(|rest| rest.trim_start_matches('/'));
            let example = below
                .filter(|below| cgroup(below).is_some())
                .unwrap_or("system.slice/shop.service");
            let help = format!("write the path below the cgroup2 mount, such as {example}");
            Some((said("names no cgroup: no process is known by it"), Some(help)))
        }
        NETNS if !value.is_empty() && netns(value).is_none() => {
            let help = "write the path of its file, such as /run/netns/shop".to_owned();
            Some((said("names no network namespace: no process is known by it"), Some(help)))
        }
        _ => None,
    }
}

/// The cgroup that a value of [`CGROUP`] names: a path below the mount, without slashes at
/// its ends; `/` is the mount itself. One that leads out of it, or begins at the root of files,
/// names none.
pub fn cgroup(value: &str) -> Option<&str> {
    let path = value.trim_matches('/');
    let at_root = path == "sys/fs/cgroup" || path.starts_with("sys/fs/cgroup/");
    let is_step = |part: &str| !matches!(part, "" | "." | "..");
    (!at_root && (path.is_empty() || path.split('/').all(is_step))).then_some(path)
}

/// The file that a value of [`NETNS`] names: an absolute path.
pub fn netns(value: &str) -> Option<&str> {
    (value.starts_with('/') && value.split('/').all(|part| part != "..")).then_some(value)
}

/// What the names of Istio's annotations begin with.
const ISTIOS: &str = "networking.istio.io/";

/// Istio's, of a Service: the namespaces that see it.
pub const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// Istio's, of a Service in clusters without the field: `spec.trafficDistribution`.
pub const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// The kubelet's: what names a static pod's cgroup instead of its uid.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Label of an EndpointSlice: its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Label of a Node, and of its endpoints: the region.
pub const REGION: &str = "topology.kubernetes.io/region";

/// Label of a Node, and of its endpoints: the zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// Label of a Node, and of its endpoints: the part of a zone.
pub const SUBZONE: &str = "topology.istio.io/subzone";

/// Label of a workload, and of endpoints: the network.
pub const NETWORK: &str = "topology.istio.io/network";

/// Label of a Node, and of its endpoints: the node's name.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
