//! `redirector check`

use std::collections::BTreeSet;
use std::path::PathBuf;

use redirector_core::check::{self, Report};
use redirector_core::diag::{Code, Diagnostic, Severity, codes, nearest, sarif};
use serde::Serialize;

use super::config::{Documents, SettingsArgs};
use super::{Common, Context, Exit, Failure, Format};
use crate::output::annotations::{github, line};
use crate::output::{Encoding, Lines, Style, plain, render};

/// Validates documents and says everything that is wrong or suspicious; touches nothing
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector check rules/
  kubectl get virtualservices -A -o yaml | redirector check -
  redirector check --output json rules.yaml | jq .errors
  redirector check --output sarif rules/ > redirector.sarif
  redirector check --strict --output github rules/ --with-cluster cluster.yaml
  redirector check --code RD3008

Exit code 1 when there is an error, with --strict also when there is a warning.
Every code is explained in docs/diagnostics.md.")]
pub struct Args {
    /// Files, directories (every *.yaml, *.yml and *.json below), or - for standard input
    #[arg(required_unless_present = "code", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Explains a code instead
    #[arg(long, value_name = "RD1234", conflicts_with = "paths")]
    code: Option<String>,
    /// Takes warnings for errors
    #[arg(long)]
    strict: bool,
    /// Documents that complete these (Services, Pods, ...) and are not themselves reported on
    #[arg(long, num_args = 1.., action = clap::ArgAction::Append, value_name = "PATH")]
    with_cluster: Vec<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    if let Some(id) = &args.code {
        if matches!(common.output, Format::Sarif | Format::Line | Format::Github) {
            return Err(Failure::new(Exit::Usage, "a code is explained as text, JSON or YAML"));
        }
        return explain(id, common, context);
    }
    if [&args.paths, &args.with_cluster].iter().all(|paths| paths.iter().any(|path| path == "-")) {
        return Err(Failure::new(Exit::Usage, "standard input is read once: - stands twice"));
    }
    let mut documents = Documents::read(&args.paths);
    let around = Documents::read(&args.with_cluster);
    let unreadable = [&documents.diagnostics[..], &around.diagnostics[..]].concat();
    let mut report = check::check(
        &documents.readings,
        &around.readings,
        &unreadable,
        &args.settings.settings(false),
    );
    if args.strict {
        report = report.strict();
    }
    if documents.texts.is_empty() && report.errors == 0 {
        context.note(&format!("note: there is no document in {}", places(&args.paths)));
    }
    documents.texts.extend(around.texts);
    let exit = if report.errors > 0 { Exit::No } else { Exit::Fine };
    let written = match common.output {
        Format::Sarif => {
            let log = sarif::log(&report.diagnostics, env!("CARGO_PKG_VERSION"));
            context.print_value(Encoding::Json, &log)
        }
        Format::Line | Format::Github => {
            let form = if common.output == Format::Line { line } else { github };
            let lines: String = report.diagnostics.iter().map(form).collect();
            // Beside what programs read, for the people who start them.
            context.print(&lines).inspect(|()| context.note(&summary(&report)))
        }
        _ => {
            let objects: BTreeSet<String> =
                report.diagnostics.iter().filter_map(Diagnostic::object_name).collect();
            context.answer_list(common, &report, objects, |style| text(&report, &documents, style))
        }
    };
    context.answered(written, exit)
}

fn text(report: &Report, documents: &Documents, style: Style) -> String {
    let mut lines = Lines::new(&documents.texts);
    let mut text = String::new();
    for diagnostic in &report.diagnostics {
        text.push_str(&render(diagnostic, &mut lines, style));
    }
    text.push_str(&summary(report));
    text.push('\n');
    text
}

fn summary(report: &Report) -> String {
    format!(
        "{}, {}, {}",
        counted(report.documents, "document"),
        counted(report.errors, "error"),
        counted(report.warnings, "warning")
    )
}

/// What was looked through in vain.
fn places(paths: &[PathBuf]) -> String {
    let names: Vec<String> =
        paths.iter().map(|path| plain(&path.display().to_string()).into_owned()).collect();
    format!("{}: files are read whose names end in .yaml, .yml or .json", names.join(", "))
}

/// The page of a code, for scripts.
#[derive(Serialize)]
struct Page {
    code: &'static str,
    severity: Severity,
    istio: Option<&'static str>,
    title: &'static str,
    meaning: &'static str,
    help: &'static str,
    example: &'static str,
}

impl Page {
    const fn of(code: &'static Code) -> Self {
        Self {
            code: code.id,
            severity: code.severity,
            istio: code.istio,
            title: code.title,
            meaning: code.meaning,
            help: code.mend,
            example: code.example,
        }
    }
}

/// Prints the page of a code.
fn explain(id: &str, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let Some(code) = codes::find(id) else {
        let near = nearest(id, codes::all().map(|code| code.id));
        let mut failure = Failure::new(Exit::Usage, format!("there is no code {id}"));
        failure.help = near.map(|near| format!("did you mean {near}?"));
        return Err(failure);
    };
    context.answer(common, &Page::of(code), |_| code.page())?;
    Ok(Exit::Fine)
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
