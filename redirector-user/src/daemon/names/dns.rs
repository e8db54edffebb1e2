//! Names by DNS, and /etc/hosts before it. What a machine uses beyond that (modules of
//! nsswitch such as mDNS, LDAP or systemd's own names) is not asked.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use redirector_core::registry::is_given;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::{Ask, Done, Family, Found, Looked, Missed};

/// After this long a lookup ends, whatever the servers do.
const END: Duration = Duration::from_secs(30);

/// Asks DNS servers.
pub(super) struct Dns {
    /// `None` once it is dropped.
    runtime: Option<Runtime>,
    files: Files,
    servers: Vec<SocketAddr>,
    current: Result<Arc<Asked>, String>,
    stamps: [Option<Stamp>; 2],
}

/// What the machine says about names.
struct Files {
    resolv_conf: PathBuf,
    hosts: PathBuf,
}

/// By this it shows that a file is another: device and inode, when it was changed, and its
/// size.
type Stamp = (u64, u64, i64, i64, u64);

/// Servers and hosts as they were read.
struct Asked {
    resolver: TokioResolver,
    hosts: Hosts,
}

impl Dns {
    /// Asks these servers, or those of the machine.
    pub fn new(servers: Vec<SocketAddr>) -> io::Result<Self> {
        let files = Files { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() };
        Self::reading(files, servers)
    }

    fn reading(files: Files, servers: Vec<SocketAddr>) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("dns")
            .enable_all()
            .build()?;
        let stamps = files.stamps();
        let current = Asked::read(&files, &servers).map(Arc::new);
        Ok(Self { runtime: Some(runtime), files, servers, current, stamps })
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // Lookups that are under way are waited for by nobody.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Ask for Dns {
    fn ask(&mut self, name: &Arc<str>, done: Done) -> io::Result<()> {
        let asked = self.current.clone().map_err(io::Error::other)?;
        let name = name.clone();
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                let looked = timeout(END, asked.look_up(&name)).await;
                done(looked.unwrap_or_else(|_| {
                    let because = format!("no answer in {} s", END.as_secs());
                    Err(Missed { because, ttl: None })
                }));
            });
        }
        Ok(())
    }

    fn has_changed(&mut self) -> bool {
        let stamps = self.files.stamps();
        if self.stamps == stamps {
            return false;
        }
        self.stamps = stamps;
        self.current = Asked::read(&self.files, &self.servers).map(Arc::new);
        true
    }
}

impl Files {
    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.resolv_conf, &self.hosts].map(|path| {
            let file = fs::metadata(path).ok()?;
            Some((file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.size()))
        })
    }
}

