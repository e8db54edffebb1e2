//! Names by DNS, and /etc/hosts before it. What a machine uses beyond that (modules of
//! nsswitch such as mDNS, LDAP or systemd's own names) is not asked.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use redirector_core::registry::is_given;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Addresses, Ask, Done, Family, Looked, Missed};
use crate::confined::keep_none;

/// How long a lookup may take.
#[derive(Clone, Copy)]
struct Patience {
    /// After this long it ends, whatever the servers do: before it counts as one that does
    /// not answer, since one family may be known.
    whole: Duration,
    /// So long AAAA records of a name are waited for that does not exist by the answer for A.
    of_gone: Duration,
}

/// An alias of an alias, and so on: this many at most are gone along to find out where they lead.
const MOST_ALIASES: usize = 16;

/// This long.
const PATIENCE: Patience =
    Patience { whole: Duration::from_secs(8), of_gone: Duration::from_secs(1) };

/// Asks DNS servers.
pub(super) struct Dns {
    /// `None` once it is dropped.
    runtime: Option<Runtime>,
    files: Files,
    servers: Vec<SocketAddr>,
    patience: Patience,
    current: Result<Arc<Asked>, String>,
    /// Of the files that `current` was read from.
    stamps: Option<[Option<Stamp>; 2]>,
    /// Why they could not be read again.
    refused: Option<String>,
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
    /// Asks for whole names only.
    resolver: TokioResolver,
    hosts: HashMap<Name, Vec<IpAddr>>,
    search: Vec<Name>,
    /// A name with so many dots is tried as a whole one first.
    ndots: usize,
    patience: Patience,
}

impl Dns {
    /// Asks these servers, or those of the machine.
    pub fn new(servers: Vec<SocketAddr>) -> io::Result<Self> {
        let files = Files { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() };
        Self::reading(files, servers, PATIENCE)
    }

