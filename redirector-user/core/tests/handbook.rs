//! docs/diagnostics.md: the catalogue of codes, as a page.

use std::path::Path;

use redirector_core::diag::Code;
use redirector_core::diag::codes::{GROUPS, all};

/// All pages, as docs/diagnostics.md.
fn handbook() -> String {
    let mut text = "\
# Diagnostics

Every finding of `redirector check`, and every reason for which the daemon leaves an object out,
has a code. A code never changes its meaning. `redirector check --code RD3008` prints one of these
pages.

*error*: the object is refused; Istio's admission would refuse it too, or it cannot be honoured
here. *warning*: the object is taken, and something about it will surprise. *info*: worth knowing.

This file is generated from the catalogue in the code; a test keeps the two equal.

| code | severity | Istio | title |
|---|---|---|---|
"
    .to_owned();
    for code in all() {
        let row = format!(
            "| [{id}](#{anchor}) | {severity} | {istio} | {title} |\n",
            id = code.id,
            anchor = anchor(code),
            severity = code.severity.as_str(),
            istio = code.istio.unwrap_or(""),
            title = code.title.replace('|', "\\|"),
        );
        text.push_str(&row);
    }
    for (title, group) in GROUPS {
        text.push_str(&format!("\n## {title}\n"));
        for code in group {
            text.push('\n');
            text.push_str(&code.page());
        }
    }
    text
}

/// The anchor that Markdown gives to a page's heading.
fn anchor(code: &Code) -> String {
    format!("{} {}", code.id, code.title)
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Run with REDIRECTOR_BLESS=1 to write the file.
#[test]
fn the_handbook_in_docs_is_the_one_in_the_code() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/diagnostics.md");
    if std::env::var_os("REDIRECTOR_BLESS").is_some() {
        std::fs::write(&file, handbook()).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == handbook(),
        "docs/diagnostics.md is out of date: run this test with REDIRECTOR_BLESS=1"
    );
}
