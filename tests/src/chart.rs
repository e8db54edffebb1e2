//! The Helm chart, rendered: the part of Helm that the chart uses, which is Go
//! templates with five of Helm's functions, values over defaults, and their schema.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use gtmpl::{Context, FuncError, Template, Value as Go};
use serde_json::{Value, json};

use crate::apiserver::documents;

mod schema;

/// Where the chart lies.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of all objects that the chart makes in the release `redirector` in
/// the namespace `redirector-system`, with `values` over the defaults.
///
/// # Panics
/// When a template is not one, or uses what is not imitated here.
pub fn render(values: &Value) -> String {
    try_render(values).unwrap_or_else(|why| panic!("{why}"))
}

/// The same, or why the chart refuses these values.
///
/// # Errors
/// What the chart says.
///
/// # Panics
/// As [`render`].
pub fn try_render(values: &Value) -> Result<String, String> {
    let chart = directory();
    let about = &documents(&read(&chart.join("Chart.yaml")))[0];
    let mut all = documents(&read(&chart.join("values.yaml"))).remove(0);
    crate::apiserver::merge(&mut all, values);
    let types = read(&chart.join("values.schema.json"));
    let types: Value = serde_json::from_str(&types).expect("a schema is JSON");
    schema::check(&types, &types, "", &all)?;
    let scope = json!({
        "Values": all,
        "Chart": {
            "Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"],
        },
        "Release": {
            "Name": "redirector", "Namespace": "redirector-system", "Service": "Helm",
        },
    });
    let scope = Context::from(go(&scope));
    let templates = chart.join("templates");
    let helpers = read(&templates.join("_helpers.tpl"));
    let mut names: Vec<PathBuf> = std::fs::read_dir(&templates)
        .expect("the chart has templates")
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    names.sort();
    let mut whole = String::new();
    for name in names {
        let mut template = Template::default();
        template.add_func("default", default);
        template.add_func("fail", fail);
        template.add_func("nindent", nindent);
        template.add_func("quote", quote);
        template.add_func("toYaml", to_yaml);
        let text = format!("{helpers}{}", read(&name));
        template.parse(&text).unwrap_or_else(|error| panic!("{}: {error}", name.display()));
        let made = template.render(&scope);
        let made = made.map_err(|error| format!("{}: {error}", name.display()))?;
        if made.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            whole.push_str("---\n");
            whole.push_str(made.trim_start_matches(['\n', '-']).trim_end());
            whole.push('\n');
        }
    }
    Ok(whole)
}

/// The objects of that text.
pub fn objects(values: &Value) -> Vec<Value> {
    documents(&render(values))
}

fn go(value: &Value) -> Go {
    match value {
        Value::Null => Go::Nil,
        Value::Bool(b) => Go::Bool(*b),
        Value::Number(number) => match number.as_i64() {
            Some(i) => Go::from(i),
            None => Go::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Go::String(text.clone()),
        Value::Array(items) => Go::Array(items.iter().map(go).collect()),
        Value::Object(fields) => {
            let fields: HashMap<String, Go> =
                fields.iter().map(|(name, value)| (name.clone(), go(value))).collect();
            Go::Map(fields)
        }
    }
}

fn json_of(value: &Go) -> Value {
    match value {
        Go::Bool(b) => json!(b),
        Go::String(text) => json!(text),
        Go::Array(items) => Value::Array(items.iter().map(json_of).collect()),
        Go::Map(fields) | Go::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), json_of(value))).collect()
        }
        Go::Number(number) => {
            number.as_i64().map_or_else(|| json!(number.as_f64()), |number| json!(number))
        }
        _ => Value::Null,
    }
}

/// `fail WHY`: nothing is made.
fn fail(args: &[Go]) -> Result<Go, FuncError> {
    match args {
        [Go::String(why)] => Err(FuncError::Generic(why.clone())),
        _ => Err(FuncError::ExactlyXArgs("fail".into(), 1)),
    }
}

/// `default A B`: B, or A where B is empty.
fn default(args: &[Go]) -> Result<Go, FuncError> {
    match args {
        [fallback, value] => Ok(match value {
            Go::String(text) if text.is_empty() => fallback.clone(),
            Go::Nil | Go::NoValue | Go::Bool(false) => fallback.clone(),
            value => value.clone(),
        }),
        _ => Err(FuncError::ExactlyXArgs("default".into(), 2)),
    }
}

fn quote(args: &[Go]) -> Result<Go, FuncError> {
    let text = |value: &Go| match value {
        Go::String(text) => Value::String(text.clone()).to_string(),
        value => format!("\"{}\"", json_of(value)),
    };
    Ok(Go::String(args.iter().map(text).collect::<Vec<_>>().join(" ")))
}

/// A value as YAML.
fn to_yaml(args: &[Go]) -> Result<Go, FuncError> {
    match args {
        [value] => {
            let mut text = String::new();
            yaml(&json_of(value), 0, &mut text);
            Ok(Go::String(text.trim_end().to_owned()))
        }
        _ => Err(FuncError::ExactlyXArgs("toYaml".into(), 1)),
    }
}

/// Block style, as people read it: keys in order, lists under their key.
fn yaml(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    let inline = |value: &Value| match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                if inline(value) {
                    text.push_str(&format!("{pad}{name}: {value}\n"));
                } else {
                    text.push_str(&format!("{pad}{name}:\n"));
                    yaml(value, indent + 2, text);
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                if inline(item) {
                    text.push_str(&format!("{pad}- {item}\n"));
                } else {
                    let mut inner = String::new();
                    yaml(item, indent + 2, &mut inner);
                    text.push_str(&format!("{pad}- {}", inner.trim_start()));
                }
            }
        }
        value => text.push_str(&format!("{pad}{value}\n")),
    }
}

fn nindent(args: &[Go]) -> Result<Go, FuncError> {
    let (Some(Go::Number(width)), Some(Go::String(text)), 2) =
        (args.first(), args.get(1), args.len())
    else {
        return Err(FuncError::Generic("nindent: a number and a text are expected".into()));
    };
    let width = width.as_u64().and_then(|width| usize::try_from(width).ok()).unwrap_or(0);
    let pad = " ".repeat(width);
    let lines: Vec<String> = text.lines().map(|line| format!("{pad}{line}")).collect();
    Ok(Go::String(format!("\n{}", lines.join("\n"))))
}
