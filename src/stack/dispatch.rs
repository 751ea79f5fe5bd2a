//! Which engine a frame is for.
//!
//! Theory of operation. A frame passes these gates in order, and the first that it does not pass is counted: it parses;
//! its source can be a guest's (DHCP, duplicate address detection and router solicitation may come from the unspecified
//! address); it teaches the link its sender; group destinations go to NDP and DHCPv6 or nowhere; fragments go to the
//! reassembly store and come back whole; time to live must outlast one hop unless the packet is for us; the policy must
//! allow the destination. Refused destinations look unreachable to the guest, absent neighbours stay silent.

use super::echo::Request;
use super::icmp_error::Fault;
use super::reassembly::REASSEMBLED;
use super::udp::FromGuest;
use super::udp_join::Out;
use super::{Action, FrameMeta, Stack, arp, context, dhcp6, icmp, link, ndp};
use crate::buf::Span;
use crate::flow::{DropReason, Time};
use crate::nat::{Transport, Verdict};
use crate::wire::tcp::Flags;
use crate::wire::{Frame, Ip, Mac, Net, ParseError, Payload, Tcp, Udp, ext, parse_gso};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// One IP packet on its way through the gates.
struct Packet<'a> {
    now: Time,
    meta: FrameMeta,
    /// The frame.
    bytes: &'a [u8],
    /// Where the frame lies.
    at: Span,
    src_mac: Mac,
    ip: Ip,
}

impl Packet<'_> {
    fn span(&self, range: &Range<usize>) -> Span {
        Span::new(self.at.buf, self.at.off + range.start as u32, range.len() as u32)
    }

    /// From the IP header on.
    fn packet(&self) -> &[u8] {
        self.bytes.get(usize::from(self.ip.header_at)..).unwrap_or_default()
    }

    /// Time to live on the other side.
    fn ttl(&self) -> u8 {
        self.ip.ttl.saturating_sub(1).max(1)
    }
}

impl Stack {
    /// True when an engine has taken the buffer over; otherwise it is the caller's to release.
    pub(super) fn dispatch(&mut self, now: Time, meta: FrameMeta, bytes: &[u8], at: Span) -> bool {
        let Frame { src_mac, dst_mac, net } = match parse_gso(bytes, meta.gso) {
            Ok(frame) => frame,
            Err(e) => {
                self.counters.drop(match e {
                    ParseError::Malformed => DropReason::Malformed,
                    ParseError::Unsupported => DropReason::Unsupported,
                    ParseError::BadChecksum => DropReason::BadChecksum,
                });
                return false;
            }
        };
        match net {
            Net::Arp(range) => {
                match arp::message(&self.net, &mut self.link, &self.behind, now, &bytes[range]) {
                    Ok(answer) => {
                        self.noise.heard(now);
                        self.out.extend(answer.map(Action::EmitBytes));
                    }
                    Err(why) => self.counters.drop(why),
                }
                false
            }
            // Off means off: no answer, and nothing to count.
            Net::Ip(ip, _) if ip.src.is_ipv6() && self.net.v6.is_none() => false,
            Net::Ip(mut ip, payload) => {
                if dst_mac == REASSEMBLED {
                    // Came in fragments, so it may leave in fragments, IPv6 included.
                    ip.dont_fragment = false;
                }
                let p = Packet { now, meta, bytes, at, src_mac, ip };
                let kept = self.sources(&p, &payload).unwrap_or_else(|why| {
                    self.counters.drop(why);
                    false
                });
                if dst_mac == REASSEMBLED {
                    // It comes while the actions of a batch are carried out: it is a batch of its own.
                    self.end_batch(now);
                }
                kept
            }
        }
    }

