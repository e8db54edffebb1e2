//! The corpus: one case for each sentence of the routing semantics that can be
//! tried, told by `explain` and, without gateway, by the compiled tables.

use std::collections::BTreeMap;

use crate::support::judged::expected;
use crate::support::reference::{Connection, Reference};
use crate::support::{Shares, compiled_shares, unknown_shares, world_with};
use redirector_core::explain::{Query, QuerySource, VerdictWord, explain};
use redirector_core::model::Labels;
use redirector_core::world::{ServiceAddresses, Settings, World};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    section: String,
    says: String,
    from: Option<String>,
    to: String,
    gateway: Option<String>,
    sni: Option<String>,
    #[serde(default)]
    own: bool,
    node: Option<String>,
    expect: String,
    #[serde(default)]
    config: String,
}

impl Case {
    fn world(&self) -> World {
        let services = if self.own { ServiceAddresses::Own } else { ServiceAddresses::Leave };
        let settings = Settings { services, node_name: self.node.clone(), ..Settings::default() };
        world_with(&format!("{}\n---\n{}", include_str!("corpus/base.yaml"), self.config), settings)
    }

    /// Namespace and labels.
    fn source(&self) -> Option<(String, Labels)> {
        let mut parts = self.from.as_ref()?.split(' ').map(str::to_owned);
        let namespace = parts.next()?;
        let pairs = parts.filter_map(|part| {
            let (key, value) = part.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        });
        Some((namespace, pairs.collect()))
    }

    fn expected(&self) -> Shares {
        match self.expect.as_str() {
            "pass" => Shares { passed: true, ..Shares::default() },
            "refuse" => Shares { refused: 1.0, ..Shares::default() },
            shares => {
                let mut all: BTreeMap<String, f64> = shares
                    .split(' ')
                    .map(|share| {
                        let (to, share) = share.split_once('=').expect("endpoint=share");
                        (to.to_owned(), share.parse().expect("a share"))
                    })
                    .collect();
                let refused = all.remove("refused").unwrap_or_default();
                Shares { endpoints: all, refused, passed: false }
            }
        }
    }

    fn judge(&self) -> Result<(), String> {
        let (wanted, source) = (self.expected(), self.source());
        let query = Query {
            source: source.clone().map_or(QuerySource::Unknown, |(namespace, labels)| {
                QuerySource::Described { namespace, labels, addresses: Vec::new() }
            }),
            destination: self.to.parse().map_err(|error| format!("{}: {error}", self.to))?,
            gateway: self.gateway.as_ref().map(|name| {
                let (namespace, name) = name.split_once('/').expect("namespace/name");
                (namespace.to_owned(), name.to_owned())
            }),
            sni: self.sni.clone(),
        };
        let answer = explain(&self.world(), &query).map_err(|error| error.to_string())?;
        let told = Shares {
            endpoints: answer.endpoints.clone(),
            refused: answer.refused_share,
            passed: answer.verdict == VerdictWord::Passthrough,
        };
        if !told.near(&wanted) {
            return Err(format!("explain says {answer:#?}"));
        }
        if self.gateway.is_none() {
            let got = match source {
                Some((namespace, labels)) => {
                    compiled_shares(&mut self.world(), &namespace, &labels, &self.to)
                }
                None => unknown_shares(&self.world(), &self.to),
            };
            if !got.near(&wanted) {
                return Err(format!("the tables say {got:?}"));
            }
            let world = self.world();
            let connection = self.source().map_or_else(Connection::default, |source| {
                let (namespace, labels) = source;
                Connection { namespace: Some(namespace), labels, ..Connection::default() }
            });
            let outcome = Reference::new(&world).decide(&connection, query.destination);
            if !expected(&outcome).near(&wanted) {
                return Err(format!("the reference says {outcome:?}"));
            }
        }
        Ok(())
    }
}

#[test]
fn every_sentence_holds() {
    let cases: Vec<Case> =
        serde_yaml::from_str(include_str!("corpus/cases.yaml")).expect("the cases are readable");
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let why = case.judge().err()?;
            Some(format!(
                "section {}: {}\nexpected {}, and {why}",
                case.section, case.says, case.expect
            ))
        })
        .collect();
    println!("{} of {} sentences hold", cases.len() - failed.len(), cases.len());
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn explain_tells_that_endpoints_further_away_stand_by() {
    let settings = Settings {
        services: ServiceAddresses::Own,
        node_name: Some("n1".to_owned()),
        ..Settings::default()
    };
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: policy, namespace: default}
spec: {host: echo, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3}}}
";
    let notes = |rule: &str| {
        let world = world_with(
            &format!("{}\n---\n{rule}", include_str!("corpus/base.yaml")),
            settings.clone(),
        );
        let destination = "10.96.0.10:80".parse().expect("an address");
        let query = Query { source: QuerySource::Unknown, destination, gateway: None, sni: None };
        explain(&world, &query).expect("it is explained").notes
    };
    assert!(notes(rule).iter().any(|note| note.contains("1 stand by")), "{:?}", notes(rule));
    assert_eq!(notes(""), Vec::<String>::new());
}
