//! Finds the toolchain for the BPF target and builds the programs with it.
//!
//! Two kinds of Rust can build for `bpfel-unknown-none`: one that carries a
//! ready `core` for it, as Debian's packages do, and a nightly of rustup with
//! the `rust-src` component, which builds `core` first. [`find`] takes the
//! first that is there, or says what is missing and what installs it. Used by
//! the build script of `redirector-user` and by `cargo xtask`.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The target: the same object serves every little-endian machine.
pub const TARGET: &str = "bpfel-unknown-none";

/// The package that holds the programs.
const PACKAGE: &str = "redirector-ebpf";

/// The arguments of clippy's driver, in the form in which `cargo clippy` hands them on.
const DENY_WARNINGS: &str = "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__";

/// The name of the object file.
const OBJECT: &str = "redirector";

/// Something that has to be installed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    /// What.
    pub what: String,
    /// The commands that install it; one of them is enough.
    pub install: Vec<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; install it with: {}", self.what, self.install.join("  or  "))
    }
}

/// Where `core` for the target comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Core {
    /// The sysroot has it.
    Ready,
    /// Built from the sources in the sysroot (`-Z build-std`).
    Source,
}

/// A toolchain that can build the programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Builder {
    cargo: PathBuf,
    rustc: PathBuf,
    linker: PathBuf,
    core: Core,
}

impl fmt::Display for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = match self.core {
            Core::Ready => "ready core",
            Core::Source => "core from rust-src",
        };
        write!(f, "{} ({core}), {}", self.rustc.display(), self.linker.display())
    }
}

/// Finds a toolchain, or all that is missing.
///
/// # Errors
///
/// What is missing.
pub fn find() -> Result<Builder, Vec<Missing>> {
    let mut missing = Vec::new();
    let rust = rusts().into_iter().find_map(|rust| {
        let core = core_of(&rust.sysroot)?;
        Some((rust, core))
    });
    if rust.is_none() {
        missing.push(Missing {
            what: format!("no Rust toolchain that can build for {TARGET}"),
            install: vec![
                "rustup toolchain install nightly --component rust-src".into(),
                "apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf (Debian)".into(),
            ],
        });
    }
    let linker = in_path("bpf-linker");
    if linker.is_none() {
        missing.push(Missing {
            what: "bpf-linker is not in PATH".into(),
            install: vec![
                "cargo install bpf-linker".into(),
                "apt-get install llvm-22-dev && LLVM_PREFIX=/usr/lib/llvm-22 cargo install \
                 bpf-linker@0.13.0 --no-default-features --features llvm-22 (with a system LLVM; \
                 its version must be at least that of rustc's)"
                    .into(),
            ],
        });
    }
    match (rust, linker) {
        (Some((rust, core)), Some(linker)) => {
            Ok(Builder { cargo: rust.cargo, rustc: rust.rustc, linker, core })
        }
        _ => Err(missing),
    }
}

impl Builder {
    /// Builds the object with these features, below this target directory, which
    /// must not be one that a waiting cargo holds locked. All builds can share one:
    /// each set of features has a file of its own there.
    ///
    /// # Errors
    ///
    /// What the compiler said.
    pub fn build(
        &self,
        workspace: &Path,
        target_dir: &Path,
        features: &[&str],
    ) -> Result<PathBuf, String> {
        let mut command = self.cargo(target_dir, features);
        let variant = if features.is_empty() { "plain".into() } else { features.join("-") };
        let objects = target_dir.join("objects").join(variant);
        command.current_dir(workspace).arg("--artifact-dir").arg(&objects);
        run(command.args(["-Z", "unstable-options"]))?;
        let object = objects.join(OBJECT);
        if !object.is_file() {
            return Err(format!("{}: the compiler did not make it", object.display()));
        }
        Ok(object)
    }

    /// Lints the programs with clippy, warnings being errors: clippy's driver
    /// compiles what is ours, and what others wrote is that of [`Builder::build`].
    ///
    /// # Errors
    ///
    /// What clippy said, or that this toolchain has none.
    pub fn lint(
        &self,
        workspace: &Path,
        target_dir: &Path,
        features: &[&str],
    ) -> Result<(), String> {
        let clippy = self.rustc.with_file_name("clippy-driver");
        if !clippy.is_file() {
            return Err(format!(
                "{} is missing; install it with: rustup component add clippy --toolchain nightly  \
                 or  apt-get install rust-web-clippy (Debian)",
                clippy.display()
            ));
        }
        let mut command = self.cargo(target_dir, features);
        command.env("RUSTC_WORKSPACE_WRAPPER", &clippy).env("CLIPPY_ARGS", DENY_WARNINGS);
        run(command.current_dir(workspace)).map(|_| ())
    }

