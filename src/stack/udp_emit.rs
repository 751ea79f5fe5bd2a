//! Datagrams to the guest: headers in front of what the host delivered, as few frames as the tap can carry.
//!
//! Several datagrams of one size that fit the guest's MTU leave as USO super-frames of at most 64 datagrams and 65,535
//! bytes of L3: those that the host's `UDP_GRO` delivered at once, and those that came one by one within a batch, which
//! [`Held`] joins, for a frame costs the tap several times what a datagram in it does. Longer than the MTU, each goes
//! alone and the emitter fragments it: hence the identification, and don't fragment is never set. An empty datagram is
//! a frame without payload.

use super::Cx;
use super::action::{Action, Emit};
use crate::buf::join::MAX_SEGMENTS;
use crate::buf::{Span, SpanVec};
use crate::flow::DropReason;
use crate::wire::ip::IpOut;
use crate::wire::{Gso, Udp, proto, udp};
use std::net::SocketAddr;

/// Whence, where to, and how. Only datagrams that agree in all of it are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The sender as the guest knows it.
    pub from: SocketAddr,
    /// The guest's end.
    pub to: SocketAddr,
    /// Type of service or traffic class.
    pub tos: u8,
}

impl Way {
    /// Bytes of IP and UDP header.
    fn headers(&self) -> u32 {
        if self.to.is_ipv6() { 48 } else { 28 }
    }

    /// Datagrams of `size` bytes that one frame carries.
    fn per_frame(&self, size: u32) -> usize {
        ((65_535 - self.headers()) / size.max(1)).clamp(1, MAX_SEGMENTS as u32) as usize
    }

    fn frame(&self, cx: &mut Cx<'_>, next_id: &mut u16, spans: SpanVec, len: u32, gso: Gso) {
        let Some(mac) = cx.neighbour(self.to.ip()) else { return };
        let id = *next_id;
        *next_id = id.checked_add(1).unwrap_or(1);
        let ip = IpOut {
            src: self.from.ip(),
            dst: self.to.ip(),
            protocol: proto::UDP,
            ttl: 64,
            tos: self.tos,
            id,
            dont_fragment: false,
        };
        let ports = Udp { src_port: self.from.port(), dst_port: self.to.port() };
        let (head, csum) = udp::head(cx.link.router_mac(self.to.is_ipv6()), mac, &ip, &ports, len as usize);
        cx.act(Action::Emit(Emit { head, spans, csum: Some(csum), gso }));
    }
}

/// Emits what the host delivered in one piece: `data` holds datagrams of `segment` bytes each, the last may be shorter;
/// without `segment` it is one datagram. `next_id` is the identification to use next. The buffer stays the caller's.
pub fn emit(cx: &mut Cx<'_>, next_id: &mut u16, way: &Way, data: Span, segment: Option<u16>) {
    // What the length fields of UDP and IPv4 can say; IPv6 does not count its own header (RFC 8200 section 3).
    let longest = if way.to.is_ipv6() { 65_527 } else { 65_507 };
    let size = segment.filter(|s| *s > 0 && u32::from(*s) < data.len);
    let per_frame = match size.map(u32::from) {
        None => data.len,
        Some(s) if s + way.headers() <= u32::from(cx.net.mtu) => s * way.per_frame(s) as u32,
        Some(s) => s,
    };
    if per_frame > longest {
        return cx.drop(DropReason::Malformed);
    }
    let mut rest = data;
    loop {
        let part = rest.take(per_frame);
        rest = rest.skip(per_frame);
        let gso = match size {
            Some(size) if u32::from(size) < part.len => Gso::Udp { size },
            _ => Gso::None,
        };
        let mut spans = SpanVec::new();
        if !part.is_empty() {
            spans.push(part);
        }
        way.frame(cx, next_id, spans, part.len, gso);
        if rest.is_empty() {
            return;
        }
    }
}

/// Single datagrams held back until the end of the batch. Owns their buffers.
#[derive(Debug)]
pub struct Held {
    way: Way,
    size: u32,
    most: usize,
    /// A shorter datagram has ended the frame.
    ended: bool,
    spans: SpanVec,
}

impl Held {
    /// Begins with one datagram; gives it back when it cannot be joined with others: it is empty, or must be fragmented.
    pub fn new(cx: &Cx<'_>, way: Way, data: Span) -> Result<Self, Span> {
        if data.is_empty() || data.len + way.headers() > u32::from(cx.net.mtu) {
            return Err(data);
        }
        let most = way.per_frame(data.len);
        Ok(Self { way, size: data.len, most, ended: false, spans: SpanVec::from_slice(&[data]) })
    }

    /// Takes a datagram in, if it fits; gives it back if not.
    pub fn join(&mut self, way: &Way, data: Span) -> Result<(), Span> {
        let fits = !self.ended
            && self.way == *way
            && (1..=self.size).contains(&data.len)
            && self.spans.len() < self.most;
        if !fits {
            return Err(data);
        }
        self.ended = data.len < self.size;
        if self.spans.len() == self.spans.inline_size() {
            // It will be a long one: one allocation instead of four.
            self.spans.reserve(MAX_SEGMENTS);
        }
        self.spans.push(data);
        Ok(())
    }

    /// Emits the datagrams as one frame and lets their buffers go.
    pub fn emit(self, cx: &mut Cx<'_>, next_id: &mut u16) {
        let len = self.spans.iter().map(|s| s.len).sum();
        // A datagram that fits the MTU is below 65,536 bytes.
        let gso = match u16::try_from(self.size) {
            Ok(size) if self.spans.len() > 1 => Gso::Udp { size },
            _ => Gso::None,
        };
        let buffers: super::udp_join::Buffers = self.spans.iter().map(|s| s.buf).collect();
        self.way.frame(cx, next_id, self.spans, len, gso);
        for buf in buffers {
            cx.act(Action::Release(buf));
        }
    }
}
