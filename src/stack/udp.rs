//! UDP mappings: one unconnected host socket per guest address and port, any number of destinations.
//!
//! Theory of operation. The first datagram from a guest address and port opens a host socket (endpoint-independent
//! mapping, RFC 4787); every further one goes out of the same. [`super::udp_join`] holds datagrams back until the end
//! of the batch to send equal ones together. What comes back is filtered by address (RFC 4787 section 5) where the
//! network says so, gets the source address that the guest dialled ([`super::mappings`]), and leaves as a USO
//! super-frame together with others of one sender that came in the same batch ([`super::udp_emit`]).
//!
//! A mapping lives 240 s after its last datagram in either direction, and 10 s after an answer when it has only ever
//! spoken to port 53 (`facts/slirp4netns.md`, section 4.2). Limits: mappings by [`super::Limits`], remotes per mapping by
//! [`super::remotes::MAX`].

use super::Cx;
use super::action::{Action, HostEvent, Open};
use super::icmp_error::{self, Errors, Quote};
use super::mappings::Mappings;
use super::udp_emit::{Held, Way, emit};
use super::udp_join::{Group, Out, send_super};
use crate::buf::Span;
use crate::flow::{DropReason, FlowId, Kind};
use crate::wire::Gso;
use std::net::SocketAddr;
use std::time::Duration;

/// A mapping without traffic ends after this (RFC 4787 REQ-5 asks for at least two minutes).
pub const IDLE: Duration = Duration::from_secs(240);
/// A mapping that has only spoken to port 53 ends this long after an answer.
pub const IDLE_DNS: Duration = Duration::from_secs(10);

/// A datagram, or a super-frame of them, from the guest, its destination translated.
#[derive(Clone, Copy, Debug)]
pub struct FromGuest {
    /// Who sends.
    pub guest: SocketAddr,
    /// The destination as dialled.
    pub dialled: SocketAddr,
    /// How it leaves.
    pub out: Out,
    /// Its bytes.
    pub payload: Span,
    /// Segmentation the guest left to us.
    pub gso: Gso,
}

/// What a UDP mapping holds besides.
pub struct More {
    only_dns: bool,
    /// Datagrams from the guest, held back.
    held: Option<Group>,
    /// Datagrams to the guest, held back.
    replies: Option<Held>,
}

/// All UDP mappings of one guest.
pub struct Engine {
    mappings: Mappings<More>,
    /// Mappings with datagrams of the guest held back, in the order in which they began to.
    holding: Vec<FlowId>,
    /// The same for datagrams to the guest.
    replying: Vec<FlowId>,
    /// IPv4 identification of the next datagram to the guest; never 0, for it may be fragmented.
    next_id: u16,
}

impl Default for Engine {
    fn default() -> Self {
        Self { mappings: Mappings::new(Kind::Udp), holding: Vec::new(), replying: Vec::new(), next_id: 1 }
    }
}

impl Engine {
    /// A datagram from the guest; its buffer belongs to the engine. `room` says whether a new mapping may be made.
    pub fn send(&mut self, cx: &mut Cx<'_>, d: &FromGuest, room: bool) {
        let id = match self.mappings.find(d.guest) {
            Some(id) => id,
            None if cx.may_open(room) => self.open(cx, d),
            None => {
                cx.act(Action::Release(d.payload.buf));
                return;
            }
        };
        let Some(m) = self.mappings.get_mut(id) else {
            cx.act(Action::Release(d.payload.buf));
            return;
        };
        if m.tries_another(d.out.to, d.dialled) && !cx.may_try() {
            cx.act(Action::Release(d.payload.buf));
            return;
        }
        m.sent(cx.now, IDLE, d.out.to, d.dialled, d.payload.len);
        let m = &mut m.more;
        m.only_dns &= d.dialled.port() == 53;
        match d.gso {
            Gso::Udp { size } if size > 0 && u32::from(size) < d.payload.len => {
                if let Some(group) = m.held.take() {
                    group.send(cx, id);
                }
                send_super(cx, |data| Action::SendDatagrams(id, data), &d.out, d.payload, size);
            }
            _ => {
                let alone = match &mut m.held {
                    Some(group) => group.join(&d.out, d.payload).err(),
                    None => {
                        self.holding.push(id);
                        Some(d.payload)
                    }
                };
                if let Some(payload) = alone
                    && let Some(full) = m.held.replace(Group::new(d.out, payload))
                {
                    full.send(cx, id);
                }
            }
        }
    }

