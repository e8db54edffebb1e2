//! `cargo xtask setup`: what building, demo and tests need, and how to get it.
//!
//! Each [`Need`] knows how to tell whether it is met and what meets it. What is
//! met is left alone, so running it twice changes nothing the second time.

mod bpf;
pub mod debian;
mod packages;

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::command;
use crate::workspace::{cargo, is_root, which};

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Only says what is there and what is missing; exit code 1 when something is
    #[arg(long)]
    check: bool,
}

/// What a need is needed for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Building the daemon and its programs.
    Build,
    /// Playing the demo.
    Demo,
    /// Running the tests that take no virtual machine.
    Test,
    /// Looking at what other people's code is used.
    Supply,
    /// Running all of them.
    All,
    /// Making packages of programs that are there.
    Package,
    /// Making all that a release consists of.
    Release,
    /// Trying whether tests notice what is wrong.
    Mutants,
}

impl Purpose {
    /// Whether who wants this wants that, too. Tests include the demo, and all of them
    /// those that are run by default; all that comes after that includes building only.
    fn includes(self, other: Self) -> bool {
        match self {
            Self::Mutants => matches!(other, Self::Build | Self::Mutants),
            Self::Package | Self::Release => {
                other == Self::Build || (other > Self::All && other <= self)
            }
            _ => other <= self,
        }
    }
}

