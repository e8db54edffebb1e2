//! `redirector man`

use std::fs;
use std::path::{Path, PathBuf};

use clap_mangen::Man;
use roff::{Roff, bold, roman};

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
    let names: Vec<String> =
        subcommands.iter().map(|command| format!("redirector-{}", command.get_name())).collect();
    let others: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut pages = vec![("redirector".to_owned(), page(all, &others)?)];
    for (command, name) in subcommands.into_iter().zip(&names) {
        pages.push((name.clone(), page(command.name(name), &["redirector"])?));
    }
    Ok(pages)
}

/// What exit codes mean, for every command.
const EXITS: [(Exit, &str); 5] = [
    (Exit::Fine, "Fine."),
    (Exit::No, "The answer is no, or the input is bad."),
    (Exit::Usage, "The command was not understood."),
    (Exit::Unable, "A privilege or a kernel feature is missing; the message names it."),
    (Exit::NotLoaded, "Nothing is loaded."),
];

fn page(command: clap::Command, others: &[&str]) -> Result<String, Failure> {
    // Examples stand as they are; what else the help ends with describes.
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (examples, rest) = help.split_once("\n\n").unwrap_or((&help, ""));
    let examples = examples.split_once('\n').map_or("", |(_, examples)| examples).to_owned();
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
    let about = format!("{}\n\n{rest}", about.unwrap_or_default()).trim().to_owned();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let title = command.get_name().to_uppercase();
    let command = command.override_usage(usage).long_about(about);
    let subcommands = command.has_subcommands();
    let version = env!("CARGO_PKG_VERSION");
    let man = Man::new(command).title(title).manual("redirector");
    let man = man.source(format!("redirector {version}"));
    let mut page = Vec::new();
    let mut write = || -> std::io::Result<()> {
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        if subcommands {
            man.render_subcommands_section(&mut page)?;
        }
        ending(&examples, others).to_writer(&mut page)
    };
    write().map_err(|error| Failure::new(Exit::No, error.to_string()))?;
    // Every section comes with its own definition of the apostrophe.
    let page = String::from_utf8_lossy(&page);
    let (definition, _) = page.split_once(".TH").unwrap_or_default();
    let once = format!("{definition}{}", page.replace(definition, ""));
    // An empty date has to be there, or the version would be taken for it.
    let dated = once.replacen(" 1  \"", " 1 \"\" \"", 1);
    Ok(dated.replace(".br\n\n.br\n", ".sp\n"))
}

/// The sections at the end of each page.
fn ending(examples: &str, others: &[&str]) -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", ["EXIT STATUS"]);
    for (exit, meaning) in EXITS {
        roff.control("TP", []).text([bold(exit.code().to_string())]).text([roman(meaning)]);
    }
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in examples.lines() {
            roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        }
        roff.control("fi", []);
    }
    roff.control("SH", ["SEE ALSO"]);
    let last = others.len().saturating_sub(1);
    for (at, name) in others.iter().enumerate() {
        let end = if at < last { "(1)," } else { "(1)" };
        roff.text([bold(*name), roman(end)]);
    }
    roff
}
