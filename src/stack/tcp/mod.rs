//! TCP towards the guest (RFC 9293), proxied onto host sockets.
//!
//! Theory of operation. Each connection is a [`Conn`](conn::Conn): the guest's TCP ends here and its bytes go on over
//! a host socket. The guest's SYN opens the socket first; only when that stands does the guest get its SYN-ACK, so it
//! sees refusals as they are. Segments and host events change a connection's state and put it on the list of those to
//! flush; [`Engine::end_batch`] then sends data, window updates and acknowledgements for all that happened meanwhile.
//!
//! ```text
//! input.rs    segments from the guest             send.rs     queue to the guest, congestion, recovery
//! output.rs   frames to the guest                 receive.rs  reassembly, window, queue to the host
//! timers.rs   what time does                      ack.rs      when to acknowledge
//! conn.rs     one connection, the host's side     rest.rs     TIME_WAIT
//! pool.rs     what all share                      sweep.rs    asking the silent after many resets
//! open.rs     how connections begin               tuning.rs   every choice, with its reason
//! ```
//!
//! Payload towards the host stays in the buffer it arrived in until the host took it, payload towards the guest until
//! the guest acknowledged it; short payloads are packed. An idle connection holds no buffers and under a kilobyte.
//!
//! Limits: [`TcpLimits`]. Timestamps, ECN and fast open are not spoken; urgent data is data in line.

mod ack;
mod conn;
mod info;
mod input;
mod intake;
mod isn;
mod key;
mod open;
mod output;
mod pool;
mod receive;
mod rest;
mod rtt;
mod scoreboard;
mod send;
mod seq;
mod spans;
mod sweep;
mod timers;
mod tuning;

#[cfg(test)]
mod tests;

pub use conn::State;
pub(super) use key::Key;
pub use tuning::TcpLimits;

use self::conn::{Conn, Socket};
use self::isn::Isn;
use self::pool::Pool;
use self::rest::Resting;
use self::seq::Seq;
use self::sweep::Sweep;
use super::icmp_error::Errors;
use super::{Action, Cx, HostEvent};
use crate::buf::{DEFAULT_SLOTS, Span};
use crate::flow::{DropReason, FlowId, FlowInfo, Kind, Table, Time, Wheel};
use crate::wire::icmp::Quoted;
use crate::wire::tcp::Flags;
use crate::wire::{Ip, Tcp};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// All TCP connections of one guest.
pub struct Engine {
    table: Table<Conn>,
    keys: HashMap<Key, FlowId, ahash::RandomState>,
    wheel: Wheel<FlowId>,
    resting: Resting,
    pool: Pool,
    isn: Isn,
    errors: Errors,
    resolvers: Vec<SocketAddr>,
    /// Connections to flush at the end of the batch.
    dirty: Vec<FlowId>,
    /// Connections that did not stand yet when they were put here, oldest first.
    half_open: VecDeque<FlowId>,
    half_open_count: usize,
    /// Connections dialled from the host's side whose SYN waits for the guest's MAC.
    unsent: Vec<FlowId>,
    sweep: Sweep,
}

impl Engine {
    /// No connections yet. `secret` keys the initial sequence numbers (RFC 6528).
    pub fn new(secret: [u8; 16], max_flows: usize) -> Self {
        let [tap_slots, host_slots, small_slots] = DEFAULT_SLOTS;
        let limits = TcpLimits::new(max_flows, tap_slots, host_slots, small_slots);
        Self {
            table: Table::new(Kind::Tcp),
            keys: HashMap::default(),
            wheel: Wheel::default(),
            resting: Resting::new(tuning::TIME_WAIT, limits.time_wait),
            pool: Pool::new(limits),
            isn: Isn::new(&secret),
            errors: Errors::default(),
            resolvers: Vec::new(),
            dirty: Vec::new(),
            half_open: VecDeque::new(),
            half_open_count: 0,
            unsent: Vec::new(),
            sweep: Sweep::default(),
        }
    }

    /// The bounds in force.
    pub fn limits(&self) -> &TcpLimits {
        &self.pool.limits
    }

    /// Changes the bounds; they hold for what happens from now on.
    pub fn set_limits(&mut self, limits: TcpLimits) {
        self.pool.limits = limits;
    }

    /// Where connections to the DNS address go, in order of preference.
    pub fn set_resolvers(&mut self, servers: Vec<SocketAddr>) {
        self.resolvers = servers;
    }