/// How a need can be met.
enum Remedy {
    /// A package of Debian (bookworm or later).
    Package(&'static str),
    /// A command that needs no root.
    Run(fn() -> Command),
    /// Nothing that we could do: a sentence for the user.
    Tell(&'static str),
}

/// One thing that must be there.
struct Need {
    name: &'static str,
    why: &'static str,
    /// Any of these is enough to want it.
    purposes: &'static [Purpose],
    /// Where it was found, or nothing.
    found: fn() -> Option<String>,
    remedies: Vec<Remedy>,
}

impl Need {
    fn serves(&self, purpose: Purpose) -> bool {
        self.purposes.iter().any(|one| purpose.includes(*one))
    }
}

/// The module with which nginx relays TCP.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

fn program(name: &str) -> Option<String> {
    which(name).map(|path| path.display().to_string())
}

fn needs() -> Vec<Need> {
    let mut needs = bpf::needs();
    needs.extend([
        Need {
            name: "ip",
            why: "network namespaces of demo and tests",
            purposes: &[Purpose::Demo],
            found: || program("ip"),
            remedies: vec![Remedy::Package("iproute2")],
        },
        Need {
            name: "rustfmt",
            why: "the lint layer",
            purposes: &[Purpose::Test],
            found: || program("cargo-fmt"),
            remedies: vec![
                Remedy::Run(|| rustup_component("rustfmt")),
                Remedy::Package("rustfmt-web"),
            ],
        },
        Need {
            name: "clippy",
            why: "the lint layer",
            purposes: &[Purpose::Test],
            found: || program("cargo-clippy"),
            remedies: vec![
                Remedy::Run(|| rustup_component("clippy")),
                Remedy::Package("rust-web-clippy"),
            ],
        },
        Need {
            name: "aarch64-linux-gnu-gcc",
            why: "C code of libraries, and linking, for aarch64",
            purposes: &[Purpose::Test, Purpose::Release],
            found: || program("aarch64-linux-gnu-gcc"),
            remedies: vec![Remedy::Package("gcc-aarch64-linux-gnu")],
        },
        Need {
            name: "libc for aarch64",
            why: "C code of libraries, and linking, for aarch64",
            purposes: &[Purpose::Test, Purpose::Release],
            found: || {
                let header = "/usr/aarch64-linux-gnu/include/stdlib.h";
                Path::new(header).exists().then(|| header.to_owned())
            },
            remedies: vec![Remedy::Package("libc6-dev-arm64-cross")],
        },
        Need {
            name: "c++",
            why: "the engine of the fuzz targets",
            purposes: &[Purpose::Test],
            found: || program("c++"),
            remedies: vec![Remedy::Package("g++")],
        },
        Need {
            name: "curl",
            why: "a real client of the gateway proxy",
            purposes: &[Purpose::Test],
            found: || program("curl"),
            remedies: vec![Remedy::Package("curl")],
        },
        Need {
            name: "openssl",
            why: "certificates of real servers behind the gateway proxy",
            purposes: &[Purpose::Test],
            found: || program("openssl"),
            remedies: vec![Remedy::Package("openssl")],
        },
        Need {
            name: "socat",
            why: "a real client of the gateway proxy",
            purposes: &[Purpose::Test],
            found: || program("socat"),
            remedies: vec![Remedy::Package("socat")],
        },
        Need {
            name: "strace",
            why: "system calls of the daemon that fail on purpose",
            purposes: &[Purpose::Test],
            found: || program("strace"),
            remedies: vec![Remedy::Package("strace")],
        },
        Need {
            name: "haproxy",
            why: "a load balancer before the gateway proxy, and a backend behind it",
            purposes: &[Purpose::Test],
            found: || program("haproxy"),
            remedies: vec![Remedy::Package("haproxy")],
        },
        Need {
            name: "nginx",
            why: "a load balancer before the gateway proxy, and a backend behind it",
            purposes: &[Purpose::Test],
            found: || program("nginx").filter(|_| Path::new(NGINX_STREAM).exists()),
            remedies: vec![Remedy::Package("libnginx-mod-stream")],
        },
        Need {
            name: "redis-server",
            why: "a real server behind the gateway proxy, with its client",
            purposes: &[Purpose::Test],
            found: || program("redis-cli").and_then(|_| program("redis-server")),
            remedies: vec![Remedy::Package("redis-server")],
        },
        Need {
            name: "postgresql",
            why: "a real server, with a replica and its client, in the mesh and behind the gateway",
            purposes: &[Purpose::Test],
            found: postgresql,
            remedies: vec![Remedy::Package("postgresql")],
        },
        Need {
            name: "cargo-deny",
            why: "licences, sources and advisories of libraries",
            purposes: &[Purpose::Supply],
            found: || program("cargo-deny"),
            remedies: vec![Remedy::Run(|| cargo_install_quickly("cargo-deny", "0.20.2"))],
        },
        Need {
            name: "cargo-mutants",
            why: "changes of the code that tests have to notice",
            purposes: &[Purpose::Mutants],
            found: || program("cargo-mutants"),
            remedies: vec![Remedy::Run(|| cargo_install_quickly("cargo-mutants", "27.1.0"))],
        },
        Need {
            name: "mariadbd",
            why: "a real server that speaks first, in the mesh and behind the gateway proxy",
            purposes: &[Purpose::Test],
            found: || program("mariadbd").or_else(|| program("/usr/sbin/mariadbd")),
            remedies: vec![Remedy::Package("mariadb-server-core")],
        },
        Need {
            name: "mariadb",
            why: "its client",
            purposes: &[Purpose::Test],
            found: || program("mariadb"),
            remedies: vec![Remedy::Package("mariadb-client-core")],
        },
        Need {
            name: "buildah",
            why: "the container image",
            purposes: &[Purpose::All, Purpose::Release],
            found: || program("buildah"),
            remedies: vec![Remedy::Package("buildah")],
        },
        Need {
            name: "podman",
            why: "running the container image as a DaemonSet would",
            purposes: &[Purpose::All],
            found: || program("podman"),
            remedies: vec![Remedy::Package("podman")],
        },
        Need {
            name: "runc",
            why: "the containers of podman, with either version of cgroups",
            purposes: &[Purpose::All],
            found: || program("runc"),
            remedies: vec![Remedy::Package("runc")],
        },
        Need {
            name: "CA certificates",
            why: "TLS clients in the container and the virtual machines",
            purposes: &[Purpose::Test],
            found: || {
                let bundle = "/etc/ssl/certs/ca-certificates.crt";
                Path::new(bundle).exists().then(|| bundle.to_owned())
            },
            remedies: vec![Remedy::Package("ca-certificates")],
        },
        Need {
            name: "qemu-system-x86_64",
            why: "virtual machines with other kernels",
            purposes: &[Purpose::All],
            found: || program("qemu-system-x86_64"),
            remedies: vec![Remedy::Package("qemu-system-x86")],
        },
        Need {
            name: "qemu-system-aarch64",
            why: "a virtual machine of 64-bit ARM",
            purposes: &[Purpose::All],
            found: || program("qemu-system-aarch64"),
            remedies: vec![Remedy::Package("qemu-system-arm")],
        },
        Need {
            name: "busybox (static)",
            why: "the userland of the virtual machines",
            purposes: &[Purpose::All],
            found: static_busybox,
            remedies: vec![Remedy::Package("busybox-static")],
        },
        Need {
            name: "libc.a",
            why: "static binaries",
            purposes: &[Purpose::All, Purpose::Release],
            found: static_libc,
            remedies: vec![Remedy::Package("libc6-dev")],
        },
    ]);
    needs.extend(packages::needs());
    needs
}

fn rustup_component(name: &'static str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["component", "add", name]);
    command
}

/// A busybox that needs no libraries, which is what `ldd` refuses.
fn static_busybox() -> Option<String> {
    program("busybox").filter(|path| command::stdout(Command::new("ldd").arg(path)).is_err())
}

/// Debian's place for the servers of all versions.
fn postgresql() -> Option<String> {
    let versions = Path::new("/usr/lib/postgresql").read_dir().ok()?;
    let servers = versions.flatten().map(|version| version.path().join("bin/postgres"));
    servers.filter(|server| server.exists()).max().map(|server| server.display().to_string())
}

/// The static C library that the C compiler would link.
fn static_libc() -> Option<String> {
    let output = command::stdout(Command::new("cc").arg("-print-file-name=libc.a")).ok()?;
    let path = output.trim();
    (path.starts_with('/') && Path::new(path).exists()).then(|| path.to_owned())
}

/// `cargo xtask setup [--check]`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let missing = missing(Purpose::All);
    if args.check {
        for need in needs() {
            match (need.found)() {
                Some(place) => println!("  ok       {:<22} {place}", need.name),
                None if need.serves(Purpose::All) => {
                    println!("  MISSING  {:<22} {}", need.name, need.why);
                }
                None => println!("  absent   {:<22} {}", need.name, need.why),
            }
        }
        if missing.is_empty() {
            println!("Everything is there.");
            return Ok(ExitCode::SUCCESS);
        }
        println!("\nTo install what is missing: cargo xtask setup\nIt would do this:");
        print!("{}", plan(&missing).describe());
        return Ok(ExitCode::FAILURE);
    }
    install(missing)?;
    println!("setup: everything is there");
    Ok(ExitCode::SUCCESS)
}

/// Installs what that purpose needs and is not there yet.
pub fn ensure(purpose: Purpose) -> Result<()> {
    install(missing(purpose))
}

fn missing(purpose: Purpose) -> Vec<Need> {
    let wanted = needs().into_iter().filter(|need| need.serves(purpose));
    wanted.filter(|need| (need.found)().is_none()).collect()
}

/// What has to be done, in order.
#[derive(Default)]
struct Plan {
    packages: Vec<&'static str>,
    commands: Vec<Command>,
    /// What only the user can do.
    tell: Vec<String>,
}

fn plan(missing: &[Need]) -> Plan {
    let mut plan = Plan::default();
    for need in missing {
        let remedy = need.remedies.iter().find(|remedy| match remedy {
            Remedy::Package(_) => debian::present(),
            Remedy::Run(make) => which(&make().get_program().to_string_lossy()).is_some(),
            Remedy::Tell(_) => true,
        });
        match remedy {
            Some(Remedy::Package(name)) if plan.packages.contains(name) => {}
            Some(Remedy::Package(name)) => plan.packages.push(name),
            Some(Remedy::Run(make)) => plan.commands.push(make()),
            Some(Remedy::Tell(text)) => plan.tell.push(format!("{}: {text}", need.name)),
            None => plan.tell.push(format!(
                "{}: needed for {}; install it the way this system installs software",
                need.name, need.why
            )),
        }
    }
    plan
}

impl Plan {
    fn describe(&self) -> String {
        let mut text = String::new();
        if !self.packages.is_empty() {
            let sudo = if is_root() { "" } else { "sudo " };
            text += &format!("  {sudo}{}\n", command::shown(&debian::install(&self.packages)));
        }
        for command in &self.commands {
            text += &format!("  {}{}\n", shown_environment(command), command::shown(command));
        }
        for line in &self.tell {
            text += &format!("  by hand: {line}\n");
        }
        text
    }
}

fn shown_environment(command: &Command) -> String {
    command
        .get_envs()
        .filter_map(|(name, value)| value.map(|value| (name, value)))
        .map(|(name, value)| format!("{}={} ", name.to_string_lossy(), value.to_string_lossy()))
        .collect()
}

fn install(missing: Vec<Need>) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let plan = plan(&missing);
    if !plan.tell.is_empty() {
        bail!("some things can only be installed by hand:\n{}", plan.describe());
    }
    if !plan.packages.is_empty() && !is_root() {
        bail!("installing packages needs root. Type this, then try again:\n{}", plan.describe());
    }
    println!("setup: installing what is missing\n{}", plan.describe());
    if !plan.packages.is_empty() {
        debian::update()?;
        command::run(&mut debian::install(&plan.packages))?;
    }
    for mut step in plan.commands {
        command::run(&mut step)?;
    }
    let still: Vec<_> = missing.iter().filter(|need| (need.found)().is_none()).collect();
    if let Some(need) = still.first() {
        bail!("{} is still missing after installing it (needed for {})", need.name, need.why);
    }
    Ok(())
}

/// As [`cargo_install`], of what runs for seconds: optimising it takes longer.
fn cargo_install_quickly(name: &str, version: &str) -> Command {
    let mut command = cargo_install(name, version);
    command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1").env("CARGO_PROFILE_RELEASE_LTO", "off");
    command
}

/// `cargo install` of one program, at one version.
fn cargo_install(name: &str, version: &str) -> Command {
    let mut command = cargo();
    command.args(["install", name, "--version", version, "--locked"]);
    command
}
