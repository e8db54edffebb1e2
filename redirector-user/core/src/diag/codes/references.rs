//! RD3xxx: what objects say of each other.

use super::{Code, NONE, Severity, codes};

codes! {
    REPEATED_OBJECT = "RD3001" Warning NONE "The object stands twice in the files" {
        "Kind, namespace and name are the same. The last one in the order of the paths (and of the documents in a file) is used, the others are not."
        "Remove all but one, or give them different names."
        "two files with VirtualService default/echo"
    }
}
