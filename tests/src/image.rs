//! Images by hand: for tests that are about the kernel, not about compiling.

use std::net::SocketAddr;

use redirector_common::abi::{Backend, Destination, Leg, Route, Verdict, VerdictKind};
use redirector_core::image::{Image, Prefix};

/// Makes an [`Image`], entry by entry.
#[derive(Debug, Default)]
pub struct Builder {
    image: Image,
}

impl Builder {
    /// A destination with these endpoints, all of one weight.
    pub fn destination(&mut self, endpoints: &[SocketAddr]) -> u32 {
        let first = self.image.backends.len() as u32;
        for (index, endpoint) in (0_u32..).zip(endpoints) {
            let backend = Backend {
                addr: endpoint.ip().into(),
                port: endpoint.port().to_be(),
                live: 0,
                threshold: u32::MAX,
                alias: index as u16,
                owner: 0,
            };
            self.image.backends.insert(first + index, backend);
        }
        let index = self.image.destinations.len() as u32;
        let count = endpoints.len() as u32;
        let destination = Destination { first, count, ..Destination::default() };
        self.image.destinations.insert(index, destination);
        index
    }

    /// A route with these legs: destination, and the alias table's slot as
    /// threshold and alias.
    pub fn route_with(&mut self, legs: &[(u32, u32, u32)]) -> Verdict {
        let first = self.image.legs.len() as u32;
        for (index, (destination, threshold, alias)) in (0_u32..).zip(legs) {
            let leg = Leg {
                destination: *destination,
                threshold: *threshold,
                alias: *alias,
                ..Leg::default()
            };
            self.image.legs.insert(first + index, leg);
        }
        // Index 0 with no legs would be an entry of zeroes.
        let index = self.image.routes.len() as u32;
        self.image.routes.insert(index, Route { first, count: legs.len() as u32 });
        Verdict::new(VerdictKind::Route(index))
    }

    /// A route with one leg.
    pub fn route(&mut self, endpoints: &[SocketAddr]) -> Verdict {
        let destination = self.destination(endpoints);
        self.route_with(&[(destination, u32::MAX, 0)])
    }

    /// A class table with a default and exceptions.
    pub fn classes(&mut self, default: Verdict, exceptions: &[(u32, Verdict)]) -> Verdict {
        let table = self.image.class_defaults.len() as u32;
        self.image.class_defaults.insert(table, default);
        for (class, verdict) in exceptions {
            self.image.class_verdicts.insert((table, *class), *verdict);
        }
        Verdict::new(VerdictKind::Classes(table))
    }

    /// The class of an identity.
    pub fn class(&mut self, identity: u32, class: u32) {
        self.image.class_of.insert(identity, class);
    }

    /// A frontend of one address.
    pub fn frontend(&mut self, address: SocketAddr, verdict: Verdict) {
        self.image.frontends.insert((address.ip().into(), address.port()), verdict);
    }

    /// A frontend of a prefix; `len` is its length within its own family.
    pub fn prefix(&mut self, address: SocketAddr, len: u8, verdict: Verdict) {
        let len = if address.is_ipv4() { 96 + len } else { len };
        let prefix = Prefix { addr: address.ip().into(), len, port: address.port() };
        self.image.prefixes.insert(prefix, verdict);
    }

    /// The image.
    pub fn build(self) -> Image {
        self.image
    }
}
