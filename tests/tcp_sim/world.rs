//! The simulated world: guest, impaired wire, stack, host. One queue of events in virtual time drives everything.
//!
//! Frames of the stack are cut as a tap without offload would get them, lost, doubled, delayed and reordered, and the
//! other way round. Buffers are limited as in the real arena: a frame that finds no slot is lost.

use crate::arena::Arena;
use crate::guest::{End, Guest};
use crate::host::{Peer, Sock};
use crate::rng::{Rng, byte};
use ringtap::buf::{Class, HOST_SLOT, SMALL_MAX, SMALL_SLOT, Span};
use ringtap::config::{Network, Resolvers, SourceIp};
use ringtap::flow::{FlowId, Time};
use ringtap::stack::{Action, FrameMeta, HostError, HostEvent, Intake, Limits, Open, Stack};
use ringtap::wire::checksum::frame_is_sound;
use ringtap::wire::parse::Net;
use ringtap::wire::segment::{Caps, Scratch, cut};
use ringtap::wire::tcp::Flags;
use ringtap::wire::{Gso, Payload, Tcp, parse};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

/// Instants that a run may take.
const MAX_STEPS: u32 = 1_000_000;

/// Retransmissions without an answer after which the stack may give a connection up whose host side is over.
const GIVES_UP_AFTER: u32 = 8;

/// Questions whether a silent guest is still there, after which the stack may give it up (`stack::tcp::tuning`).
const ASKS: u32 = 6;

/// What went to one of the guest's ports since a frame came from there.
#[derive(Default)]
struct Unheard {
    /// Segments that want an acknowledgement.
    segments: u32,
    /// Questions whether it is there: they say the last number again (RFC 9293 section 3.8.4).
    asks: u32,
    /// The number behind all that was sent.
    end: u32,
}

/// What can happen.
enum Event {
    ToGuest(Vec<u8>),
    ToStack(Vec<u8>),
    Connected(FlowId),
    Receive(FlowId),
    Sent(FlowId),
    /// A client comes to the published port of this number.
    Dial(u16),
}

/// What goes wrong besides, from a generator of its own: the rest of a seed's world is the same without it.
struct Hardship {
    rng: Rng,
    /// Frames of which one bit is turned, per mille.
    corrupt: u64,
    /// Allocations of buffers that fail, per mille, whatever is free.
    starve: u64,
    /// Sockets that the host cannot make, per mille.
    exhausted: u64,
}

/// Bytes of the stream that a hard world adds, each way, at least.
const MEBIBYTE: u64 = 1 << 20;

/// How bad the wire is.
#[derive(Clone, Debug)]
struct Wire {
    loss: u64,
    double: u64,
    late: u64,
    delay: (u64, u64),
}

/// Everything.
pub struct World {
    rng: Rng,
    now: Time,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: HashMap<u64, Event>,
    order: u64,
    wire: Wire,
    caps: Caps,
    scratch: Scratch,
    stack: Stack,
    arena: Arena,
    guest: Guest,
    addr: IpAddr,
    remote: IpAddr,
    socks: HashMap<FlowId, Sock>,
    /// Peers to be, by stream.
    peers: HashMap<u16, Peer>,
    over: Vec<Sock>,
    turn_at: Time,
    /// By the guest's ports.
    unheard: HashMap<u16, Unheard>,
    /// Ports whose connection was given up for want of answers.
    unlucky: HashSet<u16>,
    hardship: Option<Hardship>,
    /// Frames whose checksum was found wrong, of those that were corrupted.
    unsound: u64,
}

