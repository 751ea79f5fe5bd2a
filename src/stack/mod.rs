//! The slirp stack: a sans-IO router and proxy between the guest's frames and the host's sockets.
//!
//! Theory of operation. The caller owns time, descriptors and memory. It calls, in any order:
//!
//! * *handle*: [`Stack::handle_frame`] for a frame from the guest, [`Stack::handle_host`] for what a host socket did,
//!   [`Stack::handle_timeout`] when [`Stack::poll_timeout`] has passed, [`Stack::end_batch`] after a batch of these;
//! * *poll*: [`Stack::poll_action`] until it says `None`, carrying out each [`Action`] in order.
//!
//! Guest TCP ends here and continues on a host socket ([`tcp`]); datagrams and echoes are mapped onto host sockets
//! ([`udp`], [`echo`]); clients of published ports come in as packets ([`inbound`]); names are asked of the host's resolvers ([`dns`]); ARP, NDP and DHCP are answered from the
//! configuration; fragments are put together first ([`reassembly`]). [`dispatch`] decides which of these a frame is for.
//! Payload is never looked at: only its [`Span`] travels.
//!
//! Limits: every table is bounded by [`Limits`]; beyond them new flows are refused and counted.

#![forbid(unsafe_code)]

pub mod action;
mod arp;
pub mod cx;
mod dhcp4;
mod dhcp6;
mod dhcp_sieve;
mod dispatch;
pub mod dns;
pub mod echo;
mod gate;
mod icmp;
pub mod icmp_error;
pub mod inbound;
pub mod link;
mod mappings;
mod ndp;
mod noise;
mod ra;
pub mod reassembly;
mod remotes;
mod search;
mod sources;
pub mod tcp;
pub mod udp;
mod udp_emit;
mod udp_join;
mod waiting;
mod whose;

#[cfg(test)]
mod tests;

pub use action::{Action, Close, Datagrams, Emit, HostError, HostEvent, IcmpError, Intake, Open};
pub use cx::Cx;
pub use inbound::{Arrival, Door};
pub use whose::Ends;

use crate::buf::{DEFAULT_SLOTS, Span};
pub use crate::config::Limits;
use crate::config::{Network, Resolvers};
use crate::flow::{Bins, DropReason, FlowId, FlowInfo, Kind, Limit, PlaneCounters, Time};
use crate::nat::Policy;
use crate::wire::Gso;
use siphasher::sip::SipHasher13;
use std::collections::VecDeque;
use std::hash::Hasher;

/// What came with a frame besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMeta {
    /// Segmentation the guest left to us: a TCP super-frame needs none here; datagrams of a USO frame have this size.
    pub gso: Gso,
}

/// The stack of one guest.
pub struct Stack {
    net: Network,
    nat: Policy,
    resolvers: Resolvers,
    limits: Limits,
    link: link::Link,
    behind: sources::Behind,
    gate: gate::Gate,
    noise: noise::Noise,
    tcp: tcp::Engine,
    udp: udp::Engine,
    echo: echo::Engine,
    dns: dns::Engine,
    inbound: inbound::Engine,
    stream_ports: inbound::Ports,
    fragments: reassembly::Store,
    dhcp4: dhcp4::Server,
    ra: ra::Advertiser,
    errors: icmp_error::Errors,
    out: VecDeque<Action>,
    counters: PlaneCounters,
    /// Sizes of the frames from the guest and to it.
    sizes: [Bins; 2],
}

/// The context for an engine, borrowed from the stack's other fields.
macro_rules! context {
    ($stack:expr, $now:expr) => {
        $crate::stack::Cx {
            now: $now,
            net: &$stack.net,
            nat: &$stack.nat,
            link: &$stack.link,
            gate: &mut $stack.gate,
            out: &mut $stack.out,
            counters: &mut $stack.counters,
        }
    };
}
use context;

impl Stack {
    /// A stack for `net`. `secret` keys sequence numbers and hashes; it must be unpredictable to the guest.
    pub fn new(net: Network, resolvers: Resolvers, limits: Limits, secret: [u8; 32]) -> Self {
        let mut tcp = tcp::Engine::new(derive(&secret, b"tcp"), limits.flows);
        tcp.set_limits(tcp::TcpLimits::of(&limits, DEFAULT_SLOTS));
        tcp.set_resolvers(resolvers.servers.clone());
        Self {
            nat: Policy::new(net.clone()),
            link: link::Link::new(&net),
            behind: sources::Behind::default(),
            gate: gate::Gate::of(&limits),
            noise: noise::Noise::default(),
            tcp,
            udp: udp::Engine::default(),
            echo: echo::Engine::default(),
            dns: dns::Engine::new(resolvers.servers.clone()),
            inbound: inbound::Engine::default(),
            stream_ports: inbound::Ports::default(),
            fragments: reassembly::Store::default(),
            dhcp4: dhcp4::Server::new(&net),
            ra: ra::Advertiser::new(derive(&secret, b"ra")),
            errors: icmp_error::Errors::default(),
            out: VecDeque::new(),
            counters: PlaneCounters::default(),
            sizes: <[Bins; 2]>::default(),
            net,
            resolvers,
            limits,
        }
    }

