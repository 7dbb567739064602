//! Which addresses may be connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Decides on each address that is about to be connected to, whoever named it: a server name, `.well-known`, SRV, a redirect.
///
/// It sees addresses after resolution, so a name whose addresses change between a check and the connection gains nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressFilter {
    /// Lets addresses through that are not of the public internet, for closed federations and tests.
    pub allow_private_addresses: bool,
}

impl AddressFilter {
    /// Whether the address may be connected to.
    pub fn allows(self, address: IpAddr) -> bool {
        self.allow_private_addresses || is_public(address)
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !matches_any_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn matches_any_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    NOT_PUBLIC_V4.iter().any(|(network, length)| bits >> (32 - length) == network.to_bits() >> (32 - length))
}

/// Of IPv6, only what is given to networks of the internet (2000::/3) is public, apart from what is carved out of that. Addresses
/// that lead to an IPv4 address are as public as that one.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    if let Some(v4) = v4_behind(address) {
        return !matches_any_v4(v4);
    }
    bits >> 125 == 1
        && !NOT_PUBLIC_V6.iter().any(|(network, length)| bits >> (128 - length) == network.to_bits() >> (128 - length))
}

/// The IPv4 address that packets to an IPv6 address may end up at: mapped (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056).
fn v4_behind(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0, 0, 0, 0, 0xffff, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => Some(v4(g, h)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// Source: the IANA IPv4 Special-Purpose Address Registry, and multicast.
const NOT_PUBLIC_V4: [(Ipv4Addr, u32); 18] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 52, 193, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(192, 175, 48, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Source: the IANA IPv6 Special-Purpose Address Registry, as far as it is within 2000::/3.
const NOT_PUBLIC_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

#[cfg(test)]
mod tests {
    use super::AddressFilter;

    fn check(addresses: &[&str], expected: bool) {
        for address in addresses {
            let address = address.parse().unwrap();
            assert_eq!(AddressFilter::default().allows(address), expected, "{address}");
            assert!(AddressFilter { allow_private_addresses: true }.allows(address));
        }
    }

    #[test]
    fn sc_196_sc_197_addresses_that_are_not_public_are_refused() {
        check(
            &["0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254"],
            false,
        );
        check(&["169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.1.1", "192.0.0.8", "192.0.2.1"], false);
        check(&["198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.7", "192.88.99.1"], false);
        check(&["224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"], false);
        check(&["::", "::1", "::127.0.0.1", "fc00::1", "fd12::1", "fe80::1", "fec0::1", "ff02::1", "100::1"], false);
        check(&["2001:db8::1", "2001::1", "2001:10::1", "2001:20::1", "3fff::1", "5f00::1"], false);
    }

    #[test]
    fn sc_196_v4_addresses_behind_v6_are_refused() {
        check(
            &["::ffff:10.0.0.1", "::ffff:127.0.0.1", "::ffff:0:10.0.0.1", "64:ff9b::a00:1", "64:ff9b::7f00:1"],
            false,
        );
        check(&["2002:a00:1::", "2002:7f00:1::1", "2002:c0a8:101::1", "64:ff9b:1::a00:1"], false);
        check(&["::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"], true);
    }

    #[test]
    fn public_addresses_are_allowed() {
        check(
            &["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.167.1.1"],
            true,
        );
        check(&["2606:4700::1111", "2a00:1450::1", "2001:4860:4860::8888", "2001:200::1", "3ffe::1"], true);
    }
}
