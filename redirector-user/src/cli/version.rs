//! `redirector version`

use redirector_common::abi;
use serde::Serialize;

use super::{Common, Context, Exit, Failure, Output};

/// What this binary is
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  redirector version --output json")]
pub struct Args {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    /// Of the kernel's tables: binaries with the same number share them.
    table_layout: u32,
    connection_layout: u32,
}

pub fn run(_: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        table_layout: abi::LAYOUT,
        connection_layout: abi::CONNECTION_LAYOUT,
    };
    match common.output {
        Output::Json => context.print_json(&version)?,
        Output::Text => context.print(&format!(
            "redirector {} (table layout {}, connection layout {})\n",
            version.version, version.table_layout, version.connection_layout
        ))?,
    }
    Ok(Exit::Fine)
}
