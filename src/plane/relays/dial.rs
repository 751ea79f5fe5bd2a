//! Where a connection may be dialled to and from which address: a list, tried in order.

use crate::config::{Network, Published, SourceIp};
use crate::msg::SocketKind;
use crate::nat::shows_client;
use smallvec::SmallVec;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What socket it takes.
    pub kind: SocketKind,
    /// Where to.
    pub to: SocketAddr,
    /// Whom the guest sees, where that is not the socket's own choice.
    pub from: Option<SocketAddr>,
    /// The guest sees the client itself.
    pub client_shown: bool,
}

/// The tries of one connection, best first.
pub type Attempts = SmallVec<[Attempt; 3]>;

impl Attempt {
    /// From whatever address the kernel picks.
    pub const fn plain(to: SocketAddr) -> Self {
        let kind = SocketKind { v6: to.is_ipv6(), datagram: false, transparent: false };
        Self { kind, to, from: None, client_shown: false }
    }
}

/// The tries for a connection of `client` to port number `nth` of `port`. Without `transparent` sockets, plain ones.
pub fn attempts(
    network: &Network,
    port: &Published,
    nth: u16,
    client: SocketAddr,
    transparent: bool,
) -> Attempts {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let loopback =
        |v6| -> IpAddr { if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() } };
    let targets: SmallVec<[IpAddr; 2]> = match port.guest_ip {
        Some(ip) => SmallVec::from_slice(&[ip]),
        None => [client.is_ipv6(), !client.is_ipv6()].into_iter().map(loopback).collect(),
    };
    let mut out = Attempts::new();
    for ip in targets {
        let to = SocketAddr::new(ip, port.guest_port.wrapping_add(nth));
        let plain = Attempt::plain(to);
        if !transparent {
            out.push(plain);
            continue;
        }
        let from = |from, client_shown| Attempt {
            kind: SocketKind { transparent: true, ..plain.kind },
            from: Some(from),
            client_shown,
            ..plain
        };
        if port.source_ip == SourceIp::Preserve && shows_client(network, client.ip(), ip) {
            out.push(from(client, true));
        }
        let gateway = if ip.is_ipv6() {
            network.gateway_v6().map(IpAddr::V6)
        } else {
            Some(network.gateway_v4().into())
        };
        out.push(gateway.map_or(plain, |ip| from(SocketAddr::new(ip, 0), false)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PortId;

    fn published() -> Published {
        Published {
            id: PortId(1),
            udp: false,
            guest_ip: None,
            guest_port: 80,
            count: 1,
            source_ip: SourceIp::Preserve,
            proxy_protocol: None,
        }
    }

    fn of(port: &Published, client: &str, transparent: bool) -> Vec<String> {
        let tries = attempts(&Network::default(), port, 0, client.parse().unwrap(), transparent);
        tries.iter().map(|a| format!("{} {:?}", a.to, a.from)).collect()
    }

    #[test]
    fn the_clients_family_first_then_the_other_as_the_gateway() {
        let seen = of(&published(), "192.0.2.9:1000", true);
        let expected = [
            "127.0.0.1:80 Some(192.0.2.9:1000)",
            "127.0.0.1:80 Some(10.0.2.2:0)",
            "[::1]:80 Some([fd00::2]:0)",
        ];
        assert_eq!(seen, expected);
        assert_eq!(of(&published(), "[::ffff:192.0.2.9]:1000", true), expected);
        assert_eq!(of(&published(), "[2001:db8::1]:7", false), ["[::1]:80 None", "127.0.0.1:80 None"]);
    }

    #[test]
    fn a_client_the_guest_could_not_answer_is_the_gateway() {
        let port = Published { guest_ip: Some("10.0.2.100".parse().unwrap()), ..published() };
        assert_eq!(of(&port, "127.0.0.1:5", true), ["10.0.2.100:80 Some(10.0.2.2:0)"]);
        let hidden = Published { source_ip: SourceIp::Gateway, ..port };
        assert_eq!(of(&hidden, "192.0.2.9:5", true), ["10.0.2.100:80 Some(10.0.2.2:0)"]);
    }
}
