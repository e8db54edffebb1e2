//! The command line: a function of arguments, environment and writers. One
//! module per command.
//!
//! Names, exit codes and JSON are a public interface: scripts depend on them.

mod bypass;
mod check;
mod completions;
mod config;
mod connections;
mod context;
mod diff;
mod doctor;
mod env;
mod explain;
mod flows;
mod history;
mod hosts;
mod kernel;
mod kubernetes;
mod log_level;
mod man;
mod maps;
mod names;
mod neighbours;
pub mod relay;
mod reload;
mod rollback;
mod run;
mod status;
mod test;
mod top;
mod unload;
mod version;
mod which;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::builder::PossibleValue;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::output::{Encoding, UNLIMITED, WIDTH, plain};

use crate::daemon::log;
use crate::failure::{Exit, Failure};
pub use context::{Context, Env};

/// Layer-4 traffic routing in the kernel: Istio's TCP routes, decided at
/// connect().
#[derive(Parser, Debug)]
#[command(
    name = "redirector",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  redirector check rules/             # what is wrong with these documents
  redirector run --config rules/      # route by them, and follow their changes
  redirector status                   # is it working"
)]
struct Cli {
    /// How to answer
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

/// What `--output` takes: how a command answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// The same with a record a line, however wide the terminal.
    Wide,
    /// Only the names of what is listed, a line each.
    Name,
    /// For scripts.
    Json,
    /// For scripts: the same in YAML.
    Yaml,
    /// For code hosts and CI systems (check only).
    Sarif,
    /// A line for each finding, for editors (check only).
    Line,
    /// Annotations of GitHub's workflows (check only).
    Github,
    /// JUnit XML, for CI systems (test only).
    Junit,
}

impl Format {
    /// The language of an answer for scripts; `None` where people read it, or in
    /// the form of one command only.
    const fn encoding(self) -> Option<Encoding> {
        match self {
            Self::Json => Some(Encoding::Json),
            Self::Yaml => Some(Encoding::Yaml),
            Self::Text
            | Self::Wide
            | Self::Name
            | Self::Sarif
            | Self::Line
            | Self::Github
            | Self::Junit => None,
        }
    }

    /// The commands that answer like this, when not all do.
    const fn only(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Text | Self::Wide | Self::Json | Self::Yaml => None,
            Self::Name => Some(&LISTS),
            Self::Sarif | Self::Line | Self::Github => Some(&["check"]),
            Self::Junit => Some(&["test"]),
        }
    }
}

/// The commands that list things with names.
const LISTS: [&str; 12] = [
    "check",
    "connections",
    "diff",
    "doctor",
    "flows",
    "history",
    "hosts",
    "maps",
    "rollback",
    "status",
    "top",
    "version",
];

/// What every command is told.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// How to answer.
    pub output: Format,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(Box<run::Args>),
    Check(check::Args),
    Explain(Box<explain::Args>),
    Test(test::Args),
    Status(status::Args),
    Diff(diff::Args),
    Doctor(doctor::Args),
    Flows(flows::Args),
    Connections(connections::Args),
    Maps(maps::Args),
    Top(top::Args),
    History(history::Args),
    Rollback(rollback::Args),
    Bypass(bypass::Args),
    Reload(reload::Args),
    LogLevel(log_level::Args),
    Unload(unload::Args),
    Hosts(hosts::Args),
    Version(version::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// The whole command, with an environment variable for every flag.
fn command(env: &Env) -> clap::Command {
    // Help is no list: it is as wide as a terminal also where none is.
    let columns = match env.columns(env.out_is_terminal) {
        UNLIMITED => WIDTH,
        columns => columns,
    };
    env::with_variables(Cli::command().term_width(columns), env)
}

/// The `redirector` command: runs what this process was started with.
pub fn main() -> ExitCode {
    if let Some(code) = relay::if_asked(std::env::args_os().skip(1)) {
        return code;
    }
    completions::answer_shell();
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let env = Env::of_process(stdout.is_terminal(), stderr.is_terminal());
    let mut context = Context { env, out: &mut stdout.lock(), err: &mut std::io::stderr() };
    run(std::env::args_os(), &mut context).into()
}

/// Runs the command line. `args` begins with the name of the program.
pub fn run(args: impl IntoIterator<Item = OsString>, context: &mut Context<'_>) -> Exit {
    let parsed =
        command(&context.env).try_get_matches_from(args).and_then(|matches: ArgMatches| {
            let cli = Cli::from_arg_matches(&matches)?;
            Ok((cli, matches.subcommand_name().unwrap_or_default().to_owned()))
        });
    let (cli, name) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error, context),
    };
    match dispatch(&cli, &name, context) {
        Ok(exit) => exit,
        Err(failure) => {
            report(&failure, context);
            failure.exit
        }
    }
}

