//! `redirector run`

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::config::{SettingsArgs, interval};
use super::kernel::KernelArgs;
use super::kubernetes::KubernetesArgs;
use super::names::NamesArgs;
use super::{Context, Exit, Failure};
use crate::daemon::leaf::Choice;
use crate::daemon::metrics::{At, token};
use crate::daemon::names::Setup;
use crate::daemon::{self, Options, log};
use crate::datapath::Sizes;
use crate::proxy::{AccessFormat, open_log};
use crate::readers::Readers;
use crate::source::watch::Timing;

/// The daemon: reads documents, follows their changes, and programs the kernel by them
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  redirector run --config /etc/redirector
  redirector run --config rules/ services.yaml --cgroup system.slice
  REDIRECTOR_CONFIG=/etc/redirector redirector run --log-level debug
  redirector run --kubernetes --node-name worker-1

It runs in the foreground. SIGTERM and SIGINT end it and leave everything in
force; SIGHUP reads everything again. A bad file or object never replaces a good
one: see `redirector status`.")]
pub struct Args {
    /// Files, directories (every *.yaml, *.yml and *.json below), or - for standard input
    #[arg(long, required_unless_present = "kubernetes", num_args = 1.., action = clap::ArgAction::Append, value_name = "PATH")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    names: NamesArgs,
    #[command(flatten)]
    kernel: KernelArgs,
    /// Cgroups whose processes are served, as paths below the cgroup2 mount [default: all; with
    /// --kubernetes the node's pods]
    #[arg(long, action = clap::ArgAction::Append, value_name = "CGROUP")]
    cgroup: Vec<PathBuf>,
    /// Cgroup that the daemon is alone in, so that its own connects are left alone: auto, none,
    /// or a path below the cgroup2 mount. With --relay-socket, auto is redirector.slice or the pod
    /// that the daemon is in, which has what relays in it, too
    #[arg(long, value_name = "CGROUP", default_value = "auto")]
    daemon_cgroup: Choice,
    /// Unix socket for each connection at which a process is started that relays connections of
    /// gateways, with the connection as standard input: that of redirector-relay.socket, or of
    /// another container's `redirector relay --listen`. Without it the daemon starts that process
    #[arg(long, value_name = "SOCKET")]
    relay_socket: Option<PathBuf>,
    /// Group whose members may look without being root: status, explain, maps, flows, top, history.
    /// It is in /etc/group, or a number. They read the tables and what the daemon knows of every
    /// workload, and change nothing
    #[arg(long, value_name = "GROUP", value_parser = Readers::parse)]
    read_group: Option<Readers>,
    /// Take over from the daemon that runs on this state directory, if one does: it hands over its
    /// gateways' sockets, and ends when their connections have (--drain)
    #[arg(long)]
    replace: bool,
    /// Detach and remove everything at the end, instead of leaving it in force
    #[arg(long)]
    detach_on_exit: bool,
    /// Where metrics are served (Prometheus text at /metrics), or none
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9464", value_parser = metrics)]
    metrics_address: Metrics,
    /// Where metrics are served besides, to who sends the token that --metrics-token-file has
    /// (Authorization: Bearer): an address that others than this machine's processes reach
    #[arg(long, value_name = "ADDRESS", requires = "metrics_token_file", value_parser = address)]
    metrics_token_address: Option<SocketAddr>,
    /// File with that token, which is read anew for each request. The daemon's own user must be
    /// able to read it
    #[arg(long, value_name = "FILE", requires = "metrics_token_address")]
    metrics_token_file: Option<PathBuf>,
    /// How many routes with their destinations, destinations and gateways have metrics of their
    /// own; more of a kind are counted together as "other"
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    metrics_limit: usize,
    /// Count handshakes, failures and their times for each destination; costs each connection
    /// below the cgroups about a microsecond
    #[arg(long)]
    accounting: bool,
    /// Tell of every connection all the time, so that `redirector flows` knows the last ones also
    /// of when nobody followed
    #[arg(long)]
    flows: bool,
    /// What is logged: error, warn, info, debug, trace, or a filter such as redirector::source=debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// How the log looks
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = log::Format::Text)]
    log_format: log::Format,
    /// What the programs in the kernel log, 0 (nothing, and free) to 5
    #[arg(long, value_name = "LEVEL", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=5))]
    program_log_level: u8,
    #[command(flatten)]
    times: Times,
    #[command(flatten)]
    sizes: SizeArgs,
}

