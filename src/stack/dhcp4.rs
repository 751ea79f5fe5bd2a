//! DHCPv4 (RFC 2131): sixteen leases, N+15 to N+30, for guests that ask.
//!
//! A lease belongs to a client identifier, or to a MAC where the client sends none, and comes back to it. An offer holds
//! its address for a minute, a lease for a day, a declined address rests for ten minutes. The server knows every lease
//! there is, so it refuses (NAK) what it cannot confirm. Old BOOTP requests without a message type are served too.
//! Limits: messages beyond [`MAX_LEN`] bytes are not read; when all sixteen are taken, discoveries stay unanswered and
//! are counted.

use super::Cx;
use super::action::Action;
use super::link::Link;
use super::{dhcp_sieve, search};
use crate::config::Network;
use crate::flow::{DropReason, Time};
use crate::wire::{Mac, udp};
use dhcproto::Name;
use dhcproto::v4::{
    Decodable, Decoder, DhcpOption, Encodable, Encoder, HType, Message, MessageType, Opcode, OptionCode,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Longest message read, in bytes: more than any client sends.
pub const MAX_LEN: usize = 1500;
/// Seconds of a lease.
pub const LEASE: u32 = 86_400;
const OFFER_HOLD: Duration = Duration::from_secs(60);
const DECLINE_REST: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, Default)]
struct Lease {
    /// Empty for an address that is free or rests.
    client: Vec<u8>,
    until: Time,
}

/// The server. Holds nothing but the leases.
#[derive(Debug)]
pub struct Server {
    first: Ipv4Addr,
    leases: Vec<Lease>,
}

/// What to answer, apart from the options that every answer has.
enum Answer {
    Give(MessageType, Ipv4Addr),
    Inform,
    Nak,
}

impl Server {
    /// All addresses of the pool are free.
    pub fn new(net: &Network) -> Self {
        let (first, last) = net.dhcp_pool();
        let size = (u32::from(last) - u32::from(first) + 1) as usize;
        Self { first, leases: vec![Lease::default(); size] }
    }

