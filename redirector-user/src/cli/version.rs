//! `redirector version`

use redirector_common::abi;
use serde::Serialize;

use super::{Common, Context, Exit, Failure};
use crate::datapath::features::{self, Feature, Support};
use crate::output::{Style, Table};

/// What this binary is, and what of its needs this kernel has
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
    /// The release of the running kernel.
    kernel: String,
    oldest_kernel: &'static str,
    features: Vec<Feature>,
}

pub fn run(_: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        table_layout: abi::LAYOUT,
        connection_layout: abi::CONNECTION_LAYOUT,
        kernel: features::release(),
        oldest_kernel: features::OLDEST,
        features: features::probe(),
    };
    let names = version.features.iter().map(|feature| feature.name);
    context.answer_list(common, &version, names, |style| text(&version, style))?;
    Ok(Exit::Fine)
}

fn text(version: &Version, style: Style) -> String {
    let mut table = Table::left(&["FEATURE", "KERNEL", "SINCE", "HERE"]);
    for feature in &version.features {
        table.row([
            feature.name.to_owned(),
            feature.needs.to_owned(),
            feature.since.to_owned(),
            match &feature.found {
                Support::Yes => "yes".to_owned(),
                Support::No => format!("no: {}", feature.without),
                Support::Unknown(why) => format!("not known: {why}"),
            },
        ]);
    }
    format!(
        "redirector {} (table layout {}, connection layout {})\n\
         kernel {}; the oldest supported is {}\n\n{}",
        version.version,
        version.table_layout,
        version.connection_layout,
        version.kernel,
        version.oldest_kernel,
        table.render(style.columns())
    )
}