fn dispatch(cli: &Cli, name: &str, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let common = Common { output: cli.output };
    if let Some(only) = cli.output.only()
        && !only.contains(&name)
    {
        let format = cli.output.to_possible_value();
        let format = format.as_ref().map_or("", PossibleValue::get_name);
        let message = match only {
            [one] => format!("only {one} answers with --output {format}"),
            all => {
                format!("{name} lists nothing by name: --output {format} is of {}", all.join(", "))
            }
        };
        return Err(Failure::new(Exit::Usage, message));
    }
    match &cli.command {
        Command::Run(args) => run::run(args, context),
        Command::Check(args) => check::run(args, &common, context),
        Command::Connections(args) => connections::run(args, &common, context),
        Command::Explain(args) => explain::run(args, &common, context),
        Command::Test(args) => test::run(args, &common, context),
        Command::Status(args) => status::run(args, &common, context),
        Command::Diff(args) => diff::run(args, &common, context),
        Command::Doctor(args) => doctor::run(args, &common, context),
        Command::Flows(args) => flows::run(args, &common, context),
        Command::Top(args) => top::run(args, &common, context),
        Command::Maps(args) => maps::run(args, &common, context),
        Command::History(args) => history::run(args, &common, context),
        Command::Rollback(args) => rollback::run(args, &common, context),
        Command::Bypass(args) => bypass::run(args, &common, context),
        Command::Reload(args) => reload::run(args, &common, context),
        Command::LogLevel(args) => log_level::run(args, &common, context),
        Command::Unload(args) => unload::run(args, &common, context),
        Command::Hosts(args) => hosts::run(args, &common, context),
        Command::Version(args) => version::run(args, &common, context),
        Command::Completions(args) => completions::run(args, context),
        Command::Man(args) => man::run(args, context),
    }
}

/// Writes help to standard output and a complaint to standard error.
fn usage(error: &clap::Error, context: &mut Context<'_>) -> Exit {
    let asked = !error.use_stderr();
    let style =
        if asked { context.style(&Common { output: Format::Text }) } else { context.err_style() };
    let rendered = error.render();
    let text = if style.enabled() { rendered.ansi().to_string() } else { rendered.to_string() };
    if asked {
        return context.print(&text).map_or_else(|failure| failure.exit, |()| Exit::Fine);
    }
    context.note(text.trim_end());
    Exit::Usage
}

