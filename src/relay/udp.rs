//! Datagrams of published ports: which client has which socket in the guest, and for how long.
//!
//! Theory of operation. A [`Path`] is a port, a client and the address of ours that the client used. Its first datagram
//! makes a mapping and asks for a backend socket ([`Action::Open`]); datagrams that arrive before the socket is there
//! are held, a few of them. What one batch of completions brings for one mapping and direction is joined
//! ([`crate::buf::join`]) and leaves at the end of the batch, as segmented sends where sizes agree.
//!
//! ```text
//!   from_client --> mapping, joined --end_batch--> Send(ToBackend) --> backend socket
//!   from_backend -> mapping, joined --end_batch--> Send(ToClient)  --> listener, from the address the client used
//! ```
//!
//! *Order.* Sends are carried out in the order of their actions, several at a time. Whether a path takes segmented sends
//! is not known before one has passed: the first waits for its result, and what follows it is held meanwhile, so that
//! a refusal (which makes singles of it) does not let later datagrams overtake. A refusal later on, when the path's MTU
//! has shrunk, may let those of the same batch overtake.
//!
//! *Life.* A mapping lives for [`Limits::idle`] after the last datagram of either direction: a client that only sends
//! (syslog, statsd, media) keeps it. One that was never answered lives for [`Limits::unanswered`]: that is what a scan
//! or a spoofed source leaves behind. When there are as many mappings as allowed, the one idle for longest goes.
//!
//! *Ownership.* A buffer handed in is owned by the relay until its one `Release`; `Retain` comes first where a buffer
//! is cut into parts that leave separately.

use crate::buf::join::{Run, pieces};
use crate::buf::{BufId, Span, SpanVec};
use crate::flow::wheel::Token;
use crate::flow::{FlowCounters, FlowId, Kind, Table, Time, Wheel};
use hashlink::LinkedHashMap;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A client's way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Which listening socket: the driver's number for it.
    pub listener: u32,
    /// The client, in the form of the listener's family.
    pub client: SocketAddr,
    /// Our address that the client used, and the interface if the address needs one (otherwise 0). `None`: not known
    /// or not one to send from (multicast), and answers leave from where the routing table says.
    pub local: Option<(IpAddr, u32)>,
}

/// Bounds of a relay.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most mappings at once.
    pub mappings: usize,
    /// Life after the last datagram either way. 90 s is what Docker's proxy has (moby, `UDPConnTrackTimeout`).
    pub idle: Duration,
    /// Life of a mapping without an answer. 30 s is the kernel's for such flows (`nf_conntrack_udp_timeout`).
    pub unanswered: Duration,
    /// Buffers that one direction of a mapping may hold back.
    pub held: usize,
    /// Buffers held back in all: a quarter of those that receives fill (`buf::DEFAULT_SLOTS`).
    pub held_total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mappings: 4096,
            idle: Duration::from_secs(90),
            unanswered: Duration::from_secs(30),
            held: 16,
            held_total: 64,
        }
    }
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the guest.
    ToBackend,
    /// From the guest to the client.
    ToClient,
}

/// What one send carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Whose.
    pub mapping: FlowId,
    /// Where to.
    pub way: Way,
    /// The mapping's path: it may be gone by the time this is carried out.
    pub path: Path,
    /// The payload, in order. An empty datagram has one empty span.
    pub spans: SpanVec,
    /// Cut the payload into datagrams of this many bytes; answer with [`Relay::passed`] or [`Relay::cannot_segment`].
    pub segment: Option<u16>,
}

/// What the driver is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a backend socket. Answered by [`Relay::opened`] or [`Relay::open_failed`].
    Open(FlowId, Path),
    /// Send.
    Send(Send),
    /// Close the backend socket, or forget that one was asked for.
    Close(FlowId),
    /// One more reference to a buffer.
    Retain(BufId),
    /// Drop one reference to a buffer.
    Release(BufId),
}

/// What was counted for a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams and bytes: up is from the guest.
    pub carried: FlowCounters,
    /// Mappings made.
    pub opened: u64,
    /// Mappings that ended for want of traffic.
    pub expired: u64,
    /// Mappings that made room for others.
    pub evicted: u64,
    /// Backend sockets that could not be made.
    pub open_failed: u64,
    /// Datagrams dropped because as many were held back as allowed, or because their mapping ended first.
    pub dropped_held: u64,
    /// Sends given up: a full socket buffer, a refused or unreachable peer.
    pub dropped_send: u64,
    /// Clients that said (ICMP port unreachable) that nobody is there any more.
    pub clients_gone: u64,
}

