//! RD1xxx: the text and its types.

use super::{Code, NONE, SCHEMA, Severity, codes};

codes! {
    NOT_YAML = "RD1001" Error NONE "The text is not YAML" {
        "A document of the file cannot be parsed. Its objects are unknown, so none of it is used; the other documents of the file are read. A running daemon keeps the last good version of every object of the file."
        "Look at the line and the one above it: most often a colon without a space behind it, an indentation that does not fit, a tab, or a quote that is never closed."
        "spec:\n  hosts: [echo"
    }
    NOT_TEXT = "RD1002" Error NONE "The file is not text" {
        "The bytes are neither UTF-8 nor UTF-16. Nothing of the file is used."
        "Save the file as UTF-8."
        "host: <0xFF>"
    }
    TOO_LARGE = "RD1003" Error NONE "The file exceeds a limit" {
        "A file may have 128 MiB, a million values (each alias counts as what it repeats) and 200 levels of nesting. What lies beyond is not read, so that no file can exhaust the node."
        "Split the file; write out aliases that repeat each other."
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]   # and so on, thirty times"
    }
    DUPLICATE_KEY = "RD1004" Error NONE "A key stands twice in one map" {
        "YAML forbids it, and parsers disagree on which of the two counts. The object is not used."
        "Keep one of them; where both are lists, join the lists."
        "spec:\n  hosts: [a.example.com]\n  hosts: [b.example.com]"
    }
    NOT_AN_OBJECT = "RD1005" Error SCHEMA "The document is not a Kubernetes object" {
        "A document is a map with apiVersion, kind and metadata. This one is something else, or lacks one of them, so nothing can be done with it."
        "Add what is missing. A stray --- splits an object in two."
        "kind: VirtualService\nmetadata:\n  name: echo   # apiVersion is missing"
    }
    WRONG_API_VERSION = "RD1006" Error SCHEMA "The kind does not belong to this apiVersion" {
        "The kind is one that is read, but in another apiVersion. The API server would not know it, and it is not used here."
        "Write the apiVersion that the message names."
        "apiVersion: v1\nkind: VirtualService"
    }
    UNKNOWN_KIND = "RD1007" Info NONE "Documents of this kind are not read" {
        "The document is left alone: it takes no part in L4 routing."
        "Nothing needs mending. Look at the spelling of kind if you expected it to be read."
        "apiVersion: apps/v1\nkind: Deployment"
    }
    MISSPELT_KIND = "RD1008" Error SCHEMA "The kind is misspelt" {
        "No such kind exists in this apiVersion; a very similar one does. The API server would refuse the document."
        "Write the kind as the message names it; the case of letters counts."
        "apiVersion: networking.istio.io/v1\nkind: Virtualservice"
    }
    WRONG_TYPE = "RD1009" Error SCHEMA "The value has the wrong type" {
        "The field takes a value of another type. The API server refuses the document; here the object is not used, and its last good version stays in force."
        "Write what the message expects. A word that YAML takes for a boolean (y, n, on, off, yes, no) or digits that are meant as a string need quotes; a list needs a dash before each item."
        "host: y"
    }
    UNKNOWN_FIELD = "RD1010" Warning NONE "The field does not exist" {
        "The API server drops fields that it does not know (and kubectl warns or refuses), so this setting has no effect. Here it has none either."
        "Correct the name (the nearest known one is in the message), the indentation, or remove the field."
        "tcp:\n  - match:\n      - destinationSubnet: [10.0.0.0/8]"
    }
    OUT_OF_RANGE = "RD1011" Error SCHEMA "The number is out of range" {
        "The field does not take this number. The object is not used."
        "Write a number within the range that the message names. Ports are 1 to 65535."
        "port: 70000"
    }
    UNKNOWN_VALUE = "RD1012" Error SCHEMA "The field does not take this word" {
        "The field takes one of a fixed set of words. The API server refuses the document; here the object is not used."
        "Write one of the words that the message lists; the case of letters counts."
        "resolution: static"
    }
    MISSING_NAME = "RD1013" Error SCHEMA "The object has no usable name" {
        "metadata.name is missing, or is not a name that Kubernetes takes: lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit."
        "Give the object a name."
        "metadata:\n  name: My_Rule"
    }
    BAD_ADDRESS = "RD1014" Error SCHEMA "The value is not an IP address" {
        "A Kubernetes object carries an address that cannot be read. The object is not used."
        "Write an IPv4 or IPv6 address. Leading zeros are not allowed."
        "clusterIP: 10.96.0.300"
    }
    AMBIGUOUS_SCALAR = "RD1015" Warning NONE "YAML reads this key as something else" {
        "The key is a word or a number that YAML 1.1 reads as a boolean or in another base, so Kubernetes sees another key than the one written."
        "Put the key in quotes."
        "labels:\n  on: shift   # the key becomes \"true\""
    }
    TOO_MANY_FINDINGS = "RD1016" Warning NONE "There are more findings than are shown" {
        "The object has more than a thousand findings, or the file more than a thousand documents that are no objects; the rest are left out."
        "Mend the first ones: the rest often have the same cause."
        "a list of a million numbers where names belong"
    }
    MISSING_FIELD = "RD1017" Error SCHEMA "A required field is missing" {
        "The object cannot be used without this field, and the API server refuses it."
        "Add the field."
        "kind: EndpointSlice   # without addressType"
    }
    OVER_LIMIT = "RD1018" Error NONE "The object exceeds a limit of this project" {
        "A destination has at most 65,536 endpoints, a route at most 64 destinations, and no object may ask for more frontends, endpoints, names, rules, conditions or legs than --object-limit says. The object is rejected as a whole rather than cut short; its last good version stays in force."
        "Split the object, or reduce the number that the message names."
        "a tcp route with 65 destinations"
    }
    UNREADABLE = "RD1019" Error NONE "The file cannot be read" {
        "The system refuses it, it is not there, or it is empty as after a crash. So it is with a directory that has vanished, and with one without any file that is not the one in which files were, as when a volume is not mounted. A running daemon keeps the last good version of every object of the file, or of every file of the directory, until it can be read again or the directory is there, with a file, without it."
        "Look at the file's permissions and at the directory's mount. To remove a file's objects, remove the file; where an empty directory has taken the place of one with files, say `redirector reload`."
        "redirector check missing.yaml"
    }
    NO_DOCUMENT = "RD1020" Info NONE "The file holds no document" {
        "It is empty, or has only document marks. The command that was to write it may have failed. Nothing is said of a file that has comments and nothing else: that is an example."
        "Nothing needs mending if that is what was meant."
        "---"
    }
    UNKNOWN_CONDITION = "RD1021" Error NONE "A condition has no effect as it is written" {
        "A match block has a field that does not exist, or a condition stands outside of a match block: by indentation, it belongs to something else. Left out, the rule would match more than was meant, so the object is not used. kubectl refuses such a document, too."
        "Correct the name, or the indentation: conditions stand below match:, and route: beside it."
        "tcp:\n  - match:\n      - sourceLabel: {app: web}"
    }
    UNKNOWN_ANNOTATION = "RD1022" Error NONE "The annotation does not exist" {
        "Annotations that begin with redirector.io/ are this project's, and this one is none of them. It would have no effect, so the object is not used. redirector.io/original-destination is none either: SO_ORIGINAL_DST is not answered (docs/decisions/0034-original-destination.md)."
        "Write the name that the message offers."
        "annotations: {redirector.io/cgruop: system.slice/shop.service}"
    }
    NOT_READ = "RD1023" Warning NONE "What this document says is not honoured here" {
        "Istio or Kubernetes act on documents of this kind, and this project does not. The message says what is lost."
        "Say the same by what is read here, where the message offers it; otherwise keep in mind that it is not in force for connections that are routed here."
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy"
    }
    SOMETHING_ELSE = "RD1024" Info NONE "The file is something else" {
        "By its name and what is in it, the file belongs to another tool (kustomize, Helm, Compose) or to another command (`redirector test`), and is no configuration itself. It is skipped."
        "Nothing needs mending. What the tool makes of it is what can be read here."
        "values.yaml"
    }
    NOT_A_TEST = "RD1025" Error NONE "The file cannot be read as routing tests" {
        "`redirector test` reads files in a form of its own, docs/routing-tests.md, and no field or value that it does not know: a test of which a part is left out would pass for less than it says."
        "Correct what the message names. Documents with rules are named behind --config."
        "tests:\n  - name: web\n    to: web:80\n    expect: {shares: {web: 120%}}"
    }
    OVER_BUDGET = "RD1026" Error NONE "The namespace asks for more than one may have" {
        "All objects of one namespace together may ask for so many frontends, endpoints, names, rules, conditions and legs as --namespace-limit says. The newest of them that do not fit, by creationTimestamp and then by name, are left out as if they were not there, and of those that were edited the version before stays in force; nothing of other namespaces is. They come in force by themselves as soon as there is room. The endpoints of the destinations that rules lead to are counted, too: each subset has its own, and belongs to its DestinationRule. Of ServiceEntries of one host each address has each port of all: what the newest adds by that is its own."
        "Remove what is not needed, reduce the number that the message names, move objects into other namespaces, or raise the limit."
        "a namespace with 300,000 rules"
    }
    NO_ROOM = "RD1027" Error NONE "The tables have no room for the object" {
        "All objects together need more of a table than the kernel's tables can have. Of the namespace that needs most of it the newest objects are left out, or stay as they were before an edit, as many as it takes for the rest to fit. They come in force by themselves as soon as there is room."
        "Remove what is not needed of that namespace. Where --fixed-sizes keeps tables small, give them more room. Destinations and endpoints that connections are counted on (maxConnections, outlierDetection, LEAST_REQUEST) are at most 1,048,575 together."
        "LEAST_REQUEST for 1,100,000 endpoints of one namespace"
    }
    IDLE_ANNOTATION = "RD1028" Warning NONE "The annotation means nothing here" {
        "Each annotation of this project's is read of some kinds of objects only, and those that switch something on are read as \"true\" alone. redirector.io/cgroup is a path below the cgroup2 mount, and redirector.io/netns the path of a file; a workload is known by one of them. This one stands at another kind, has another value, or stands beside the other, or is Istio's but for a slip (networking.istio.io/exportto), and has no effect."
        "Write it at the object that it is for, with a value that it can have."
        "kind: WorkloadEntry\nmetadata: {annotations: {redirector.io/gateway: \"yes\"}}"
    }
    BAD_ANNOTATION = "RD1029" Error NONE "The value of the annotation cannot be read" {
        "What it says would protect a gateway, tell clients apart, or have connections go without TLS, and guessing would do none of it. So the object is not used, and the last version of it that could be read stays in force."
        "Write subnets such as 10.0.0.0/8 with commas between them for redirector.io/accept-proxy-protocol, a whole number for redirector.io/max-connections and redirector.io/max-connections-per-client, a duration such as 300s, or off, for redirector.io/client-keepalive, and refuse or plain for redirector.io/istio-mutual."
        "kind: Gateway\nmetadata: {annotations: {redirector.io/accept-proxy-protocol: '10.0.0.0/33'}}"
    }
    NO_VALUE = "RD1030" Warning NONE "A condition has no value" {
        "A field that is written without a value, or as null, is dropped by the API server: the rule then matches as if the condition were not there, as it does here. Mostly a template was given nothing to fill in."
        "Write the value, or remove the field."
        "match: [{port: }]"
    }
}
