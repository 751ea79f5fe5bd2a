//! Router advertisements (RFC 4861 section 6.2): how a guest configures IPv6 by itself.
//!
//! A solicitation is answered at once. Unasked, advertisements go out every 200 to 600 seconds at random, but only after
//! the guest has spoken IPv6 at all, so that an idle stack without IPv6 arms no timer; and whenever the host gains or
//! loses its own IPv6 route, because the router lifetime says whether we are a way out: 1800 s or 0. Options: source
//! link-layer address, MTU, prefix (autonomous only for a /64, which is what RFC 4862 needs), and where DNS is on
//! RDNSS and the search list (RFC 8106), whose lifetimes are seconds.

use super::action::Action;
use super::link::Link;
use super::{Cx, ndp, search};
use crate::config::Network;
use crate::flow::Time;
use crate::wire::Mac;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::net::Ipv6Addr;
use std::time::Duration;

/// Seconds a default route, and the DNS server, live without another advertisement.
const LIFETIME: u16 = 1800;
/// Seconds that addresses stay valid.
const VALID: u32 = 86_400;
/// Seconds that addresses stay preferred.
const PREFERRED: u32 = 14_400;

/// Sends advertisements.
pub struct Advertiser {
    key: [u8; 16],
    sent: u64,
    routable: bool,
    next: Option<Time>,
}

impl Advertiser {
    /// An advertiser whose intervals come from `key`. Until told otherwise the host counts as having an IPv6 route.
    pub fn new(key: [u8; 16]) -> Self {
        Self { key, sent: 0, routable: true, next: None }
    }

    /// The guest has spoken IPv6.
    pub fn heard(&mut self, now: Time) {
        if self.next.is_none() {
            self.schedule(now);
        }
    }

    fn schedule(&mut self, now: Time) {
        let mut h = SipHasher13::new_with_key(&self.key);
        h.write_u64(self.sent);
        self.next = Some(now + Duration::from_millis(200_000 + h.finish() % 400_000));
    }

    /// Answers a solicitation: to the host that asked, or to all when it has no address yet.
    pub fn solicited(&mut self, cx: &mut Cx<'_>, search: &[String], to: Option<(Ipv6Addr, Mac)>) {
        let (addr, mac) = to.unwrap_or((ndp::ALL_NODES, ndp::group_mac(ndp::ALL_NODES)));
        self.send(cx, search, addr, mac);
    }

    /// The host has gained or lost its IPv6 route: the guest hears of it if it has ever spoken IPv6.
    pub fn set_routable(&mut self, cx: &mut Cx<'_>, search: &[String], routable: bool) {
        if self.routable != routable {
            self.routable = routable;
            if self.next.is_some() {
                self.solicited(cx, search, None);
                self.schedule(cx.now);
            }
        }
    }

    /// Time has passed.
    pub fn timeout(&mut self, cx: &mut Cx<'_>, search: &[String]) {
        if self.next.is_some_and(|at| at <= cx.now) {
            self.solicited(cx, search, None);
            self.schedule(cx.now);
        }
    }

    /// When the next unasked advertisement is due.
    pub fn next_deadline(&self) -> Option<Time> {
        self.next
    }

    fn send(&mut self, cx: &mut Cx<'_>, search: &[String], to: Ipv6Addr, mac: Mac) {
        let Some(prefix) = cx.net.v6 else { return };
        self.sent += 1;
        let router = Network::router_link_local();
        let own = Link::mac_v6(router);
        let lifetime = if self.routable { LIFETIME } else { 0 };
        let mut m = vec![134, 0, 0, 0, 64, 0];
        m.extend_from_slice(&lifetime.to_be_bytes());
        // Reachable time and retransmission timer: left to the host.
        m.extend_from_slice(&[0; 8]);
        m.extend_from_slice(&[1, 1]);
        m.extend_from_slice(&own);
        m.extend_from_slice(&[5, 1, 0, 0]);
        m.extend_from_slice(&u32::from(cx.net.mtu).to_be_bytes());
        // On-link; autonomous where the prefix has the length that autoconfiguration needs.
        let flags = if prefix.prefix_len() == 64 { 0xc0 } else { 0x80 };
        m.extend_from_slice(&[3, 4, prefix.prefix_len(), flags]);
        m.extend_from_slice(&VALID.to_be_bytes());
        m.extend_from_slice(&PREFERRED.to_be_bytes());
        m.extend_from_slice(&[0; 4]);
        m.extend_from_slice(&prefix.network().octets());
        if let Some(dns) = cx.net.dns_v6().filter(|_| cx.net.dns) {
            m.extend_from_slice(&[25, 3, 0, 0]);
            m.extend_from_slice(&u32::from(LIFETIME).to_be_bytes());
            m.extend_from_slice(&dns.octets());
            let names = search::names(search, 1000);
            if !names.is_empty() {
                let units = (8 + names.len()).div_ceil(8);
                let end = m.len() + units * 8;
                m.extend_from_slice(&[31, units as u8, 0, 0]);
                m.extend_from_slice(&u32::from(LIFETIME).to_be_bytes());
                m.extend_from_slice(&names);
                m.resize(end, 0);
            }
        }
        cx.act(Action::EmitBytes(ndp::frame((own, mac), (router, to), m)));
    }
}
