//! Where a connection may be dialled to and from which address: a list, tried in order.
//!
//! Targets, where no address was named: the tap's of the client's family, the loopback of that family, then the other
//! family's. The tap's comes first because address translation inside (Docker's rule for a published port) leaves the
//! loopback alone. Addresses: first the client's at every target that could answer it, then the gateway's. So a client
//! whose address and port are taken at one target (it came in by two published ports that lead to one) keeps it at
//! another, and is shown as the gateway only in the last resort. A target that refuses refuses whoever is shown:
//! [`next`] goes on to another one.

use crate::config::{Dial, Network, Published};
use crate::msg::SocketKind;
use crate::nat;
use arrayvec::ArrayVec;
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
pub type Attempts = SmallVec<[Attempt; 6]>;

impl Attempt {
    /// From whatever address the kernel picks.
    pub const fn plain(to: SocketAddr) -> Self {
        let kind = SocketKind { v6: to.is_ipv6(), datagram: false, transparent: false };
        Self { kind, to, from: None, client_shown: false }
    }
}

/// The tries for a connection of `client` to port number `nth` of `port`.
pub fn attempts(network: &Network, port: &Published, nth: u16, client: SocketAddr) -> Attempts {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let number = port.guest_port.wrapping_add(nth);
    let mut targets = ArrayVec::<SocketAddr, 4>::new();
    match port.named() {
        Some(ip) => targets.push(SocketAddr::new(ip, number)),
        None => {
            for v6 in [client.is_ipv6(), !client.is_ipv6()] {
                let own =
                    if v6 { network.guest_v6().map(IpAddr::V6) } else { Some(network.guest_v4().into()) };
                let loopback: IpAddr =
                    if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
                let own = own.filter(|_| port.dial != Dial::Loopback);
                targets.extend(own.into_iter().chain([loopback]).map(|ip| SocketAddr::new(ip, number)));
            }
        }
    }
    if port.dial == Dial::Plain {
        return targets.into_iter().map(Attempt::plain).collect();
    }
    let from = |to: SocketAddr, from, client_shown| {
        let plain = Attempt::plain(to);
        let kind = SocketKind { transparent: true, ..plain.kind };
        Attempt { kind, from: Some(from), client_shown, ..plain }
    };
    let shows = |to: &SocketAddr| nat::shown(network, client.ip(), to.ip(), port.source_ip).is_client();
    // The plane has no capability to take a privileged port: of such a client the address alone is kept.
    let own = if client.port() < 1024 { SocketAddr::new(client.ip(), 0) } else { client };
    let as_client = targets.iter().filter(|to| shows(to)).map(|to| from(*to, own, true));
    let as_gateway = targets.iter().map(|to| match to.is_ipv6() {
        false => from(*to, SocketAddr::new(network.gateway_v4().into(), 0), false),
        true => match network.gateway_v6() {
            Some(ip) => from(*to, SocketAddr::new(ip.into(), 0), false),
            None => Attempt::plain(*to),
        },
    });
    as_client.chain(as_gateway).collect()
}

/// The try after number `at`; none to a target that has refused one of the tries whose bits are in `refused`.
pub fn next(attempts: &Attempts, at: usize, refused: u8) -> usize {
    let tried = |n: usize| {
        attempts[..=at].iter().enumerate().any(|(k, a)| refused & 1 << k != 0 && a.to == attempts[n].to)
    };
    (at + 1..attempts.len()).find(|n| !tried(*n)).unwrap_or(attempts.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PortId, SourceIp, Via};

    fn published() -> Published {
        Published {
            id: PortId(1),
            udp: false,
            guest_ip: None,
            guest_port: 80,
            count: 1,
            source_ip: SourceIp::Preserve,
            proxy_protocol: None,
            via: Via::Relay,
            dial: Dial::Transparent,
        }
    }

    fn of(port: &Published, client: &str) -> Vec<String> {
        let tries = attempts(&Network::default(), port, 0, client.parse().unwrap());
        tries.iter().map(|a| format!("{} {:?}", a.to, a.from)).collect()
    }

    #[test]
    fn the_client_wherever_it_can_be_shown_then_the_gateway() {
        let seen = of(&published(), "192.0.2.9:2000");
        let expected = [
            "10.0.2.100:80 Some(192.0.2.9:2000)",
            "127.0.0.1:80 Some(192.0.2.9:2000)",
            "10.0.2.100:80 Some(10.0.2.2:0)",
            "127.0.0.1:80 Some(10.0.2.2:0)",
            "[fd00::100]:80 Some([fd00::2]:0)",
            "[::1]:80 Some([fd00::2]:0)",
        ];
        assert_eq!(seen, expected);
        assert_eq!(of(&published(), "[::ffff:192.0.2.9]:2000"), expected);
        assert_eq!(of(&published(), "192.0.2.9:1000")[0], "10.0.2.100:80 Some(192.0.2.9:0)");
        let plain = Published { dial: Dial::Plain, ..published() };
        assert_eq!(of(&plain, "[2001:db8::1]:7").len(), 4);
        assert_eq!(of(&plain, "[2001:db8::1]:7")[0], "[fd00::100]:80 None");
        let loopback = Published { dial: Dial::Loopback, ..published() };
        assert!(
            of(&loopback, "192.0.2.9:1000").iter().all(|a| a.starts_with("127.") || a.starts_with("[::1]"))
        );
    }

    #[test]
    fn a_server_that_refuses_is_asked_once_and_an_address_that_is_taken_is_tried_elsewhere() {
        let client = "192.0.2.9:1000".parse().unwrap();
        let tries = attempts(&Network::default(), &published(), 0, client);
        let walk = |refused: u8| {
            let mut at = 0;
            std::iter::from_fn(|| {
                at = next(&tries, at, refused);
                tries.get(at).map(|_| at)
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(walk(0), [1, 2, 3, 4, 5]);
        assert_eq!(walk(0b1), [1, 3, 4, 5]);
        assert_eq!(walk(0b11), [1, 4, 5]);
        // The address was taken at the first target, and the second refuses: the first may take the gateway.
        assert_eq!(next(&tries, 1, 0b10), 2);
        assert_eq!(next(&tries, 2, 0b110), 4);
    }

    #[test]
    fn a_client_the_guest_could_not_answer_is_the_gateway() {
        let port = Published { guest_ip: Some("10.0.2.100".parse().unwrap()), ..published() };
        assert_eq!(of(&port, "127.0.0.1:5"), ["10.0.2.100:80 Some(10.0.2.2:0)"]);
        let hidden = Published { source_ip: SourceIp::Gateway, ..port };
        assert_eq!(of(&hidden, "192.0.2.9:5"), ["10.0.2.100:80 Some(10.0.2.2:0)"]);
    }
}
