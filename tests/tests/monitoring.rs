//! What is made of the metrics, held to the list of families: the dashboard, the
//! alerts and the queries in docs/ name no series and no label that nobody exports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use promql_parser::label::Matchers;
use promql_parser::parser::{BinModifier, Expr, LabelModifier, VectorSelector};
use redirector::daemon::metrics::families::{FAMILIES, Family, Kind, PREFIX};
use serde_json::Value;

type Labels = BTreeSet<String>;

/// What a scrape adds to each series.
const SCRAPED: [&str; 4] = ["instance", "job", "namespace", "pod"];

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The labels of a series of this name, when anybody exports it.
fn labels_of(series: &str) -> Option<Labels> {
    let found = |labels: &[&str], le: bool| {
        let le = le.then_some("le");
        let all = labels.iter().copied().chain(SCRAPED).chain(le);
        Some(all.map(str::to_owned).collect())
    };
    // Prometheus' own: whether a scrape was answered.
    if series == "up" {
        return found(&[], false);
    }
    FAMILIES.iter().find_map(|Family { name, kind, labels, .. }| {
        let rest = series.strip_prefix(PREFIX)?.strip_prefix(name)?;
        match (kind, rest) {
            (Kind::Histogram, "_bucket") => found(labels, true),
            (Kind::Histogram, "_sum" | "_count") => found(labels, false),
            (Kind::Gauge | Kind::Counter, "") => found(labels, false),
            _ => None,
        }
    })
}

/// The labels that the results of an expression have, or what is wrong with it.
fn result_of(expression: &Expr) -> Result<Labels, String> {
    match expression {
        Expr::VectorSelector(selector) => selected(selector),
        Expr::MatrixSelector(matrix) => selected(&matrix.vs),
        Expr::Subquery(query) => result_of(&query.expr),
        Expr::Paren(inner) => result_of(&inner.expr),
        Expr::Unary(inner) => result_of(&inner.expr),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(Labels::new()),
        Expr::Aggregate(aggregate) => {
            let inner = result_of(&aggregate.expr)?;
            match &aggregate.modifier {
                None => Ok(Labels::new()),
                Some(LabelModifier::Include(by)) => known(&by.labels, &inner),
                Some(LabelModifier::Exclude(without)) => {
                    let without = known(&without.labels, &inner)?;
                    Ok(inner.difference(&without).cloned().collect())
                }
            }
        }
        Expr::Call(call) => {
            let mut all = Labels::new();
            for argument in &call.args.args {
                all.extend(result_of(argument)?);
            }
            match call.func.name {
                "histogram_quantile" if !all.remove("le") => {
                    Err("a quantile of what has no buckets".to_owned())
                }
                "absent" | "vector" | "scalar" => Ok(Labels::new()),
                _ => Ok(all),
            }
        }
        Expr::Binary(binary) => {
            let (left, right) = (result_of(&binary.lhs)?, result_of(&binary.rhs)?);
            if let Some(BinModifier { card, matching, .. }) = &binary.modifier {
                if let Some(LabelModifier::Include(on)) = matching {
                    known(&on.labels, &left)?;
                    known(&on.labels, &right)?;
                }
                if let Some(more) = card.labels() {
                    known(&more.labels, &left.union(&right).cloned().collect())?;
                }
            }
            Ok(if left.is_empty() { right } else { left })
        }
        Expr::Extension(_) => Err("not PromQL".to_owned()),
    }
}

/// These labels, if there are such.
fn known(wanted: &[String], there: &Labels) -> Result<Labels, String> {
    match wanted.iter().find(|label| !there.contains(*label)) {
        Some(unknown) => Err(format!("there is no label {unknown} among {there:?}")),
        None => Ok(wanted.iter().cloned().collect()),
    }
}

fn selected(selector: &VectorSelector) -> Result<Labels, String> {
    let name = selector.name.as_deref().ok_or("a selector without a name")?;
    let labels = labels_of(name).ok_or_else(|| format!("nobody exports {name}"))?;
    let Matchers { matchers, or_matchers } = &selector.matchers;
    let all = matchers.iter().chain(or_matchers.iter().flatten());
    known(&all.map(|matcher| matcher.name.clone()).collect::<Vec<_>>(), &labels)?;
    Ok(labels)
}

/// The labels of the results of a query.
fn query(text: &str) -> Result<Labels, String> {
    let text = text.replace("$__rate_interval", "5m");
    promql_parser::parser::parse(&text)
        .and_then(|parsed| result_of(&parsed))
        .map_err(|error| format!("{text}: {error}"))
}

/// The words in double braces: `{{ $labels.map }}` after `prefix`, and
/// `{{instance}}` without one.
fn templated<'t>(text: &'t str, prefix: &str) -> Vec<&'t str> {
    let inner = text.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim()));
    inner.filter_map(|word| word.strip_prefix(prefix)).collect()
}

#[test]
fn queries_that_name_what_does_not_exist_are_found_out() {
    let right = [
        "redirector_handshake_seconds_count",
        "histogram_quantile(0.5, sum by (le) (rate(redirector_handshake_seconds_bucket[1m])))",
        "sum by (route) (redirector_refused_total) / on (route) sum by (route) \
         (redirector_refused_total)",
    ];
    for text in right {
        assert!(query(text).is_ok(), "{:?}", query(text));
    }
    let wrong = [
        "redirector_handshake_seconds",
        "redirector_connections_totals",
        "redirector_connections_total{workload=\"a\"}",
        "sum by (endpoint) (redirector_connections_total)",
        "sum without (endpoint) (redirector_connections_total)",
        "sum(redirector_connections_total",
        "histogram_quantile(0.5, sum(rate(redirector_handshake_seconds_bucket[1m])))",
        "redirector_apply_failed and on (map) redirector_map_fill_ratio",
        "sum(rate(redirector_refused_total))",
    ];
    for text in wrong {
        assert!(query(text).is_err(), "{text}");
    }
}

