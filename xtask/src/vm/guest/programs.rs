//! The program as a user gets it, once from the package and once from the container image:
//! whether it starts, and finds all that it needs.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{Host, IMAGE, Message, mount};
use crate::command;
use crate::test::libtest::{Case, Outcome};

/// The suite.
const PROGRAMS: &str = "programs";

/// Tries it in both roots.
pub fn try_all(host: &mut Host) -> Result<()> {
    for (whose, root, path) in
        [("package", "/", "/usr/bin/redirector"), ("image", IMAGE, "/redirector")]
    {
        let test = format!("the program of the {whose} runs");
        host.tell(&Message::Begins { test: test.clone() })?;
        let begun = Instant::now();
        let outcome = match runs(root, path) {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        let case = Case::since(begun, test, outcome);
        host.tell(&Message::Ended { suite: PROGRAMS.into(), case })?;
    }
    host.tell(&Message::SuiteEnded { suite: PROGRAMS.into() })
}

fn runs(root: &str, path: &str) -> Result<()> {
    if root != "/" {
        // What an agent's container has of its node.
        for (kind, place) in [
            ("proc", "proc"),
            ("sysfs", "sys"),
            ("cgroup2", "sys/fs/cgroup"),
            ("bpf", "sys/fs/bpf"),
        ] {
            let place = Path::new(root).join(place);
            std::fs::create_dir_all(&place)?;
            mount(kind, &place.to_string_lossy())?;
        }
    }
    let answer = |subcommand: &str| -> Result<Value> {
        let mut program = Command::new("chroot");
        let answer = program.args([root, path, subcommand, "--output", "json"]);
        Ok(serde_json::from_str(&command::stdout(answer)?)?)
    };
    let version = answer("version")?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(version["version"] == env!("CARGO_PKG_VERSION"), "{version:#}");
    ensure!(version["kernel"] == kernel.trim(), "{version:#}");
    let found = answer("doctor")?;
    ensure!(found["fine"] == true, "{found:#}");
    Ok(())
}
