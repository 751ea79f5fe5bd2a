//! Echo through the host's ping sockets: one socket per guest address and identifier, so that `ping` keeps one however
//! many requests it sends.
//!
//! The host's kernel puts an identifier of its own into each request and gives us only the replies to it; the guest's is
//! restored on the way back, the sequence number travels unchanged. Time to live is passed on less one, and the errors
//! that this causes come back with the sequence number of the request they are about: `ping -t` and `traceroute -I`
//! work. A mapping ends after 60 s without traffic. Requests to our own addresses are answered on the spot.

use super::Cx;
use super::action::{Action, Datagrams, Emit, HostEvent, Open};
use super::icmp_error::{self, Errors, Quote};
use super::mappings::Mappings;
use crate::buf::{Span, SpanVec};
use crate::flow::{DropReason, FlowId, Kind};
use crate::wire::icmp::{self, Echo};
use crate::wire::ip::IpOut;
use crate::wire::{Gso, Ip};
use arrayvec::ArrayVec;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A mapping without traffic ends after this.
pub const IDLE: Duration = Duration::from_secs(60);

/// An echo request from the guest.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Who asks.
    pub guest: IpAddr,
    /// The destination as dialled.
    pub dialled: IpAddr,
    /// The destination on the host's side.
    pub to: IpAddr,
    /// Identifier.
    pub id: u16,
    /// Sequence number.
    pub seq: u16,
    /// The bytes after the eight of the header.
    pub payload: Span,
    /// Time to live to send with.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Don't fragment.
    pub dont_fragment: bool,
}

impl Request {
    /// The request in `message`, the ICMP message's span, its destination translated to `to`.
    pub fn new(ip: &Ip, to: IpAddr, (id, seq): (u16, u16), ttl: u8, message: Span) -> Self {
        Self {
            guest: ip.src,
            dialled: ip.dst,
            to,
            id,
            seq,
            payload: message.skip(icmp::HEADER_LEN as u32),
            ttl,
            tos: ip.tos,
            dont_fragment: ip.dont_fragment,
        }
    }
}

/// All echo mappings of one guest.
pub struct Engine {
    mappings: Mappings<()>,
    next_id: u16,
}

impl Default for Engine {
    fn default() -> Self {
        Self { mappings: Mappings::new(Kind::Ping), next_id: 1 }
    }
}

impl Engine {
    /// A request from the guest; its buffer belongs to the engine. `room` says whether a new mapping may be made.
    pub fn request(&mut self, cx: &mut Cx<'_>, r: &Request, room: bool) {
        let guest = SocketAddr::new(r.guest, r.id);
        let flow = match self.mappings.find(guest) {
            None if cx.may_open(room) => {
                let socket = Open::Ping { sample: r.to, bind: cx.net.outbound.for_dest(r.to) };
                Some(self.mappings.open(cx, guest, IDLE, socket, ()))
            }
            found => found,
        };
        let Some((flow, m)) = flow.and_then(|flow| Some((flow, self.mappings.get_mut(flow)?))) else {
            cx.act(Action::Release(r.payload.buf));
            return;
        };
        let to = SocketAddr::new(r.to, 0);
        m.sent(cx.now, IDLE, to, SocketAddr::new(r.dialled, 0), r.payload.len);
        let echo = Echo { reply: false, id: r.id, seq: r.seq };
        cx.act(Action::SendDatagrams(
            flow,
            Datagrams {
                to,
                head: ArrayVec::from(echo.header(r.guest.is_ipv6())),
                spans: SpanVec::from_slice(&[r.payload]),
                segment: None,
                ttl: r.ttl,
                tos: r.tos,
                dont_fragment: r.dont_fragment,
            },
        ));
        cx.act(Action::Release(r.payload.buf));
    }

    /// Answers a request to one of our own addresses. The payload is lent, not copied; its buffer stays the caller's.
    pub fn answer(&mut self, cx: &mut Cx<'_>, r: &Request) {
        let echo = Echo { reply: true, id: r.id, seq: r.seq };
        self.emit(cx, (r.dialled, r.guest), &echo, (r.ttl, r.tos), r.payload);
    }

    /// A reply to the guest. Longer ones than its link takes are fragmented on the way out.
    fn emit(
        &mut self,
        cx: &mut Cx<'_>,
        (src, dst): (IpAddr, IpAddr),
        echo: &Echo,
        (ttl, tos): (u8, u8),
        data: Span,
    ) {
        let Some(mac) = cx.neighbour(dst) else { return };
        let ip = IpOut { src, dst, protocol: 0, ttl, tos, id: self.next_id, dont_fragment: false };
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        let own = cx.link.router_mac(dst.is_ipv6());
        let (head, csum) = icmp::echo_head(own, mac, &ip, echo, data.len as usize);
        let mut spans = SpanVec::new();
        if !data.is_empty() {
            spans.push(data);
        }
        cx.act(Action::Emit(Emit { head, spans, csum: Some(csum), gso: Gso::None }));
    }

    /// Something happened on a mapping's socket.
    pub fn host(&mut self, cx: &mut Cx<'_>, errors: &mut Errors, flow: FlowId, event: &HostEvent) {
        match *event {
            HostEvent::EchoReply { from, seq, data, ttl } => {
                self.reply(cx, flow, from, seq, data, ttl);
                cx.act(Action::Release(data.buf));
            }
            HostEvent::DatagramsFailed { to, error } => match icmp_error::fault_of(error) {
                Ok(fault) => {
                    if let Some(quote) = self.quote(flow, to, 0) {
                        errors.report(cx, None, &quote, fault);
                    }
                }
                Err(why) => cx.drop(why),
            },
            HostEvent::Icmp(e) => {
                match (self.quote(flow, e.to, e.echo_seq), icmp_error::relayed(e.to.is_ipv6(), &e)) {
                    (Some(quote), Some(fault)) => errors.report(cx, e.offender, &quote, fault),
                    _ => cx.drop(DropReason::Unsupported),
                }
            }
            // No ping socket could be made: net.ipv4.ping_group_range does not include us.
            HostEvent::ConnectFailed(_) | HostEvent::ReceiveFailed(_) => {
                cx.drop(DropReason::HostRefused);
                self.mappings.close(cx, flow);
            }
            ref other => super::release_of(cx, other),
        }
    }

    fn quote(&self, flow: FlowId, to: SocketAddr, seq: u16) -> Option<Quote> {
        let m = self.mappings.get(flow)?;
        let dialled = m.remotes.dialled(SocketAddr::new(to.ip(), 0))?.ip();
        Some(Quote::Echo { from: m.guest.ip(), to: dialled, id: m.guest.port(), seq })
    }

    fn reply(&mut self, cx: &mut Cx<'_>, flow: FlowId, from: IpAddr, seq: u16, data: Span, ttl: u8) {
        let Some(m) = self.mappings.get_mut(flow) else { return };
        let Some(source) = m.admit(cx, SocketAddr::new(from, 0)) else { return };
        m.arrived(cx, IDLE, data.len);
        let (guest, echo) = (m.guest.ip(), Echo { reply: true, id: m.guest.port(), seq });
        // One hop less than it arrived with, as from any router.
        self.emit(cx, (source.ip(), guest), &echo, (ttl.saturating_sub(1).max(1), 0), data);
    }

    /// Time has passed.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        while let Some(flow) = self.mappings.expired(cx.now) {
            self.mappings.close(cx, flow);
        }
    }

    /// The mappings. The port of a guest's end is the identifier.
    pub fn mappings(&self) -> &Mappings<()> {
        &self.mappings
    }
}
