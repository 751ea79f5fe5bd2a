//! Published ports that lead through the tap: connections and datagrams enter the guest as packets.
//!
//! Theory of operation. The guest sees the client as [`crate::nat::Policy::shown`] says, by the client's own port where
//! that is free. What stands for the gateway, or meets a tuple that is taken (one client port that reaches two published
//! ports with one target), gets a port of the gateway's that is free, so that no two clients are ever one to the guest.
//!
//! *Streams* are dialled by [`super::tcp::Engine::connect`]; the accepted socket is the connection's host socket from
//! the start. *Datagrams* have no host socket of their own: a published one is shared by all its clients. A flow is
//! known by the published socket ([`Door`]), the client and the address of ours that the client used on one side, and by
//! the guest's end and the end shown to it on the other. A datagram from the guest to exactly such an end is an answer
//! and leaves through the door, from the address that the client used; whatever else the guest sends from the same port
//! keeps its ordinary mapping ([`super::udp`]).
//!
//! A flow lives for [`IDLE`] after its last datagram in either direction, or for [`IDLE_UNANSWERED`] while the guest has
//! not answered. It ends when the guest's kernel says that nobody listens. Limits: [`MAX_FLOWS`]; beyond them the
//! unanswered flow that began first makes room, for anybody can send with any source address.

use super::action::{Action, IcmpError};
use super::icmp_error::{self, Errors, Quote};
use super::udp_emit::{Way, emit};
use super::udp_join::{Group, Out, send_super};
use super::waiting::Waiting;
use super::{Cx, Stack, context};
use crate::buf::Span;
use crate::config::SourceIp;
use crate::flow::wheel::Token;
use crate::flow::{DropReason, FlowCounters, FlowId, FlowInfo, Kind, Limit, Table, Time, Wheel};
use crate::nat::Shown;
use crate::wire::Gso;
use crate::wire::icmp::Quoted;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A flow that both sides have used ends this long after its last datagram (RFC 4787 REQ-5 asks for two minutes).
pub const IDLE: Duration = Duration::from_secs(240);
/// A flow that the guest has never answered ends this long after the client's last datagram (as Linux's conntrack).
pub const IDLE_UNANSWERED: Duration = Duration::from_secs(30);
/// Flows of datagrams at once. They cost no descriptor and some 300 bytes each.
pub const MAX_FLOWS: usize = 16_384;
/// Ports of the gateway that are tried for one client.
const TRIES: u16 = 2048;
/// First port that stands for a client whose own is taken: above those that Linux takes for privileged.
const FIRST_PORT: u16 = 1024;

/// Names a published datagram socket; the caller's number, never used for another one while flows of it live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Door(pub u32);

/// Datagrams that arrived on a published socket.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Which socket.
    pub door: Door,
    /// The sender.
    pub client: SocketAddr,
    /// The address of ours that the sender used (`IP_PKTINFO`); unspecified where that is not known.
    pub local: IpAddr,
    /// Whom they are for.
    pub guest: SocketAddr,
    /// Whom the guest is to see.
    pub source_ip: SourceIp,
    /// All payload bytes. The buffer now belongs to the stack.
    pub data: Span,
    /// Each datagram has this many bytes, the last may have fewer; `None`: one datagram.
    pub segment: Option<u16>,
    /// Type of service or traffic class byte they arrived with.
    pub tos: u8,
}

/// One client's datagrams.
struct Flow {
    door: Door,
    client: SocketAddr,
    local: IpAddr,
    guest: SocketAddr,
    shown: SocketAddr,
    answered: bool,
    held: Option<Group>,
    deadline: Time,
    token: Token,
    opened: Time,
    counters: FlowCounters,
}

/// All flows of datagrams through published sockets.
pub struct Engine {
    table: Table<Flow>,
    by_client: HashMap<(Door, SocketAddr, IpAddr), FlowId, ahash::RandomState>,
    /// By the guest's end and the end shown to it.
    by_guest: HashMap<(SocketAddr, SocketAddr), FlowId, ahash::RandomState>,
    timers: Wheel<FlowId>,
    /// Flows that were not answered when they were put here, oldest first.
    unanswered: VecDeque<FlowId>,
    /// Flows with answers held back.
    holding: Vec<FlowId>,
    waiting: Waiting,
    ports: Ports,
    next_id: u16,
    pub(super) limit: usize,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            table: Table::new(Kind::Inbound),
            by_client: HashMap::default(),
            by_guest: HashMap::default(),
            timers: Wheel::default(),
            unanswered: VecDeque::new(),
            holding: Vec::new(),
            waiting: Waiting::default(),
            ports: Ports::default(),
            next_id: 1,
            limit: MAX_FLOWS,
        }
    }
}

