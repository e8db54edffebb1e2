//! The packages, installed on a fresh Debian that has systemd as its first process: in
//! namespaces, and for what becomes of a package in a virtual machine with Debian's kernel.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use super::Selection;
use super::layers;
use super::libtest::{Case, Outcome};
use super::table::Layer;
use crate::command::{run, stdout};
use crate::package::{self, Packages};
use crate::static_binary::Arch;
use crate::vm::{self, initramfs};
use crate::workspace::{is_root, target};

/// What a Debian machine has that matters here, and what examples and tests take.
const DEBIAN: &str = "systemd,systemd-sysv,dbus,iproute2,procps,socat,\
                      bash-completion,zsh,fish,jq,man-db,rpm,kmod";

/// Makes packages of two versions out of the program that the virtual machines get,
/// looks at them, and runs the tests of them.
pub fn layer(selection: &Selection, layer: &mut Layer) -> Result<()> {
    if !is_root() {
        let outcome = Outcome::Skipped("needs root".to_owned());
        layer.single(Case { name: "packages".into(), outcome, seconds: 0.0 });
        return Ok(());
    }
    let build = initramfs::binaries(Arch::host()?, true)?;
    let program = build.program("redirector")?.to_owned();
    let begun = Instant::now();
    let output = target().join("xtask/packages");
    package::clear(&output)?;
    let arch = Arch::host()?;
    for version in versions()? {
        let packages = Packages { arch, program: program.clone(), version };
        packages.make(&program, &output)?;
    }
    layer.single(Case::since(begun, "the packages are made", Outcome::Passed));
    let begun = Instant::now();
    let outcome = match wrappings(&output, arch) {
        Ok(()) => Outcome::Passed,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    };
    layer.single(Case::since(begun, "all packages hold the same files", outcome));
    let begun = Instant::now();
    let root = machine()?;
    layer.single(Case::since(begun, "a machine is made", Outcome::Passed));
    let given = |name: &str, path: &Path| (name.to_owned(), path.to_string_lossy().into_owned());
    let environment =
        vec![given("REDIRECTOR_TESTS_PACKAGES", &output), given("REDIRECTOR_TESTS_ROOT", &root)];
    let debs: Vec<_> = versions()?.iter().map(|version| deb(&output, version, arch)).collect();
    layers::of_packages(environment, selection, layer, |layer| {
        vm::debian(&root, &debs, &build, selection, layer)
    })
}

/// This one, and the one after it.
fn versions() -> Result<[String; 2]> {
    let version = package::version();
    let next = version.rsplit_once('.').and_then(|(before, last)| {
        let last: u32 = last.parse().ok()?;
        Some(format!("{before}.{}", last + 1))
    });
    match next {
        Some(next) => Ok([version.to_owned(), next]),
        None => bail!("{version} is no version that another comes after"),
    }
}

/// The root of a fresh Debian; kept, because it is downloaded.
fn machine() -> Result<PathBuf> {
    let place = target().join("xtask/debian");
    // Named by what it has: one that was made of less will not do.
    let root = place.join(DEBIAN.replace(',', "+"));
    if root.exists() {
        return Ok(root);
    }
    package::clear(&place)?;
    let unfinished = place.join("unfinished");
    let mut debootstrap = Command::new("mmdebstrap");
    debootstrap
        .args(["--quiet", "--variant=minbase", "--include", DEBIAN, "bookworm"])
        .arg(&unfinished);
    run(&mut debootstrap)?;
    std::fs::rename(&unfinished, &root)?;
    Ok(root)
}

/// Whether .deb, .rpm and archive are wrappings of the same.
fn wrappings(output: &Path, arch: Arch) -> Result<()> {
    let [version, _] = versions()?;
    let path = |name: String| output.join(name).to_string_lossy().into_owned();
    let deb = deb(output, &version, arch).to_string_lossy().into_owned();
    let rpm = path(format!("redirector-{version}-1.{}.rpm", arch.name()));
    let archive = path(format!("redirector-{version}-linux-{}.tar.gz", arch.name()));
    // Mode, size and path of each file, whoever lists them.
    let deb = listed(&format!("dpkg-deb --fsys-tarfile {deb} | tar -tv"), "./")?;
    let archive = listed(&format!("tar -tvzf {archive}"), &archive_top(&version, arch))?;
    let told =
        stdout(Command::new("rpm").args(["-qp", "--queryformat", "%{NAME} %{VERSION}", &rpm]))?;
    if told != format!("redirector {version}") {
        bail!("rpm reads the name and version `{told}`");
    }
    let rpm = listed(&format!("rpm2cpio {rpm} | cpio --quiet -itv"), "./")?;
    for (what, files) in [("the .rpm", &rpm), ("the archive", &archive)] {
        let differ: Vec<_> = deb.iter().filter(|file| !files.contains(file)).collect();
        if !differ.is_empty() || files.len() < deb.len() {
            bail!("{what} has not what the .deb has: {differ:?}, but {files:?}");
        }
    }
    Ok(())
}

fn deb(output: &Path, version: &str, arch: Arch) -> PathBuf {
    output.join(format!("redirector_{version}_{}.deb", arch.debian()))
}

fn archive_top(version: &str, arch: Arch) -> String {
    format!("redirector-{version}-linux-{}/", arch.name())
}

/// What a pipe of commands lists, without directories: mode and path.
fn listed(pipe: &str, top: &str) -> Result<Vec<String>> {
    let text = stdout(Command::new("sh").args(["-ec", pipe]))?;
    let files = text.lines().filter(|line| line.starts_with('-')).filter_map(|line| {
        let (mode, _) = line.split_once(char::is_whitespace)?;
        let path = line.split_whitespace().last()?;
        // Made by the tool, out of the licence's name.
        let path = path.strip_prefix(top).unwrap_or(path).trim_start_matches('/');
        (path != "usr/share/doc/redirector/copyright").then(|| format!("{mode} {path}"))
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    Ok(files)
}