    fn reading(files: Files, servers: Vec<SocketAddr>, patience: Patience) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("dns")
            .on_thread_start(keep_none)
            .enable_all()
            .build()?;
        let stamps = files.stamps();
        let current = Asked::read(&files, &servers, patience).map(Arc::new);
        let stamps = current.is_ok().then_some(stamps);
        let runtime = Some(runtime);
        Ok(Self { runtime, files, servers, patience, current, stamps, refused: None })
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
            runtime.spawn(async move { done(asked.look_up(&name).await) });
        }
        Ok(())
    }

    fn has_changed(&mut self) -> bool {
        let stamps = self.files.stamps();
        if self.stamps == Some(stamps) {
            return false;
        }
        match Asked::read(&self.files, &self.servers, self.patience) {
            Ok(asked) => {
                (self.current, self.stamps) = (Ok(Arc::new(asked)), Some(stamps));
                self.refused = None;
                true
            }
            // What was read before stays, and next time it is tried again.
            Err(why) => {
                if self.refused.as_ref() != Some(&why) {
                    tracing::warn!("servers and hosts cannot be read again: {why}");
                }
                if self.current.is_err() {
                    self.current = Err(why.clone());
                }
                self.refused = Some(why);
                false
            }
        }
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
    fn read(files: &Files, servers: &[SocketAddr], patience: Patience) -> Result<Self, String> {
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
        let ndots = options.ndots;
        let config = ResolverConfig::from_parts(None, Vec::new(), known);
        let provider = TokioRuntimeProvider::default();
        let resolver = TokioResolver::builder_with_config(config, provider).with_options(options);
        let resolver = resolver.build().map_err(|error| error.to_string())?;
        let hosts = hosts(&read(&files.hosts)?.unwrap_or_default());
        Ok(Self { resolver, hosts, search, ndots, patience })
    }

    async fn look_up(&self, name: &str) -> Looked {
        let missed = |because: String| Missed { because, ttl: None };
        let asked: Name = name.parse().map_err(|error| missed(format!("{error}")))?;
        let mut whole = asked.clone();
        whole.set_fqdn(true);
        if let Some(hosts) = self.hosts.get(&whole) {
            return Ok(Addresses { addresses: each_once(hosts.clone()), ..Addresses::default() });
        }
        let until = Instant::now() + self.patience.whole;
        let (mut gone, mut ttl, mut unsaid) = (true, None, None);
        for candidate in self.candidates(&asked) {
            match self.ask(&candidate, until).await {
                (Answered::Some(addresses, ttl), silent) => {
                    let addresses = each_once(addresses);
                    return Ok(Addresses { addresses, silent, ttl: seconds(ttl) });
                }
                (Answered::None { gone: also, ttl: other }, _) => {
                    (gone, ttl) = (gone && also, least(ttl, other));
                    unsaid = unsaid.or((!also && other.is_none()).then_some(candidate));
                }
                // It may be this one, and the next one somebody else's.
                (Answered::Failed(why), _) => {
                    return Err(missed(format!("{why} (asked for {candidate})")));
                }
            }
        }
        let because = match unsaid {
            _ if gone => "there is no such name (NXDOMAIN)".to_owned(),
            None => "it has neither A nor AAAA records".to_owned(),
            Some(candidate) => self.why_unsaid(candidate, until).await,
        };
        Err(Missed { because, ttl: seconds(ttl) })
    }

    /// Why an answer says neither where a name is nor that it is nowhere. What it has of other
    /// names is not shown to who asks, and so where its aliases lead is asked for.
    async fn why_unsaid(&self, name: Name, until: Instant) -> String {
        let mut chain = vec![name];
        while let Some(last) = chain.last().filter(|_| chain.len() <= MOST_ALIASES) {
            let asked = self.resolver.lookup(last.clone(), RecordType::CNAME);
            let Ok(Ok(lookup)) = timeout_at(until, asked).await else { break };
            let mut aliases = lookup.answers().iter().filter(|one| one.name == *last);
            let next = aliases.find_map(|record| match &record.data {
                RData::CNAME(target) => Some(target.0.clone()),
                _ => None,
            });
            let Some(next) = next else { break };
            let is_known = chain.contains(&next);
            chain.push(next);
            if is_known {
                let shown: Vec<String> = chain.iter().map(Name::to_string).collect();
                return format!(
                    "it is an alias (CNAME) that leads back to itself: {}",
                    shown.join(" -> ")
                );
            }
        }
        match chain.as_slice() {
            [_, .., last] => format!(
                "it is an alias (CNAME) of {last}, and the answer has neither A nor AAAA records \
                 of that, and no SOA record, which says that there are none"
            ),
            _ => {
                "the answer has neither A nor AAAA records of this name, and no SOA record, which \
                  says that there are none: it may be about another name"
                    .to_owned()
            }
        }
    }

    /// What a name may be, as libc tries it: itself as a whole one before or after what it
    /// is in the domains of the search list.
    fn candidates(&self, name: &Name) -> Vec<Name> {
        if name.is_fqdn() {
            return vec![name.clone()];
        }
        let mut whole = name.clone();
        whole.set_fqdn(true);
        // One that is too long is none.
        let searched = self.search.iter().filter_map(|one| name.clone().append_domain(one).ok());
        let mut all: Vec<Name> = searched.collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let at = if dots >= self.ndots || name.is_localhost() { 0 } else { all.len() };
        all.insert(at, whole);
        all
    }

    /// Asks for both families of a whole name.
    async fn ask(&self, name: &Name, until: Instant) -> (Answered, Option<Family>) {
        let one = |kind| async move {
            match timeout_at(until, self.resolver.lookup(name.clone(), kind)).await {
                Ok(Ok(lookup)) => of_name(name, lookup.answers()),
                Ok(Err(error)) => error.into(),
                Err(_) => Answered::silent(self.patience.whole),
            }
        };
        let (mut v4, mut v6) = (pin!(one(RecordType::A)), pin!(one(RecordType::AAAA)));
        tokio::select! {
            v4 = &mut v4 => {
                // That there is no such name is so for both. The other way around servers
                // say it that know nothing of AAAA.
                let v6 = match v4 {
                    Answered::None { gone: true, .. } => {
                        let of_gone = self.patience.of_gone;
                        timeout(of_gone, v6).await.unwrap_or_else(|_| Answered::silent(of_gone))
                    }
                    _ => v6.await,
                };
                both(v4, v6)
            }
            v6 = &mut v6 => both(v4.await, v6),
        }
    }
}

/// What came of a question for one family, or for both.
#[derive(PartialEq, Debug)]
enum Answered {
    /// Addresses, and for how many seconds they hold.
    Some(Vec<IpAddr>, Option<u32>),
    /// There are none.
    None { gone: bool, ttl: Option<u32> },
    /// Nobody answered, or not to the point.
    Failed(String),
}