impl Engine {
    /// Datagrams from a client. False when they are of nobody known and there is no room for another.
    pub fn arrive(&mut self, cx: &mut Cx<'_>, a: &Arrival) -> bool {
        if !cx.knows_neighbour(a.guest.ip()) {
            self.waiting.keep(cx, *a);
            return true;
        }
        let id = match self.by_client.get(&(a.door, a.client, a.local)).copied() {
            Some(id) => Some(id),
            None => self.open(cx, a),
        };
        let flow = id.and_then(|id| self.table.get_mut(id));
        let known = flow.is_some();
        if let Some(flow) = flow {
            flow.deadline = cx.now + if flow.answered { IDLE } else { IDLE_UNANSWERED };
            flow.counters.packets_down += 1;
            flow.counters.bytes_down += u64::from(a.data.len);
            let way = Way { from: flow.shown, to: flow.guest, tos: a.tos };
            emit(cx, &mut self.next_id, &way, a.data, a.segment);
        }
        cx.act(Action::Release(a.data.buf));
        known
    }

    fn open(&mut self, cx: &mut Cx<'_>, a: &Arrival) -> Option<FlowId> {
        if a.client.port() == 0 || !self.make_room(cx) {
            cx.drop(DropReason::NoRoom);
            return None;
        }
        let by_guest = &self.by_guest;
        let shown = choose(cx, &mut self.ports, a.guest, a.client, a.source_ip, |shown| {
            !by_guest.contains_key(&(a.guest, shown))
        });
        let Some(shown) = shown else {
            cx.drop(DropReason::NoRoom);
            return None;
        };
        let (now, timers) = (cx.now, &mut self.timers);
        let deadline = now + IDLE_UNANSWERED;
        let id = self.table.insert_with(|id| Flow {
            door: a.door,
            client: a.client,
            local: a.local,
            guest: a.guest,
            shown,
            answered: false,
            held: None,
            deadline,
            token: timers.insert(deadline, id),
            opened: now,
            counters: FlowCounters::default(),
        });
        self.by_client.insert((a.door, a.client, a.local), id);
        self.by_guest.insert((a.guest, shown), id);
        self.unanswered.push_back(id);
        cx.counters.flows_opened += 1;
        Some(id)
    }

    /// True when one more flow fits, for which an unanswered one may have had to go.
    fn make_room(&mut self, cx: &mut Cx<'_>) -> bool {
        while self.table.len() >= self.limit {
            let Some(id) = self.unanswered.pop_front() else { return false };
            if self.table.get(id).is_some_and(|flow| !flow.answered) {
                self.close(cx, id);
            }
        }
        // Answered and ended flows leave their places; they must not pile up.
        if self.unanswered.len() > 2 * self.limit.min(self.table.len()) + 64 {
            let table = &self.table;
            self.unanswered.retain(|id| table.get(*id).is_some_and(|flow| !flow.answered));
        }
        true
    }

    /// Whether a datagram from `guest` to `dialled` answers a client.
    pub fn find(&self, guest: SocketAddr, dialled: SocketAddr) -> Option<FlowId> {
        if self.by_guest.is_empty() { None } else { self.by_guest.get(&(guest, dialled)).copied() }
    }

    /// An answer from the guest, or a super-frame of them; `out.to` is what the guest dialled. The buffer belongs to the
    /// engine.
    pub fn answer(&mut self, cx: &mut Cx<'_>, id: FlowId, out: Out, payload: Span, gso: Gso) {
        let Some(flow) = self.table.get_mut(id) else {
            cx.act(Action::Release(payload.buf));
            return;
        };
        let out = Out { to: flow.client, ..out };
        flow.answered = true;
        flow.deadline = cx.now + IDLE;
        flow.counters.packets_up += 1;
        flow.counters.bytes_up += u64::from(payload.len);
        let (door, from) = (flow.door, flow.local);
        let leave = move |data| Action::SendPublished { flow: id, door, from, data };
        match gso {
            Gso::Udp { size } if size > 0 && u32::from(size) < payload.len => {
                if let Some(group) = flow.held.take() {
                    group.send_as(cx, leave);
                }
                send_super(cx, leave, &out, payload, size);
            }
            _ => {
                let alone = match &mut flow.held {
                    Some(group) => group.join(&out, payload).err(),
                    None => {
                        self.holding.push(id);
                        Some(payload)
                    }
                };
                if let Some(payload) = alone
                    && let Some(full) = flow.held.replace(Group::new(out, payload))
                {
                    full.send_as(cx, leave);
                }
            }
        }
    }

