//! Answers for scripts.

use serde::Serialize;

/// The language of an answer for scripts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// JSON.
    Json,
    /// YAML (1.2, where `on` is a word) of the same shape.
    Yaml,
}

impl Encoding {
    /// A whole answer. JSON is indented where a person reads it, else on one line.
    pub fn answer(self, value: &impl Serialize, for_people: bool) -> Result<String, String> {
        match self {
            Self::Json if for_people => lines(serde_json::to_string_pretty(value)),
            Self::Json => lines(serde_json::to_string(value)),
            Self::Yaml => yaml(value),
        }
    }

    /// One of several answers that follow each other: a line of JSON, or a
    /// document of YAML.
    pub fn record(self, value: &impl Serialize) -> Result<String, String> {
        match self {
            Self::Json => lines(serde_json::to_string(value)),
            Self::Yaml => Ok(format!("---\n{}", yaml(value)?)),
        }
    }
}

fn lines(json: serde_json::Result<String>) -> Result<String, String> {
    json.map(|json| json + "\n").map_err(|error| error.to_string())
}

/// What JSON says, in YAML: by way of JSON, since the two differ about enums and
/// about keys that are no strings, and an answer has one shape.
fn yaml(value: &impl Serialize) -> Result<String, String> {
    let json = serde_json::to_string(value).map_err(|error| error.to_string())?;
    let value: serde_yaml::Value =
        serde_json::from_str(&json).map_err(|error| error.to_string())?;
    serde_yaml::to_string(&value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Serialize)]
    enum Either {
        One(u64),
        Other { share: f64 },
    }

    #[derive(Serialize)]
    struct Answer {
        zone: &'static str,
        by_number: BTreeMap<u32, Vec<Either>>,
        absent: Option<u8>,
    }

    fn answer() -> Answer {
        let either = vec![Either::One(u64::MAX), Either::Other { share: 0.8 }];
        // A string that looks like something else stays a string.
        Answer { zone: "7", by_number: [(7, either)].into(), absent: None }
    }

    #[test]
    fn yaml_has_the_shape_and_the_order_of_json() {
        let text = Encoding::Yaml.answer(&answer(), false).unwrap();
        let read: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(read, serde_json::to_value(answer()).unwrap(), "{text}");
        assert!(text.starts_with("zone: '7'\nby_number:\n  '7':\n"), "{text}");
    }

    #[test]
    fn records_follow_each_other() {
        let two = |encoding: Encoding| {
            let record = encoding.record(&answer()).unwrap();
            format!("{record}{record}")
        };
        assert_eq!(two(Encoding::Json).lines().count(), 2);
        assert_eq!(serde_yaml::Deserializer::from_str(&two(Encoding::Yaml)).count(), 2);
    }
}
