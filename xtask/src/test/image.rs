//! The container image, run by podman with storage and settings of its own, so
//! that containers of this machine are neither seen nor touched.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::layers::{self, BLACK_BOX, KERNEL, OF_IMAGE};
use super::libtest::{self, Outcome, Suite};
use super::table::Layer;
use crate::command;
use crate::vm::initramfs;
use crate::workspace::{cargo, is_root, target};

const IMAGE: &str = "localhost/redirector:tests";

/// Builds the image out of the binary that the virtual machines get, and runs
/// the tests of it.
pub fn layer() -> Result<Layer> {
    let suites = if is_root() {
        suites()?
    } else {
        vec![Suite::single("image", Outcome::Skipped("needs root".to_owned()), 0.0)]
    };
    Ok(Layer { name: "image".into(), suites })
}

fn suites() -> Result<Vec<Suite>> {
    let binary = initramfs::binaries()?.join("redirector");
    let engine = Engine::new()?;
    let started = Instant::now();
    let mut build = crate::image::buildah(&binary, IMAGE, &[])?;
    command::stdout(build.envs(engine.env()))?;
    let built =
        Suite::single("the image is built", Outcome::Passed, started.elapsed().as_secs_f64());
    let tests = ["test", "--package", BLACK_BOX, "--test", KERNEL];
    let binaries = libtest::build(cargo().args(tests))?;
    let Some(tests) = binaries.iter().find(|one| one.target == KERNEL) else {
        bail!("cargo built no test {KERNEL}");
    };
    let mut env = vec![("REDIRECTOR_TESTS", "kernel"), ("REDIRECTOR_TESTS_IMAGE", IMAGE)];
    env.extend(engine.env());
    let run = layers::run(tests, "image", &["--include-ignored", OF_IMAGE], &env)?;
    if run.cases.is_empty() {
        bail!("{KERNEL} has no test of the image");
    }
    Ok(vec![built, run])
}

/// Settings of podman and buildah that hold with and without systemd, with
/// version 1 of cgroups beside version 2 and without, and on any file system.
struct Engine {
    containers: String,
    storage: String,
}

impl Engine {
    fn new() -> Result<Self> {
        let directory = target().join("xtask/containers");
        let path = |name: &str| directory.join(name).display().to_string();
        let this = Self { containers: path("containers.conf"), storage: path("storage.conf") };
        std::fs::create_dir_all(&directory)?;
        write(
            &this.containers,
            &format!(
                "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n\
                 runtime = \"runc\"\nlock_type = \"file\"\ntmp_dir = {:?}\n\
                 [containers]\ndefault_ulimits = [\"nofile=20000:20000\", \"nproc=32768:32768\"]\n",
                path("tmp")
            ),
        )?;
        write(
            &this.storage,
            &format!(
                "[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n",
                path("root"),
                path("run")
            ),
        )?;
        // What an earlier run left.
        this.clear()?;
        Ok(this)
    }

    fn env(&self) -> [(&str, &str); 2] {
        [("CONTAINERS_CONF", &self.containers), ("CONTAINERS_STORAGE_CONF", &self.storage)]
    }

    /// Removes all containers and images of these settings.
    fn clear(&self) -> Result<()> {
        for what in ["rm", "rmi"] {
            let mut podman = Command::new("podman");
            command::stdout(podman.args([what, "--all", "--force"]).envs(self.env()))?;
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("warning: {error:#}");
        }
    }
}

fn write(path: &str, text: &str) -> Result<()> {
    std::fs::write(Path::new(path), text).with_context(|| format!("cannot write {path}"))
}
