//! What compiles for aarch64 on another machine.
//!
//! The standard library for that target comes from rustup where it was added
//! there; on Debian it is taken out of the arm64 package of the compiler's own
//! version, without installing it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::setup::debian;
use crate::workspace::{cargo, cargo_at, target};

/// The target.
pub const TRIPLE: &str = "aarch64-unknown-linux-gnu";
/// Debian's package with the standard library.
const PACKAGE: &str = "libstd-rust-web-dev";

/// A cargo that compiles for it.
pub struct Toolchain {
    /// To be given its subcommand.
    pub cargo: Command,
    /// Flags that its compiler needs for the target.
    flags: Option<String>,
}

impl Toolchain {
    /// The one that is there, or nothing.
    pub fn find() -> Result<Option<Self>> {
        if has_standard_library(cargo().get_program().as_ref()) {
            return Ok(Some(Self { cargo: cargo(), flags: None }));
        }
        if debian::present() && Path::new("/usr/bin/cargo").exists() {
            return of_debian().map(Some);
        }
        Ok(None)
    }

    /// The cargo, with these flags of the compiler beside those that it needs.
    pub fn with_flags(self, more: &str) -> Command {
        let mut command = self.cargo;
        // Flags of the environment are for the target alone where one is named: build
        // scripts and macros are the host's.
        let all = self.flags.iter().map(String::as_str).chain([more]);
        let all: Vec<&str> = all.filter(|flags| !flags.is_empty()).collect();
        if !all.is_empty() {
            command.env("RUSTFLAGS", all.join(" "));
        }
        command
    }
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

/// Debian's cargo, with a sysroot that has the arm64 standard library.
fn of_debian() -> Result<Toolchain> {
    let sysroot = target().join("aarch64/sysroot");
    let library = sysroot.join("lib/rustlib").join(TRIPLE);
    if !has_std(&library.join("lib")) {
        let unpacked = download()?.join("usr/lib/rustlib").join(TRIPLE);
        std::fs::create_dir_all(&library)?;
        std::fs::rename(unpacked.join("lib"), library.join("lib"))
            .with_context(|| format!("{PACKAGE} has no standard library for {TRIPLE}"))?;
    }
    let mut cargo = cargo_at("/usr/bin/cargo");
    cargo.env("RUSTC", "/usr/bin/rustc").env_remove("RUSTUP_TOOLCHAIN");
    Ok(Toolchain { cargo, flags: Some(format!("--sysroot {}", sysroot.display())) })
}

/// The arm64 package of the installed compiler's version, unpacked.
fn download() -> Result<PathBuf> {
    let place = target().join("aarch64/package");
    for directory in ["state/lists/partial", "cache/archives/partial", "unpacked"] {
        std::fs::create_dir_all(place.join(directory))?;
    }
    // A package world of its own: that of this machine stays as it is.
    let config = place.join("apt.conf");
    let text = format!(
        "Dir::State \"{0}/state\";\nDir::State::status \"/dev/null\";\n\
         Dir::Cache \"{0}/cache\";\nAPT::Architecture \"arm64\";\n\
         APT::Architectures {{ \"arm64\"; }};\nAPT::Sandbox::User \"root\";\n",
        place.display()
    );
    std::fs::write(&config, text)?;
    let version =
        command::stdout(Command::new("dpkg-query").args(["-W", "-f", "${Version}", "rustc-web"]))?;
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("APT_CONFIG", &config).current_dir(&place);
        command
    };
    command::stdout(apt().args(["update", "--quiet"]))?;
    command::stdout(apt().args(["download", "--quiet", &format!("{PACKAGE}={}", version.trim())]))?;
    let package = place
        .read_dir()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get has left no package")?;
    let unpacked = place.join("unpacked");
    command::stdout(Command::new("dpkg").arg("-x").arg(&package).arg(&unpacked))?;
    std::fs::remove_file(&package)?;
    Ok(unpacked)
}
