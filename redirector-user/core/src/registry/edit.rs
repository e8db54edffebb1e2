//! What changed of the objects.

use std::sync::Arc;

use crate::model::{Kind, Object, ObjectRef};

/// An object that is another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edit<'e> {
    pub reference: &'e ObjectRef,
    pub before: Option<&'e Arc<Object>>,
    pub after: Option<&'e Arc<Object>>,
}

/// Those of a kind; they are sorted by what they are.
pub(super) fn of_kind<'a, 'e>(edits: &'a [Edit<'e>], kind: Kind) -> &'a [Edit<'e>] {
    let from = edits.partition_point(|edit| edit.reference.kind < kind);
    let to = edits.partition_point(|edit| edit.reference.kind <= kind);
    edits.get(from..to).unwrap_or_default()
}
