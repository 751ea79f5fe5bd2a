//! Neighbour discovery (RFC 4861) for the IPv6 addresses that are ours: P::2, fe80::2, and P::3 and fe80::3 where DNS is
//! on.
//!
//! Solicitations for them are answered as a router (R, S, O set), and a guest's duplicate address detection on one of
//! them is told no. Whatever did not come from the link itself (hop limit below 255), has a bad option, or claims an
//! address of ours is dropped and teaches nothing. Router solicitations are handed on to [`super::ra`].

use super::link::Link;
use super::sources::Behind;
use crate::config::Network;
use crate::flow::{DropReason, Time};
use crate::wire::ip::IpOut;
use crate::wire::{Ip, Mac, icmp};
use std::net::{IpAddr, Ipv6Addr};

/// ICMPv6 types of this protocol and of multicast listener discovery.
pub const TYPES: std::ops::RangeInclusive<u8> = 130..=137;
const MLD2_REPORT: u8 = 143;
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;

/// All nodes on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What a message asks of us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing.
    Nothing,
    /// To send this frame.
    Reply(Vec<u8>),
    /// A router advertisement, to this host if it has an address yet.
    Router(Option<(Ipv6Addr, Mac)>),
}

/// True for the IPv6 addresses that we are.
pub fn ours(net: &Network, addr: Ipv6Addr) -> bool {
    let dns_link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 3);
    net.v6.is_some()
        && (Some(addr) == net.gateway_v6()
            || addr == Network::router_link_local()
            || (net.dns && (Some(addr) == net.dns_v6() || addr == dns_link_local)))
}

/// True for message types that belong here.
pub fn is_ndp(icmp_type: u8) -> bool {
    TYPES.contains(&icmp_type) || icmp_type == MLD2_REPORT
}

/// The Ethernet address of an IPv6 group (RFC 2464 section 7).
pub fn group_mac(group: Ipv6Addr) -> Mac {
    let o = group.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

/// The question who has `target`, asked by the router.
pub fn solicitation(target: Ipv6Addr) -> Vec<u8> {
    let router = Network::router_link_local();
    let mac = Link::mac_v6(router);
    let t = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t[13], t[14], t[15]]);
    let mut m = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    m.extend_from_slice(&t);
    m.extend_from_slice(&[SOURCE_LINK, 1]);
    m.extend_from_slice(&mac);
    frame((mac, group_mac(group)), (router, group), m)
}

/// A message from `ends.0` to `ends.1`, with the hop limit that proves it was not routed.
pub fn frame(macs: (Mac, Mac), ends: (Ipv6Addr, Ipv6Addr), message: Vec<u8>) -> Vec<u8> {
    let (src, dst) = (ends.0.into(), ends.1.into());
    let ip = IpOut { src, dst, protocol: 0, ttl: 255, tos: 0, id: 0, dont_fragment: true };
    icmp::frame(macs.0, macs.1, &ip, message)
}

/// Walks the options: the link-layer address of the kind asked for, if there is one. A zero length or an option that
/// leaves the message makes the whole message invalid (RFC 4861 section 4.6).
fn link_option(mut options: &[u8], kind: u8) -> Result<Option<Mac>, DropReason> {
    let mut found = None;
    while !options.is_empty() {
        let len = usize::from(*options.get(1).ok_or(DropReason::Malformed)?) * 8;
        if len == 0 || len > options.len() {
            return Err(DropReason::Malformed);
        }
        if options[0] == kind {
            let mut mac = [0; 6];
            mac.copy_from_slice(&options[2..8]);
            found = Some(mac);
        }
        options = &options[len..];
    }
    Ok(found)
}

/// A message from the guest. `m` is the ICMPv6 message, `src_mac` the frame's sender.
pub fn message(
    net: &Network,
    link: &mut Link,
    behind: &Behind,
    now: Time,
    (src_mac, ip): (Mac, &Ip),
    m: &[u8],
) -> Result<Asked, DropReason> {
    let IpAddr::V6(src) = ip.src else { return Err(DropReason::Malformed) };
    let (Some(&icmp_type), Some(&code)) = (m.first(), m.get(1)) else { return Err(DropReason::Malformed) };
    if !matches!(icmp_type, ROUTER_SOLICITATION | NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT) {
        // Listener reports, redirects and advertisements of other routers say nothing to us.
        return Err(DropReason::Multicast);
    }
    if ip.ttl != 255 || code != 0 {
        return Err(DropReason::Malformed);
    }
    if !link.welcomes(now, src.into(), src_mac) {
        return Err(DropReason::NoRoom);
    }
    if icmp_type == ROUTER_SOLICITATION {
        let known = link_option(m.get(8..).ok_or(DropReason::Malformed)?, SOURCE_LINK)?;
        if src.is_unspecified() {
            return Ok(Asked::Router(None));
        }
        let mac = known.unwrap_or(src_mac);
        link.learn(now, src.into(), mac);
        return Ok(Asked::Router(Some((src, mac))));
    }
    let target: [u8; 16] = m.get(8..24).and_then(|t| t.try_into().ok()).ok_or(DropReason::Malformed)?;
    let target = Ipv6Addr::from(target);
    if target.is_multicast() {
        return Err(DropReason::Malformed);
    }
    if icmp_type == NEIGHBOUR_ADVERTISEMENT {
        let mac = link_option(&m[24..], TARGET_LINK)?.unwrap_or(src_mac);
        behind.admit(net, target.into())?;
        link.learn(now, target.into(), mac);
        return Ok(Asked::Nothing);
    }
    let known = link_option(&m[24..], SOURCE_LINK)?;
    let own = Link::mac_v6(target);
    if src.is_unspecified() {
        // Duplicate address detection has no link-layer address yet (RFC 4861 section 7.1.1).
        if known.is_some() {
            return Err(DropReason::Malformed);
        }
        if !ours(net, target) {
            return Ok(Asked::Nothing);
        }
        let m = advertisement(target, own, false);
        return Ok(Asked::Reply(frame((own, group_mac(ALL_NODES)), (target, ALL_NODES), m)));
    }
    let mac = known.unwrap_or(src_mac);
    link.learn(now, src.into(), mac);
    if !ours(net, target) {
        return Ok(Asked::Nothing);
    }
    let m = advertisement(target, own, true);
    Ok(Asked::Reply(frame((own, mac), (target, src), m)))
}

fn advertisement(target: Ipv6Addr, mac: Mac, solicited: bool) -> Vec<u8> {
    // Router, solicited, override.
    let flags = if solicited { 0xe0 } else { 0xa0 };
    let mut m = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    m.extend_from_slice(&target.octets());
    m.extend_from_slice(&[TARGET_LINK, 1]);
    m.extend_from_slice(&mac);
    m
}
