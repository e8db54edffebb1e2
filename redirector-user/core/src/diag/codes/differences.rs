//! RD4xxx: where this project and Istio's data plane differ, and slips that
//! Istio does not look for.

use super::{Code, NONE, Severity, codes};

codes! {
    SOURCE_SUBNET = "RD4001" Warning NONE "Istio ignores sourceSubnet" {
        "The field is in the API and no code of Istio's reads it: there, a match that carries only sourceSubnet takes everything. Here it is compared with the addresses of the workload that connects. A client that is no known workload has none to compare, at a gateway as in the mesh, and never matches, whatever address its connections come from."
        "Use sourceLabels or sourceNamespace, which mean the same in both."
        "match:\n  - sourceSubnet: 10.244.1.0/24"
    }
    SHADOWED_SUBNET = "RD4002" Warning NONE "A wider rule above shadows the subnet" {
        "The first matching rule wins, in the written order, as the API documents it: this subnet is never reached. Envoy, and so Istio's data plane, picks the longest prefix instead and would use it."
        "Move the narrower rule above the wider one: then both agree."
        "tcp:\n  - match: [{destinationSubnets: [10.0.0.0/8]}]\n    route: [{destination: {host: a}}]\n  - match: [{destinationSubnets: [10.96.0.0/16]}]\n    route: [{destination: {host: b}}]"
    }
    REPEATED_SUBNET = "RD4003" Warning NONE "The subnet stands in a rule above already" {
        "The first matching rule wins, so it has no effect here. In Istio two rules with the same subnet make Envoy reject the whole listener."
        "Remove it from one of the rules."
        "two rules with destinationSubnets: [10.0.0.0/8]"
    }
    DEAD_RULE = "RD4004" Warning NONE "A rule above takes everything that this match does" {
        "All conditions of a match above hold whenever these do, so this one never decides anything."
        "Move the more general rule below, or remove this one."
        "tcp:\n  - match: [{port: 19000}]\n    route: [{destination: {host: a}}]\n  - match: [{port: 19000, sourceNamespace: foo}]\n    route: [{destination: {host: b}}]"
    }
    ANY_SUBNET = "RD4005" Warning NONE "Istio drops a subnet of 0.0.0.0" {
        "Istio silently drops every subnet that is written with the address 0.0.0.0, whatever its length: alone it means every address there, and beside others nothing. Here it is compared as it is written, so 0.0.0.0/0 beside others takes every address, and 0.0.0.0/1 half of them."
        "Keep 0.0.0.0/0 alone, or remove it; write the networks that are meant instead of a shorter one."
        "destinationSubnets: [0.0.0.0/0, 10.0.0.0/8]"
    }
    USELESS_SUBNETS = "RD4006" Warning NONE "Another match of the rule takes every address" {
        "The matches of a rule are alternatives. One of them has the same conditions without subnets, so these subnets never decide anything."
        "Remove one of the two matches."
        "match:\n  - destinationSubnets: [10.0.0.0/8]\n  - {}"
    }
    GATEWAY_CONDITION = "RD4007" Warning NONE "Istio ignores this condition at gateways" {
        "At a gateway Istio looks at port and gateways only: destinationSubnets, sourceLabels and sourceNamespace count as fulfilled there. Here all conditions of a match must hold, as everywhere: the subnet is compared with the address that the client dialled, labels and namespace with the client, when it is a known workload."
        "Leave the condition out of rules for gateways, or accept the difference."
        "gateways: [edge]\ntcp:\n  - match: [{sourceLabels: {app: client}}]"
    }
    GATEWAY_NOT_BOUND = "RD4008" Warning NONE "The match names a gateway that the object is not bound to" {
        "gateways of a match only narrows those of the object. This one is not among them, so nothing that comes through it is ever compared; a name without a slash is completed with the namespace of the rule."
        "Add it to spec.gateways in the same form, or remove it here."
        "gateways: [istio-system/edge]\ntcp:\n  - match: [{gateways: [edge]}]"
    }
    UNKNOWN_MATCH_PORT = "RD4009" Warning NONE "No host has the port of the match" {
        "port is the port of the Service that the client dials (at a gateway, the number of the server), not the targetPort. None of the hosts has it, so the match never holds."
        "Write the Service's port."
        "match: [{port: 9000}]   # the Service has port: 19000, targetPort: 9000"
    }
    NO_SUCH_SOURCE = "RD4010" Warning NONE "No workload has the labels of the match" {
        "sourceLabels are compared with the labels of the client's Pod or WorkloadEntry; none in the documents has all of these, so the match holds for nobody."
        "Correct the labels."
        "sourceLabels: {app: telnet-cleint}"
    }
    BAD_SOURCE_NAMESPACE = "RD4011" Warning NONE "No workload can be in that namespace" {
        "sourceNamespace is compared with the namespace of the client. This one cannot exist, does not exist in the documents, or is one that the object is not exported to, whose clients never meet its rules. Istio does not check it."
        "Correct the name, or export the object to that namespace."
        "sourceNamespace: Foo_Bar"
    }
    SUBNET_MISSES = "RD4012" Warning NONE "No address of the hosts is in the subnets" {
        "destinationSubnets is compared with the address that the client dials: the clusterIP of the Service (or the address of the ServiceEntry), not the address of the Pod that answers. None of them is in these subnets, so the match never holds; or one subnet beside others has none of them, where the hosts have whole networks: for such hosts Istio listens at the port for every address, and takes what is in the subnets. Or what is in the subnets belongs to another service: the narrowest address around the one that is dialled decides whose it is, and of equal ones the one that RD4019 names."
        "Write a subnet that contains the clusterIP."
        "destinationSubnets: [10.244.0.0/16]   # the Pods' addresses; the clusterIP is 10.96.0.10"
    }
    CYCLE = "RD4013" Warning NONE "Rules send hosts to each other" {
        "A connection is routed once: rules of the destination's host are not applied again. If a chain was meant, its second step never happens."
        "Name the final destination."
        "a VirtualService for a that routes to b, and one for b that routes to a"
    }
    WEIGHT_SUM = "RD4014" Info NONE "The weights do not sum to 100" {
        "Weights are relative: each destination gets its weight over the sum. Nothing is wrong if that is what was meant."
        "Nothing needs mending."
        "weights 80 and 30"
    }
    NO_ENDPOINTS = "RD4015" Warning NONE "The destination has no usable endpoint" {
        "Connections that go to it are refused (ECONNREFUSED): a share is never moved to another destination, and never falls through to the next rule."
        "Look at the Pods: are they ready, and does the Service select them?"
        "a destination whose Pods are not ready"
    }
    OTHER_FAMILY = "RD4016" Warning NONE "The endpoints are of the other address family" {
        "A connection keeps its address family. The host has an address of a family in which the destination has no endpoint: connections to it that reach this destination are refused. It is not said of addresses that were allocated, one of each family: whoever dials one of them goes on to the other."
        "Give the destination endpoints of that family."
        "an IPv6 clusterIP and only IPv4 endpoints"
    }
    HEADLESS_DESTINATION = "RD4017" Warning NONE "The destination is a headless Service" {
        "Here that means its endpoints, with weights and subsets. Istio's sidecar sends the connection on to the address that was dialled instead."
        "Use a Service with a clusterIP where both must agree."
        "destination: {host: headless}"
    }
    NO_FRONTEND = "RD4018" Warning NONE "The Service has no address" {
        "Its document has no clusterIP and it is not headless, so there is no address that a client could dial and no rule ever applies to it. In a cluster the API server fills the address in."
        "Add clusterIP, as the cluster has it or of your choice on a plain machine; or clusterIP: None."
        "kind: Service\nspec:\n  selector: {app: echo}\n  ports: [{port: 19000}]"
    }
    SHARED_FRONTEND = "RD4019" Warning NONE "Two services own one address and port" {
        "A Service that was given it by the API server keeps it, whatever ServiceEntries name it; of two alike the older one does, then the one that comes first by name. The other has no frontend there. Pods that several headless Services select are the oldest one's; that is told where rules make a difference."
        "Give one of them another address; a headless Service another port."
        "two Services with clusterIP 10.96.0.10 and port 80"
    }
    SELECTOR_FALLS_THROUGH = "RD4020" Warning NONE "A rule with a workloadSelector does not hide others here" {
        "For clients that the selector does not match, the lookup goes on to the rules of the service's namespace and of the root namespace. In Istio it stops, and such clients have no rule at all."
        "Add a rule without selector to this namespace where both must agree."
        "a DestinationRule with a workloadSelector beside one in the service's namespace"
    }
    RULE_HIDES_SUBSETS = "RD4021" Warning NONE "The rule hides subsets for clients of its namespace" {
        "For a client, the DestinationRules of its own namespace win whole over those of the service's: nothing is merged. The subsets that only the other rule defines do not exist for clients of this namespace."
        "Define the subsets here too, or remove this rule."
        "a DestinationRule in the client's namespace that only sets a load balancer"
    }
    POLICY_WITHOUT_EFFECT = "RD4022" Warning NONE "The trafficPolicy concerns no connection here" {
        "A policy takes effect on connections that are routed here: those that a rule names, and those to addresses that only this project serves. None of these goes to the host; or what is set is for a port (portLevelSettings) that the host does not have: the number is that of the Service's port, not its targetPort."
        "Write the Service's port. Nothing needs mending where a sidecar applies the policy; add a rule for the host otherwise."
        "a trafficPolicy for a Service that no VirtualService names"
    }
    GATEWAY_ONLY_TIMEOUT = "RD4023" Info NONE "The timeout takes effect at gateways only" {
        "A connection that the kernel redirects has the timeouts of its own program: connectTimeout, idleTimeout and maxConnectionDuration are kept by the gateway's proxy. tcpKeepalive takes effect in both."
        "Nothing needs mending."
        "connectionPool: {tcp: {connectTimeout: 5s}}"
    }
    SOURCE_HASH = "RD4024" Info NONE "The hash key of a local client is its workload" {
        "A local client has no source address before it connects, so useSourceIp takes its pod-level cgroup (or network namespace): the processes of a Pod stay together. At a gateway it is the client's address, as in Istio."
        "Nothing needs mending."
        "consistentHash: {useSourceIp: true}"
    }
    LOCAL_TRAFFIC = "RD4025" Info NONE "internalTrafficPolicy: Local needs the node's name" {
        "Only endpoints on the client's node are used. Which node that is, is said by --node-name; the default is the host name."
        "Set --node-name where the host name is not the node's name."
        "internalTrafficPolicy: Local"
    }
    GATEWAY_PORT_TAKEN = "RD4026" Warning NONE "An older Gateway has the port" {
        "A port serves one plain TCP server for each workload: TCP carries no host name that could tell two apart. The older Gateway keeps the port, and this server is dropped, although its hosts are different."
        "Use another port."
        "two Gateways with the same selector and port, and different hosts"
    }
    DEFAULT_ENDPOINT = "RD4027" Warning NONE "defaultEndpoint is not implemented" {
        "The field is in the API; neither Istio nor this project does anything with it. A gateway has no default destination: what no rule matches is refused."
        "Write a VirtualService with a rule that takes everything."
        "servers: [{defaultEndpoint: 127.0.0.1:8080}]"
    }
    SIDECAR = "RD4028" Warning NONE "Sidecar resources are not honoured" {
        "A Sidecar limits which hosts a workload sees. Here visibility is decided by exportTo only, so workloads may see more than in Istio."
        "Use exportTo where the difference matters."
        "kind: Sidecar"
    }
    HTTP_AS_TCP = "RD4029" Warning NONE "The http rule is applied at L4, which Istio does not do" {
        "The host's port is declared TCP, where Istio installs no http rules: there this route has no effect. Here a first http rule without match and with nothing but weighted destinations is applied as if it were written under tcp."
        "Write tcp: instead of http:, with the same route list; then both agree."
        "http:\n  - route:\n      - {destination: {host: echo, subset: prod}, weight: 80}\n      - {destination: {host: echo, subset: gray}, weight: 20}"
    }
    ALIAS_HOST = "RD4030" Warning NONE "An ExternalName Service has no address that rules could apply to" {
        "It is another name for a host: clients resolve it and dial that host's address. Rules for it never apply, and a DestinationRule for it is in force for nobody. As a destination it means the host that it names, with the DestinationRules for that, when a Service or ServiceEntry has it."
        "Write the rule, or the DestinationRule, for the host that it names."
        "hosts: [alias]   # a Service of type ExternalName"
    }
    UNKNOWN_SLICE_SERVICE = "RD4031" Warning NONE "The EndpointSlice belongs to no Service" {
        "Slices are found by the label kubernetes.io/service-name in the namespace of the Service. No such Service is in the documents, so these endpoints are nobody's."
        "Correct the label, or the namespace."
        "labels: {kubernetes.io/service-name: ehco}"
    }
    UNKNOWN_POD = "RD4032" Warning NONE "The endpoint's Pod is not known" {
        "An endpoint that names a Pod is used only when the Pod is known: its labels decide about subsets. This one is left out."
        "Add the Pod's document, or leave targetRef out."
        "targetRef: {kind: Pod, name: gone}"
    }
    NOT_DIALLED = "RD4033" Warning NONE "PASSTHROUGH ignores the endpoints" {
        "The connection goes on to the address that was dialled, whatever the endpoints and subsets are. The same is so of a destination with resolution: NONE, which is told where nothing is behind the address dialled: that of a Service on a plain machine, or of a STATIC ServiceEntry."
        "Choose another load balancer, or another destination, unless that is what was meant."
        "loadBalancer: {simple: PASSTHROUGH}"
    }
    DRAIN_TIME = "RD4034" Warning NONE "The drain time has no effect" {
        "The annotation redirector.io/drain of a Service, a ServiceEntry or a DestinationRule says how long connections to an endpoint may go on when the endpoint has left the host, or the subset that they were sent to. Elsewhere, or when its value is neither a duration nor now, they go on for as long as they like, as they do without it."
        "Write a number and a unit, such as 30s, or now, on the Service, the ServiceEntry or the DestinationRule."
        "annotations: {redirector.io/drain: '30'}"
    }
    PORT_HASH = "RD4035" Warning NONE "Istio ignores useSourceIp of a port" {
        "Istio takes the hash of the source address from the policy of the rule or the subset alone; under portLevelSettings it chooses at random. Here it holds for the port, as the API documents it."
        "Write it in the policy of the rule, when both are to agree."
        "portLevelSettings: [{port: {number: 80}, loadBalancer: {consistentHash: {useSourceIp: true}}}]"
    }
    NEAREST_FIRST = "RD4036" Info NONE "outlierDetection has the nearest endpoints go first" {
        "Locality load balancing is switched on in the mesh, and outlierDetection is all that it waits for: connections go to the endpoints of the client's own locality while there are any, here as in Istio."
        "Write localityLbSetting: {enabled: false} under loadBalancer when all endpoints are to have their share."
        "trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}"
    }
    OWN_LABEL = "RD4037" Warning NONE "failoverPriority by a label of the client is not honoured" {
        "Endpoints are compared with the place of the node: region, zone, subzone, network and host name. Other labels of the client's workload are not looked at, so an endpoint that carries such a label counts as one that differs."
        "Write the value that is preferred: key=value."
        "failoverPriority: [version]"
    }
    PROXY_PROTOCOL = "RD4038" Warning NONE "The PROXY protocol is not spoken as the annotation suggests" {
        "The annotation redirector.io/proxy-protocol of a Gateway, with the value v2, has backends told the client before anything else. It concerns the connections that the Gateway's own rules route. Elsewhere, or with another value, it does nothing; and where a rule is bound to two passthrough Gateways that share a port, and only one of them has the annotation, the older of the two decides."
        "Write v2, on the Gateway, and the same on all Gateways that share a port and a rule."
        "annotations: {redirector.io/proxy-protocol: v1}"
    }
    GATEWAY_BIND = "RD4039" Warning NONE "No workload of the Gateway has the address of bind" {
        "A gateway listens at the addresses of its workloads. A server whose bind is none of them is left out, in silence by Istio's analyzers; 0.0.0.0 and :: stand for all of them."
        "Correct the address, or leave bind out."
        "servers: [{bind: 192.0.2.7, ...}], and a workload with the address 192.0.2.1"
    }
    PLAIN_MACHINE = "RD4040" Warning NONE "The annotation is read on plain machines only" {
        "redirector.io/cgroup, redirector.io/netns, redirector.io/gateway and redirector.io/gateway-for say which processes of a machine a WorkloadEntry is, and that this machine serves it as a gateway. In a cluster the kubelet says which processes a pod is, and a Service asks for its gateway: there, whoever may write objects in one namespace would have the processes of another. The object counts without them."
        "Leave the annotation out; run redirector from files on the machine that it was written for."
        "annotations: {redirector.io/cgroup: kubepods/burstable/pod1}   # in the API server"
    }
    UNUSED_RULES = "RD4041" Warning NONE "The Gateway's servers use no rules of this kind" {
        "A TCP server uses tcp rules only, and a server with tls mode PASSTHROUGH tls rules only. No server of the Gateway that has one of the hosts uses the list that these rules stand in, so they never match there; and a gateway refuses what no rule matches."
        "Write the rules in the list that the server uses, or change the server."
        "servers: [{port: {number: 5201, name: tcp, protocol: TCP}, hosts: ['*']}]   # and a VirtualService with only http: or tls:"
    }
    NO_KNOWN_ENDPOINT = "RD4042" Info NONE "The documents have no endpoint of the service" {
        "No Pod, EndpointSlice or WorkloadEntry of the documents is behind it. If that is so where they are in force, connections that go to it are refused (ECONNREFUSED); a share is never moved to another destination."
        "Nothing needs mending if the endpoints come from elsewhere; --with-cluster FILE names documents that have them."
        "a Service whose selector selects nothing"
    }
    SERVED_FOR_ALL = "RD4043" Warning NONE "An address in use is served for everybody" {
        "A STATIC ServiceEntry's address is served by this project, whoever dials it: nothing else is taken to be behind it. Clients that no rule is for are spread over all of the entry's endpoints. This address is that of a workload, or of an endpoint: clients may dial it already, and now go elsewhere, too."
        "Write resolution: NONE for the address that clients dial, which leaves those alone whom no rule is for, and give the new endpoints a ServiceEntry of their own."
        "addresses: [10.0.0.5]\nresolution: STATIC\nendpoints: [{address: 10.0.0.5}, {address: 10.0.0.6}]   # and a rule with sourceLabels"
    }
    POLICY_REFUSES = "RD4044" Warning NONE "The policy refuses connections" {
        "The trafficPolicy asks for TLS, a tunnel or the PROXY protocol, which would change bytes on the wire. Sending the connections without it would be wrong, so they are refused (ECONNREFUSED); at gateways the PROXY protocol is spoken. This says how much that concerns: services that are served here, and shares of rules."
        "Remove the setting, limit the DestinationRule's host, or leave these services to a proxy."
        "kind: DestinationRule\nmetadata: {namespace: istio-system}\nspec: {host: '*.local', trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"
    }
    CLAIMS_EVERY_ADDRESS = "RD4045" Warning NONE "A port of every address is claimed" {
        "The ServiceEntry has no addresses, so its rules take every connection to the port, of every process of the machine, whatever address is dialled; only loopback addresses (127.0.0.0/8, ::1), the unspecified ones, link-local ones and those of the node's interfaces are left alone."
        "Add addresses, or put the database that is meant behind one."
        "kind: ServiceEntry\nspec: {hosts: [db.example.com], resolution: NONE, ports: [{number: 5432, name: tcp, protocol: TCP}]}   # and a VirtualService for it"
    }
    SHARED_HOST = "RD4046" Warning NONE "Two ServiceEntries have one host, and a part of the younger one is lost" {
        "ServiceEntries of one namespace that have a host in common are one service for it, with the ports and addresses of all. Of two ports with one number the older ServiceEntry's counts; and where the two differ in resolution, in exportTo, or in having addresses at all, they stay apart, and the host means the older one."
        "Write the ports of a host in one ServiceEntry."
        "hosts: [mq.example]\nports: [{number: 446, name: tcp, protocol: TCP}]   # in two ServiceEntries, with different endpoints"
    }
    HIDDEN_FROM_GATEWAY = "RD4047" Warning NONE "The gateway does not see the VirtualService" {
        "exportTo is judged, at a gateway, in the namespace of the workload that serves it, not in that of the Gateway object or of the client. Its workloads run where the VirtualService is not exported to, so they have none of its rules, and a gateway refuses what no rule matches. Istio's analyzers are silent."
        "Export it to the namespace in which the gateway runs, or to all (leave exportTo out)."
        "exportTo: ['.']   # in namespace shop, and the gateway's Pods are in istio-system"
    }
    NEVER_REACHED = "RD4048" Warning NONE "Others take all that this rule would" {
        "The first rule that matches wins, and rules of several VirtualServices for one host, or at one port of a gateway, are compared one object after the other: those exported to fewer first, then by age. Of all clients that were examined, and at all addresses, none ever comes to this rule; one that stands in its way is named: a rule, or another service that has the address. Where a Gateway is named, that is so for what comes there, and the rule is reached elsewhere."
        "Narrow the other rule, or put both in one VirtualService in the order that is meant."
        "two VirtualServices bound to one Gateway, the older with a rule that has no match"
    }
    OF_ANOTHER_NAMESPACE = "RD4049" Info NONE "It decides about a host of another namespace" {
        "The VirtualService or ServiceEntry is for a host that belongs to another namespace, and is exported: as in Istio it decides for clients of all namespaces that see it, that of the host included."
        "Nothing needs mending if that is meant. Otherwise write it in the host's namespace, set exportTo: ['.'], or run with --cross-namespace=owner, which leaves it to its own namespace's clients."
        "kind: VirtualService
metadata: {namespace: web}
spec: {hosts: [db.data.svc.cluster.local]}"
    }
    KEPT_AT_HOME = "RD4050" Warning NONE "It is for its own namespace's clients only" {
        "With --cross-namespace=owner, who decides about a host for everybody is the namespace to which it belongs, and the root namespace. This VirtualService or ServiceEntry is of another one: for clients outside of its own namespace it is left out."
        "Write it in the host's namespace. Where it is for its own namespace's clients, say so: exportTo: ['.']."
        "kind: VirtualService
metadata: {namespace: web}
spec: {hosts: [db.data.svc.cluster.local]}"
    }
    LEADS_BACK = "RD4051" Warning NONE "The gateway leads back to itself" {
        "An endpoint of the destination is the very address and port at which the gateway listens, or at which another gateway does whose rules lead back, so that each connection makes another one, until the gateway has no descriptors left."
        "Name the service that is behind the gateway, or give the gateway another address or port."
        "a ServiceEntry whose endpoint is the gateway's own address, as the destination of a rule for the gateway"
    }
    CLIENTS_BY_ANOTHER = "RD4052" Warning NONE "What the Gateway says of its clients is not in force" {
        "Passthrough servers of several Gateways may share a port. Who connects there is known before it is known which of them he wants, so the annotations redirector.io/accept-proxy-protocol, max-connections, max-connections-per-client and client-keepalive of the oldest one hold for all of them: whom it trusts may name himself any client, and those that a younger one sets are not in force at that port. A Service that leads to a gateway may name whom to believe, too: what the Gateway names goes before it, and what several Services name that lead to one port is united."
        "Write the same annotations on all Gateways that share a port, or give the one that needs others a port or an address of its own."
        "annotations: {redirector.io/accept-proxy-protocol: 10.0.0.0/8}   # on the younger of two passthrough Gateways for port 443"
    }
    CONTESTED_ADDRESS = "RD4061" Warning NONE "Two hosts resolve to one address, and are not routed alike" {
        "The addresses that the hosts of a ServiceEntry without addresses resolve to are its own. Behind one address there may be many hosts (a content delivery network), and nothing in a TCP connection tells which was meant. Where all hosts that are known to lead there are routed alike for a client, it is routed; otherwise its connections to the address are left as they are. Alike is where the rules lead: the same services, labels and policies, with the same shares, whichever VirtualService or subset says it."
        "Let the rules for both hosts lead to the same (in one VirtualService or in two), or give one of the ServiceEntries addresses that its clients dial."
        "hosts: [a.example.com] and hosts: [b.example.com], both at 192.0.2.1, and a VirtualService for one of them"
    }
    ADDRESS_NOT_TAKEN = "RD4062" Warning NONE "An address that a host resolves to is not taken for it" {
        "The addresses that the hosts of a ServiceEntry without addresses resolve to are its own, with exceptions: loopback, link-local, unspecified and multicast addresses, which are not its alone whatever a resolver says; those of the node and of the API server; those that were allocated to a Service, which are the Service's; those that another ServiceEntry writes, by themselves or in a block, which are that one's; and those beyond the first 1,024 of a name. Connections to them are decided as if the name did not lead there."
        "Look at what the name resolves to. Give the ServiceEntry addresses where others are meant."
        "a host whose resolver answers 127.0.0.1"
    }
    MOVED_ADDRESS = "RD4063" Warning NONE "A host's allocated address is another host's" {
        "With --allocate-addresses each host of a ServiceEntry without addresses has one by a hash of its namespace and its name. Two hosts have the same hash here: the first by namespace and name has the place, and the other the next that is free. Or the address is written in another document, and is given to nobody. When the first one came later, the other's address has changed by that, and programs or an /etc/hosts that know the old one reach the first one by it."
        "Write /etc/hosts anew with redirector hosts, and start programs again that keep addresses. Addresses in the ServiceEntry never move."
        "two hosts of 65,023 with one hash"
    }
    HOSTS_SHARE_GATEWAY_PORT = "RD4064" Warning NONE "Two TCP hosts share a port of the gateway" {
        "A plain TCP server at a gateway knows of a connection where it arrived, and nothing of the host that was meant: TCP carries no name. Of two servers with one port the first is served, and its rules decide about all connections, those included that the mesh sends there for the other server's hosts. Istio drops the second server, and says so in its log only. It is the same where one server has several hosts with a VirtualService each: the oldest VirtualService's rules are compared first, and take what they match for all of them."
        "Give each host a port of the gateway of its own, and let the rule for the mesh lead to that; or use TLS with PASSTHROUGH, where the server name tells the hosts apart."
        "servers:\n- port: {number: 15443, name: a, protocol: TCP}\n  hosts: [a.example.com]\n- port: {number: 15443, name: b, protocol: TCP}\n  hosts: [b.example.com]"
    }
    NO_RULE_AT_SERVER = "RD4065" Warning NONE "No rule can match at a server of the Gateway" {
        "Rules are bound to the Gateway, and none of them can match what comes to this server: they are for other ports or hosts, or of a list that a server of this kind does not use (tcp for TCP, tls for TLS with PASSTHROUGH). A gateway has no default destination, so every connection to the server is refused. Servers that share a port by server names are judged together."
        "Add a rule for the server's port, or remove the server."
        "a Gateway with servers on the ports 5432 and 5433, and a rule with match: [{port: 5432}] alone"
    }
    NO_RULE_FOR_GATEWAY = "RD4066" Info NONE "The documents have no rule for the Gateway" {
        "No VirtualService among the documents is bound to the Gateway. A gateway has no default destination: while none is, every connection to its servers is refused."
        "Check it together with the VirtualServices that are bound to it, if there are any."
        "a Gateway without a VirtualService that names it in gateways"
    }
    SAME_PLACE = "RD4067" Warning NONE "Two WorkloadEntries name one cgroup or network namespace" {
        "A process is one workload. Of several that name its cgroup, or its network namespace, the first by namespace and name has it; conditions on the others hold for none of their processes, as status says of them."
        "Give each its own cgroup or network namespace, or remove one."
        "two WorkloadEntries with redirector.io/cgroup: system.slice/shop.service"
    }
    SHADOWED_NAME = "RD4068" Warning NONE "A wider server name above takes this one" {
        "The first matching rule wins, in the written order, as the API documents it: connections that ask for this name go by a rule above, whose sniHosts cover it. Envoy, and so Istio's data plane, takes the most specific server name instead and would use this rule. That is so in the mesh and at gateways. Where the rules stand in two VirtualServices, RD4048 says it."
        "Move the rule with the narrower name above the other: then both agree."
        "tls:\n  - match: [{sniHosts: ['*.example.org']}]\n    route: [{destination: {host: a}}]\n  - match: [{sniHosts: [www.example.org]}]\n    route: [{destination: {host: b}}]"
    }
    UNKNOWN_EXPORT = "RD4069" Warning NONE "No namespace has the name in exportTo" {
        "exportTo names the namespaces whose clients and gateways see the object. This one does not exist in the documents, which have Namespaces, so it shows the object to nobody; where no other is named, nobody sees it at all. Istio does not check it."
        "Correct the name, or add the Namespace to the documents."
        "exportTo: [shpo]   # the namespace is shop"
    }
    DROPPED_BY_MERGE = "RD4070" Warning NONE "An older DestinationRule's policy or subset is in force instead" {
        "DestinationRules of one namespace for one host, with the same exportTo and workloadSelector, are merged as in Istio: the first trafficPolicy counts, and of subsets with one name the first, in the order of age. What a younger one says otherwise is not in force, for anybody."
        "Write the policy and the subsets of a host in one DestinationRule, or remove the part that is not in force."
        "kind: DestinationRule\nspec: {host: db, trafficPolicy: {loadBalancer: {simple: RANDOM}}}   # twice in a namespace, with different policies"
    }
    ENTRY_LEFT_OUT = "RD4071" Warning NONE "What selects the WorkloadEntry cannot use it, or a port of it" {
        "A Service, or a ServiceEntry with resolution STATIC, takes addresses only, so a WorkloadEntry with a host name is left out there; so is one that lacks the port by whose name the targetPort of a Service leads to it. A number in ports counts for the port of a service with that name alone: under any other name it is not used. It is so in Istio, too."
        "Write an address, or select it by a ServiceEntry with resolution DNS; name ports as what selects them does."
        "kind: WorkloadEntry\nspec: {address: db.example.com, labels: {app: db}}   # selected by a ServiceEntry with resolution: STATIC"
    }
    HIDDEN_FROM_CLIENTS = "RD4072" Warning NONE "Who sees the rules does not see the service" {
        "Rules apply in the mesh to connections to the addresses of their hosts' services, and both the VirtualService and the service have to be exported to the client's namespace. Here no namespace sees both, or the VirtualService's own does not: connections of such clients are decided as if there were no rule."
        "Export the service to the namespaces that are to have the rules, or write the VirtualService in one that sees it."
        "kind: VirtualService\nmetadata: {namespace: shop}\nspec: {hosts: [pg.example.com], exportTo: ['.']}   # a ServiceEntry of namespace data with exportTo: ['.']"
    }
    ALLOCATED_LEFT_OUT = "RD4073" Warning NONE "What stands in status.addresses is no address, or of no host" {
        "A cluster writes into the status of a ServiceEntry without addresses which ones it allocated to its hosts, and they are the entry's as if they stood in its spec. Each value is one IP address, and each host one of the spec's; what is none, such as a block, or the address of another host, is left out, and the rest of the object is used."
        "Leave the status to whoever allocates addresses; write those that clients dial, and blocks, in spec.addresses."
        "kind: ServiceEntry\nspec: {hosts: [db.example.com], resolution: DNS}\nstatus: {addresses: [{host: db.example.com, value: 10.0.0.0/8}]}"
    }
    TWICE_ALLOCATED = "RD4074" Warning NONE "A host has an allocated address in each of several namespaces" {
        "With --allocate-addresses each host of each namespace has an address of its own, since what it leads to is decided by the ServiceEntry of that namespace. A machine has one /etc/hosts: `redirector hosts` writes all of these addresses under the one name, and programs dial whichever they read first, whatever namespace they are of."
        "Have one ServiceEntry for the host, and export it to those who need it; or give the entries addresses of their own, and programs names of their own."
        "kind: ServiceEntry\nmetadata: {name: db, namespace: shop}   # and another one in namespace billing\nspec: {hosts: [db.example.com], resolution: DNS}"
    }
}
