//! The stack from outside: real frames and host events in, actions out, and every buffer accounted for.
//!
//! [`World`] is the fixture of all these tests. It owns the bytes behind every buffer that it hands in, checks that each
//! action names live buffers only and stays within them, and that each buffer is released exactly once.

mod dhcp;
mod dns;
mod flows;
mod fragments;
mod icmp;
mod inbound;
mod limits;
mod link;
mod random;
mod sources;
mod udp;

use super::{Action, Close, Datagrams, Door, Emit, FrameMeta, HostEvent, Intake, Limits, Open, Stack};
use crate::buf::{BufId, Class, Span};
use crate::config::{Network, Resolvers};
use crate::flow::{DropReason, FlowId, Kind, Time};
use crate::wire::ip::IpOut;
use crate::wire::segment::{self, Caps, Scratch};
use crate::wire::{self, Frame, Gso, Mac, Net, checksum, ip, parse};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The guest's MAC.
pub const GUEST: Mac = [0x02, 0, 0, 0, 0, 0x64];
/// Bytes in front of a frame in its buffer, as the virtio-net header.
const BEFORE: u32 = 12;

/// A stack and the buffers it was handed.
pub struct World {
    pub stack: Stack,
    pub now: Time,
    buffers: HashMap<BufId, Vec<u8>>,
    next: u32,
}

