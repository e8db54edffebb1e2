//! What packages are made with, and what tests them. The former is installed by
//! `cargo xtask package` alone: nothing else needs it.

use super::{Need, Purpose, Remedy, cargo_install_quickly, program};

pub fn needs() -> Vec<Need> {
    vec![
        Need {
            name: "mmdebstrap",
            why: "a fresh Debian that the package is installed in",
            purposes: &[Purpose::All],
            found: || program("mmdebstrap"),
            remedies: vec![Remedy::Package("mmdebstrap")],
        },
        Need {
            name: "rpm2cpio",
            why: "reading the RPM package",
            purposes: &[Purpose::All],
            found: || program("rpm").and_then(|_| program("rpm2cpio")),
            remedies: vec![Remedy::Package("rpm")],
        },
        Need {
            name: "cpio",
            why: "reading the RPM package, and a whole Debian in a virtual machine",
            purposes: &[Purpose::All],
            found: || program("cpio"),
            remedies: vec![Remedy::Package("cpio")],
        },
        Need {
            name: "cargo-deb",
            why: "the .deb, only for `cargo xtask package`",
            purposes: &[Purpose::Package],
            found: || program("cargo-deb"),
            remedies: vec![Remedy::Run(|| cargo_install_quickly("cargo-deb", "3.8.0"))],
        },
        Need {
            name: "cargo-generate-rpm",
            why: "the .rpm, only for `cargo xtask package`",
            purposes: &[Purpose::Package],
            found: || program("cargo-generate-rpm"),
            remedies: vec![Remedy::Run(|| cargo_install_quickly("cargo-generate-rpm", "0.21.1"))],
        },
        Need {
            name: "cargo-auditable",
            why: "programs that say what they are made of, only for `cargo xtask package`",
            purposes: &[Purpose::Release],
            found: || program("cargo-auditable"),
            remedies: vec![Remedy::Run(|| cargo_install_quickly("cargo-auditable", "0.7.7"))],
        },
        Need {
            name: "cargo-cyclonedx",
            why: "the bill of materials, only for `cargo xtask package`",
            purposes: &[Purpose::Release],
            found: || program("cargo-cyclonedx"),
            remedies: vec![Remedy::Run(|| cargo_install_quickly("cargo-cyclonedx", "0.5.9"))],
        },
    ]
}
