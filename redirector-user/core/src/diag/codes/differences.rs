//! RD4xxx: where this project and Istio's data plane differ, and slips that
//! Istio does not look for.

use super::{Code, NONE, Severity, codes};

codes! {
    SOURCE_SUBNET = "RD4001" Warning NONE "Istio ignores sourceSubnet" {
        "The field is in the API and no code of Istio's reads it: there, a match that carries only sourceSubnet takes everything. Here it is compared with the addresses of the source workload."
        "Use sourceLabels or sourceNamespace, which mean the same in both."
        "match:\n  - sourceSubnet: 10.244.1.0/24"
    }
}
