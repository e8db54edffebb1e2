//! What the virtual machine boots into: this build's binaries, linked
//! statically, and a userland of busybox and `ip`, or all of a Debian.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::guest;
use super::kernel::Kernel;
use super::newc::Archive;
use crate::command;
use crate::setup::debian::Packages;
use crate::static_binary::{Arch, cargo_for};
use crate::test::build::{self, Build};
use crate::test::layers;
use crate::workspace::{root, target, which};

/// What busybox has less of, and where it lies: iproute2's knows network namespaces,
/// util-linux' ends with what it has begun.
const PROGRAMS: [(&str, &str); 2] = [("ip", "/sbin/ip"), ("unshare", "/bin/unshare")];

/// The cargo profile of an architecture: see the workspace's Cargo.toml.
pub const fn profile(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "vm",
        Arch::Aarch64 => "arm",
    }
}

/// Builds `xtask` and `redirector`, linked statically, and with them the kernel tests: one
/// after the other they would have other features, and much would be compiled twice.
pub fn binaries(arch: Arch, with_tests: bool) -> Result<Build> {
    println!("building static binaries for {}", arch.name());
    // Not by their packages: all have the features that the workspace has together.
    let mut build = cargo_for(arch, "-C relocation-model=static")?;
    build.args(["build", "--bin", "xtask", "--bin", "redirector"]);
    if with_tests {
        build.args(["--test", layers::KERNEL]);
    }
    let place = match arch {
        Arch::X86_64 => "vm/build",
        // Where lints have compiled some of it.
        Arch::Aarch64 => "aarch64",
    };
    build
        .args(["--profile", profile(arch), "--target", arch.triple(), "--target-dir"])
        .arg(target().join(place));
    build::by(&mut build)
}

/// Builds everything and writes the archive; gives back its path.
pub fn build(with_tests: bool) -> Result<PathBuf> {
    let build = binaries(Arch::X86_64, with_tests)?;
    let mut archive = Tree::default();
    archive.copy(build.program("redirector")?, guest::REDIRECTOR)?;
    if with_tests {
        archive.tests(&build)?;
    }
    archive.userland()?;
    archive.finish(&build, "initramfs")
}

/// The same for 64-bit ARM, with the kernel tests. The program in it is that of a package,
/// whose files are in `package`, unpacked; `image` is the root of the container image.
pub fn of_arm64(build: &Build, package: &Path, image: &Path) -> Result<PathBuf> {
    let mut archive = Tree::default();
    archive.copy_tree(package, "")?;
    archive.symlink(guest::REDIRECTOR, "/usr/bin/redirector");
    archive.tests(build)?;
    archive.userland_of_arm64()?;
    archive.copy_tree(image, guest::IMAGE)?;
    archive.finish(build, "initramfs-arm64")
}

/// The unit that runs in a whole Debian what the host asked for.
const UNIT: &str = "[Unit]
Description=What this machine was booted for
[Service]
ExecStartPre=/sbin/depmod
ExecStart=/guest guest
PassEnvironment=REDIRECTOR_GUEST REDIRECTOR_RESULTS
";

