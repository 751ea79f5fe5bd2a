//! How connections begin, from either side, and what the guest is told when they do not.
//!
//! Theory of operation. A SYN asks the policy once. What may go out gets a host socket first and an answer later; a
//! connection to the DNS address tries the host's resolvers in turn. What fails is told as it failed: refused is a
//! reset, unreachable an ICMP error quoting the SYN, forbidden "network unreachable" (slirp4netns's words, which
//! scripts look for). A connection from the host's side is dialled with the host socket already there; while the guest's
//! MAC is not known its SYN waits for that and not for a retransmission. Connections that do not stand yet are bounded: the oldest is forgotten without a word, and a
//! guest that meant it sends its SYN again.

use super::conn::{Conn, Socket, State};
use super::key::Key;
use super::seq::Seq;
use super::{Engine, output};
use crate::flow::{DropReason, FlowId, Limit};
use crate::nat::{Transport, Verdict};
use crate::stack::icmp_error::{Errors, Fault, Quote};
use crate::stack::{Action, Close, Cx, HostError, Open};
use crate::wire::Tcp;
use std::net::SocketAddr;

/// Room between the numbers of a tuple's last connection and its next one, beyond any window (as Linux).
const REUSE_DISTANCE: u32 = 65_535 + 2;

impl Engine {
    /// The guest dials. `floor` is where our numbers of the tuple's last connection ended; `room`: another flow may be open.
    pub(super) fn open(&mut self, cx: &mut Cx<'_>, key: Key, tcp: &Tcp, floor: Option<Seq>, room: bool) {
        let (guest, remote) = (key.guest.ip(), key.remote.ip());
        if guest.is_multicast() || guest.is_unspecified() || guest.is_loopback() || key.guest.port() == 0 {
            cx.drop(DropReason::TcpUnacceptable);
            return;
        }
        let (target, next_resolver) = match cx.nat.translate(Transport::Tcp, key.remote) {
            Verdict::Host(addr) => (addr, None),
            Verdict::Dns => match self.resolvers.first() {
                Some(server) => (*server, Some(1)),
                None => {
                    cx.drop(DropReason::Policy);
                    output::refuse(cx, &key, tcp, 0);
                    return;
                }
            },
            Verdict::Refuse => {
                cx.drop(DropReason::Policy);
                if !remote.is_multicast() {
                    unreachable(&mut self.errors, cx, &key, Seq(tcp.seq), Fault::Net);
                }
                return;
            }
            Verdict::Silent => {
                cx.drop(DropReason::Policy);
                return;
            }
        };
        let room = room && self.table.len() < self.pool.limits.flows;
        if !cx.may_open(room) {
            // Too many are refused; too fast are lost, and the guest sends its SYN again.
            if !room {
                output::refuse(cx, &key, tcp, 0);
            }
            return;
        }
        let mut iss = self.isn.next(cx.now, &key);
        if let Some(floor) = floor {
            iss = iss.max(floor + REUSE_DISTANCE);
        }
        let id = self.insert(cx, key, State::Connecting, iss);
        if let Some(conn) = self.table.get_mut(id) {
            conn.read_syn(cx, &self.pool.limits, Seq(tcp.seq), tcp.window, &tcp.options);
            conn.host.next_resolver = next_resolver;
            conn.host.remote = Some(target);
        }
        open_socket(cx, id, target);
        self.bound_half_open(cx);
        self.settle(cx, id);
    }

    /// True when no connection has this tuple.
    pub fn is_free(&self, guest: SocketAddr, source: SocketAddr) -> bool {
        !self.keys.contains_key(&Key { guest, remote: source })
    }

    /// Dials the guest at `guest`, as if from `source`, on behalf of a host socket that already stands: the caller
    /// ties that socket to the flow returned. The guest's refusal comes back as `Close(Reset)`. `None` when the table
    /// is full or the tuple is taken.
    pub fn connect(&mut self, cx: &mut Cx<'_>, guest: SocketAddr, source: SocketAddr) -> Option<FlowId> {
        let key = Key { guest, remote: source };
        if self.table.len() >= self.pool.limits.flows {
            cx.refuse_flow(Limit::Flows);
            return None;
        }
        if self.keys.contains_key(&key) {
            cx.drop(DropReason::NoRoom);
            return None;
        }
        let mut iss = self.isn.next(cx.now, &key);
        if let Some(rest) = self.resting.get(&key) {
            iss = iss.max(rest.snd_nxt + REUSE_DISTANCE);
            self.resting.remove(&key);
        }
        let id = self.insert(cx, key, State::SynSent, iss);
        if let Some(conn) = self.table.get_mut(id) {
            conn.host.socket = Socket::Open;
            let mss = conn.own_mss(cx.net.mtu);
            conn.set_mss(mss);
            conn.send_syn(cx, &self.pool);
            if conn.unsent() {
                self.unsent.push(id);
            }
        }
        self.bound_half_open(cx);
        self.settle(cx, id);
        Some(id)
    }