impl World {
    /// The world of this seed; `published` makes most connections come from the host's side.
    pub fn new(seed: u64, published: bool) -> Self {
        let mut rng = Rng::new(seed);
        let net = Network { mtu: rng.pick(&[576, 1500, 1500, 9000]), ..Network::default() };
        let v6 = net.mtu >= 1280 && rng.per_mille(400);
        let (addr, gateway, remote) = if v6 {
            ("fd00::100", "fd00::2", "2001:db8::1")
        } else {
            ("10.0.2.100", "10.0.2.2", "198.51.100.2")
        };
        let parse = |a: &str| a.parse::<IpAddr>().expect("an address");
        let (addr, remote) = (parse(addr), parse(remote));
        let mut guest = Guest::new(rng.next(), net.mtu.into(), addr, parse(gateway), remote);
        let mut peers = HashMap::new();
        let most = rng.pick(&[0, 2_000, 50_000, 400_000]);
        for i in 0..rng.range(1, 5) {
            let (up, down) = (rng.range(0, most), rng.range(0, most));
            let end = match rng.range(0, 9) {
                0 => End::Abort(rng.range(0, up + down)),
                1 => End::Vanish(rng.range(0, up + down)),
                2..=5 => End::CloseAfterReading,
                _ => End::CloseAfterSending,
            };
            let mut peer = Peer::new(&mut rng, down);
            // Somebody has to be first.
            peer.ends_last &= end != End::CloseAfterReading;
            guest.add(&mut rng, 2 * i, up, end);
            peers.insert(40_000 + 2 * i as u16, peer);
        }
        let delay = rng.pick(&[10, 500, 10_000]);
        let wire = Wire {
            loss: rng.pick(&[0, 0, 5, 50, 150]),
            double: rng.pick(&[0, 0, 20, 200]),
            late: rng.pick(&[0, 0, 20, 300]),
            delay: (delay, delay + rng.pick(&[0, 10, 2_000])),
        };
        let caps = Caps { vnet: false, csum: false, tso4: false, tso6: false, uso: false, mtu: net.mtu };
        let slots = [rng.pick(&[8, 64]), rng.pick(&[64, 256]), rng.pick(&[64, 4096])];
        let arena = Arena::new(slots);
        let limits = Limits { flows: 1000, ..Limits::default() };
        let mut stack = Stack::new(net, Resolvers::default(), limits, [3; 32]);
        stack.set_buffers(slots);
        let mut world = Self {
            stack,
            rng,
            now: Time::from_millis(1),
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            order: 0,
            wire,
            caps,
            scratch: Scratch::new(1),
            arena,
            guest,
            addr,
            remote,
            socks: HashMap::new(),
            peers,
            over: Vec::new(),
            turn_at: Time::from_millis(1),
            unheard: HashMap::new(),
            unlucky: HashSet::new(),
            hardship: None,
            unsound: 0,
        };
        for i in 0..if published { world.guest.apps.len() } else { 0 } {
            if world.rng.per_mille(800) {
                world.guest.apps[i].listens = true;
                let (port, at) = (40_000 + world.guest.apps[i].stream as u16, world.guest.apps[i].starts);
                // Once it listens; some are earlier, and are refused.
                let late = world.rng.range(0, 50);
                world.later((at + late) * 1000, Event::Dial(port));
            }
        }
        world
    }

    /// Makes everything harder: bits turn over on the wire, buffers and sockets run out at any moment, and one more
    /// connection carries a mebibyte and more each way, from end to end.
    pub fn harden(mut self, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let stream = 2 * self.guest.apps.len() as u64;
        let (up, down) = (MEBIBYTE + rng.range(0, 100_000), MEBIBYTE + rng.range(0, 100_000));
        let mut peer = Peer::new(&mut rng, down);
        (peer.refuses, peer.resets_at) = (false, None);
        let end = rng.pick(&[End::CloseAfterReading, End::CloseAfterSending]);
        peer.ends_last &= end != End::CloseAfterReading;
        self.guest.add(&mut rng, stream, up, end);
        self.peers.insert(40_000 + stream as u16, peer);
        self.hardship = Some(Hardship {
            corrupt: rng.pick(&[0, 5, 30]),
            starve: rng.pick(&[0, 20, 150]),
            exhausted: rng.pick(&[0, 100]),
            rng,
        });
        self
    }