impl Answered {
    fn silent(time: Duration) -> Self {
        Self::Failed(format!("no answer in {} s", time.as_secs_f32()))
    }
}

impl From<NetError> for Answered {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => {
                let gone = none.response_code == ResponseCode::NXDomain;
                Self::None { gone, ttl: none.negative_ttl }
            }
            error => Self::Failed(error.to_string()),
        }
    }
}

/// What records say of a name: those of the name itself, and of what it is an alias of.
fn of_name(name: &Name, records: &[Record]) -> Answered {
    let aliases = records.iter().filter_map(|record| match &record.data {
        RData::CNAME(target) => Some((&record.name, &target.0)),
        _ => None,
    });
    let mut aliases: HashMap<&Name, &Name> = aliases.collect();
    let (mut chain, mut last) = (HashSet::from([name]), name);
    // Each is gone along once, so that a ring ends.
    while let Some(next) = aliases.remove(last) {
        chain.insert(next);
        last = next;
    }
    let own = || records.iter().filter(|record| chain.contains(&record.name));
    let addresses: Vec<IpAddr> = own().filter_map(address).collect();
    match addresses.is_empty() {
        true => Answered::None { gone: false, ttl: None },
        false => Answered::Some(addresses, own().map(|record| record.ttl).min()),
    }
}

fn seconds(ttl: Option<u32>) -> Option<Duration> {
    ttl.map(|seconds| Duration::from_secs(seconds.into()))
}

/// What holds for less time counts; what does not say it says nothing.
fn least(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What both families come to, and of which one nothing is known.
fn both(v4: Answered, v6: Answered) -> (Answered, Option<Family>) {
    match (v4, v6) {
        (Answered::Some(mut v4, one), Answered::Some(v6, other)) => {
            v4.extend(v6);
            (Answered::Some(v4, least(one, other)), None)
        }
        (Answered::Some(all, one), Answered::None { ttl, .. })
        | (Answered::None { ttl, .. }, Answered::Some(all, one)) => {
            (Answered::Some(all, least(one, ttl)), None)
        }
        (found @ Answered::Some(..), Answered::Failed(_)) => (found, Some(Family::V6)),
        (Answered::Failed(_), found @ Answered::Some(..)) => (found, Some(Family::V4)),
        (Answered::None { gone, ttl: one }, Answered::None { gone: also, ttl: other }) => {
            (Answered::None { gone: gone || also, ttl: least(one, other) }, None)
        }
        (none @ Answered::None { gone: true, .. }, Answered::Failed(_)) => (none, None),
        (failed @ Answered::Failed(_), _) | (_, failed @ Answered::Failed(_)) => (failed, None),
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
    let mut known = HashSet::new();
    addresses.into_iter().filter(|address| known.insert(*address)).collect()
}

fn server(at: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(at.ip());
    server.connections.iter_mut().for_each(|connection| connection.port = at.port());
    server
}

/// The text of a file; `None` where it is not there. A comment may be in any encoding.
fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::read(path) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The addresses of each name in a hosts file, those of IPv4 first. What `redirector hosts` has
/// written there says nothing of where a host is. (Hickory's own reader copies all that a name
/// has for each line.)
fn hosts(text: &str) -> HashMap<Name, Vec<IpAddr>> {
    let mut hosts: HashMap<Name, Vec<IpAddr>> = HashMap::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.split_once('#').map_or(line, |(line, _)| line);
        let mut words = line.split_whitespace();
        let address = words.next().and_then(|word| word.parse().ok());
        let Some(address) = address.filter(|ip| !is_given(ip)) else { continue };
        for mut name in words.filter_map(|word| word.parse::<Name>().ok()) {
            name.set_fqdn(true);
            hosts.entry(name).or_default().push(address);
        }
    }
    hosts.values_mut().for_each(|all| all.sort_by_key(IpAddr::is_ipv6));
    hosts
}

type Conf = (Vec<Name>, Vec<NameServerConfig>, ResolverOpts);

/// What a resolv.conf says. One without servers is good, too.
fn resolv_conf(text: &str, servers: bool) -> Result<Conf, String> {
    let mut text = text.to_owned();
    if !text.lines().any(|line| line.trim_start().starts_with("nameserver")) {
        text.push_str("\nnameserver 127.0.0.1\n");
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
