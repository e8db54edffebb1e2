//! The program as image and packages hold it: for an architecture, linked
//! statically, and so for every distribution.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::command::run;
use crate::cross;
use crate::workspace::{cargo, target};

/// What processors it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Arch {
    /// 64-bit x86
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit ARM
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    /// That of this machine.
    pub fn host() -> Result<Self> {
        Self::from_str(std::env::consts::ARCH, false)
            .map_err(|_| anyhow::anyhow!("nothing is built for {}", std::env::consts::ARCH))
    }

    /// As Linux calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian and container registries call it.
    pub const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The target that std of every stable toolchain links statically for.
    pub const fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => cross::TRIPLE,
        }
    }
}

/// Links the program statically, whatever else it is linked with.
const STATIC: &str = "-C target-feature=+crt-static";

/// A cargo that compiles for that architecture, and links statically. The target has to be
/// named to it, even where it is the host's: flags would reach build scripts and macros.
pub fn cargo_for(arch: Arch, more: &str) -> Result<Command> {
    let flags = [STATIC, more].join(" ");
    if arch == Arch::host()? {
        let mut cargo = cargo();
        cargo.env("RUSTFLAGS", flags.trim());
        Ok(cargo)
    } else if arch == Arch::Aarch64 {
        cross::compiling(flags.trim())?.with_context(cross::missing)
    } else {
        bail!("programs for {} are built on such machines only", arch.name());
    }
}

/// Builds it; gives back its path. With `audited` it holds the list of the crates that it
/// is made of, which `cargo audit` reads.
pub fn build(arch: Arch, audited: bool) -> Result<PathBuf> {
    let mut cargo = cargo_for(arch, "")?;
    // A directory of its own: the flags would rebuild everything else.
    let directory = target().join("image");
    if audited {
        cargo.arg("auditable");
    }
    cargo
        .env("CARGO_TARGET_DIR", &directory)
        // What a backtrace needs for names stays.
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .args(["build", "--release", "-p", "redirector-user", "--bin", "redirector"])
        .args(["--target", arch.triple()]);
    run(&mut cargo)?;
    Ok(directory.join(arch.triple()).join("release/redirector"))
}
