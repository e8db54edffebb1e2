//! The pages of results: every benchmark owns a block of one of them.

use anyhow::{Context, Result};

use crate::workspace::root;

/// Where most benchmarks have theirs.
pub const PERFORMANCE: &str = "docs/performance.md";

/// Puts a benchmark's block into a page, in place of the one before or, when
/// there is none, at the end below `heading`.
pub fn write(page: &str, benchmark: &str, heading: &str, text: &str) -> Result<()> {
    let begin = format!("<!-- bench {benchmark}: begin -->");
    let end = format!("<!-- bench {benchmark}: end -->");
    let path = root().join(page);
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    let block = format!("{begin}\n\n{text}\n\n{end}");
    let page = match (page.find(&begin), page.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{block}{}", &page[..from], &page[to + end.len()..])
        }
        _ => format!("{}\n\n## {heading}\n\n{block}\n", page.trim_end()),
    };
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}
