//! Fragments from the guest, put together (RFC 791 section 3.2, RFC 8200 section 4.5, RFC 5722).
//!
//! Theory of operation. Parts stay in the buffers they came in; a packet is a list of spans. When the last hole closes,
//! [`Action::Inject`] asks the plane for one frame made of headers and parts, which comes back like any other frame,
//! addressed to [`REASSEMBLED`] so that it is known to have been fragmented. A packet with an overlap, with two ends, or
//! whose first part lacks the transport header is dead: its parts go at once, and what else arrives of it is dropped
//! until its time is over. Exact duplicates are tolerated.
//!
//! Limits: [`MAX_PACKETS`] packets, [`MAX_PARTS`] parts each, [`MAX_ALL_PARTS`] parts altogether, of which [`MAX_LARGE`] in
//! buffers of the tap, without which no frame can be read; the oldest packet makes room. 65,535 bytes a packet. 30 s for IPv4, 60 s for IPv6.

use super::Cx;
use super::action::Action;
use crate::buf::{Class, Span, SpanVec};
use crate::flow::{DropReason, Time};
use crate::wire::ip::IpOut;
use crate::wire::{Ip, Mac, ip, proto};
use std::net::IpAddr;
use std::time::Duration;

/// Packets in the making.
pub const MAX_PACKETS: usize = 64;
/// Parts of one packet: enough for 65,535 bytes at an MTU of 576.
pub const MAX_PARTS: usize = 128;
/// Parts altogether, each of which holds a buffer.
pub const MAX_ALL_PARTS: usize = 512;
/// Parts altogether that hold a buffer of the tap: a quarter of those.
pub const MAX_LARGE: usize = 64;
const LIFE_V4: Duration = Duration::from_secs(30);
const LIFE_V6: Duration = Duration::from_secs(60);

/// The destination MAC of frames that were put together here. A guest that sends to it gains only that its datagrams may
/// be fragmented again.
pub const REASSEMBLED: Mac = [0x02, b'r', b'e', b'a', b's', b'm'];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    /// Part of the identity for IPv4 only.
    protocol: Option<u8>,
}

#[derive(Debug)]
struct Part {
    at: u32,
    span: Span,
}

#[derive(Debug)]
struct Packet {
    key: Key,
    expires: Time,
    dead: bool,
    /// Sender's MAC and IP header of the first part.
    first: Option<(Mac, Ip)>,
    /// Congestion experienced by any part (RFC 3168 section 5.3).
    marked: bool,
    /// Payload bytes of the whole, once the last part has come.
    total: Option<u32>,
    have: u32,
    parts: Vec<Part>,
}

/// The store of one guest.
#[derive(Debug, Default)]
pub struct Store {
    /// In the order of their first arrival.
    packets: Vec<Packet>,
    held: usize,
    large: usize,
}

impl Store {
    /// A fragment from the guest. `span` is its payload; the buffer belongs to the store.
    pub fn fragment(&mut self, cx: &mut Cx<'_>, src_mac: Mac, ip: &Ip, span: Span) {
        let Some(f) = ip.fragment else {
            cx.drop(DropReason::Malformed);
            return cx.act(Action::Release(span.buf));
        };
        let v4 = ip.src.is_ipv4();
        let key = Key { src: ip.src, dst: ip.dst, id: f.id, protocol: v4.then_some(ip.protocol) };
        let index = self.find_or_open(cx, key);
        let packet = &mut self.packets[index];
        if packet.dead {
            cx.drop(DropReason::Fragment);
            return cx.act(Action::Release(span.buf));
        }
        let (at, end) = (u32::from(f.offset), u32::from(f.offset) + span.len);
        if packet.parts.iter().any(|p| p.at == at && p.span.len == span.len) {
            return cx.act(Action::Release(span.buf));
        }
        if !packet.admits(ip, at, end, f.more) {
            cx.drop(DropReason::Fragment);
            cx.act(Action::Release(span.buf));
            return self.kill(cx, index);
        }
        if at == 0 {
            packet.first = Some((src_mac, *ip));
        }
        if !f.more {
            packet.total = Some(end);
        }
        packet.marked |= ip.tos & 3 == 3;
        packet.have += span.len;
        packet.parts.push(Part { at, span });
        self.held += 1;
        self.large += usize::from(is_large(span));
        if packet.total == Some(packet.have) {
            self.complete(cx, index);
        } else if self.held > MAX_ALL_PARTS {
            self.make_room(cx, |p| !p.parts.is_empty());
        } else if self.large > MAX_LARGE {
            self.make_room(cx, |p| p.parts.iter().any(|part| is_large(part.span)));
        }
    }

