//! The `redirector` command.

use std::io::IsTerminal;
use std::process::ExitCode;

use redirector::cli::{self, Context, Env};

fn main() -> ExitCode {
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let env = Env::of_process(stdout.is_terminal(), stderr.is_terminal());
    let mut context = Context { env, out: &mut stdout.lock(), err: &mut std::io::stderr() };
    cli::run(std::env::args_os(), &mut context).into()
}
