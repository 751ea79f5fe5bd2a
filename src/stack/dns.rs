//! DNS over UDP at the DNS address: queries go to the host's resolvers, answers come back from where they were asked.
//!
//! Theory of operation. Each guest address and port that asks is a client; a client has at most one host socket per
//! family of resolver. Queries go to the resolver that works: the first of resolv.conf, or, for a minute after it failed,
//! the one that answered in its place. A query is kept until it is answered; without an answer within two seconds, or
//! when the resolver's host says that nobody listens, it is sent to the next, once round. Messages are never read, so
//! which of a client's queries an answer belongs to is not known: they count as answered when as many answers as queries
//! have come (times are taken as if answers came in the order of the questions), and until then all of them are sent on. A duplicate answer harms nobody; a lost one costs five seconds.
//!
//! Resolver addresses come from the host's configuration and bypass the policy: 127.0.0.53 works. Limits: a client keeps
//! [`MAX_KEPT`] queries and all together [`MAX_KEPT_ALL`]; those beyond are sent, but not sent again. With one resolver
//! nothing is kept.

use super::Cx;
use super::action::{Action, Close, HostError, HostEvent, Intake, Open};
use super::icmp_error::{self, Errors, Fault, Quote};
use super::udp_emit::{Way, emit};
use super::udp_join::Out;
use crate::buf::{Span, SpanVec};
use crate::flow::wheel::Token;
use crate::flow::{Bins, DropReason, FlowCounters, FlowId, FlowInfo, Kind, Table, Time, Wheel};
use arrayvec::ArrayVec;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Without an answer for this long, the next resolver is asked.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// A client lives this long after its last query.
pub const IDLE: Duration = Duration::from_secs(30);
/// A client whose queries are all answered lives this long after the last answer.
pub const IDLE_ANSWERED: Duration = Duration::from_secs(10);
/// After this long, the first resolver is tried again.
pub const RETURN: Duration = Duration::from_secs(60);
/// Queries kept per client.
pub const MAX_KEPT: usize = 16;
/// Queries kept altogether.
pub const MAX_KEPT_ALL: usize = 256;
/// Questions of a client whose answers are timed.
const MAX_TIMED: usize = 8;
/// A question without an answer for this long is no longer waited for where times are taken.
const LOST: Duration = Duration::from_secs(10);

struct Query {
    span: Span,
    tos: u8,
    /// Index of the resolver asked.
    server: usize,
    /// Resolvers asked so far.
    asked: usize,
    due: Time,
}

struct Client {
    /// The DNS address as dialled.
    dialled: SocketAddr,
    /// The sockets towards IPv4 and IPv6 resolvers.
    flows: [Option<FlowId>; 2],
    kept: SmallVec<[Query; 2]>,
    answers: usize,
    /// When the questions that wait were asked, oldest first; as many as fit.
    asked: ArrayVec<Time, MAX_TIMED>,
    idle_at: Time,
    token: Token,
}

impl Client {
    fn deadline(&self) -> Time {
        self.kept.iter().map(|q| q.due).min().unwrap_or(self.idle_at).min(self.idle_at)
    }
}

struct Flow {
    client: SocketAddr,
    /// The resolver asked last.
    server: SocketAddr,
    opened: Time,
    counters: FlowCounters,
}

/// All DNS clients of one guest.
pub struct Engine {
    servers: Vec<SocketAddr>,
    /// Which resolver new queries go to, and until when if it is not the first.
    preferred: (usize, Time),
    flows: Table<Flow>,
    clients: HashMap<SocketAddr, Client, ahash::RandomState>,
    timers: Wheel<SocketAddr>,
    kept: usize,
    next_id: u16,
    times: Bins,
}

