//! A stack with everything around it that a plane would be, and an account of all that passes.
//!
//! Checked after every step: a buffer is released once and by who owns it, actions name live buffers and stay within them;
//! frames for the guest can be read, fit its link once they are cut, and have right checksums; towards the guest each byte of
//! a stream is the one that the host sent at that place, and none was invented; towards the host each is the one that the
//! guest sent; acknowledgements never go back and never run ahead of what was sent; a socket belongs to a live flow; as
//! many flows are alive as were opened and not closed; a timer that was served is not due. At the end, when everybody has
//! been silent for three hours, nothing is left.

use super::seeds::at;
use ringtap::buf::{BufId, Class, DEFAULT_SLOTS, SMALL_MAX, SMALL_SLOT, Span};
use ringtap::config::{Network, Resolvers};
use ringtap::flow::{DropReason, FlowId, Kind, Time};
use ringtap::stack::{Action, Emit, FrameMeta, HostError, HostEvent, Intake, Limits, Open, Stack};
use ringtap::wire::segment::{Caps, Scratch, cut};
use ringtap::wire::tcp::Flags;
use ringtap::wire::{Frame, Gso, Net, Payload, Tcp, checksum, parse};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::mem;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

/// The host's resolvers, of which the first two count at the start.
pub const SERVERS: [&str; 3] = ["198.51.100.53:53", "[2001:db8::53]:53", "127.0.0.53:53"];

/// Bytes of a stream after which its pattern begins anew. No window reaches as far.
const PERIOD: usize = 1 << 22;
/// No window reaches farther: what lies beyond is never acknowledged, and half the numbers ahead is behind.
const WINDOW: u32 = 1 << 24;
/// Longest part of a stream that is looked at as one: all that a connection may hold is sent at once.
const LONGEST: usize = PERIOD;

/// As many bytes of a stream, from this place on: whatever is lost, doubled or misplaced shows.
///
/// They come out of a table, and are compared as slices: a loop over bytes in a program that is watched for its coverage
/// takes longer than all else.
pub fn pattern(salt: u16, place: u32, len: usize) -> &'static [u8] {
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let byte = |i: u32| (i.wrapping_mul(0x85eb_ca6b) >> 24) as u8;
        (0..PERIOD as u32).chain(0..LONGEST as u32).map(byte).collect()
    });
    let start = place.wrapping_add(u32::from(salt).wrapping_mul(0x9e37_79b9)) as usize % PERIOD;
    &BYTES[start..start + len]
}

/// Where two slices of one length differ first.
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b { None } else { a.iter().zip(b).position(|(a, b)| a != b) }
}

/// What happens, for who looks into a finding: RINGTAP_FUZZ_TRACE=1.
fn told(what: fmt::Arguments<'_>) {
    static TRACE: LazyLock<bool> = LazyLock::new(|| std::env::var_os("RINGTAP_FUZZ_TRACE").is_some());
    if *TRACE {
        eprintln!("{what}");
    }
}

/// A host socket.
#[derive(Debug, Default)]
pub struct Sock {
    /// Not connected yet.
    pub connecting: bool,
    /// The stack wants what comes.
    pub intake: Option<Intake>,
    /// No more comes.
    pub over: bool,
    /// Bytes given to the stack.
    pub given: u32,
    /// Bytes taken from it.
    pub taken: u32,
    /// Bytes of the send that is outstanding.
    pub sending: Option<usize>,
    /// The sending side is shut down.
    pub shut: bool,
}

/// What the guest has seen and sent of a connection.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The host's side.
    pub flow: Option<FlowId>,
    /// That is a new one, whose SYN has not been heard yet.
    new: bool,
    /// The number of the stack's SYN.
    pub iss: Option<u32>,
    /// The stack's next number, as far as heard.
    pub next: u32,
    /// The guest's first number after its SYN, as acknowledged first.
    pub first: Option<u32>,
    /// The last acknowledgement.
    pub acked: Option<u32>,
    /// The furthest that the guest has sent, FIN included, since the stack's first acknowledgement.
    pub sent: u32,
    /// How far each of its segments went: which of them are of this connection, the first acknowledgement tells.
    ends: Vec<u32>,
    /// What follows each of its SYNs that were sent since the stack's.
    starts: Vec<u32>,
    /// Its payload is of a frame that does not follow the pattern, or it is not known where it begins.
    pub tainted: bool,
}