/// A live mapping, for queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Info {
    /// Its name.
    pub id: FlowId,
    /// Whose.
    pub path: Path,
    /// When it was made.
    pub opened: Time,
    /// When the last datagram passed, either way.
    pub last: Time,
    /// What it carried: up is from the guest.
    pub carried: FlowCounters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// The backend socket is not there yet.
    Shut,
    /// No segmented send has been tried.
    Fresh,
    /// The first one is on its way.
    Probing,
    /// It passed.
    Proven,
    /// It was refused: datagrams go one by one.
    Single,
}

#[derive(Debug)]
struct Direction {
    gate: Gate,
    /// What this batch brought, joined.
    run: Option<Run>,
    /// What waits for the gate.
    held: VecDeque<Run>,
    held_bufs: usize,
}

impl Direction {
    fn new(gate: Gate) -> Self {
        Self { gate, run: None, held: VecDeque::new(), held_bufs: 0 }
    }
}

struct Mapping {
    path: Path,
    ways: [Direction; 2],
    opened: Time,
    last: Time,
    token: Token,
    carried: FlowCounters,
}

impl Mapping {
    fn deadline(&self, limits: &Limits) -> Time {
        let answered = self.carried.packets_up > 0;
        self.last + if answered { limits.idle } else { limits.unanswered }
    }
}

/// The mappings of all ports. See the module's text.
pub struct Relay {
    limits: Limits,
    mappings: Table<Mapping>,
    /// By path, in order of the last datagram.
    by_path: LinkedHashMap<Path, FlowId, ahash::RandomState>,
    /// The newest mapping of a client, whatever address it used: ICMP errors do not say which.
    by_client: HashMap<(u32, SocketAddr), FlowId, ahash::RandomState>,
    wheel: Wheel<FlowId>,
    /// Mappings with something joined.
    holding: Vec<(FlowId, Way)>,
    held_bufs: usize,
    actions: VecDeque<Action>,
    counters: HashMap<u32, Counters>,
}

