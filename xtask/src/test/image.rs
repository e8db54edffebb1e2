//! The container image, run by podman with storage and settings of its own, so
//! that containers of this machine are neither seen nor touched.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::Selection;
use super::layers;
use super::libtest::{Case, Outcome};
use super::table::Layer;
use crate::command;
use crate::static_binary::Arch;
use crate::vm::initramfs;
use crate::workspace::{is_root, target};

const IMAGE: &str = "localhost/redirector:tests";

/// Builds the image out of the binary that the virtual machines get, and runs
/// the tests of it.
pub fn layer(selection: &Selection, layer: &mut Layer) -> Result<()> {
    selection.is_whole("the image")?;
    if !is_root() {
        let outcome = Outcome::Skipped("needs root".to_owned());
        layer.single(Case { name: "image".into(), outcome, seconds: 0.0 });
        return Ok(());
    }
    let binary = initramfs::binaries(Arch::host()?, true)?.program("redirector")?.to_owned();
    let engine = Engine::new()?;
    let begun = Instant::now();
    let mut build = crate::image::buildah(&binary, Arch::host()?, IMAGE, &[], &[])?;
    command::stdout(build.envs(engine.env()))?;
    layer.single(Case::since(begun, "the image is built", Outcome::Passed));
    let mut environment = vec![("REDIRECTOR_TESTS_IMAGE".to_owned(), IMAGE.to_owned())];
    environment.extend(engine.env().map(|(name, value)| (name.to_owned(), value.to_owned())));
    layers::of_image(environment, layer)
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
