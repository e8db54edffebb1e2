//! `cargo xtask package`: everything that a release consists of.
//!
//! What a package installs lies in one [tree](tree), as it will lie on the machine:
//! the .deb, the .rpm and the archive are three wrappings of it.

pub mod notes;
mod tree;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::command::{run as call, stdout};
use crate::setup::{self, Purpose};
use crate::static_binary::{self, Arch};
use crate::workspace::{cargo, root, target};

/// What is packaged.
#[derive(clap::Args)]
pub struct Args {
    /// What processors it is for [default: this machine's, and aarch64]
    #[arg(long, value_enum, value_name = "ARCH")]
    arch: Vec<Arch>,
    /// Where the packages go [default: target/packages]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Makes packages and image of each architecture, their bills of materials, and the
/// checksums.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Purpose::Release)?;
    let host = Arch::host()?;
    let mut all = if args.arch.is_empty() { vec![host, Arch::Aarch64] } else { args.arch.clone() };
    all.dedup();
    let output = args.output.clone().unwrap_or_else(|| target().join("packages"));
    clear(&output)?;
    // It also writes the manual pages of the others.
    let ours = static_binary::build(host, true)?;
    for arch in all {
        let program = if arch == host { ours.clone() } else { static_binary::build(arch, true)? };
        let packages = Packages { arch, program, version: version().to_owned() };
        packages.make(&ours, &output)?;
        let tag = format!("localhost/redirector:{}", version());
        let file = format!("redirector-{}-image-{}.tar", version(), arch.name());
        crate::image::archive(&packages.program, arch, &tag, &epoch()?, &output.join(file))?;
        bill(arch, &output)?;
    }
    sums(&output)?;
    for file in files(&output)? {
        println!("{}", output.join(file).display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The version of this checkout.
pub const fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// One program to be packaged.
pub struct Packages {
    /// What it was built for.
    pub arch: Arch,
    /// It.
    pub program: PathBuf,
    /// The version that the packages have.
    pub version: String,
}

impl Packages {
    /// Makes .deb, .rpm and archive. `ours` is the same program for this machine.
    pub fn make(&self, ours: &Path, output: &Path) -> Result<()> {
        let Self { arch, version, .. } = self;
        let tree = self.tree(ours)?;
        self.deb(output, &[])?;
        let (place, epoch) = (place().to_string_lossy().into_owned(), epoch()?);
        let mut rpm = cargo();
        rpm.args(["generate-rpm", "--package", "redirector-user", "--auto-req", "disabled"])
            .args(["--target", arch.triple(), "--target-dir", &place])
            // What every reader of packages understands.
            .args(["--payload-compress", "gzip"])
            .args(["--set-metadata", &format!("version = {version:?}"), "--output"])
            .arg(output.join(format!("redirector-{version}-1.{}.rpm", arch.name())));
        call(rpm.env("CARGO_TARGET_DIR", &place).env("SOURCE_DATE_EPOCH", &epoch))?;
        let name = format!("redirector-{version}-linux-{}", arch.name());
        let mut archive = Command::new("tar");
        archive
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .args([format!("--mtime=@{epoch}"), format!("--transform=s,^\\.,{name},")])
            .arg("--gzip")
            .arg("--file")
            .arg(output.join(format!("{name}.tar.gz")))
            .arg("--directory")
            .arg(&tree)
            .args(["--create", "."]);
        call(&mut archive)
    }

    /// Makes the tree of what they install anew, where the tools look for it.
    pub fn tree(&self, ours: &Path) -> Result<PathBuf> {
        let tree = place().join(self.arch.triple()).join("release/tree");
        tree::grow(&tree, &self.program, ours)?;
        Ok(tree)
    }

    /// Makes the .deb of that tree, with further options of cargo-deb; gives back its path.
    pub fn deb(&self, output: &Path, options: &[&str]) -> Result<PathBuf> {
        let Self { arch, version, .. } = self;
        let path = output.join(format!("redirector_{version}_{}.deb", arch.debian()));
        let mut deb = cargo();
        deb.args(["deb", "--quiet", "--no-build", "--no-strip", "--package", "redirector-user"])
            .args(["--target", arch.triple(), "--deb-version", version])
            .args(options)
            .arg("--output")
            .arg(&path);
        call(deb.env("CARGO_TARGET_DIR", place()).env("SOURCE_DATE_EPOCH", epoch()?))?;
        Ok(path)
    }
}

/// Where both tools look for what is built.
fn place() -> PathBuf {
    target().join("package")
}

/// Makes it an empty directory.
pub fn clear(directory: &Path) -> Result<()> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))
}

/// When the last commit was made, in seconds since 1970: who builds it again gets the
/// same packages.
fn epoch() -> Result<String> {
    let mut log = Command::new("git");
    log.current_dir(root()).args(["log", "-1", "--format=%ct"]);
    Ok(stdout(&mut log)?.trim().to_owned())
}

/// The CycloneDX bill of the program's materials.
fn bill(arch: Arch, output: &Path) -> Result<()> {
    const NAME: &str = "redirector-bill";
    let mut tool = cargo();
    tool.args(["cyclonedx", "--quiet", "--format", "json", "--target", arch.triple()])
        .args(["--spec-version", "1.5", "--override-filename", NAME])
        .env("SOURCE_DATE_EPOCH", epoch()?)
        .arg("--manifest-path")
        .arg(root().join("redirector-user/Cargo.toml"));
    call(&mut tool)?;
    // It writes one beside the manifest of every member.
    let name = format!("{NAME}.json");
    let made = root().join("redirector-user").join(&name);
    let ours = output.join(format!("redirector-{}-linux-{}.cdx.json", version(), arch.name()));
    let bill =
        std::fs::read_to_string(&made).with_context(|| format!("no bill at {}", made.display()))?;
    // Where it was built is nobody's business, and no part of it.
    std::fs::write(&ours, bill.replace(&*root().to_string_lossy(), ""))?;
    for member in crate::workspace::members()? {
        let _ = std::fs::remove_file(member.join(&name));
    }
    Ok(())
}

/// The names of what is there, sorted.
fn files(output: &Path) -> Result<Vec<String>> {
    let entries = output.read_dir()?.collect::<std::io::Result<Vec<_>>>()?;
    let mut names: Vec<_> =
        entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// Writes SHA256SUMS, as `sha256sum --check` reads it.
fn sums(output: &Path) -> Result<()> {
    let mut sum = Command::new("sha256sum");
    sum.current_dir(output).args(files(output)?);
    std::fs::write(output.join("SHA256SUMS"), stdout(&mut sum)?)?;
    Ok(())
}