/// Guest's end and the other end, as the guest knows them.
pub type Tuple = (SocketAddr, SocketAddr);

/// The stack and its surroundings.
pub struct World {
    pub stack: Stack,
    pub now: Time,
    slots: [Vec<Option<Vec<u8>>>; 3],
    /// As many as may be live, by class.
    most: [u32; 3],
    free: [Vec<u32>; 3],
    pub live: [u32; 3],
    /// As many allocations fail from now on.
    pub starve: u32,
    pub socks: BTreeMap<FlowId, Sock>,
    /// Flows whose sockets are closed.
    pub gone: VecDeque<FlowId>,
    pub seen: HashMap<Tuple, Seen>,
    /// Frames for the guest, newest last; only the last few are kept.
    pub frames: VecDeque<Vec<u8>>,
    /// What was done besides, for tests that look; emptied by them.
    pub opened: Vec<(FlowId, Open)>,
    /// Datagrams that left, by flow: destination and bytes.
    pub left: Vec<(SocketAddr, Vec<u8>)>,
    /// Payload of each piece of the last super-frame of TCP, its last one apart.
    pub pieces: Vec<usize>,
    injected: VecDeque<Vec<u8>>,
    scratch: Scratch,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    pub fn new() -> Self {
        Self::with(Network::default(), Limits { flows: 64, ..Limits::default() }, DEFAULT_SLOTS)
    }

    /// With these limits and so many slots of the classes tap, host and small.
    pub fn with(net: Network, limits: Limits, most: [u32; 3]) -> Self {
        let resolvers = Resolvers {
            servers: SERVERS[..2].iter().map(|s| at(s)).collect(),
            search: vec!["lan.example".into(), "example".into()],
            options: Vec::new(),
        };
        let mut stack = Stack::new(net, resolvers, limits, [7; 32]);
        stack.set_buffers(most);
        Self {
            stack,
            now: Time::from_millis(1000),
            slots: Default::default(),
            most,
            free: Default::default(),
            live: [0; 3],
            starve: 0,
            socks: BTreeMap::new(),
            gone: VecDeque::new(),
            seen: HashMap::new(),
            frames: VecDeque::new(),
            opened: Vec::new(),
            left: Vec::new(),
            pieces: Vec::new(),
            injected: VecDeque::new(),
            scratch: Scratch::new(1),
        }
    }

    /// A buffer of the stack's that holds these bytes; `None` where there is none left.
    fn fill(&mut self, class: Class, before: usize, bytes: &[u8]) -> Option<Span> {
        let c = class as usize;
        if self.starve > 0 {
            self.starve -= 1;
            return None;
        }
        if self.live[c] >= self.most[c] || before + bytes.len() > class.capacity() {
            return None;
        }
        let mut content = vec![0; before];
        content.extend_from_slice(bytes);
        let index = match self.free[c].pop() {
            Some(index) => index,
            None => {
                self.slots[c].push(None);
                (self.slots[c].len() - 1) as u32
            }
        };
        self.slots[c][index as usize] = Some(content);
        self.live[c] += 1;
        Some(Span::new(BufId::new(class, index), before as u32, bytes.len() as u32))
    }

    /// A buffer as a receive from a host socket fills one.
    pub fn host_buffer(&mut self, bytes: &[u8]) -> Option<Span> {
        self.fill(Class::Host, 8, bytes)
    }

    fn bytes(&self, span: &Span) -> &[u8] {
        let slot = self.slots[span.buf.class() as usize].get(span.buf.index() as usize);
        let slot = slot.and_then(Option::as_ref).unwrap_or_else(|| panic!("{span:?} is not held"));
        &slot[span.off as usize..(span.off + span.len) as usize]
    }

