//! `loadBalancer` of a traffic policy.

use std::collections::{BTreeMap, BTreeSet};

use super::common;
use super::cursor::{At, Fields};
use crate::diag::Diagnostic;
use crate::diag::codes::{admission, differences, l7};
use crate::model::annotations::{HOSTNAME, NETWORK, REGION, SUBZONE, ZONE};
use crate::model::{LbAlgorithm, LoadBalancer, LocalitySetting};

const SIMPLE: [&str; 6] =
    ["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"];

/// The labels that say where a node is.
const PLACE: [&str; 5] = [NETWORK, REGION, ZONE, SUBZONE, HOSTNAME];

pub(super) fn load_balancer(at: &At<'_>, outlier: bool) -> Option<LoadBalancer> {
    let fields = at.fields(&[
        "simple",
        "consistentHash",
        "localityLbSetting",
        "warmupDurationSecs",
        "warmup",
    ])?;
    let simple = fields.get("simple").and_then(|at| {
        Some(match at.one_of(&SIMPLE)? {
            1 | 5 => LbAlgorithm::LeastRequest,
            2 => LbAlgorithm::Random,
            3 => LbAlgorithm::Passthrough,
            4 => LbAlgorithm::RoundRobin,
            _ => LbAlgorithm::Unspecified,
        })
    });
    if simple == Some(LbAlgorithm::Passthrough) {
        fields.place("simple").complain(
            &differences::NOT_DIALLED,
            "PASSTHROUGH sends the connection on to the address dialled: endpoints and subsets \
             do not count",
        );
    }
    let hash = fields.get("consistentHash").and_then(|at| consistent_hash(&at));
    if fields.get("simple").is_some() && fields.get("consistentHash").is_some() {
        at.complain(
            &admission::BAD_LOAD_BALANCER,
            "simple and consistentHash exclude each other: keep one",
        );
    }
    common::duration(&fields, "warmupDurationSecs", false);
    warmup(&fields);
    for at in ["warmup", "warmupDurationSecs"].iter().filter_map(|name| fields.get(name)) {
        at.complain(
            &l7::IGNORED_POLICY,
            "a new endpoint has its whole share at once: there is no warmup",
        );
    }
    Some(LoadBalancer {
        algorithm: hash.or(simple),
        locality: fields.get("localityLbSetting").and_then(|at| locality(&at, outlier)),
    })
}

fn warmup(fields: &Fields<'_>) {
    let Some(warmup) = fields
        .get("warmup")
        .and_then(|at| at.fields(&["duration", "minimumPercent", "aggression"]))
    else {
        return;
    };
    if warmup.get("duration").is_none() {
        common::required(&warmup, "duration", "the duration of the warmup");
    }
    common::duration(&warmup, "duration", false);
    for (name, least, most) in [("minimumPercent", 0.0, 100.0), ("aggression", 1.0, f64::MAX)] {
        if let Some(at) = warmup.get(name)
            && at.number().is_some_and(|value| !(least..=most).contains(&value))
        {
            at.complain(&admission::BAD_NUMBER, format!("{name} is out of range"));
        }
    }
}

