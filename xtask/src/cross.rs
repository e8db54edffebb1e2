//! What compiles and links for aarch64 on another machine.
//!
//! The standard library for that target comes from rustup where it was added
//! there; on Debian it is taken out of the arm64 package of the compiler's own
//! version, without installing it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::setup::debian::{self, Packages};
use crate::workspace::{cargo, cargo_at, target};

/// The target.
pub const TRIPLE: &str = "aarch64-unknown-linux-gnu";
/// Debian's package with the standard library.
const PACKAGE: &str = "libstd-rust-web-dev";

/// A cargo that compiles and links for it, with these flags of the compiler beside those
/// that it needs; nothing where there is no standard library for it.
pub fn compiling(flags: &str) -> Result<Option<Command>> {
    let (mut cargo, flags) = if has_standard_library(cargo().get_program().as_ref()) {
        (cargo(), flags.to_owned())
    } else if debian::present() && Path::new("/usr/bin/cargo").exists() {
        let mut cargo = cargo_at("/usr/bin/cargo");
        cargo.env("RUSTC", "/usr/bin/rustc").env_remove("RUSTUP_TOOLCHAIN");
        (cargo, format!("--sysroot {} {flags}", sysroot()?.display()))
    } else {
        return Ok(None);
    };
    // Flags of the environment are for the target alone where one is named: build scripts
    // and macros are the host's.
    cargo
        .env("RUSTFLAGS", flags.trim())
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
    Ok(Some(cargo))
}

/// What a user has to do where there is none.
pub fn missing() -> String {
    format!("no standard library for {TRIPLE}; try `rustup target add {TRIPLE}`")
}

/// Whether the compiler beside that cargo has a standard library for it.
fn has_standard_library(cargo: &Path) -> bool {
    let rustc = cargo.with_file_name("rustc");
    command::stdout(Command::new(rustc).args(["--print", "target-libdir", "--target", TRIPLE]))
        .is_ok_and(|directory| has_std(Path::new(directory.trim())))
}

fn has_std(directory: &Path) -> bool {
    directory.read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
        })
    })
}

/// A sysroot with the arm64 standard library of Debian's compiler.
fn sysroot() -> Result<PathBuf> {
    let sysroot = target().join("aarch64/sysroot");
    let library = sysroot.join("lib/rustlib").join(TRIPLE);
    if !has_std(&library.join("lib")) {
        let mut query = Command::new("dpkg-query");
        let version = command::stdout(query.args(["-W", "-f", "${Version}", "rustc-web"]))?;
        let unpacked = target().join("aarch64/std");
        let packages = Packages::of_arm64()?;
        packages.update()?;
        packages.unpack(&format!("{PACKAGE}={}", version.trim()), &unpacked)?;
        std::fs::create_dir_all(&library)?;
        let of_package = unpacked.join("usr/lib/rustlib").join(TRIPLE);
        std::fs::rename(of_package.join("lib"), library.join("lib"))
            .with_context(|| format!("{PACKAGE} has no standard library for {TRIPLE}"))?;
        std::fs::remove_dir_all(&unpacked)?;
    }
    Ok(sysroot)
}
