//! RD5xxx: what only works at L7.

use super::{Code, NONE, Severity, codes};

codes! {
    HTTP_RULE = "RD5001" Warning NONE "An http rule has no effect at L4" {
        "http rules need a proxy that reads requests. On a port declared TCP they have no effect in Istio either."
        "Write the rule under tcp, with the same route."
        "http:\n  - match: [{uri: {prefix: /a}}]\n    route: [{destination: {host: echo}}]"
    }
}
