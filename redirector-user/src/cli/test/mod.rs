//! `redirector test`

mod junit;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use redirector_core::expect::{self, Difference, Outcome, Suite};
use redirector_core::registry::Registry;
use redirector_core::world::World;
use redirector_core::{documents, yaml};
use serde::Serialize;

use super::config::{Documents, SettingsArgs};
use super::{Common, Context, Exit, Failure, Format, explain};
use crate::output::{Lines, Style, plain, render};
use crate::source::files::read_all;

/// Compares what connections get with what is expected of them, on the documents alone
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector test routing-tests.yaml --config rules/ cluster.yaml
  redirector test tests/ --config rules/ --output junit > redirector.xml
  redirector test tests/ --config rules/ --output json | jq .failed

A test names who connects, where to, and what is expected: the rule, the shares,
the endpoints, that it is refused or passed through. docs/routing-tests.md has
the form. Nothing is loaded and no privilege is needed. Exit code 1 when a test
fails, 2 when a file cannot be read as tests.")]
pub struct Args {
    /// Files with tests, directories (every *.yaml, *.yml and *.json below), or - for standard
    /// input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The documents that decide: files and directories; needed unless the tests name their own
    #[arg(long, num_args = 1.., action = clap::ArgAction::Append, value_name = "PATH")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// The answer for scripts.
#[derive(Serialize)]
struct Answer {
    tests: Vec<Outcome>,
    passed: usize,
    failed: usize,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let suites = suites(&args.files, context)?;
    // Suites that name the same documents share their World.
    let mut worlds: BTreeMap<Vec<PathBuf>, (World, Registry)> = BTreeMap::new();
    let mut tests = Vec::new();
    for suite in &suites {
        let paths = paths(suite, &args.config)?;
        if !worlds.contains_key(&paths) {
            let documents = Documents::read(&paths);
            documents.insist(context)?;
            documents.note_refused(context);
            let world = documents.world(args.settings.settings(false));
            let registry = Registry::new(&world);
            worlds.insert(paths.clone(), (world, registry));
        }
        if let Some((world, registry)) = worlds.get(&paths) {
            tests.extend(suite.run(world, registry));
        }
    }
    let passed = tests.iter().filter(|test| test.passed).count();
    let answer = Answer { passed, failed: tests.len() - passed, tests };
    let written = match common.output {
        Format::Junit => junit::report(&answer.tests)
            .map_err(|error| Failure::new(Exit::No, error))
            .and_then(|report| context.print(&report)),
        _ => context.answer(common, &answer, |style| text(&answer, style)),
    };
    context.answered(written, if answer.failed > 0 { Exit::No } else { Exit::Fine })
}

/// The tests of all files. A file that cannot be read as tests leaves none to be
/// run: whoever sees that the others passed would believe that all did.
fn suites(files: &[PathBuf], context: &mut Context<'_>) -> Result<Vec<Suite>, Failure> {
    let (texts, mut findings) = read_all(files, std::io::stdin().lock());
    let mut suites = Vec::new();
    for (name, bytes) in &texts {
        match yaml::decode_bytes(bytes) {
            Ok(text) => match expect::read(name, &text) {
                Ok(read) => suites.extend(read),
                Err(finding) => findings.push(*finding),
            },
            Err(error) => findings.push(documents::not_text(Some(name.clone()), error)),
        }
    }
    if findings.is_empty() && !suites.is_empty() {
        return Ok(suites);
    }
    let style = context.err_style();
    let mut lines = Lines::new(&texts);
    for finding in &findings {
        let finding = render(finding, &mut lines, style);
        context.note(finding.trim_end());
    }
    let none = match texts.first() {
        None => "there is no file with routing tests",
        Some(_) => "not all files can be read as routing tests: none was run",
    };
    Err(Failure::new(Exit::Usage, none))
}

/// The documents that decide the tests of a suite: those that all are given, and
/// its own, which are named relative to its file.
fn paths(suite: &Suite, all: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let beside = Path::new(&*suite.file).parent().unwrap_or(Path::new(""));
    let own = suite.config.iter().map(|path| beside.join(path));
    let paths: Vec<PathBuf> = all.iter().cloned().chain(own).collect();
    if paths.is_empty() {
        let message = format!("the tests in {} name no documents", plain(&suite.file));
        return Err(Failure::new(Exit::Usage, message)
            .help("add --config PATH, or a list `config:` beside `tests:`"));
    }
    Ok(paths)
}

/// The answer for people.
fn text(answer: &Answer, style: Style) -> String {
    let mut text = String::new();
    let mut file = None;
    for test in &answer.tests {
        if file != Some(&test.file) {
            file = Some(&test.file);
            let _ = writeln!(text, "{}", style.strong(plain(&test.file)));
        }
        if test.passed {
            let _ = writeln!(text, "  {}    {}", style.good("ok"), plain(&test.name));
            continue;
        }
        let place = style.faint(format!("{}:{}", plain(&test.file), test.line));
        let _ = writeln!(text, "  {}  {} ({place})", style.error("FAIL"), plain(&test.name));
        for difference in &test.differences {
            let _ = writeln!(text, "        {}", told(difference, test));
        }
        for explanation in &test.explanations {
            for line in explain::text(explanation, style).lines() {
                let _ = writeln!(text, "          {line}");
            }
        }
    }
    let count = answer.tests.len();
    let tests = if count == 1 { "1 test".to_owned() } else { format!("{count} tests") };
    let failed = format!("{} failed", answer.failed);
    let failed = if answer.failed > 0 { style.error(failed) } else { failed };
    let _ = writeln!(text, "{tests}, {failed}");
    text
}

/// A difference in words.
fn told(difference: &Difference, test: &Outcome) -> String {
    let Difference { expectation, destination, expected, got } = difference;
    // One name, several addresses.
    let at = destination.as_ref().filter(|_| test.explanations.len() > 1);
    let at = at.map(|address| format!(" at {address}")).unwrap_or_default();
    format!("{expectation}{at}: expected {}, got {}", plain(expected), plain(got))
}
