//! What of an object is read, copied from what the server sends without decoding the
//! rest: most of a Pod, and most changes of one, say nothing here.

use std::borrow::Cow;
use std::fmt;

use redirector_core::model::Kind;
use redirector_core::model::annotations;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What is kept of a value.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    /// Everything.
    All,
    /// Of a map these fields; of a list the same of each entry.
    Only(&'static [(&'static str, Keep)]),
    /// Of a map the entries of such names.
    Named(fn(&str) -> bool),
}

use Keep::{All, Named, Only};

/// Annotations that decide nothing here make up most of the metadata of many
/// objects, and are not kept.
fn is_read(annotation: &str) -> bool {
    annotation.contains(annotations::OURS)
        || annotation.contains("istio.io/")
        || annotation.starts_with("kubernetes.io/config.")
}

const METADATA: (&str, Keep) = (
    "metadata",
    Only(&[
        ("name", All),
        ("namespace", All),
        ("uid", All),
        ("labels", All),
        ("annotations", Named(is_read)),
        ("creationTimestamp", All),
        ("deletionTimestamp", All),
    ]),
);

const CONTAINERS: Keep = Only(&[("ports", Only(&[("name", All), ("containerPort", All)]))]);

/// What is kept of an object of a kind. A test holds it to what the core reads.
pub const fn of(kind: Kind) -> Keep {
    match kind {
        Kind::Pod => Only(&[
            METADATA,
            (
                "spec",
                Only(&[
                    ("nodeName", All),
                    ("hostNetwork", All),
                    ("containers", CONTAINERS),
                    ("initContainers", CONTAINERS),
                ]),
            ),
            (
                "status",
                Only(&[
                    ("phase", All),
                    ("podIP", All),
                    ("podIPs", All),
                    ("conditions", Only(&[("type", All), ("status", All)])),
                ]),
            ),
        ]),
        Kind::Service => {
            Only(&[METADATA, ("spec", All), ("status", Only(&[("loadBalancer", All)]))])
        }
        Kind::ServiceEntry => {
            Only(&[METADATA, ("spec", All), ("status", Only(&[("addresses", All)]))])
        }
        Kind::EndpointSlice => {
            Only(&[METADATA, ("addressType", All), ("ports", All), ("endpoints", All)])
        }
        Kind::Namespace | Kind::Node => Only(&[METADATA]),
        _ => Only(&[METADATA, ("spec", All)]),
    }
}

/// Appends to `into` what is kept of the object `text`, in its order.
///
/// # Errors
/// When it is not JSON.
pub fn copy(text: &str, keep: Keep, into: &mut Vec<u8>) -> serde_json::Result<()> {
    let mut from = serde_json::Deserializer::from_str(text);
    Copy { keep, into }.deserialize(&mut from)?;
    from.end()
}

struct Copy<'a> {
    keep: Keep,
    into: &'a mut Vec<u8>,
}

impl Copy<'_> {
    fn write<E: Error>(self, value: impl Serialize) -> Result<(), E> {
        serde_json::to_writer(self.into, &value).map_err(Error::custom)
    }
}

