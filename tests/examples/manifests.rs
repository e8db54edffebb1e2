//! Writes the plain manifests of deploy/ out of the chart:
//! `cargo run -p redirector-tests --example manifests`. A test compares them.

use std::path::Path;

use redirector_tests::chart;
use serde_json::{Value, json};

const NAMESPACE: &str = "\
---
apiVersion: v1
kind: Namespace
metadata:
  name: redirector-system
  labels:
    # Its capabilities, and directories of the node: see docs/kubernetes.md.
    pod-security.kubernetes.io/enforce: privileged
";

/// The objects that `keep` wants, without what only Helm puts there.
fn text(values: &Value, keep: impl Fn(&str) -> bool) -> String {
    let rendered = chart::render(values);
    let mut text = String::new();
    for object in rendered.split("---\n").filter(|object| !object.trim().is_empty()) {
        let kind = object.lines().find_map(|line| line.strip_prefix("kind: "));
        if kind.is_some_and(&keep) {
            text.push_str("---\n");
            let lines = object.lines().filter(|line| {
                let line = line.trim_start();
                !line.starts_with("helm.sh/chart")
                    && !line.starts_with("app.kubernetes.io/managed-by")
            });
            lines.for_each(|line| text.push_str(&format!("{}\n", line.trim_end())));
        }
    }
    text
}

fn main() -> std::io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifests");
    let head = |what: &str| format!("# {what}\n# Written out of deploy/chart; edit that.\n");
    let agent = head("The agent: kubectl apply -f redirector.yaml");
    std::fs::write(
        directory.join("redirector.yaml"),
        agent + NAMESPACE + &text(&json!({}), |_| true),
    )?;
    let monitor = head("For the Prometheus operator.");
    let values = json!({ "podMonitor": { "enabled": true } });
    std::fs::write(
        directory.join("podmonitor.yaml"),
        monitor + &text(&values, |kind| kind == "PodMonitor"),
    )?;
    let crds = head("Definitions of the Istio kinds that are read, for clusters without Istio.");
    std::fs::write(
        directory.join("crds.yaml"),
        crds + &text(&json!({ "crds": true }), |kind| kind == "CustomResourceDefinition"),
    )
}
