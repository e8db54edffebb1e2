//! `redirector completions`

use clap_complete::Shell;

use super::{Context, Env, Exit, Failure};

/// Prints a completion script for a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  redirector completions bash > /etc/bash_completion.d/redirector")]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    let mut command = super::command(&Env::default());
    clap_complete::generate(args.shell, &mut command, "redirector", &mut script);
    context.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Fine)
}
