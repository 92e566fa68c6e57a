//! What kind of address one is: the difference between the Internet and whatever else a host can reach.
//!
//! The ranges are those that IANA's registries of special-purpose addresses do not call globally reachable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use ipnet::{Ipv4Net, Ipv6Net};
use pyro_protocol::network::RefusalReason;

/// Why an address is not public; `None` for one that is.
pub(crate) fn not_public(address: IpAddr) -> Option<RefusalReason> {
    match address {
        IpAddr::V4(address) => not_public_v4(address),
        IpAddr::V6(address) => not_public_v6(address),
    }
}

/// Whether the host itself answers at this address, on whichever of its interfaces.
///
/// Only an address of its own can be bound; asked anew each time, because interfaces come and go.
pub(crate) fn is_of_host(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

fn not_public_v4(address: Ipv4Addr) -> Option<RefusalReason> {
    SPECIAL_V4.iter().find(|(network, _)| network.contains(&address)).map(|&(_, reason)| reason)
}

fn not_public_v6(address: Ipv6Addr) -> Option<RefusalReason> {
    // What an IPv4 address is within IPv6, it is without: the host's kernel unwraps some of these.
    if let Some(inner) = embedded_v4(address) {
        return Some(not_public_v4(inner).unwrap_or(RefusalReason::SpecialAddress));
    }
    SPECIAL_V6
        .iter()
        .find(|(network, _)| network.contains(&address))
        .map(|&(_, reason)| reason)
        // Nothing else is given out.
        .or_else(|| (!GLOBAL_UNICAST.contains(&address)).then_some(RefusalReason::SpecialAddress))
}

/// Of mapped, translated (NAT64) and compatible addresses.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let inner = || {
        let [.., a, b, c, d] = address.octets();
        Ipv4Addr::new(a, b, c, d)
    };
    let is_embedded = EMBEDDING_V6.iter().any(|network| network.contains(&address));
    let is_itself = address.is_loopback() || address.is_unspecified();
    (is_embedded && !is_itself).then(inner)
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(first: [u16; 2], length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first[0], first[1], 0, 0, 0, 0, 0, 0), length)
}

/// <https://www.iana.org/assignments/iana-ipv4-special-registry>, and multicast.
const SPECIAL_V4: [(Ipv4Net, RefusalReason); 16] = [
    (v4(127, 0, 0, 0, 8), RefusalReason::HostAddress),
    // "This host on this network": Linux connects to its own loopback.
    (v4(0, 0, 0, 0, 8), RefusalReason::HostAddress),
    (v4(10, 0, 0, 0, 8), RefusalReason::PrivateAddress),
    (v4(172, 16, 0, 0, 12), RefusalReason::PrivateAddress),
    (v4(192, 168, 0, 0, 16), RefusalReason::PrivateAddress),
    (v4(100, 64, 0, 0, 10), RefusalReason::PrivateAddress),
    (v4(169, 254, 0, 0, 16), RefusalReason::LinkLocalAddress),
    (v4(224, 0, 0, 0, 4), RefusalReason::MulticastAddress),
    (v4(255, 255, 255, 255, 32), RefusalReason::MulticastAddress),
    (v4(240, 0, 0, 0, 4), RefusalReason::SpecialAddress),
    (v4(192, 0, 0, 0, 24), RefusalReason::SpecialAddress),
    (v4(192, 0, 2, 0, 24), RefusalReason::SpecialAddress),
    (v4(198, 51, 100, 0, 24), RefusalReason::SpecialAddress),
    (v4(203, 0, 113, 0, 24), RefusalReason::SpecialAddress),
    (v4(198, 18, 0, 0, 15), RefusalReason::SpecialAddress),
    // Once relays of 6to4.
    (v4(192, 88, 99, 0, 24), RefusalReason::SpecialAddress),
];

