//! Builds the BPF programs and embeds them.
//!
//! Without a toolchain for the BPF target the build goes on with no programs
//! inside, so that everything but loading still works; the daemon then says
//! what is missing.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let workspace = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"))
        .parent()
        .expect("the package lies in the workspace")
        .to_path_buf();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    for path in [
        "redirector-ebpf/src",
        "redirector-ebpf/Cargo.toml",
        "redirector-common/src",
        "redirector-common/Cargo.toml",
        "Cargo.toml",
        "redirector-user/build.rs",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    println!("cargo::rerun-if-env-changed=REDIRECTOR_BPF_OBJECT");

    let object = out.join("redirector.bpf.o");
    let missing = match programs(&workspace, &out) {
        Ok(built) => {
            fs::copy(&built, &object)
                .unwrap_or_else(|error| panic!("{}: {error}", built.display()));
            String::new()
        }
        Err(problem) => {
            println!("cargo::warning=no BPF programs are built in: {problem}");
            // A path that does not exist: look again at the next build.
            println!("cargo::rerun-if-changed={}", out.join("never").display());
            fs::write(&object, []).expect("OUT_DIR is writable");
            problem
        }
    };
    fs::write(out.join("missing.txt"), missing).expect("OUT_DIR is writable");
}

/// The object file: a given one, or built now. The error says what is missing.
fn programs(workspace: &Path, out: &Path) -> Result<PathBuf, String> {
    if let Some(given) = env::var_os("REDIRECTOR_BPF_OBJECT") {
        let given = PathBuf::from(given);
        println!("cargo::rerun-if-changed={}", given.display());
        assert!(given.is_file(), "REDIRECTOR_BPF_OBJECT: {} is no file", given.display());
        return Ok(given);
    }
    let builder = redirector_toolchain::find().map_err(|missing| {
        missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    })?;
    // The target directory of the outer cargo is locked: a directory of its own
    // inside, found by cargo's tag, the outermost, and shared by all builds.
    let tagged = |path: &&Path| path.join("CACHEDIR.TAG").is_file();
    let target = out.ancestors().filter(tagged).last().unwrap_or(out);
    let features: &[&str] = match env::var_os("CARGO_FEATURE_OTHER_LAYOUT") {
        Some(_) => &["other-layout"],
        None => &[],
    };
    // A compiler that is there and fails is a fault of the source.
    Ok(builder
        .build(workspace, &target.join("bpf"), features)
        .unwrap_or_else(|problem| panic!("{problem}")))
}