    fn open(&mut self, cx: &mut Cx<'_>, d: &FromGuest) -> FlowId {
        let bind = cx.net.outbound.for_dest(d.out.to.ip()).filter(|_| !d.out.to.ip().is_loopback());
        let socket = Open::Udp { sample: d.out.to, bind };
        self.mappings.open(cx, d.guest, IDLE, socket, More { only_dns: true, held: None, replies: None })
    }

    /// The batch is over: what was held back goes out.
    pub fn end_batch(&mut self, cx: &mut Cx<'_>) {
        for id in self.holding.drain(..) {
            if let Some(group) = self.mappings.get_mut(id).and_then(|m| m.more.held.take()) {
                group.send(cx, id);
            }
        }
        for id in self.replying.drain(..) {
            if let Some(held) = self.mappings.get_mut(id).and_then(|m| m.more.replies.take()) {
                held.emit(cx, &mut self.next_id);
            }
        }
    }

    /// Something happened on a mapping's socket.
    pub fn host(&mut self, cx: &mut Cx<'_>, errors: &mut Errors, id: FlowId, event: &HostEvent) {
        match *event {
            HostEvent::Datagrams { from, data, segment, tos } => {
                self.deliver(cx, id, from, data, segment, tos);
            }
            HostEvent::DatagramsFailed { to, error } => match icmp_error::fault_of(error) {
                Ok(fault) => {
                    if let Some(quote) = self.quote(id, to) {
                        errors.report(cx, None, &quote, fault);
                    }
                }
                Err(why) => cx.drop(why),
            },
            HostEvent::Icmp(e) => match (self.quote(id, e.to), icmp_error::relayed(e.to.is_ipv6(), &e)) {
                (Some(quote), Some(fault)) => errors.report(cx, e.offender, &quote, fault),
                _ => cx.drop(DropReason::Unsupported),
            },
            // No socket could be made: the mapping is of no use.
            HostEvent::ConnectFailed(_) | HostEvent::ReceiveFailed(_) => {
                cx.drop(DropReason::HostRefused);
                self.close(cx, id);
            }
            ref other => super::release_of(cx, other),
        }
    }

    fn quote(&self, id: FlowId, to: SocketAddr) -> Option<Quote> {
        let m = self.mappings.get(id)?;
        Some(Quote::Udp(m.guest, m.remotes.dialled(to)?))
    }

    fn deliver(
        &mut self,
        cx: &mut Cx<'_>,
        id: FlowId,
        from: SocketAddr,
        data: Span,
        segment: Option<u16>,
        tos: u8,
    ) {
        let Some(m) = self.mappings.get_mut(id) else { return cx.act(Action::Release(data.buf)) };
        let Some(source) = m.admit(cx, from) else { return cx.act(Action::Release(data.buf)) };
        let way = Way { from: source, to: m.guest, tos };
        if m.more.only_dns {
            // The shorter life must be armed at once; a longer one is found when the timer fires.
            m.arrived(cx, IDLE_DNS, data.len);
            self.mappings.rearm(id);
        } else {
            m.arrived(cx, IDLE, data.len);
        }
        self.reply(cx, id, way, data, segment);
    }

    /// Emits datagrams to the guest, or holds a single one back until the batch is over.
    fn reply(&mut self, cx: &mut Cx<'_>, id: FlowId, way: Way, data: Span, segment: Option<u16>) {
        let Some(m) = self.mappings.get_mut(id) else { return cx.act(Action::Release(data.buf)) };
        let replies = &mut m.more.replies;
        let alone = match replies {
            Some(held) if segment.is_none() => held.join(&way, data).err(),
            _ => Some(data),
        };
        let Some(data) = alone else { return };
        let listed = replies.is_some();
        if let Some(full) = replies.take() {
            full.emit(cx, &mut self.next_id);
        }
        let begun = if segment.is_none() { Held::new(cx, way, data) } else { Err(data) };
        match begun {
            Ok(held) => {
                *replies = Some(held);
                if !listed {
                    self.replying.push(id);
                }
            }
            Err(data) => {
                emit(cx, &mut self.next_id, &way, data, segment);
                cx.act(Action::Release(data.buf));
            }
        }
    }

    /// Time has passed.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        while let Some(id) = self.mappings.expired(cx.now) {
            self.close(cx, id);
        }
    }

    fn close(&mut self, cx: &mut Cx<'_>, id: FlowId) {
        if let Some(group) = self.mappings.get_mut(id).and_then(|m| m.more.held.take()) {
            group.send(cx, id);
        }
        if let Some(held) = self.mappings.get_mut(id).and_then(|m| m.more.replies.take()) {
            held.emit(cx, &mut self.next_id);
        }
        self.mappings.close(cx, id);
    }

    /// The mappings.
    pub fn mappings(&self) -> &Mappings<More> {
        &self.mappings
    }
}
