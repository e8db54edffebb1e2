//! What Helm does with `values.schema.json`: the part of JSON Schema that it uses.

use serde_json::Value;

/// What is wrong with a value at a path.
///
/// # Errors
/// The first thing.
///
/// # Panics
/// Where the schema has a keyword or a pattern that is not imitated here.
pub fn check(whole: &Value, schema: &Value, path: &str, value: &Value) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{path}: {what}: {value}"));
    for (keyword, wanted) in schema.as_object().expect("a schema") {
        let good = match keyword.as_str() {
            "$schema" | "definitions" | "properties" => true,
            "$ref" => {
                let pointer = wanted.as_str().and_then(|to| to.strip_prefix('#'));
                let to = whole.pointer(pointer.expect("a part of this schema"));
                check(whole, to.expect("it is there"), path, value)?;
                true
            }
            "type" => match wanted {
                Value::Array(any) => any.iter().any(|kind| is_of(kind, value)),
                kind => is_of(kind, value),
            },
            "enum" => wanted.as_array().expect("a list").contains(value),
            "minimum" => value.as_f64() >= wanted.as_f64(),
            "maximum" => value.as_f64() <= wanted.as_f64(),
            "minLength" => value.as_str().map(|text| text.len() as u64) >= wanted.as_u64(),
            "pattern" => value.as_str().is_some_and(|text| is_like(wanted, text)),
            "required" => {
                let has = |name: &Value| value.get(name.as_str().expect("a name")).is_some();
                wanted.as_array().expect("a list").iter().all(has)
            }
            "items" => {
                for (at, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(whole, wanted, &format!("{path}[{at}]"), item)?;
                }
                true
            }
            "additionalProperties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    let path = format!("{path}.{name}");
                    match (schema.get("properties").and_then(|known| known.get(name)), wanted) {
                        (Some(known), _) => check(whole, known, &path, value)?,
                        (None, Value::Bool(false)) => {
                            return Err(format!("{path}: there is no such setting"));
                        }
                        (None, others) => check(whole, others, &path, value)?,
                    }
                }
                true
            }
            other => panic!("the keyword {other} is not imitated here"),
        };
        if !good {
            return wrong(&format!("{keyword} {wanted}"));
        }
    }
    Ok(())
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        other => panic!("the type {other} is not imitated here"),
    }
}

fn is_like(pattern: &Value, text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|one| one.is_ascii_digit());
    match pattern.as_str().expect("a pattern") {
        "^/" => text.starts_with('/'),
        "^[0-9]+-[0-9]+$" => text.split_once('-').is_some_and(|(a, b)| digits(a) && digits(b)),
        "^[A-Z][A-Z_]*$" => {
            text.starts_with(|first: char| first.is_ascii_uppercase())
                && text.bytes().all(|one| one.is_ascii_uppercase() || one == b'_')
        }
        other => panic!("the pattern {other} is not imitated here"),
    }
}
