//! The functional core stays pure: no IO, no clock, no environment, no kernel.
//!
//! Two checks. The dependencies of redirector-core must not contain a crate
//! that does IO; and its own source must not name a part of `std` that does.
//! The source is read as tokens, so that comments and strings do not count and
//! every way of writing a path does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

use crate::command;
use crate::workspace::{cargo, root};

/// Crates that do IO, keep time or talk to the kernel.
const IMPURE_CRATES: &[&str] = &[
    "async-std",
    "aya",
    "aya-obj",
    "chrono",
    "fastrand",
    "getrandom",
    "hyper",
    "inotify",
    "k8s-openapi",
    "kube",
    "kube-client",
    "libc",
    "mio",
    "nix",
    "notify",
    "polling",
    "rand",
    "reqwest",
    "rustix",
    "signal-hook",
    "smol",
    "socket2",
    "time",
    "tokio",
    "tracing-subscriber",
    "ureq",
];

/// Parts of `std` that reach outside of the process or share state in it.
const IMPURE_PATHS: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io::Stdin",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// Macros that write, or read the environment.
const IMPURE_MACROS: &[&str] =
    &["dbg", "eprint", "eprintln", "print", "println", "env", "option_env"];

/// Everything that is impure in redirector-core; empty is good.
pub fn findings() -> Result<Vec<String>> {
    let mut findings = dependencies()?;
    let mut files = Vec::new();
    rust_files(&root().join("redirector-user/core/src"), &mut files)?;
    for file in files {
        let source = std::fs::read_to_string(&file)?;
        let name = file.strip_prefix(root()).unwrap_or(&file).display();
        let found = impure(&source).with_context(|| format!("cannot read {name} as Rust"))?;
        findings.extend(found.into_iter().map(|(line, what)| format!("{name}:{line}: {what}")));
    }
    Ok(findings)
}

