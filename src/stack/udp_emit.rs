//! Datagrams to the guest: headers in front of what the host delivered, as few frames as the tap can carry.
//!
//! Several datagrams of one size that fit the guest's MTU leave as USO super-frames of at most 64 datagrams and 65,535
//! bytes of L3. Longer than the MTU, each goes alone and the emitter fragments it: hence the identification, and don't
//! fragment is never set. An empty datagram is a frame without payload.

use super::Cx;
use super::action::{Action, Emit};
use super::udp_join::MAX_SEGMENTS;
use crate::buf::{Span, SpanVec};
use crate::flow::DropReason;
use crate::wire::ip::IpOut;
use crate::wire::{Gso, Udp, proto, udp};
use std::net::SocketAddr;

/// Datagrams from one remote to the guest.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// The sender as the guest knows it.
    pub from: SocketAddr,
    /// The guest's end.
    pub to: SocketAddr,
    /// All payload bytes. The buffer stays the caller's.
    pub data: Span,
    /// Bytes of each datagram but the last; `None`: there is one.
    pub segment: Option<u16>,
    /// Type of service or traffic class.
    pub tos: u8,
}

/// Emits the datagrams. `next_id` is the identification to use next.
pub fn emit(cx: &mut Cx<'_>, next_id: &mut u16, r: &Reply) {
    let Some(mac) = cx.neighbour(r.to.ip()) else { return };
    let headers: u32 = if r.to.is_ipv6() { 48 } else { 28 };
    // What the length fields of UDP and IPv4 can say; IPv6 does not count its own header (RFC 8200 section 3).
    let longest = if r.to.is_ipv6() { 65_527 } else { 65_507 };
    let size = r.segment.filter(|s| *s > 0 && u32::from(*s) < r.data.len);
    let per_frame = match size {
        None => r.data.len,
        Some(s) if u32::from(s) + headers <= u32::from(cx.net.mtu) => {
            let s = u32::from(s);
            s * ((65_535 - headers) / s).clamp(1, MAX_SEGMENTS as u32)
        }
        Some(s) => u32::from(s),
    };
    if per_frame > longest {
        return cx.drop(DropReason::Malformed);
    }
    let mut rest = r.data;
    loop {
        let part = rest.take(per_frame);
        rest = rest.skip(per_frame);
        let gso = match size {
            Some(size) if u32::from(size) < part.len => Gso::Udp { size },
            _ => Gso::None,
        };
        let id = *next_id;
        *next_id = id.checked_add(1).unwrap_or(1);
        let ip = IpOut {
            src: r.from.ip(),
            dst: r.to.ip(),
            protocol: proto::UDP,
            ttl: 64,
            tos: r.tos,
            id,
            dont_fragment: false,
        };
        let ports = Udp { src_port: r.from.port(), dst_port: r.to.port() };
        let (head, csum) = udp::head(cx.link.router_mac(r.to.is_ipv6()), mac, &ip, &ports, part.len as usize);
        let mut spans = SpanVec::new();
        if !part.is_empty() {
            spans.push(part);
        }
        cx.act(Action::Emit(Emit { head, spans, csum: Some(csum), gso }));
        if rest.is_empty() {
            return;
        }
    }
}
