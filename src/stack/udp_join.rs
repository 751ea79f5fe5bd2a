//! Joining datagrams: equal-size datagrams of one mapping to one destination leave as one segmented send.
//!
//! What may be joined is [`crate::buf::join`]'s to say; here a group also has one destination and one marking, and
//! another of either sends the group off first. Order within the mapping is kept.
//!
//! Ownership: the group owns the buffers of its spans and releases them right behind the send.

use super::Cx;
use super::action::{Action, Datagrams};
use crate::buf::join::{Run, pieces};
use crate::buf::{BufId, Span, SpanVec};
use crate::flow::FlowId;
use arrayvec::ArrayVec;
use smallvec::SmallVec;
use std::net::SocketAddr;

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
    run: Run,
}

impl Group {
    /// A group of one.
    pub fn new(out: Out, payload: Span) -> Self {
        Self { out, run: Run::new(payload, None) }
    }

    /// Takes a datagram in, if it fits; gives it back if not.
    pub fn join(&mut self, out: &Out, payload: Span) -> Result<(), Span> {
        if self.out == *out { self.run.join(payload, None) } else { Err(payload) }
    }

    /// Sends the group out of a flow's socket and lets its buffers go.
    pub fn send(self, cx: &mut Cx<'_>, flow: FlowId) {
        self.send_as(cx, |data| Action::SendDatagrams(flow, data));
    }

    /// Sends the group by the action that `leave` makes and lets its buffers go.
    pub fn send_as(self, cx: &mut Cx<'_>, leave: impl FnOnce(Datagrams) -> Action) {
        let buffers: Buffers = self.run.spans().iter().map(|s| s.buf).collect();
        let segment = self.run.segment();
        cx.act(leave(self.out.datagrams(self.run.into_spans(), segment)));
        for buf in buffers {
            cx.act(Action::Release(buf));
        }
    }
}

/// Sends one super-frame of datagrams of `size` bytes each, in as few sends as the kernel's limits allow, each by the
/// action that `leave` makes, and lets its buffer go.
pub fn send_super(cx: &mut Cx<'_>, leave: impl Fn(Datagrams) -> Action, out: &Out, payload: Span, size: u16) {
    for part in pieces(payload, size) {
        let segment = (part.len > u32::from(size)).then_some(size);
        cx.act(leave(out.datagrams(SpanVec::from_slice(&[part]), segment)));
    }
    cx.act(Action::Release(payload.buf));
}