    /// True when the hardship of this kind strikes.
    fn strikes(&mut self, of: impl Fn(&Hardship) -> u64) -> bool {
        self.hardship.as_mut().is_some_and(|h| {
            let per_mille = of(h);
            h.rng.per_mille(per_mille)
        })
    }

    /// A buffer with these bytes, unless there is none.
    fn fill(&mut self, class: Class, bytes: &[u8]) -> Option<Span> {
        if self.strikes(|h| h.starve) { None } else { self.arena.fill(class, bytes) }
    }

    /// Turns one bit, of what a checksum covers: the link's own would find the rest.
    fn corrupted(&mut self, mut frame: Vec<u8>) -> Vec<u8> {
        if frame[12..14] != [8, 6]
            && self.strikes(|h| h.corrupt)
            && let Some(h) = &mut self.hardship
        {
            let bit = h.rng.range(14 * 8, frame.len() as u64 * 8 - 1);
            frame[bit as usize / 8] ^= 1 << (bit % 8);
        }
        frame
    }

    fn later(&mut self, micros: u64, event: Event) {
        let at = Time::from_nanos(self.now.as_nanos() + micros * 1000);
        self.order += 1;
        self.queue.push(Reverse((at, self.order)));
        self.events.insert(self.order, event);
    }

    /// Runs until everything is over. Panics when something is wrong, or when it takes longer than a (virtual) day.
    pub fn run(mut self) {
        let day = Time::from_millis(86_400_000);
        // Far above what any seed needs: two ends that keep each other busy fail rather than hang.
        for step in 0.. {
            assert!(step < MAX_STEPS, "livelock at {} ms: {:?}", self.now.as_millis(), self.report());
            let timers = [self.queue.peek().map(|e| e.0.0), self.stack.poll_timeout()];
            let turn = (self.turn_at < Time::MAX).then_some(self.turn_at);
            let Some(next) = timers.into_iter().flatten().chain(turn).min() else { break };
            if self.guest.busy() == 0 && self.idle() {
                break;
            }
            assert!(next < day, "stuck: {:?}", self.report());
            self.now = self.now.max(next);
            self.step();
        }
        self.check();
    }

    fn report(&self) -> String {
        let flows: Vec<_> = self.stack.flows().collect();
        format!("{flows:#?} {:#?}", self.guest.apps)
    }

    fn flows(&self) -> u64 {
        self.stack.counters().flows_opened - self.stack.counters().flows_closed
    }

    fn idle(&self) -> bool {
        self.flows() == 0 && self.queue.is_empty()
    }

    /// Everything that happens at this instant, as one batch.
    fn step(&mut self) {
        let mut heard = self.turn_at <= self.now;
        while let Some(Reverse((at, order))) = self.queue.peek().copied()
            && at <= self.now
        {
            self.queue.pop();
            match self.events.remove(&order).expect("each event once") {
                Event::ToGuest(frame) => {
                    heard = true;
                    if frame_is_sound(&frame)
                        && let Some((tcp, _)) = segment(&frame)
                        && tcp.flags.has(Flags::ACK)
                    {
                        self.guest.told(tcp.dst_port, tcp.ack, tcp.window);
                    }
                    self.guest.link.rx.push_back(frame);
                }
                Event::ToStack(frame) => self.frame(&frame),
                Event::Connected(id) => self.connected(id),
                Event::Receive(id) => self.receive(id),
                Event::Sent(id) => self.sent(id),
                Event::Dial(port) => self.dial(port),
            }
        }
        if self.stack.poll_timeout().is_some_and(|at| at <= self.now) {
            self.stack.handle_timeout(self.now);
        }
        self.stack.end_batch(self.now);
        self.actions();
        if heard {
            self.guest.turn(self.now.as_millis(), &mut self.rng);
            while let Some(frame) = self.guest.link.tx.pop_front() {
                if let Some((tcp, len)) = segment(&frame)
                    && len > 0
                {
                    self.guest.spoke(tcp.src_port, tcp.seq, len, self.now.as_millis());
                }
                self.transmit(frame, false);
            }
            let next = self.guest.next_turn(self.now.as_millis());
            self.turn_at = next.map_or(Time::MAX, Time::from_millis);
        }
    }

