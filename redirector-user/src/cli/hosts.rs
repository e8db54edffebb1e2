//! `redirector hosts`

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use redirector_core::registry::Registry;
use serde::Serialize;

use super::config::{Documents, SettingsArgs};
use super::{Common, Context, Exit, Failure, Format};

/// Prints lines for /etc/hosts: the names of the services and their addresses
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector hosts rules/ | sudo tee -a /etc/hosts
  redirector hosts --allocate-addresses rules/   # as `run` with it gives them")]
pub struct Args {
    /// Files, directories (every *.yaml, *.yml and *.json below), or - for standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Serialize)]
struct Line {
    address: IpAddr,
    names: Vec<String>,
}

pub fn run(args: &Args, common: &Common, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let documents = Documents::read(&args.paths);
    documents.insist(context)?;
    let settings = args.settings.settings(false);
    let domain = settings.cluster_domain.clone();
    let world = documents.world(settings);
    let lines = lines(&Registry::new(&world), &domain);
    // Never folded: a line is an entry of /etc/hosts.
    let common = match common.output {
        Format::Text => &Common { output: Format::Wide },
        _ => common,
    };
    let names = lines.iter().flat_map(|line| &line.names);
    context.answer_list(common, &lines, names, |_| {
        let lines = lines.iter();
        lines.map(|line| format!("{}\t{}\n", line.address, line.names.join(" "))).collect()
    })?;
    Ok(Exit::Fine)
}

fn lines(registry: &Registry, domain: &str) -> Vec<Line> {
    let mut by_address: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for service in registry.by_precedence() {
        let names = names(&service.host, domain);
        for address in service.answers() {
            let known = by_address.entry(address).or_default();
            known.extend(
                names.iter().filter(|name| !known.contains(name)).cloned().collect::<Vec<_>>(),
            );
        }
    }
    by_address
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(address, names)| Line { address, names })
        .collect()
}

/// The ways in which programs on this machine may call a host, longest first.
/// Short names of one namespace only: a machine has one /etc/hosts.
fn names(host: &Arc<str>, domain: &str) -> Vec<String> {
    if host.starts_with('*') {
        return Vec::new();
    }
    let mut names = vec![host.to_string()];
    if let Some(short) = host.strip_suffix(&format!(".svc.{domain}")) {
        names.push(format!("{short}.svc"));
        names.push(short.to_owned());
        if let Some(name) = short.strip_suffix(".default") {
            names.push(name.to_owned());
        }
    }
    names
}
