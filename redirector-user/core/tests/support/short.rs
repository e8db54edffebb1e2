//! Documents written short.

/// Writes documents out that are written short, each as
/// `Kind namespace/name {more of its metadata}: spec`, where the namespace and the metadata may
/// be left out and the spec may stand in the lines below. Everything else is left as it is.
pub fn written_out(text: &str) -> String {
    let lines = text.lines().map(|line| line_out(line).unwrap_or_else(|| format!("{line}\n")));
    lines.collect()
}

fn line_out(line: &str) -> Option<String> {
    let (kind, rest) = line.split_once(' ')?;
    let api = match kind {
        "Service" | "Pod" => "v1",
        "DestinationRule" | "Gateway" | "ServiceEntry" | "VirtualService" | "WorkloadEntry" => {
            "networking.istio.io/v1"
        }
        _ => return None,
    };
    let (name, more, spec) = match rest.split_once(" {") {
        Some((name, rest)) if !name.contains(':') => {
            let (more, spec) = rest.split_once("}:")?;
            (name, format!(", {more}"), spec)
        }
        _ => rest.split_once(':').map(|(name, spec)| (name, String::new(), spec))?,
    };
    let (namespace, name) = match name.split_once('/') {
        Some((namespace, name)) => (format!(", namespace: {namespace}"), name),
        None => (String::new(), name),
    };
    Some(format!(
        "---\napiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}{namespace}{more}}}\n\
         spec:{spec}\n"
    ))
}
