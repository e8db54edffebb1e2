//! Addresses as the tables hold them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address in its v4-mapped form (`::ffff:a.b.c.d`).
///
/// One form for both families means one set of tables and one code path; the
/// families never meet, because no IPv6 socket can tell a v4-mapped address
/// from the IPv4 address that it is. The words are in network byte order, laid
/// out as in the kernel's `bpf_sock_addr.user_ip6`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr {
    /// The 16 bytes of the address, as four words in network byte order.
    pub words: [u32; 4],
}

/// The third word of every v4-mapped address, `0x0000ffff` in network byte order.
const V4_MAPPED: u32 = 0x0000_ffff_u32.to_be();

/// How many bits the v4-mapped form puts before an IPv4 address: added to an
/// IPv4 prefix length to get the length within an [`Addr`].
pub const V4_MAPPED_BITS: u32 = 96;

impl Addr {
    /// An IPv4 address from its word in network byte order, as in
    /// `bpf_sock_addr.user_ip4`.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, 0, V4_MAPPED, word] }
    }

    /// From the four words of an IPv6 address in network byte order, as in
    /// `bpf_sock_addr.user_ip6`.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// Whether this is an IPv4 address in its v4-mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == V4_MAPPED
    }

    /// Whether this is `::` or `0.0.0.0`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        let w = &self.words;
        w[0] == 0 && w[1] == 0 && w[3] == 0 && (w[2] == 0 || w[2] == V4_MAPPED)
    }

    /// The IPv4 address as a word in network byte order; meaningful only when
    /// [`is_v4`](Self::is_v4).
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.words[3]
    }

    /// The address as a 128-bit number in host byte order, for prefix arithmetic.
    pub const fn to_bits(self) -> u128 {
        let w = self.words;
        ((u32::from_be(w[0]) as u128) << 96)
            | ((u32::from_be(w[1]) as u128) << 64)
            | ((u32::from_be(w[2]) as u128) << 32)
            | (u32::from_be(w[3]) as u128)
    }

    /// The inverse of [`to_bits`](Self::to_bits).
    pub const fn from_bits(bits: u128) -> Self {
        Self {
            words: [
                ((bits >> 96) as u32).to_be(),
                ((bits >> 64) as u32).to_be(),
                ((bits >> 32) as u32).to_be(),
                (bits as u32).to_be(),
            ],
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(v4: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from(v4).to_be())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(v6: Ipv6Addr) -> Self {
        Self::from_bits(u128::from(v6))
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            Self::V4(Ipv4Addr::from(u32::from_be(addr.v4_word())))
        } else {
            Self::V6(Ipv6Addr::from(addr.to_bits()))
        }
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_and_its_mapped_form_are_one() {
        let v4: Addr = Ipv4Addr::new(10, 96, 0, 10).into();
        let mapped: Addr = Ipv4Addr::new(10, 96, 0, 10).to_ipv6_mapped().into();
        assert_eq!(v4, mapped);
        assert!(v4.is_v4());
        assert_eq!(IpAddr::from(mapped), IpAddr::from([10, 96, 0, 10]));
    }

    #[test]
    fn words_hold_the_bytes_in_network_order() {
        let v6: Ipv6Addr = "fd00:10:96::10".parse().expect("a valid address");
        let addr = Addr::from(v6);
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_mut(4).zip(addr.words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        assert_eq!(bytes, v6.octets());
        assert_eq!(Addr::from_bits(addr.to_bits()), addr);
    }
}
