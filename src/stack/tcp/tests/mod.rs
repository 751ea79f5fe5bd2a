//! Behaviour of the engine, one file per subject.
//!
//! [`World`] plays the plane and the host; the tests play the guest with segments spelled out. Every buffer handed to
//! the engine is tracked: releasing one twice, or one that is not the engine's, fails the test at once.

mod abuse;
mod closing;
mod intake;
mod opening;
mod receiving;
mod recovery;
mod sweep;

use super::Engine;
use crate::buf::{BufId, Class, Span};
use crate::config::Network;
use crate::flow::{FlowId, PlaneCounters, Time};
use crate::nat::Policy;
use crate::stack::gate::Gate;
use crate::stack::link::Link;
use crate::stack::{Action, Close, Cx, HostError, HostEvent, Intake, Open};
use crate::wire::parse::Net;
use crate::wire::tcp::{Flags, Options};
use crate::wire::{Gso, Ip, Payload, Tcp};
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

pub const GUEST: &str = "10.0.2.100:40000";
pub const REMOTE: &str = "198.51.100.2:80";
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The guest's first sequence number: close to the wrap, so that every test crosses it.
pub const IRS: u32 = u32::MAX - 1000;

/// A segment that the engine sent.
#[derive(Clone, Debug)]
pub struct Seg {
    pub tcp: Tcp,
    pub len: usize,
    pub gso: Gso,
    pub spans: Vec<Span>,
}

impl Seg {
    pub fn is(&self, flags: Flags) -> bool {
        self.tcp.flags.has(flags)
    }
}

/// The plane, the host and the clock.
pub struct World {
    pub net: Network,
    nat: Policy,
    link: Link,
    pub gate: Gate,
    out: VecDeque<Action>,
    pub counters: PlaneCounters,
    pub engine: Engine,
    pub now: Time,
    pub live: HashSet<BufId>,
    next_buf: u32,
    pub guest: SocketAddr,
    pub remote: SocketAddr,
}

impl World {
    pub fn new() -> Self {
        Self::with(Network::default(), GUEST, REMOTE)
    }

    pub fn v6() -> Self {
        Self::with(Network::default(), "[fd00::100]:40000", "[2001:db8::1]:80")
    }

    pub fn with(net: Network, guest: &str, remote: &str) -> Self {
        let (guest, remote): (SocketAddr, SocketAddr) = (guest.parse().unwrap(), remote.parse().unwrap());
        let mut link = Link::new(&net);
        link.learn(Time::ZERO, guest.ip(), MAC);
        Self {
            nat: Policy::new(net.clone()),
            link,
            net,
            gate: Gate::new(1_000_000, 1_000_000),
            out: VecDeque::new(),
            counters: PlaneCounters::default(),
            engine: Engine::new([7; 16], 1000),
            now: Time::from_millis(1_000_000),
            live: HashSet::new(),
            next_buf: 0,
            guest,
            remote,
        }
    }

    pub fn run<R>(&mut self, f: impl FnOnce(&mut Engine, &mut Cx<'_>) -> R) -> R {
        let mut cx = Cx {
            now: self.now,
            net: &self.net,
            nat: &self.nat,
            link: &self.link,
            gate: &mut self.gate,
            out: &mut self.out,
            counters: &mut self.counters,
        };
        f(&mut self.engine, &mut cx)
    }

    pub fn buf(&mut self, class: Class, len: usize) -> Span {
        let id = BufId::new(class, self.next_buf);
        self.next_buf += 1;
        self.live.insert(id);
        Span::new(id, 66, len as u32)
    }

    /// A segment from the guest; payload up to 4 KiB comes in a small buffer, as from the plane.
    pub fn segment(&mut self, tcp: &Tcp, len: usize) {
        let class = if len <= 4096 { Class::Small } else { Class::Tap };
        let span = self.buf(class, len);
        let ip = Ip {
            src: self.guest.ip(),
            dst: self.remote.ip(),
            protocol: 6,
            ttl: 64,
            tos: 0,
            dont_fragment: true,
            fragment: None,
            header_at: 14,
            payload_at: 34,
            payload_len: (20 + len) as u16,
        };
        self.run(|e, cx| e.segment(cx, &ip, tcp, span, true));
    }

    /// A plain segment of the guest's.
    pub fn tcp(&self, seq: u32, ack: u32, flags: Flags) -> Tcp {
        Tcp {
            src_port: self.guest.port(),
            dst_port: self.remote.port(),
            seq,
            ack,
            flags,
            window: 65535,
            urgent: 0,
            options: Options::default(),
        }
    }

    pub fn host(&mut self, id: FlowId, event: HostEvent) {
        self.run(|e, cx| e.host(cx, id, event));
    }

    /// Bytes from the host, in buffers of 64 KiB.
    pub fn receive(&mut self, id: FlowId, len: usize) {
        let mut left = len;
        while left > 0 {
            let n = left.min(65536);
            let class = if n <= 4096 { Class::Small } else { Class::Host };
            let mut span = self.buf(class, n);
            span.off = 0;
            self.host(id, HostEvent::Received(span));
            left -= n;
        }
    }

    /// Ends the batch and hands over what is to be done, buffers settled.
    pub fn flush(&mut self) -> Vec<Action> {
        self.run(|e, cx| e.end_batch(cx));
        self.actions()
    }

    pub fn actions(&mut self) -> Vec<Action> {
        let mut out = Vec::new();
        while let Some(action) = self.out.pop_front() {
            match &action {
                Action::Release(buf) => assert!(self.live.remove(buf), "{buf:?} released and not held"),
                Action::Copy { from, to } => {
                    assert!(self.live.contains(&from.buf) && self.live.contains(&to.buf));
                    assert_eq!(from.len, to.len);
                    out.push(action);
                }
                Action::Emit(e) => {
                    assert!(e.spans.iter().all(|s| self.live.contains(&s.buf)));
                    out.push(action);
                }
                Action::SendStream(_, spans) => {
                    assert!(!spans.is_empty() && spans.iter().all(|s| self.live.contains(&s.buf)));
                    out.push(action);
                }
                _ => out.push(action),
            }
        }
        out
    }

    /// Lets time pass and hands over what is to be done then.
    pub fn wait(&mut self, d: Duration) -> Vec<Action> {
        let end = self.now + d;
        let mut out = Vec::new();
        while let Some(at) = self.engine.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.run(|e, cx| e.timeout(cx));
            out.extend(self.actions());
        }
        self.now = end;
        out
    }