    fn joined(&self, spans: &[Span]) -> Vec<u8> {
        let mut all = Vec::with_capacity(spans.iter().map(|s| s.len as usize).sum());
        spans.iter().for_each(|s| all.extend_from_slice(self.bytes(s)));
        all
    }

    fn release(&mut self, buf: BufId) {
        let c = buf.class() as usize;
        let slot = self.slots[c].get_mut(buf.index() as usize).and_then(Option::take);
        assert!(slot.is_some(), "{buf:?} released twice, or never owned");
        self.free[c].push(buf.index());
        self.live[c] -= 1;
    }

    /// A frame from the guest. Lost where there is no buffer for it.
    pub fn frame(&mut self, bytes: &[u8]) {
        self.frame_gso(bytes, Gso::None);
    }

    pub fn frame_gso(&mut self, bytes: &[u8], gso: Gso) {
        if let Ok(Frame { net: Net::Ip(ip, Payload::Tcp(tcp, r)), .. }) = ringtap::wire::parse_gso(bytes, gso)
        {
            let tuple = (SocketAddr::new(ip.src, tcp.src_port), SocketAddr::new(ip.dst, tcp.dst_port));
            told(format_args!("{:?} guest {tuple:?} {tcp:?} {} bytes", self.now, r.len()));
            self.note_sent(tuple, &tcp, &bytes[r]);
        }
        self.enter(bytes, gso);
        self.after();
    }

    fn enter(&mut self, bytes: &[u8], gso: Gso) {
        // As the plane does: short ones move to a small slot if one is free.
        let small = (bytes.len() <= SMALL_SLOT).then(|| self.fill(Class::Small, 0, bytes)).flatten();
        let Some(span) = small.or_else(|| self.fill(Class::Tap, 12, bytes)) else { return };
        self.stack.handle_frame(self.now, FrameMeta { gso }, bytes, span);
        self.actions();
    }

    /// What the guest sends of a stream: whether it is as the account has it, and how far it goes.
    fn note_sent(&mut self, tuple: Tuple, tcp: &Tcp, payload: &[u8]) {
        let seen = self.seen.entry(tuple).or_default();
        let flags = tcp.flags;
        let len = payload.len() as u32 + u32::from(flags.has(Flags::SYN)) + u32::from(flags.has(Flags::FIN));
        let end = tcp.seq.wrapping_add(len);
        seen.ends.push(end);
        if seen.acked.is_some() && (1..WINDOW).contains(&end.wrapping_sub(seen.sent)) {
            seen.sent = end;
        }
        let salt = tuple.0.port();
        let start = tcp.seq.wrapping_add(u32::from(flags.has(Flags::SYN)));
        seen.tainted |= payload != pattern(salt, start, payload.len());
        if flags.has(Flags::SYN) {
            seen.starts.push(start);
        }
    }

    pub fn event(&mut self, flow: FlowId, event: HostEvent) {
        told(format_args!("{:?} host {flow:?} {event:?}", self.now));
        self.stack.handle_host(self.now, flow, event);
        self.after();
    }

    pub fn end_batch(&mut self) {
        self.stack.end_batch(self.now);
        self.after();
    }

    pub fn resolvers(&mut self, n: usize) {
        let servers = SERVERS[..n.min(3)].iter().map(|s| at(s)).collect();
        self.stack.set_resolvers(self.now, Resolvers { servers, ..Resolvers::default() });
        self.after();
    }