    /// Puts a frame on the wire.
    fn transmit(&mut self, frame: Vec<u8>, to_guest: bool) {
        if to_guest && let Some((tcp, len)) = segment(&frame) {
            self.note_unheard(&tcp, len as u32);
        }
        if self.rng.per_mille(self.wire.loss) {
            return;
        }
        let copies = 1 + u64::from(self.rng.per_mille(self.wire.double));
        for _ in 0..copies {
            let (low, high) = self.wire.delay;
            let late = if self.rng.per_mille(self.wire.late) { 3 * high } else { 0 };
            let delay = self.rng.range(low, high) + late;
            let frame = self.corrupted(frame.clone());
            self.later(delay, if to_guest { Event::ToGuest(frame) } else { Event::ToStack(frame) });
        }
    }

    /// A segment goes to the guest, which answers those that `ask`. A connection that is reset after as many as the stack
    /// tries has met with bad luck: where a seventh of all frames is lost, that happens once in some ten thousand runs.
    fn note_unheard(&mut self, tcp: &Tcp, len: u32) {
        let unheard = self.unheard.entry(tcp.dst_port).or_default();
        let numbers = len + u32::from(tcp.flags.has(Flags::FIN)) + u32::from(tcp.flags.has(Flags::SYN));
        let end = tcp.seq.wrapping_add(numbers);
        unheard.segments += u32::from(len > 0 || tcp.flags.has(Flags::FIN));
        unheard.asks += u32::from(numbers == 0 && tcp.seq.wrapping_add(1) == unheard.end);
        if numbers > 0 {
            unheard.end = end;
        }
        if tcp.flags.has(Flags::RST) && (unheard.segments >= GIVES_UP_AFTER || unheard.asks >= ASKS) {
            self.unlucky.insert(tcp.dst_port);
        }
    }

    /// A frame reaches the tap. As in the plane, a short one is copied to a small buffer if there is one.
    fn frame(&mut self, bytes: &[u8]) {
        if self.guest.vanished(source_port(bytes)) {
            return;
        }
        // As the plane does for frames that nobody vouches for.
        if !frame_is_sound(bytes) {
            self.unsound += 1;
            return;
        }
        let small = bytes.len() <= SMALL_MAX.min(SMALL_SLOT);
        let span = small.then(|| self.fill(Class::Small, bytes)).flatten();
        let Some(span) = span.or_else(|| self.fill(Class::Tap, bytes)) else { return };
        let unheard = self.unheard.entry(source_port(bytes)).or_default();
        (unheard.segments, unheard.asks) = (0, 0);
        self.stack.handle_frame(self.now, FrameMeta { gso: Gso::None }, bytes, span);
        self.actions();
    }

    fn host(&mut self, id: FlowId, event: HostEvent) {
        self.stack.handle_host(self.now, id, event);
        self.actions();
    }

    fn connected(&mut self, id: FlowId) {
        let exhausted = self.strikes(|h| h.exhausted);
        let Some(sock) = self.socks.get_mut(&id) else { return };
        let event = if exhausted {
            sock.reset = true;
            sock.peer.refuses = true;
            HostEvent::ConnectFailed(HostError::Exhausted)
        } else if sock.peer.refuses {
            sock.reset = true;
            HostEvent::ConnectFailed(HostError::Refused)
        } else {
            HostEvent::Connected
        };
        self.host(id, event);
    }

