//! Routing tests as YAML. The form is described in `docs/routing-tests.md`.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::{Case, Expected, Of, Refused, RuleName, Suite, Within};
use crate::diag::codes::syntax;
use crate::diag::{Diagnostic, nearest};
use crate::explain::{Dialled, QuerySource};
use crate::model::{Labels, namespaced};
use crate::yaml::{self, Node, Position, Value};

/// Where nothing else is said, a share is that of the documents as far as two
/// decimals of a percentage can say it.
const TOLERANCE: f64 = 0.0001;

/// Reads the routing tests of a file: a suite for each document.
///
/// # Errors
///
/// The first thing that is wrong, and where.
pub fn read(file: &Arc<str>, text: &str) -> Result<Vec<Suite>, Box<Diagnostic>> {
    let at = |position: Position, message: String| {
        let mut finding = Diagnostic::new(&syntax::NOT_A_TEST, message);
        finding.file = Some(file.clone());
        (finding.line, finding.column) = (position.line, position.column);
        Box::new(finding)
    };
    let mut suites = Vec::new();
    let mut nodes = nodes(text).into_iter();
    for document in serde_yaml::Deserializer::from_str(text) {
        let document = match Option::<Document>::deserialize(document) {
            Ok(Some(document)) => document,
            // Nothing between two document marks.
            Ok(None) => continue,
            Err(error) => {
                let (position, message, help) = told(&error);
                let mut finding = at(position, message);
                finding.help = help;
                return Err(finding);
            }
        };
        let (mut cases, mut places) = (Vec::new(), Vec::new());
        for written in document.tests {
            let node = nodes.next();
            cases.push(written.0.case(&document.defaults, node.as_ref()));
            places.push(node);
        }
        for (index, case) in cases.iter().enumerate() {
            let place = |path: &str| {
                let node = places[index].as_ref();
                node.map_or(Position::default(), |node| node.nearest(path).position)
            };
            if cases[..index].iter().any(|other| other.name == case.name) {
                let message = format!("there is another test \"{}\" in this document", case.name);
                return Err(at(place("name"), message));
            }
            let Some(other) = &case.expected.same_as else { continue };
            let mut others = cases.iter().map(|case| case.name.as_str());
            if *other == case.name || !others.clone().any(|name| name == other) {
                let message = format!("no other test of this document is called \"{other}\"");
                let mut finding = at(place("expect.sameAs"), message);
                let near = nearest(other, others.by_ref().filter(|name| *name != case.name));
                finding.help = near.map(|near| format!("did you mean \"{near}\"?"));
                return Err(finding);
            }
        }
        suites.push(Suite { file: file.clone(), config: document.config, cases });
    }
    if suites.iter().all(|suite| suite.cases.is_empty()) {
        let mut finding = at(Position::default(), "the file holds no routing test".to_owned());
        finding.help = Some("write the tests as a list under `tests:`".to_owned());
        return Err(finding);
    }
    Ok(suites)
}

/// The items under `tests` of all documents, for their places: serde knows those
/// of errors only.
fn nodes(text: &str) -> Vec<Node> {
    let documents = yaml::parse(text).documents;
    let lists = documents.iter().filter_map(|document| match &document.root.get("tests")?.value {
        Value::List(items) => Some(items.to_vec()),
        _ => None,
    });
    lists.flatten().collect()
}

/// Where an error is, what it says, and how to mend it.
fn told(error: &serde_yaml::Error) -> (Position, String, Option<String>) {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let mut message = error.to_string();
    let mut position = Position::default();
    if let Some(place) = error.location() {
        position = Position { line: number(place.line()), column: number(place.column()) };
        let end = format!(" at line {} column {}", place.line(), place.column());
        message = message.replacen(&end, "", 1);
    }
    // What serde says of a name that it does not know: the name, and all that it does.
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let near = match quoted.split_first() {
        Some((unknown, known)) if message.contains("unknown field") => {
            nearest(unknown, known.iter().copied())
        }
        _ => None,
    };
    let help = near.map(|near| format!("did you mean {near}?"));
    (position, message, help)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    config: Vec<String>,
    #[serde(default)]
    defaults: Defaults,
    tests: Vec<Checked<Written>>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Defaults {
    #[serde(default, deserialize_with = "some")]
    tolerance: Option<Share>,
    #[serde(default, deserialize_with = "some")]
    refused: Option<Refused>,
}

/// A test as it is written.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    name: String,
    #[serde(default)]
    from: Checked<From>,
    to: Word<Dialled>,
    #[serde(default, deserialize_with = "some")]
    gateway: Option<Word<Pair>>,
    #[serde(default, deserialize_with = "some")]
    sni: Option<String>,
    expect: Checked<Expect>,
}