/// <https://www.iana.org/assignments/iana-ipv6-special-registry>, and multicast.
const SPECIAL_V6: [(Ipv6Net, RefusalReason); 9] = [
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), RefusalReason::HostAddress),
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), RefusalReason::HostAddress),
    (v6([0xfc00, 0], 7), RefusalReason::PrivateAddress),
    // Site-local, as private networks once were.
    (v6([0xfec0, 0], 10), RefusalReason::PrivateAddress),
    (v6([0xfe80, 0], 10), RefusalReason::LinkLocalAddress),
    (v6([0xff00, 0], 8), RefusalReason::MulticastAddress),
    // Protocol assignments, Teredo among them.
    (v6([0x2001, 0], 23), RefusalReason::SpecialAddress),
    // 6to4: leads to the IPv4 address within.
    (v6([0x2002, 0], 16), RefusalReason::SpecialAddress),
    (v6([0x2001, 0x0db8], 32), RefusalReason::SpecialAddress),
];

/// The only part of IPv6 that public addresses are taken from, without what is for documentation (`3fff::/20`).
const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0], 4);

/// IPv4-compatible, IPv4-mapped, IPv4-translated, and the two prefixes of NAT64.
const EMBEDDING_V6: [Ipv6Net; 5] = [
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(address: &str) -> Option<RefusalReason> {
        not_public(address.parse().unwrap())
    }

    #[test]
    fn addresses_of_the_internet_are_public() {
        for address in ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111"] {
            assert_eq!(reason(address), None, "{address}");
        }
    }

    #[test]
    fn whatever_a_host_reaches_beside_the_internet_is_not() {
        use RefusalReason::{
            HostAddress, LinkLocalAddress, MulticastAddress, PrivateAddress, SpecialAddress,
        };
        for (address, expected) in [
            ("127.0.0.1", HostAddress),
            ("127.255.255.254", HostAddress),
            ("0.0.0.0", HostAddress),
            ("::1", HostAddress),
            ("::", HostAddress),
            ("10.255.255.255", PrivateAddress),
            ("172.16.0.1", PrivateAddress),
            ("172.31.255.255", PrivateAddress),
            ("192.168.1.1", PrivateAddress),
            ("100.64.0.1", PrivateAddress),
            ("fd00::1", PrivateAddress),
            ("fec0::1", PrivateAddress),
            ("169.254.169.254", LinkLocalAddress),
            ("fe80::1", LinkLocalAddress),
            ("224.0.0.251", MulticastAddress),
            ("255.255.255.255", MulticastAddress),
            ("ff02::1", MulticastAddress),
            ("240.0.0.1", SpecialAddress),
            ("192.0.2.1", SpecialAddress),
            ("198.19.0.1", SpecialAddress),
            ("2001::1", SpecialAddress),
            ("2001:db8::1", SpecialAddress),
            ("3fff::1", SpecialAddress),
            ("5000::1", SpecialAddress),
        ] {
            assert_eq!(reason(address), Some(expected), "{address}");
        }
    }

    #[test]
    fn an_address_within_another_one_gives_no_way_around() {
        for (address, expected) in [
            ("::ffff:127.0.0.1", RefusalReason::HostAddress),
            ("::127.0.0.1", RefusalReason::HostAddress),
            ("::ffff:10.0.0.1", RefusalReason::PrivateAddress),
            ("64:ff9b::169.254.169.254", RefusalReason::LinkLocalAddress),
            ("64:ff9b:1::192.168.0.1", RefusalReason::PrivateAddress),
            ("::ffff:8.8.8.8", RefusalReason::SpecialAddress),
            ("2002:7f00:1::1", RefusalReason::SpecialAddress),
        ] {
            assert_eq!(reason(address), Some(expected), "{address}");
        }
    }

    #[test]
    fn the_host_knows_its_own_addresses() {
        assert!(is_of_host("127.0.0.1".parse().unwrap()));
        assert!(is_of_host("127.9.9.9".parse().unwrap()));
        assert!(!is_of_host("192.0.2.77".parse().unwrap()));
    }
}
