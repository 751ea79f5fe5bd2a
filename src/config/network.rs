//! The network that the guest sees: addresses, MTU, and what it may reach.
//!
//! Addresses follow slirp4netns (`facts/slirp4netns.md`, section 3), because tools rely on them: within the IPv4
//! network N the gateway is N+2, DNS N+3, the DHCP pool N+15 to N+30 and the guest N+100, so prefixes run from /1 to
//! /25. Within the IPv6 prefix P the gateway is P::2, DNS P::3 and the guest P::100.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest frame of a tap in bytes: Ethernet and 65,535 bytes of IP.
pub const MAX_FRAME: u32 = 65_535 + 14;
/// Smallest MTU that IPv4 allows a link (RFC 791).
pub const MTU_MIN: u16 = 68;
/// Largest MTU of a tap device (`ETH_MAX_MTU` less the Ethernet header; slirp4netns accepts the same).
pub const MTU_MAX: u16 = 65521;
/// Congestion control (tcp_congestion(7), `TCP_CONGESTION`) of TCP that never leaves the machine: the guest's, which ends
/// at the plane, and both sides of a relay where they are local. Nothing is lost there but by a full queue, so there is no
/// rate to find out; BBR, which hosts of much traffic choose, paces every segment by a timer all the same, a quarter of a
/// relay's time. Reno is the one that every kernel has and that needs no privilege (net/ipv4/tcp_cong.c). Connections of
/// the host to elsewhere keep the host's.
pub const LINK_CONGESTION: &str = "reno";
/// Below this the kernel turns IPv6 off on a link (RFC 8200, section 5).
pub const MTU_MIN_V6: u16 = 1280;
/// The default: what a bridge inside the namespace will have too. Segmentation offload makes it as fast as 65520.
pub const MTU_DEFAULT: u16 = 1500;

/// What is wrong with a network's numbers; the text is for the person who typed them.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NetworkError {
    /// Host bits are set.
    #[error("{given} is not a network address; did you mean {meant}?")]
    NotNetworkAddress {
        /// As typed.
        given: String,
        /// With the host bits cleared.
        meant: String,
    },
    /// No room for the guest at N+100.
    #[error("prefix length /{0} leaves no room for the guest's address; use /1 to /25")]
    PrefixV4(u8),
    /// No room for P::100.
    #[error(
        "IPv6 prefix length /{0} leaves no room for the guest's address; use /1 to /112 (stateless autoconfiguration needs /64)"
    )]
    PrefixV6(u8),
    /// Overlaps addresses that no host on a link may have.
    #[error("{0} overlaps {1}, whose addresses no guest can have; use a private network, as in the default")]
    Special(String, String),
    /// Out of range.
    #[error("MTU {0} is out of range; use {MTU_MIN} to {MTU_MAX}")]
    Mtu(u32),
}

/// From whom a UDP mapping accepts datagrams (RFC 4787, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filtering {
    /// Anyone: what slirp4netns does, and what its callers may rely on.
    EndpointIndependent,
    /// Only addresses that the guest has sent to from this mapping.
    AddressDependent,
}

/// What the guest may reach. Fixed at start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The gateway address stands for the host's loopback. Off by default: whatever listens on 127.0.0.1 trusts its
    /// clients.
    pub allow_host_loopback: bool,
    /// Single ports of the host's loopback that the gateway address stands for in any case.
    pub exposed: Vec<super::Exposed>,
    /// Destinations that are open and closed; [`super::rule`] says which rule holds. They are about addresses outside:
    /// the gateway's and the DNS address have the options above.
    pub rules: Vec<super::Rule>,
}

impl Default for Policy {
    /// The host's loopback, link-local addresses and cloud metadata are closed, everything else is open.
    fn default() -> Self {
        Self { allow_host_loopback: false, exposed: Vec::new(), rules: super::Rule::closed_by_default() }
    }
}

/// The source that outgoing sockets are bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboundAddr {
    /// For IPv4 destinations.
    pub v4: Option<Ipv4Addr>,
    /// For IPv6 destinations.
    pub v6: Option<Ipv6Addr>,
}