    /// A segment from the guest. `payload` is its data (possibly empty); its buffer now belongs to the engine. `room` says
    /// whether it may open a connection.
    pub fn segment(&mut self, cx: &mut Cx<'_>, ip: &Ip, tcp: &Tcp, payload: Span, room: bool) {
        let key = Key {
            guest: SocketAddr::new(ip.src, tcp.src_port),
            remote: SocketAddr::new(ip.dst, tcp.dst_port),
        };
        if let Some(id) = self.keys.get(&key).copied() {
            let opens = tcp.flags.0 & (Flags::SYN.0 | Flags::ACK.0 | Flags::RST.0) == Flags::SYN.0;
            let pool = &mut self.pool;
            if let Some(conn) = self.table.get_mut(id) {
                // The tuple rests but for the host, which still takes data: a successor may have it.
                let succeeds = opens && conn.state == State::TimeWait && Seq(tcp.seq).after(conn.rcv.nxt);
                if !succeeds {
                    conn.segment(cx, pool, tcp, payload);
                    if tcp.flags.has(Flags::RST) && conn.state == State::Closed {
                        self.sweep.reset(cx.now);
                    }
                    self.touch(cx, id);
                    return;
                }
                let floor = conn.snd.nxt;
                conn.guest_closed(cx);
                self.touch(cx, id);
                cx.act(Action::Release(payload.buf));
                self.open(cx, key, tcp, Some(floor), room);
                return;
            }
        }
        cx.act(Action::Release(payload.buf));
        self.stranger(cx, key, tcp, payload.len, room);
    }

    /// A segment of no live connection.
    fn stranger(&mut self, cx: &mut Cx<'_>, key: Key, tcp: &Tcp, len: u32, room: bool) {
        let opens = tcp.flags.0 & (Flags::SYN.0 | Flags::ACK.0 | Flags::RST.0 | Flags::FIN.0) == Flags::SYN.0;
        if let Some(rest) = self.resting.get(&key) {
            if opens && Seq(tcp.seq).after(rest.rcv_nxt) {
                self.resting.remove(&key);
                self.open(cx, key, tcp, Some(rest.snd_nxt), room);
            } else if !tcp.flags.has(Flags::RST) {
                // RFC 1337: a reset does not end the rest.
                if tcp.flags.has(Flags::FIN) {
                    self.resting.renew(cx.now, &key);
                }
                if self.pool.challenge(cx.now) {
                    output::bare_ack(cx, &key, rest.snd_nxt, rest.rcv_nxt);
                }
            }
            return;
        }
        if opens {
            self.open(cx, key, tcp, None, room);
        } else {
            cx.drop(DropReason::TcpUnacceptable);
            if !tcp.flags.has(Flags::SYN) || tcp.flags.has(Flags::ACK) {
                output::refuse(cx, &key, tcp, len);
            }
        }
    }

    /// Something happened on a connection's host socket.
    pub fn host(&mut self, cx: &mut Cx<'_>, flow: FlowId, event: HostEvent) {
        let Some(conn) = self.table.get_mut(flow) else {
            super::release_of(cx, &event);
            return;
        };
        match event {
            HostEvent::Connected if conn.host.socket == Socket::Connecting => {
                conn.host.socket = Socket::Open;
                if conn.state == State::Connecting {
                    conn.state = State::SynReceived;
                    conn.heard = cx.now;
                    conn.send_syn(cx, &self.pool);
                }
            }
            HostEvent::ConnectFailed(error) if conn.host.socket == Socket::Connecting => {
                self.connect_failed(cx, flow, error);
                return;
            }
            other => conn.host_event(cx, &mut self.pool, other),
        }
        self.touch(cx, flow);
    }