pub fn at(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

pub fn addr(s: &str) -> IpAddr {
    s.parse().unwrap()
}

impl World {
    pub fn new() -> Self {
        Self::with(Network::default(), &["198.51.100.53:53"])
    }

    pub fn with(net: Network, servers: &[&str]) -> Self {
        let resolvers = Resolvers {
            servers: servers.iter().map(|s| at(s)).collect(),
            search: vec!["lan.example".into(), "example".into()],
            options: Vec::new(),
        };
        let stack = Stack::new(net, resolvers, Limits { flows: 64, ..Limits::default() }, [7; 32]);
        Self { stack, now: Time::from_millis(1000), buffers: HashMap::new(), next: 0 }
    }

    /// A buffer that holds `bytes` from `before` on.
    fn hold(&mut self, class: Class, before: u32, bytes: &[u8]) -> Span {
        let id = BufId::new(class, self.next);
        self.next += 1;
        let mut content = vec![0; before as usize];
        content.extend_from_slice(bytes);
        self.buffers.insert(id, content);
        Span::new(id, before, bytes.len() as u32)
    }

    /// The bytes of a span, which must be live and within its buffer.
    pub fn bytes(&self, span: &Span) -> Vec<u8> {
        let content = self.buffers.get(&span.buf).unwrap_or_else(|| panic!("{span:?} is not held"));
        content[span.off as usize..(span.off + span.len) as usize].to_vec()
    }

    pub fn joined(&self, spans: &[Span]) -> Vec<u8> {
        spans.iter().flat_map(|s| self.bytes(s)).collect()
    }

    /// Hands a frame in and returns what the stack wants done at once.
    pub fn frame(&mut self, bytes: &[u8]) -> Vec<Done> {
        self.frame_gso(bytes, Gso::None)
    }

    pub fn frame_gso(&mut self, bytes: &[u8], gso: Gso) -> Vec<Done> {
        let span = self.hold(Class::Tap, BEFORE, bytes);
        self.stack.handle_frame(self.now, FrameMeta { gso }, bytes, span);
        self.drain()
    }

    /// Frames of one batch, and what came of it all.
    pub fn batch(&mut self, frames: &[Vec<u8>]) -> Vec<Done> {
        let mut done: Vec<Done> = frames.iter().flat_map(|f| self.frame(f)).collect();
        done.extend(self.end_batch());
        done
    }

    pub fn end_batch(&mut self) -> Vec<Done> {
        self.stack.end_batch(self.now);
        self.drain()
    }

    pub fn event(&mut self, flow: FlowId, event: HostEvent) -> Vec<Done> {
        self.stack.handle_host(self.now, flow, event);
        self.drain()
    }

    /// Datagrams from a host-side peer, a batch of their own.
    pub fn datagrams(&mut self, flow: FlowId, from: &str, bytes: &[u8], segment: Option<u16>) -> Vec<Done> {
        let mut done = self.more_datagrams(flow, from, bytes, segment);
        done.extend(self.end_batch());
        done
    }

    /// Datagrams from a host-side peer; the batch goes on.
    pub fn more_datagrams(
        &mut self,
        flow: FlowId,
        from: &str,
        bytes: &[u8],
        segment: Option<u16>,
    ) -> Vec<Done> {
        let data = self.hold(Class::Host, 0, bytes);
        self.event(flow, HostEvent::Datagrams { from: at(from), data, segment, tos: 0 })
    }

    pub fn echo_reply(&mut self, flow: FlowId, from: &str, seq: u16, bytes: &[u8]) -> Vec<Done> {
        let data = self.hold(Class::Host, 8, bytes);
        self.event(flow, HostEvent::EchoReply { from: addr(from), seq, data, ttl: 57 })
    }

    /// Lets time pass, waking the stack whenever it asks for it.
    pub fn pass(&mut self, time: Duration) -> Vec<Done> {
        let until = self.now + time;
        let mut done = Vec::new();
        while let Some(due) = self.stack.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.stack.handle_timeout(self.now);
            let next = self.stack.poll_timeout();
            assert!(next.is_none_or(|n| n > self.now), "the timer that was served is still due");
            done.extend(self.drain());
        }
        self.now = until;
        done
    }

    fn drain(&mut self) -> Vec<Done> {
        let mut done = Vec::new();
        while let Some(action) = self.stack.poll_action() {
            match action {
                Action::Release(buf) => {
                    assert!(self.buffers.remove(&buf).is_some(), "{buf:?} released twice");
                }
                Action::Emit(e) => done.push(Done::Frame(self.emitted(&e), e.gso)),
                Action::EmitBytes(bytes) => done.push(Done::Frame(self.check(bytes), Gso::None)),
                Action::Open(flow, open) => done.push(Done::Open(flow, open)),
                Action::SendDatagrams(flow, d) => {
                    assert!(!d.spans.is_empty());
                    let bytes = self.joined(&d.spans);
                    if let Some(size) = d.segment {
                        assert!(bytes.len().div_ceil(usize::from(size)) <= 64 && bytes.len() <= 65_507);
                    }
                    done.push(Done::Send(flow, d, bytes));
                }
                Action::SendPublished { flow: _, door, from, data } => {
                    assert!(!data.spans.is_empty());
                    let bytes = self.joined(&data.spans);
                    done.push(Done::Published(door, from, data, bytes));
                }
                Action::Inject { head, spans } => {
                    let frame = [&head[..], &self.joined(&spans)[..]].concat();
                    done.push(Done::Inject(frame));
                }
                Action::Close(flow, how) => done.push(Done::Close(flow, how)),
                Action::Receive(flow, Intake::On) => done.push(Done::Receive(flow)),
                other => panic!("not an action of these engines: {other:?}"),
            }
        }
        done
    }

    /// The bytes of a frame whose checksum is completed as the receiver would.
    fn emitted(&self, e: &Emit) -> Vec<u8> {
        let mut bytes = [&e.head[..], &self.joined(&e.spans)[..]].concat();
        assert_eq!(bytes.len() - e.head.len(), e.payload_len());
        if let Some(c) = e.csum {
            let (start, field) = (usize::from(c.start), usize::from(c.start + c.offset));
            let sum = checksum::checksum(&bytes[start..]);
            bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        if let Gso::Udp { size } = e.gso {
            assert!(size > 0 && e.payload_len() > usize::from(size));
            assert!(e.payload_len().div_ceil(usize::from(size)) <= 64);
        }
        // Super-frames fit a packet; what will be fragmented may be an IPv6 header longer.
        assert!(bytes.len() - 14 <= 65_535 || (bytes[12..14] == [0x86, 0xdd] && e.gso == Gso::None));
        self.in_software(e);
        self.check(bytes)
    }

    /// The same frame through a tap without any offload: every piece parses, fits the MTU and has its checksum.
    fn in_software(&self, e: &Emit) {
        let mtu = self.stack.network().mtu;
        let caps = Caps { vnet: false, csum: false, tso4: false, tso6: false, uso: false, mtu };
        let mut pieces = 0;
        let mut each = |_: &[u8], frame: &[u8]| {
            assert!(frame.len() <= usize::from(mtu) + 14);
            self.check(frame.to_vec());
            pieces += 1;
        };
        let payload = self.joined(&e.spans);
        segment::cut(&e.head, &payload, e.csum, e.gso, &caps, &mut Scratch::default(), &mut each).unwrap();
        assert!(pieces >= (e.payload_len() / usize::from(mtu)).max(1));
    }

    /// A frame for the guest must parse and carry a right checksum.
    fn check(&self, bytes: Vec<u8>) -> Vec<u8> {
        let frame = parse(&bytes).unwrap_or_else(|e| panic!("{e}: {bytes:02x?}"));
        assert!(checksum::verify_transport(&bytes, &frame), "checksum of {bytes:02x?}");
        assert_eq!(frame.src_mac[0], 0x52, "frames come from our own MACs");
        bytes
    }

    /// Buffers that the stack still holds.
    pub fn held(&self) -> usize {
        self.buffers.len()
    }

    pub fn dropped(&self, why: DropReason) -> u64 {
        self.stack.counters().dropped(why)
    }
}

/// What the stack wanted done, with the bytes that its spans named at that moment.
#[derive(Clone, Debug)]
pub enum Done {
    /// A frame for the guest, checksums complete.
    Frame(Vec<u8>, Gso),
    Open(FlowId, Open),
    Receive(FlowId),
    Send(FlowId, Datagrams, Vec<u8>),
    /// Out of a published socket, from an address of ours.
    Published(Door, IpAddr, Datagrams, Vec<u8>),
    Inject(Vec<u8>),
    Close(FlowId, Close),
}

/// The frames among what was done.
pub fn frames(done: &[Done]) -> Vec<&Vec<u8>> {
    done.iter()
        .filter_map(|d| match d {
            Done::Frame(bytes, _) => Some(bytes),
            _ => None,
        })
        .collect()
}

/// The one frame that was emitted, parsed.
pub fn only(done: &[Done]) -> (&Vec<u8>, Frame) {
    let frames = frames(done);
    assert_eq!(frames.len(), 1, "{done:?}");
    (frames[0], parse(frames[0]).unwrap())
}

/// The sends among what was done.
pub fn sends(done: &[Done]) -> Vec<(FlowId, &Datagrams, &Vec<u8>)> {
    done.iter()
        .filter_map(|d| match d {
            Done::Send(flow, d, bytes) => Some((*flow, d, bytes)),
            _ => None,
        })
        .collect()
}

/// The flow that was opened.
pub fn opened(done: &[Done]) -> FlowId {
    let mut flows = done.iter().filter_map(|d| match d {
        Done::Open(flow, _) => Some(*flow),
        _ => None,
    });
    let flow = flows.next().expect("a flow was opened");
    assert!(flows.next().is_none());
    flow
}

/// Payload of the ICMP error in a frame: type, code, the four bytes after the checksum, and the quoted packet.
pub fn icmp_error(frame: &[u8]) -> (u8, u8, u32, Vec<u8>) {
    let Net::Ip(_, crate::wire::Payload::Icmp(range)) = parse(frame).unwrap().net else {
        panic!("not ICMP: {frame:02x?}")
    };
    let m = &frame[range];
    (m[0], m[1], u32::from_be_bytes([m[4], m[5], m[6], m[7]]), m[8..].to_vec())
}

/// Source and destination of a frame's packet.
pub fn ends(frame: &Frame) -> (IpAddr, IpAddr) {
    let Net::Ip(ip, _) = &frame.net else { panic!("not IP: {frame:?}") };
    (ip.src, ip.dst)
}

/// A whole IP frame from the guest.
pub fn ip_frame(src: &str, dst: &str, protocol: u8, ttl: u8, body: &[u8]) -> Vec<u8> {
    let out = IpOut { src: addr(src), dst: addr(dst), protocol, ttl, tos: 0, id: 0, dont_fragment: true };
    [&ip::head(GUEST, [0x52, 0x55, 10, 0, 2, 2], &out, body.len())[..], body].concat()
}

/// A UDP datagram from the guest.
pub fn udp_frame(from: &str, to: &str, body: &[u8]) -> Vec<u8> {
    wire::udp::frame(GUEST, [0x52, 0x55, 10, 0, 2, 2], at(from), at(to), body)
}

/// An ICMP or ICMPv6 message from the guest.
pub fn icmp_frame(from: &str, to: &str, ttl: u8, message: &[u8]) -> Vec<u8> {
    let ip = IpOut { src: addr(from), dst: addr(to), protocol: 0, ttl, tos: 0, id: 0, dont_fragment: true };
    wire::icmp::frame(GUEST, [0x52, 0x55, 10, 0, 2, 2], &ip, message.to_vec())
}

/// An echo request from the guest.
pub fn echo_frame(from: &str, to: &str, ttl: u8, (id, seq): (u16, u16), body: &[u8]) -> Vec<u8> {
    let mut m = vec![if addr(from).is_ipv6() { 128 } else { 8 }, 0, 0, 0];
    m.extend_from_slice(&id.to_be_bytes());
    m.extend_from_slice(&seq.to_be_bytes());
    m.extend_from_slice(body);
    icmp_frame(from, to, ttl, &m)
}

/// Each frame of a conversation, cut off after every byte: nothing panics, nothing is kept.
pub fn truncated(world: &mut World, frame: &[u8]) {
    for cut in 0..frame.len() {
        world.frame(&frame[..cut]);
        world.end_batch();
    }
    world.pass(Duration::from_secs(1200));
    assert_eq!(world.held(), 0, "a truncated frame left a buffer behind");
}

/// Sets the bytes of a header field and repairs the IPv4 header checksum.
pub fn patch(frame: &mut [u8], at: usize, bytes: &[u8]) {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    if frame[12..14] == [8, 0] && frame[14] >> 4 == 4 {
        frame[24..26].fill(0);
        let sum = checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn ipv6_off_means_silence() {
    let mut w = World::with(Network { v6: None, ..Network::default() }, &[]);
    let before = w.stack.counters().drops;
    let done = w.frame(&echo_frame("fd00::64", "fd00::2", 64, (1, 1), b"x"));
    assert!(done.is_empty());
    assert_eq!(w.stack.counters().drops, before);
    assert_eq!((w.held(), w.stack.poll_timeout()), (0, None));
}

#[test]
fn sources_that_no_guest_can_have_are_dropped() {
    let mut w = World::new();
    for src in ["127.0.0.1:9", "0.0.0.0:9", "224.0.0.1:9", "255.255.255.255:9", "10.0.2.255:9"] {
        let done = w.batch(&[udp_frame(src, "198.51.100.2:9", b"x")]);
        assert!(done.is_empty(), "{src}");
    }
    for src in ["[::1]:9", "[ff02::1]:9", "[::ffff:10.0.2.100]:9", "[::]:9"] {
        assert!(w.batch(&[udp_frame(src, "[2001:db8::1]:9", b"x")]).is_empty(), "{src}");
    }
    for src in ["10.0.2.2:9", "10.0.2.3:9"] {
        assert!(w.batch(&[udp_frame(src, "198.51.100.2:9", b"x")]).is_empty(), "{src}");
    }
    for src in ["[fd00::2]:9", "[fe80::3]:9"] {
        assert!(w.batch(&[udp_frame(src, "[2001:db8::1]:9", b"x")]).is_empty(), "{src}");
    }
    assert_eq!(w.dropped(DropReason::Spoofed), 13);
    assert_eq!(w.held(), 0);
}

#[test]
fn lengths_that_disagree_with_the_frame_are_malformed() {
    let mut w = World::new();
    let good = udp_frame("10.0.2.100:9", "198.51.100.2:9", b"hello");
    // IPv4 total length and UDP length, each one too long and too short for its header.
    for (field, value) in [(16, 34u16), (16, 19), (38, 14), (38, 7)] {
        let mut f = good.clone();
        patch(&mut f, field, &value.to_be_bytes());
        assert!(w.batch(&[f]).is_empty(), "{field} {value}");
    }
    let mut f = udp_frame("[fd00::64]:9", "[2001:db8::1]:9", b"hello");
    patch(&mut f, 18, &14u16.to_be_bytes());
    assert!(w.batch(&[f]).is_empty());
    assert_eq!(w.dropped(DropReason::Malformed), 5);
}