impl Asked {
    /// A machine without these files has no hosts, and a server of its own, as libc takes
    /// it.
    fn read(files: &Files, servers: &[SocketAddr]) -> Result<Self, String> {
        let (search, mut known, mut options) = match read(&files.resolv_conf)? {
            // Servers come from it unless others are named.
            Some(text) => resolv_conf(&text, servers.is_empty())
                .map_err(|why| format!("{}: {why}", files.resolv_conf.display()))?,
            None => Default::default(),
        };
        if !servers.is_empty() {
            known = servers.iter().map(server).collect();
        } else if known.is_empty() {
            known.push(NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into()));
        }
        // What holds how long is decided elsewhere, and hosts go before all search.
        (options.cache_size, options.use_hosts_file) = (0, ResolveHosts::Never);
        options.preserve_intermediates = true;
        let config = ResolverConfig::from_parts(None, search, known);
        let provider = TokioRuntimeProvider::default();
        let resolver = TokioResolver::builder_with_config(config, provider).with_options(options);
        let resolver = resolver.build().map_err(|error| error.to_string())?;
        let mut hosts = Hosts::default();
        match File::open(&files.hosts) {
            Ok(file) => hosts
                .read_hosts_conf(file)
                .map_err(|error| format!("{}: {error}", files.hosts.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", files.hosts.display())),
        }
        Ok(Self { resolver, hosts })
    }

    async fn look_up(&self, name: &str) -> Looked {
        let missed = |because: String| Missed { because, ttl: None };
        let asked: Name = name.parse().map_err(|error| missed(format!("{error}")))?;
        let known = |kind| {
            let found = self.hosts.lookup_static_host(&Query::query(asked.clone(), kind))?;
            Some(found.answers().iter().filter_map(address).collect::<Vec<_>>())
        };
        let hosts = [RecordType::A, RecordType::AAAA].into_iter().filter_map(known).flatten();
        // What `redirector hosts` has written there says nothing of where the host is.
        let hosts: Vec<IpAddr> = hosts.filter(|ip| !is_given(ip)).collect();
        if !hosts.is_empty() {
            return Ok(Found { addresses: each_once(hosts), ..Found::default() });
        }
        let look_up = |kind| self.resolver.lookup(asked.clone(), kind);
        let (v4, v6) = tokio::join!(look_up(RecordType::A), look_up(RecordType::AAAA));
        let answer = |looked: Result<hickory_resolver::lookup::Lookup, NetError>| match looked {
            Ok(lookup) => {
                let all = lookup.answers();
                let ttl = all.iter().map(|record| record.ttl).min();
                Answered::Some(all.iter().filter_map(address).collect(), ttl)
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let gone = none.response_code == ResponseCode::NXDomain;
                Answered::None { gone, ttl: none.negative_ttl }
            }
            Err(error) => Answered::Failed(error.to_string()),
        };
        both(answer(v4), answer(v6))
    }
}

/// What came of a question for one family.
#[derive(Debug)]
enum Answered {
    /// Addresses, and for how many seconds they hold.
    Some(Vec<IpAddr>, Option<u32>),
    /// There are none.
    None { gone: bool, ttl: Option<u32> },
    /// Nobody answered, or not to the point.
    Failed(String),
}

fn both(v4: Answered, v6: Answered) -> Looked {
    let seconds = |ttl: Option<u32>| ttl.map(|seconds| Duration::from_secs(seconds.into()));
    // What holds for less time counts; what does not say it says nothing.
    let least = |one: Option<u32>, other: Option<u32>| match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let found = |addresses, silent, ttl| {
        Ok(Found { addresses: each_once(addresses), silent, ttl: seconds(ttl) })
    };
    match (v4, v6) {
        (Answered::Some(mut v4, one), Answered::Some(v6, other)) => {
            v4.extend(v6);
            found(v4, None, least(one, other))
        }
        (Answered::Some(all, one), Answered::None { ttl, .. })
        | (Answered::None { ttl, .. }, Answered::Some(all, one)) => {
            found(all, None, least(one, ttl))
        }
        (Answered::Some(all, ttl), Answered::Failed(_)) => found(all, Some(Family::V6), ttl),
        (Answered::Failed(_), Answered::Some(all, ttl)) => found(all, Some(Family::V4), ttl),
        (Answered::None { gone, ttl: one }, Answered::None { gone: also, ttl: other }) => {
            let because = match gone || also {
                true => "there is no such name (NXDOMAIN)",
                false => "it has neither A nor AAAA records",
            };
            Err(Missed { because: because.to_owned(), ttl: seconds(least(one, other)) })
        }
        (Answered::Failed(why), _) | (_, Answered::Failed(why)) => {
            Err(Missed { because: why, ttl: None })
        }
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(Ipv4Addr::from(*address).into()),
        RData::AAAA(address) => Some(Ipv6Addr::from(*address).into()),
        _ => None,
    }
}

fn each_once(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut known = std::collections::HashSet::new();
    addresses.into_iter().filter(|address| known.insert(*address)).collect()
}

fn server(at: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(at.ip());
    server.connections.iter_mut().for_each(|connection| connection.port = at.port());
    server
}

/// The text of a file; `None` where it is not there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

type Conf = (Vec<Name>, Vec<NameServerConfig>, ResolverOpts);

/// What a resolv.conf says. One without servers is good, too.
fn resolv_conf(text: &[u8], servers: bool) -> Result<Conf, String> {
    let named = text.split(|byte| *byte == b'\n');
    let named = named.map(<[u8]>::trim_ascii_start).any(|line| line.starts_with(b"nameserver"));
    let mut text = text.to_vec();
    if !named {
        text.extend(b"\nnameserver 127.0.0.1\n");
    }
    let parsed = hickory_resolver::system_conf::parse_resolv_conf(&text);
    let (config, options) = parsed.map_err(|error| error.to_string())?;
    // Where `search` is missing the name of the machine would be taken apart; libc does
    // that, and names of ServiceEntries are whole ones.
    let (_, search, all) = config.into_parts();
    Ok((search, if servers { all } else { Vec::new() }, options))
}

#[cfg(test)]
mod tests;
