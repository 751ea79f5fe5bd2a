//! A published port, or a range of them: which port of the guest is reached by which port of the host, and how.
//!
//! Plain data that control gives to the plane. Listeners travel beside it as descriptors; the plane neither knows nor
//! needs the host's addresses. A range is one object: port `n` of the range leads to the guest's `first + n`.

use super::Network;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Names a published port or range for as long as the instance lives; from 1, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortId(pub u32);

impl std::fmt::Display for PortId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Whom the guest sees as the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceIp {
    /// The client, wherever the guest could answer it through us.
    #[default]
    Preserve,
    /// Always the gateway.
    Gateway,
}

/// How clients of a published port get to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    /// By sockets in the guest's namespace: the payload never touches the tap.
    #[default]
    Relay,
    /// As packets on the tap.
    Tap,
}

/// What sockets in the guest's namespace may dial a server with. It follows from what could be set up there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dial {
    /// Transparent ones, by which answers come back from wherever the server is.
    #[default]
    Transparent,
    /// Transparent ones, by which answers come back from the namespace's own servers only: its loopback is dialled, for an
    /// address of the tap may be translated to a bridge's.
    Loopback,
    /// Ordinary ones: the server sees the namespace itself in the gateway's place.
    Plain,
}

/// The header that tells a server the client's address in band
/// (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyProtocol {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// What the plane knows of a published port or range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Its name.
    pub id: PortId,
    /// Datagrams rather than streams.
    pub udp: bool,
    /// Address in the guest's namespace. `None`: the tap's, of the client's family.
    pub guest_ip: Option<IpAddr>,
    /// First port in the guest.
    pub guest_port: u16,
    /// Ports in all, from 1.
    pub count: u16,
    /// Whom the guest sees.
    pub source_ip: SourceIp,
    /// Header sent ahead of a stream; none for datagrams.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Which path its clients take.
    pub via: Via,
    /// How servers are dialled on the relay path.
    pub dial: Dial,
}

impl Published {
    /// The address in the guest that was named, unless it is one that means "any".
    pub fn named(&self) -> Option<IpAddr> {
        self.guest_ip.filter(|ip| !ip.is_unspecified())
    }

    /// Where a packet to the guest goes for this client, by which also datagrams are relayed: the address named, or the
    /// tap's of the client's family. The latter also for the guest's loopback, which no packet can reach from outside.
    pub fn target(&self, net: &Network, nth: u16, client: IpAddr) -> SocketAddr {
        let own = match client.to_canonical() {
            IpAddr::V6(_) => net.guest_v6().map_or(net.guest_v4().into(), IpAddr::V6),
            IpAddr::V4(_) => net.guest_v4().into(),
        };
        let ip = self.named().filter(|ip| !ip.is_loopback()).unwrap_or(own);
        SocketAddr::new(ip, self.guest_port.wrapping_add(nth))
    }
}
