//! The kernels to boot: Debian's cloud kernels, downloaded as packages and
//! unpacked, never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::setup::debian::{self, Packages};
use crate::static_binary::Arch;
use crate::workspace::target;

/// A kernel that can be booted.
#[derive(Clone)]
pub struct Kernel {
    /// Its release, such as `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// What processors it is for.
    pub arch: Arch,
    /// The bzImage, or what that is elsewhere.
    pub image: PathBuf,
    /// The modules that tests need, in the order in which they are loaded.
    pub modules: Vec<PathBuf>,
}

/// The modules that tests need, in the order in which they are loaded: those
/// that a kernel has built in, or of whose kind it has none, are left out.
const MODULES: [(&str, &str); 5] = [
    ("net/ipv4", "inet_diag"),
    ("net/ipv4", "tcp_diag"),
    ("drivers/net", "veth"),
    // The one needs the other.
    ("drivers/infiniband/core", "ib_core"),
    ("net/smc", "smc"),
];

/// The file beside the kept modules that says which were wanted.
const WANTED: &str = "wanted";

/// A series of kernels that Debian packages.
struct Series {
    /// What its packages' names begin with.
    prefix: &'static str,
    /// How its packages' names end, in order of preference.
    suffixes: &'static [&'static str],
}

/// The oldest series that is supported, on 64-bit ARM.
const ARM64: Series = Series { prefix: "linux-image-6.1.0-", suffixes: &["-cloud-arm64"] };

/// The oldest series that is supported, and a current one.
const SERIES: &[Series] = &[
    Series { prefix: "linux-image-6.1.0-", suffixes: &["-cloud-amd64"] },
    Series { prefix: "linux-image-6.12.", suffixes: &["-cloud-amd64", "-cloud-amd64-unsigned"] },
];

impl Kernel {
    /// A kernel image of the user's, for x86_64.
    pub fn of_file(image: &Path) -> Result<Self> {
        Self::of_image(image, Arch::X86_64)
    }

    fn of_image(image: &Path, arch: Arch) -> Result<Self> {
        let image =
            image.canonicalize().with_context(|| format!("no kernel at {}", image.display()))?;
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let release = name.strip_prefix("vmlinuz-").unwrap_or(&name).to_owned();
        Ok(Self { release, arch, image, modules: Vec::new() })
    }

    /// The newest of each series that Debian offers, downloaded if need be.
    pub fn of_debian() -> Result<Vec<Self>> {
        if !debian::present() {
            bail!(
                "Debian's kernels are fetched with apt-get, which this system does not have; \
                 give a kernel image with --kernel PATH"
            );
        }
        let newest = |series: &Series| series.newest(&Packages::default(), Arch::X86_64);
        SERIES.iter().map(newest).collect()
    }

    /// That of Debian's for 64-bit ARM, downloaded if need be.
    pub fn of_arm64() -> Result<Self> {
        if !debian::present() {
            bail!("Debian's kernels are fetched with apt-get, which this system does not have");
        }
        ARM64.newest(&Packages::of_arm64()?, Arch::Aarch64)
    }
}

impl Series {
    fn newest(&self, packages: &Packages, arch: Arch) -> Result<Kernel> {
        let mut package = self.package(packages)?;
        if package.is_none() {
            packages.update()?;
            package = self.package(packages)?;
        }
        let Some(package) = package else {
            bail!(
                "no package {}*{} is known to apt; `apt-get update` fetches the lists, \
                 and --kernel PATH takes any kernel image",
                self.prefix,
                self.suffixes[0]
            );
        };
        unpacked(packages, &package, arch)
    }

    /// The name of the newest package.
    fn package(&self, packages: &Packages) -> Result<Option<String>> {
        let names = packages.names(self.prefix)?;
        Ok(self.newest_of(names.lines()).map(str::to_owned))
    }

    fn newest_of<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
        self.suffixes.iter().find_map(|suffix| {
            names
                .clone()
                .filter_map(|name| {
                    let version = name.strip_prefix(self.prefix)?.strip_suffix(suffix)?;
                    let number = version.split(['+', '-']).next()?.parse::<u32>().ok()?;
                    Some((number, name))
                })
                .max()
                .map(|newest| newest.1)
        })
    }
}

/// The kernel in a package, from the cache or downloaded.
fn unpacked(packages: &Packages, package: &str, arch: Arch) -> Result<Kernel> {
    let cache = target().join("vm/kernels");
    let directory = cache.join(package);
    // An older version of this left out some of the modules.
    let kept = std::fs::read_to_string(directory.join("modules").join(WANTED));
    if directory.exists() && kept.ok() != Some(wanted()) {
        std::fs::remove_dir_all(&directory)?;
    }
    if !directory.exists() {
        println!("downloading {package}");
        let unfinished = cache.join(format!("{package}.unfinished"));
        packages.unpack(package, &unfinished)?;
        keep_modules(&unfinished)?;
        // The others are not needed, and large.
        for rest in ["lib", "usr"] {
            let rest = unfinished.join(rest);
            if rest.exists() {
                std::fs::remove_dir_all(&rest)?;
            }
        }
        std::fs::rename(&unfinished, &directory)?;
    }
    let boot = directory.join("boot");
    let image = boot
        .read_dir()
        .with_context(|| format!("{package} has no /boot"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("/vmlinuz-"))
        .with_context(|| format!("{package} has no kernel image"))?;
    let modules = MODULES.map(|(_, name)| directory.join("modules").join(format!("{name}.ko")));
    let modules = modules.into_iter().filter(|path| path.exists()).collect();
    Ok(Kernel { modules, ..Kernel::of_image(&image, arch)? })
}

/// What the list of the kept modules says.
fn wanted() -> String {
    MODULES.map(|(place, name)| format!("{place}/{name}\n")).concat()
}

/// Copies the modules that tests need out of an unpacked package.
fn keep_modules(package: &Path) -> Result<()> {
    let kept = package.join("modules");
    std::fs::create_dir_all(&kept)?;
    for part in ["lib/modules", "usr/lib/modules"] {
        let Ok(releases) = package.join(part).read_dir() else { continue };
        for release in releases {
            let kernel = release?.path().join("kernel");
            for (place, name) in MODULES {
                let plain = kernel.join(place).join(format!("{name}.ko"));
                let packed = kernel.join(place).join(format!("{name}.ko.xz"));
                if packed.exists() {
                    command::stdout(Command::new("xz").arg("--decompress").arg(&packed))?;
                }
                if plain.exists() {
                    std::fs::rename(&plain, kept.join(format!("{name}.ko")))?;
                }
            }
        }
    }
    std::fs::write(kept.join(WANTED), wanted())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_is_chosen_by_number() {
        let names = [
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.120+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.117+deb12-rt-amd64",
            "linux-image-6.12.30+bpo-cloud-amd64",
        ];
        assert_eq!(SERIES[1].newest_of(names.into_iter()), Some(names[1]));
        assert_eq!(SERIES[1].newest_of(names[2..4].iter().copied()), Some(names[2]));
        assert_eq!(SERIES[0].newest_of(names.into_iter()), None);
    }
}