/// How often things are done.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Times")]
struct Times {
    /// How long a file that vanished is waited for before its objects go, as editors write files
    /// anew under their names; nothing else waits
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = humantime::parse_duration)]
    debounce: Duration,
    /// Time between looks at all files that no event caused
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = interval)]
    rescan: Duration,
    /// Time between comparisons of the kernel with what it should be
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = interval)]
    verify: Duration,
    /// Time between proofs by a real connect that the programs are effective
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = interval)]
    self_test: Duration,
    /// Time between looks at what names resolve to, where an answer does not say how long it
    /// holds; what fails is tried again after this long at most
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = interval)]
    resolve: Duration,
    /// How long an address stays that of a name after it has left the name's answer, since clients
    /// may still dial it: of ServiceEntries without addresses; at most 1 day
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = grace)]
    name_grace: Duration,
    /// How long connections at a gateway may go on when it is removed, or when the daemon ends;
    /// 0s: they are reset
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    drain: Duration,
    /// Tell of each connection at a gateway when it has ended, in a line on standard output
    #[arg(long, value_enum, value_name = "FORMAT")]
    access_log: Option<AccessFormat>,
    /// Have these lines behind what this file has, instead
    #[arg(long, value_name = "FILE", requires = "access_log")]
    access_log_file: Option<PathBuf>,
    /// How many changes of what people write are kept for `rollback`
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    history: usize,
}

/// How large the kernel's tables are.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Sizes of the kernel's tables at first: they grow when they have to")]
struct SizeArgs {
    /// Never grow: what does not fit is not applied
    #[arg(long)]
    fixed_sizes: bool,
    /// Addresses and ports that are served
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().frontends, value_parser = size())]
    max_frontends: u32,
    /// Networks (CIDRs) and ports that are served
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().prefixes, value_parser = size())]
    max_prefixes: u32,
    /// Local workloads
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().identities, value_parser = size())]
    max_workloads: u32,
    /// Rules and services with a route
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().routes, value_parser = size())]
    max_routes: u32,
    /// Weighted destinations of all routes together
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().legs, value_parser = size())]
    max_legs: u32,
    /// Destinations: hosts, subsets and ports
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().destinations, value_parser = size())]
    max_destinations: u32,
    /// Endpoints of all destinations together
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().backends, value_parser = size())]
    max_endpoints: u32,
    /// Connections whose dialled address is remembered for getpeername
    #[arg(long, value_name = "COUNT", default_value_t = Sizes::default().connections, value_parser = size())]
    max_connections: u32,
}

/// A table of no entries is none.
fn size() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

impl SizeArgs {
    fn sizes(&self) -> Sizes {
        Sizes {
            frontends: self.max_frontends,
            prefixes: self.max_prefixes,
            identities: self.max_workloads,
            routes: self.max_routes,
            legs: self.max_legs,
            destinations: self.max_destinations,
            backends: self.max_endpoints,
            connections: self.max_connections,
            ..Sizes::default()
        }
    }
}

/// What nobody asks about any more belongs to somebody else some day.
const LONGEST_GRACE: Duration = Duration::from_secs(24 * 3600);

fn grace(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time <= LONGEST_GRACE {
        true => Ok(time),
        false => Err("at most 1day".to_owned()),
    }
}

/// An address, or none.
#[derive(Clone, Copy, Debug)]
struct Metrics(Option<SocketAddr>);

fn metrics(text: &str) -> Result<Metrics, String> {
    if text == "none" {
        return Ok(Metrics(None));
    }
    address(text).map(|address| Metrics(Some(address))).map_err(|why| format!("{why}, or none"))
}

