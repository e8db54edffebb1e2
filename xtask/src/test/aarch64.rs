//! 64-bit ARM: the daemon compiles for it, and package, image and programs run on it, in an
//! emulated machine with Debian's kernel.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::libtest::{Case, Outcome, tail};
use super::pool::Test;
use super::table::Layer;
use super::{Selection, build, layers};
use crate::command;
use crate::cross;
use crate::package::{self, Packages};
use crate::static_binary::Arch;
use crate::vm::{self, initramfs};
use crate::workspace::{is_root, target};

/// The kernel tests that are run there, by words of their paths: those of what is another
/// on this processor. Kernels compile the programs to its instructions, and system calls
/// have other numbers, of which what relays for gateways may make few. In the others nothing
/// depends on the processor, or they take servers, systemd or too long.
const RUN: [&str; 11] = [
    "connect::",
    "daemon::gateways::a_gateway_is_served_",
    "daemon::gateways::gateways_go_on_",
    "daemon::relays::a_relay_in_a_unit_",
    "daemon::the_kernel_goes_on_",
    "decide::no_connection_",
    "doctor::doctor_finds_",
    "memory::with_accounting_",
    "takeover::everything_stays_",
    "takeover::other_sizes_",
    "takeover::unload_",
];

/// Whether the daemon compiles. Where it is to be run, it is built as for that.
pub fn compiles(all: bool) -> Outcome {
    if all {
        let built = initramfs::binaries(Arch::Aarch64, true);
        return layers::outcome(built.map(|build| build.complaints));
    }
    let mut command = match cross::compiling("") {
        Ok(Some(command)) => command,
        Ok(None) => return Outcome::Skipped(cross::missing()),
        Err(error) => return Outcome::Failed(format!("{error:#}")),
    };
    command
        .args(["check", "--quiet", "--package", "redirector-user", "--target", cross::TRIPLE])
        .args(["--profile", initramfs::profile(Arch::Aarch64), "--target-dir"])
        .arg(target().join("aarch64"));
    match command::output(&mut command) {
        // Warnings are of code that is for this processor alone: no other check sees it.
        Ok(output) if output.status.success() && output.stderr.is_empty() => Outcome::Passed,
        Ok(output) => Outcome::Failed(tail(&String::from_utf8_lossy(&output.stderr), 100)),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

/// Makes package and image, boots a machine with both, and runs the tests that fit.
pub fn layer(selection: &Selection, layer: &mut Layer) -> Result<()> {
    if !is_root() {
        let outcome = Outcome::Skipped("needs root".to_owned());
        layer.single(Case { name: "arm".into(), outcome, seconds: 0.0 });
        return Ok(());
    }
    let words: Vec<&str> = selection.only.as_deref().map_or(RUN.to_vec(), |word| vec![word]);
    let tests = layers::kernel_tests(build::all()?)?;
    let missing = words.iter().find(|word| !tests.iter().any(|test| test.name.contains(**word)));
    if let Some(word) = missing {
        bail!("no kernel test has `{word}` in its path");
    }
    let is_run = |test: &&Test<'_>| words.iter().any(|word| test.name.contains(word));
    let run = tests.iter().filter(is_run).count();
    println!("    {run} of {} kernel tests: see {}", tests.len(), file!());
    let begun = Instant::now();
    let built = initramfs::binaries(Arch::Aarch64, true)?;
    let program = built.program("redirector")?.to_owned();
    let output = target().join("aarch64/packed");
    package::clear(&output)?;
    let packages =
        Packages { arch: Arch::Aarch64, program, version: package::version().to_owned() };
    // The one for this machine writes the manual pages.
    packages.tree(build::all()?.program("redirector")?)?;
    let deb = packages.deb(&output, &["--fast"])?;
    let unpacked = output.join("unpacked");
    command::stdout(Command::new("dpkg").arg("-x").arg(deb).arg(&unpacked))?;
    layer.single(Case::since(begun, "the package is made", Outcome::Passed));
    let begun = Instant::now();
    let image = image(&packages, &output)?;
    layer.single(Case::since(begun, "the image is made", Outcome::Passed));
    let archive = initramfs::of_arm64(&built, &unpacked, &image)?;
    vm::arm64(&words.join(","), &archive, layer)
}

/// Makes the container image of that program, and opens it; gives back what a container has
/// as its root.
fn image(packages: &Packages, output: &Path) -> Result<PathBuf> {
    let Packages { arch, program, .. } = packages;
    let file = output.join("image.tar");
    crate::image::archive(program, *arch, "localhost/redirector:arm64", "0", &file)?;
    let opened = output.join("opened");
    open(&file, &opened)?;
    let read = |name: &Value| -> Result<Value> {
        let name = name.as_str().context("the image has no such part")?;
        Ok(serde_json::from_str(&std::fs::read_to_string(opened.join(name))?)?)
    };
    let manifest = read(&"manifest.json".into())?[0].take();
    let config = read(&manifest["Config"])?;
    if config["architecture"] != arch.debian() {
        bail!("the image is not for {}: {config:#}", arch.debian());
    }
    let root = output.join("image");
    for layer in manifest["Layers"].as_array().context("the image has no layers")? {
        open(&opened.join(layer.as_str().unwrap_or_default()), &root)?;
    }
    Ok(root)
}

/// Unpacks an archive there.
fn open(archive: &Path, place: &Path) -> Result<()> {
    std::fs::create_dir_all(place)?;
    command::run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(place))
}