fn consistent_hash(at: &At<'_>) -> Option<LbAlgorithm> {
    let fields = at.fields(&[
        "httpHeaderName",
        "httpCookie",
        "useSourceIp",
        "httpQueryParameterName",
        "ringHash",
        "maglev",
        "minimumRingSize",
    ])?;
    let code = &admission::BAD_LOAD_BALANCER;
    let keys: Vec<&str> = ["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"]
        .into_iter()
        .filter(|name| fields.get(name).is_some())
        .collect();
    if keys.len() > 1 {
        at.complain(code, format!("{} exclude each other: keep one", keys.join(" and ")));
    }
    if fields.get("ringHash").is_some() && fields.get("maglev").is_some() {
        at.complain(code, "ringHash and maglev exclude each other: keep one");
    }
    if let Some(cookie) =
        fields.get("httpCookie").and_then(|at| at.fields(&["name", "path", "ttl", "attributes"]))
        && cookie.text("name").is_empty()
    {
        common::required(&cookie, "name", "the name of the cookie");
    }
    let minimum = fields.get("minimumRingSize").and_then(|at| ring_size(&at)).unwrap_or(0);
    if minimum != 0 {
        fields.place("minimumRingSize").report(
            Diagnostic::new(&admission::DEPRECATED, "minimumRingSize is deprecated here")
                .help("write ringHash: {minimumRingSize: ...}"),
        );
        if fields.get("ringHash").is_some() || fields.get("maglev").is_some() {
            fields
                .place("minimumRingSize")
                .complain(code, "minimumRingSize excludes ringHash and maglev");
        }
    }
    let ring = fields
        .get("ringHash")
        .and_then(|at| at.fields(&["minimumRingSize"])?.get("minimumRingSize"))
        .and_then(|at| ring_size(&at));
    let maglev = fields.get("maglev").and_then(|at| {
        let table = at.fields(&["tableSize"])?;
        let size = table.get("tableSize").map_or(Some(0), |at| at.integer())?;
        let place = table.place("tableSize");
        if size == 0 {
            place.complain(code, "maglev needs a tableSize");
        } else if size >= 5_000_011 {
            place.complain(code, format!("tableSize {size} is too large: less than 5000011"));
        } else if !is_prime(size) {
            place.report(
                Diagnostic::new(code, format!("tableSize {size} is not a prime number"))
                    .help("65537 is one"),
            );
        }
        u64::try_from(size).ok()
    });
    for name in keys.iter().filter(|name| **name != "useSourceIp") {
        fields.place(name).complain(
            &l7::IGNORED_POLICY,
            format!("a hash of {name} only means something at L7: endpoints are drawn at random"),
        );
    }
    if fields.flag("useSourceIp") {
        fields.place("useSourceIp").complain(
            &differences::SOURCE_HASH,
            "a local client is hashed by its workload, at a gateway by its address",
        );
    }
    match keys.first() {
        None => None,
        Some(&"useSourceIp") => fields.flag("useSourceIp").then_some(LbAlgorithm::SourceIp {
            maglev,
            ring: ring.or((minimum != 0).then_some(minimum)),
        }),
        Some(name) => Some(LbAlgorithm::L7Hash((*name).to_owned())),
    }
}

fn ring_size(at: &At<'_>) -> Option<u64> {
    let value = at.integer()?;
    let size = u64::try_from(value).ok();
    if size.is_none() {
        at.complain(&admission::BAD_NUMBER, format!("minimumRingSize {value} is negative"));
    }
    size
}

fn is_prime(n: i64) -> bool {
    n == 2 || n > 2 && n % 2 != 0 && (3..).step_by(2).take_while(|d| d * d <= n).all(|d| n % d != 0)
}

