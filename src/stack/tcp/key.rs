//! The four-tuple that names a connection on the guest's side.

use std::net::SocketAddr;

/// Both ends as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The guest's address and port.
    pub guest: SocketAddr,
    /// The address and port the guest dialled (or was dialled from), before any translation.
    pub remote: SocketAddr,
}

impl Key {
    /// True for IPv6.
    pub const fn v6(&self) -> bool {
        self.guest.is_ipv6()
    }

    /// Bytes of the IP header.
    pub const fn ip_header(&self) -> u16 {
        if self.v6() { 40 } else { 20 }
    }
}