impl Relay {
    /// A relay without listeners.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            mappings: Table::new(Kind::Udp),
            by_path: LinkedHashMap::with_hasher(ahash::RandomState::default()),
            by_client: HashMap::default(),
            wheel: Wheel::default(),
            holding: Vec::new(),
            held_bufs: 0,
            actions: VecDeque::new(),
            counters: HashMap::new(),
        }
    }

    /// A listener's socket is gone: so are its mappings. Returns what was counted for it.
    pub fn remove_listener(&mut self, listener: u32) -> Counters {
        let ids: Vec<FlowId> =
            self.mappings.iter().filter(|(_, m)| m.path.listener == listener).map(|(id, _)| id).collect();
        for id in ids {
            self.close(id);
        }
        self.counters.remove(&listener).unwrap_or_default()
    }

    /// What was counted for a listener.
    pub fn counters(&self, listener: u32) -> Counters {
        self.counters.get(&listener).copied().unwrap_or_default()
    }

    /// The live mappings, in no order.
    pub fn mappings(&self) -> impl Iterator<Item = Info> {
        self.mappings.iter().map(|(id, m)| Info {
            id,
            path: m.path,
            opened: m.opened,
            last: m.last,
            carried: m.carried,
        })
    }

    /// The path of a mapping that lives.
    pub fn path(&self, id: FlowId) -> Option<Path> {
        self.mappings.get(id).map(|m| m.path)
    }

    /// A client has sent a datagram, or several of `segment` bytes each.
    pub fn from_client(&mut self, now: Time, path: Path, data: Span, segment: Option<u16>) {
        let id = match self.by_path.get(&path) {
            Some(id) => *id,
            None => self.open(now, path),
        };
        self.carry(now, id, Way::ToBackend, data, segment);
    }

    /// The guest has sent a datagram, or several of `segment` bytes each.
    pub fn from_backend(&mut self, now: Time, id: FlowId, data: Span, segment: Option<u16>) {
        self.carry(now, id, Way::ToClient, data, segment);
    }

    fn open(&mut self, now: Time, path: Path) -> FlowId {
        while self.mappings.len() >= self.limits.mappings.max(1)
            && let Some((_, oldest)) = self.by_path.front().map(|(p, id)| (*p, *id))
        {
            self.count(oldest, |c| c.evicted += 1);
            self.close(oldest);
        }
        let (wheel, at) = (&mut self.wheel, now + self.limits.unanswered);
        let id = self.mappings.insert_with(|id| Mapping {
            path,
            ways: [Direction::new(Gate::Shut), Direction::new(Gate::Fresh)],
            opened: now,
            last: now,
            token: wheel.insert(at, id),
            carried: FlowCounters::default(),
        });
        self.by_path.insert(path, id);
        self.by_client.insert((path.listener, path.client), id);
        self.counters.entry(path.listener).or_default().opened += 1;
        self.actions.push_back(Action::Open(id, path));
        id
    }

    fn count(&mut self, id: FlowId, change: impl FnOnce(&mut Counters)) {
        if let Some(m) = self.mappings.get(id) {
            change(self.counters.entry(m.path.listener).or_default());
        }
    }

    fn carry(&mut self, now: Time, id: FlowId, way: Way, data: Span, segment: Option<u16>) {
        let Some(m) = self.mappings.get_mut(id) else {
            self.actions.push_back(Action::Release(data.buf));
            return;
        };
        if m.ways[way as usize].run.is_none() {
            // Once a batch is often enough to know who has been idle for longest.
            self.by_path.to_back(&m.path);
            self.holding.push((id, way));
        }
        let first_answer = way == Way::ToClient && m.carried.packets_up == 0;
        m.last = now;
        let segment = segment.filter(|s| u32::from(*s) < data.len);
        let packets = segment.map_or(1, |s| u64::from(data.len.div_ceil(u32::from(s))));
        let total = &mut self.counters.entry(m.path.listener).or_default().carried;
        for c in [&mut m.carried, total] {
            match way {
                Way::ToBackend => {
                    c.packets_down += packets;
                    c.bytes_down += u64::from(data.len);
                }
                Way::ToClient => {
                    c.packets_up += packets;
                    c.bytes_up += u64::from(data.len);
                }
            }
        }
        if first_answer && self.limits.idle < self.limits.unanswered {
            // A shorter life must be armed at once; a longer one is found when the timer fires.
            self.rearm(id);
        }
        let Some(size) = segment else { return self.join(id, way, data, None) };
        for (i, part) in pieces(data, size).enumerate() {
            if i > 0 {
                self.actions.push_back(Action::Retain(part.buf));
            }
            self.join(id, way, part, Some(size));
        }
    }

    fn join(&mut self, id: FlowId, way: Way, data: Span, segment: Option<u16>) {
        let Some(m) = self.mappings.get_mut(id) else { return };
        let run = &mut m.ways[way as usize].run;
        let alone = match run {
            Some(run) => run.join(data, segment).err(),
            None => Some(data),
        };
        if let Some(data) = alone
            && let Some(full) = run.replace(Run::new(data, segment))
        {
            self.depart(id, way, full);
        }
    }

    /// The batch is over: what was joined goes out.
    pub fn end_batch(&mut self) {
        let mut holding = std::mem::take(&mut self.holding);
        for (id, way) in holding.drain(..) {
            if let Some(run) = self.mappings.get_mut(id).and_then(|m| m.ways[way as usize].run.take()) {
                self.depart(id, way, run);
            }
        }
        self.holding = holding;
    }

    /// A run leaves, or waits for the gate.
    fn depart(&mut self, id: FlowId, way: Way, run: Run) {
        let limits = self.limits;
        let Some(m) = self.mappings.get_mut(id) else { return };
        let direction = &mut m.ways[way as usize];
        if matches!(direction.gate, Gate::Shut | Gate::Probing) {
            let bufs = run.spans().len();
            if direction.held_bufs + bufs > limits.held || self.held_bufs + bufs > limits.held_total {
                self.count(id, |c| c.dropped_held += run.count() as u64);
                return self.release(run.spans());
            }
            direction.held_bufs += bufs;
            self.held_bufs += bufs;
            return direction.held.push_back(run);
        }
        let path = m.path;
        let segment = run.segment();
        if segment.is_some() && direction.gate == Gate::Fresh {
            direction.gate = Gate::Probing;
        }
        let single = direction.gate == Gate::Single;
        match segment {
            Some(size) if single => {
                for spans in crate::buf::join::singles(run.spans(), size) {
                    let one = Send { mapping: id, way, path, spans, segment: None };
                    self.actions.push_back(Action::Send(one));
                }
                self.release(run.spans());
            }
            _ => {
                let bufs: smallvec::SmallVec<[BufId; 8]> = run.spans().iter().map(|s| s.buf).collect();
                let send = Send { mapping: id, way, path, spans: run.into_spans(), segment };
                self.actions.push_back(Action::Send(send));
                self.actions.extend(bufs.into_iter().map(Action::Release));
            }
        }
    }

    fn release(&mut self, spans: &[Span]) {
        self.actions.extend(spans.iter().map(|s| Action::Release(s.buf)));
    }

    fn let_go(&mut self, id: FlowId, way: Way) {
        while let Some(m) = self.mappings.get_mut(id)
            && let direction = &mut m.ways[way as usize]
            && !matches!(direction.gate, Gate::Shut | Gate::Probing)
            && let Some(run) = direction.held.pop_front()
        {
            direction.held_bufs -= run.spans().len();
            self.held_bufs -= run.spans().len();
            self.depart(id, way, run);
        }
    }

    fn set_gate(&mut self, id: FlowId, way: Way, from: &[Gate], to: Gate) {
        if let Some(m) = self.mappings.get_mut(id)
            && let direction = &mut m.ways[way as usize]
            && from.contains(&direction.gate)
        {
            direction.gate = to;
            self.let_go(id, way);
        }
    }

    /// The backend socket is there.
    pub fn opened(&mut self, id: FlowId) {
        self.set_gate(id, Way::ToBackend, &[Gate::Shut], Gate::Fresh);
    }

    /// No backend socket can be made. The next datagram of the client tries again.
    pub fn open_failed(&mut self, id: FlowId) {
        self.count(id, |c| c.open_failed += 1);
        self.close(id);
    }

    /// A segmented send has ended otherwise than by [`Self::cannot_segment`].
    pub fn passed(&mut self, id: FlowId, way: Way) {
        self.set_gate(id, way, &[Gate::Probing], Gate::Proven);
    }

    /// A segmented send was refused as such. The driver has sent its datagrams one by one before it says so.
    pub fn cannot_segment(&mut self, id: FlowId, way: Way) {
        self.set_gate(id, way, &[Gate::Fresh, Gate::Probing, Gate::Proven], Gate::Single);
    }

    /// A send on `path` was given up.
    pub fn send_failed(&mut self, path: &Path) {
        self.counters.entry(path.listener).or_default().dropped_send += 1;
    }

    /// A client's host says that nobody is there: the guest learns of it by its own kernel once the socket is closed.
    pub fn client_gone(&mut self, listener: u32, client: SocketAddr) {
        if let Some(id) = self.by_client.get(&(listener, client)).copied() {
            self.count(id, |c| c.clients_gone += 1);
            self.close(id);
        }
    }

    /// Ends a mapping.
    pub fn close(&mut self, id: FlowId) {
        let Some(m) = self.mappings.remove(id) else { return };
        self.wheel.cancel(m.token);
        self.by_path.remove(&m.path);
        let client = (m.path.listener, m.path.client);
        if self.by_client.get(&client) == Some(&id) {
            self.by_client.remove(&client);
        }
        for direction in m.ways {
            self.held_bufs -= direction.held_bufs;
            for run in direction.held.into_iter().chain(direction.run) {
                self.counters.entry(m.path.listener).or_default().dropped_held += run.count() as u64;
                self.release(run.spans());
            }
        }
        self.actions.push_back(Action::Close(id));
    }

    fn rearm(&mut self, id: FlowId) {
        let Some(m) = self.mappings.get_mut(id) else { return };
        self.wheel.cancel(m.token);
        m.token = self.wheel.insert(m.deadline(&self.limits), id);
    }

    /// When [`Self::handle_timeout`] has something to do, at the earliest.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.wheel.next_deadline()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some(id) = self.wheel.pop_expired(now) {
            match self.mappings.get(id).map(|m| m.deadline(&self.limits)) {
                Some(at) if at > now => self.rearm(id),
                Some(_) => {
                    self.count(id, |c| c.expired += 1);
                    self.close(id);
                }
                None => {}
            }
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}

#[cfg(test)]
mod tests;
