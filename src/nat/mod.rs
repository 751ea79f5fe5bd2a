//! Translation and policy: which guest destination stands for which host address, and what is allowed.
//!
//! Theory of operation. [`Policy::translate`] is asked once per flow (TCP) or once per new destination (UDP, echo), by
//! address *value*: every spelling of a forbidden address is refused, before and after translation. The gateway
//! address stands for the host's loopback where that is allowed, or for the ports of it that are exposed one by one; the
//! DNS address for the host's resolvers, port 53 only. Any other destination is up to the rules of the configuration
//! ([`crate::config::rule`]), by which link-local addresses and cloud metadata are closed. [`Policy::guest_sees`] is the
//! way back: what source the guest sees for a host-side peer. [`shown`] is the same question for the client of a
//! published port, whom the guest must be able to answer through us.

#![forbid(unsafe_code)]

use crate::config::rule::admits;
use crate::config::{Network, SourceIp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the policy says about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go to this host-side address.
    Host(SocketAddr),
    /// A query for the host's resolvers.
    Dns,
    /// Refused; the guest is told that the network is unreachable.
    Refuse,
    /// An address of the guest's own network that is nobody: stay silent, as an empty link does.
    Silent,
}

/// Whom the guest sees as the client of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The client, by its own address.
    Client(IpAddr),
    /// The gateway, as the user asked for.
    Gateway(IpAddr),
    /// The gateway in place of a client whom the guest could not answer through us. The caller counts these.
    Instead(IpAddr),
}

impl Shown {
    /// The source address that the guest sees.
    pub const fn ip(self) -> IpAddr {
        match self {
            Self::Client(ip) | Self::Gateway(ip) | Self::Instead(ip) => ip,
        }
    }

    /// True when it is the client itself.
    pub const fn is_client(self) -> bool {
        matches!(self, Self::Client(_))
    }
}

/// Why a client of a published port cannot be shown as itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswerable {
    /// It is of the other family than the server.
    OtherFamily,
    /// Its loopback is not the server's.
    Loopback,
    /// Its address holds on one link only.
    LinkLocal,
    /// Its address is the server's own.
    Own,
    /// Its address is one of the guest's network, where the server would look for it.
    OnLink,
    /// No flow may have that address.
    Special,
}

/// What a destination is asked about for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A stream.
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request; there are no ports.
    Icmp,
}

/// Translation and policy for one guest. Pure: same question, same answer.
#[derive(Clone, Debug)]
pub struct Policy {
    net: Network,
}

impl Policy {
    /// The policy that `net` describes.
    pub fn new(net: Network) -> Self {
        Self { net }
    }

    /// What becomes of a flow from the guest to `dst`.
    pub fn translate(&self, transport: Transport, dst: SocketAddr) -> Verdict {
        let ip = dst.ip();
        let is_dns = self.net.dns
            && match ip {
                IpAddr::V4(a) => a == self.net.dns_v4(),
                IpAddr::V6(a) => Some(a) == self.net.dns_v6(),
            };
        if is_dns {
            return if dst.port() == 53 { Verdict::Dns } else { Verdict::Refuse };
        }
        if self.is_gateway(ip) {
            let loopback: IpAddr =
                if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            return match self.exposed(transport, dst.port()) {
                Some(port) => Verdict::Host(SocketAddr::new(loopback, port)),
                None if self.net.policy.allow_host_loopback => {
                    Verdict::Host(SocketAddr::new(loopback, dst.port()))
                }
                None => Verdict::Refuse,
            };
        }
        if self.net.contains(ip) {
            return Verdict::Silent;
        }
        let port = (transport != Transport::Icmp).then_some(dst.port());
        if forbidden(ip) || !self.admits(ip, port) { Verdict::Refuse } else { Verdict::Host(dst) }
    }