    /// Lets time pass, and wakes the stack whenever it asks for it.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        let mut rounds = 0;
        while let Some(due) = self.stack.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.stack.handle_timeout(self.now);
            let next = self.stack.poll_timeout();
            assert!(next.is_none_or(|n| n > self.now), "the timer that was served is still due");
            self.after();
            rounds += 1;
            assert!(rounds < 1_000_000, "timers without an end");
        }
        self.now = until;
    }

    /// The nth live flow of a kind, round the end.
    pub fn nth(&self, kind: Kind, n: u8) -> Option<FlowId> {
        let count = self.socks.keys().filter(|id| id.kind() == kind).count();
        self.socks.keys().filter(|id| id.kind() == kind).nth(usize::from(n) % count.max(1)).copied()
    }

    /// Carries out what the stack wants, then checks everything.
    pub fn after(&mut self) {
        self.actions();
        // Reassembled packets come back as frames, as from the plane.
        while let Some(frame) = self.injected.pop_front() {
            if let Ok(Frame { net: Net::Ip(ip, Payload::Tcp(tcp, r)), .. }) = parse(&frame) {
                let tuple = (SocketAddr::new(ip.src, tcp.src_port), SocketAddr::new(ip.dst, tcp.dst_port));
                self.note_sent(tuple, &tcp, &frame[r]);
            }
            self.enter(&frame, Gso::None);
        }
        self.check();
    }

    fn actions(&mut self) {
        while let Some(action) = self.stack.poll_action() {
            told(format_args!("{:?} {action:?}", self.now));
            match action {
                Action::Release(buf) => self.release(buf),
                Action::Emit(e) => self.emitted(&e),
                Action::EmitBytes(bytes) => self.deliver(bytes),
                Action::Open(id, open) => self.open(id, open),
                Action::SendStream(id, spans) => self.send(id, &spans),
                Action::SendDatagrams(id, data) => {
                    assert!(self.socks.contains_key(&id), "a send of {id:?}, which has no socket");
                    self.datagrams(&data);
                }
                Action::SendPublished { data, .. } => self.datagrams(&data),
                Action::Receive(id, intake) => {
                    let sock = self.socks.get_mut(&id).expect("a socket that receives");
                    assert!(!matches!(intake, Intake::Piece(n) if n == 0 || n as usize > SMALL_MAX));
                    sock.intake = Some(intake).filter(|i| *i != Intake::Off);
                }
                Action::ShutdownWrite(id) => {
                    let sock = self.socks.get_mut(&id).expect("a socket to shut down");
                    assert!(!sock.shut && sock.sending.is_none() && !sock.connecting);
                    sock.shut = true;
                }
                Action::Close(id, _) => {
                    assert!(self.socks.remove(&id).is_some(), "{id:?} closed, which has no socket");
                    self.gone.push_back(id);
                    self.gone.truncate(16);
                }
                Action::Copy { from, to } => self.copy(from, to),
                Action::Inject { head, spans } => {
                    let frame = [&head[..], &self.joined(&spans)[..]].concat();
                    // As the plane does.
                    if checksum::frame_is_sound(&frame) {
                        self.injected.push_back(frame);
                    }
                }
            }
        }
    }

    fn open(&mut self, id: FlowId, open: Open) {
        let connecting = matches!(open, Open::Tcp { .. });
        assert!(self.socks.insert(id, Sock { connecting, ..Sock::default() }).is_none(), "{id:?} twice");
        self.opened.push((id, open));
        if connecting {
            self.tie(id);
        }
    }

    /// Notes which connection a host socket belongs to.
    pub fn tie(&mut self, id: FlowId) {
        if let Some((guest, Some(remote))) = self.stack.flow(id).map(|f| (f.guest, f.remote)) {
            let seen = self.seen.entry((guest, remote)).or_default();
            (seen.flow, seen.new) = (Some(id), true);
        }
    }

    fn copy(&mut self, from: Span, to: Span) {
        assert_eq!(from.len, to.len);
        let bytes = self.bytes(&from).to_vec();
        let end = (to.off + to.len) as usize;
        assert!(end <= to.buf.class().capacity(), "a copy beyond its buffer");
        let slot = self.slots[to.buf.class() as usize].get_mut(to.buf.index() as usize);
        let slot = slot.and_then(Option::as_mut).unwrap_or_else(|| panic!("{to:?} is not held"));
        if slot.len() < end {
            slot.resize(end, 0);
        }
        slot[to.off as usize..end].copy_from_slice(&bytes);
    }

    fn datagrams(&mut self, data: &ringtap::stack::Datagrams) {
        assert!(!data.spans.is_empty());
        let bytes = self.joined(&data.spans);
        if let Some(size) = data.segment {
            assert!(size > 0 && bytes.len().div_ceil(usize::from(size)) <= 64 && bytes.len() <= 65_507);
        }
        assert!(!data.to.ip().is_unspecified() && !data.to.ip().is_multicast());
        self.left.push((data.to, bytes));
        if self.left.len() > 64 {
            self.left.remove(0);
        }
    }

    fn send(&mut self, id: FlowId, spans: &[Span]) {
        let bytes = self.joined(spans);
        let tuple = self.stack.flow(id).and_then(|f| Some((f.guest, f.remote?)));
        let sock = self.socks.get_mut(&id).expect("a socket to send by");
        assert!(
            sock.sending.is_none() && !sock.shut && !sock.connecting,
            "one send at a time, none after the end"
        );
        assert!(!bytes.is_empty());
        sock.sending = Some(bytes.len());
        let taken = sock.taken;
        let Some(tuple) = tuple else { return };
        let Some(seen) = self.seen.get(&tuple).filter(|s| !s.tainted && s.flow == Some(id)) else { return };
        let Some(first) = seen.first.map(|first| first.wrapping_add(taken)) else { return };
        let differs = first_difference(&bytes, pattern(tuple.0.port(), first, bytes.len()));
        assert_eq!(differs, None, "place in what was sent from {first} of {tuple:?} towards the host");
    }

    /// A super-frame, its checksum completed as the receiver would, and cut as for a tap without offload.
    fn emitted(&mut self, e: &Emit) {
        let payload = self.joined(&e.spans);
        assert_eq!(payload.len(), e.payload_len());
        let mut bytes = [&e.head[..], &payload[..]].concat();
        if let Some(c) = e.csum {
            let (start, field) = (usize::from(c.start), usize::from(c.start + c.offset));
            let sum = checksum::checksum(&bytes[start..]);
            bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let mtu = self.stack.network().mtu;
        let caps = Caps { vnet: false, csum: false, tso4: false, tso6: false, uso: false, mtu };
        let mut whole = true;
        let mut pieces = Vec::new();
        let mut each = |_: &[u8], frame: &[u8]| {
            assert!(frame.len() <= usize::from(mtu) + 14);
            let parsed = parse(frame);
            whole &= parsed.is_ok();
            if let Ok(Frame { net: Net::Ip(_, Payload::Tcp(_, r)), .. }) = parsed {
                pieces.push(r.len());
            }
        };
        let done = cut(&e.head, &payload, e.csum, e.gso, &caps, &mut self.scratch, &mut each);
        if pieces.pop().is_some() && !payload.is_empty() {
            self.pieces = pieces;
        }
        assert!(whole && done.is_ok(), "{done:?} {e:?}");
        self.deliver(bytes);
    }

    fn deliver(&mut self, bytes: Vec<u8>) {
        let frame = parse(&bytes).unwrap_or_else(|e| panic!("{e}: {bytes:02x?}"));
        assert!(checksum::verify_transport(&bytes, &frame), "checksum of {bytes:02x?}");
        assert_eq!(frame.src_mac[0], 0x52, "frames come from our own MACs");
        if let Net::Ip(ip, Payload::Tcp(tcp, r)) = &frame.net {
            let tuple = (SocketAddr::new(ip.dst, tcp.dst_port), SocketAddr::new(ip.src, tcp.src_port));
            told(format_args!("{:?} to guest {tuple:?} {tcp:?} {} bytes", self.now, r.len()));
            self.heard(tuple, tcp, &bytes[r.clone()]);
        }
        self.frames.push_back(bytes);
        if self.frames.len() > 64 {
            self.frames.pop_front();
        }
    }

    /// A segment for the guest: numbers and bytes.
    fn heard(&mut self, tuple: Tuple, tcp: &Tcp, payload: &[u8]) {
        if tcp.flags.has(Flags::RST) {
            return;
        }
        let flow = self.seen.get(&tuple).and_then(|s| s.flow);
        let given = flow.and_then(|id| self.socks.get(&id)).map(|s| s.given);
        let seen = self.seen.entry(tuple).or_default();
        let syn = tcp.flags.has(Flags::SYN);
        // Two connections of one instant have the same first number of ours (RFC 6528: by tuple and clock), and the guest may
        // have begun both with the same of its own.
        if syn && (seen.new || seen.iss != Some(tcp.seq) || seen.first != Some(tcp.ack)) {
            let ends = mem::take(&mut seen.ends);
            *seen = Seen { flow: seen.flow, ends, iss: Some(tcp.seq), ..Seen::default() };
        }
        let len = payload.len() as u32 + u32::from(syn) + u32::from(tcp.flags.has(Flags::FIN));
        let end = tcp.seq.wrapping_add(len);
        if (end.wrapping_sub(seen.next) as i32) > 0 || syn {
            seen.next = end;
        }
        if tcp.flags.has(Flags::ACK) {
            if syn {
                seen.first = Some(tcp.ack);
            } else if seen.first.is_none() {
                // The answer to the guest's SYN may acknowledge what came with it, and after it. Of several SYNs it is not
                // known which was taken.
                let fits = |start: &&u32| tcp.ack.wrapping_sub(**start) < WINDOW;
                let start = seen.starts.iter().find(fits).copied().unwrap_or(tcp.ack);
                seen.tainted |= seen.starts.iter().filter(fits).any(|other| *other != start);
                seen.first = Some(start);
            }
            if let Some(before) = seen.acked {
                assert!(
                    (tcp.ack.wrapping_sub(before) as i32) >= 0,
                    "{tuple:?} takes an acknowledgement back"
                );
            }
            if seen.acked.is_none() {
                let ahead = seen.ends.iter().map(|end| end.wrapping_sub(tcp.ack)).filter(|n| *n < WINDOW);
                seen.sent = tcp.ack.wrapping_add(ahead.max().unwrap_or(0));
            }
            assert!(
                (seen.sent.wrapping_sub(tcp.ack) as i32) >= 0,
                "{tuple:?} acknowledges what was not sent"
            );
            seen.acked = Some(tcp.ack);
        }
        let (Some(iss), Some(given)) = (seen.iss, given) else { return };
        let first = iss.wrapping_add(1);
        let place = tcp.seq.wrapping_sub(first);
        let end = place.wrapping_add(payload.len() as u32);
        assert!(
            payload.is_empty() || (place < given && end <= given && place < end),
            "bytes {place} to {end} of {tuple:?} to the guest, and the host has sent {given}"
        );
        let differs = first_difference(payload, pattern(tuple.1.port(), place, payload.len()));
        assert_eq!(differs, None, "place in what came from {place} of {tuple:?} to the guest");
    }

    /// What must hold between any two steps.
    fn check(&self) {
        let counters = self.stack.counters();
        let mut flows = 0;
        let mut names = HashSet::new();
        for info in self.stack.flows() {
            flows += 1;
            assert!(names.insert(info.id), "{:?} is listed twice", info.id);
        }
        assert_eq!(counters.flows_opened - counters.flows_closed, flows, "flows opened, less those closed");
        for id in self.socks.keys() {
            assert!(names.contains(id), "{id:?} has a socket and is no flow");
        }
    }

    pub fn dropped(&self, why: DropReason) -> u64 {
        self.stack.counters().dropped(why)
    }

    /// Everybody goes silent, and sends that are under way fail: after three hours nothing is left.
    pub fn finish(&mut self) {
        self.starve = 0;
        self.end_batch();
        let waiting: Vec<FlowId> =
            self.socks.iter().filter(|(_, s)| s.sending.is_some()).map(|(id, _)| *id).collect();
        for id in waiting {
            if let Some(sock) = self.socks.get_mut(&id) {
                sock.sending = None;
                self.event(id, HostEvent::SendFailed(HostError::Reset));
            }
        }
        self.pass(Duration::from_secs(10_800));
        self.end_batch();
        assert_eq!(self.live, [0; 3], "buffers left");
        assert!(self.socks.is_empty(), "sockets left: {:?}", self.socks);
        assert_eq!(self.stack.flows().count(), 0, "flows left");
    }
}
