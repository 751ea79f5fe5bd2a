//! The stack with the plane played by a loop: look-ups among many flows, TCP segments in and out.

use super::wire::{GUEST_MAC, OUR_MAC, ip, segment};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use ringtap::buf::{BufId, Class, Span};
use ringtap::config::{Network, Resolvers};
use ringtap::flow::{FlowId, Time};
use ringtap::stack::{Action, FrameMeta, HostEvent, Limits, Stack};
use ringtap::wire::tcp::{self, Flags, Options};
use ringtap::wire::{Gso, Tcp, parse, udp};
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Payload of a frame of 64 KiB.
const PAYLOAD: usize = 65_160;
const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// A stack, and what the plane would do for it.
struct Plane {
    stack: Stack,
    now: Time,
    next: u32,
    /// Of the flow opened last.
    flow: Option<FlowId>,
    /// Asked to be sent to the host, and not yet answered.
    unsent: Option<(FlowId, usize)>,
    /// Heads of frames for the guest, with the bytes behind them.
    emitted: Vec<(Vec<u8>, usize)>,
}

impl Plane {
    fn new(flows: usize) -> Self {
        let resolvers = Resolvers { servers: Vec::new(), search: Vec::new(), options: Vec::new() };
        let stack = Stack::new(Network::default(), resolvers, Limits { flows, ..Limits::default() }, [7; 32]);
        let now = Time::from_millis(1000);
        Self { stack, now, next: 0, flow: None, unsent: None, emitted: Vec::new() }
    }

    /// A buffer that nobody has; they go round.
    fn buffer(&mut self, class: Class) -> BufId {
        self.next = (self.next + 1) % 200;
        BufId::new(class, self.next)
    }

    fn frame(&mut self, bytes: &[u8], gso: Gso) {
        let at = Span::new(self.buffer(Class::Tap), 12, bytes.len() as u32);
        self.now += Duration::from_micros(5);
        self.stack.handle_frame(self.now, FrameMeta { gso }, bytes, at);
    }

    fn host(&mut self, flow: FlowId, event: HostEvent) {
        self.stack.handle_host(self.now, flow, event);
    }

    /// The end of a batch, and everything that is to be done.
    fn settle(&mut self) {
        loop {
            self.stack.end_batch(self.now);
            while let Some(action) = self.stack.poll_action() {
                match action {
                    Action::Open(flow, _) => self.flow = Some(flow),
                    Action::SendStream(flow, spans) => {
                        self.unsent = Some((flow, spans.iter().map(|s| s.len as usize).sum()));
                    }
                    Action::Emit(e) => self.emitted.push((e.head.to_vec(), e.payload_len())),
                    _ => {}
                }
            }
            let Some((flow, bytes)) = self.unsent.take() else { return };
            self.host(flow, HostEvent::Sent(bytes));
        }
    }

    /// The last frame for the guest.
    fn last(&mut self) -> (Tcp, usize) {
        let (head, len) = self.emitted.pop().expect("a frame was emitted");
        self.emitted.clear();
        let whole = [&head[..], &vec![0; len][..]].concat();
        let ringtap::wire::Net::Ip(_, ringtap::wire::Payload::Tcp(tcp, _)) =
            parse(&whole).expect("it parses").net
        else {
            panic!("not TCP")
        };
        (tcp, len)
    }
}

/// A datagram of a flow that exists: parse, policy, look-up among so many, the send.
pub fn nat(c: &mut Criterion) {
    let mut group = c.benchmark_group("nat look-up");
    for (flows, name) in [(10u32, "10"), (10_000, "10k"), (1_000_000, "1M")] {
        let mut plane = Plane::new(flows as usize + 16);
        // As many guests behind a bridge as it takes.
        let guest = |n: u32| -> SocketAddr {
            (Ipv4Addr::new(10, 0, 2, 100 + (n / 60_000) as u8), 1024 + (n % 60_000) as u16).into()
        };
        let datagram = |n: u32| udp::frame(GUEST_MAC, OUR_MAC, guest(n), (REMOTE, 9).into(), &[7; 32]);
        for n in 0..flows {
            plane.frame(&datagram(n), Gso::None);
            plane.settle();
        }
        assert_eq!(plane.stack.flows().count(), flows as usize);
        // Scattered over all of them, so that caches do not help more than they would.
        let frames: Vec<_> = (0..4096u32).map(|n| datagram(n.wrapping_mul(2_654_435_761) % flows)).collect();
        let mut turn = 0;
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                turn = (turn + 1) % frames.len();
                plane.frame(&frames[turn], Gso::None);
                plane.settle();
            });
        });
    }
    group.finish();
}

/// A connection that stands: plane, flow, and the numbers that the guest sends and expects next.
fn connection() -> (Plane, FlowId, u32, u32) {
    let mut plane = Plane::new(64);
    let net = ip(Ipv4Addr::new(10, 0, 2, 100), REMOTE);
    let options =
        Options { mss: Some(1460), window_scale: Some(10), sack_permitted: true, ..Options::default() };
    let syn = Tcp { flags: Flags::SYN, options, ..segment(999, 0) };
    let send = |plane: &mut Plane, tcp: &Tcp| {
        let (head, _) = tcp::head(GUEST_MAC, OUR_MAC, &net, tcp, 0);
        plane.frame(&head, Gso::None);
        plane.settle();
    };
    send(&mut plane, &syn);
    let flow = plane.flow.expect("a flow is opened");
    plane.host(flow, HostEvent::Connected);
    plane.settle();
    let (syn_ack, _) = plane.last();
    let theirs = syn_ack.seq.wrapping_add(1);
    send(&mut plane, &segment(1000, theirs));
    (plane, flow, 1000, theirs)
}

/// A super-frame of the guest's to the host, and one of the host's to the guest with the guest's acknowledgement.
pub fn tcp(c: &mut Criterion) {
    let net = ip(Ipv4Addr::new(10, 0, 2, 100), REMOTE);
    let mut group = c.benchmark_group("tcp segment");
    group.throughput(Throughput::Bytes(PAYLOAD as u64));
    let (mut plane, _, mut seq, ack) = connection();
    let body = vec![0x5a; PAYLOAD];
    group.bench_function("in, 64 KiB", |b| {
        b.iter_batched_ref(
            || {
                let (head, _) = tcp::head(GUEST_MAC, OUR_MAC, &net, &segment(seq, ack), PAYLOAD);
                seq = seq.wrapping_add(PAYLOAD as u32);
                [&head[..], &body[..]].concat()
            },
            |frame| {
                plane.emitted.clear();
                plane.frame(frame, Gso::Tcp { mss: 1460 });
                plane.settle();
            },
            BatchSize::PerIteration,
        );
    });
    assert!(plane.stack.flows().count() == 1, "the connection is still there");
    let (plane, flow, seq, ack) = connection();
    let state = RefCell::new((plane, ack));
    group.bench_function("out, 64 KiB, with its acknowledgement", |b| {
        b.iter(|| {
            let (plane, expected) = &mut *state.borrow_mut();
            let span = Span::new(plane.buffer(Class::Host), 0, PAYLOAD as u32);
            plane.host(flow, HostEvent::Received(span));
            plane.settle();
            let sent: usize = plane.emitted.drain(..).map(|(_, len)| len).sum();
            assert!(sent > 0, "the window is open");
            *expected = expected.wrapping_add(sent as u32);
            let (head, _) = tcp::head(GUEST_MAC, OUR_MAC, &net, &segment(seq, *expected), 0);
            plane.frame(&head, Gso::None);
            plane.settle();
        });
    });
    group.finish();
}
