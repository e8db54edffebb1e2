//! Flags that say who is asked for the addresses of names.

use std::net::{IpAddr, SocketAddr};

use super::{Exit, Failure};
use crate::daemon::names::Via;

/// Where DNS servers listen.
const PORT: u16 = 53;

/// Who is asked.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Names of ServiceEntries")]
pub struct NamesArgs {
    /// What resolves them: hickory (DNS servers and /etc/hosts, and how long an answer holds is
    /// kept to) or system (getaddrinfo, with all modules of nsswitch)
    #[arg(long, value_enum, value_name = "WHAT", default_value = "hickory")]
    resolver: Which,
    /// A DNS server that is asked instead of those in /etc/resolv.conf; may be given several times
    #[arg(long, value_name = "ADDRESS[:PORT]", action = clap::ArgAction::Append, value_parser = server)]
    dns_server: Vec<SocketAddr>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Which {
    Hickory,
    System,
}

impl NamesArgs {
    /// Who is asked.
    ///
    /// # Errors
    ///
    /// When servers are named that would not be asked, or where addresses are allocated
    /// (`allocates`) and the resolver reads them in /etc/hosts.
    pub fn via(&self, allocates: bool) -> Result<Via, Failure> {
        match (self.resolver, self.dns_server.as_slice()) {
            (Which::System, _) if allocates => Err(Failure::new(
                Exit::Usage,
                "--resolver=system with --allocate-addresses: the system's resolver answers with \
                 the addresses that were allocated, from /etc/hosts, and not with where the hosts \
                 are",
            )
            .help("leave --resolver=system out, so that DNS servers are asked")),
            (Which::Hickory, servers) => Ok(Via::Dns { servers: servers.to_vec() }),
            (Which::System, []) => Ok(Via::System),
            (Which::System, _) => Err(Failure::new(
                Exit::Usage,
                "--dns-server: the system's resolver asks the servers that the system is set up \
                 with, and no others",
            )
            .help("leave --resolver=system out, or name the server in /etc/resolv.conf")),
        }
    }
}

fn server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    let address = address.or_else(|_| text.parse::<SocketAddr>());
    address.ok().filter(|at| at.port() != 0).ok_or_else(|| {
        "expected an address, such as 10.0.0.2, 10.0.0.2:5353 or [fd00::2]:53".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_allocated_addresses_in_etc_hosts_is_not_asked_for_others() {
        let via = |resolver, allocates| {
            NamesArgs { resolver, dns_server: Vec::new() }.via(allocates).map_err(|_| ())
        };
        assert_eq!(via(Which::System, true), Err(()));
        assert_eq!(via(Which::System, false), Ok(Via::System));
        assert_eq!(via(Which::Hickory, true), Ok(Via::Dns { servers: Vec::new() }));
    }

    #[test]
    fn a_server_is_an_address_with_or_without_a_port() {
        for (text, read) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("fd00::2", "[fd00::2]:53"),
            ("[fd00::2]", "[fd00::2]:53"),
            ("[fd00::2]:54", "[fd00::2]:54"),
        ] {
            assert_eq!(server(text).map(|at| at.to_string()), Ok(read.to_owned()), "{text}");
        }
        for text in ["", "dns.example", "192.0.2.1:", "192.0.2.1:0", "[192.0.2.1"] {
            assert!(server(text).is_err(), "{text}");
        }
    }
}
