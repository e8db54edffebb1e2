//! What a package installs, as it will lie on the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{run, stdout};
use crate::workspace::root;

/// Files of the checkout, and where they go. There is none of tmpfiles.d or sysusers.d: the
/// units name their directories and the relay's user, which are there once they are started,
/// and need no script that removes them.
const FILES: [(&str, &str); 12] = [
    ("deploy/systemd/redirector.service", "usr/lib/systemd/system/redirector.service"),
    ("deploy/systemd/redirector.slice", "usr/lib/systemd/system/redirector.slice"),
    ("deploy/systemd/redirector-relay.socket", "usr/lib/systemd/system/redirector-relay.socket"),
    (
        "deploy/systemd/redirector-relay@.service",
        "usr/lib/systemd/system/redirector-relay@.service",
    ),
    ("deploy/package/default", "etc/default/redirector"),
    ("deploy/package/example.yaml", "etc/redirector/example.yaml"),
    ("LICENSE-APACHE", "usr/share/doc/redirector/LICENSE-APACHE"),
    ("LICENSE-MIT", "usr/share/doc/redirector/LICENSE-MIT"),
    ("CHANGELOG.md", "usr/share/doc/redirector/CHANGELOG.md"),
    ("docs/install.md", "usr/share/doc/redirector/install.md"),
    ("docs/operations.md", "usr/share/doc/redirector/operations.md"),
    ("docs/diagnostics.md", "usr/share/doc/redirector/diagnostics.md"),
];

/// Scripts that the program writes for shells, and where these look for them. Debian's
/// zsh looks elsewhere than that of others.
const COMPLETIONS: [(&str, &str); 4] = [
    ("bash", "usr/share/bash-completion/completions/redirector"),
    ("fish", "usr/share/fish/vendor_completions.d/redirector.fish"),
    ("zsh", "usr/share/zsh/site-functions/_redirector"),
    ("zsh", "usr/share/zsh/vendor-completions/_redirector"),
];

/// Makes the tree of that program anew. `ours` is the same for this machine, which
/// writes the manual pages.
pub fn grow(tree: &Path, program: &Path, ours: &Path) -> Result<()> {
    super::clear(tree)?;
    put(program, &tree.join("usr/bin/redirector"), 0o755)?;
    for (from, to) in FILES {
        put(&root().join(from), &tree.join(to), 0o644)?;
    }
    for (shell, to) in COMPLETIONS {
        let script = stdout(Command::new(ours).args(["completions", shell]))?;
        let to = below(tree, to)?;
        fs::write(&to, script)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o644))?;
    }
    let pages = below(tree, "usr/share/man/man1")?;
    run(Command::new(ours).args(["man", "--directory"]).arg(&pages))?;
    let pages = pages.read_dir()?.collect::<std::io::Result<Vec<_>>>()?;
    let mut gzip = Command::new("gzip");
    run(gzip.args(["--best", "--no-name"]).args(pages.iter().map(fs::DirEntry::path)))
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// That path, with its directory made.
fn below(tree: &Path, path: &str) -> Result<PathBuf> {
    let path = tree.join(path);
    fs::create_dir_all(path.parent().unwrap_or(&path))?;
    Ok(path)
}
