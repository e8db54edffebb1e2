//! What an http rule does besides routing: redirects, faults, retries, mirrors.

use super::super::common;
use super::super::cursor::{At, Fields};
use super::super::route::destination;
use super::{headers, illegal, matching};
use crate::diag::codes::admission;

const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"];

const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

pub(super) fn check(fields: &Fields<'_>) {
    redirect(fields);
    direct_response(fields);
    rewrite(fields);
    retries(fields);
    fault(fields);
    mirrors(fields);
    cors(fields);
    if let Some(at) = fields.get("delegate") {
        at.fields(&["name", "namespace"]);
    }
}

fn redirect(fields: &Fields<'_>) {
    let Some(at) = fields.get("redirect") else { return };
    let Some(redirect) =
        at.fields(&["uri", "authority", "port", "derivePort", "scheme", "redirectCode"])
    else {
        return;
    };
    let set = |name: &str| redirect.get(name).is_some_and(|at| at.node.as_str() != Some(""));
    if !["uri", "authority", "port", "derivePort", "scheme"].into_iter().any(set) {
        illegal(&at, "a redirect changes the uri, the authority, the scheme or the port");
    }
    if let Some(at) = redirect.get("redirectCode")
        && at.integer().is_some_and(|code| code != 0 && !(300..=399).contains(&code))
    {
        illegal(&at, "redirectCode is not in the range 300 to 399");
    }
    if let Some(at) = redirect.get("scheme")
        && at.string().is_some_and(|scheme| !matches!(scheme, "" | "http" | "https"))
    {
        illegal(&at, "scheme is http or https");
    }
    if let Some(at) = redirect.get("port")
        && at.integer().is_some_and(|port| !(0..=65535).contains(&port))
    {
        illegal(&at, "port is not in the range 1 to 65535");
    }
}

fn status(at: &At<'_>) {
    if at.integer().is_some_and(|status| !(200..=600).contains(&status)) {
        illegal(at, "the status is not in the range 200 to 599");
    }
}

fn direct_response(fields: &Fields<'_>) {
    let Some(at) = fields.get("directResponse") else { return };
    let Some(response) = at.fields(&["status", "body"]) else { return };
    match response.get("status") {
        Some(at) => status(&at),
        None => illegal(&at, "a directResponse needs a status"),
    }
    let Some(body) = response.get("body").and_then(|at| at.fields(&["string", "bytes"])) else {
        return;
    };
    let size = ["string", "bytes"].into_iter().filter_map(|name| body.string(name)).map(str::len);
    match size.sum::<usize>() {
        0..=102_400 => {}
        102_401..=1_048_576 => body.at.complain(
            &admission::HTTP_WARNING,
            "a large directResponse slows the control plane down",
        ),
        _ => illegal(&body.at, "a directResponse has less than 1 MiB"),
    }
}

fn rewrite(fields: &Fields<'_>) {
    let Some(at) = fields.get("rewrite") else { return };
    let Some(rewrite) = at.fields(&["uri", "authority", "uriRegexRewrite"]) else { return };
    let set = |name: &str| rewrite.get(name).is_some_and(|at| at.node.as_str() != Some(""));
    if set("uri") && set("uriRegexRewrite") {
        illegal(&at, "a rewrite has uri or uriRegexRewrite, not both");
    }
    if !["uri", "authority", "uriRegexRewrite"].into_iter().any(set) {
        illegal(&at, "a rewrite changes the uri or the authority");
    }
    if let Some(at) = rewrite.get("uriRegexRewrite")
        && let Some(regex) = at.fields(&["match", "rewrite"])
    {
        if regex.text("match").is_empty() || regex.text("rewrite").is_empty() {
            illegal(&at, "uriRegexRewrite needs both match and rewrite");
        }
        if let Some(at) = regex.get("match")
            && let Some(text) = at.string()
            && !text.is_empty()
        {
            matching::regex(&at, text);
        }
    }
}

fn retries(fields: &Fields<'_>) {
    let Some(at) = fields.get("retries") else { return };
    let Some(retries) = at.fields(&[
        "attempts",
        "perTryTimeout",
        "retryOn",
        "retryRemoteLocalities",
        "retryIgnorePreviousHosts",
        "backoff",
    ]) else {
        return;
    };
    let attempts = retries.get("attempts").map_or(Some(0), |at| at.integer()).unwrap_or(1);
    if attempts < 0 {
        illegal(&at, "attempts cannot be negative");
    }
    let further = ["perTryTimeout", "retryOn", "retryRemoteLocalities"];
    if attempts == 0 && further.iter().any(|name| retries.get(name).is_some()) {
        illegal(&at, "retries are set up and switched off: attempts is 0");
    }
    common::duration(&retries, "perTryTimeout", false);
    common::duration(&retries, "backoff", false);
    if let Some(at) = retries.get("retryOn") {
        for condition in at.string().unwrap_or_default().split(',').filter(|c| !c.is_empty()) {
            let code = condition.parse::<u16>().is_ok_and(|code| (100..600).contains(&code));
            if !code && !RETRY_ON.contains(&condition) {
                illegal(&at, format!("\"{condition}\" is not a condition of retryOn"));
            }
        }
    }
}

