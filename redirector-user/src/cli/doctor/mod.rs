//! `redirector doctor`

mod machine;

use std::path::PathBuf;

use redirector_core::check;
use redirector_core::world::Settings;
use serde::Serialize;

use super::config::Documents;
use super::kernel::KernelArgs;
use super::{Common, Context, Exit, Failure, status};
use crate::output::{Style, plain};

/// Looks at everything that has to hold, before and after installation, and says how to mend
/// what does not
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector doctor
  redirector doctor --config /etc/redirector --cgroup system.slice
  redirector doctor --output json | \\
      jq '.checks[] | select(.outcome == \"failed\")'

It changes nothing, and what it advises can be typed as it is. Exit code 0 when
everything holds, warnings or not; 1 when something does not; 3 when that is a
privilege or a part of the kernel, or when without privilege it cannot be told.")]
pub struct Args {
    /// Documents that are to be read: files or directories
    #[arg(long, num_args = 1.., action = clap::ArgAction::Append, value_name = "PATH")]
    config: Vec<PathBuf>,
    /// Cgroups that are to be served, as for `redirector run` [default: all, or those that are]
    #[arg(long, action = clap::ArgAction::Append, value_name = "CGROUP")]
    cgroup: Vec<PathBuf>,
    #[command(flatten)]
    kernel: KernelArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// Nothing failed, and everything could be told.
    fine: bool,
    /// Whether tables are loaded.
    loaded: bool,
    checks: Checks,
}

/// All that was looked at, in its order.
type Checks = Vec<Check>;

#[derive(Serialize)]
struct Check {
    check: String,
    outcome: Outcome,
    /// What was found.
    found: String,
    /// How to mend it.
    remedy: Option<String>,
    /// What it makes the exit code.
    #[serde(skip)]
    exit: Exit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Fine,
    Warning,
    Failed,
    /// It cannot be told.
    Unknown,
}

impl Check {
    fn new(check: impl Into<String>, outcome: Outcome, found: impl Into<String>) -> Self {
        let (check, found) = (check.into(), found.into());
        Self { check, outcome, found, remedy: None, exit: Exit::Fine }
    }

    fn fine(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(check, Outcome::Fine, found)
    }

    fn warning(
        check: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(check, Outcome::Warning, found) }
    }

    fn unknown(
        check: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { remedy, exit: Exit::Unable, ..Self::new(check, Outcome::Unknown, found) }
    }

    fn failed(check: impl Into<String>, failure: &Failure) -> Self {
        let (remedy, exit) = (failure.help.clone(), failure.exit);
        Self { remedy, exit, ..Self::new(check, Outcome::Failed, failure.message.clone()) }
    }
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let mut checks = Checks::new();
    machine::privilege(&mut checks);
    machine::kernel(&mut checks);
    machine::clock(&mut checks);
    let opened = args.kernel.open();
    let loaded = opened.is_ok();
    let served = match (&opened, args.cgroup.is_empty()) {
        (Ok(_), true) => args.kernel.report().report.cgroups,
        _ => args.cgroup.clone(),
    };
    drop(opened);
    machine::cgroups(&served, loaded, &mut checks);
    machine::places(&args.kernel, &mut checks);
    documents(&args.config, &mut checks);
    in_force(args, &mut checks, context);
    let exits: Vec<Exit> = checks.iter().map(|check| check.exit).collect();
    let exit = [Exit::Unable, Exit::No].into_iter().find(|exit| exits.contains(exit));
    let answer = Answer { fine: exit.is_none(), loaded, checks };
    let names = answer.checks.iter().map(|check| &check.check);
    let written = context.answer_list(common, &answer, names, |style| text(&answer, style));
    context.answered(written, exit.unwrap_or(Exit::Fine))
}

/// The documents that are to be read.
fn documents(paths: &[PathBuf], checks: &mut Checks) {
    if paths.is_empty() {
        return;
    }
    let read = Documents::read(paths);
    let report = check::check(&read.readings, &[], &read.diagnostics, &Settings::default());
    let found = format!("{} of them", report.documents);
    checks.push(match report.errors {
        0 => Check::fine("documents", found),
        errors => Check::failed(
            "documents",
            &Failure::input(format!("{found}, {errors} errors"))
                .help("redirector check says where, and how to mend it"),
        ),
    });
}

/// What is loaded, by what `status` says of it.
fn in_force(args: &Args, checks: &mut Checks, context: &mut Context<'_>) {
    const CHECK: &str = "in force";
    let status = match status::look(&args.kernel, context) {
        Ok(status) => status,
        Err(failure) if failure.exit == Exit::NotLoaded => {
            checks.push(match failure.help {
                // It was, and somebody has removed it.
                Some(_) => Check::failed(CHECK, &Failure { exit: Exit::No, ..failure }),
                None => Check::fine(CHECK, "nothing is loaded: `redirector run` has not run yet"),
            });
            return;
        }
        Err(failure) => return checks.push(Check::failed(CHECK, &failure)),
    };
    let silent = status.daemon.as_ref().and_then(|daemon| daemon.silent.as_ref());
    checks.push(match &status.daemon {
        Some(status::DaemonRow { silent: Some(silent), .. }) => Check::failed("daemon", silent),
        Some(daemon) => Check::fine("daemon", format!("process {} runs", daemon.pid)),
        None => Check::warning(
            "daemon",
            "none runs: the kernel goes on with what it has, and changes are not followed",
            "start it: systemctl start redirector, or redirector run",
        ),
    });
    let is_told =
        |problem: &&String| silent.is_some_and(|silent| problem.starts_with(&silent.message));
    for problem in status.problems.iter().filter(|problem| !is_told(problem)) {
        let help = "docs/operations.md has each of these, and what to type";
        checks.push(Check::failed(CHECK, &Failure::input(problem).help(help)));
    }
    for warning in &status.warnings {
        checks.push(Check::new(CHECK, Outcome::Warning, warning));
    }
    if status.problems.is_empty() {
        let found = format!("generation {}, the newest, and effective", status.generation);
        checks.push(Check::fine(CHECK, found));
    }
}

/// A line for each, and how many did not hold.
fn text(answer: &Answer, style: Style) -> String {
    let mut text = String::new();
    for check in &answer.checks {
        let outcome = match check.outcome {
            Outcome::Fine => style.good("ok     "),
            Outcome::Warning => style.warning("warning"),
            Outcome::Failed => style.error("failed "),
            Outcome::Unknown => style.warning("unknown"),
        };
        text.push_str(&format!("{outcome} {}: {}", check.check, plain(&check.found)));
        if let Some(remedy) = &check.remedy {
            text.push_str(&format!("; {}: {}", style.help("remedy"), plain(remedy)));
        }
        text.push('\n');
    }
    let count = |outcome| answer.checks.iter().filter(|check| check.outcome == outcome).count();
    text.push_str(&format!(
        "{} hold, {} warnings, {} failed, {} cannot be told\n",
        count(Outcome::Fine),
        count(Outcome::Warning),
        count(Outcome::Failed),
        count(Outcome::Unknown),
    ));
    text
}