    /// The batch is over: answers that were held back go out, and what has waited for a guest that has been heard meanwhile.
    pub fn end_batch(&mut self, cx: &mut Cx<'_>) {
        while let Some(arrival) = self.waiting.found(cx) {
            self.arrive(cx, &arrival);
        }
        for id in self.holding.drain(..) {
            if let Some(flow) = self.table.get_mut(id) {
                flow.flush(cx, id);
            }
        }
    }

    /// The guest's kernel says that nobody listens where this datagram went.
    pub fn refused(&mut self, cx: &mut Cx<'_>, quoted: &Quoted) {
        match self.find(quoted.dst, quoted.src) {
            Some(id) => {
                cx.counters.published_refused += 1;
                self.close(cx, id);
            }
            None => cx.drop(DropReason::Unsupported),
        }
    }

    /// An ICMP error came back for an answer that left through a door of the guest's end `guest`.
    pub fn host_error(&mut self, cx: &mut Cx<'_>, errors: &mut Errors, guest: SocketAddr, e: &IcmpError) {
        // By the end shown: a client shown as the gateway cannot be named in what the guest would be quoted.
        let to = SocketAddr::new(e.to.ip().to_canonical(), e.to.port());
        let known = self.find(guest, to).is_some();
        match icmp_error::relayed(to.is_ipv6(), e).filter(|_| known) {
            Some(fault) => errors.report(cx, e.offender, &Quote::Udp(guest, to), fault),
            None => cx.drop(DropReason::Unsupported),
        }
    }

    /// The door is closed: its flows end.
    pub fn close_door(&mut self, cx: &mut Cx<'_>, door: Door) {
        self.waiting.close_door(cx, door);
        let flows: Vec<_> = self.table.iter().filter(|(_, f)| f.door == door).map(|(id, _)| id).collect();
        for id in flows {
            self.close(cx, id);
        }
    }

    /// Time has passed.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        self.waiting.timeout(cx);
        while let Some(id) = self.timers.pop_expired(cx.now) {
            let Some(flow) = self.table.get_mut(id) else { continue };
            if flow.deadline <= cx.now {
                self.close(cx, id);
            } else {
                flow.token = self.timers.insert(flow.deadline, id);
            }
        }
    }

    fn close(&mut self, cx: &mut Cx<'_>, id: FlowId) {
        let Some(mut flow) = self.table.remove(id) else { return };
        flow.flush(cx, id);
        self.timers.cancel(flow.token);
        self.by_client.remove(&(flow.door, flow.client, flow.local));
        self.by_guest.remove(&(flow.guest, flow.shown));
        cx.counters.flows_closed += 1;
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.next_deadline().into_iter().chain(self.waiting.next_deadline()).min()
    }

    /// One flow, for queries.
    pub fn flow(&self, id: FlowId) -> Option<FlowInfo> {
        self.table.get(id).map(|flow| flow.info(id))
    }

    /// The flows in slots from `index` on, for pages of a listing.
    pub fn flows_from(&self, index: usize) -> impl Iterator<Item = FlowInfo> + '_ {
        self.table.iter_from(index).map(|(id, flow)| flow.info(id))
    }

    /// Live flows.
    pub fn live(&self) -> usize {
        self.table.len()
    }

    /// Every flow, for queries.
    pub fn flows(&self) -> impl Iterator<Item = FlowInfo> + '_ {
        self.table.iter().map(|(id, flow)| flow.info(id))
    }
}

impl Flow {
    fn flush(&mut self, cx: &mut Cx<'_>, id: FlowId) {
        let (door, from) = (self.door, self.local);
        if let Some(group) = self.held.take() {
            group.send_as(cx, |data| Action::SendPublished { flow: id, door, from, data });
        }
    }