/// A percentage with fractions, given as `{value: 0.1}`.
fn percentage(at: &At<'_>) {
    let Some(value) = at.fields(&["value"]).and_then(|fields| fields.get("value")?.number()) else {
        return;
    };
    if !(0.0..=100.0).contains(&value) || value > 0.0 && value < 0.0001 {
        illegal(at, format!("{value} is not a percentage: 0, or 0.0001 to 100"));
    }
}

fn fault(fields: &Fields<'_>) {
    let Some(at) = fields.get("fault") else { return };
    let Some(fault) = at.fields(&["delay", "abort"]) else { return };
    if fault.get("delay").is_none() && fault.get("abort").is_none() {
        illegal(&at, "a fault has a delay or an abort");
    }
    if let Some(delay) = fault
        .get("delay")
        .and_then(|at| at.fields(&["percent", "percentage", "fixedDelay", "exponentialDelay"]))
    {
        if let Some(at) = delay.get("percentage") {
            percentage(&at);
        }
        common::duration(&delay, "fixedDelay", false);
        if let Some(at) = delay.get("exponentialDelay") {
            illegal(&at, "exponentialDelay is not supported by Istio");
        }
    }
    let Some(at) = fault.get("abort") else { return };
    let Some(abort) = at.fields(&["percentage", "httpStatus", "grpcStatus", "http2Error"]) else {
        return;
    };
    if let Some(at) = abort.get("percentage") {
        percentage(&at);
    }
    if let Some(at) = abort.get("http2Error") {
        illegal(&at, "http2Error is not supported by Istio");
    } else if let Some(at) = abort.get("grpcStatus") {
        if at.string().is_some_and(|status| !GRPC.contains(&status)) {
            illegal(&at, "this is not the name of a gRPC status");
        }
    } else if let Some(at) = abort.get("httpStatus") {
        status(&at);
    } else {
        at.complain(&admission::HTTP_WARNING, "the abort names no status and does nothing");
    }
}

fn mirrors(fields: &Fields<'_>) {
    if let Some(at) = fields.get("mirror") {
        destination(&at);
    }
    for at in fields.items("mirrors") {
        let Some(mirror) = at.fields(&["destination", "percentage"]) else { continue };
        match mirror.get("destination") {
            Some(at) => _ = destination(&at),
            None => common::required(&mirror, "destination", "the destination of the mirror"),
        }
        if let Some(at) = mirror.get("percentage") {
            percentage(&at);
        }
    }
    for name in ["mirrorPercent", "mirror_percent"] {
        if let Some(at) = fields.get(name) {
            at.complain(&admission::DEPRECATED, format!("{name} is deprecated: mirrorPercentage"));
            if at.integer().is_some_and(|value| !(0..=100).contains(&value)) {
                illegal(&at, "a percentage is 0 to 100");
            }
        }
    }
    if let Some(at) = fields.get("mirrorPercentage") {
        percentage(&at);
    }
}

fn cors(fields: &Fields<'_>) {
    let Some(cors) = fields.get("corsPolicy").and_then(|at| {
        at.fields(&[
            "allowOrigin",
            "allowOrigins",
            "allowMethods",
            "allowHeaders",
            "exposeHeaders",
            "maxAge",
            "allowCredentials",
            "unmatchedPreflights",
        ])
    }) else {
        return;
    };
    for at in cors.items("allowOrigins") {
        let empty = ["exact", "prefix", "regex"]
            .into_iter()
            .all(|name| at.node.get(name).and_then(|n| n.as_str()).unwrap_or_default().is_empty());
        if empty {
            illegal(&at, "an allowed origin has an exact, prefix or regex that is not empty");
        } else {
            matching::string_match(&at, false);
        }
    }
    for at in cors.items("allowMethods") {
        if let Some(method) = at.string()
            && !METHODS.contains(&method)
        {
            illegal(&at, format!("\"{method}\" is not an HTTP method"));
        }
    }
    for list in ["allowHeaders", "exposeHeaders"] {
        for at in cors.items(list) {
            if let Some(name) = at.string()
                && name != "*"
                && !headers::is_name(name)
            {
                illegal(&at, format!("\"{name}\" is not the name of a header"));
            }
        }
    }
    if let Some(milliseconds) = common::duration(&cors, "maxAge", false)
        && milliseconds % 1000 != 0
    {
        illegal(&cors.place("maxAge"), "maxAge is a whole number of seconds");
    }
}
