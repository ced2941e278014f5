//! Which addresses lie outside: on the public internet, and nowhere in the platform's own networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Answers virtual machines of a cloud from a public address.
const CLOUD_HOST: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Whether an address is public: not loopback, private, shared, link-local, reserved or for documentation, nor an address
/// that leads to one of those (IPv4-mapped, 6to4, Teredo, NAT64).
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(a) => is_public_v4(a),
        IpAddr::V6(a) => is_public_v6(a),
    }
}

fn is_public_v4(a: Ipv4Addr) -> bool {
    let [first, second, third, _] = a.octets();
    let shared = first == 100 && (64..128).contains(&second);
    // Protocol assignments, relays of 6to4, benchmarks, and what has no use yet.
    let reserved = first == 0
        || first >= 240
        || (first == 192 && second == 0 && third == 0)
        || (first == 192 && second == 88 && third == 99)
        || (first == 198 && (18..20).contains(&second));
    !(a.is_private()
        || a.is_loopback()
        || a.is_link_local()
        || a.is_multicast()
        || a.is_documentation()
        || shared
        || reserved
        || a == CLOUD_HOST)
}

fn is_public_v6(a: Ipv6Addr) -> bool {
    let [first, second, third, fourth, fifth, sixth, high, low] = a.segments();
    if [first, second, third, fourth, fifth, sixth] == [0x64, 0xff9b, 0, 0, 0, 0] {
        return is_public_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    }
    let global_unicast = (first & 0xe000) == 0x2000;
    let six_to_four = first == 0x2002;
    // 2001::/23 holds Teredo and other protocols' addresses.
    let protocols = first == 0x2001 && second < 0x200;
    let documentation = (first == 0x2001 && second == 0x0db8) || (first == 0x3fff && second < 0x1000);
    global_unicast && !six_to_four && !protocols && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_told_from_public_ones() {
        for (address, public) in [
            ("127.0.0.1", false),
            ("127.255.255.254", false),
            ("10.1.2.3", false),
            ("172.16.0.1", false),
            ("172.32.0.1", true),
            ("192.168.1.1", false),
            ("169.254.169.254", false),
            ("168.63.129.16", false),
            ("100.64.0.1", false),
            ("100.100.100.200", false),
            ("100.128.0.1", true),
            ("192.0.0.192", false),
            ("192.88.99.1", false),
            ("198.18.0.1", false),
            ("203.0.113.9", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("93.184.216.34", true),
            ("::", false),
            ("::1", false),
            ("::127.0.0.1", false),
            ("fd00::1", false),
            ("fd00:ec2::254", false),
            ("fe80::1", false),
            ("fec0::1", false),
            ("ff02::1", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:93.184.216.34", true),
            ("64:ff9b::10.0.0.1", false),
            ("64:ff9b::169.254.169.254", false),
            ("64:ff9b::93.184.216.34", true),
            ("64:ff9b:1::93.184.216.34", false),
            ("2002:7f00:1::", false),
            ("2001:0:4136:e378::1", false),
            ("2001:db8::1", false),
            ("3fff::1", false),
            ("2001:4860:4860::8888", true),
            ("2606:2800:220:1:248:1893:25c8:1946", true),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }
}
