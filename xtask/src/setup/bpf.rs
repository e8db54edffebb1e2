//! The toolchain for the BPF programs.
//!
//! Two ways are supported. Debian's `rustc-web` brings a ready `core` for the
//! BPF target. Elsewhere, rustup's nightly with `rust-src` builds it.

use std::path::Path;
use std::process::Command;

use super::{Need, Purpose, Remedy, cargo_install, program};
use crate::command;
use crate::workspace::which;

/// The version of bpf-linker that is known to link these programs.
const BPF_LINKER: &str = "0.13.0";
/// LLVM's place in Debian: the version that the compilers above emit.
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";

pub fn needs() -> Vec<Need> {
    let mut needs = match redirector_toolchain::find() {
        Ok(_) => vec![Need {
            name: "BPF toolchain",
            why: "building the BPF programs",
            purposes: &[Purpose::Build],
            found: || redirector_toolchain::find().ok().map(|found| found.to_string()),
            remedies: Vec::new(),
        }],
        Err(_) => parts(),
    };
    if super::debian::present() {
        needs.push(Need {
            name: "clippy for BPF",
            why: "the lint layer",
            purposes: &[Purpose::Test],
            found: || nightly_with_source().or_else(|| debian_program("/usr/bin/cargo-clippy")),
            remedies: vec![Remedy::Package("rust-web-clippy")],
        });
    }
    needs
}

/// What makes up a toolchain, while there is none.
fn parts() -> Vec<Need> {
    let mut needs = vec![
        Need {
            name: "C++ compiler",
            why: "building bpf-linker",
            purposes: &[Purpose::Build],
            found: || program("bpf-linker").or_else(|| program("c++")),
            remedies: vec![Remedy::Package("g++")],
        },
        Need {
            name: "rustc for BPF",
            why: "compiling the BPF programs",
            purposes: &[Purpose::Build],
            found: compiler,
            remedies: vec![
                Remedy::Package("rustc-web"),
                Remedy::Run(rustup_nightly),
                Remedy::Tell("install rustup (https://rustup.rs), then run this again"),
            ],
        },
    ];
    if super::debian::present() {
        needs.extend([
            Need {
                name: "cargo for BPF",
                why: "compiling the BPF programs",
                purposes: &[Purpose::Build],
                found: || nightly_with_source().or_else(|| debian_program("/usr/bin/cargo")),
                remedies: vec![Remedy::Package("cargo-web")],
            },
            Need {
                name: "core for BPF",
                why: "compiling the BPF programs",
                purposes: &[Purpose::Build],
                found: || nightly_with_source().or_else(debian_core),
                remedies: vec![Remedy::Package("libstd-rust-web-dev-bpf")],
            },
            Need {
                name: "LLVM 22",
                why: "building bpf-linker",
                purposes: &[Purpose::Build],
                found: || program("bpf-linker").or_else(debian_llvm),
                remedies: vec![Remedy::Package("llvm-22-dev")],
            },
        ]);
    }
    needs.push(Need {
        name: "bpf-linker",
        why: "linking the BPF programs",
        purposes: &[Purpose::Build],
        found: || program("bpf-linker"),
        remedies: vec![Remedy::Run(install_linker)],
    });
    needs
}

fn debian_program(path: &str) -> Option<String> {
    Path::new(path).exists().then(|| path.to_owned())
}

fn debian_llvm() -> Option<String> {
    debian_program(&format!("{DEBIAN_LLVM}/bin/llvm-config"))
}

fn compiler() -> Option<String> {
    nightly_with_source().or_else(debian_compiler)
}

/// Debian's rustc, when it is one that knows today's BPF target.
fn debian_compiler() -> Option<String> {
    let version = command::stdout(Command::new("/usr/bin/rustc").arg("--version")).ok()?;
    let minor: u32 = version.split('.').nth(1)?.parse().ok()?;
    (minor >= 89).then(|| "/usr/bin/rustc".to_owned())
}

/// The ready-made `core` of Debian's rustc.
fn debian_core() -> Option<String> {
    let output = command::stdout(Command::new("/usr/bin/rustc").args([
        "--print",
        "target-libdir",
        "--target",
        "bpfel-unknown-none",
    ]))
    .ok()?;
    let dir = Path::new(output.trim());
    dir.read_dir()
        .ok()?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
        .then(|| dir.display().to_string())
}

/// The source of the standard library in rustup's nightly.
fn nightly_with_source() -> Option<String> {
    which("rustup")?;
    let output = command::stdout(
        Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]),
    )
    .ok()?;
    let core = Path::new(output.trim()).join("lib/rustlib/src/rust/library/core");
    core.exists().then(|| core.display().to_string())
}

fn rustup_nightly() -> Command {
    let mut command = Command::new("rustup");
    command.args(["toolchain", "install", "nightly", "--component", "rust-src"]);
    command
}

fn install_linker() -> Command {
    let mut command = cargo_install("bpf-linker", BPF_LINKER);
    // LLVM does its work: optimising what is around that takes longer to build than it
    // ever saves.
    command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    if super::debian::present() {
        command.env("LLVM_PREFIX", DEBIAN_LLVM).args([
            "--no-default-features",
            "--features",
            "llvm-22",
        ]);
    }
    command
}
