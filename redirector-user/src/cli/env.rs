//! An environment variable for every flag: `--state-directory` is also
//! `REDIRECTOR_STATE_DIRECTORY`. One rule instead of one attribute per flag, so
//! that none is forgotten and the environment is an argument like any other.

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::{Arg, ArgAction, Command};

use super::Env;

/// Gives every flag of the command and its subcommands its variable: the help
/// names it, and its value in `env` is the default. The command line wins.
pub fn with_variables(command: Command, env: &Env) -> Command {
    // What a question is about belongs to the question: with the daemon's
    // REDIRECTOR_CONFIG in the environment, `explain` still asks the kernel.
    let asks = ["explain", "test"].contains(&command.get_name());
    command
        .mut_args(|arg| {
            let of_question = QUESTION.iter().any(|flag| arg.get_long() == Some(flag));
            if asks && of_question { arg } else { with_variable(arg, env) }
        })
        .mut_subcommands(|sub| with_variables(sub, env))
}

/// Flags of `explain` and `test` that say what is asked.
const QUESTION: [&str; 8] = [
    "config",
    "from-namespace",
    "from-label",
    "from-workload",
    "from-pid",
    "from-cgroup",
    "to",
    "gateway",
];

fn with_variable(arg: Arg, env: &Env) -> Arg {
    // A question for this one answer only must not be answered by a variable.
    const ONLY_TYPED: [&str; 12] = [
        "help",
        "version",
        "yes",
        "release",
        "follow",
        "workload",
        "pid",
        "since",
        "rule",
        "for",
        "end",
        "directory",
    ];
    let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
    if ONLY_TYPED.contains(&long.as_str()) {
        return arg;
    }
    let name = format!("REDIRECTOR_{}", long.replace('-', "_").to_uppercase());
    let help = arg.get_help().map(|help| format!("{help} [env: {name}]"));
    let long_help = arg.get_long_help().map(|help| format!("{help} [env: {name}]"));
    let mut arg = match help {
        Some(help) => arg.help(help),
        None => arg,
    };
    if let Some(help) = long_help {
        arg = arg.long_help(help);
    }
    let Some(value) = env.var(&name) else { return arg };
    let values: Vec<OsString> = match arg.get_action() {
        // Lists are written like PATH.
        ArgAction::Append => std::env::split_paths(value).map(Into::into).collect(),
        ArgAction::SetTrue => {
            let set = !matches!(value.to_str(), Some("0" | "false" | "no" | "off"));
            vec![if set { "true" } else { "false" }.into()]
        }
        _ => vec![value.to_owned()],
    };
    // A default is not what clap calls present.
    arg.required(false).required_unless_present(Resettable::Reset).default_values(values)
}