impl Engine {
    /// No clients yet.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            preferred: (0, Time::ZERO),
            flows: Table::new(Kind::Dns),
            clients: HashMap::default(),
            timers: Wheel::default(),
            kept: 0,
            next_id: 1,
            times: Bins::default(),
        }
    }

    /// The host's resolvers have changed. Queries that wait go on with the new ones.
    pub fn set_servers(&mut self, servers: Vec<SocketAddr>) {
        self.servers = servers;
        self.preferred = (0, Time::ZERO);
    }

    fn server(&self, now: Time) -> usize {
        let (server, until) = self.preferred;
        if now < until && server < self.servers.len() { server } else { 0 }
    }

    /// A query from the guest; its buffer belongs to the engine. `room` says whether a new client may be made.
    pub fn query(
        &mut self,
        cx: &mut Cx<'_>,
        errors: &mut Errors,
        (guest, dialled): (SocketAddr, SocketAddr),
        (span, tos): (Span, u8),
        room: bool,
    ) {
        if self.servers.is_empty() {
            cx.drop(DropReason::HostRefused);
            errors.report(cx, None, &Quote::Udp(guest, dialled), Fault::Port);
            return cx.act(Action::Release(span.buf));
        }
        if !self.clients.contains_key(&guest) && !cx.may_open(room) {
            return cx.act(Action::Release(span.buf));
        }
        let idle_at = cx.now + IDLE;
        let timers = &mut self.timers;
        let client = self.clients.entry(guest).or_insert_with(|| Client {
            dialled,
            flows: [None; 2],
            kept: SmallVec::new(),
            answers: 0,
            asked: ArrayVec::new(),
            idle_at,
            token: timers.insert(idle_at, guest),
        });
        client.idle_at = idle_at;
        let _ = client.asked.try_push(cx.now);
        let keep = self.servers.len() > 1 && client.kept.len() < MAX_KEPT && self.kept < MAX_KEPT_ALL;
        let server = self.server(cx.now);
        self.send(cx, guest, self.servers[server], span, tos);
        if !keep {
            return cx.act(Action::Release(span.buf));
        }
        self.kept += 1;
        let due = cx.now + PATIENCE;
        if let Some(client) = self.clients.get_mut(&guest) {
            client.kept.push(Query { span, tos, server, asked: 1, due });
        }
        self.rearm(guest);
    }

    fn send(&mut self, cx: &mut Cx<'_>, guest: SocketAddr, to: SocketAddr, span: Span, tos: u8) {
        let Some(client) = self.clients.get_mut(&guest) else { return };
        let slot = &mut client.flows[usize::from(to.is_ipv6())];
        let id = match *slot {
            Some(id) => id,
            None => {
                let id = self.flows.insert(Flow {
                    client: guest,
                    server: to,
                    opened: cx.now,
                    counters: FlowCounters::default(),
                });
                *slot = Some(id);
                cx.counters.flows_opened += 1;
                let bind = cx.net.outbound.for_dest(to.ip()).filter(|_| !to.ip().is_loopback());
                cx.act(Action::Open(id, Open::Udp { sample: to, bind }));
                cx.act(Action::Receive(id, Intake::On));
                id
            }
        };
        if let Some(f) = self.flows.get_mut(id) {
            f.server = to;
            f.counters.packets_up += 1;
            f.counters.bytes_up += u64::from(span.len);
        }
        let out = Out { to, ttl: 64, tos, dont_fragment: false };
        cx.act(Action::SendDatagrams(id, out.datagrams(SpanVec::from_slice(&[span]), None)));
    }

    /// Arms the client's timer for what it waits for now.
    fn rearm(&mut self, guest: SocketAddr) {
        if let Some(client) = self.clients.get_mut(&guest) {
            let deadline = client.deadline();
            if client.token.at() != deadline {
                self.timers.cancel(client.token);
                client.token = self.timers.insert(deadline, guest);
            }
        }
    }

    /// Something happened on a client's socket.
    pub fn host(&mut self, cx: &mut Cx<'_>, errors: &mut Errors, id: FlowId, event: &HostEvent) {
        match *event {
            HostEvent::Datagrams { from, data, segment, tos } => {
                self.answer(cx, id, from, data, segment, tos);
                cx.act(Action::Release(data.buf));
            }
            HostEvent::DatagramsFailed { to, error } => match error {
                HostError::Exhausted => cx.drop(DropReason::NoRoom),
                HostError::TooBig(_) => {
                    if let (Some(quote), Ok(fault)) = (self.quote(id), icmp_error::fault_of(error)) {
                        errors.report(cx, None, &quote, fault);
                    }
                }
                _ => self.refused(cx, errors, id, to),
            },
            // Unreachable of any kind; time exceeded says nothing about the resolver.
            HostEvent::Icmp(e) if e.icmp_type == if e.to.is_ipv6() { 1 } else { 3 } => {
                self.refused(cx, errors, id, e.to);
            }
            HostEvent::Icmp(_) => cx.drop(DropReason::Unsupported),
            HostEvent::ConnectFailed(_) | HostEvent::ReceiveFailed(_) => {
                cx.drop(DropReason::HostRefused);
                if let Some(guest) = self.flows.get(id).map(|f| f.client) {
                    self.close(cx, guest);
                }
            }
            ref other => super::release_of(cx, other),
        }
    }

    fn quote(&self, id: FlowId) -> Option<Quote> {
        let guest = self.flows.get(id)?.client;
        Some(Quote::Udp(guest, self.clients.get(&guest)?.dialled))
    }

    fn position(&self, server: SocketAddr) -> Option<usize> {
        self.servers.iter().position(|s| s.ip() == server.ip() && s.port() == server.port())
    }

    fn answer(
        &mut self,
        cx: &mut Cx<'_>,
        id: FlowId,
        from: SocketAddr,
        data: Span,
        segment: Option<u16>,
        tos: u8,
    ) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let guest = flow.client;
        let first = flow.counters.packets_down == 0;
        flow.counters.packets_down += 1;
        flow.counters.bytes_down += u64::from(data.len);
        let Some(server) = self.position(from) else { return cx.drop(DropReason::Filtered) };
        if first {
            cx.gate.answered();
        }
        if server != self.server(cx.now) {
            self.preferred = (server, cx.now + RETURN);
        }
        let Some(client) = self.clients.get_mut(&guest) else { return };
        let answers = match segment {
            Some(size) if size > 0 => data.len.div_ceil(u32::from(size)).max(1) as usize,
            _ => 1,
        };
        client.answers += answers;
        client.asked.retain(|at| cx.now.since(*at) < LOST);
        for at in client.asked.drain(..answers.min(client.asked.len())) {
            self.times.record_time(cx.now.since(at));
        }
        if client.answers >= client.kept.len() {
            client.answers = 0;
            client.idle_at = cx.now + IDLE_ANSWERED;
            self.kept -= client.kept.len();
            for q in client.kept.drain(..) {
                cx.act(Action::Release(q.span.buf));
            }
        }
        let way = Way { from: client.dialled, to: guest, tos };
        emit(cx, &mut self.next_id, &way, data, segment);
        self.rearm(guest);
    }

    /// A resolver's host refuses: what this client asked it goes to the next one, and so do new queries.
    fn refused(&mut self, cx: &mut Cx<'_>, errors: &mut Errors, id: FlowId, to: SocketAddr) {
        let Some(guest) = self.flows.get(id).map(|f| f.client) else { return };
        let Some(server) = self.position(to) else { return };
        if server == self.server(cx.now) && self.servers.len() > 1 {
            self.preferred = ((server + 1) % self.servers.len(), cx.now + RETURN);
        }
        let given_up = self.pass_on(cx, guest, |q| q.server == server);
        if (given_up || self.servers.len() == 1)
            && let Some(quote) = self.quote(id)
        {
            errors.report(cx, None, &quote, Fault::Port);
        }
        self.rearm(guest);
    }

    /// Sends those queries of a client that `which` picks to the next resolver. True when one of them has been round.
    fn pass_on(&mut self, cx: &mut Cx<'_>, guest: SocketAddr, which: impl Fn(&Query) -> bool) -> bool {
        let n = self.servers.len();
        let Some(client) = self.clients.get_mut(&guest) else { return false };
        let mut resend: SmallVec<[(Span, u8, usize); 2]> = SmallVec::new();
        let before = client.kept.len();
        client.kept.retain(|q| {
            if !which(q) {
                return true;
            }
            if q.asked >= n {
                cx.act(Action::Release(q.span.buf));
                return false;
            }
            q.asked += 1;
            q.server = (q.server + 1) % n;
            q.due = cx.now + PATIENCE;
            resend.push((q.span, q.tos, q.server));
            true
        });
        let given_up = before - client.kept.len();
        self.kept -= given_up;
        for (span, tos, server) in resend {
            self.send(cx, guest, self.servers[server], span, tos);
        }
        given_up > 0
    }

    /// Time has passed.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        while let Some(guest) = self.timers.pop_expired(cx.now) {
            let Some(client) = self.clients.get(&guest) else { continue };
            if client.idle_at <= cx.now {
                self.close(cx, guest);
                continue;
            }
            let now = cx.now;
            self.pass_on(cx, guest, |q| q.due <= now);
            if let Some(client) = self.clients.get_mut(&guest) {
                client.token = self.timers.insert(client.deadline(), guest);
            }
        }
    }

    fn close(&mut self, cx: &mut Cx<'_>, guest: SocketAddr) {
        let Some(client) = self.clients.remove(&guest) else { return };
        self.timers.cancel(client.token);
        self.kept -= client.kept.len();
        for q in client.kept {
            cx.act(Action::Release(q.span.buf));
        }
        for id in client.flows.into_iter().flatten() {
            self.flows.remove(id);
            cx.counters.flows_closed += 1;
            cx.act(Action::Close(id, Close::Orderly));
        }
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.next_deadline()
    }

    /// Live host sockets.
    pub fn live(&self) -> usize {
        self.flows.len()
    }

    /// The socket by which the questions of a client go, for queries.
    pub fn find(&self, guest: SocketAddr, dialled: SocketAddr) -> Option<FlowId> {
        let client = self.clients.get(&guest).filter(|client| client.dialled == dialled)?;
        client.flows.iter().flatten().next().copied()
    }

    /// One socket, for queries.
    pub fn flow(&self, id: FlowId) -> Option<FlowInfo> {
        self.flows.get(id).map(|f| self.info(id, f))
    }

    /// The sockets in slots from `index` on, for pages of a listing.
    pub fn flows_from(&self, index: usize) -> impl Iterator<Item = FlowInfo> + '_ {
        self.flows.iter_from(index).map(|(id, f)| self.info(id, f))
    }

    /// How long answers took to come, in microseconds.
    pub const fn times(&self) -> &Bins {
        &self.times
    }

    /// Every socket, for queries.
    pub fn flows(&self) -> impl Iterator<Item = FlowInfo> + '_ {
        self.flows.iter().map(|(id, f)| self.info(id, f))
    }

    fn info(&self, id: FlowId, f: &Flow) -> FlowInfo {
        let client = self.clients.get(&f.client);
        FlowInfo {
            id,
            guest: f.client,
            remote: client.map(|c| c.dialled),
            host: Some(f.server),
            state: "open",
            opened: f.opened,
            counters: f.counters,
            rtt: None,
            queued_up: client.map_or(0, |c| c.kept.iter().map(|q| q.span.len as usize).sum()),
            queued_down: 0,
            memory: size_of::<Flow>() + size_of::<Client>(),
        }
    }
}