    /// A client's socket, which stands already, and its flow.
    fn dial(&mut self, port: u16) {
        let client = SocketAddr::new(self.remote, port);
        let guest = SocketAddr::new(self.addr, port);
        let flow = self.stack.accept_stream(self.now, guest, client, SourceIp::Preserve);
        let peer = self.peers.get(&port).expect("a known port").clone();
        let mut sock = Sock::new(Peer { refuses: false, ..peer }, u64::from(port - 40_000));
        sock.client = true;
        self.socks.insert(flow.expect("room for a few"), sock);
        self.actions();
    }

    fn receive(&mut self, id: FlowId) {
        let Some(sock) = self.socks.get_mut(&id) else { return };
        sock.receive_pending = false;
        if sock.reset {
            return;
        }
        if sock.resets_now() {
            sock.reset = true;
            self.host(id, HostEvent::ReceiveFailed(HostError::Reset));
            return;
        }
        if sock.given == sock.peer.to_send {
            if sock.has_news() {
                sock.eof_told = true;
                self.host(id, HostEvent::Eof);
            }
            return;
        }
        let n = self.rng.pick(&[1u64, 700, 4_096, 20_000, HOST_SLOT as u64]);
        let n = match sock.intake {
            Intake::Off => return,
            Intake::On => n,
            Intake::Piece(most) => n.min(u64::from(most)),
        };
        let n = n.min(sock.peer.to_send - sock.given);
        if sock.intake != Intake::On {
            sock.intake = Intake::Off;
        }
        let (stream, from) = (sock.stream + 1, sock.given);
        let bytes: Vec<u8> = (from..from + n).map(|i| byte(stream, i)).collect();
        let class = if n as usize <= SMALL_MAX { Class::Small } else { Class::Host };
        let span = self.fill(class, &bytes).or_else(|| self.fill(Class::Host, &bytes));
        if let Some(span) = span
            && let Some(sock) = self.socks.get_mut(&id)
        {
            sock.given += n;
            self.host(id, HostEvent::Received(span));
        } else if let Some(sock) = self.socks.get_mut(&id) {
            // As the plane does: pieces wait for a small buffer, and of large ones the stack is told.
            if sock.intake == Intake::On {
                sock.intake = Intake::Off;
                self.host(id, HostEvent::NoBuffer);
            } else {
                sock.intake = Intake::Piece(n as u32);
            }
        }
        self.arm_receive(id);
    }

    fn arm_receive(&mut self, id: FlowId) {
        let Some(sock) = self.socks.get_mut(&id) else { return };
        if sock.intake != Intake::Off && !sock.receive_pending && sock.has_news() && !sock.reset {
            sock.receive_pending = true;
            let delay = self.rng.range(1, sock.peer.delay);
            self.later(delay, Event::Receive(id));
        }
    }

    fn sent(&mut self, id: FlowId) {
        let Some(sock) = self.socks.get_mut(&id) else { return };
        let Some(spans) = sock.sending.take() else { return };
        if sock.reset || sock.resets_now() {
            sock.reset = true;
            self.host(id, HostEvent::SendFailed(HostError::Reset));
            return;
        }
        let total: u64 = spans.iter().map(|s| u64::from(s.len)).sum();
        let n = self.rng.range(1, total.min(sock.peer.takes));
        for (i, b) in self.arena.gather(&spans)[..n as usize].iter().enumerate() {
            let at = sock.taken + i as u64;
            assert_eq!(*b, byte(sock.stream, at), "stream {}: byte {at} towards the host", sock.stream);
        }
        sock.taken += n;
        self.host(id, HostEvent::Sent(n as usize));
    }

