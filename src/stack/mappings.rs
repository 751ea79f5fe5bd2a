//! Datagram mappings: one host socket per end of the guest, for as long as something passes.
//!
//! Theory of operation. UDP and echo differ in what they do with a datagram and in what they hold besides (`M`); how
//! a mapping is found, what may come back through it and how it ends is the same and is here. A mapping's deadline
//! moves with every datagram, its timer does not: when the timer fires and the deadline has moved on, it is armed
//! again. So a busy mapping costs the wheel nothing.
//!
//! Limits: the number of mappings is the caller's to bound, remotes per mapping are by [`super::remotes::MAX`].

use super::Cx;
use super::action::{Action, Close, Intake, Open};
use super::remotes::Remotes;
use crate::config::Filtering;
use crate::flow::wheel::Token;
use crate::flow::{DropReason, FlowCounters, FlowId, FlowInfo, Kind, Table, Time, Wheel};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// One mapping.
pub struct Mapping<M> {
    /// The guest's end.
    pub guest: SocketAddr,
    /// Whom it has spoken to.
    pub remotes: Remotes,
    /// What else the engine holds.
    pub more: M,
    deadline: Time,
    token: Token,
    opened: Time,
    counters: FlowCounters,
}

impl<M> Mapping<M> {
    /// The guest has sent `bytes` to `dialled`, which stands for `host`; the mapping lives for `idle` from now.
    pub fn sent(&mut self, now: Time, idle: Duration, host: SocketAddr, dialled: SocketAddr, bytes: u32) {
        self.remotes.note(host, dialled);
        self.deadline = now + idle;
        self.counters.packets_up += 1;
        self.counters.bytes_up += u64::from(bytes);
    }

    /// Whom the guest takes the sender `from` for. `None`, and counted, where the filter does not let it in (RFC 4787
    /// section 5), or where it would be of the other family.
    pub fn admit(&self, cx: &mut Cx<'_>, from: SocketAddr) -> Option<SocketAddr> {
        let source = match (self.remotes.sees(from), cx.net.filtering) {
            (Some(dialled), _) => Some(dialled),
            (None, Filtering::EndpointIndependent) => {
                Some(SocketAddr::new(cx.nat.guest_sees(from.ip()), from.port()))
            }
            (None, Filtering::AddressDependent) => None,
        };
        let source = source.filter(|a| a.is_ipv6() == self.guest.is_ipv6());
        if source.is_none() {
            cx.drop(DropReason::Filtered);
        }
        source
    }

    /// The guest tries a destination that it has not tried before, and nobody has answered this mapping yet.
    pub fn tries_another(&self, host: SocketAddr, dialled: SocketAddr) -> bool {
        self.counters.packets_down == 0 && !self.remotes.is_empty() && !self.remotes.knows(host, dialled)
    }

    /// A datagram of `bytes` has come back; the mapping lives for `idle` from now.
    pub fn arrived(&mut self, cx: &mut Cx<'_>, idle: Duration, bytes: u32) {
        if self.counters.packets_down == 0 {
            cx.gate.answered();
        }
        self.deadline = cx.now + idle;
        self.counters.packets_down += 1;
        self.counters.bytes_down += u64::from(bytes);
    }
}

/// All mappings of one kind.
pub struct Mappings<M> {
    table: Table<Mapping<M>>,
    by_guest: HashMap<SocketAddr, FlowId, ahash::RandomState>,
    timers: Wheel<FlowId>,
}

impl<M> Mappings<M> {
    /// None yet.
    pub fn new(kind: Kind) -> Self {
        Self { table: Table::new(kind), by_guest: HashMap::default(), timers: Wheel::default() }
    }

    /// The mapping of a guest's end.
    pub fn find(&self, guest: SocketAddr) -> Option<FlowId> {
        self.by_guest.get(&guest).copied()
    }

    /// The mapping, if it is alive.
    pub fn get(&self, id: FlowId) -> Option<&Mapping<M>> {
        self.table.get(id)
    }

    /// The mapping, to change.
    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut Mapping<M>> {
        self.table.get_mut(id)
    }

    /// A new mapping for a guest's end that has none, and its host socket, which receives at once.
    pub fn open(
        &mut self,
        cx: &mut Cx<'_>,
        guest: SocketAddr,
        idle: Duration,
        socket: Open,
        more: M,
    ) -> FlowId {
        let (now, timers) = (cx.now, &mut self.timers);
        let deadline = now + idle;
        let id = self.table.insert_with(|id| Mapping {
            guest,
            remotes: Remotes::default(),
            more,
            deadline,
            token: timers.insert(deadline, id),
            opened: now,
            counters: FlowCounters::default(),
        });
        self.by_guest.insert(guest, id);
        cx.counters.flows_opened += 1;
        cx.act(Action::Open(id, socket));
        cx.act(Action::Receive(id, Intake::On));
        id
    }

    /// Arms the timer at the deadline: needed where that has come nearer.
    pub fn rearm(&mut self, id: FlowId) {
        if let Some(m) = self.table.get_mut(id) {
            self.timers.cancel(m.token);
            m.token = self.timers.insert(m.deadline, id);
        }
    }

    /// The next mapping whose time is over; the caller closes it.
    pub fn expired(&mut self, now: Time) -> Option<FlowId> {
        while let Some(id) = self.timers.pop_expired(now) {
            let Some(m) = self.table.get_mut(id) else { continue };
            if m.deadline <= now {
                return Some(id);
            }
            m.token = self.timers.insert(m.deadline, id);
        }
        None
    }

    /// Ends a mapping and its host socket.
    pub fn close(&mut self, cx: &mut Cx<'_>, id: FlowId) {
        let Some(m) = self.table.remove(id) else { return };
        self.timers.cancel(m.token);
        self.by_guest.remove(&m.guest);
        cx.counters.flows_closed += 1;
        cx.act(Action::Close(id, Close::Orderly));
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.next_deadline()
    }

    /// Live mappings.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// One mapping, for queries.
    pub fn flow(&self, id: FlowId) -> Option<FlowInfo> {
        self.table.get(id).map(|m| info(id, m))
    }

    /// The mappings in slots from `index` on, for pages of a listing.
    pub fn flows_from(&self, index: usize) -> impl Iterator<Item = FlowInfo> + '_ {
        self.table.iter_from(index).map(|(id, m)| info(id, m))
    }

    /// Every mapping, for queries.
    pub fn flows(&self) -> impl Iterator<Item = FlowInfo> + '_ {
        self.table.iter().map(|(id, m)| info(id, m))
    }
}

fn info<M>(id: FlowId, m: &Mapping<M>) -> FlowInfo {
    let (host, remote) = m.remotes.last().unzip();
    FlowInfo {
        id,
        guest: m.guest,
        remote,
        host,
        state: "open",
        opened: m.opened,
        counters: m.counters,
        rtt: None,
        queued_up: 0,
        queued_down: 0,
        memory: size_of::<Mapping<M>>() + m.remotes.heap(),
    }
}
