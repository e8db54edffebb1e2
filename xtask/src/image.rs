//! `cargo xtask image`: a static binary, and the container image that holds
//! nothing else.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::command::{run, shown};
use crate::workspace::{cargo, root, target};

/// What the image is for.
#[derive(clap::Args)]
pub struct Args {
    /// Name and tag of the image
    #[arg(long, default_value = "localhost/redirector:latest", value_name = "NAME")]
    tag: String,
    /// Puts this binary in, instead of building one; it must be static
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Further arguments of buildah, before its command, such as --root DIR
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    buildah: Vec<String>,
}

/// The target that std of every stable toolchain links statically for.
fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// The static binary, built if none was given.
fn binary(args: &Args) -> Result<PathBuf> {
    if let Some(binary) = &args.binary {
        return Ok(binary.clone());
    }
    // A directory of its own: the flags would rebuild everything else.
    let directory = target().join("image");
    let mut build = cargo();
    build
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_TARGET_DIR", &directory)
        .args(["build", "--release", "-p", "redirector-user", "--bin", "redirector"])
        // Named, so that the flags do not reach build scripts and macros.
        .args(["--target", &triple()]);
    run(&mut build)?;
    Ok(directory.join(triple()).join("release/redirector"))
}

/// Builds the image.
pub fn build(args: &Args) -> Result<ExitCode> {
    let mut build = buildah(&binary(args)?, &args.tag, &args.buildah)?;
    run(&mut build)
        .with_context(|| format!("`{}` made no image (apt-get install buildah)", shown(&build)))?;
    println!("{}", args.tag);
    Ok(ExitCode::SUCCESS)
}

/// The command that puts a static binary into an image of that name.
pub fn buildah(binary: &Path, tag: &str, arguments: &[String]) -> Result<Command> {
    let context = target().join("image-context");
    std::fs::create_dir_all(&context)?;
    std::fs::copy(binary, context.join("redirector"))
        .with_context(|| format!("cannot copy {}", binary.display()))?;
    let mut build = Command::new("buildah");
    build
        .args(arguments)
        .args(["bud", "--tag", tag, "--file"])
        .arg(root().join("deploy/Containerfile"))
        .arg(&context);
    Ok(build)
}