/// A name that is copied only where it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for Copy<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if matches!(self.keep, All) {
            let raw = <&RawValue>::deserialize(from)?;
            self.into.extend_from_slice(raw.get().as_bytes());
            return Ok(());
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Copy<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.write(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.write(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.write(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.write(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.write(value)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.write(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.into.push(b'[');
        let begin = self.into.len();
        while entries
            .next_element_seed(ListItem { keep: self.keep, begin, into: self.into })?
            .is_some()
        {}
        self.into.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.into.push(b'{');
        let begin = self.into.len();
        while let Some(Name(name)) = entries.next_key()? {
            let keep = match self.keep {
                All => Some(All),
                Named(is_kept) => is_kept(&name).then_some(All),
                Only(fields) => {
                    fields.iter().find(|(field, _)| *field == name).map(|(_, keep)| *keep)
                }
            };
            let Some(keep) = keep else {
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            let before = self.into.len();
            if before > begin {
                self.into.push(b',');
            }
            serde_json::to_writer(&mut *self.into, &name).map_err(Error::custom)?;
            self.into.push(b':');
            entries.next_value_seed(Copy { keep, into: self.into })?;
            // A map of which nothing is read is as good as none.
            if self.into.ends_with(b":{}") && !matches!(keep, All) {
                self.into.truncate(before);
            }
        }
        self.into.push(b'}');
        Ok(())
    }
}

/// An entry of a list that begins at a place.
struct ListItem<'a> {
    keep: Keep,
    begin: usize,
    into: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for ListItem<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.into.len() > self.begin {
            self.into.push(b',');
        }
        Copy { keep: self.keep, into: self.into }.deserialize(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redirector_core::documents;
    use serde_json::{Value, json};

    fn pruned(kind: Kind, value: &Value) -> Value {
        let mut copied = Vec::new();
        copy(&value.to_string(), of(kind), &mut copied).unwrap();
        serde_json::from_slice(&copied).unwrap()
    }

    /// Objects with everything that a server writes into them.
    fn samples() -> Vec<(Kind, Value)> {
        let meta = json!({
            "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 3,
            "creationTimestamp": "2026-01-31T12:00:00Z", "deletionTimestamp": "2026-02-01T12:00:00Z",
            "labels": { "app": "x", "kubernetes.io/service-name": "s" },
            "annotations": {
                "redirector.io/drain": "3s", "networking.istio.io/exportTo": "*",
                "kubernetes.io/config.hash": "abc", "other/one": "long\n\"text\"",
                "service.kubernetes.io/topology-mode": "Auto",
            },
            "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:status": {} } }],
            "ownerReferences": [{ "name": "rs", "uid": "r" }],
        });
        let mut samples = Vec::new();
        for (kind, api, rest) in [
            (
                Kind::Pod,
                "v1",
                json!({
                    "spec": {
                        "nodeName": "w", "hostNetwork": true, "volumes": [{ "name": "v" }],
                        "containers": [
                            { "name": "c", "image": "i", "ports": [
                                { "name": "tcp", "containerPort": 9000, "protocol": "TCP" },
                            ] },
                            { "name": "d" },
                        ],
                        "initContainers": [{ "ports": [{ "name": "init", "containerPort": 1 }] }],
                    },
                    "status": {
                        "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }],
                        "conditions": [
                            { "type": "Ready", "status": "True", "lastProbeTime": null },
                        ],
                        "containerStatuses": [{ "restartCount": 3 }],
                    },
                }),
            ),
            (
                Kind::Service,
                "v1",
                json!({
                    "spec": {
                        "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "selector": { "app": "x" },
                        "ports": [{ "name": "tcp", "port": 80, "targetPort": "tcp", "nodePort": 30000 }],
                        "type": "LoadBalancer", "internalTrafficPolicy": "Local",
                        "trafficDistribution": "PreferClose", "externalIPs": ["192.0.2.1"],
                    },
                    "status": {
                        "loadBalancer": { "ingress": [{ "ip": "192.0.2.9" }] }, "conditions": [],
                    },
                }),
            ),
            (
                Kind::EndpointSlice,
                "discovery.k8s.io/v1",
                json!({
                    "addressType": "IPv4", "ports": [{ "name": "tcp", "port": 9000, "protocol": "TCP" }],
                    "endpoints": [{
                        "addresses": ["10.0.0.2"], "nodeName": "w", "zone": "z",
                        "conditions": { "ready": true, "serving": true, "terminating": false },
                        "targetRef": { "kind": "Pod", "name": "p", "namespace": "n" },
                    }],
                }),
            ),
            (Kind::Namespace, "v1", json!({ "status": { "phase": "Active" } })),
            (Kind::Node, "v1", json!({ "spec": { "taints": [] }, "status": { "images": [] } })),
            (
                Kind::ServiceEntry,
                "networking.istio.io/v1",
                json!({
                    "spec": { "hosts": ["db.example.com"], "resolution": "DNS" },
                    "status": {
                        "addresses": [{ "host": "db.example.com", "value": "240.240.0.1" }],
                        "conditions": [],
                    },
                }),
            ),
            (
                Kind::DestinationRule,
                "networking.istio.io/v1",
                json!({
                    "spec": { "host": "a", "subsets": [{ "name": "s", "labels": { "v": "1" } }] },
                    "status": { "observedGeneration": "1" },
                }),
            ),
        ] {
            let mut value = json!({ "apiVersion": api, "kind": kind.as_str(), "metadata": meta });
            value.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            samples.push((kind, value));
        }
        samples
    }

    #[test]
    fn what_is_kept_is_what_the_core_reads() {
        for (kind, whole) in samples() {
            let mut kept = pruned(kind, &whole);
            for field in ["apiVersion", "kind"] {
                kept[field] = whole[field].clone();
            }
            let (whole, kept) = (documents::read_json(&whole), documents::read_json(&kept));
            assert_eq!(whole.diagnostics, kept.diagnostics);
            let [whole, kept] = [whole, kept].map(|reading| {
                let object = reading.objects[0].object.clone();
                let mut object = (*object.unwrap_or_else(|| panic!("{kind}"))).clone();
                let annotations = object.meta.annotations.iter();
                object.meta.annotations = annotations.filter(|(name, _)| is_read(name)).collect();
                object
            });
            assert_eq!(whole, kept);
        }
    }

    #[test]
    fn a_status_that_says_nothing_new_is_no_change() {
        let (kind, pod) = samples().remove(0);
        let mut other = pod.clone();
        other["metadata"]["resourceVersion"] = json!("8");
        other["metadata"]["managedFields"] = json!([]);
        other["metadata"]["annotations"]["other/one"] = json!("another");
        other["status"]["conditions"][0]["lastProbeTime"] = json!("2026-01-31T12:00:00Z");
        other["status"]["containerStatuses"][0]["restartCount"] = json!(4);
        assert_eq!(pruned(kind, &pod), pruned(kind, &other));
        let bare = json!({ "metadata": { "name": "a" } });
        let mut more = bare.clone();
        more["metadata"]["annotations"] = json!({ "other/one": "long" });
        more["status"] = json!({ "containerStatuses": [] });
        assert_eq!(pruned(kind, &bare), pruned(kind, &more));
        other["status"]["phase"] = json!("Failed");
        assert_ne!(pruned(kind, &pod), pruned(kind, &other));
    }

    #[test]
    fn what_is_no_json_is_refused_and_odd_values_are_passed_on() {
        let mut into = Vec::new();
        for text in ["", "{", "{\"metadata\":{}} {}", "{\"metadata\":{\"name\":\"a}"] {
            assert!(copy(text, of(Kind::Pod), &mut into).is_err(), "{text}");
        }
        let odd = json!({ "metadata": 7, "spec": [{ "nodeName": null }, -1, 0.5, true, "x"] });
        let kept = json!({ "metadata": 7, "spec": [{ "nodeName": null }, -1, 0.5, true, "x"] });
        assert_eq!(pruned(Kind::Pod, &odd), kept);
    }
}
