//! A published port, or a range of them: which port of the guest is reached by which port of the host, and how.
//!
//! Plain data that control gives to the plane. Listeners travel beside it as descriptors; the plane neither knows nor
//! needs the host's addresses. A range is one object: port `n` of the range leads to the guest's `first + n`.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

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
}