    /// What the rules say of an address, and of the one that the host would make of it.
    fn admits(&self, ip: IpAddr, port: Option<u16>) -> bool {
        let rules = &self.net.policy.rules;
        let inner = match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(a) => embedded(a.segments()),
        };
        admits(rules, ip, port) && inner.is_none_or(|a| admits(rules, a.into(), port))
    }

    /// The port of the host's loopback that this port of the gateway was made to stand for.
    fn exposed(&self, transport: Transport, port: u16) -> Option<u16> {
        let udp = match transport {
            Transport::Tcp => false,
            Transport::Udp => true,
            Transport::Icmp => return None,
        };
        let mut exposed = self.net.policy.exposed.iter();
        exposed.find(|e| e.udp == udp && e.gateway_port == port).map(|e| e.host_port)
    }

    /// True for the addresses that stand for the host itself.
    pub fn is_gateway(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(a) => a == self.net.gateway_v4(),
            IpAddr::V6(a) => Some(a) == self.net.gateway_v6() || a == Network::router_link_local(),
        }
    }

    /// The source address the guest sees for a host-side peer: loopback is shown as the gateway.
    pub fn guest_sees(&self, peer: IpAddr) -> IpAddr {
        match peer {
            IpAddr::V4(a) if a.is_loopback() || a.is_unspecified() => self.net.gateway_v4().into(),
            IpAddr::V6(a) if a.is_loopback() || a.is_unspecified() => {
                self.net.gateway_v6().map_or(peer, IpAddr::V6)
            }
            other => other,
        }
    }

    /// As the function [`shown`].
    pub fn shown(&self, client: IpAddr, target: IpAddr, wish: SourceIp) -> Shown {
        shown(&self.net, client, target, wish)
    }
}

/// Whom the server at `target` (an address inside, possibly its loopback) sees when `client` connects to a published
/// port. The client itself, unless the user wants the gateway or the server's answer would never reach us: a client
/// of the other family, or whose address is loopback, link-local, unspecified, a group's, the server's own, one of
/// the guest's network, or one that no flow may name. An IPv4 client of a dual-stack listener (`::ffff:a.b.c.d`)
/// is an IPv4 client.
///
/// The gateway's address is of the family of `target`; for an IPv6 target of a guest without IPv6 (its loopback) it
/// is the router's link-local address, which cannot be bound without a scope.
pub fn shown(net: &Network, client: IpAddr, target: IpAddr, wish: SourceIp) -> Shown {
    let (client, target) = (client.to_canonical(), target.to_canonical());
    let gateway = match target {
        IpAddr::V4(_) => net.gateway_v4().into(),
        IpAddr::V6(_) => net.gateway_v6().unwrap_or(Network::router_link_local()).into(),
    };
    match (wish, unanswerable(net, client, target)) {
        (SourceIp::Gateway, _) => Shown::Gateway(gateway),
        (SourceIp::Preserve, None) => Shown::Client(client),
        (SourceIp::Preserve, Some(_)) => Shown::Instead(gateway),
    }
}

/// Why an answer of the server at `target` to `client` would never reach us; `None`: it would.
pub fn unanswerable(net: &Network, client: IpAddr, target: IpAddr) -> Option<Unanswerable> {
    let (client, target) = (client.to_canonical(), target.to_canonical());
    let link_local = match client {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    if client.is_loopback() {
        Some(Unanswerable::Loopback)
    } else if client.is_ipv4() != target.is_ipv4() {
        Some(Unanswerable::OtherFamily)
    } else if client == target {
        Some(Unanswerable::Own)
    } else if link_local {
        Some(Unanswerable::LinkLocal)
    } else if forbidden(client) {
        Some(Unanswerable::Special)
    } else if net.contains(client) {
        Some(Unanswerable::OnLink)
    } else {
        None
    }
}

/// Destinations that no flow may name literally, whatever the configuration: loopback, unspecified, multicast,
/// broadcast, "this network" (0/8), IPv4 inside IPv6 in any of its forms, and IPv6 link-local (it has no meaning
/// without the guest's link).
fn forbidden(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => a.is_loopback() || a.octets()[0] == 0 || a.is_multicast() || a.is_broadcast(),
        IpAddr::V6(a) => {
            let s = a.segments();
            a.is_loopback()
                || a.is_unspecified()
                || a.is_multicast()
                // ::a.b.c.d (deprecated) and ::ffff:a.b.c.d: the host's kernel would speak IPv4 to them.
                || s[..5] == [0; 5]
                // fe80::/10
                || s[0] & 0xffc0 == 0xfe80
                || embedded(s).is_some_and(|a| forbidden(a.into()))
        }
    }
}