fn dependencies() -> Result<Vec<String>> {
    let tree = command::stdout(cargo().args([
        "tree",
        "--package",
        "redirector-core",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    let mut impure: Vec<_> = names.filter(|name| IMPURE_CRATES.contains(name)).collect();
    impure.sort_unstable();
    impure.dedup();
    Ok(impure
        .into_iter()
        .map(|name| {
            format!("redirector-core depends on {name}, which is not pure; see `cargo tree -p redirector-core -i {name}`")
        })
        .collect())
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = directory
        .read_dir()
        .with_context(|| format!("cannot read the directory {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

/// Lines and names of what is impure in this source; test modules may be.
fn impure(source: &str) -> Result<Vec<(usize, String)>> {
    let tokens: TokenStream = source.parse().map_err(|error| anyhow!("{error}"))?;
    let mut found = Vec::new();
    scan(tokens, &mut found);
    Ok(found)
}

fn scan(tokens: TokenStream, found: &mut Vec<(usize, String)>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_only(&tokens[at..]) {
            at = after_item(&tokens, at + 2);
            continue;
        }
        match &tokens[at] {
            TokenTree::Ident(ident) if ident == "std" && !is_inside_path(&tokens, at) => {
                let mut paths = Vec::new();
                at = path_tree(&tokens, at, String::new(), &mut paths);
                for (line, path) in paths {
                    let bad = |impure: &&&str| {
                        path == **impure || path.starts_with(&format!("{impure}::"))
                    };
                    if let Some(impure) = IMPURE_PATHS.iter().find(bad) {
                        found.push((line, format!("{impure} is not pure")));
                    }
                }
                continue;
            }
            TokenTree::Ident(ident)
                if IMPURE_MACROS.iter().any(|name| ident == name)
                    && matches!(tokens.get(at + 1), Some(TokenTree::Punct(punct)) if punct.as_char() == '!') =>
            {
                found.push((ident.span().start().line, format!("{ident}! is not pure")));
            }
            TokenTree::Group(group) => scan(group.stream(), found),
            _ => {}
        }
        at += 1;
    }
}

/// `#[cfg(test)]` stands here.
fn is_test_only(tokens: &[TokenTree]) -> bool {
    let [TokenTree::Punct(hash), TokenTree::Group(group), ..] = tokens else { return false };
    hash.as_char() == '#' && group.stream().to_string().replace(' ', "") == "cfg(test)"
}

/// The index behind the item that starts at `at`: behind its braces or its `;`.
fn after_item(tokens: &[TokenTree], at: usize) -> usize {
    let end = tokens[at..].iter().position(|token| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        _ => false,
    });
    end.map_or(tokens.len(), |end| at + end + 1)
}

/// Whether `::` stands before `at`, so that this `std` is not the crate.
fn is_inside_path(tokens: &[TokenTree], at: usize) -> bool {
    // `::std::fs` is the crate as well: only `name::std` is not.
    at >= 3
        && is_double_colon(&tokens[at - 2..at])
        && matches!(&tokens[at - 3], TokenTree::Ident(ident) if ident != "use")
}

fn is_double_colon(tokens: &[TokenTree]) -> bool {
    let [TokenTree::Punct(first), TokenTree::Punct(second), ..] = tokens else { return false };
    first.as_char() == ':' && first.spacing() == Spacing::Joint && second.as_char() == ':'
}

/// Reads the path, or tree of paths, at `at`; gives back the index behind it.
fn path_tree(
    tokens: &[TokenTree],
    mut at: usize,
    mut prefix: String,
    paths: &mut Vec<(usize, String)>,
) -> usize {
    let mut line = 0;
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(ident)) => {
                prefix += &ident.to_string();
                line = ident.span().start().line;
                at += 1;
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<_> = group.stream().into_iter().collect();
                let mut inside = 0;
                while inside < inner.len() {
                    if matches!(inner[inside], TokenTree::Ident(_)) {
                        inside = path_tree(&inner, inside, prefix.clone(), paths);
                    } else {
                        inside += 1;
                    }
                }
                return at + 1;
            }
            _ => {
                // `std::fs::*`, or a turbofish: the path so far is what counts.
                paths.push((line, prefix.trim_end_matches("::").to_owned()));
                return at;
            }
        }
        if tokens.len() >= at + 2 && is_double_colon(&tokens[at..]) {
            prefix += "::";
            at += 2;
        } else {
            paths.push((line, prefix));
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<(usize, String)> {
        impure(source).unwrap()
    }

    #[test]
    fn every_way_of_naming_a_file_system_function_is_found() {
        for source in [
            "fn f() { std::fs::read(\"x\"); }",
            "use std::{collections::BTreeMap, fs};",
            "use std::{fs::{self, File}, sync::Arc};",
            "use ::std::fs::*;",
            "fn f() { g(vec![std :: fs :: read(x)]) }",
        ] {
            assert!(found(source).iter().any(|(_, what)| what.contains("std::fs")), "{source}");
        }
    }

    #[test]
    fn the_line_is_told() {
        assert_eq!(
            found("//! std::fs\n\nuse std::time::{\n    Duration,\n    Instant,\n};\n"),
            [(5, "std::time::Instant is not pure".to_owned())]
        );
    }

    #[test]
    fn comments_strings_tests_and_pure_parts_do_not_count() {
        let source = "
            //! std::fs::read
            use std::{net::{IpAddr, Ipv4Addr}, time::Duration, fmt};
            const TEXT: &str = \"std::process::exit\";
            fn f(std: u8) -> String { format!(\"{}\", crate::std::fs) }
            #[cfg(test)]
            mod tests { use std::fs; fn f() { println!(); } }
        ";
        assert_eq!(found(source), []);
    }

    #[test]
    fn printing_is_not_pure() {
        assert_eq!(found("fn f() { eprintln!(\"x\") }"), [(1, "eprintln! is not pure".to_owned())]);
    }
}