    /// Sends the SYNs that waited for the guest's MAC and need no longer.
    pub(super) fn send_waiting(&mut self, cx: &mut Cx<'_>) {
        let mut unsent = std::mem::take(&mut self.unsent);
        unsent.retain(|id| {
            let Some(conn) = self.table.get_mut(*id).filter(|conn| conn.unsent()) else { return false };
            if cx.link.lookup(conn.key.guest.ip()).is_none() {
                return true;
            }
            conn.send_syn(cx, &self.pool);
            self.settle(cx, *id);
            false
        });
        self.unsent = unsent;
    }

    fn insert(&mut self, cx: &mut Cx<'_>, key: Key, state: State, iss: Seq) -> FlowId {
        let now = cx.now;
        let id = self.table.insert_with(|id| Conn::new(id, key, state, iss, now));
        self.keys.insert(key, id);
        self.half_open.push_back(id);
        self.half_open_count += 1;
        cx.counters.flows_opened += 1;
        id
    }

    /// Forgets the oldest connections that do not stand, down to the limit.
    fn bound_half_open(&mut self, cx: &mut Cx<'_>) {
        let limit = self.pool.limits.half_open.max(1);
        while let Some(front) = self.half_open.front().copied() {
            match self.table.get_mut(front) {
                Some(conn) if conn.half_open() => {
                    if self.half_open_count <= limit {
                        break;
                    }
                    cx.drop(DropReason::NoRoom);
                    cx.counters.limit(Limit::HalfOpen);
                    conn.abort(cx, &mut self.pool);
                    self.half_open.pop_front();
                    self.settle(cx, front);
                }
                _ => {
                    self.half_open.pop_front();
                }
            }
        }
        // One slow connect at the front must not make the list long.
        if self.half_open.len() > 2 * self.half_open_count + 64 {
            let table = &self.table;
            self.half_open.retain(|id| table.get(*id).is_some_and(Conn::half_open));
        }
    }

    /// The host socket could not be connected.
    pub(super) fn connect_failed(&mut self, cx: &mut Cx<'_>, id: FlowId, error: HostError) {
        let Some(conn) = self.table.get_mut(id) else { return };
        conn.close_socket(cx, Close::Reset);
        let next = conn.host.next_resolver;
        if let Some(server) = next.and_then(|n| self.resolvers.get(usize::from(n)).copied()) {
            self.next_resolver(cx, id, server);
            return;
        }
        if error == HostError::Exhausted {
            cx.refuse_flow(Limit::Descriptors);
        } else {
            cx.drop(DropReason::HostRefused);
        }
        tracing::debug!(flow = ?id, ?error, "connect failed");
        let fault = match error {
            HostError::HostUnreachable => Some(Fault::Host),
            HostError::NetUnreachable => Some(Fault::Net),
            HostError::Prohibited => Some(Fault::Prohibited),
            _ => None,
        };
        match fault {
            Some(fault) => unreachable(&mut self.errors, cx, &conn.key, conn.irs, fault),
            None => conn.send_reset(cx, &self.pool),
        }
        conn.abort(cx, &mut self.pool);
        self.settle(cx, id);
    }

    /// Tries another resolver under a new name: the old one may still be on the way in the caller's tables.
    fn next_resolver(&mut self, cx: &mut Cx<'_>, id: FlowId, server: SocketAddr) {
        let Some(mut conn) = self.table.remove(id) else { return };
        if let Some(token) = conn.token.take() {
            self.wheel.cancel(token);
        }
        conn.host.socket = Socket::Connecting;
        conn.host.remote = Some(server);
        conn.host.next_resolver = conn.host.next_resolver.map(|n| n + 1);
        conn.dirty = false;
        let key = conn.key;
        let id = self.table.insert_with(|id| {
            conn.id = id;
            conn
        });
        self.keys.insert(key, id);
        self.half_open.push_back(id);
        open_socket(cx, id, server);
        self.settle(cx, id);
    }
}

fn open_socket(cx: &mut Cx<'_>, id: FlowId, remote: SocketAddr) {
    let bind = cx.net.outbound.for_dest(remote.ip());
    cx.act(Action::Open(id, Open::Tcp { remote, bind }));
}

/// Tells the guest that its SYN got nowhere. The quoted packet is rebuilt: addresses, ports and sequence number are
/// all that a kernel matches.
fn unreachable(errors: &mut Errors, cx: &mut Cx<'_>, key: &Key, seq: Seq, fault: Fault) {
    errors.report(cx, None, &Quote::Tcp(key.guest, key.remote, seq.0), fault);
}
