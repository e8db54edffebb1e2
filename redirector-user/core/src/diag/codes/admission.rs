//! RD2xxx: what Istio's admission refuses, and from RD2101 on what it warns of.

use super::{Code, SCHEMA, Severity, WARNED, codes};

/// VirtualServiceUnreachableRule.
const UNREACHABLE: Option<&str> = Some("IST0130");
/// VirtualServiceIneffectiveMatch.
const INEFFECTIVE: Option<&str> = Some("IST0131");
/// ServiceEntryAddressesRequired.
const ADDRESSES: Option<&str> = Some("IST0134");

codes! {
    REQUIRED = "RD2001" Error SCHEMA "A required part is missing" {
        "Istio's admission refuses the object, so it never takes effect. Here it is not used, and its last good version stays in force."
        "Add what the message names."
        "tcp:\n  - match:\n      - port: 19000   # a rule needs a route"
    }
    BAD_HOST = "RD2002" Error SCHEMA "The host name is not legal" {
        "A host is a DNS name of at most 255 characters, whose parts have at most 63 letters, digits and '-', the last not being a number; a wildcard may only stand at its very beginning. Istio refuses the object."
        "Correct the name; a destination and a DestinationRule take no IP address."
        "hosts:\n  - echo_server.default.svc.cluster.local"
    }
    STAR_ON_MESH = "RD2003" Error SCHEMA "The host * is not allowed in the mesh" {
        "A VirtualService that is bound to the mesh (explicitly, or by having no gateways) cannot claim every host. Istio refuses it."
        "Name the hosts, or bind the object to gateways only."
        "hosts: ['*']\ngateways: [mesh]"
    }
    DUPLICATE_HOST = "RD2004" Error SCHEMA "Two hosts of the object overlap" {
        "A host stands twice in the list, or one wildcard covers another entry. Istio refuses the object."
        "Remove one of the two."
        "hosts: ['*.example.com', a.example.com]"
    }
    NO_RULES = "RD2005" Error SCHEMA "The VirtualService has no rules" {
        "At least one of tcp, tls and http must have an entry. Istio refuses the object."
        "Add a rule under tcp."
        "spec:\n  hosts: [echo]"
    }
    BAD_DELEGATE = "RD2006" Error SCHEMA "A VirtualService without hosts carries what a delegate may not" {
        "Without hosts the object is a delegate of another one's http rules; a delegate has no gateways, no tcp and no tls. Istio refuses it."
        "Add hosts."
        "spec:\n  tcp:\n    - route: [{destination: {host: echo}}]"
    }
    BAD_EXPORT = "RD2007" Error SCHEMA "exportTo is not legal" {
        "exportTo lists namespaces, '.' for the own one, or '*' alone; no entry twice. '~' is for ServiceEntries, and alone. Istio refuses the object."
        "Correct the list."
        "exportTo: ['*', foo]"
    }
    BAD_SUBNET = "RD2008" Error SCHEMA "The subnet cannot be read" {
        "A subnet is an IP address, or an address, a slash and the length of the prefix. Istio refuses the object."
        "Write it like 10.96.0.0/16 or fd00::/64; without leading zeros."
        "destinationSubnets: [10.0.0.0/33]"
    }
    BAD_PORT = "RD2009" Error SCHEMA "The port is out of range" {
        "Ports are 1 to 65535; a port selector without number reads as port 0. Istio refuses the object."
        "Write the service's port."
        "destination:\n  host: echo\n  port: {}"
    }
    BAD_LABEL = "RD2010" Error SCHEMA "The label is not legal" {
        "Keys and values of labels have at most 63 letters, digits, '-', '_' and '.', and begin and end with a letter or digit; a key may have a DNS name and a slash before it. Istio refuses the object."
        "Correct the label."
        "sourceLabels:\n  app name: client"
    }
    BAD_GATEWAY_NAME = "RD2011" Error SCHEMA "The name of the gateway is not legal" {
        "A gateway is named by its name, or by namespace/name, each a DNS label. Istio refuses the object."
        "Write namespace/name, or the name alone when the Gateway is in the same namespace."
        "gateways: [./edge]"
    }
    NEGATIVE_WEIGHT = "RD2012" Error SCHEMA "The weight is not legal" {
        "Weights are whole numbers from 0 to 2147483647. Istio refuses the object."
        "Write a weight of 0 or more. They need not sum to 100."
        "weight: -1"
    }
    ZERO_WEIGHTS = "RD2013" Error SCHEMA "The weights sum to zero" {
        "With several destinations, an absent weight is 0, and at least one must be more. Istio refuses the object."
        "Give the destinations weights."
        "route:\n  - destination: {host: a}\n  - destination: {host: b}"
    }
    BAD_SUBSET_NAME = "RD2014" Error SCHEMA "The name of the subset is not legal" {
        "A subset's name is a DNS label: letters, digits and '-', no dots. Istio refuses the object."
        "Correct the name, here and in the DestinationRule."
        "subsets:\n  - name: prod.v1"
    }
    BAD_SNI = "RD2015" Error SCHEMA "The SNI host is not legal" {
        "The sniHosts of a tls rule must be covered by the hosts of the object. Istio refuses it."
        "Add the host to hosts, or correct it."
        "hosts: [a.example.com]\ntls:\n  - match: [{sniHosts: [b.example.com]}]"
    }
    HTTP_CONFLICT = "RD2016" Error SCHEMA "The http rule contradicts itself" {
        "An http rule has exactly one of route, redirect, directResponse and delegate, and some settings exclude others. Istio refuses the object."
        "Remove one of the two that the message names."
        "http:\n  - redirect: {uri: /}\n    route: [{destination: {host: echo}}]"
    }
    BAD_HTTP_VALUE = "RD2017" Error SCHEMA "A value of the http rule is not legal" {
        "Istio refuses the object. None of it would have an effect at L4."
        "Correct the value as the message says."
        "fault:\n  abort: {httpStatus: 99}"
    }
    BAD_SERVER_HOST = "RD2020" Error SCHEMA "The host of the server is not legal" {
        "A Gateway's server takes full names, '*', '*.example.com' or an IP address, with an optional namespace, '.' or '*' and a slash before it; no short names and no partial wildcards. Istio refuses the Gateway."
        "Write the full name, or '*'."
        "hosts: [echo]"
    }
    BAD_PROTOCOL = "RD2021" Error SCHEMA "The protocol is not known" {
        "Known are TCP, TLS, HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, HTTP_PROXY, MONGO, REDIS, MYSQL, UDP and HBONE. Istio refuses the object."
        "Write TCP for plain L4 traffic."
        "protocol: TPC"
    }
    DUPLICATE_PORT = "RD2022" Error SCHEMA "Two ports have the same name or number" {
        "Ports are told apart by their names, and a ServiceEntry's also by their numbers. Istio refuses the object."
        "Give each port its own name and number."
        "servers:\n  - port: {number: 1, name: tcp, protocol: TCP}\n  - port: {number: 2, name: tcp, protocol: TCP}"
    }
    BAD_BIND = "RD2023" Error SCHEMA "bind is not legal" {
        "bind is an IP address, or unix:// and an absolute path with port number 0. Istio refuses the Gateway."
        "Write an IP address, or leave bind out."
        "bind: eth0"
    }
    SERVER_TLS = "RD2024" Error SCHEMA "The server's tls settings do not fit" {
        "TLS and HTTPS servers need tls, TCP servers may not have it, and the modes need or exclude certificates. Istio refuses the Gateway."
        "Correct tls as the message says. A server that passes TLS through is protocol TLS with tls.mode PASSTHROUGH."
        "port: {number: 443, name: tls, protocol: TLS}   # without tls:"
    }
    NO_EFFECT = "RD2025" Error SCHEMA "The field may not be set here" {
        "Istio refuses the object because the field cannot have an effect."
        "Remove the field."
        "port: {number: 19000, name: tcp, protocol: TCP, targetPort: 9000}   # in a Gateway"
    }
    BAD_NAME = "RD2026" Error SCHEMA "The name is not legal" {
        "A Gateway's name, and the name of a port, is a single DNS label: letters, digits and '-'. Istio refuses the object."
        "Correct the name."
        "kind: Gateway\nmetadata:\n  name: edge.gw"
    }
    EMPTY_POLICY = "RD2030" Error SCHEMA "The policy sets nothing" {
        "A trafficPolicy, a connectionPool and each of portLevelSettings must set at least one thing. Istio refuses the DestinationRule."
        "Remove the empty part."
        "trafficPolicy: {}"
    }
    BAD_DURATION = "RD2031" Error SCHEMA "The duration is not legal" {
        "Durations are numbers with units, of at least 1ms and without fractions of one. Istio refuses the object."
        "Write it like 10s, 1m30s or 250ms."
        "connectTimeout: 10"
    }
    BAD_NUMBER = "RD2032" Error SCHEMA "The number is not legal" {
        "The field does not take this number: percentages are 0 to 100, limits are not negative. Istio refuses the object."
        "Write a number within the range that the message names."
        "maxConnections: -1"
    }
    BAD_LOAD_BALANCER = "RD2033" Error SCHEMA "The loadBalancer is not legal" {
        "simple and consistentHash exclude each other; a Maglev table has a prime size below 5000011. Istio refuses the DestinationRule."
        "Correct it as the message says."
        "consistentHash:\n  useSourceIp: true\n  maglev: {tableSize: 1000}"
    }
    BAD_LOCALITY = "RD2034" Error SCHEMA "localityLbSetting is not legal" {
        "The percentages of distribute sum to 100, distribute and failover exclude each other, failover goes from a region to another one. Istio refuses the DestinationRule."
        "Correct it as the message says."
        "distribute:\n  - from: a/*\n    to: {a/*: 80, b/*: 10}"
    }
    BAD_OUTLIER = "RD2035" Error SCHEMA "outlierDetection contradicts itself" {
        "consecutiveLocalOriginFailures needs splitExternalLocalOriginErrors. Istio refuses the DestinationRule."
        "Set splitExternalLocalOriginErrors to true."
        "outlierDetection: {consecutiveLocalOriginFailures: 5}"
    }
    CLIENT_TLS = "RD2036" Error SCHEMA "The policy's tls settings contradict each other" {
        "Istio refuses the DestinationRule."
        "Correct tls as the message says."
        "tls: {mode: MUTUAL}   # without certificates"
    }
    DUPLICATE_SUBSET = "RD2037" Error SCHEMA "Two subsets have the same name" {
        "Istio refuses the DestinationRule."
        "Rename or remove one of them."
        "subsets:\n  - name: prod\n  - name: prod"
    }
    SELECTOR_EXPORT = "RD2038" Error SCHEMA "A DestinationRule with a workloadSelector is exported" {
        "Such a rule is for clients of its own namespace, so exportTo may only be '.'. Istio refuses it."
        "Write exportTo: ['.']."
        "workloadSelector: {matchLabels: {app: client}}\nexportTo: ['*']"
    }
    BAD_SELECTOR = "RD2039" Error SCHEMA "The selector is not legal" {
        "Keys of a selector may not be empty, and wildcards do not exist in it. Istio refuses the object."
        "Write the labels in full."
        "workloadSelector: {labels: {app: '*'}}"
    }
    ENTRY_CONFLICT = "RD2040" Error SCHEMA "Parts of the ServiceEntry exclude each other" {
        "endpoints and workloadSelector exclude each other; CIDR addresses go with resolution NONE or STATIC; NONE has no endpoints; DNS_ROUND_ROBIN has one at most; a wildcard host needs endpoints under DNS. Istio refuses the ServiceEntry."
        "Correct it as the message says."
        "resolution: NONE\nendpoints: [{address: 192.0.2.1}]"
    }
    BAD_ENDPOINT = "RD2041" Error SCHEMA "The address of the endpoint is not legal" {
        "An address is an IP address, under DNS also a host name, under STATIC also unix:// and an absolute path; it never carries a port. Istio refuses the object."
        "Write the address alone; ports go under ports."
        "address: vm1.example.com:5432"
    }
    MULTIPLE_HOSTS = "RD2042" Error SCHEMA "Several hosts share a TCP port" {
        "A TCP connection carries no host name, so several hosts on one port can only be told apart under resolution NONE. Istio refuses the ServiceEntry."
        "Write one ServiceEntry for each host."
        "hosts: [a.example.com, b.example.com]\nresolution: STATIC"
    }
    UNKNOWN_ENDPOINT_PORT = "RD2043" Error SCHEMA "The endpoint names a port that the ServiceEntry does not have" {
        "The keys of an endpoint's ports are names of the ServiceEntry's ports. Istio refuses the ServiceEntry."
        "Correct the name."
        "ports: [{number: 5432, name: db}]\nendpoints: [{address: 192.0.2.1, ports: {database: 15432}}]"
    }
    REJECTED_BY_ANNOTATION = "RD2044" Error SCHEMA "An annotation has the object rejected" {
        "Istio refuses objects with istio.io/dry-run (which only AuthorizationPolicy has) and with internal.istio.io/webhook-always-reject."
        "Remove the annotation."
        "annotations: {istio.io/dry-run: 'true'}"
    }
    UNREACHABLE_RULE = "RD2101" Warning UNREACHABLE "The rule can never be reached" {
        "A rule above it has no match, or every match of it stands above already. The first matching rule wins, so this one is dead."
        "Remove it, or move the catch-all to the end."
        "tcp:\n  - route: [{destination: {host: a}}]\n  - route: [{destination: {host: b}}]"
    }
    DUPLICATE_MATCH = "RD2102" Warning INEFFECTIVE "The match stands above already" {
        "An equal match block stands in this rule or in one above, so this one never decides anything."
        "Remove it."
        "match:\n  - port: 19000\n  - port: 19000"
    }
    LEGACY_GATEWAY_NAME = "RD2103" Warning WARNED "The dotted form of the gateway's name is deprecated" {
        "It is read as name.namespace and still works."
        "Write namespace/name."
        "gateways: [edge.istio-system.svc.cluster.local]"
    }
    SNI_IS_ADDRESS = "RD2104" Warning WARNED "An IP address stands where an SNI host belongs" {
        "Clients do not send addresses as server names, so the rule matches nothing."
        "Write a host name."
        "sniHosts: [192.0.2.1]"
    }
    DEPRECATED = "RD2105" Warning WARNED "The field is deprecated" {
        "It still works, and its replacement is clearer."
        "Write what the message names."
        "outlierDetection: {consecutiveErrors: 5}"
    }
    EMPTY_SELECTOR = "RD2106" Warning WARNED "The selector is empty" {
        "Without labels the selector of a ServiceEntry selects nothing, and that of a DestinationRule every workload of its namespace, as in Istio."
        "Add labels, or remove the selector."
        "workloadSelector: {}"
    }
    FAILOVER_WITHOUT_OUTLIER = "RD2107" Warning WARNED "Failover needs outlierDetection" {
        "Without outlierDetection no endpoint is ever found unhealthy, so traffic never fails over."
        "Add outlierDetection."
        "localityLbSetting: {failover: [{from: a, to: b}]}"
    }
    UNUSED_TLS = "RD2108" Warning WARNED "A part of the tls settings is not used" {
        "The mode of the server does not use it."
        "Remove it."
        "tls: {mode: PASSTHROUGH, credentialName: cert}"
    }
    NO_ADDRESSES = "RD2109" Warning ADDRESSES "A TCP port of a ServiceEntry needs addresses" {
        "TCP connections are told apart by the address dialled. Without addresses there is nothing to recognise them by. Under resolution NONE, and with the annotation redirector.io/claim-port, the ServiceEntry claims the port at every address for its rules (RD4045 says when it does); under DNS and DNS_ROUND_ROBIN the addresses that its hosts resolve to are its own; otherwise it has no frontend here and none of its traffic is routed. In Istio it claims the port for every destination, unless addresses are allocated automatically."
        "Add addresses, or a port with a protocol that names its host (TLS, HTTP)."
        "kind: ServiceEntry\nspec:\n  hosts: [db.example.com]\n  ports: [{number: 5432, name: tcp, protocol: TCP}]"
    }
    SELECTOR_UNUSED = "RD2110" Warning WARNED "workloadSelector does not go with resolution NONE" {
        "Workloads are selected for resolution STATIC, and for DNS, where WorkloadEntries may have names; under NONE the address dialled is used."
        "Write resolution: STATIC or DNS, or remove the selector."
        "resolution: NONE\nworkloadSelector: {labels: {app: db}}"
    }
    PARTIAL_WILDCARD = "RD2111" Warning WARNED "A wildcard covers a part of a label" {
        "Only '*.' before a name is a wildcard that works everywhere."
        "Write *.example.com or the full name."
        "hosts: ['*-db.example.com']"
    }
    NO_ADDRESS = "RD2112" Warning WARNED "The workload has a network and no address" {
        "It is reachable through its network's gateways only, which does not exist here: it is no endpoint."
        "Add its address."
        "kind: WorkloadEntry\nspec: {network: vm-network}"
    }
    UNUSED_TARGET_PORT = "RD2113" Warning WARNED "The target port may not be used" {
        "Under resolution NONE a connection goes on to the address that was dialled. Istio keeps the port as well, unless it is told otherwise; here a connection that a rule sends to the ServiceEntry goes to its targetPort, and one that no rule is for is left as it is."
        "Remove targetPort where the port is meant to stay."
        "resolution: NONE\nports: [{number: 1, name: a, targetPort: 2}]"
    }
    HTTP_WARNING = "RD2114" Warning WARNED "A part of the http rule is not used" {
        "Istio takes the object and ignores this part."
        "Correct it as the message says."
        "fault: {abort: {percentage: {value: 10}}}"
    }
    SHARED_ADDRESS = "RD2115" Warning WARNED "Several hosts share an address and a TCP port" {
        "A TCP connection carries no host name, so it cannot be told which host is meant."
        "Write one ServiceEntry for each host, with addresses of its own."
        "hosts: [a.example.com, b.example.com]\naddresses: [192.0.2.1]\nresolution: DNS"
    }
    CLAIMS_PORT = "RD2116" Warning WARNED "The ServiceEntry claims its TCP port on every address" {
        "It has no addresses, and none are allocated for resolution NONE or for wildcard hosts. In Istio it then stands for every destination on that port. Here it does so, for its rules, under resolution NONE (RD4045), and has no frontend otherwise."
        "Add addresses."
        "kind: ServiceEntry\nspec:\n  hosts: [db.example.com]\n  ports: [{number: 5432, name: tcp, protocol: TCP}]\n  resolution: NONE"
    }
}