    /// A frame from the guest. `bytes` are those of `at`; its transport checksum is known to be right or partial. The
    /// buffer now belongs to the stack.
    pub fn handle_frame(&mut self, now: Time, meta: FrameMeta, bytes: &[u8], at: Span) {
        self.counters.frames_from_guest += 1;
        self.counters.bytes_from_guest += bytes.len() as u64;
        self.sizes[0].record(bytes.len() as u64);
        let dropped = self.counters.dropped_in_all();
        self.handle_whole(now, meta, bytes, at);
        if self.counters.dropped_in_all() != dropped {
            self.noise.heard(now);
        }
    }

    /// Until when the tap should not be read, because too many frames have led to nothing; each call that says so is counted.
    /// `None` if it may be.
    pub fn tap_rest(&mut self, now: Time) -> Option<Time> {
        let until = self.noise.rest(now);
        if until.is_some() {
            self.counters.limit(Limit::Fruitless);
        }
        until
    }

    /// A packet of the guest's whose fragments were handed in as frames before: it is not counted again.
    pub fn handle_whole(&mut self, now: Time, meta: FrameMeta, bytes: &[u8], at: Span) {
        if !self.dispatch(now, meta, bytes, at) {
            self.out.push_back(Action::Release(at.buf));
        }
    }

    /// Something happened on a flow's host socket.
    pub fn handle_host(&mut self, now: Time, flow: FlowId, event: HostEvent) {
        let mut cx = context!(self, now);
        match flow.kind() {
            Kind::Tcp => self.tcp.host(&mut cx, flow, event),
            Kind::Udp => self.udp.host(&mut cx, &mut self.errors, flow, &event),
            Kind::Ping => self.echo.host(&mut cx, &mut self.errors, flow, &event),
            Kind::Dns => self.dns.host(&mut cx, &mut self.errors, flow, &event),
            // These have no socket of their own to hear from.
            Kind::Inbound => release_of(&mut cx, &event),
            // No flow of the stack's.
            Kind::Relay => {}
        }
    }

    /// Time has passed; call it when [`Self::poll_timeout`] is due. Calling it early does nothing.
    pub fn handle_timeout(&mut self, now: Time) {
        let mut cx = context!(self, now);
        self.tcp.timeout(&mut cx);
        self.udp.timeout(&mut cx);
        self.echo.timeout(&mut cx);
        self.dns.timeout(&mut cx);
        self.inbound.timeout(&mut cx);
        self.fragments.timeout(&mut cx);
        self.ra.timeout(&mut cx, &self.resolvers.search);
    }

    /// A batch of frames and events is over: what was held back to be joined (datagrams, acknowledgements) goes out.
    pub fn end_batch(&mut self, now: Time) {
        let mut cx = context!(self, now);
        self.udp.end_batch(&mut cx);
        self.inbound.end_batch(&mut cx);
        self.tcp.end_batch(&mut cx);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.out.pop_front()?;
        let bytes = match &action {
            Action::Emit(e) => e.head.len() + e.payload_len(),
            Action::EmitBytes(b) => b.len(),
            _ => return Some(action),
        };
        self.counters.frames_to_guest += 1;
        self.counters.bytes_to_guest += bytes as u64;
        self.sizes[1].record(bytes as u64);
        Some(action)
    }

