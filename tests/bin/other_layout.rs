//! The `redirector` command as a version whose tables have another layout: the
//! feature `other-layout` makes it one.

use std::process::ExitCode;

fn main() -> ExitCode {
    redirector::cli::main()
}
