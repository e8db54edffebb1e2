//! Routing tests: what connections are expected to get, compared with what
//! [`explain`](crate::explain) says that they do. Nothing is decided here.
//!
//! * [`read`]: the tests of a file.
//! * [`Suite::run`]: what came of them.

mod compare;
mod read;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

pub use read::read;

use crate::explain::{Dialled, ExplainError, Explanation, Query, QuerySource, explain_with};
use crate::registry::Registry;
use crate::world::World;

/// The tests of one document, which share their configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Suite {
    /// The file, as the user named it.
    pub file: Arc<str>,
    /// Files and directories of documents that the tests bring along, as written:
    /// relative to the file's directory.
    pub config: Vec<String>,
    /// The tests, in their order.
    pub cases: Vec<Case>,
}

/// A test: a connection, and what is expected of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    /// Its name, which no other test of the suite has.
    pub name: String,
    /// The line that it begins on, counted from 1; 0 when unknown.
    pub line: u32,
    /// Who connects.
    pub source: QuerySource,
    /// Where to. All addresses of a name have to answer as expected.
    pub to: Dialled,
    /// The Gateway that the connection arrives at, by namespace and name.
    pub gateway: Option<(String, String)>,
    /// The server name of its ClientHello.
    pub sni: Option<String>,
    /// What is expected; several expectations have to hold all.
    pub expected: Expected,
}

/// What is expected of a connection.
#[derive(Clone, PartialEq, Debug)]
pub struct Expected {
    /// The rule that matches.
    pub rule: Option<RuleName>,
    /// Who gets what share of the connections; nobody else gets any.
    pub shares: Option<Vec<(Of, f64)>>,
    /// How far a share may be off.
    pub within: Within,
    /// The endpoints that get any connection, all of them.
    pub endpoints: Option<Vec<SocketAddr>>,
    /// Whether the connection is left as it is.
    pub passthrough: Option<bool>,
    /// The share that is refused.
    pub refused: Refused,
    /// The test of the same suite whose connection gets the same.
    pub same_as: Option<String>,
}

/// How far a share may be off: a fraction of 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Within(pub f64);

impl Within {
    /// Whether the two are as good as equal. Shares have six decimals.
    fn equal(self, one: f64, other: f64) -> bool {
        (one - other).abs() <= self.0 + 1e-6
    }
}

/// The share of the connections that is refused.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Refused {
    /// Whatever it is: the documents do not tell all endpoints.
    Any,
    /// So much, from 0 to 1.
    Share(f64),
}

/// A rule, as `explain` writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuleName {
    /// No rule matches.
    None,
    /// Any rule of this object, `VirtualService/namespace/name`.
    OfObject(String),
    /// This rule: the object, its list, its place in the list.
    Rule(String, String, u32),
}

impl FromStr for RuleName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        let (object, place) = match text.split_once(' ') {
            Some((object, place)) => (object, Some(place)),
            None => (text, None),
        };
        let parts: Vec<&str> = object.split('/').collect();
        let is_object = parts.len() == 3 && parts.iter().all(|part| !part.is_empty());
        let place = place.map(|place| {
            let (list, index) = place.strip_suffix(']')?.split_once('[')?;
            let known = ["tcp", "tls", "http"].contains(&list);
            known.then(|| Some((list.to_owned(), index.parse().ok()?))).flatten()
        });
        match (is_object, place) {
            (true, None) => Ok(Self::OfObject(object.to_owned())),
            (true, Some(Some((list, index)))) => Ok(Self::Rule(object.to_owned(), list, index)),
            _ => Err("expected a rule as explain writes it, such as \
                      VirtualService/shop/web tcp[0], or VirtualService/shop/web for any of its \
                      rules, or none"
                .to_owned()),
        }
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no rule"),
            Self::OfObject(object) => write!(f, "a rule of {object}"),
            Self::Rule(object, list, index) => write!(f, "{object} {list}[{index}]"),
        }
    }
}

