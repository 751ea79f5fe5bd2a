//! The link between stack and guest: which MAC address belongs to which guest address, and which addresses are ours or
//! stand for a group.
//!
//! Every frame from the guest teaches its source; replies go to the MAC the guest last used for that address. Bounded:
//! when the table is full the address heard of longest ago makes room, and strangers are [welcome](Link::welcomes) so many times a
//! second: of a storm of made-up neighbours most are neither answered nor remembered. Our own MACs follow slirp4netns
//! (`facts/slirp4netns.md`, section 3): IPv4 frames come from 52:55 and the gateway's four bytes, IPv6 frames from
//! 52:56 and the last four bytes of the router's address.

use crate::config::Network;
use crate::flow::{Bucket, Time};
use crate::wire::Mac;
use arrayvec::ArrayVec;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Shortest time between two questions for a neighbour that has not been heard.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Neighbours asked for within that time: one who never answers must not silence the others.
const ASK_AT_ONCE: usize = 8;

/// Neighbours remembered at once.
pub const MAX_NEIGHBOURS: usize = 256;

/// Strangers that are answered and remembered each second.
const STRANGERS: u32 = 1000;

/// The table of neighbours.
#[derive(Debug)]
pub struct Link {
    neighbours: HashMap<IpAddr, (Mac, Time), ahash::RandomState>,
    gateway_v4: Ipv4Addr,
    gateway_v6: Ipv6Addr,
    /// The guest's own addresses, which stay in the table whoever else is heard.
    guest: [Option<IpAddr>; 2],
    asked: RefCell<ArrayVec<(IpAddr, Time), ASK_AT_ONCE>>,
    strangers: Bucket,
}

impl Link {
    /// An empty table for `net`.
    pub fn new(net: &Network) -> Self {
        Self {
            neighbours: HashMap::default(),
            gateway_v4: net.gateway_v4(),
            gateway_v6: Network::router_link_local(),
            guest: [Some(net.guest_v4().into()), net.guest_v6().map(IpAddr::V6)],
            asked: RefCell::default(),
            strangers: Bucket::new(STRANGERS, Duration::from_secs(1)),
        }
    }

    /// Our MAC when we speak as this IPv4 address.
    pub fn mac_v4(addr: Ipv4Addr) -> Mac {
        let [a, b, c, d] = addr.octets();
        [0x52, 0x55, a, b, c, d]
    }

    /// Our MAC when we speak as this IPv6 address.
    pub fn mac_v6(addr: Ipv6Addr) -> Mac {
        let o = addr.octets();
        [0x52, 0x56, o[12], o[13], o[14], o[15]]
    }

    /// Our MAC as the router of this family: the source of every routed frame.
    pub fn router_mac(&self, v6: bool) -> Mac {
        if v6 { Self::mac_v6(self.gateway_v6) } else { Self::mac_v4(self.gateway_v4) }
    }

    /// Whether `addr` and `mac` are known to belong together, or one more stranger may be heard now; counts it.
    pub fn welcomes(&mut self, now: Time, addr: IpAddr, mac: Mac) -> bool {
        self.lookup(addr) == Some(mac) || self.strangers.pass(now)
    }

    /// Notes whom a packet came from, as long as there is room or strangers are welcome.
    pub fn heard(&mut self, now: Time, addr: IpAddr, mac: Mac) {
        if self.neighbours.len() < MAX_NEIGHBOURS
            || self.neighbours.contains_key(&addr)
            || self.strangers.pass(now)
        {
            self.learn(now, addr, mac);
        }
    }

    /// Notes that `addr` was heard from `mac`. Multicast MACs and unspecified or multicast addresses teach nothing.
    pub fn learn(&mut self, now: Time, addr: IpAddr, mac: Mac) {
        if mac[0] & 1 != 0 || addr.is_unspecified() || addr.is_multicast() {
            return;
        }
        if self.neighbours.len() >= MAX_NEIGHBOURS
            && !self.neighbours.contains_key(&addr)
            && let Some(oldest) = self.oldest()
        {
            self.neighbours.remove(&oldest);
        }
        self.neighbours.insert(addr, (mac, now));
    }

    /// Who is to make room: of the guest's own addresses none, or a storm of others would cut it off.
    fn oldest(&self) -> Option<IpAddr> {
        let others = self.neighbours.iter().filter(|(addr, _)| !self.guest.contains(&Some(**addr)));
        others.min_by_key(|(_, (_, at))| *at).map(|(addr, _)| *addr)
    }

    /// Whether it is time to ask for this neighbour (again); notes that it is done.
    pub fn may_ask(&self, now: Time, addr: IpAddr) -> bool {
        let mut asked = self.asked.borrow_mut();
        asked.retain(|(_, at)| now.since(*at) < ASK_EVERY);
        asked.iter().all(|(a, _)| *a != addr) && asked.try_push((addr, now)).is_ok()
    }

    /// The MAC of a guest address, if it has been heard.
    pub fn lookup(&self, addr: IpAddr) -> Option<Mac> {
        self.neighbours.get(&addr).map(|(mac, _)| *mac)
    }
}

/// True for the addresses that we are ourselves, of either family.
pub fn ours(net: &Network, addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => super::arp::ours(net, a),
        IpAddr::V6(a) => super::ndp::ours(net, a),
    }
}

/// Multicast and broadcast, the network's own included.
pub fn is_group(net: &Network, addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_multicast() || a.is_broadcast() || a == net.v4.broadcast(),
        IpAddr::V6(a) => a.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_those_of_slirp4netns() {
        let link = Link::new(&Network::default());
        assert_eq!(link.router_mac(false), [0x52, 0x55, 10, 0, 2, 2]);
        assert_eq!(link.router_mac(true), [0x52, 0x56, 0, 0, 0, 2]);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut link = Link::new(&Network::default());
        for i in 0..=MAX_NEIGHBOURS as u32 {
            link.learn(
                Time::from_millis(u64::from(i)),
                IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + i)),
                [2, 0, 0, 0, 0, 1],
            );
        }
        assert_eq!(link.neighbours.len(), MAX_NEIGHBOURS);
        assert_eq!(link.lookup("10.0.0.0".parse().unwrap()), None);
        assert!(link.lookup("10.0.0.1".parse().unwrap()).is_some());
    }

    #[test]
    fn multicast_teaches_nothing() {
        let mut link = Link::new(&Network::default());
        link.learn(Time::ZERO, "10.0.2.100".parse().unwrap(), [1, 0, 0x5e, 0, 0, 1]);
        link.learn(Time::ZERO, "224.0.0.1".parse().unwrap(), [2, 0, 0, 0, 0, 1]);
        assert_eq!(link.lookup("10.0.2.100".parse().unwrap()), None);
        assert_eq!(link.lookup("224.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn packets_of_ever_new_neighbours_are_remembered_at_a_bounded_rate() {
        let mut link = Link::new(&Network::default());
        let neighbour = |i: u32| IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + i));
        for i in 0..5000 {
            link.heard(Time::ZERO, neighbour(i), [2, 0, 0, 0, 0, 1]);
        }
        // What the table holds, and then a second's worth of strangers.
        let last = MAX_NEIGHBOURS as u32 + STRANGERS - 1;
        assert!(link.lookup(neighbour(last)).is_some() && link.lookup(neighbour(last + 1)).is_none());
        // Whoever is in it may have another MAC.
        link.heard(Time::ZERO, neighbour(last), [2, 0, 0, 0, 0, 9]);
        assert_eq!(link.lookup(neighbour(last)), Some([2, 0, 0, 0, 0, 9]));
    }
}
