//! Who wrote an object of the API server last, read from its `metadata.managedFields`
//! without what they say of fields.

use std::borrow::Cow;
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The newest entry that is not about a subresource: a status is no configuration, and
/// most of what is written is one.
#[derive(Debug, Default)]
pub struct Newest<'a>(Option<ManagedFields<'a>>);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ManagedFields<'a> {
    #[serde(borrow)]
    manager: Cow<'a, str>,
    /// As RFC 3339 in UTC, which sorts as it is.
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    subresource: Cow<'a, str>,
}

impl Newest<'_> {
    /// Its manager.
    pub fn manager(&self) -> Option<&str> {
        self.0.as_ref().map(|entry| &*entry.manager)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Newest<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Newest(None))
    }
}

/// What is no list of entries names nobody.
impl<'de: 'a, 'a> Visitor<'de> for Newest<'a> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("managed fields")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut entries: A) -> Result<Self, A::Error> {
        while let Some(entry) = entries.next_element::<ManagedFields<'a>>()? {
            let is_newer = self.0.as_ref().is_none_or(|known| known.time <= entry.time);
            if is_newer && entry.subresource.is_empty() && !entry.manager.is_empty() {
                self.0 = Some(entry);
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(text: &str) -> Option<String> {
        let newest: Newest<'_> = serde_json::from_str(text).unwrap();
        newest.manager().map(str::to_owned)
    }

    #[test]
    fn the_newest_who_wrote_more_than_a_status_is_named() {
        let text = r#"[
            {"manager": "helm", "operation": "Apply", "time": "2026-01-02T00:00:00Z",
             "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:ports": {".": {}}}}},
            {"manager": "kubectl \"edit\"", "time": "2026-01-03T00:00:00Z"},
            {"manager": "first", "time": "2026-01-01T00:00:00Z"},
            {"manager": "kubelet", "time": "2026-01-09T00:00:00Z", "subresource": "status"}
        ]"#;
        assert_eq!(manager(text).as_deref(), Some("kubectl \"edit\""));
        assert_eq!(manager("[]"), None);
        assert_eq!(manager("null"), None);
    }
}