    /// Gates that look at the source, and the protocols that speak before they have one.
    fn sources(&mut self, p: &Packet<'_>, payload: &Payload) -> Result<bool, DropReason> {
        if let Payload::Udp(Udp { src_port: 68, dst_port: 67 }, range) = payload
            && let (IpAddr::V4(src), IpAddr::V4(dst)) = (p.ip.src, p.ip.dst)
        {
            let to_us = dst.is_broadcast() || dst == self.net.gateway_v4() || dst == self.net.v4.broadcast();
            if to_us && (src.is_unspecified() || self.behind.admit(&self.net, p.ip.src).is_ok()) {
                let mut cx = context!(self, p.now);
                self.dhcp4.message(&mut cx, &self.resolvers.search, &p.bytes[range.clone()]);
                return Ok(false);
            }
        }
        if let (Payload::Icmp(range), IpAddr::V6(_)) = (payload, p.ip.src)
            && p.bytes.get(range.start).is_some_and(|t| ndp::is_ndp(*t))
        {
            self.ndp(p, range)?;
            self.noise.heard(p.now);
            return Ok(false);
        }
        self.behind.admit(&self.net, p.ip.src)?;
        self.link.heard(p.now, p.ip.src, p.src_mac);
        if p.ip.src.is_ipv6() {
            self.ra.heard(p.now);
        }
        if let Payload::Udp(udp, range) = payload
            && udp.dst_port == 547
            && let IpAddr::V6(dst) = p.ip.dst
            && (dst == dhcp6::SERVERS || ndp::ours(&self.net, dst))
        {
            let from = SocketAddr::new(p.ip.src, udp.src_port);
            let mut cx = context!(self, p.now);
            dhcp6::message(&mut cx, &self.resolvers.search, from, &p.bytes[range.clone()]);
            return Ok(false);
        }
        if link::is_group(&self.net, p.ip.dst) {
            return Err(DropReason::Multicast);
        }
        if let Payload::Fragment(range) = payload {
            let mut cx = context!(self, p.now);
            self.fragments.fragment(&mut cx, p.src_mac, &p.ip, p.span(range));
            return Ok(true);
        }
        self.route(p, payload)
    }

    fn ndp(&mut self, p: &Packet<'_>, range: &Range<usize>) -> Result<(), DropReason> {
        if !p.ip.src.is_unspecified() {
            self.behind.admit(&self.net, p.ip.src)?;
        }
        self.ra.heard(p.now);
        let m = &p.bytes[range.clone()];
        match ndp::message(&self.net, &mut self.link, &self.behind, p.now, (p.src_mac, &p.ip), m)? {
            ndp::Asked::Nothing => {}
            ndp::Asked::Reply(frame) => self.out.push_back(Action::EmitBytes(frame)),
            ndp::Asked::Router(to) => {
                let mut cx = context!(self, p.now);
                self.ra.solicited(&mut cx, &self.resolvers.search, to);
            }
        }
        Ok(())
    }

    /// Unicast packets of a guest: time to live, then by protocol.
    fn route(&mut self, p: &Packet<'_>, payload: &Payload) -> Result<bool, DropReason> {
        if p.ip.ttl <= 1 && !link::ours(&self.net, p.ip.dst) {
            self.error(p, Fault::TimeExceeded);
            return Err(DropReason::TtlExceeded);
        }
        match payload {
            Payload::Tcp(tcp, range) => self.tcp_segment(p, tcp, range),
            Payload::Udp(udp, range) => self.udp_datagram(p, udp, range),
            Payload::Icmp(range) => self.icmp_message(p, range),
            Payload::Other(_) => {
                let named_at = ext::next_header_at(p.packet()).unwrap_or(6);
                self.error(p, Fault::Protocol(named_at as u32));
                Err(DropReason::Unsupported)
            }
            Payload::Fragment(_) => Err(DropReason::Fragment),
        }
    }

    fn tcp_segment(&mut self, p: &Packet<'_>, tcp: &Tcp, range: &Range<usize>) -> Result<bool, DropReason> {
        let payload = p.span(range);
        let room = !tcp.flags.has(Flags::SYN) || self.has_room();
        let mut cx = context!(self, p.now);
        self.tcp.segment(&mut cx, &p.ip, tcp, payload, room);
        Ok(true)
    }

