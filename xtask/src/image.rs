//! `cargo xtask image`: a static binary, and the container image that holds
//! nothing else.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::command::{run, shown};
use crate::static_binary::{self, Arch};
use crate::workspace::{root, target};

/// What the image is for.
#[derive(clap::Args)]
pub struct Args {
    /// Name and tag of the image
    #[arg(long, default_value = "localhost/redirector:latest", value_name = "NAME")]
    tag: String,
    /// What processors it is for [default: those of this machine]
    #[arg(long, value_enum, value_name = "ARCH")]
    arch: Option<Arch>,
    /// Puts this binary in, instead of building one; it must be static
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Further arguments of buildah, before its command, such as --root DIR
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    buildah: Vec<String>,
}

/// Builds the image.
pub fn build(args: &Args) -> Result<ExitCode> {
    let arch = args.arch.map_or_else(Arch::host, Ok)?;
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => static_binary::build(arch, false)?,
    };
    let mut build = buildah(&binary, arch, &args.tag, &args.buildah, &[])?;
    run(&mut build)
        .with_context(|| format!("`{}` made no image (apt-get install buildah)", shown(&build)))?;
    println!("{}", args.tag);
    Ok(ExitCode::SUCCESS)
}

/// The command that puts a static binary into an image of that name. The arguments are of
/// buildah, the options of its building.
pub fn buildah(
    binary: &Path,
    arch: Arch,
    tag: &str,
    arguments: &[String],
    options: &[&str],
) -> Result<Command> {
    let context = target().join("image-context");
    std::fs::create_dir_all(&context)?;
    std::fs::copy(binary, context.join("redirector"))
        .with_context(|| format!("cannot copy {}", binary.display()))?;
    let mut build = Command::new("buildah");
    build
        .args(arguments)
        .args(["bud", "--arch", arch.debian(), "--tag", tag])
        .args(options)
        .arg("--file")
        .arg(root().join("deploy/Containerfile"))
        .arg(&context);
    Ok(build)
}

/// Writes the image of a static binary as a file that `docker load`, `podman load` and
/// `kind load image-archive` read. It is the same for the same binary and `epoch`, seconds
/// since 1970.
pub fn archive(binary: &Path, arch: Arch, tag: &str, epoch: &str, file: &Path) -> Result<()> {
    // Storage of its own: no image of the user's is touched, and none is left.
    let store = target().join("package/images");
    let path = |name: &str| store.join(name).to_string_lossy().into_owned();
    let mut arguments = vec!["--storage-driver".to_owned(), "vfs".to_owned()];
    arguments.extend(["--root".to_owned(), path("root"), "--runroot".to_owned(), path("run")]);
    let options = ["--quiet", "--timestamp", epoch];
    run(buildah(binary, arch, tag, &arguments, &options)?.stdout(Stdio::null()))?;
    let mut push = Command::new("buildah");
    push.args(&arguments).args(["push", "--quiet", tag]);
    run(push.arg(format!("docker-archive:{}:{tag}", file.display())))?;
    std::fs::remove_dir_all(&store).with_context(|| format!("cannot remove {}", store.display()))
}