/// A whole Debian, that of `root`, which begins with its own systemd; with these packages,
/// and the kernel tests.
pub fn of_debian(
    build: &Build,
    root: &Path,
    packages: &[PathBuf],
    kernel: &Kernel,
) -> Result<PathBuf> {
    let mut archive = Tree::default();
    for package in packages {
        let name = package.file_name().unwrap_or_default().to_string_lossy();
        archive.copy(package, &format!("{}/{name}", guest::PACKAGES))?;
    }
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.copy(module, &format!("/usr/lib/modules/{}/{name}", kernel.release))?;
    }
    archive.copy(&build.test(layers::KERNEL)?.path, guest::TESTS)?;
    archive.copy(build.program("xtask")?, "/guest")?;
    let units = "/etc/systemd/system";
    archive.text(&format!("{units}/guest.service"), UNIT);
    archive.symlink(&format!("{units}/multi-user.target.wants/guest.service"), "../guest.service");
    archive.symlink("/init", "/sbin/init");
    let path = archive.write("initramfs-debian")?;
    // Before it, and with the owners and modes that its files have. The kernel unpacks one
    // archive after the other.
    let ours = path.with_extension("ours");
    std::fs::rename(&path, &ours)?;
    let script = r#"cd "$1"
        (find . -xdev -print0 | cpio --null --create --format newc --quiet; cat "$2") > "$3""#;
    let mut all = Command::new("sh");
    all.args(["-ec", script, "sh"]).args([root, &ours, &path]);
    command::run(&mut all)?;
    std::fs::remove_file(&ours)?;
    Ok(path)
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

    /// The kernel tests, and what they take.
    fn tests(&mut self, build: &Build) -> Result<()> {
        self.copy(&layers::recording_object()?, guest::RECORDING_OBJECT)?;
        self.surroundings()?;
        // Where the tests were told at compile time that their program lies.
        let program = build.program("redirector-under-test")?;
        self.symlink(&program.to_string_lossy(), guest::REDIRECTOR);
        self.copy(&build.test(layers::KERNEL)?.path, guest::TESTS)
    }

    /// What all machines have; writes the archive, and gives back its path.
    fn finish(mut self, build: &Build, name: &str) -> Result<PathBuf> {
        self.copy(build.program("xtask")?, "/init")?;
        for directory in ["examples", "demo"] {
            self.copy_tree(
                &root().join("deploy").join(directory),
                &format!("{}/{directory}", guest::DOCUMENTS),
            )?;
        }
        for place in ["/proc", "/sys", "/dev", "/run", "/tmp", "/etc"] {
            self.directory(place);
        }
        self.write(name)
    }

    /// Writes the archive, and gives back its path.
    fn write(mut self, name: &str) -> Result<PathBuf> {
        self.directory("/dev");
        // The first process gets its standard streams from this one.
        self.archive.device("/dev/console", 5, 1);
        let path = target().join("vm").join(name).with_extension("cpio");
        std::fs::create_dir_all(target().join("vm"))?;
        std::fs::write(&path, self.archive.finish())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn symlink(&mut self, path: &str, to: &str) {
        self.parent_of(path);
        self.archive.symlink(path, to);
    }

    fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let content =
            std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.parent_of(to);
        self.archive.file(to, &content);
        Ok(())
    }

    fn text(&mut self, path: &str, content: &str) {
        self.parent_of(path);
        self.archive.text(path, content);
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

    /// Busybox under all its names, and [`PROGRAMS`], with their libraries.
    fn userland(&mut self) -> Result<()> {
        self.programs(ours)?;
        let mut all = BTreeSet::new();
        for (name, _) in PROGRAMS {
            all.extend(libraries(&ours(name)?)?);
        }
        for library in all {
            self.copy(&library, &library.to_string_lossy())?;
        }
        Ok(())
    }

    /// The same out of Debian's packages for 64-bit ARM, downloaded if need be.
    fn userland_of_arm64(&mut self) -> Result<()> {
        let place = target().join("aarch64/userland");
        if !place.exists() {
            println!("downloading busybox, ip and unshare for 64-bit ARM");
            let unfinished = target().join("aarch64/unfinished");
            let packages = Packages::of_arm64()?;
            packages.update()?;
            let names = ["busybox-static", "iproute2", "util-linux"];
            packages.unpack_with_dependencies(&names, &unfinished)?;
            std::fs::rename(&unfinished, &place)?;
        }
        self.programs(|name| {
            let mut paths = ["bin", "usr/bin"].iter().map(|bin| place.join(bin).join(name));
            paths.find(|path| path.exists()).with_context(|| format!("Debian has no {name}"))
        })?;
        // Whose libraries are whose is not asked: they are small.
        for directory in ["lib", "lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu"] {
            for entry in place.join(directory).read_dir()? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name.contains(".so") && path.is_file() {
                    self.copy(&path, &format!("/{directory}/{name}"))?;
                }
            }
        }
        Ok(())
    }

    fn programs(&mut self, found: impl Fn(&str) -> Result<PathBuf>) -> Result<()> {
        self.copy(&found("busybox")?, "/bin/busybox")?;
        // Of this machine's: that of another processor cannot be asked.
        for applet in command::stdout(Command::new(ours("busybox")?).arg("--list"))?.lines() {
            if !["busybox", "redirector", "init"].contains(&applet)
                && PROGRAMS.iter().all(|(name, _)| *name != applet)
            {
                self.archive.symlink(&format!("/bin/{applet}"), "busybox");
            }
        }
        for (name, to) in PROGRAMS {
            self.copy(&found(name)?, to)?;
        }
        Ok(())
    }
}

/// A program of this machine.
fn ours(name: &str) -> Result<PathBuf> {
    which(name).with_context(|| format!("{name} is missing: `cargo xtask setup`"))
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
