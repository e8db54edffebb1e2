//! What the server does not store, of the kinds that the agent writes: Events
//! and Leases. As strict as the real one, and in its words.

use serde_json::{Value, json};

use super::resource::Resource;
use super::respond::{Answer, details, failed};
use super::state::{Key, State};

/// The answer to an object that is not stored; `None` when it is. `update`:
/// there is one of its name.
pub fn refusal(
    state: &State,
    resource: &Resource,
    key: &Key,
    object: &Value,
    update: bool,
) -> Option<Answer> {
    if let Some(why) = mismatched(key, object) {
        return Some(failed(400, "BadRequest", &why, None));
    }
    if let Some(why) = unreadable(resource, object) {
        let kind = &resource.kind;
        let version = resource.versions.first().map(String::as_str).unwrap_or_default();
        let message =
            format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}");
        return Some(failed(400, "BadRequest", &message, None));
    }
    if !update && is_terminating(state, &key.namespace) {
        return Some(terminating(resource, key));
    }
    let version = &object["metadata"]["resourceVersion"];
    if update && resource.kind == "Lease" && version.as_str().is_none_or(str::is_empty) {
        let cause = invalid("metadata.resourceVersion", "0", "must be specified for an update");
        return Some(unprocessable(
            &resource.qualified(),
            &resource.plural,
            resource,
            key,
            &[cause],
        ));
    }
    let causes = match resource.kind.as_str() {
        "Event" => event(key, object),
        "Lease" => lease(key, object),
        _ => return None,
    };
    let kind = match resource.group.as_str() {
        "" => resource.kind.clone(),
        group => format!("{}.{group}", resource.kind),
    };
    (!causes.is_empty()).then(|| unprocessable(&kind, &resource.kind, resource, key, &causes))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// An object that says that it is another one than the path does.
fn mismatched(key: &Key, object: &Value) -> Option<String> {
    let meta = &object["metadata"];
    let (namespace, name) = (text(&meta["namespace"]), text(&meta["name"]));
    if !namespace.is_empty() && namespace != key.namespace {
        let why = "the namespace of the provided object does not match the namespace sent on the \
                   request";
        return Some(why.to_owned());
    }
    (!name.is_empty() && name != key.name).then(|| {
        format!("the name of the object ({name}) does not match the name on the URL ({})", key.name)
    })
}

/// What does not have the type of its field.
fn unreadable(resource: &Resource, object: &Value) -> Option<String> {
    let (texts, times): (&[&str], &[&str]) = match resource.kind.as_str() {
        "Event" => (
            &["/action", "/note", "/reason", "/reportingController", "/reportingInstance", "/type"],
            &["/eventTime", "/series/lastObservedTime"],
        ),
        "Lease" => (&["/spec/holderIdentity"], &["/spec/acquireTime", "/spec/renewTime"]),
        _ => return None,
    };
    for path in texts {
        let value = object.pointer(path).unwrap_or(&Value::Null);
        if !value.is_null() && !value.is_string() {
            let field = path.trim_start_matches('/').replace('/', ".");
            let kind = &resource.kind;
            return Some(format!(
                "json: cannot unmarshal {} into Go struct field {kind}.{field} of type string",
                if value.is_number() { "number" } else { "object" },
            ));
        }
    }
    times.iter().find_map(|path| match object.pointer(path)? {
        Value::Null => None,
        Value::String(time) if is_micro_time(time) => None,
        time => Some(format!(
            "parsing time {time} as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse it"
        )),
    })
}

/// A MicroTime has six digits behind the point: no fewer and no more.
fn is_micro_time(time: &str) -> bool {
    let shape = "dddd-dd-ddTdd:dd:dd.dddddd";
    let Some((moment, zone)) = time.split_at_checked(shape.len()) else { return false };
    let fits = moment.chars().zip(shape.chars()).all(|(is, shape)| match shape {
        'd' => is.is_ascii_digit(),
        other => is == other,
    });
    let offset = zone.len() == 6 && zone.starts_with(['+', '-']) && zone.get(3..4) == Some(":");
    fits && (zone == "Z" || offset)
}

fn is_terminating(state: &State, namespace: &str) -> bool {
    state.objects.iter().any(|(key, object)| {
        key.group.is_empty()
            && key.plural == "namespaces"
            && key.name == namespace
            && !object["metadata"]["deletionTimestamp"].is_null()
    })
}

fn terminating(resource: &Resource, key: &Key) -> Answer {
    let Key { namespace, name, .. } = key;
    let message = format!(
        "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because \
         it is being terminated",
        resource.qualified(),
    );
    let mut details = details(resource, Some(name));
    details["causes"] = json!([{
        "reason": "NamespaceTerminating",
        "message": format!("namespace {namespace} is being terminated"),
        "field": "metadata.namespace",
    }]);
    failed(403, "Forbidden", &message, Some(details))
}

