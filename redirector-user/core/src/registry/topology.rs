//! Where things are: region, zone and subzone, and the labels that follow.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::Labels;
use crate::model::annotations::{HOSTNAME, NETWORK, REGION, SUBZONE, ZONE};

const OLD_REGION: &str = "failure-domain.beta.kubernetes.io/region";
const OLD_ZONE: &str = "failure-domain.beta.kubernetes.io/zone";
/// A label of a workload that says where it is, whatever its node says;
/// label values have no slash, so dots stand between the parts.
const LOCALITY_LABEL: &str = "istio-locality";

/// A locality; unknown parts are empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Locality {
    /// The region.
    pub region: String,
    /// The zone.
    pub zone: String,
    /// The subzone.
    pub subzone: String,
}

impl Locality {
    /// Parses `region/zone/subzone`; what is missing is empty.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        Self {
            region: parts.next().unwrap_or_default(),
            zone: parts.next().unwrap_or_default(),
            subzone: parts.next().unwrap_or_default(),
        }
    }

    /// From the labels of a node.
    pub fn of_node(labels: &Labels) -> Self {
        let get = |name: &str, old: &str| {
            labels.get(name).or_else(|| labels.get(old)).unwrap_or_default().to_owned()
        };
        Self {
            region: get(REGION, OLD_REGION),
            zone: get(ZONE, OLD_ZONE),
            subzone: get(SUBZONE, ""),
        }
    }

    /// From the label of a workload that says it, if it is there.
    pub fn of_workload(labels: &Labels) -> Option<Self> {
        let said = labels.get(LOCALITY_LABEL)?;
        Some(Self::parse(&if said.contains('/') {
            said.to_owned()
        } else {
            said.replace('.', "/")
        }))
    }

    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.subzone.is_empty()
    }

    /// Whether it lies within `pattern`, `region/zone/subzone` where parts may
    /// be `*` or missing.
    pub fn within(&self, pattern: &str) -> bool {
        let parts = [&self.region, &self.zone, &self.subzone];
        pattern.split('/').zip(parts).all(|(wanted, is)| wanted == "*" || wanted == is)
    }

    /// `region/zone/subzone`, without empty ends.
    pub fn text(&self) -> Arc<str> {
        format!("{}/{}/{}", self.region, self.zone, self.subzone).trim_end_matches('/').into()
    }
}

/// A workload's labels with those of its place.
pub fn labels(
    own: &Labels,
    locality: &Locality,
    node: Option<&str>,
    network: Option<&str>,
) -> Labels {
    let mut labels = own.clone();
    let mut set = |name: &str, value: &str| {
        if !value.is_empty() {
            labels.insert(name, value);
        }
    };
    set(REGION, &locality.region);
    set(ZONE, &locality.zone);
    set(SUBZONE, &locality.subzone);
    set(HOSTNAME, node.unwrap_or_default());
    set(NETWORK, network.unwrap_or_default());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_may_leave_out_or_star_its_parts() {
        let here = Locality::parse("eu/eu-1/rack-7");
        assert!(here.within("eu"));
        assert!(here.within("eu/*"));
        assert!(here.within("eu/eu-1/*"));
        assert!(here.within("*"));
        assert!(!here.within("eu/eu-2"));
        assert_eq!(&*here.text(), "eu/eu-1/rack-7");
        assert_eq!(&*Locality::parse("eu").text(), "eu");
    }
}