    fn udp_datagram(&mut self, p: &Packet<'_>, udp: &Udp, range: &Range<usize>) -> Result<bool, DropReason> {
        let guest = SocketAddr::new(p.ip.src, udp.src_port);
        let dialled = SocketAddr::new(p.ip.dst, udp.dst_port);
        let payload = p.span(range);
        let room = self.has_room_for_a_mapping();
        let verdict = self.nat.translate(Transport::Udp, dialled);
        // Port 0 cannot be sent to, and an answer could not come back to it (RFC 768: no reply expected).
        if udp.src_port == 0 || udp.dst_port == 0 {
            return Err(DropReason::Malformed);
        }
        // Before the policy: a client may be shown as the gateway, which is refused as a destination.
        if let Some(id) = self.inbound.find(guest, dialled) {
            let out = Out { to: dialled, ttl: p.ttl(), tos: p.ip.tos, dont_fragment: p.ip.dont_fragment };
            let mut cx = context!(self, p.now);
            self.inbound.answer(&mut cx, id, out, payload, p.meta.gso);
            return Ok(true);
        }
        match verdict {
            Verdict::Host(to) => {
                let out = Out { to, ttl: p.ttl(), tos: p.ip.tos, dont_fragment: p.ip.dont_fragment };
                let d = FromGuest { guest, dialled, out, payload, gso: p.meta.gso };
                let mut cx = context!(self, p.now);
                self.udp.send(&mut cx, &d, room);
                Ok(true)
            }
            Verdict::Dns => {
                let mut cx = context!(self, p.now);
                self.dns.query(&mut cx, &mut self.errors, (guest, dialled), (payload, p.ip.tos), room);
                Ok(true)
            }
            Verdict::Refuse => {
                self.error(p, Fault::Net);
                Err(DropReason::Policy)
            }
            Verdict::Silent => Err(DropReason::Policy),
        }
    }

    fn icmp_message(&mut self, p: &Packet<'_>, range: &Range<usize>) -> Result<bool, DropReason> {
        match icmp::read(p.ip.src.is_ipv6(), &p.bytes[range.clone()])? {
            icmp::Message::PortUnreachable(quoted) => {
                let mut cx = context!(self, p.now);
                self.inbound.refused(&mut cx, &quoted);
                Ok(false)
            }
            icmp::Message::TooBig(quoted) => {
                let mut cx = context!(self, p.now);
                self.tcp.too_big(&mut cx, &quoted);
                Ok(false)
            }
            icmp::Message::Echo(id, seq) => {
                let message = p.span(range);
                if link::ours(&self.net, p.ip.dst) {
                    let r = Request::new(&p.ip, p.ip.dst, (id, seq), 255, message);
                    let mut cx = context!(self, p.now);
                    self.echo.answer(&mut cx, &r);
                    self.noise.heard(p.now);
                    return Ok(false);
                }
                match self.nat.translate(Transport::Icmp, SocketAddr::new(p.ip.dst, 0)) {
                    Verdict::Host(to) => {
                        let room = self.has_room_for_a_mapping();
                        let r = Request::new(&p.ip, to.ip(), (id, seq), p.ttl(), message);
                        let mut cx = context!(self, p.now);
                        self.echo.request(&mut cx, &r, room);
                        Ok(true)
                    }
                    Verdict::Refuse | Verdict::Dns => {
                        self.error(p, Fault::Net);
                        Err(DropReason::Policy)
                    }
                    Verdict::Silent => Err(DropReason::Policy),
                }
            }
        }
    }

    fn error(&mut self, p: &Packet<'_>, fault: Fault) {
        let mut cx = context!(self, p.now);
        self.errors.about(&mut cx, &p.ip, p.packet(), fault);
    }

    /// Whether one more flow may be open.
    pub(super) fn has_room(&self) -> bool {
        self.tcp.len() + self.mappings() < self.limits.flows
    }

    /// The same for what nobody closes: it leaves a quarter to connections, which could not be opened for minutes
    /// otherwise after datagrams to a million ports.
    fn has_room_for_a_mapping(&self) -> bool {
        self.has_room() && self.mappings() < self.limits.flows - self.limits.flows / 4
    }

    /// Flows that end by time alone.
    fn mappings(&self) -> usize {
        self.udp.mappings().len() + self.echo.mappings().len() + self.dns.live()
    }
}