#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct From {
    #[serde(default, deserialize_with = "some")]
    workload: Option<Word<Pair>>,
    #[serde(default, deserialize_with = "some")]
    namespace: Option<String>,
    #[serde(default)]
    labels: Entries<String, String>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Expect {
    #[serde(default, deserialize_with = "some")]
    rule: Option<Word<RuleName>>,
    #[serde(default, deserialize_with = "some")]
    shares: Option<Entries<Word<Of>, Share>>,
    #[serde(default, deserialize_with = "some")]
    tolerance: Option<Share>,
    #[serde(default, deserialize_with = "some")]
    endpoints: Option<Vec<SocketAddr>>,
    #[serde(default, deserialize_with = "some")]
    passthrough: Option<bool>,
    #[serde(default, deserialize_with = "some")]
    refused: Option<Refused>,
    #[serde(default, deserialize_with = "some")]
    same_as: Option<String>,
}

impl Written {
    fn case(self, defaults: &Defaults, node: Option<&Node>) -> Case {
        let From { workload, namespace, labels, addresses } = self.from.0;
        let source = match (workload, namespace) {
            (Some(Word(Pair(namespace, name))), _) => QuerySource::Workload { namespace, name },
            (None, Some(namespace)) => {
                QuerySource::Described { namespace, labels: Labels::from_iter(labels.0), addresses }
            }
            (None, None) => QuerySource::Unknown,
        };
        let expect = self.expect.0;
        let tolerance = expect.tolerance.or(defaults.tolerance);
        let nothing_else = expect.rule.is_none()
            && expect.shares.is_none()
            && expect.endpoints.is_none()
            && expect.passthrough.is_none();
        // Whoever says nothing of refusals expects none.
        let refused = match expect.refused.or(defaults.refused) {
            // The other test says it.
            None if expect.same_as.is_some() && nothing_else => Refused::Any,
            None => Refused::Share(0.0),
            Some(refused) => refused,
        };
        let shares = expect.shares.map(|shares| {
            shares.0.into_iter().map(|(Word(of), Share(share))| (of, share)).collect()
        });
        Case {
            name: self.name,
            line: node.map_or(0, |node| node.position.line),
            source,
            to: self.to.0,
            gateway: self.gateway.map(|Word(Pair(namespace, name))| (namespace, name)),
            sni: self.sni,
            expected: Expected {
                rule: expect.rule.map(|rule| rule.0),
                shares,
                within: Within(tolerance.map_or(TOLERANCE, |share| share.0)),
                endpoints: expect.endpoints,
                passthrough: expect.passthrough,
                refused,
                same_as: expect.same_as,
            },
        }
    }
}

/// What has to hold between the fields of a map.
trait Sense {
    /// What is wrong between them.
    fn nonsense(&self) -> Option<&'static str>;
}

impl Sense for Written {
    fn nonsense(&self) -> Option<&'static str> {
        if self.name.trim().is_empty() {
            return Some("the test has no name");
        }
        (self.sni.is_some() && self.gateway.is_none())
            .then_some("sni is what a client says at a gateway: add gateway: NAMESPACE/NAME")
    }
}

impl Sense for From {
    fn nonsense(&self) -> Option<&'static str> {
        let described = !self.labels.0.is_empty() || !self.addresses.is_empty();
        match (&self.workload, &self.namespace) {
            (Some(_), Some(_)) => Some("workload names the namespace, too: remove one of the two"),
            (Some(_), None) if described => {
                Some("a workload has its labels and addresses from its document: remove them here")
            }
            (None, Some(namespace)) if namespace.is_empty() => Some("the namespace has no name"),
            (None, None) if described => Some("a source with labels or addresses has a namespace"),
            (None, None) => Some(
                "from says nothing: add workload or namespace, or remove it for a caller in no \
                 known workload",
            ),
            _ => None,
        }
    }
}