    fn addr(&self, slot: usize) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first) + slot as u32)
    }

    fn slot(&self, addr: Ipv4Addr) -> Option<usize> {
        let n = u32::from(addr).checked_sub(u32::from(self.first))? as usize;
        (n < self.leases.len()).then_some(n)
    }

    fn free(&self, slot: usize, now: Time) -> bool {
        self.leases[slot].until <= now
    }

    /// The address for a client: its own, the one it would like, a fresh one, or the one that ran out longest ago.
    fn choose(&self, client: &[u8], wish: Option<Ipv4Addr>, now: Time) -> Option<usize> {
        self.leases
            .iter()
            .position(|l| l.client == client)
            .or_else(|| wish.and_then(|a| self.slot(a)).filter(|s| self.free(*s, now)))
            .or_else(|| {
                (0..self.leases.len()).filter(|s| self.free(*s, now)).min_by_key(|s| self.leases[*s].until)
            })
    }

    fn take(&mut self, slot: usize, client: &[u8], until: Time) {
        // A client holds one address at a time.
        for lease in self.leases.iter_mut().filter(|l| l.client == client) {
            *lease = Lease::default();
        }
        self.leases[slot] = Lease { client: client.to_vec(), until };
    }

    /// A message from the guest, already known to be addressed to a server. Answers go straight to the client.
    pub fn message(&mut self, cx: &mut Cx<'_>, search: &[String], bytes: &[u8]) {
        let sieved = Some(bytes).filter(|b| b.len() <= MAX_LEN).and_then(dhcp_sieve::v4);
        let Some(m) = sieved.and_then(|b| Message::decode(&mut Decoder::new(&b)).ok()) else {
            return cx.drop(DropReason::Malformed);
        };
        // The length is checked before `chaddr` is asked for: that slices by it.
        if m.opcode() != Opcode::BootRequest || m.htype() != HType::Eth || m.hlen() != 6 {
            return cx.drop(DropReason::Malformed);
        }
        let mut mac: Mac = [0; 6];
        mac.copy_from_slice(m.chaddr());
        let client = match m.opts().get(OptionCode::ClientIdentifier) {
            Some(DhcpOption::ClientIdentifier(id)) if !id.is_empty() => id.clone(),
            _ => [&[1][..], &mac[..]].concat(),
        };
        match self.decide(cx, &m, &client) {
            Ok(Some(answer)) => self.answer(cx, search, m, mac, &answer),
            Ok(None) => {}
            Err(why) => cx.drop(why),
        }
    }

    fn decide(&mut self, cx: &Cx<'_>, m: &Message, client: &[u8]) -> Result<Option<Answer>, DropReason> {
        let now = cx.now;
        let wish = match m.opts().get(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(a)) => Some(*a),
            _ => None,
        };
        let server = match m.opts().get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(a)) => Some(*a),
            _ => None,
        };
        let elsewhere = server.is_some_and(|s| s != cx.net.gateway_v4());
        let lease_end = now + Duration::from_secs(u64::from(LEASE));
        match m.opts().msg_type() {
            Some(MessageType::Discover) => {
                let slot = self.choose(client, wish, now).ok_or(DropReason::NoRoom)?;
                let held = self.leases[slot].until.max(now + OFFER_HOLD);
                self.take(slot, client, held);
                Ok(Some(Answer::Give(MessageType::Offer, self.addr(slot))))
            }
            None => {
                let slot = self.choose(client, wish, now).ok_or(DropReason::NoRoom)?;
                self.take(slot, client, lease_end);
                Ok(Some(Answer::Give(MessageType::Ack, self.addr(slot))))
            }
            Some(MessageType::Request) if elsewhere => {
                // The client chose another server: what was offered is free again.
                self.forget(client);
                Ok(None)
            }
            Some(MessageType::Request) => {
                let wanted = wish.unwrap_or(m.ciaddr());
                let Some(slot) = self.slot(wanted) else { return Ok(Some(Answer::Nak)) };
                if self.leases[slot].client != client && !self.free(slot, now) {
                    return Ok(Some(Answer::Nak));
                }
                self.take(slot, client, lease_end);
                Ok(Some(Answer::Give(MessageType::Ack, wanted)))
            }
            Some(MessageType::Inform) => Ok(Some(Answer::Inform)),
            Some(MessageType::Release) if !elsewhere => {
                self.forget(client);
                Ok(None)
            }
            Some(MessageType::Decline) if !elsewhere => {
                let slot = wish.and_then(|a| self.slot(a)).filter(|s| self.leases[*s].client == client);
                if let Some(slot) = slot {
                    self.leases[slot] = Lease { client: Vec::new(), until: now + DECLINE_REST };
                }
                Ok(None)
            }
            _ => Err(DropReason::Unsupported),
        }
    }

    fn forget(&mut self, client: &[u8]) {
        for lease in self.leases.iter_mut().filter(|l| l.client == client) {
            *lease = Lease::default();
        }
    }

    /// Turns the request into its answer and sends it where RFC 2131 section 4.1 says.
    fn answer(&self, cx: &mut Cx<'_>, search: &[String], mut m: Message, mac: Mac, answer: &Answer) {
        let gateway = cx.net.gateway_v4();
        let bootp = m.opts().msg_type().is_none();
        let (kind, addr) = match *answer {
            Answer::Give(kind, addr) => (kind, addr),
            Answer::Inform => (MessageType::Ack, Ipv4Addr::UNSPECIFIED),
            Answer::Nak => (MessageType::Nak, Ipv4Addr::UNSPECIFIED),
        };
        let nak = matches!(answer, Answer::Nak);
        let (to, to_mac) = if nak || (m.ciaddr().is_unspecified() && m.flags().broadcast()) {
            (Ipv4Addr::BROADCAST, [0xff; 6])
        } else if m.ciaddr().is_unspecified() {
            if addr.is_unspecified() { (Ipv4Addr::BROADCAST, [0xff; 6]) } else { (addr, mac) }
        } else {
            (m.ciaddr(), mac)
        };
        let client_id = m.opts_mut().remove(OptionCode::ClientIdentifier);
        m.set_opcode(Opcode::BootReply).set_yiaddr(addr).set_siaddr(gateway).set_hops(0).set_secs(0);
        if nak {
            m.set_ciaddr(Ipv4Addr::UNSPECIFIED).set_siaddr(Ipv4Addr::UNSPECIFIED);
        }
        m.clear_fname();
        m.clear_sname();
        let o = m.opts_mut();
        o.clear();
        if !bootp {
            o.insert(DhcpOption::MessageType(kind));
            o.insert(DhcpOption::ServerIdentifier(gateway));
            // RFC 6842: the client's identifier is echoed.
            if let Some(id) = client_id {
                o.insert(id);
            }
        }
        if !nak {
            if !matches!(answer, Answer::Inform) {
                o.insert(DhcpOption::AddressLeaseTime(LEASE));
            }
            o.insert(DhcpOption::SubnetMask(cx.net.v4.netmask()));
            o.insert(DhcpOption::BroadcastAddr(cx.net.v4.broadcast()));
            o.insert(DhcpOption::Router(vec![gateway]));
            o.insert(DhcpOption::InterfaceMtu(cx.net.mtu));
            if cx.net.dns {
                o.insert(DhcpOption::DomainNameServer(vec![cx.net.dns_v4()]));
                if let Some(domain) = search.first() {
                    o.insert(DhcpOption::DomainName(domain.clone()));
                }
                let names: Vec<Name> =
                    search::bounded(search, 200).filter_map(|s| Name::from_ascii(s).ok()).collect();
                if !names.is_empty() {
                    o.insert(DhcpOption::DomainSearch(names));
                }
            }
        }
        let mut bytes = Vec::with_capacity(400);
        if m.encode(&mut Encoder::new(&mut bytes)).is_err() {
            return cx.drop(DropReason::HostRefused);
        }
        // BOOTP's minimum, which some clients still insist on (RFC 1542 section 2.1).
        bytes.resize(bytes.len().max(300), 0);
        let frame = udp::frame(
            Link::mac_v4(gateway),
            to_mac,
            SocketAddr::from((gateway, 67)),
            SocketAddr::from((to, 68)),
            &bytes,
        );
        cx.act(Action::EmitBytes(frame));
    }
}