    /// Time has passed.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        self.resting.expire(cx.now);
        self.sweep(cx);
        while let Some(id) = self.wheel.pop_expired(cx.now) {
            if let Some(conn) = self.table.get_mut(id) {
                conn.token = None;
                if conn.deadline() <= cx.now {
                    conn.timeout(cx, &mut self.pool);
                }
                self.touch(cx, id);
            }
        }
        self.end_batch(cx);
    }

    /// A batch of segments and events is over: data, acknowledgements and sends that were held back go out.
    pub fn end_batch(&mut self, cx: &mut Cx<'_>) {
        if !self.unsent.is_empty() {
            self.send_waiting(cx);
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            if let Some(conn) = self.table.get_mut(id) {
                conn.dirty = false;
                conn.drive_host(cx, &mut self.pool);
                conn.send_data(cx, &self.pool);
                if conn.ack_due(cx.now, &self.pool) {
                    conn.send_ack(cx, &self.pool);
                }
                self.settle(cx, id);
            }
        }
        // Nothing above adds to the list: its memory serves the next batch.
        self.dirty = dirty;
    }

    /// Puts a connection on the list to flush.
    fn touch(&mut self, cx: &mut Cx<'_>, id: FlowId) {
        if let Some(conn) = self.table.get_mut(id)
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push(id);
        }
        self.settle(cx, id);
    }

    /// After a change: frees what is over, lays to rest, counts orphans, moves the deadline.
    fn settle(&mut self, cx: &mut Cx<'_>, id: FlowId) {
        let Some(conn) = self.table.get_mut(id) else { return };
        self.pool.sending -= conn.counted_sending;
        conn.counted_sending = conn.snd.footprint();
        self.pool.sending += conn.counted_sending;
        if conn.counted_half_open && !conn.half_open() {
            conn.counted_half_open = false;
            self.half_open_count -= 1;
            // It stands, and the guest dialled it.
            if conn.state != State::Closed && conn.host.remote.is_some() {
                cx.gate.answered();
            }
        }
        if conn.is_resting() {
            self.resting.insert(cx.now, conn.key, conn.snd.nxt, conn.rcv.nxt);
            conn.guest_closed(cx);
        }
        if conn.state == State::Closed && conn.keyed {
            conn.keyed = false;
            self.keys.remove(&conn.key);
        }
        if conn.is_over() {
            self.remove(cx, id);
            return;
        }
        if conn.host.socket == Socket::Closed && !conn.host.orphan {
            if self.pool.orphans >= self.pool.limits.orphans {
                cx.drop(DropReason::NoRoom);
                conn.send_reset(cx, &self.pool);
                conn.abort(cx, &mut self.pool);
                self.keys.remove(&conn.key);
                self.remove(cx, id);
                return;
            }
            conn.host.orphan = true;
            // The guest may have been silent for long, waiting for what comes now.
            conn.heard = cx.now;
            self.pool.orphans += 1;
        }
        let at = conn.deadline();
        match conn.token {
            // Later or same: the entry fires early and is moved then.
            Some(token) if token.at() <= at => {}
            other => {
                if let Some(token) = other {
                    self.wheel.cancel(token);
                }
                conn.token = Some(self.wheel.insert(at, id));
            }
        }
    }

    /// Takes a connection that is over out of every table.
    fn remove(&mut self, cx: &mut Cx<'_>, id: FlowId) {
        let Some(mut conn) = self.table.remove(id) else { return };
        self.pool.sending -= conn.counted_sending;
        conn.snd.clear(cx);
        conn.rcv.clear(cx, &mut self.pool);
        if let Some(token) = conn.token {
            self.wheel.cancel(token);
        }
        if conn.counted_half_open {
            self.half_open_count -= 1;
        }
        if conn.host.orphan {
            self.pool.orphans -= 1;
        }
        cx.counters.flows_closed += 1;
    }

    /// A link on the guest's side reported that the segment quoted was too long for it. Errors about segments that
    /// are not on their way are forged or late (RFC 5927 section 4.1).
    pub fn too_big(&mut self, cx: &mut Cx<'_>, quoted: &Quoted) {
        let Some(id) = self.keys.get(&Key { guest: quoted.dst, remote: quoted.src }).copied() else { return };
        if let Some(conn) = self.table.get_mut(id)
            && quoted.seq.is_none_or(|seq| conn.snd.in_flight(Seq(seq)))
        {
            conn.too_big(quoted.mtu.unwrap_or(0));
            self.touch(cx, id);
        }
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Time> {
        [self.wheel.next_deadline(), self.resting.next_deadline(), self.sweep.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Live connections. Tuples in TIME_WAIT are not: see [`Self::resting`].
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True when no connection is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tuples in TIME_WAIT.
    pub fn resting(&self) -> usize {
        self.resting.len()
    }

    /// The connection between these ends, for queries.
    pub(super) fn find(&self, key: &Key) -> Option<FlowId> {
        self.keys.get(key).copied()
    }

    /// What this connection is doing.
    pub fn flow(&self, id: FlowId) -> Option<FlowInfo> {
        self.table.get(id).map(Conn::info)
    }

    /// What the live connections in slots from `index` on are doing. For pages of a listing.
    pub fn flows_from(&self, index: usize) -> impl Iterator<Item = FlowInfo> + '_ {
        self.table.iter_from(index).map(|(_, conn)| conn.info())
    }

    /// What every live connection is doing. For queries, never for the hot path.
    pub fn flows(&self) -> impl Iterator<Item = FlowInfo> + '_ {
        self.table.iter().map(|(_, conn)| conn.info())
    }
}
