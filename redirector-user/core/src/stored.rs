//! Reading objects that an earlier daemon wrote down.
//!
//! What is written is read part by part, so that a part that cannot be read costs
//! nothing but itself, and is named ([`Lost`]). The form is that of `Serialize` of
//! the same types. No part of it is buffered on its way: serde reads the keys of a
//! map as numbers in JSON itself, and nowhere behind `flatten` or a tag.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::difference::Difference;
use crate::model::{Kind, Meta, Object, ObjectRef, Spec};

/// A part of the state that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    /// Which: an object, as `VirtualService/default/echo`, or in words.
    pub what: String,
    /// Why.
    pub why: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be read: {}", self.what, self.why)
    }
}

/// A part as it was written, which is read by itself.
pub type Raw = Box<RawValue>;

/// A part, or that it is lost. `what` names it.
pub fn part<T: DeserializeOwned>(raw: &RawValue, what: impl fmt::Display) -> Result<T, Lost> {
    serde_json::from_str(raw.get())
        .map_err(|why| Lost { what: what.to_string(), why: why.to_string() })
}

/// An object as `Serialize` writes it.
#[derive(Deserialize)]
struct Written {
    meta: Meta,
    kind: Kind,
    /// Kinds of which nothing is read have none.
    spec: Option<Raw>,
}

/// Of an object that cannot be read, what names it.
#[derive(Deserialize)]
struct Named {
    meta: Name,
    kind: Kind,
}

#[derive(Deserialize)]
struct Name {
    name: Arc<str>,
    namespace: Arc<str>,
}

/// An object; where it cannot be read, which it is, as far as that can.
pub fn object(raw: &RawValue) -> Result<Arc<Object>, (Option<ObjectRef>, Lost)> {
    read(raw).map(Arc::new).map_err(|why| {
        let reference = serde_json::from_str(raw.get()).ok().map(|Named { meta, kind }| {
            let Name { name, namespace } = meta;
            ObjectRef { kind, namespace, name }
        });
        let what = reference.as_ref().map_or_else(|| "an object".to_owned(), ToString::to_string);
        (reference, Lost { what, why: why.to_string() })
    })
}

/// Objects that were written as these and what is different since, ordered by what
/// they are. What cannot be read is left out, and told.
pub fn objects(
    written: Vec<Raw>,
    difference: Difference<ObjectRef, Raw>,
    lost: &mut Vec<Lost>,
) -> BTreeMap<ObjectRef, Arc<Object>> {
    let mut objects = BTreeMap::new();
    for raw in written {
        match object(&raw) {
            Ok(object) => drop(objects.insert(object.reference(), Ok(object))),
            // It may have gone since, or be another.
            Err((Some(reference), why)) => drop(objects.insert(reference, Err(why))),
            Err((None, why)) => lost.push(why),
        }
    }
    difference.map(|raw| object(&raw).map_err(|(_, why)| why)).apply(&mut objects);
    let read = objects.into_iter().filter_map(|(reference, object)| match object {
        Ok(object) => Some((reference, object)),
        Err(why) => {
            lost.push(why);
            None
        }
    });
    read.collect()
}

fn read(raw: &RawValue) -> serde_json::Result<Object> {
    let Written { meta, kind, spec } = serde_json::from_str(raw.get())?;
    let spec = spec.as_ref().map_or("null", |spec| spec.get());
    let spec = match kind {
        Kind::VirtualService => Spec::VirtualService(serde_json::from_str(spec)?),
        Kind::DestinationRule => Spec::DestinationRule(serde_json::from_str(spec)?),
        Kind::Gateway => Spec::Gateway(serde_json::from_str(spec)?),
        Kind::ServiceEntry => Spec::ServiceEntry(serde_json::from_str(spec)?),
        Kind::WorkloadEntry => Spec::WorkloadEntry(serde_json::from_str(spec)?),
        Kind::Service => Spec::Service(serde_json::from_str(spec)?),
        Kind::EndpointSlice => Spec::EndpointSlice(serde_json::from_str(spec)?),
        Kind::Pod => Spec::Pod(serde_json::from_str(spec)?),
        Kind::Namespace => Spec::Namespace,
        Kind::Node => Spec::Node,
    };
    Ok(Object { meta, spec })
}
