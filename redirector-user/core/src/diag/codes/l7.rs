//! RD5xxx: what only works at L7.

use super::{Code, NONE, Severity, codes};

codes! {
    HTTP_ON_TCP = "RD5001" Warning NONE "http rules have no effect on a TCP port" {
        "The port of the host is declared TCP. http rules are never installed there, in Istio neither, so connections go to the service as if the VirtualService did not exist: no split happens."
        "Write tcp: instead of http:, with the same route list."
        "http:\n  - route: [{destination: {host: echo, subset: gray}, weight: 20}, {destination: {host: echo, subset: prod}, weight: 80}]"
    }
    HTTP_RULES = "RD5002" Warning NONE "http rules need a proxy" {
        "They are decided request by request, by a proxy that reads HTTP. This project decides connections: the rules are left alone."
        "Write what can be decided per connection under tcp; keep a proxy for the rest."
        "http:\n  - match: [{uri: {prefix: /a}}]\n    route: [{destination: {host: echo}}]"
    }
    TLS_RULES = "RD5003" Warning NONE "The address does not decide the tls rule" {
        "tls rules are chosen by the server name that the client sends after it has connected; at connect time nothing of it is known. In the mesh the address stands for it: where all hosts that have the address are covered by sniHosts, the rule matches, and where none is, it does not. Here neither can be said: the ServiceEntry has no address of its own, sniHosts cover a part of its wildcard host only, or several hosts of a namespace have one address and are not routed alike. This rule and those below it are left alone: the connection goes where it would go without them. For a wildcard without addresses, as Istio's documentation prints it for egress, that is where it was dialled: it is neither rewritten nor refused, and goes past the gateway."
        "Give each host an address of its own: beside the wildcard, a ServiceEntry with the full names of the hosts that clients dial and resolution DNS; or one with addresses. Where several hosts have one address, let the rules of all lead to the same. Rules may stay as they are, those for a wildcard too: at the gateway the server name is read."
        "hosts: ['*.example.org'], resolution: NONE and no addresses, with\ntls:\n  - match: [{sniHosts: ['*.example.org']}]"
    }
    L7_SERVER = "RD5004" Warning NONE "The gateway's server needs a proxy that speaks its protocol" {
        "HTTP servers, servers that end TLS, and those in AUTO_PASSTHROUGH mode are not served here: connections to the port are refused. The other servers of the same Gateway work."
        "Serve the port with a gateway that speaks the protocol, or declare it TCP."
        "port: {number: 80, name: http, protocol: HTTP}"
    }
    IGNORED_POLICY = "RD5005" Warning NONE "The setting has no effect here" {
        "It counts requests or reads them, or has the share of a new endpoint grow; this project sees connections, and decides each once, by shares that are as written. The setting is ignored, the rest of the policy is in force."
        "Nothing needs mending if a proxy applies it."
        "connectionPool: {http: {http1MaxPendingRequests: 10}}"
    }
    CHANGES_BYTES = "RD5006" Warning NONE "The policy would change bytes on the wire" {
        "TLS and tunnels need somebody in the middle who writes bytes. Sending the connection without them would be wrong, so it is refused: the share of destinations under this policy gets ECONNREFUSED. It is not said of ISTIO_MUTUAL where --istio-mutual=plain or the annotation redirector.io/istio-mutual has such connections go as they are."
        "Remove the setting, or let a proxy serve the destination."
        "trafficPolicy: {tls: {mode: SIMPLE}}"
    }
    NEEDS_RESOLVER = "RD5007" Info NONE "Endpoints or addresses are resolved by name" {
        "An endpoint, or where there is none the host, is a name; and where the ServiceEntry has no addresses, those that its hosts resolve to are its own. The daemon resolves the names itself, again and again; check does not, so it cannot say whether there are endpoints, and which addresses are taken."
        "Nothing needs mending."
        "resolution: DNS"
    }
    DYNAMIC_DNS = "RD5008" Warning NONE "DYNAMIC_DNS means nothing for TCP" {
        "The destination is taken from the server name or the Host header, which a TCP connection does not have before it is established."
        "Write resolution: DNS with a full host name."
        "resolution: DYNAMIC_DNS"
    }
    UNIX_ENDPOINT = "RD5009" Warning NONE "A unix socket cannot be an endpoint here" {
        "A TCP connection cannot be sent to a socket file in the kernel: the share of the connections that the endpoint would have is refused (ECONNREFUSED), it is not moved to the others."
        "Give the endpoint an address and a port."
        "endpoints: [{address: unix:///run/db.sock}]"
    }
    NO_TCP_PORT = "RD5010" Warning NONE "No port of the hosts takes the rules" {
        "tcp rules apply to ports that are declared TCP or not declared at all, and tls rules to those that are declared TLS or HTTPS. All ports of these hosts, or all that have the number in a match, are declared as something else (by appProtocol, or the beginning of their name), or there is none, so the rules never apply there."
        "Begin the port's name with tcp, or set appProtocol: tcp; for tls rules tls."
        "ports: [{name: http-echo, port: 19000}]"
    }
    UNIX_SERVER = "RD5011" Warning NONE "A gateway does not listen on a unix socket here" {
        "What arrives at a socket file has no address that rules could be compared with: the server is left out. The other servers of the same Gateway work."
        "Give the server a port, and an address if it is not to have all of the workload's."
        "servers: [{bind: unix:///run/gw.sock, port: {number: 0, name: tcp, protocol: TCP}}]"
    }
}