    /// The oldest that holds what is short goes; it may be the one that has just got another part.
    fn make_room(&mut self, cx: &mut Cx<'_>, holds: impl Fn(&Packet) -> bool) {
        if let Some(oldest) = self.packets.iter().position(holds) {
            cx.drop(DropReason::Fragment);
            self.remove(cx, oldest);
        }
    }

    fn find_or_open(&mut self, cx: &mut Cx<'_>, key: Key) -> usize {
        if let Some(index) = self.packets.iter().position(|p| p.key == key) {
            return index;
        }
        if self.packets.len() >= MAX_PACKETS {
            cx.drop(DropReason::Fragment);
            self.remove(cx, 0);
        }
        let life = if key.src.is_ipv4() { LIFE_V4 } else { LIFE_V6 };
        self.packets.push(Packet {
            key,
            expires: cx.now + life,
            dead: false,
            first: None,
            marked: false,
            total: None,
            have: 0,
            parts: Vec::new(),
        });
        self.packets.len() - 1
    }

    fn complete(&mut self, cx: &mut Cx<'_>, index: usize) {
        let mut packet = self.packets.remove(index);
        self.forget(&packet.parts);
        packet.parts.sort_unstable_by_key(|p| p.at);
        // Parts do not overlap and add up to the total, so the first is there.
        if let (Some((src_mac, first)), Some(total)) = (packet.first, packet.total) {
            let out = IpOut {
                src: first.src,
                dst: first.dst,
                protocol: first.protocol,
                ttl: first.ttl,
                tos: first.tos | if packet.marked { 3 } else { 0 },
                id: packet.key.id as u16,
                dont_fragment: false,
            };
            let head = ip::head(src_mac, REASSEMBLED, &out, total as usize);
            let spans: SpanVec = packet.parts.iter().map(|p| p.span).collect();
            cx.act(Action::Inject { head, spans });
        }
        for part in &packet.parts {
            cx.act(Action::Release(part.span.buf));
        }
    }

    /// Lets the parts go and remembers the packet as one to drop.
    fn kill(&mut self, cx: &mut Cx<'_>, index: usize) {
        let packet = &mut self.packets[index];
        packet.dead = true;
        let parts = std::mem::take(&mut packet.parts);
        self.forget(&parts);
        for part in parts {
            cx.act(Action::Release(part.span.buf));
        }
    }

    fn forget(&mut self, parts: &[Part]) {
        self.held -= parts.len();
        self.large -= parts.iter().filter(|part| is_large(part.span)).count();
    }

    fn remove(&mut self, cx: &mut Cx<'_>, index: usize) {
        self.kill(cx, index);
        self.packets.remove(index);
    }

    /// Time has passed.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        while let Some(index) = self.packets.iter().position(|p| p.expires <= cx.now) {
            if !self.packets[index].dead {
                cx.drop(DropReason::ReassemblyTimeout);
            }
            self.remove(cx, index);
        }
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Time> {
        self.packets.iter().map(|p| p.expires).min()
    }

    /// Buffers held.
    pub fn held(&self) -> usize {
        self.held
    }
}

fn is_large(span: Span) -> bool {
    span.buf.class() == Class::Tap
}

impl Packet {
    /// Whether a part from byte `at` to `end` can belong to this packet.
    fn admits(&self, ip: &Ip, at: u32, end: u32, more: bool) -> bool {
        // The header of the whole counts into IPv4's total length, not into IPv6's payload length.
        let max = if ip.src.is_ipv4() { 65_535 - 20 } else { 65_535 };
        let len = end - at;
        let sound = len > 0 && (!more || len.is_multiple_of(8)) && end <= max && self.parts.len() < MAX_PARTS;
        let header = match ip.protocol {
            proto::TCP => 20,
            _ => 8,
        };
        // A first part without the transport header hides it from whoever looks at first parts (RFC 1858, RFC 7112).
        let tiny = at == 0 && more && len < header;
        let beyond = self.total.is_some_and(|total| end > total || (!more && end != total));
        let cuts_off = !more && self.parts.iter().any(|p| p.at + p.span.len > end);
        let overlaps = self.parts.iter().any(|p| at < p.at + p.span.len && p.at < end);
        sound && !tiny && !beyond && !cuts_off && !overlaps
    }
}