impl OutboundAddr {
    /// The source to bind for a destination of this family.
    pub fn for_dest(&self, dest: IpAddr) -> Option<IpAddr> {
        match dest {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }
}

/// The network the guest sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// IPv4 network, host bits clear.
    pub v4: Ipv4Net,
    /// IPv6 prefix, host bits clear; `None` turns IPv6 off.
    pub v6: Option<Ipv6Net>,
    /// MTU of the tap, in bytes of L3.
    pub mtu: u16,
    /// Name of the tap inside the namespace, at most 15 bytes.
    pub ifname: String,
    /// What is allowed.
    pub policy: Policy,
    /// Source address of outgoing sockets.
    pub outbound: OutboundAddr,
    /// From whom UDP mappings accept datagrams.
    pub filtering: Filtering,
    /// Hardware address of the tap inside; `None`: the kernel's choice. Only where we configure it.
    pub mac: Option<[u8; 6]>,
    /// The DNS address answers. Off for `--disable-dns` of the slirp4netns persona.
    pub dns: bool,
    /// Networks behind the guest whose addresses it may send from besides its own ([`Network::may_send`]).
    pub sources: Vec<IpNet>,
    /// How much the guest may have open and hold.
    pub limits: super::Limits,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24),
            v6: Some(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 64)),
            mtu: MTU_DEFAULT,
            ifname: "tap0".to_owned(),
            policy: Policy::default(),
            outbound: OutboundAddr::default(),
            filtering: Filtering::AddressDependent,
            mac: None,
            dns: true,
            sources: Vec::new(),
            limits: super::Limits::default(),
        }
    }
}

impl Network {
    /// Checks an IPv4 network as typed: host bits clear, /1 to /25.
    pub fn check_v4(net: Ipv4Net) -> Result<Ipv4Net, NetworkError> {
        if !(1..=25).contains(&net.prefix_len()) {
            return Err(NetworkError::PrefixV4(net.prefix_len()));
        }
        if net.trunc() != net {
            return Err(NetworkError::NotNetworkAddress {
                given: net.to_string(),
                meant: net.trunc().to_string(),
            });
        }
        // This host, loopback, multicast and the reserved rest (RFC 6890, 2.2.2).
        let special = [([0, 0, 0, 0], 8), ([127, 0, 0, 0], 8), ([224, 0, 0, 0], 3)];
        let special = special.map(|(at, length)| Ipv4Net::new_assert(at.into(), length));
        match special.into_iter().find(|s| s.contains(&net) || net.contains(s)) {
            Some(s) => Err(NetworkError::Special(net.to_string(), s.to_string())),
            None => Ok(net),
        }
    }

    /// Checks an IPv6 prefix as typed: host bits clear, /1 to /112.
    pub fn check_v6(net: Ipv6Net) -> Result<Ipv6Net, NetworkError> {
        if !(1..=112).contains(&net.prefix_len()) {
            return Err(NetworkError::PrefixV6(net.prefix_len()));
        }
        if net.trunc() != net {
            return Err(NetworkError::NotNetworkAddress {
                given: net.to_string(),
                meant: net.trunc().to_string(),
            });
        }
        // Loopback and IPv4 in IPv6's clothes, link-local, multicast (RFC 6890, 2.2.3).
        let special = [(0, 64), (0xfe80, 10), (0xff00, 8)];
        let special =
            special.map(|(first, length)| Ipv6Net::new_assert([first, 0, 0, 0, 0, 0, 0, 0].into(), length));
        match special.into_iter().find(|s| s.contains(&net) || net.contains(s)) {
            Some(s) => Err(NetworkError::Special(net.to_string(), s.to_string())),
            None => Ok(net),
        }
    }

    /// Checks an MTU as typed: 68 to 65521.
    pub fn check_mtu(mtu: u32) -> Result<u16, NetworkError> {
        match u16::try_from(mtu) {
            Ok(m) if (MTU_MIN..=MTU_MAX).contains(&m) => Ok(m),
            _ => Err(NetworkError::Mtu(mtu)),
        }
    }

