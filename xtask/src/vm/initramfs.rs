//! What the virtual machine boots into: this build's binaries, linked
//! statically, and a userland of busybox and `ip`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::guest;
use super::newc::Archive;
use crate::command;
use crate::test::{build, layers};
use crate::workspace::{cargo, root, target, which};

/// The target that static binaries are built for. It is named to cargo even
/// where it is the host's, so that build scripts and macros stay dynamic.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The cargo profile: see the workspace's Cargo.toml.
const PROFILE: &str = "vm";

/// Builds `xtask` and `redirector`, linked statically; gives back the directory
/// that they are in.
pub fn binaries() -> Result<PathBuf> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the virtual machines are x86_64, and so must be the machine that builds for them");
    }
    println!("building static binaries");
    // Not by their packages: all have the features that the workspace has together, so
    // that nothing is compiled twice.
    command::run(static_build("build").args(["--bin", "xtask", "--bin", "redirector"]))?;
    Ok(target().join("vm/build").join(TARGET).join(PROFILE))
}

/// Builds everything and writes the archive; gives back its path.
pub fn build(with_tests: bool) -> Result<PathBuf> {
    let binaries = binaries()?;
    let mut archive = Tree::default();
    archive.copy(&binaries.join("xtask"), "/init")?;
    archive.copy(&binaries.join("redirector"), guest::REDIRECTOR)?;
    if with_tests {
        archive.copy(&layers::recording_object()?, guest::RECORDING_OBJECT)?;
        archive.surroundings()?;
        // Where the tests were told at compile time that their program lies.
        let program = binaries.join("redirector-under-test").to_string_lossy().into_owned();
        archive.parent_of(&program);
        archive.archive.symlink(&program, guest::REDIRECTOR);
        let mut tests = static_build("test");
        tests.args(["--test", layers::KERNEL]);
        archive.copy(&build::tests(&mut tests)?.test(layers::KERNEL)?.path, guest::TESTS)?;
    }
    archive.userland()?;
    for directory in ["examples", "demo"] {
        archive.copy_directory(
            &root().join("deploy").join(directory),
            &format!("{}/{directory}", guest::DOCUMENTS),
        )?;
    }
    for place in ["/proc", "/sys", "/dev", "/run", "/tmp", "/etc"] {
        archive.directory(place);
    }
    // The first process gets its standard streams from this one.
    archive.archive.device("/dev/console", 5, 1);
    let path = target().join("vm/initramfs.cpio");
    std::fs::write(&path, archive.archive.finish())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn static_build(subcommand: &str) -> Command {
    let mut command = cargo();
    command
        .arg(subcommand)
        .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(target().join("vm/build"))
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    command
}

/// An archive that knows which directories it has.
#[derive(Default)]
struct Tree {
    archive: Archive,
    directories: BTreeSet<String>,
}

impl Tree {
    fn directory(&mut self, path: &str) {
        if path.is_empty() || path == "/" || self.directories.contains(path) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.archive.directory(path);
        self.directories.insert(path.to_owned());
    }

    fn parent_of(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let content =
            std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.parent_of(to);
        self.archive.file(to, &content);
        Ok(())
    }

    fn copy_directory(&mut self, from: &Path, to: &str) -> Result<()> {
        for entry in from.read_dir().with_context(|| format!("cannot read {}", from.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            self.copy(&entry.path(), &format!("{to}/{name}"))?;
        }
        Ok(())
    }

    /// What tests read of the checkout, where they were compiled to look for it,
    /// and the certificates that a TLS client wants to find on a machine.
    fn surroundings(&mut self) -> Result<()> {
        let at = |part: &str| root().join(part).to_string_lossy().into_owned();
        self.directory(&at("tests"));
        self.copy_tree(&root().join("deploy"), &at("deploy"))?;
        let roots = "/etc/ssl/certs/ca-certificates.crt";
        if Path::new(roots).exists() {
            self.copy(Path::new(roots), roots)?;
        }
        Ok(())
    }

    fn copy_tree(&mut self, from: &Path, to: &str) -> Result<()> {
        for entry in from.read_dir().with_context(|| format!("cannot read {}", from.display()))? {
            let path = entry?.path();
            let to = format!("{to}/{}", path.file_name().unwrap_or_default().to_string_lossy());
            match path.is_dir() {
                true => self.copy_tree(&path, &to)?,
                false => self.copy(&path, &to)?,
            }
        }
        Ok(())
    }

    /// Busybox under all its names, and with their libraries iproute2's `ip`, which knows
    /// network namespaces, and util-linux' `unshare`, which ends with what it has begun.
    fn userland(&mut self) -> Result<()> {
        let busybox = which("busybox").context("busybox is missing: `cargo xtask setup`")?;
        self.copy(&busybox, "/bin/busybox")?;
        for applet in command::stdout(Command::new(&busybox).arg("--list"))?.lines() {
            if !matches!(applet, "busybox" | "ip" | "unshare" | "redirector" | "init") {
                self.archive.symlink(&format!("/bin/{applet}"), "busybox");
            }
        }
        let mut all = BTreeSet::new();
        for (name, to) in [("ip", "/sbin/ip"), ("unshare", "/bin/unshare")] {
            let program =
                which(name).with_context(|| format!("{name} is missing: `cargo xtask setup`"))?;
            self.copy(&program, to)?;
            all.extend(libraries(&program)?);
        }
        for library in all {
            self.copy(&library, &library.to_string_lossy())?;
        }
        Ok(())
    }
}

/// The shared libraries of a program, the dynamic linker among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = command::stdout(Command::new("ldd").arg(program))?;
    Ok(paths_of_ldd(&text))
}

fn paths_of_ldd(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_that_ldd_names_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths = ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(paths_of_ldd(text), paths.map(PathBuf::from));
    }
}
