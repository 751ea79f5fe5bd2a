//! Where a guest's packets may come from.
//!
//! A source is one of the guest's networks, or of those that its configuration names ([`Network::sources`]). A published
//! port may lead through the tap to an address behind the guest, a container's: that one may answer for itself, and what its
//! kernel says of it (a port that is closed) is heard. Addresses of ours are nobody else's, and those that no host can have are nobody's.

use super::link;
use crate::config::Network;
use crate::flow::DropReason;
use std::collections::HashSet;
use std::net::IpAddr;

/// Addresses behind the guest that are remembered. They come from what is published, not from the guest.
const MAX_BEHIND: usize = 4096;

/// Addresses behind the guest that published ports have led to.
#[derive(Debug, Default)]
pub struct Behind(HashSet<IpAddr, ahash::RandomState>);

impl Behind {
    /// A published port leads there.
    pub fn expect(&mut self, net: &Network, addr: IpAddr) {
        if !net.contains(addr) && self.0.len() < MAX_BEHIND {
            self.0.insert(addr);
        }
    }

    /// Whether a packet of the guest's may come from there.
    ///
    /// # Errors
    /// [`DropReason::Spoofed`].
    pub fn admit(&self, net: &Network, src: IpAddr) -> Result<(), DropReason> {
        if is_unicast(net, src) && !link::ours(net, src) && (net.may_send(src) || self.0.contains(&src)) {
            Ok(())
        } else {
            Err(DropReason::Spoofed)
        }
    }
}

/// An address that one host can have and others can answer to.
fn is_unicast(net: &Network, src: IpAddr) -> bool {
    match src {
        IpAddr::V4(a) => {
            !(a.is_loopback()
                || a.octets()[0] == 0
                || a.is_multicast()
                || a.is_broadcast()
                || a == net.v4.broadcast())
        }
        IpAddr::V6(a) => {
            !(a.is_loopback() || a.is_unspecified() || a.is_multicast() || a.segments()[..5] == [0; 5])
        }
    }
}