/// Who a share is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Of {
    /// An endpoint.
    Endpoint(SocketAddr),
    /// A destination: its host in full or without what it ends with, and where
    /// they are said its port and its subset.
    Destination {
        /// The host.
        host: String,
        /// The service port.
        port: Option<u16>,
        /// The subset.
        subset: Option<String>,
    },
}

impl FromStr for Of {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(endpoint) = text.parse() {
            return Ok(Self::Endpoint(endpoint));
        }
        let (rest, subset) = match text.split_once('/') {
            Some((rest, subset)) => (rest, Some(subset.to_owned())),
            None => (text, None),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().map(Some)),
            None => (rest, Some(None)),
        };
        let plain = |text: &str| !text.is_empty() && !text.contains(['/', ':', ' ']);
        match port {
            Some(port) if plain(host) && subset.as_deref().is_none_or(plain) => {
                Ok(Self::Destination { host: host.to_owned(), port, subset })
            }
            _ => Err("expected a destination as explain writes it, HOST, HOST:PORT or \
                      HOST:PORT/SUBSET, or an endpoint, IP:PORT"
                .to_owned()),
        }
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(address) => write!(f, "{address}"),
            Self::Destination { host, port, subset } => {
                f.write_str(host)?;
                port.iter().try_for_each(|port| write!(f, ":{port}"))?;
                subset.iter().try_for_each(|subset| write!(f, "/{subset}"))
            }
        }
    }
}

/// What came of a test; its fields are those of `test --output json`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Outcome {
    /// The test.
    pub name: String,
    /// The file it is written in.
    pub file: Arc<str>,
    /// The line that it begins on.
    pub line: u32,
    /// Whether everything is as expected.
    pub passed: bool,
    /// What is not.
    pub differences: Vec<Difference>,
    /// Of a test that failed, why its connections go where they go: for every
    /// address of which something is not as expected.
    pub explanations: Vec<Explanation>,
}

/// Something that is not as expected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// Which expectation: `rule`, `shares`, `endpoints`, `passthrough`, `refused`,
    /// `sameAs`; `to` or `from` where there is no answer at all.
    pub expectation: &'static str,
    /// The address dialled; `None` where there is none.
    pub destination: Option<String>,
    /// What was expected.
    pub expected: String,
    /// What is there.
    pub got: String,
}

/// What is said of the connection of a test, for every address that it dials.
type Answers = Result<Vec<Explanation>, ExplainError>;

impl Suite {
    /// Runs the tests over a World, whose registry is at hand.
    pub fn run(&self, world: &World, registry: &Registry) -> Vec<Outcome> {
        let answers: Vec<Answers> =
            self.cases.iter().map(|case| case.answers(world, registry)).collect();
        let cases = self.cases.iter().zip(&answers);
        cases.map(|(case, answer)| self.outcome(case, answer, &answers)).collect()
    }

    fn outcome(&self, case: &Case, answers: &Answers, all: &[Answers]) -> Outcome {
        let mut outcome = Outcome {
            name: case.name.clone(),
            file: self.file.clone(),
            line: case.line,
            passed: false,
            differences: Vec::new(),
            explanations: Vec::new(),
        };
        match answers {
            Err(error) => outcome.differences.push(compare::no_answer(case, error)),
            Ok(explanations) => {
                let same = case.expected.same_as.as_ref().and_then(|name| {
                    let at = self.cases.iter().position(|other| other.name == *name)?;
                    Some((name.as_str(), all.get(at)?))
                });
                for explanation in explanations {
                    let differences = compare::compare(&case.expected, same, explanation);
                    if !differences.is_empty() {
                        outcome.explanations.push(explanation.clone());
                    }
                    outcome.differences.extend(differences);
                }
            }
        }
        outcome.passed = outcome.differences.is_empty();
        outcome
    }
}

impl Case {
    fn answers(&self, world: &World, registry: &Registry) -> Answers {
        let addresses = self.to.addresses(world, registry, &self.source)?;
        let explain = |destination| {
            let query = Query {
                source: self.source.clone(),
                destination,
                gateway: self.gateway.clone(),
                sni: self.sni.clone(),
            };
            explain_with(world, registry, &query)
        };
        addresses.into_iter().map(explain).collect()
    }
}