impl Sense for Expect {
    fn nonsense(&self) -> Option<&'static str> {
        let only_any = matches!(self.refused, None | Some(Refused::Any));
        let refuses = matches!(self.refused, Some(Refused::Share(share)) if share > 0.0);
        let leads = self.shares.is_some() || self.endpoints.is_some();
        if self.rule.is_none() && !leads && self.passthrough.is_none() && self.same_as.is_none() {
            return only_any.then_some(
                "nothing is expected: add rule, shares, endpoints, passthrough, refused or sameAs",
            );
        }
        if self.shares.as_ref().is_some_and(|shares| shares.0.is_empty())
            || self.endpoints.as_ref().is_some_and(Vec::is_empty)
        {
            return Some("a list of nothing: where nothing arrives, write refused: 100%");
        }
        (self.passthrough == Some(true) && (leads || refuses))
            .then_some("what is passed through has no shares and no endpoints, and is not refused")
    }
}

/// A map whose fields make sense together. Looked at inside of the map's own
/// reading, so that a complaint has its place.
struct Checked<T>(T);

impl<T: Default> Default for Checked<T> {
    fn default() -> Self {
        Self(T::default())
    }
}

impl<'de, T: Deserialize<'de> + Sense> Deserialize<'de> for Checked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Sense> Visitor<'de> for Map<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                let read = T::deserialize(MapAccessDeserializer::new(map))?;
                read.nonsense().map_or(Ok(read), |nonsense| Err(A::Error::custom(nonsense)))
            }
        }
        deserializer.deserialize_map(Map(PhantomData)).map(Self)
    }
}

/// A field that is written has a value: `rule:` with nothing behind it would
/// otherwise expect nothing.
fn some<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// The entries of a map in their order, each key once.
struct Entries<K, V>(Vec<(K, V)>);

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, K: Deserialize<'de> + PartialEq, V: Deserialize<'de>> Deserialize<'de> for Entries<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<K, V>(PhantomData<(K, V)>);
        impl<'de, K, V> Visitor<'de> for Map<K, V>
        where
            K: Deserialize<'de> + PartialEq,
            V: Deserialize<'de>,
        {
            type Value = Vec<(K, V)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Self::Value = Vec::new();
                while let Some((key, value)) = map.next_entry()? {
                    if entries.iter().any(|(other, _)| *other == key) {
                        return Err(A::Error::custom("a key stands here twice"));
                    }
                    entries.push((key, value));
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Map(PhantomData)).map(Self)
    }
}

/// A value that is written as a string. Parsed inside of the string's own
/// reading, so that a complaint has its place.
#[derive(PartialEq)]
struct Word<T>(T);

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(PhantomData<T>);
        impl<T: FromStr<Err = String>> Visitor<'_> for Text<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
                text.parse().map_err(|expected| E::custom(format!("\"{text}\": {expected}")))
            }
        }
        deserializer.deserialize_str(Text(PhantomData)).map(Self)
    }
}

/// `namespace/name`.
#[derive(PartialEq)]
struct Pair(String, String);

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = namespaced(text)?;
        Ok(Self(namespace.to_owned(), name.to_owned()))
    }
}

/// A share: `80%` or 0.8.
#[derive(Clone, Copy)]
struct Share(f64);

/// What a share is written as, or what stands for one.
struct ShareVisitor;

const SHARE: &str = "a share, such as 80% or 0.8";

/// A share that is written like this.
fn fraction<E: Error>(value: f64, written: impl fmt::Display) -> Result<f64, E> {
    if (0.0..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(E::custom(format!("{written} is no share: expected {SHARE}, from 0 to 100%")))
}

impl Visitor<'_> for ShareVisitor {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHARE)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<f64, E> {
        fraction(value, value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<f64, E> {
        fraction(value as f64, value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<f64, E> {
        fraction(value as f64, value)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<f64, E> {
        let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match number {
            Some(percent) => fraction(percent / 100.0, text),
            None => Err(E::custom(format!("\"{text}\": expected {SHARE}"))),
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShareVisitor).map(Self)
    }
}

impl<'de> Deserialize<'de> for Refused {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Refusal;
        impl Visitor<'_> for Refusal {
            type Value = Refused;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "true, any, or {SHARE}")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Refused, E> {
                Ok(Refused::Share(if value { 1.0 } else { 0.0 }))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Refused, E> {
                ShareVisitor.visit_f64(value).map(Refused::Share)
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Refused, E> {
                ShareVisitor.visit_u64(value).map(Refused::Share)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Refused, E> {
                if text == "any" {
                    return Ok(Refused::Any);
                }
                ShareVisitor.visit_str(text).map(Refused::Share)
            }
        }
        deserializer.deserialize_any(Refusal)
    }
}
