//! Debian's package manager.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::workspace::{is_root, target, which};

/// Whether this system installs software with apt.
pub fn present() -> bool {
    which("apt-get").is_some()
}

/// Fetches the package lists.
pub fn update() -> Result<()> {
    command::run(Command::new("apt-get").args(["update", "--quiet"]))
        .context("cannot fetch Debian's package lists")
}

/// The command that installs these packages.
pub fn install(packages: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--yes", "--quiet", "--no-install-recommends"])
        .args(packages);
    command
}

/// Packages to be unpacked, and never installed: those of this machine's architecture,
/// or of another.
#[derive(Clone, Debug, Default)]
pub struct Packages {
    /// What apt is told of a package world of its own: that of this machine stays as it is.
    config: Option<PathBuf>,
}

impl Packages {
    /// Those for 64-bit ARM.
    pub fn of_arm64() -> Result<Self> {
        let place = target().join("aarch64/packages");
        for directory in ["state/lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(place.join(directory))?;
        }
        let config = place.join("apt.conf");
        let text = format!(
            "Dir::State \"{0}/state\";\nDir::State::status \"/dev/null\";\n\
             Dir::Cache \"{0}/cache\";\nAPT::Architecture \"arm64\";\n\
             APT::Architectures {{ \"arm64\"; }};\nAPT::Sandbox::User \"root\";\n",
            place.display()
        );
        std::fs::write(&config, text)?;
        Ok(Self { config: Some(config) })
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(config) = &self.config {
            command.env("APT_CONFIG", config);
        }
        command
    }

    /// Fetches the lists, where this user may.
    pub fn update(&self) -> Result<()> {
        match self.config {
            Some(_) => command::stdout(self.apt("apt-get").args(["update", "--quiet"])).map(drop),
            None if is_root() => update(),
            None => Ok(()),
        }
    }

    /// The names that begin like that, a line for each.
    pub fn names(&self, prefix: &str) -> Result<String> {
        command::stdout(self.apt("apt-cache").args(["pkgnames", prefix]))
    }

    /// Unpacks one there, `NAME` or `NAME=VERSION`.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        download.args(["download", "--quiet"]).arg(package);
        self.unpacked(download, into)
    }

    /// Unpacks these there, and all that they depend on. Only for another architecture: of
    /// this one, apt would leave out what is installed.
    pub fn unpack_with_dependencies(&self, packages: &[&str], into: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        download
            .args(["install", "--download-only", "--yes", "--quiet", "--no-install-recommends"])
            .args(packages);
        self.unpacked(download, into)
    }

    /// Unpacks there what that command downloads, wherever apt puts it.
    fn unpacked(&self, mut download: Command, into: &Path) -> Result<()> {
        let archives = into.with_extension("archives");
        crate::package::clear(&archives)?;
        std::fs::create_dir(archives.join("partial"))?;
        // As root, apt would give up its privileges for a directory that its own user can
        // write; this one need not be.
        download
            .args(["-o", "APT::Sandbox::User=root", "-o"])
            .arg(format!("Dir::Cache::archives={}", archives.display()))
            .current_dir(&archives);
        command::stdout(&mut download)?;
        std::fs::create_dir_all(into)?;
        let mut found = false;
        for entry in archives.read_dir()? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                command::stdout(Command::new("dpkg").arg("-x").arg(&path).arg(into))?;
                found = true;
            }
        }
        std::fs::remove_dir_all(&archives)?;
        anyhow::ensure!(found, "`{}` has left no package", command::shown(&download));
        Ok(())
    }
}