fn locality(at: &At<'_>, outlier: bool) -> Option<LocalitySetting> {
    let fields = at.fields(&["distribute", "failover", "failoverPriority", "enabled"])?;
    let code = &admission::BAD_LOCALITY;
    let mut setting = LocalitySetting {
        enabled: fields.get("enabled").and_then(|at| at.bool()),
        failover_priority: fields.strings("failoverPriority"),
        ..LocalitySetting::default()
    };
    let (distribute, failover) = (fields.items("distribute"), fields.items("failover"));
    if !distribute.is_empty() && !failover.is_empty() {
        at.complain(code, "distribute and failover exclude each other");
    }
    let topology = [REGION, ZONE, SUBZONE];
    if !failover.is_empty()
        && let Some(label) =
            setting.failover_priority.iter().find(|label| topology.contains(&label.as_str()))
    {
        fields
            .place("failoverPriority")
            .complain(code, format!("failover excludes {label} in failoverPriority"));
    }
    for (index, label) in setting.failover_priority.iter().enumerate() {
        if !label.contains('=') && !PLACE.contains(&label.as_str()) {
            let places = fields.items("failoverPriority");
            places.get(index).unwrap_or(at).report(
                Diagnostic::new(
                    &differences::OWN_LABEL,
                    format!("the label {label} of the client is not looked at"),
                )
                .help(format!("write the value that is preferred: {label}=...")),
            );
        }
    }
    let mut from = Vec::new();
    for at in &distribute {
        let Some(fields) = at.fields(&["from", "to"]) else { continue };
        let source = fields.text("from");
        from.push((source.clone(), fields.place("from")));
        setting.distribute.push((source, shares(&fields)));
    }
    overlapping(&from);
    if (!failover.is_empty() || !setting.failover_priority.is_empty()) && !outlier {
        let name = if failover.is_empty() { "failoverPriority" } else { "failover" };
        fields.place(name).report(
            Diagnostic::new(
                &admission::FAILOVER_WITHOUT_OUTLIER,
                "without outlierDetection traffic never fails over",
            )
            .help("add outlierDetection: beside loadBalancer:"),
        );
    }
    for at in &failover {
        let Some(fields) = at.fields(&["from", "to"]) else { continue };
        let (source, target) = (fields.text("from"), fields.text("to"));
        if source == target {
            at.complain(code, format!("failover goes from \"{source}\" to itself"));
        }
        for (name, region) in [("from", &source), ("to", &target)] {
            if region.contains(['/', '*']) {
                fields.place(name).complain(
                    code,
                    format!("\"{region}\" is not a region: failover takes no zones or wildcards"),
                );
            }
        }
        setting.failover.push((source, target));
    }
    Some(setting)
}

/// `to` of a distribution: percentages that sum to 100.
fn shares(fields: &Fields<'_>) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    let mut places = Vec::new();
    let code = &admission::BAD_LOCALITY;
    let Some(to) = fields.get("to").and_then(|at| at.any_fields()) else {
        fields.place("to").complain(code, "the shares sum to 0, not to 100");
        return shares;
    };
    let mut total: i64 = 0;
    for (locality, at) in to.entries() {
        let Some(share) = at.integer() else { continue };
        total = total.saturating_add(share);
        match u32::try_from(share) {
            Ok(fits @ 1..=100) => {
                places.push((locality.to_owned(), at));
                shares.insert(locality.to_owned(), fits);
            }
            _ => at.complain(code, format!("the share {share} is not in the range 1 to 100")),
        }
    }
    if total != 100 {
        fields.place("to").complain(code, format!("the shares sum to {total}, not to 100"));
    }
    overlapping(&places);
    shares
}

/// Complains of localities that are none, or that cover one another.
fn overlapping(localities: &[(String, At<'_>)]) {
    let code = &admission::BAD_LOCALITY;
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (locality, at) in localities {
        let stars = locality.matches('*').count();
        if stars > 1 || stars == 1 && !locality.ends_with('*') {
            at.complain(
                code,
                format!("\"{locality}\": a locality has one wildcard at most, at its end"),
            );
            continue;
        }
        if locality.splitn(3, '/').any(str::is_empty) {
            at.complain(code, format!("\"{locality}\" has an empty region, zone or subzone"));
            continue;
        }
        let base = |text: &str| text.trim_end_matches('*').trim_end_matches('/').to_owned();
        let (this, mine) = (base(locality), locality.as_str());
        let covers = |outer: &str, inner: &str| {
            outer.is_empty() || inner == outer || inner.starts_with(&format!("{outer}/"))
        };
        if let Some(other) =
            seen.iter().find(|other| covers(&base(other), &this) || covers(&this, &base(other)))
        {
            at.complain(code, format!("\"{mine}\" overlaps \"{other}\""));
        }
        seen.insert(mine);
    }
}