    /// The guest dials with all options; says the flow's name.
    pub fn dial(&mut self) -> FlowId {
        let syn = self.syn();
        self.segment(&syn, 0);
        let actions = self.flush();
        match actions.as_slice() {
            [Action::Open(id, Open::Tcp { .. })] => *id,
            other => panic!("{other:?}"),
        }
    }

    pub fn syn(&self) -> Tcp {
        let mut syn = self.tcp(IRS, 0, Flags::SYN);
        syn.options.mss = Some(1460);
        syn.options.window_scale = Some(7);
        syn.options.sack_permitted = true;
        syn
    }

    /// Dials and completes the handshake.
    pub fn establish(&mut self) -> Established {
        let syn = self.syn();
        self.establish_with(&syn)
    }

    pub fn establish_with(&mut self, syn: &Tcp) -> Established {
        self.segment(syn, 0);
        let opened = self.flush();
        let [Action::Open(id, _)] = opened.as_slice() else { panic!("{opened:?}") };
        self.host(*id, HostEvent::Connected);
        let reply = segments(&self.flush());
        assert_eq!(reply.len(), 1);
        assert!(reply[0].is(Flags::SYN.with(Flags::ACK)));
        let ack = self.tcp(IRS.wrapping_add(1), reply[0].tcp.seq.wrapping_add(1), Flags::ACK);
        self.segment(&ack, 0);
        let rest = self.flush();
        assert!(
            matches!(rest[..], [Action::Receive(to, how)] if to == *id && how != Intake::Off),
            "{rest:?}"
        );
        Established { id: *id, guest: ack.seq, ours: ack.ack }
    }

    /// Checks that nothing is left anywhere.
    pub fn assert_empty(&self) {
        assert!(self.engine.is_empty());
        assert!(self.live.is_empty(), "{:?}", self.live);
        assert_eq!(self.counters.flows_opened, self.counters.flows_closed);
        assert_eq!(self.engine.pool.held, super::pool::Held::default());
        assert_eq!((self.engine.pool.orphans, self.engine.half_open_count), (0, 0));
        assert!(self.engine.wheel.is_empty() && self.engine.keys.is_empty());
    }
}

/// A connection that stands: its name and both sides' next sequence numbers.
#[derive(Clone, Copy, Debug)]
pub struct Established {
    pub id: FlowId,
    pub guest: u32,
    pub ours: u32,
}

/// The segments among some actions.
pub fn segments(actions: &[Action]) -> Vec<Seg> {
    actions.iter().filter_map(segment).collect()
}

fn segment(action: &Action) -> Option<Seg> {
    let Action::Emit(emit) = action else { return None };
    let len = emit.payload_len();
    let mut bytes = emit.head.to_vec();
    bytes.resize(emit.head.len() + len, 0);
    let frame = crate::wire::parse(&bytes).expect("a frame of ours parses");
    assert_eq!(frame.dst_mac, MAC);
    let Net::Ip(_, Payload::Tcp(tcp, range)) = frame.net else { panic!("{frame:?}") };
    assert_eq!(range.len(), len);
    Some(Seg { tcp, len, gso: emit.gso, spans: emit.spans.to_vec() })
}

/// The single segment among some actions.
pub fn only(actions: &[Action]) -> Seg {
    let mut all = segments(actions);
    assert_eq!(all.len(), 1, "{actions:?}");
    all.remove(0)
}

/// Bytes lent by the single send among some actions.
pub fn sent(actions: &[Action]) -> usize {
    let all: Vec<usize> = actions
        .iter()
        .filter_map(|a| match a {
            Action::SendStream(_, spans) => Some(spans.iter().map(|s| s.len as usize).sum()),
            _ => None,
        })
        .collect();
    assert_eq!(all.len(), 1, "{actions:?}");
    all[0]
}

pub fn closed(actions: &[Action]) -> Option<Close> {
    actions.iter().find_map(|a| match a {
        Action::Close(_, how) => Some(*how),
        _ => None,
    })
}