    fn info(&self, id: FlowId) -> FlowInfo {
        FlowInfo {
            id,
            guest: self.guest,
            remote: Some(self.shown),
            host: Some(self.client),
            state: "open",
            opened: self.opened,
            counters: self.counters,
            rtt: None,
            queued_up: 0,
            queued_down: 0,
            memory: size_of::<Flow>(),
        }
    }
}

/// The port of the gateway's that is tried next.
#[derive(Debug)]
pub struct Ports {
    next: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { next: FIRST_PORT }
    }
}

/// The end that the guest sees for `client`; `None` when the gateway has no port left for this end of the guest.
fn choose(
    cx: &mut Cx<'_>,
    ports: &mut Ports,
    guest: SocketAddr,
    client: SocketAddr,
    wish: SourceIp,
    free: impl Fn(SocketAddr) -> bool,
) -> Option<SocketAddr> {
    let shown = cx.nat.shown(client.ip(), guest.ip(), wish);
    let own = SocketAddr::new(shown.ip(), client.port());
    let taken = !free(own);
    if matches!(shown, Shown::Instead(_)) || (taken && shown.is_client()) {
        cx.counters.shown_as_gateway += 1;
    }
    if !taken {
        return Some(own);
    }
    let gateway = cx.nat.shown(client.ip(), guest.ip(), SourceIp::Gateway).ip();
    (0..TRIES).find_map(|_| {
        let port = ports.next;
        ports.next = port.checked_add(1).unwrap_or(FIRST_PORT);
        Some(SocketAddr::new(gateway, port)).filter(|end| free(*end))
    })
}

impl Stack {
    /// A client has connected to a published port, on a socket that stands: dials the guest at `guest` on its behalf. The
    /// caller ties the socket to the flow before it carries out the next action. A refusal comes as
    /// [`super::Close::Reset`] at once, and so does the end of waiting for a guest that is silent. `None`, and counted:
    /// no room for another flow.
    pub fn accept_stream(
        &mut self,
        now: Time,
        guest: SocketAddr,
        client: SocketAddr,
        source_ip: SourceIp,
    ) -> Option<FlowId> {
        self.behind.expect(&self.net, guest.ip());
        let room = self.has_room();
        let mut cx = context!(self, now);
        if !room {
            cx.refuse_flow(Limit::Flows);
            return None;
        }
        let tcp = &self.tcp;
        let shown = choose(&mut cx, &mut self.stream_ports, guest, client, source_ip, |shown| {
            tcp.is_free(guest, shown)
        });
        let Some(shown) = shown else {
            cx.refuse_flow(Limit::Flows);
            return None;
        };
        self.tcp.connect(&mut cx, guest, shown)
    }

    /// Datagrams have arrived on a published socket. Answered by [`Action::SendPublished`], if at all.
    /// False: there was no room for another client, and they are dropped.
    pub fn accept_datagrams(&mut self, now: Time, arrival: &Arrival) -> bool {
        self.behind.expect(&self.net, arrival.guest.ip());
        let mut cx = context!(self, now);
        self.inbound.arrive(&mut cx, arrival)
    }

    /// The published socket that a flow of datagrams came by.
    pub fn door_of(&self, flow: FlowId) -> Option<Door> {
        self.inbound.table.get(flow).map(|flow| flow.door)
    }

    /// Live flows of datagrams that came by one of these sockets. For queries.
    pub fn clients_of(&self, doors: impl Fn(Door) -> bool) -> usize {
        self.inbound.table.iter().filter(|(_, flow)| doors(flow.door)).count()
    }

    /// An ICMP error came back for what was sent from a published socket that leads to `guest`.
    pub fn published_error(&mut self, now: Time, guest: SocketAddr, error: &IcmpError) {
        let mut cx = context!(self, now);
        self.inbound.host_error(&mut cx, &mut self.errors, guest, error);
    }

    /// A published datagram socket is closed: its flows end.
    pub fn close_door(&mut self, now: Time, door: Door) {
        let mut cx = context!(self, now);
        self.inbound.close_door(&mut cx, door);
    }

    /// A port that leads to `guest` through the tap is published: asks for the guest's MAC, so that the first datagram
    /// does not have to.
    pub fn expect_inbound(&mut self, now: Time, guest: IpAddr) {
        self.behind.expect(&self.net, guest);
        let mut cx = context!(self, now);
        cx.ask_neighbour(guest);
    }
}
