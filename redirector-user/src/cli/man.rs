//! `redirector man`

use std::fs;
use std::path::{Path, PathBuf};

use clap_mangen::Man;

use super::{Context, Env, Exit, Failure};

/// Prints a manual page, or writes all of them to a directory
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector man status | man -l -
  redirector man --directory /usr/local/share/man/man1")]
pub struct Args {
    /// The command that the page is about; that of redirector itself without it
    #[arg(value_name = "COMMAND", conflicts_with = "directory")]
    command: Option<String>,
    /// Writes a page for every command into this directory
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let pages = pages()?;
    if let Some(directory) = &args.directory {
        let failed = |path: &Path, error: std::io::Error| {
            Failure::new(Exit::No, format!("cannot write {}: {error}", path.display()))
        };
        fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
        for (name, page) in pages {
            let path = directory.join(format!("{name}.1"));
            fs::write(&path, page).map_err(|error| failed(&path, error))?;
        }
        return Ok(Exit::Fine);
    }
    let wanted = match &args.command {
        Some(command) => format!("redirector-{command}"),
        None => "redirector".to_owned(),
    };
    let Some((_, page)) = pages.into_iter().find(|(name, _)| *name == wanted) else {
        return Err(Failure::new(Exit::Usage, format!("there is no page {wanted}(1)"))
            .help("`redirector --help` lists the commands"));
    };
    context.print(&page)?;
    Ok(Exit::Fine)
}

/// The name and text of each page.
fn pages() -> Result<Vec<(String, String)>, Failure> {
    let mut all = super::command(&Env::default()).disable_help_subcommand(true);
    all.build();
    let subcommands: Vec<_> = all.get_subcommands().cloned().collect();
    let mut pages = vec![("redirector".to_owned(), page(all)?)];
    for command in subcommands {
        let name = format!("redirector-{}", command.get_name());
        pages.push((name.clone(), page(command.name(name))?));
    }
    Ok(pages)
}

fn page(command: clap::Command) -> Result<String, Failure> {
    let mut page = Vec::new();
    let written = Man::new(command).manual("redirector").render(&mut page);
    written.map_err(|error| Failure::new(Exit::No, error.to_string()))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