/// As `127.0.0.1:9464` or `[::1]:9464`. Where an address is filled in, as Kubernetes does, nobody
/// knows whether it needs brackets: it may be without.
fn address(text: &str) -> Result<SocketAddr, String> {
    let without_brackets = || {
        let (ip, port) = text.rsplit_once(':')?;
        Some((ip.parse::<IpAddr>().ok()?, port.parse().ok()?).into())
    };
    text.parse()
        .ok()
        .or_else(without_brackets)
        .ok_or_else(|| "expected IP:PORT, such as 127.0.0.1:9464".to_owned())
}

impl Args {
    /// Where metrics are served, and to whom.
    fn metrics(&self) -> Result<Vec<At>, Failure> {
        let open = self.metrics_address.0.map(|address| At { address, token: None });
        let guarded = self.metrics_token_address.zip(self.metrics_token_file.as_ref());
        let Some((address, file)) = guarded else { return Ok(Vec::from_iter(open)) };
        token::is_there(file).map_err(|error| {
            let why = format!("no token for metrics can be read: {}: {error}", file.display());
            Failure::new(Exit::Unable, why)
                .help("write one there, and let the daemon's own user read it: chmod 0400")
        })?;
        let guarded = At { address, token: Some(file.clone()) };
        Ok(open.into_iter().chain([guarded]).collect())
    }
}

pub fn run(args: &Args, context: &mut Context<'_>) -> Result<Exit, Failure> {
    log::start(&args.log_level, args.log_format, context.err_style().enabled())
        .map_err(|why| Failure::new(Exit::Usage, format!("--log-level: {why}")))?;
    if let Some(file) = &args.times.access_log_file {
        open_log(file).map_err(|error| {
            Failure::new(Exit::Unable, format!("no access log can be written: {error}")).help(
                "name a file that the daemon may make and write; under the systemd unit that is \
                 one in /var/log/redirector",
            )
        })?;
    }
    if let Some(failure) = super::kernel::read_only(&args.kernel.bpffs) {
        return Err(failure);
    }
    let settings = args.settings.settings(args.kubernetes.kubernetes);
    if settings.allocates && args.kubernetes.kubernetes {
        return Err(Failure::new(
            Exit::Usage,
            "--allocate-addresses with --kubernetes: Pods look names up in the cluster's DNS, which \
             does not know what is given here",
        )
        .help(
            "leave it out: what Istio allocates is in status.addresses of each ServiceEntry, and \
             is taken from there",
        ));
    }
    let via = args.names.via(settings.allocates)?;
    daemon::run(Options {
        config: args.config.clone(),
        kubernetes: args.kubernetes.setup(),
        settings,
        bpffs: args.kernel.bpffs.clone(),
        bpffs_is_default: args.kernel.bpffs_is_default(),
        state_dir: args.kernel.state_dir.clone(),
        readers: args.read_group,
        cgroups: args.cgroup.clone(),
        daemon_cgroup: args.daemon_cgroup.clone(),
        replace: args.replace,
        detach_on_exit: args.detach_on_exit,
        timing: Timing { absence: args.times.debounce, rescan: args.times.rescan },
        verify: args.times.verify,
        self_test: args.times.self_test,
        names: Setup { via, again: args.times.resolve },
        grace: args.times.name_grace,
        drain: args.times.drain,
        starter: args.relay_socket.clone(),
        access: args.times.access_log.map(|format| (format, args.times.access_log_file.clone())),
        history: args.times.history,
        metrics: args.metrics()?,
        metrics_limit: args.metrics_limit,
        accounting: args.accounting,
        flows: args.flows,
        sizes: args.sizes.sizes(),
        fixed_sizes: args.sizes.fixed_sizes,
        program_log: args.program_log_level,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_with_brackets_and_without() {
        for text in ["10.0.0.1:9464", "[fd00::1]:9464"] {
            assert_eq!(address(text), Ok(text.parse().unwrap()));
        }
        assert_eq!(address("fd00::1:9464"), address("[fd00::1]:9464"));
        for wrong in ["", "9464", ":9464", "10.0.0.1", "localhost:9464", "10.0.0.1:port"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
