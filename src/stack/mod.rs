//! The slirp stack: a sans-IO router and proxy between the guest's frames and the host's sockets.
//!
//! Theory of operation. The caller owns time, descriptors and memory. It calls, in any order:
//!
//! * *handle*: [`Stack::handle_frame`] for a frame from the guest, [`Stack::handle_host`] for what a host socket did,
//!   [`Stack::handle_timeout`] when [`Stack::poll_timeout`] has passed, [`Stack::end_batch`] after a batch of these;
//! * *poll*: [`Stack::poll_action`] until it says `None`, carrying out each [`Action`] in order.
//!
//! Guest TCP ends here and continues on a host socket ([`tcp`]); datagrams and echoes are mapped onto host sockets
//! ([`udp`], [`icmp`]); names are asked of the host's resolvers ([`dns`]); ARP, NDP and DHCP are answered from the
//! configuration. Payload is never looked at: only its [`Span`] travels.
//!
//! Limits: every table is bounded by [`Limits`]; beyond them new flows are refused and counted.

#![forbid(unsafe_code)]

pub mod action;
pub mod cx;
pub mod link;
pub mod tcp;

pub use action::{Action, Close, Datagrams, Emit, HostError, HostEvent, IcmpError, Open};
pub use cx::Cx;

use crate::buf::Span;
use crate::config::{Network, Resolvers};
use crate::flow::{FlowId, PlaneCounters, Time};
use crate::wire::Gso;
use std::collections::VecDeque;

/// Bounds on what one guest can make the stack hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows of all kinds, each of which costs a host descriptor.
    pub flows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 16_384 }
    }
}

/// What came with a frame besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMeta {
    /// Segmentation the guest left to us: a TCP super-frame needs none here; datagrams of a USO frame have this size.
    pub gso: Gso,
}

/// The stack of one guest.
pub struct Stack {
    net: Network,
    resolvers: Resolvers,
    limits: Limits,
    out: VecDeque<Action>,
    counters: PlaneCounters,
}

impl Stack {
    /// A stack for `net`. `secret` keys sequence numbers and hashes; it must be unpredictable to the guest.
    pub fn new(net: Network, resolvers: Resolvers, limits: Limits, secret: [u8; 32]) -> Self {
        let _ = secret;
        Self { net, resolvers, limits, out: VecDeque::new(), counters: PlaneCounters::default() }
    }

    /// A frame from the guest. `bytes` are those of `at`; its transport checksum is known to be right or partial. The
    /// buffer now belongs to the stack.
    pub fn handle_frame(&mut self, now: Time, meta: FrameMeta, bytes: &[u8], at: Span) {
        let _ = (now, meta, bytes);
        self.out.push_back(Action::Release(at.buf));
    }

    /// Something happened on a flow's host socket.
    pub fn handle_host(&mut self, now: Time, flow: FlowId, event: HostEvent) {
        let _ = (now, flow, event);
    }

    /// Time has passed; call it when [`Self::poll_timeout`] is due. Calling it early does nothing.
    pub fn handle_timeout(&mut self, now: Time) {
        let _ = now;
    }

    /// A batch of frames and events is over: what was held back to be joined (datagrams, acknowledgements) goes out.
    pub fn end_batch(&mut self, now: Time) {
        let _ = now;
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    /// When to call [`Self::handle_timeout`] next; `None` while nothing is pending.
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// The host's resolv.conf has changed.
    pub fn set_resolvers(&mut self, now: Time, resolvers: Resolvers) {
        let _ = now;
        self.resolvers = resolvers;
    }

    /// Whether the host has an IPv6 default route: router advertisements say so to the guest.
    pub fn set_host_v6(&mut self, now: Time, routable: bool) {
        let _ = (now, routable);
    }

    /// The bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The guest's network.
    pub fn network(&self) -> &Network {
        &self.net
    }

    /// Counters so far.
    pub fn counters(&self) -> &PlaneCounters {
        &self.counters
    }
}