/// The IPv4 address that a translator or a tunnel on the host would go to for this IPv6 address: IPv4-translated
/// (::ffff:0:a.b.c.d, RFC 2765), NAT64 (64:ff9b::/96, RFC 6052) and 6to4 (2002::/16, RFC 3056).
fn embedded(s: [u16; 8]) -> Option<Ipv4Addr> {
    let (high, low) = match s {
        [0, 0, 0, 0, 0xffff, 0, h, l] | [0x64, 0xff9b, 0, 0, 0, 0, h, l] => (h, l),
        [0x2002, h, l, ..] => (h, l),
        _ => return None,
    };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Rule;

    fn policy(allow: bool) -> Policy {
        let mut net = Network::default();
        net.policy.allow_host_loopback = allow;
        Policy::new(net)
    }

    fn ask(p: &Policy, dst: &str) -> Verdict {
        let dst = dst.parse().unwrap();
        let verdict = p.translate(Transport::Tcp, dst);
        assert_eq!(p.translate(Transport::Udp, dst), verdict);
        verdict
    }

    fn exposing(allow: bool, exposed: &[&str]) -> Policy {
        let mut net = Network::default();
        net.policy.allow_host_loopback = allow;
        net.policy.exposed = exposed.iter().map(|e| e.parse().unwrap()).collect();
        Policy::new(net)
    }

    #[test]
    fn an_exposed_port_is_open_at_the_gateway_and_nothing_beside_it() {
        let p = exposing(false, &["5432", "5353:53/udp"]);
        let tcp = |to: &str| p.translate(Transport::Tcp, to.parse().unwrap());
        let udp = |to: &str| p.translate(Transport::Udp, to.parse().unwrap());
        let host = |to: &str| Verdict::Host(to.parse().unwrap());
        assert_eq!(tcp("10.0.2.2:5432"), host("127.0.0.1:5432"));
        for gateway in ["[fd00::2]", "[fe80::2]"] {
            assert_eq!(tcp(&format!("{gateway}:5432")), host("[::1]:5432"));
            assert_eq!(udp(&format!("{gateway}:53")), host("[::1]:5353"));
        }
        assert_eq!(udp("10.0.2.2:53"), host("127.0.0.1:5353"));
        for (verdict, to) in [
            (udp("10.0.2.2:5432"), "the other protocol"),
            (tcp("10.0.2.2:53"), "the other protocol"),
            (udp("10.0.2.2:5353"), "the number on the host"),
            (tcp("10.0.2.2:5433"), "another port"),
            (tcp("10.0.2.2:0"), "no port"),
            (p.translate(Transport::Icmp, "10.0.2.2:5432".parse().unwrap()), "an echo"),
            (tcp("127.0.0.1:5432"), "the loopback itself"),
            (tcp("[::1]:5432"), "the loopback itself"),
            (tcp("[::ffff:127.0.0.1]:5432"), "the loopback itself"),
            (tcp("[::ffff:10.0.2.2]:5432"), "another spelling of the gateway"),
        ] {
            assert_eq!(verdict, Verdict::Refuse, "{to}");
        }
        assert_eq!(tcp("10.0.2.77:5432"), Verdict::Silent);
        assert_eq!(udp("10.0.2.3:53"), Verdict::Dns);
    }

    #[test]
    fn rules_hold_in_every_spelling_and_leave_gateway_and_dns_alone() {
        let p = policy(true);
        for dst in [
            "169.254.169.254:80",
            "[fd00:ec2::254]:80",
            "[64:ff9b::169.254.169.254]:80",
            "[2002:a9fe:a9fe::1]:80",
            "[::ffff:169.254.169.254]:80",
        ] {
            assert_eq!(ask(&p, dst), Verdict::Refuse, "{dst}");
            assert_eq!(p.translate(Transport::Icmp, dst.parse().unwrap()), Verdict::Refuse, "{dst}");
        }
        let mut net = Network::default();
        net.policy.allow_host_loopback = true;
        net.policy.rules = Rule::all(&["192.0.2.1:443".to_owned()], &["all".to_owned()]).unwrap();
        let p = Policy::new(net);
        let host = |to: &str| Verdict::Host(to.parse().unwrap());
        assert_eq!(ask(&p, "192.0.2.1:443"), host("192.0.2.1:443"));
        assert_eq!(ask(&p, "192.0.2.1:80"), Verdict::Refuse);
        assert_eq!(p.translate(Transport::Icmp, "192.0.2.1:0".parse().unwrap()), Verdict::Refuse);
        assert_eq!(ask(&p, "[64:ff9b::192.0.2.1]:443"), Verdict::Refuse);
        assert_eq!(ask(&p, "10.0.2.2:443"), host("127.0.0.1:443"));
        assert_eq!(ask(&p, "10.0.2.3:53"), Verdict::Dns);
    }

    #[test]
    fn an_exposed_port_comes_first_where_all_are_allowed() {
        let p = exposing(true, &["5353:53/udp"]);
        let udp = |to: &str| p.translate(Transport::Udp, to.parse().unwrap());
        assert_eq!(udp("10.0.2.2:53"), Verdict::Host("127.0.0.1:5353".parse().unwrap()));
        assert_eq!(udp("10.0.2.2:54"), Verdict::Host("127.0.0.1:54".parse().unwrap()));
    }

    #[test]
    fn host_loopback_is_refused_in_every_spelling() {
        for p in [policy(false), policy(true)] {
            for dst in [
                "127.0.0.1:80",
                "127.255.255.254:80",
                "0.0.0.0:80",
                "0.1.2.3:80",
                "[::1]:80",
                "[::]:80",
                "[::ffff:127.0.0.1]:80",
                "[::ffff:8.8.8.8]:80",
                "[::127.0.0.1]:80",
                "224.0.0.1:80",
                "255.255.255.255:80",
                "[ff02::1]:80",
                "[fe80::1]:80",
                "[febf::1]:80",
                "[::ffff:0.0.0.0]:80",
                "[::ffff:10.0.2.2]:80",
                "[::ffff:0:127.0.0.1]:80",
                "[64:ff9b::127.0.0.1]:80",
                "[64:ff9b::0.0.0.0]:80",
                "[2002:7f00:1::1]:80",
            ] {
                assert_eq!(ask(&p, dst), Verdict::Refuse, "{dst}");
            }
            // Translators and tunnels lead elsewhere, too.
            for dst in ["[64:ff9b::198.51.100.2]:80", "[2002:c633:6402::1]:80", "[fec0::1]:80"] {
                assert_eq!(ask(&p, dst), Verdict::Host(dst.parse().unwrap()), "{dst}");
            }
        }
    }

    #[test]
    fn the_gateway_stands_for_loopback_only_when_allowed() {
        assert_eq!(ask(&policy(false), "10.0.2.2:80"), Verdict::Refuse);
        assert_eq!(ask(&policy(true), "10.0.2.2:80"), Verdict::Host("127.0.0.1:80".parse().unwrap()));
        assert_eq!(ask(&policy(true), "[fd00::2]:80"), Verdict::Host("[::1]:80".parse().unwrap()));
        assert_eq!(policy(true).guest_sees("127.0.0.1".parse().unwrap()).to_string(), "10.0.2.2");
        assert_eq!(policy(true).guest_sees("::1".parse().unwrap()).to_string(), "fd00::2");
    }

    #[test]
    fn clients_the_guest_could_not_answer_are_not_shown() {
        let net = Network::default();
        let shown = |client: &str, target: &str| {
            super::shown(&net, client.parse().unwrap(), target.parse().unwrap(), SourceIp::Preserve)
                .is_client()
        };
        assert!(shown("192.0.2.1", "127.0.0.1") && shown("2001:db8::1", "::1"));
        for client in
            ["127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "10.0.2.100", "10.0.2.2", "10.0.2.77"]
        {
            assert!(!shown(client, "127.0.0.1"), "{client}");
        }
        for client in ["::1", "fe80::1", "::", "ff02::1", "fd00::100", "fd00::2"] {
            assert!(!shown(client, "::1"), "{client}");
        }
        assert!(!shown("192.0.2.1", "::1") && !shown("2001:db8::1", "127.0.0.1"));
    }

    #[test]
    fn the_dns_address_is_port_53_only() {
        assert_eq!(ask(&policy(false), "10.0.2.3:53"), Verdict::Dns);
        assert_eq!(ask(&policy(false), "[fd00::3]:53"), Verdict::Dns);
        assert_eq!(ask(&policy(false), "10.0.2.3:80"), Verdict::Refuse);
    }

    #[test]
    fn without_dns_its_address_is_a_stranger_and_without_ipv6_nothing_of_it_is_ours() {
        let net = Network { dns: false, v6: None, ..Network::default() };
        let p = Policy::new(net);
        assert_eq!(ask(&p, "10.0.2.3:53"), Verdict::Silent);
        assert_eq!(ask(&p, "[fd00::3]:53"), Verdict::Host("[fd00::3]:53".parse().unwrap()));
        assert_eq!(p.guest_sees("::1".parse().unwrap()).to_string(), "::1");
        assert_eq!(p.guest_sees("192.0.2.1".parse().unwrap()).to_string(), "192.0.2.1");
    }

    #[test]
    fn a_client_is_shown_unless_the_guest_could_not_answer_it() {
        let p = policy(true);
        let ask = |client: &str, target: &str| {
            p.shown(client.parse().unwrap(), target.parse().unwrap(), SourceIp::Preserve)
        };
        let ip = |a: &str| -> IpAddr { a.parse().unwrap() };
        for (client, target) in [
            ("198.51.100.7", "10.0.2.100"),
            ("198.51.100.7", "127.0.0.1"),
            // Private networks of the host's, and Docker's own inside: neighbours of ours, not of the guest's link.
            ("192.168.1.9", "10.0.2.100"),
            ("10.0.3.1", "172.17.0.2"),
            ("2001:db8::7", "fd00::100"),
            ("2001:db8::7", "::1"),
            ("fd01::7", "fd00::100"),
        ] {
            assert_eq!(ask(client, target), Shown::Client(ip(client)), "{client} {target}");
        }
        assert_eq!(ask("::ffff:198.51.100.7", "10.0.2.100"), Shown::Client(ip("198.51.100.7")));
        for client in [
            "127.0.0.1",
            "127.9.9.9",
            "169.254.1.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "10.0.2.100",
            "10.0.2.2",
            "10.0.2.77",
            "2001:db8::7",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.2.9",
        ] {
            assert_eq!(ask(client, "10.0.2.100"), Shown::Instead(ip("10.0.2.2")), "{client}");
        }
        for client in ["::1", "::", "fe80::9", "ff02::1", "fd00::100", "fd00::2", "fd00::77", "198.51.100.7"]
        {
            assert_eq!(ask(client, "fd00::100"), Shown::Instead(ip("fd00::2")), "{client}");
        }
        // An address of the guest's beside the tap's: the server's own.
        assert_eq!(ask("172.17.0.2", "172.17.0.2"), Shown::Instead(ip("10.0.2.2")));
    }

    #[test]
    fn the_gateway_on_request_is_not_instead_of_anybody() {
        let p = policy(false);
        let wish = SourceIp::Gateway;
        for client in ["198.51.100.7", "127.0.0.1"] {
            let shown = p.shown(client.parse().unwrap(), "10.0.2.100".parse().unwrap(), wish);
            assert_eq!(shown, Shown::Gateway("10.0.2.2".parse().unwrap()));
        }
        let p = Policy::new(Network { v6: None, ..Network::default() });
        let shown = p.shown("2001:db8::7".parse().unwrap(), "::1".parse().unwrap(), wish);
        assert_eq!(shown.ip().to_string(), "fe80::2");
    }

    #[test]
    fn strangers_on_the_link_are_silent_and_the_rest_of_the_world_is_itself() {
        assert_eq!(ask(&policy(false), "10.0.2.77:80"), Verdict::Silent);
        assert_eq!(ask(&policy(false), "198.51.100.2:80"), Verdict::Host("198.51.100.2:80".parse().unwrap()));
    }
}
