//! The page of results, docs/performance.md: every benchmark owns a block of it.

use anyhow::{Context, Result};

use crate::workspace::root;

/// Puts a benchmark's block into the page, in place of the one before or, when
/// there is none, at the end below `heading`.
pub fn write(benchmark: &str, heading: &str, text: &str) -> Result<()> {
    let begin = format!("<!-- bench {benchmark}: begin -->");
    let end = format!("<!-- bench {benchmark}: end -->");
    let path = root().join("docs/performance.md");
    let page = std::fs::read_to_string(&path).unwrap_or_else(|_| "# Performance\n".to_owned());
    let block = format!("{begin}\n\n{text}\n\n{end}");
    let page = match (page.find(&begin), page.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{block}{}", &page[..from], &page[to + end.len()..])
        }
        _ => format!("{}\n\n## {heading}\n\n{block}\n", page.trim_end()),
    };
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}