    /// When to call [`Self::handle_timeout`] next; `None` while nothing is pending.
    pub fn poll_timeout(&self) -> Option<Time> {
        [
            self.tcp.next_deadline(),
            self.udp.mappings().next_deadline(),
            self.echo.mappings().next_deadline(),
            self.dns.next_deadline(),
            self.inbound.next_deadline(),
            self.fragments.next_deadline(),
            self.ra.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The host's resolv.conf has changed.
    pub fn set_resolvers(&mut self, _now: Time, resolvers: Resolvers) {
        self.dns.set_servers(resolvers.servers.clone());
        self.tcp.set_resolvers(resolvers.servers.clone());
        self.resolvers = resolvers;
    }

    /// Whether the host has an IPv6 default route: router advertisements say so to the guest.
    pub fn set_host_v6(&mut self, now: Time, routable: bool) {
        let mut cx = context!(self, now);
        self.ra.set_routable(&mut cx, &self.resolvers.search, routable);
    }

    /// The live flows of a kind in slots from `index` on ([`FlowId::index`]), for pages of a listing.
    pub fn flows_from(&self, kind: Kind, index: usize) -> Box<dyn Iterator<Item = FlowInfo> + '_> {
        match kind {
            Kind::Tcp => Box::new(self.tcp.flows_from(index)),
            Kind::Udp => Box::new(self.udp.mappings().flows_from(index)),
            Kind::Ping => Box::new(self.echo.mappings().flows_from(index)),
            Kind::Dns => Box::new(self.dns.flows_from(index)),
            Kind::Inbound => Box::new(self.inbound.flows_from(index)),
            Kind::Relay => Box::new(std::iter::empty()),
        }
    }

    /// How many flows of a kind are alive.
    pub fn live(&self, kind: Kind) -> usize {
        match kind {
            Kind::Tcp => self.tcp.len(),
            Kind::Udp => self.udp.mappings().len(),
            Kind::Ping => self.echo.mappings().len(),
            Kind::Dns => self.dns.live(),
            Kind::Inbound => self.inbound.live(),
            Kind::Relay => 0,
        }
    }

    /// Sizes of the frames so far: from the guest, and to it.
    pub fn frame_sizes(&self) -> &[Bins; 2] {
        &self.sizes
    }

    /// How long questions at the DNS address took, in microseconds.
    pub fn dns_times(&self) -> &Bins {
        self.dns.times()
    }

    /// Every live flow, for queries; never for the hot path.
    pub fn flows(&self) -> impl Iterator<Item = FlowInfo> + '_ {
        let datagrams = self.udp.mappings().flows().chain(self.echo.mappings().flows());
        self.tcp.flows().chain(datagrams).chain(self.dns.flows()).chain(self.inbound.flows())
    }

    /// One flow, if it is alive.
    pub fn flow(&self, id: FlowId) -> Option<FlowInfo> {
        match id.kind() {
            Kind::Tcp => self.tcp.flow(id),
            Kind::Udp => self.udp.mappings().flow(id),
            Kind::Ping => self.echo.mappings().flow(id),
            Kind::Dns => self.dns.flow(id),
            Kind::Inbound => self.inbound.flow(id),
            Kind::Relay => None,
        }
    }

    /// The bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The guest's network.
    pub fn network(&self) -> &Network {
        &self.net
    }

    /// Translation and policy.
    pub fn policy(&self) -> &Policy {
        &self.nat
    }

    /// Counts a client of a relay that the guest sees as the gateway ([`crate::nat::Shown::Instead`]).
    pub fn count_shown_as_gateway(&mut self) {
        self.counters.shown_as_gateway += 1;
    }

    /// A frame of the guest's that the caller dropped: the stack would have nothing of it.
    pub fn refuse_frame(&mut self, now: Time, why: DropReason) {
        self.counters.drop(why);
        self.noise.heard(now);
    }

    /// Counts a drop that the caller made before a frame or datagram could become the stack's.
    pub fn count_drop(&mut self, why: DropReason) {
        self.counters.drop(why);
    }

    /// How many buffers the arena has, in the order tap, host, small: what connections may hold follows from it. The
    /// default is [`crate::buf::DEFAULT_SLOTS`].
    pub fn set_buffers(&mut self, slots: [u32; 3]) {
        self.tcp.set_limits(tcp::TcpLimits::of(&self.limits, slots));
    }

    /// Counters so far.
    pub fn counters(&self) -> &PlaneCounters {
        &self.counters
    }
}

/// A key of its own for each user of the secret.
fn derive(secret: &[u8; 32], user: &[u8]) -> [u8; 16] {
    let (mut half, mut key) = ([0; 16], [0; 16]);
    half.copy_from_slice(&secret[..16]);
    for (i, part) in key.chunks_exact_mut(8).enumerate() {
        let mut h = SipHasher13::new_with_key(&half);
        h.write(&secret[16..]);
        h.write(user);
        h.write_u8(i as u8);
        part.copy_from_slice(&h.finish().to_le_bytes());
    }
    key
}

/// Lets go of the buffer of an event that its engine has no use for.
fn release_of(cx: &mut Cx<'_>, event: &HostEvent) {
    match event {
        HostEvent::Received(data) | HostEvent::Datagrams { data, .. } | HostEvent::EchoReply { data, .. } => {
            cx.act(Action::Release(data.buf))
        }
        _ => {}
    }
}
