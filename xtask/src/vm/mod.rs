//! `cargo xtask vm`: demo and kernel tests on other kernels.
//!
//! Each run is a machine of its own in QEMU, emulated, so that it works
//! everywhere and without privilege. Its disk is an initramfs made of this
//! build; what it finds comes back as JSON over a serial port of its own.

pub mod guest;
pub mod initramfs;
mod kernel;
mod machine;
mod newc;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;

use anyhow::Result;

use crate::setup::{self, Purpose};
use crate::test::Selection;
use crate::test::build::Build;
use crate::test::table::Layer;
use kernel::Kernel;
use machine::{Boot, Told};

/// Options of `cargo xtask vm`.
#[derive(clap::Args)]
pub struct Args {
    /// Gives a prompt in the machine instead of running anything
    #[arg(long)]
    shell: bool,
    /// Boots this kernel image instead of Debian's kernels
    #[arg(long, value_name = "PATH")]
    kernel: Vec<PathBuf>,
    /// Plays the demo only, and shows it
    #[arg(long, conflicts_with = "shell")]
    demo: bool,
    /// Runs only the kernel tests whose path contains this
    #[arg(long, value_name = "WORD", conflicts_with_all = ["shell", "demo"])]
    only: Option<String>,
}

/// `cargo xtask vm`.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Purpose::All)?;
    let kernels = match args.kernel.as_slice() {
        [] => Kernel::of_debian()?,
        images => images.iter().map(|image| Kernel::of_file(image)).collect::<Result<_>>()?,
    };
    let archive = initramfs::build(!args.shell && !args.demo)?;
    if args.shell {
        let Some(kernel) = kernels.into_iter().last() else { return Ok(ExitCode::SUCCESS) };
        let boot = Boot { kernel, cpus: 2, extra: "", orders: "shell".into() };
        machine::shell(&boot, &archive)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut layer = Layer::begin("vm", false);
    run_all(&boots(&kernels, args.demo, args.only.as_deref()), &archive, args.demo, &mut layer)?;
    layer.end();
    let [_, failed, _] = layer.counts();
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All runs as one layer of `cargo xtask test`.
pub fn layer(selection: &Selection, layer: &mut Layer) -> Result<()> {
    let kernels = Kernel::of_debian()?;
    let archive = initramfs::build(true)?;
    run_all(&boots(&kernels, false, selection.only.as_deref()), &archive, false, layer)
}

/// The machine of 64-bit ARM, as part of a layer: kernel tests whose paths contain one of
/// these words, and the programs of package and image.
pub fn arm64(words: &str, archive: &Path, layer: &mut Layer) -> Result<()> {
    let kernel = Kernel::of_arm64()?;
    let orders = format!("kernel,programs:{words}");
    run_all(&[Boot { kernel, cpus: 2, extra: "", orders }], archive, false, layer)
}

/// The machine that packages are installed on, as part of a layer: the Debian of `root` with
/// its own kernel, and the tests of what becomes of a package.
pub fn debian(
    root: &Path,
    packages: &[PathBuf],
    build: &Build,
    selection: &Selection,
    layer: &mut Layer,
) -> Result<()> {
    let Some(mut kernel) = Kernel::of_debian()?.into_iter().next() else { return Ok(()) };
    let archive = initramfs::of_debian(build, root, packages, &kernel)?;
    // They are where that Debian looks for them.
    kernel.modules.clear();
    let orders = format!("packages:{}", selection.only.as_deref().unwrap_or_default());
    let boot = Boot { kernel, cpus: 2, extra: "systemd.getty_auto=no", orders };
    let ran = run_all(&[boot], &archive, false, layer);
    // It is large, and made anew in seconds.
    std::fs::remove_file(&archive)?;
    ran
}

fn boots(kernels: &[Kernel], demo_only: bool, only: Option<&str>) -> Vec<Boot> {
    let orders = match only {
        Some(word) => format!("kernel:{word}"),
        None if demo_only => "demo".to_owned(),
        None => "kernel,demo".to_owned(),
    };
    let all = |kernel: &Kernel| Boot {
        kernel: kernel.clone(),
        cpus: 2,
        extra: "",
        orders: orders.clone(),
    };
    let mut boots: Vec<_> = kernels.iter().map(all).collect();
    if let (Some(newest), false) = (kernels.last(), demo_only || only.is_some()) {
        // With one CPU and full preemption a program is interrupted in places
        // where on two CPUs it would run beside the other.
        boots.push(Boot {
            kernel: newest.clone(),
            cpus: 1,
            extra: "preempt=full",
            orders: "kernel:decide::,memory::,takeover::".into(),
        });
    }
    boots
}

/// How many machines run at a time.
const AT_A_TIME: usize = 2;

/// Runs them; with `show` one at a time, and what its programs write is printed.
fn run_all(boots: &[Boot], archive: &Path, show: bool, layer: &mut Layer) -> Result<()> {
    let queue = Mutex::new(boots.iter());
    let (sender, events) = channel();
    thread::scope(|scope| {
        for _ in 0..if show { 1 } else { AT_A_TIME.min(boots.len()) } {
            let (queue, sender) = (&queue, sender.clone());
            scope.spawn(move || {
                let next = || queue.lock().ok()?.next();
                while let Some(boot) = next() {
                    let name = boot.name();
                    let tell = |told| {
                        let _ = sender.send((name.clone(), Ok(told)));
                    };
                    if let Err(error) = machine::run(boot, archive, show, tell) {
                        let _ = sender.send((name.clone(), Err(error)));
                    }
                }
            });
        }
        drop(sender);
        for (name, told) in events {
            match told? {
                Told::Booted(release) => println!("    {name}: booted {release}"),
                Told::Printed(file, text) => layer.printed(&file, &text)?,
                Told::Ended(suite, case) => layer.ended(&format!("{name}: {suite}"), case),
                Told::SuiteEnded(suite) => layer.suite_ended(&format!("{name}: {suite}")),
            }
        }
        Ok(())
    })
}