    fn nth_v4(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.v4.network()).wrapping_add(n))
    }

    fn nth_v6(&self, n: u128) -> Option<Ipv6Addr> {
        self.v6.map(|p| Ipv6Addr::from(u128::from(p.network()).wrapping_add(n)))
    }

    /// N+2.
    pub fn gateway_v4(&self) -> Ipv4Addr {
        self.nth_v4(2)
    }

    /// N+3.
    pub fn dns_v4(&self) -> Ipv4Addr {
        self.nth_v4(3)
    }

    /// N+100: the address that `run` and `-c` configure.
    pub fn guest_v4(&self) -> Ipv4Addr {
        self.nth_v4(100)
    }

    /// N+15 and N+30, both included.
    pub fn dhcp_pool(&self) -> (Ipv4Addr, Ipv4Addr) {
        (self.nth_v4(15), self.nth_v4(30))
    }

    /// P::2, unless IPv6 is off.
    pub fn gateway_v6(&self) -> Option<Ipv6Addr> {
        self.nth_v6(2)
    }

    /// P::3, unless IPv6 is off.
    pub fn dns_v6(&self) -> Option<Ipv6Addr> {
        self.nth_v6(3)
    }

    /// P::100, unless IPv6 is off.
    pub fn guest_v6(&self) -> Option<Ipv6Addr> {
        self.nth_v6(0x100)
    }

    /// The router's link-local address, fe80::2.
    pub const fn router_link_local() -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)
    }

    /// Every address, for [`Network::sources`]: who stands in for slirp4netns takes what it takes, and bridges that do not
    /// translate count on it (Docker's `enable_ip_masquerade=false`, IPv6 before Docker 27).
    pub fn any_source() -> Vec<IpNet> {
        vec![
            IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
            IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
        ]
    }

    /// Whether the guest's configuration lets it send from `addr`, a unicast address of nobody else: one of its own
    /// networks (the networks' own addresses apart), link-local IPv6, or one of [`Network::sources`].
    pub fn may_send(&self, addr: IpAddr) -> bool {
        let own = match addr {
            IpAddr::V4(a) => self.v4.contains(&a) && a != self.v4.network(),
            IpAddr::V6(a) => {
                a.is_unicast_link_local() || self.v6.is_some_and(|p| p.contains(&a) && a != p.network())
            }
        };
        own || (!self.contains(addr) && self.sources.iter().any(|net| net.contains(&addr)))
    }

    /// Whether `addr` lies in the guest's own networks.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(a) => self.v4.contains(&a),
            IpAddr::V6(a) => self.v6.is_some_and(|p| p.contains(&a)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_slirp4netns() {
        let n = Network::default();
        assert_eq!(n.gateway_v4().to_string(), "10.0.2.2");
        assert_eq!(n.dns_v4().to_string(), "10.0.2.3");
        assert_eq!(n.guest_v4().to_string(), "10.0.2.100");
        assert_eq!(n.dns_v6().unwrap().to_string(), "fd00::3");
        assert_eq!(n.guest_v6().unwrap().to_string(), "fd00::100");
        // Upstream's own test: a /25 in the upper half (facts/slirp4netns.md, section 7, `cidr`).
        let n = Network { v4: "10.0.135.128/25".parse().unwrap(), ..n };
        assert_eq!(n.guest_v4().to_string(), "10.0.135.228");
    }

    #[test]
    fn what_cannot_hold_a_guest_is_refused() {
        assert_eq!(Network::check_v4("10.0.2.0/26".parse().unwrap()), Err(NetworkError::PrefixV4(26)));
        assert!(matches!(
            Network::check_v4("10.0.2.100/24".parse().unwrap()),
            Err(NetworkError::NotNetworkAddress { meant, .. }) if meant == "10.0.2.0/24"
        ));
        assert!(Network::check_v6("fd00::/120".parse().unwrap()).is_err());
        assert!(Network::check_v6("fd00::1/64".parse().unwrap()).is_err());
        for wrong in ["127.0.0.0/8", "127.1.0.0/24", "0.0.0.0/1", "224.0.0.0/8", "240.0.0.0/24"] {
            let said = Network::check_v4(wrong.parse().unwrap());
            assert!(matches!(said, Err(NetworkError::Special(..))), "{wrong}");
        }
        for wrong in ["::/64", "::ffff:0:0/96", "fe80::/64", "ff00::/8", "8000::/1"] {
            let said = Network::check_v6(wrong.parse().unwrap());
            assert!(matches!(said, Err(NetworkError::Special(..))), "{wrong}");
        }
        assert!(Network::check_v4("192.168.0.0/16".parse().unwrap()).is_ok());
        assert!(Network::check_v6("2001:db8:1::/48".parse().unwrap()).is_ok());
        assert_eq!(Network::check_mtu(67), Err(NetworkError::Mtu(67)));
        assert_eq!(Network::check_mtu(65521), Ok(65521));
        assert_eq!(Network::check_mtu(70000), Err(NetworkError::Mtu(70000)));
    }
}
