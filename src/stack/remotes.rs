//! Whom a datagram mapping has spoken to: the way back from host addresses to those the guest dialled, and the filter.
//!
//! Several addresses of the guest's world can stand for one host address (both gateway addresses mean the loopback), so
//! the way back cannot be computed: it is remembered per mapping. Bounded: beyond [`MAX`] the one used longest ago goes,
//! and with address-dependent filtering loses its right to answer.

use smallvec::SmallVec;
use std::net::SocketAddr;

/// Remotes remembered per mapping.
pub const MAX: usize = 128;

#[derive(Clone, Copy, Debug)]
struct Remote {
    host: SocketAddr,
    dialled: SocketAddr,
    used: u64,
}

/// The remotes of one mapping.
#[derive(Debug, Default)]
pub struct Remotes {
    list: SmallVec<[Remote; 1]>,
    clock: u64,
}

impl Remotes {
    /// The guest has sent to `dialled`, which stands for `host`.
    pub fn note(&mut self, host: SocketAddr, dialled: SocketAddr) {
        self.clock += 1;
        let used = self.clock;
        if let Some(r) = self.list.iter_mut().find(|r| r.host == host && r.dialled == dialled) {
            r.used = used;
            return;
        }
        let new = Remote { host, dialled, used };
        if self.list.len() < MAX {
            self.list.push(new);
        } else if let Some(oldest) = self.list.iter_mut().min_by_key(|r| r.used) {
            *oldest = new;
        }
    }

    /// The guest has not sent anywhere yet.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The guest has sent there, and not too long ago.
    pub fn knows(&self, host: SocketAddr, dialled: SocketAddr) -> bool {
        self.list.iter().any(|r| r.host == host && r.dialled == dialled)
    }

    /// What the guest knows a sender by: address and port dialled last for this address and port (the port differs for
    /// an exposed one), else the address dialled last for this address. `None`: the guest has not sent there.
    pub fn sees(&self, from: SocketAddr) -> Option<SocketAddr> {
        self.dialled(from).or_else(|| {
            let same_host = self.list.iter().filter(|r| r.host.ip() == from.ip());
            same_host.max_by_key(|r| r.used).map(|r| SocketAddr::new(r.dialled.ip(), from.port()))
        })
    }

    /// What the guest dialled when it sent to `host`.
    pub fn dialled(&self, host: SocketAddr) -> Option<SocketAddr> {
        self.list.iter().filter(|r| same_end(r.host, host)).max_by_key(|r| r.used).map(|r| r.dialled)
    }

    /// The remote spoken to last, on the host's side and as dialled.
    pub fn last(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.list.iter().max_by_key(|r| r.used).map(|r| (r.host, r.dialled))
    }

    /// Bytes of memory on the heap.
    pub fn heap(&self) -> usize {
        if self.list.spilled() { self.list.capacity() * size_of::<Remote>() } else { 0 }
    }
}

/// Address and port agree. Flow label and scope of an IPv6 address are the socket layer's business.
fn same_end(a: SocketAddr, b: SocketAddr) -> bool {
    a.ip() == b.ip() && a.port() == b.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: &str) -> SocketAddr {
        s.parse().unwrap()
    }

    #[test]
    fn two_addresses_for_one_host_are_told_apart_by_port() {
        let mut r = Remotes::default();
        r.note(at("[::1]:53"), at("[fd00::2]:53"));
        r.note(at("[::1]:80"), at("[fe80::2]:80"));
        assert_eq!(r.sees(at("[::1]:53")), Some(at("[fd00::2]:53")));
        assert_eq!(r.sees(at("[::1]:80")), Some(at("[fe80::2]:80")));
        // A port never dialled: the address used last.
        assert_eq!(r.sees(at("[::1]:99")), Some(at("[fe80::2]:99")));
        assert_eq!(r.sees(at("[::2]:80")), None);
        assert_eq!(r.dialled(at("[::1]:53")), Some(at("[fd00::2]:53")));
        assert_eq!(r.dialled(at("[::1]:99")), None);
    }

    #[test]
    fn an_answer_comes_from_the_port_that_was_dialled() {
        let mut r = Remotes::default();
        r.note(at("127.0.0.1:5353"), at("10.0.2.2:53"));
        assert_eq!(r.sees(at("127.0.0.1:5353")), Some(at("10.0.2.2:53")));
    }

    #[test]
    fn the_one_used_longest_ago_makes_room() {
        let mut r = Remotes::default();
        for i in 0..MAX as u16 {
            r.note(at(&format!("192.0.2.1:{}", i + 1)), at("192.0.2.1:1"));
        }
        r.note(at("192.0.2.1:1"), at("192.0.2.1:1"));
        r.note(at("198.51.100.1:9"), at("198.51.100.1:9"));
        assert_eq!(r.list.len(), MAX);
        assert!(r.dialled(at("192.0.2.1:1")).is_some());
        assert!(r.dialled(at("192.0.2.1:2")).is_none());
        assert_eq!(r.last(), Some((at("198.51.100.1:9"), at("198.51.100.1:9"))));
    }
}
