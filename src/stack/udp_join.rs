//! Joining datagrams: equal-size datagrams of one mapping to one destination leave as one segmented send.
//!
//! Ordinary senders hand over one datagram per frame; a send costs the host several times what the datagram does, so
//! those that come in one batch are held until its end and go out as one `UDP_SEGMENT` send (DESIGN.md, section 4). The
//! kernel cuts such a send into pieces of one size, the last of which may be shorter: so a shorter datagram may end a
//! group, and anything else (another destination, another marking, a longer or an empty datagram, a full group) sends
//! the group off first. Order within the mapping is kept.
//!
//! Ownership: the group owns the buffers of its spans and releases them right behind the send.

use super::Cx;
use super::action::{Action, Datagrams};
use crate::buf::{BufId, Span, SpanVec};
use crate::flow::FlowId;
use arrayvec::ArrayVec;
use smallvec::SmallVec;
use std::net::SocketAddr;

/// Datagrams of one segmented send (`UDP_MAX_SEGMENTS` of Linux 6.1).
pub const MAX_SEGMENTS: usize = 64;
/// Payload bytes of one send: what an IPv4 datagram can hold.
pub const MAX_TOTAL: usize = 65_507;
/// Datagrams longer than this go alone: the kernel refuses to segment what does not fit the path's MTU, and 1500 is what
/// nearly every path has at most.
const MAX_SIZE: usize = 1472;

/// The buffers of a group, to release behind its send.
pub type Buffers = SmallVec<[BufId; 8]>;

/// How a datagram is to leave. Only those that agree in everything are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    /// The destination, after translation.
    pub to: SocketAddr,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Don't fragment.
    pub dont_fragment: bool,
}

impl Out {
    /// A send of `spans` that leave this way.
    pub fn datagrams(&self, spans: SpanVec, segment: Option<u16>) -> Datagrams {
        Datagrams {
            to: self.to,
            head: ArrayVec::new(),
            spans,
            segment,
            ttl: self.ttl,
            tos: self.tos,
            dont_fragment: self.dont_fragment,
        }
    }
}

/// Datagrams held back.
#[derive(Debug)]
pub struct Group {
    out: Out,
    size: u32,
    total: usize,
    /// A shorter datagram has ended the group.
    ended: bool,
    spans: SpanVec,
}

impl Group {
    /// A group of one.
    pub fn new(out: Out, payload: Span) -> Self {
        Self {
            out,
            size: payload.len,
            total: payload.len as usize,
            ended: payload.is_empty() || payload.len as usize > MAX_SIZE,
            spans: SpanVec::from_slice(&[payload]),
        }
    }

    /// Takes a datagram in, if it fits; gives it back if not.
    pub fn join(&mut self, out: &Out, payload: Span) -> Result<(), Span> {
        let fits = !self.ended
            && self.out == *out
            && (1..=self.size).contains(&payload.len)
            && self.spans.len() < MAX_SEGMENTS
            && self.total + payload.len as usize <= MAX_TOTAL;
        if !fits {
            return Err(payload);
        }
        self.ended = payload.len < self.size;
        self.total += payload.len as usize;
        if self.spans.len() == self.spans.inline_size() {
            // It will be a long group: one allocation instead of four.
            self.spans.reserve(MAX_SEGMENTS);
        }
        self.spans.push(payload);
        Ok(())
    }

    /// Sends the group and lets its buffers go.
    pub fn send(self, cx: &mut Cx<'_>, flow: FlowId) {
        let buffers: Buffers = self.spans.iter().map(|s| s.buf).collect();
        // Lengths of a group of two or more are at most MAX_SIZE.
        let segment = if self.spans.len() > 1 { u16::try_from(self.size).ok() } else { None };
        cx.act(Action::SendDatagrams(flow, self.out.datagrams(self.spans, segment)));
        for buf in buffers {
            cx.act(Action::Release(buf));
        }
    }
}

/// Sends one super-frame of datagrams of `size` bytes each, in as few sends as the kernel's limits allow, and lets its
/// buffer go.
pub fn send_super(cx: &mut Cx<'_>, flow: FlowId, out: &Out, payload: Span, size: u16) {
    let step =
        u32::try_from((MAX_TOTAL / usize::from(size)).clamp(1, MAX_SEGMENTS)).unwrap_or(1) * u32::from(size);
    let mut rest = payload;
    while !rest.is_empty() {
        let part = rest.take(step);
        rest = rest.skip(step);
        let segment = (part.len > u32::from(size)).then_some(size);
        cx.act(Action::SendDatagrams(flow, out.datagrams(SpanVec::from_slice(&[part]), segment)));
    }
    cx.act(Action::Release(payload.buf));
}
