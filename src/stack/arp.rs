//! ARP for the addresses that are ours (RFC 826, RFC 5227): the gateway's, and the DNS address where DNS is on.
//!
//! Requests for them are answered, probes of a guest that wants to take them included; nobody else is spoken for, so a
//! stranger on the link stays unreachable. Requests, replies and announcements teach the sender's MAC, unless they claim
//! an address of ours.

use super::link::Link;
use super::sources::Behind;
use crate::config::Network;
use crate::flow::{DropReason, Time};
use crate::wire::Mac;
use std::net::{IpAddr, Ipv4Addr};

const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Ethernet, IPv4, lengths 6 and 4.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What one ARP message says.
struct Message {
    op: u16,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
}

fn read(m: &[u8]) -> Option<Message> {
    let m: &[u8; 28] = m.get(..28)?.try_into().ok()?;
    if m[..6] != KIND {
        return None;
    }
    let pair = |at: usize| -> (Mac, Ipv4Addr) {
        let mut mac = [0; 6];
        mac.copy_from_slice(&m[at..at + 6]);
        (mac, Ipv4Addr::new(m[at + 6], m[at + 7], m[at + 8], m[at + 9]))
    };
    Some(Message { op: u16::from_be_bytes([m[6], m[7]]), sender: pair(8), target: pair(18) })
}

fn write(dst: Mac, op: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut f = Vec::with_capacity(42);
    f.extend_from_slice(&dst);
    f.extend_from_slice(&sender.0);
    f.extend_from_slice(&[0x08, 0x06]);
    f.extend_from_slice(&KIND);
    f.extend_from_slice(&op.to_be_bytes());
    f.extend_from_slice(&sender.0);
    f.extend_from_slice(&sender.1.octets());
    f.extend_from_slice(&target.0);
    f.extend_from_slice(&target.1.octets());
    f
}

/// True for the IPv4 addresses that we are. The DNS address is ours where nobody answers DNS there, too: what is sent to it
/// then is lost without a word, as with slirp4netns, instead of failing as unreachable.
pub fn ours(net: &Network, addr: Ipv4Addr) -> bool {
    addr == net.gateway_v4() || addr == net.dns_v4()
}

/// The question who has `addr`, asked by the gateway.
pub fn request(net: &Network, addr: Ipv4Addr) -> Vec<u8> {
    let gateway = net.gateway_v4();
    write([0xff; 6], REQUEST, (Link::mac_v4(gateway), gateway), ([0; 6], addr))
}

/// An ARP message from the guest: learns from it, and gives the reply if one is due.
pub fn message(
    net: &Network,
    link: &mut Link,
    behind: &Behind,
    now: Time,
    bytes: &[u8],
) -> Result<Option<Vec<u8>>, DropReason> {
    let m = read(bytes).ok_or(DropReason::Malformed)?;
    let (mac, addr) = m.sender;
    if mac[0] & 1 != 0 || addr.is_multicast() || addr.is_broadcast() || addr.is_loopback() {
        return Err(DropReason::Malformed);
    }
    if ours(net, addr) {
        return Err(DropReason::Spoofed);
    }
    if !link.welcomes(now, addr.into(), mac) {
        return Err(DropReason::NoRoom);
    }
    // An unspecified sender is a probe (RFC 5227): it has no address yet. One that the guest may not send from teaches
    // nothing, but is answered: Linux asks by any address that it has (`arp_announce`), on behalf of others too.
    if behind.admit(net, addr.into()).is_ok() {
        link.learn(now, IpAddr::V4(addr), mac);
    }
    match m.op {
        REQUEST if ours(net, m.target.1) && m.target.1 != addr => {
            Ok(Some(write(mac, REPLY, (Link::mac_v4(m.target.1), m.target.1), m.sender)))
        }
        REQUEST | REPLY => Ok(None),
        _ => Err(DropReason::Unsupported),
    }
}
