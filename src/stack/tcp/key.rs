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

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A guest's connection from `port`.
    pub fn key(port: u16) -> Key {
        Key {
            guest: SocketAddr::from(([10, 0, 2, 100], port)),
            remote: SocketAddr::from(([192, 0, 2, 1], 80)),
        }
    }
}
