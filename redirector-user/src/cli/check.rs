//! `redirector check`

use std::path::PathBuf;

use redirector_core::diag::{Diagnostic, Severity};
use serde::Serialize;

use super::config::Documents;
use super::{Common, Context, Exit, Failure, Output};
use crate::output::render;

/// Validates documents and says everything that is wrong or suspicious; touches nothing
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector check rules/
  kubectl get virtualservices -A -o yaml | redirector check -
  redirector check --output json rules.yaml | jq .errors

Exit code 1 when there is an error. Every code is explained in docs/diagnostics.md.")]
pub struct Args {
    /// Files, directories (every *.yaml, *.yml and *.json below), or - for standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Answer {
    diagnostics: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
    documents: usize,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let documents = Documents::read(&args.paths);
    let mut diagnostics = documents.diagnostics.clone();
    diagnostics.extend(documents.readings.iter().flat_map(|reading| reading.diagnostics.clone()));
    let count =
        |severity| diagnostics.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let answer = Answer { errors, warnings, documents: documents.count(), diagnostics };
    match common.output {
        Output::Json => context.print_json(&answer)?,
        Output::Text => {
            let style = context.style();
            let mut lines = &documents;
            let mut text = String::new();
            for diagnostic in &answer.diagnostics {
                text.push_str(&render(diagnostic, &mut lines, style));
            }
            text.push_str(&format!(
                "{}, {}, {}\n",
                counted(answer.documents, "document"),
                counted(errors, "error"),
                counted(warnings, "warning")
            ));
            context.print(&text)?;
        }
    }
    Ok(if errors > 0 { Exit::No } else { Exit::Fine })
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