    /// Carries out what the stack wants done.
    fn actions(&mut self) {
        while let Some(action) = self.stack.poll_action() {
            match action {
                Action::Emit(e) => {
                    let payload = self.arena.gather(&e.spans);
                    let mut frames = Vec::new();
                    let mut each = |_: &[u8], frame: &[u8]| frames.push(frame.to_vec());
                    cut(&e.head, &payload, e.csum, e.gso, &self.caps, &mut self.scratch, &mut each)
                        .expect("a frame that can be cut");
                    for frame in frames {
                        self.transmit(frame, true);
                    }
                }
                Action::EmitBytes(frame) => self.transmit(frame, true),
                Action::Release(buf) => self.arena.release(buf),
                Action::Copy { from, to } => self.arena.copy(from, to),
                Action::Open(id, Open::Tcp { .. }) => self.open(id),
                Action::Receive(id, intake) => {
                    let sock = self.socks.get_mut(&id).expect("an open socket");
                    sock.intake = intake;
                    sock.stood |= intake != Intake::Off;
                    self.arm_receive(id);
                }
                Action::SendStream(id, spans) => self.send(id, &spans),
                Action::ShutdownWrite(id) => {
                    let sock = self.socks.get_mut(&id).expect("an open socket");
                    assert!(!sock.shut && sock.sending.is_none());
                    sock.shut = true;
                    self.arm_receive(id);
                }
                Action::Close(id, how) => {
                    let mut sock = self.socks.remove(&id).expect("an open socket");
                    sock.closed = Some(how);
                    if sock.client {
                        self.guest.hang_up(40_000 + sock.stream as u16);
                        self.turn_at = self.now;
                    }
                    self.over.push(sock);
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    fn open(&mut self, id: FlowId) {
        // Flows are told apart by the order of their first SYN, so ask the stack who this is.
        let port = self.stack.flow(id).expect("a live flow").guest.port();
        let peer = self.peers.get(&port).expect("a known port").clone();
        let delay = self.rng.range(1, peer.delay);
        self.socks.insert(id, Sock::new(peer, u64::from(port - 40_000)));
        self.later(delay, Event::Connected(id));
    }

    fn send(&mut self, id: FlowId, spans: &[Span]) {
        let sock = self.socks.get_mut(&id).expect("an open socket");
        assert!(sock.sending.is_none() && !sock.shut, "one send at a time, none after the end");
        sock.sending = Some(spans.to_vec());
        let delay = self.rng.range(1, sock.peer.delay);
        self.later(delay, Event::Sent(id));
    }

    /// After everything: nothing is left, and nothing that should have arrived is missing.
    fn check(&self) {
        assert_eq!(self.flows(), 0, "flows left");
        assert!(self.arena.owned().is_empty(), "buffers left: {:?}", self.arena.owned());
        assert!(self.socks.is_empty(), "sockets left");
        for app in &self.guest.apps {
            // A SYN that was doubled and came when all was over has opened another, which does not stand.
            let socks = self.over.iter().filter(|s| s.stream == app.stream);
            // And where one copy of a SYN was refused, that is what the guest heard, whatever became of the other.
            let refused = socks.clone().any(|s| s.peer.refuses);
            let Some(sock) = socks.max_by_key(|s| s.stood) else {
                continue;
            };
            let orderly = matches!(app.end, End::CloseAfterReading | End::CloseAfterSending)
                && sock.peer.resets_at.is_none()
                && !refused
                && (sock.stood || !sock.client)
                && !self.unlucky.contains(&(40_000 + app.stream as u16))
                && !app.mute;
            if orderly {
                let what = format!("stream {}: {app:?}", app.stream);
                assert_eq!((app.sent, app.read), (app.to_send, sock.peer.to_send), "{what}");
                assert_eq!((sock.taken, sock.shut), (app.to_send, true), "{what}");
                assert_eq!(sock.closed, Some(ringtap::stack::Close::Orderly), "{what}");
            }
        }
    }
}

/// The TCP header of a frame, and how much payload it carries.
fn segment(frame: &[u8]) -> Option<(Tcp, usize)> {
    match parse(frame).ok()?.net {
        Net::Ip(_, Payload::Tcp(tcp, range)) => Some((tcp, range.len())),
        _ => None,
    }
}

fn source_port(frame: &[u8]) -> u16 {
    let at = if frame[12] == 0x86 { 54 } else { 34 };
    frame.get(at..at + 2).map_or(0, |p| u16::from_be_bytes([p[0], p[1]]))
}