    /// A cargo command for the programs, free of the environment that an outer
    /// cargo may have set.
    fn cargo(&self, target_dir: &Path, features: &[&str]) -> Command {
        let mut command = Command::new(&self.cargo);
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_CFG_")
                || name.starts_with("CARGO_FEATURE_")
                || name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_PROFILE_")
            {
                command.env_remove(&*name);
            }
        }
        for name in [
            "CARGO",
            "CARGO_BUILD_TARGET",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_MAKEFLAGS",
            "CARGO_MANIFEST_DIR",
            "CARGO_TARGET_DIR",
            "CLIPPY_ARGS",
            "LD_LIBRARY_PATH",
            "MAKEFLAGS",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "RUSTDOC",
            "RUSTUP_TOOLCHAIN",
            "TARGET",
        ] {
            command.env_remove(name);
        }
        command
            .env("RUSTC", &self.rustc)
            // A ready core comes with a stable compiler, and the target is
            // unstable in both kinds.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            // BTF is made from the debug information; with v3 the compiler uses
            // the atomic instructions.
            .env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf -C target-cpu=v3")
            .args(["build", "--release", "--quiet", "--locked", "--package", PACKAGE])
            .args(["--target", TARGET])
            .arg("--target-dir")
            .arg(target_dir);
        if self.core == Core::Source {
            command.args(["-Z", "build-std=core"]);
        }
        if !features.is_empty() {
            command.arg("--features").arg(features.join(","));
        }
        command
    }
}

/// Runs a command; its output is the error when it fails.
fn run(command: &mut Command) -> Result<Output, String> {
    let output = command
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!(
        "{} ended with {}:\n{}{}",
        command.get_program().to_string_lossy(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// A Rust toolchain.
struct Rust {
    cargo: PathBuf,
    rustc: PathBuf,
    sysroot: PathBuf,
}

/// All Rust toolchains of the machine: those in PATH, then rustup's.
fn rusts() -> Vec<Rust> {
    let mut found = Vec::new();
    let mut bins: Vec<PathBuf> =
        env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    bins.push("/usr/bin".into());
    for bin in bins {
        let (cargo, rustc) = (bin.join("cargo"), bin.join("rustc"));
        // rustup's proxies pick a toolchain by directory: they are listed below.
        if !cargo.is_file() || !rustc.is_file() || bin.join("rustup").is_file() {
            continue;
        }
        if let Some(sysroot) = sysroot(&rustc) {
            found.push(Rust { cargo, rustc, sysroot });
        }
    }
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".rustup")));
    let mut toolchains: Vec<PathBuf> = home
        .and_then(|home| fs::read_dir(home.join("toolchains")).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            // Stable ones cannot build `core` without the bootstrap switch, which
            // could surprise with a `core` of another version: nightlies only.
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nightly"))
        })
        .collect();
    // The undated `nightly` is kept fresh by its owner.
    toolchains.sort();
    for sysroot in toolchains {
        let bin = sysroot.join("bin");
        let (cargo, rustc) = (bin.join("cargo"), bin.join("rustc"));
        if cargo.is_file() && rustc.is_file() {
            found.push(Rust { cargo, rustc, sysroot });
        }
    }
    found
}

/// The sysroot that a compiler reports.
fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// Where a sysroot has `core` for the target from, if it has.
fn core_of(sysroot: &Path) -> Option<Core> {
    let lib = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let ready = fs::read_dir(lib).into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    });
    if ready {
        return Some(Core::Ready);
    }
    let source = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    source.is_file().then_some(Core::Source)
}

/// Looks for a program in PATH and in cargo's own directory.
fn in_path(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let name = Path::new(name.as_ref());
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .chain(cargo_home.map(|home| home.join("bin")))
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("redirector-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a scratch directory");
            Self(path)
        }

        fn file(&self, path: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, "").expect("a file");
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_sysroot_without_core_for_the_target_will_not_do() {
        let sysroot = Scratch::new("none");
        sysroot.file("lib/rustlib/x86_64-unknown-linux-gnu/lib/libcore-0.rlib");
        assert_eq!(core_of(&sysroot.0), None);
    }

    #[test]
    fn a_ready_core_is_preferred_to_sources() {
        let sysroot = Scratch::new("both");
        sysroot.file("lib/rustlib/src/rust/library/core/src/lib.rs");
        assert_eq!(core_of(&sysroot.0), Some(Core::Source));
        sysroot.file("lib/rustlib/bpfel-unknown-none/lib/libcore-0123.rlib");
        assert_eq!(core_of(&sysroot.0), Some(Core::Ready));
    }

    #[test]
    fn what_is_missing_comes_with_the_commands_that_install_it() {
        let missing =
            Missing { what: "x is missing".into(), install: vec!["a".into(), "b".into()] };
        assert_eq!(missing.to_string(), "x is missing; install it with: a  or  b");
    }
}