/// What is wrong with a field.
struct Cause {
    field: &'static str,
    reason: &'static str,
    message: String,
}

fn required(field: &'static str) -> Cause {
    Cause { field, reason: "FieldValueRequired", message: "Required value".to_owned() }
}

/// `value` as the server shows it.
fn invalid(field: &'static str, value: &str, why: &str) -> Cause {
    let message = format!("Invalid value: {value}: {why}");
    Cause { field, reason: "FieldValueInvalid", message }
}

fn unprocessable(of: &str, kind: &str, resource: &Resource, key: &Key, causes: &[Cause]) -> Answer {
    let all: Vec<String> =
        causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    let all = match all.as_slice() {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    };
    let mut details = details(resource, Some(&key.name));
    details["kind"] = json!(kind);
    let cause = |Cause { field, reason, message }: &Cause| json!({ "reason": reason, "message": message, "field": field });
    details["causes"] = causes.iter().map(cause).collect();
    let message = format!("{of} \"{}\" is invalid: {all}", key.name);
    failed(422, "Invalid", &message, Some(details))
}

/// The name of an object: parts between points, of small letters, digits and
/// hyphens inside.
fn name(key: &Key, causes: &mut Vec<Cause>) {
    let part = |part: &str| {
        let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && outer(part.chars().next())
            && outer(part.chars().next_back())
    };
    let quoted = json!(key.name).to_string();
    if key.name.len() > 253 {
        causes.push(invalid("metadata.name", &quoted, "must be no more than 253 bytes"));
    }
    if !key.name.split('.').all(part) {
        let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                   characters, '-' or '.', and must start and end with an alphanumeric character";
        causes.push(invalid("metadata.name", &quoted, why));
    }
}

/// `prefix/name` or `name`, as those of labels.
fn is_qualified(value: &str) -> bool {
    let name = value.rsplit_once('/').map_or(value, |(_, name)| name);
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 63
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && outer(name.chars().next())
        && outer(name.chars().next_back())
}

/// An Event of `events.k8s.io/v1`.
fn event(key: &Key, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    name(key, &mut causes);
    let about = text(&object["regarding"]["namespace"]);
    let of_the_cluster = about.is_empty() && matches!(&*key.namespace, "default" | "kube-system");
    if about != key.namespace && !of_the_cluster {
        let quoted = json!(about).to_string();
        let why = "does not match event.namespace";
        causes.push(invalid("involvedObject.namespace", &quoted, why));
    }
    let controller = text(&object["reportingController"]);
    if controller.is_empty() {
        causes.push(required("reportingController"));
    }
    if !is_qualified(controller) {
        let quoted = json!(controller).to_string();
        let why = "name part must consist of alphanumeric characters, '-', '_' or '.', and must \
                   start and end with an alphanumeric character";
        causes.push(invalid("reportingController", &quoted, why));
    }
    for field in ["reportingInstance", "action", "reason"] {
        match text(&object[field]).len() {
            0 => causes.push(required(field)),
            1..=128 => {}
            _ => causes.push(invalid(field, "\"\"", "can have at most 128 characters")),
        }
    }
    if text(&object["note"]).len() > 1024 {
        causes.push(invalid("message", "\"\"", "can have at most 1024 characters"));
    }
    if !object["series"].is_null() {
        if object["series"]["count"].as_i64().is_none_or(|count| count < 2) {
            causes.push(invalid("series.count", "\"\"", "should be at least 2"));
        }
        if object["series"]["lastObservedTime"].is_null() {
            causes.push(required("series.lastObservedTime"));
        }
    }
    if object["eventTime"].is_null() {
        causes.push(required("eventTime"));
    }
    let kind = text(&object["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        causes.push(invalid("type", "\"\"", &format!("has invalid value: {kind}")));
    }
    for (field, shown) in [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("deprecatedSource", "source"),
    ] {
        if !object[field].is_null() {
            causes.push(invalid(shown, "\"\"", "needs to be unset"));
        }
    }
    causes
}

fn lease(key: &Key, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    name(key, &mut causes);
    let spec = &object["spec"];
    for (field, path, least, why) in [
        ("leaseDurationSeconds", "spec.leaseDurationSeconds", 1, "must be greater than 0"),
        ("leaseTransitions", "spec.leaseTransitions", 0, "must be greater than or equal to 0"),
    ] {
        let value = &spec[field];
        if !value.is_null() && value.as_i64().is_none_or(|value| value < least) {
            causes.push(invalid(path, &value.to_string(), why));
        }
    }
    causes
}