/// Writes a failure to standard error.
fn report(failure: &Failure, context: &mut Context<'_>) {
    if failure.message.is_empty() {
        return;
    }
    let style = context.err_style();
    // What a path has in it stays on its line.
    let lines: Vec<_> = failure.message.split('\n').map(plain).collect();
    let priority = if context.env.err_is_journal { log::ERROR } else { "" };
    let lines = lines.join(&format!("\n{priority}"));
    let message = format!("{priority}{}: {lines}", style.error("error"));
    context.note(&message);
    if let Some(help) = &failure.help {
        let help = format!("{priority}  {}: {help}", style.help("help"));
        context.note(&help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::width;

    /// What a command answers: exit code, standard output, standard error.
    fn answer(args: &[&str], vars: &[(&str, &str)]) -> (u8, String, String) {
        let vars = vars.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let env = Env { vars, ..Env::default() };
        let mut context = Context { env, out: &mut out, err: &mut err };
        let args = std::iter::once("redirector").chain(args.iter().copied()).map(Into::into);
        let exit = run(args, &mut context);
        (exit.code(), String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        command(&Env::default()).debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        for sub in command(&Env::default()).get_subcommands() {
            let (exit, out, _) = answer(&[sub.get_name(), "--help"], &[]);
            assert_eq!(exit, 0, "{}", sub.get_name());
            assert!(out.contains("Example"), "{}: {out}", sub.get_name());
            assert!(out.contains(&format!("redirector {}", sub.get_name())), "{out}");
        }
    }

    #[test]
    fn no_help_is_wider_than_a_terminal() {
        let answer =
            |args: &[&str], columns: usize| answer(args, &[("COLUMNS", &columns.to_string())]);
        let commands: Vec<String> = (command(&Env::default()).get_subcommands())
            .map(|sub| sub.get_name().to_owned())
            .collect();
        let all = commands.iter().map(|name| vec![name.as_str(), "--help"]);
        for args in all.chain([vec!["--help"], vec!["status", "-h"], vec!["run"], vec!["chekc"]]) {
            for columns in [80, 120, 200] {
                let (_, out, err) = answer(&args, columns);
                for line in out.lines().chain(err.lines()) {
                    assert!(width(line) <= columns, "{args:?}: {line}");
                }
            }
        }
    }

    #[test]
    fn a_record_is_a_line_where_no_terminal_is_and_folded_where_columns_are_given() {
        let longest = |args: &[&str], vars: &[(&str, &str)]| {
            let out = answer(args, vars).1;
            (out.lines().map(width).max().unwrap_or_default(), out.lines().count())
        };
        let (wide, lines) = longest(&["version"], &[]);
        assert!(wide > 60, "{wide}");
        assert_eq!(longest(&["version", "-o", "wide"], &[("COLUMNS", "60")]), (wide, lines));
        let (narrow, more) = longest(&["version"], &[("COLUMNS", "60")]);
        assert!(narrow <= 60 && more > lines, "{narrow}");
        let (exit, names, _) = answer(&["version", "-o", "name"], &[]);
        assert!(exit == 0 && names.lines().any(|name| name == "accounting"), "{names}");
        let (exit, _, err) = answer(&["log-level", "info", "-o", "name"], &[]);
        assert!(exit == 2 && err.contains("lists nothing by name"), "{err}");
    }

    #[test]
    fn a_variable_gives_a_flag_its_value_and_the_command_line_wins() {
        let vars = [("REDIRECTOR_OUTPUT", "json")];
        assert!(answer(&["version"], &vars).1.starts_with('{'));
        assert!(answer(&["version", "--output", "text"], &vars).1.starts_with("redirector "));
        assert_eq!(answer(&["version"], &[("REDIRECTOR_OUTPUT", "xml")]).0, 2);
    }

    #[test]
    fn hosts_allocates_addresses_where_that_is_asked_for_and_never_others() {
        let root = tempfile::tempdir().unwrap();
        let entry = |number: u32| {
            let text = format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{namespace: \
                 shop, name: db-{number}}}\nspec: {{hosts: [db-{number}.example.com], resolution: \
                 DNS, ports: [{{number: 5432, name: tcp, protocol: TCP}}]}}\n"
            );
            std::fs::write(root.path().join(format!("{number}.yaml")), text).unwrap();
        };
        entry(1);
        let path = root.path().to_str().unwrap();
        assert_eq!(answer(&["hosts", path], &[]).1, "");
        let (exit, out, _) = answer(&["hosts", "--allocate-addresses", path], &[]);
        assert_eq!(exit, 0);
        let known = "240.240.60.95\tdb-1.example.com\nfdf0:240:240::3c5f\tdb-1.example.com\n";
        assert_eq!(out, known);
        (2..20).for_each(entry);
        let (_, out, _) = answer(&["hosts", "--allocate-addresses", path], &[]);
        assert_eq!(out.lines().count(), 2 * 19);
        assert!(known.lines().all(|line| out.lines().any(|one| one == line)), "{out}");
    }

    #[test]
    fn check_shows_the_line_and_fails_and_hosts_names_the_services() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a.yaml");
        let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: echo\nspec:\n  \
                    clusterIP: 10.96.0.10\n  ports:\n  - port: 80\n";
        std::fs::write(&file, text).unwrap();
        let path = file.to_str().unwrap();
        assert_eq!(answer(&["check", path], &[]).0, 0);
        let (exit, out, _) = answer(&["hosts", path], &[]);
        assert_eq!(exit, 0);
        let names = "echo.default.svc.cluster.local echo.default.svc echo.default echo";
        assert_eq!(out, format!("10.96.0.10\t{names}\n"));
        std::fs::write(&file, text.replace("80", "70000")).unwrap();
        let (exit, out, _) = answer(&["check", path], &[]);
        assert_eq!(exit, 1);
        assert!(
            out.contains(&format!("{path}:8:11")) && out.contains("8 |   - port: 70000"),
            "{out}"
        );
        let (exit, out, _) = answer(&["check", "--output", "json", "no/such/file"], &[]);
        assert_eq!(exit, 1);
        assert!(out.contains("\"file\":\"no/such/file\""), "{out}");
    }

    #[test]
    fn the_daemons_documents_are_not_those_of_a_question() {
        let vars = [("REDIRECTOR_CONFIG", "/no/such/rules"), ("REDIRECTOR_BPFFS", "/no/such/pins")];
        let args = ["explain", "--from-namespace", "default", "--to", "10.0.0.1:80"];
        let (exit, _, err) = answer(&args, &vars);
        assert!(!err.contains("/no/such/rules"), "{err}");
        assert_ne!(exit, 0, "there is no kernel to ask");
    }

    #[test]
    fn what_is_required_can_be_a_variable() {
        let vars = [("REDIRECTOR_CONFIG".into(), "/etc/redirector".into())].into();
        let env = Env { vars, ..Env::default() };
        let parsed = command(&env).try_get_matches_from(["redirector", "run"]);
        assert!(parsed.is_ok(), "{parsed:?}");
        assert!(command(&Env::default()).try_get_matches_from(["redirector", "run"]).is_err());
    }

    #[test]
    fn every_command_has_a_manual_page_with_its_options() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("man1");
        assert_eq!(answer(&["man", "--directory", directory.to_str().unwrap()], &[]).0, 0);
        for sub in command(&Env::default()).get_subcommands() {
            let name = sub.get_name();
            let page = directory.join(format!("redirector-{name}.1"));
            let page = std::fs::read_to_string(&page).unwrap_or_default();
            assert!(page.contains(".SH NAME\nredirector\\-"), "{name}: {page}");
            let synopsis = format!(".SH SYNOPSIS\n\\fBredirector {}\\fR", name.replace('-', "\\-"));
            assert!(page.contains(&synopsis), "{name}: {page}");
            let known = [
                "TH", "SH", "TP", "PP", "IP", "RS", "RE", "br", "sp", "nf", "fi", "ie", "el", "ds",
            ];
            for request in page.lines().filter_map(|line| line.strip_prefix('.')) {
                let request = request.split(' ').next().unwrap_or_default();
                assert!(known.contains(&request), "{name}: .{request} is no request of man(7)");
            }
            assert_eq!(page.matches(".TH ").count(), 1, "{name}");
            assert!(page.contains(" 1 \"\" \"redirector"), "{name}: the date and the version");
            assert!(page.contains(".SH EXAMPLES\n.nf\nredirector"), "{name}: {page}");
            for long in sub.get_arguments().filter_map(|arg| arg.get_long()) {
                let option = format!("\\-\\-{}", long.replace('-', "\\-"));
                assert!(page.contains(&option), "{name} --{long}: {page}");
            }
        }
        let (exit, page, _) = answer(&["man", "bypass"], &[]);
        assert!(exit == 0 && page.contains("\\-\\-workload"), "{page}");
        assert!(answer(&["man"], &[]).1.contains("redirector\\-status(1)"));
        assert_eq!(answer(&["man", "nothing"], &[]).0, 2);
    }

    #[test]
    fn the_page_for_the_night_types_commands_that_exist() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = std::fs::read_to_string(root.join("docs/operations.md")).unwrap();
        let typed: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
        assert!(typed.len() > 10, "{typed:?}");
        for line in typed {
            let parsed = command(&Env::default()).try_get_matches_from(line.split_whitespace());
            let help = |error: &clap::Error| error.kind() == clap::error::ErrorKind::DisplayHelp;
            assert!(parsed.is_ok() || parsed.is_err_and(|error| help(&error)), "{line}");
        }
    }

    /// The commands of ours in a line for a shell, without what is said of them and where
    /// their answers go.
    fn typed(line: &str) -> Vec<Vec<&str>> {
        let line = line.split(" # ").next().unwrap_or_default();
        let parts = line.split(" | ").map(|part| part.split(" > ").next().unwrap_or_default());
        let words = parts.map(|part| {
            let words = part.split_whitespace().map(|word| word.trim_matches('\''));
            words.skip_while(|word| *word == "sudo").collect::<Vec<_>>()
        });
        // What begins with a variable is about that.
        words.filter(|words| words.first() == Some(&"redirector")).collect()
    }

    #[test]
    fn every_example_of_help_is_understood() {
        let all = command(&Env::default());
        let helps = all.get_subcommands().chain([&all]).filter_map(clap::Command::get_after_help);
        let helps: Vec<String> = helps.map(ToString::to_string).collect();
        // As it is printed where a terminal has 80 columns: what is broken there cannot be typed.
        let wide = helps.iter().flat_map(|help| help.lines()).find(|line| width(line) > WIDTH);
        assert_eq!(wide, None);
        let examples = helps.iter().filter_map(|help| help.split("\n\n").next());
        let examples: Vec<_> = examples.map(|all| all.replace("\\\n", "")).collect();
        let lines = examples.iter().flat_map(|all| all.lines());
        let typed: Vec<_> = lines.filter(|line| line.starts_with("  ")).flat_map(typed).collect();
        assert!(typed.len() > 40, "{typed:?}");
        for words in typed {
            let parsed = command(&Env::default()).try_get_matches_from(&words);
            assert!(parsed.is_ok(), "{words:?}: {}", parsed.err().unwrap());
        }
    }

    #[test]
    fn a_time_between_two_of_the_same_without_a_pause_is_a_usage_error() {
        for flag in ["--rescan", "--verify", "--self-test", "--resolve", "--compare"] {
            let (exit, _, err) = answer(&["run", "--kubernetes", flag, "0s"], &[]);
            assert_eq!(exit, 2, "{flag}: {err}");
            assert!(err.contains("at least 100ms"), "{flag}: {err}");
        }
        assert_eq!(answer(&["top", "--interval", "0s"], &[]).0, 2);
    }

    #[test]
    fn an_unknown_command_is_a_usage_error_on_standard_error() {
        let (exit, out, err) = answer(&["chekc"], &[]);
        assert_eq!((exit, out.as_str()), (2, ""));
        assert!(err.contains("chekc"), "{err}");
    }
}
