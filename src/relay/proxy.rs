//! The header that tells a server who its client is, ahead of the stream: PROXY protocol, versions 1 and 2
//! (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>, sections 2.1 and 2.2).

use crate::config::ProxyProtocol;
use arrayvec::ArrayVec;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

/// Longest header: version 1 with two IPv6 addresses written in full (section 2.1 allows 107 bytes).
pub const MAX: usize = 107;
/// First bytes of version 2 (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The header for a connection of `client` to `local`, the address that it connected to. Families that differ, which
/// the protocol cannot say, become `UNKNOWN` in version 1 and `LOCAL` in version 2.
pub fn header(version: ProxyProtocol, client: SocketAddr, local: SocketAddr) -> ArrayVec<u8, MAX> {
    let mut out = ArrayVec::new();
    let (from, to) = (client.ip().to_canonical(), local.ip().to_canonical());
    match version {
        ProxyProtocol::V1 => {
            let family = match (from, to) {
                (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
                (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
                // The line fits in every case: at most MAX bytes by the protocol's own count.
                _ => {
                    let _ = out.try_extend_from_slice(b"PROXY UNKNOWN\r\n");
                    return out;
                }
            };
            let _ = write!(out, "PROXY {family} {from} {to} {} {}\r\n", client.port(), local.port());
        }
        ProxyProtocol::V2 => {
            let mut put = |bytes: &[u8]| out.extend(bytes.iter().copied().take(MAX));
            put(&SIGNATURE);
            let ports = [client.port().to_be_bytes(), local.port().to_be_bytes()].concat();
            match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    // Version 2, PROXY; AF_INET, STREAM; 12 bytes follow.
                    put(&[0x21, 0x11, 0, 12]);
                    put(&from.octets());
                    put(&to.octets());
                    put(&ports);
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    put(&[0x21, 0x21, 0, 36]);
                    put(&from.octets());
                    put(&to.octets());
                    put(&ports);
                }
                // Version 2, LOCAL; nothing follows.
                _ => put(&[0x20, 0, 0, 0]),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: ProxyProtocol, client: &str, local: &str) -> Vec<u8> {
        header(version, client.parse().unwrap(), local.parse().unwrap()).to_vec()
    }

    #[test]
    fn version_1_is_the_line_of_the_specification() {
        let line = of(ProxyProtocol::V1, "192.168.0.1:56324", "192.168.0.11:443");
        assert_eq!(line, b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
        let line = of(ProxyProtocol::V1, "[2001:db8::1]:1", "[2001:db8::2]:65535");
        assert_eq!(line, b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n");
        let line = of(ProxyProtocol::V1, "[::ffff:192.0.2.1]:5", "192.0.2.2:6");
        assert_eq!(line, b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n");
        assert_eq!(of(ProxyProtocol::V1, "[2001:db8::1]:1", "192.0.2.2:6"), b"PROXY UNKNOWN\r\n");
        let all = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        assert_eq!(of(ProxyProtocol::V1, all, all).len(), 104);
    }

    #[test]
    fn version_2_is_signature_command_family_length_addresses_ports() {
        let start = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a";
        let v4 = of(ProxyProtocol::V2, "192.0.2.1:256", "198.51.100.2:443");
        let rest = [0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 2, 1, 0, 1, 0xbb];
        assert_eq!(v4, [&start[..], &rest].concat());
        let v6 = of(ProxyProtocol::V2, "[2001:db8::1]:1", "[2001:db8::2]:2");
        assert_eq!((v6.len(), &v6[12..18]), (52, &[0x21, 0x21, 0, 36, 0x20, 0x01][..]));
        assert_eq!(v6[48..], [0, 1, 0, 2]);
        let mixed = of(ProxyProtocol::V2, "[2001:db8::1]:1", "192.0.2.2:6");
        assert_eq!(mixed, [&start[..], &[0x20, 0, 0, 0]].concat());
    }
}