#[test]
fn the_dashboard_shows_only_what_is_exported_and_all_families_that_are_worth_it() {
    let text = file("deploy/grafana/redirector.json");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let mut places: BTreeMap<(i64, i64), &str> = BTreeMap::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a title");
        let place = &panel["gridPos"];
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|of| place[of].as_i64().expect("a number"));
        assert!(x + w <= 24, "{title}");
        for cell in (y..y + h).flat_map(|y| (x..x + w).map(move |x| (x, y))) {
            let other = places.insert(cell, title);
            assert_eq!(other, None, "{title} lies over it");
        }
        let targets = panel["targets"].as_array();
        assert!(panel["type"] == "row" || targets.is_some_and(|all| !all.is_empty()), "{title}");
        for target in targets.into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            let labels = query(expression).unwrap_or_else(|error| panic!("{title}: {error}"));
            for label in templated(target["legendFormat"].as_str().unwrap_or_default(), "") {
                assert!(labels.contains(label), "{title}: the legend has no {label}");
            }
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().expect("annotations") {
        query(annotation["expr"].as_str().expect("an expression")).expect("it is right");
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        let Some(definition) = variable["definition"].as_str() else { continue };
        assert_eq!(variable["query"]["query"], definition);
        let inner = definition.strip_prefix("label_values(").and_then(|d| d.strip_suffix(')'));
        let (series, label) = inner.and_then(|d| d.split_once(", ")).expect("series and label");
        assert!(query(series).is_ok_and(|labels| labels.contains(label)), "{definition}");
    }
    // What is told by others of the same kind, or matters to nobody at night.
    let left_out = ["build_info", "config_age_seconds", "config_warnings", "tables_fixed"];
    let others = [
        "policy_connections",
        "gateway_destination_active",
        "pods_foreseen_total",
        "remembered_connections",
        "names",
        "oldest_kept_answer_seconds",
        "name_addresses",
        "name_unresolved",
        "name_answer_age_seconds",
    ];
    let bytes = ["gateway_sent_bytes_total", "gateway_received_bytes_total"];
    for family in FAMILIES {
        let told = [&left_out[..], &others, &bytes].concat().contains(&family.name);
        let shown = text.contains(&format!("{PREFIX}{}", family.name));
        assert_eq!(shown, !told, "{} is on the dashboard, or left out for a reason", family.name);
    }
}

#[test]
fn every_alert_is_about_what_is_exported_and_has_its_entry_in_the_page_for_the_night() {
    let rules: Value = serde_yaml::from_str(&file("deploy/prometheus/rules.yaml")).expect("YAML");
    let page = file("docs/operations.md");
    let mut names = BTreeSet::new();
    for group in rules["groups"].as_array().expect("groups") {
        for rule in group["rules"].as_array().expect("rules") {
            let name = rule["alert"].as_str().expect("an alert");
            assert!(names.insert(name), "{name} is there twice");
            let labels = query(rule["expr"].as_str().expect("an expression"));
            let labels = labels.unwrap_or_else(|error| panic!("{name}: {error}"));
            let summary = rule["annotations"]["summary"].as_str().expect("a summary");
            for label in templated(summary, "$labels.") {
                assert!(labels.contains(label), "{name}: its summary has no {label}");
            }
            let severity = rule["labels"]["severity"].as_str().expect("a severity");
            assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
            let command = rule["annotations"]["command"].as_str().expect("a command");
            let entry = page.split(&format!("\n### {name}\n")).nth(1);
            let entry =
                entry.unwrap_or_else(|| panic!("{name} has no entry in docs/operations.md"));
            let entry = entry.split("\n##").next().unwrap_or_default();
            let typed = entry.contains(&format!("$ {command}")) || entry.contains("](#");
            assert!(typed, "{name}: its entry has no `{command}`:\n{entry}");
        }
    }
    let entries = page.lines().filter_map(|line| line.strip_prefix("### Redirector"));
    for entry in entries {
        assert!(names.contains(&*format!("Redirector{entry}")), "{entry} is no alert");
    }
    assert!(names.len() >= 15, "{names:?}");
}

#[test]
fn the_page_about_metrics_has_every_family_and_queries_that_are_right() {
    let page = file("docs/metrics.md");
    for family in FAMILIES {
        let row = format!("| `{PREFIX}{}` | {} |", family.name, family.kind.name());
        let row = page.lines().find(|line| line.starts_with(&row));
        let row = row.unwrap_or_else(|| panic!("{} is not in docs/metrics.md", family.name));
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        assert_eq!(row.split('|').nth(3).map(str::trim), Some(&*labels.join(", ")), "{row}");
    }
    let rows = page.lines().filter(|line| line.starts_with(&format!("| `{PREFIX}"))).count();
    assert_eq!(rows, FAMILIES.len(), "rows of families that nobody exports");
    let queries: Vec<&str> = page.split("```promql\n").skip(1).collect();
    assert!(queries.len() >= 3);
    for text in queries {
        let text = text.split("```").next().unwrap_or_default();
        query(text).expect("it is right");
    }
}
