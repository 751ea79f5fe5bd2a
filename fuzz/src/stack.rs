//! The whole stack: frames in, host events in, time passing, in any order that a guest and a host can bring about.
//!
//! The input is a list of steps. Frames are seeds, mutated; segments of connections by number, near what both sides have
//! said so far; noise; parts of packets. Events keep to the contract of [`ringtap::stack::action`]: a send is answered once,
//! nothing follows the end of a stream. Allocations fail when the input says so.

use super::input::Input;
use super::seeds::{self, addr, at, segment};
use super::world::{Tuple, World, pattern};
use ringtap::config::{Network, SourceIp};
use ringtap::flow::Kind;
use ringtap::stack::{Arrival, Door, HostError, HostEvent, IcmpError, Intake, Limits};
use ringtap::wire::tcp::{Flags, Options};
use ringtap::wire::{Gso, Tcp};
use std::time::Duration;

/// A run has no more steps than this,
const MOST: usize = 400;
/// and no fewer: an input that is used up before is played again.
const LEAST: usize = 50;
const ERRORS: [HostError; 10] = [
    HostError::Refused,
    HostError::Reset,
    HostError::HostUnreachable,
    HostError::NetUnreachable,
    HostError::Prohibited,
    HostError::TimedOut,
    HostError::TooBig(None),
    HostError::TooBig(Some(1300)),
    HostError::Exhausted,
    HostError::Other(5),
];
const NEAR: [i64; 16] =
    [0, 0, 0, 0, 1, -1, 2, 100, -100, 1460, -1460, 4096, 65_535, -70_000, 1 << 20, 0x7fff_ffff];
const SIZES: [usize; 8] = [0, 0, 1, 100, 1460, 2921, 5000, 60_000];
const REMOTES: [&str; 4] = ["198.51.100.2:80", "[2001:db8::1]:80", "10.0.2.3:53", "10.0.2.2:22"];
const PEERS: [&str; 6] = [
    "198.51.100.2:53",
    "198.51.100.2:9",
    "[2001:db8::1]:9",
    "198.51.100.53:53",
    "[2001:db8::53]:53",
    "127.0.0.1:7",
];

thread_local! {
    static SEEDS: Vec<Vec<u8>> = seeds::all();
}

/// The steps of an input.
pub fn stack(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.u8();
    let mtu = input.pick(&[1500, 1500, 1280, 9000, 65_520]);
    let net = Network { mtu, dns: flags & 1 == 0, ..Network::default() };
    let few = Limits { flows: 24, half_open: 6, new_flows: 40, ..Limits::default() };
    let mut w = World::with(net, few, [24, 24, 96]);
    // The guest has been heard, mostly.
    if flags & 2 == 0 {
        w.frame(&seeds::arp(1, [10, 0, 2, 100], [10, 0, 2, 2]));
        w.frame(&seeds::message(addr("fd00::100"), addr("2001:db8::1"), 64, &[128, 0, 0, 0, 0, 1, 0, 1]));
    }
    for done in 0..MOST {
        if input.is_empty() {
            if done >= LEAST || data.is_empty() {
                break;
            }
            input = Input::new(data);
        }
        step(&mut w, &mut input);
    }
    w.finish();
}

fn step(w: &mut World, input: &mut Input<'_>) {
    match input.u8() % 24 {
        0..=7 => tcp(w, input),
        8..=12 => tcp_host(w, input),
        13 | 14 => seed(w, input),
        15 => datagram_host(w, input),
        16..=18 => w.end_batch(),
        19 => {
            let unit = input.pick(&[1u64, 1, 20, 1000, 30_000]);
            w.pass(Duration::from_millis(unit * u64::from(input.u8())));
        }
        20 => inbound(w, input),
        21 => part(w, input),
        22 => w.starve = u32::from(input.u8() % 4),
        _ => match input.u8() % 4 {
            0 => w.resolvers(usize::from(input.u8()) % 4),
            1 => {
                w.stack.set_host_v6(w.now, input.u8() & 1 == 1);
                w.after();
            }
            _ => w.frame(input.bytes(64)),
        },
    }
}

fn tuple(input: &mut Input<'_>) -> Tuple {
    let n = input.u8();
    let port = 40_000 + u16::from(n >> 4 & 3);
    // Those that clients of published ports have dialled.
    if n & 0x80 != 0 {
        let v6 = n & 1 == 1;
        let (guest, client) = if v6 { ("fd00::100", "2001:db8::9") } else { ("10.0.2.100", "192.0.2.9") };
        return ((addr(guest), 8080).into(), (addr(client), 50_000 + u16::from(n >> 4 & 3)).into());
    }
    let remote = at(REMOTES[usize::from(n & 3)]);
    let guest = if remote.is_ipv6() { addr("fd00::100") } else { addr("10.0.2.100") };
    ((guest, port).into(), remote)
}

/// A segment of the guest's, near what is expected.
fn tcp(w: &mut World, input: &mut Input<'_>) {
    let tuple = tuple(input);
    let (acked, next) = w.seen.get(&tuple).map_or((None, 0), |s| (s.acked, s.next));
    let (how, near) = (input.u8(), input.u8());
    let flags = match how & 15 {
        0..=2 => Flags::SYN,
        3..=9 => Flags::ACK,
        10 => Flags::ACK.with(Flags::FIN),
        11 => Flags::SYN.with(Flags::ACK),
        12 => Flags::RST,
        13 => Flags::ACK.with(Flags::URG),
        _ => Flags(input.u8()),
    };
    let size = SIZES[usize::from(how >> 4 & 7)];
    let base = acked.unwrap_or(0xffff_ff00);
    let seq = base.wrapping_add(NEAR[usize::from(near & 15)] as u32);
    let ack = next.wrapping_add(NEAR[usize::from(near >> 4)] as u32);
    let window = input.pick(&[65_535, 65_535, 0, 1, 100, 29_200]);
    let mut options = Options::default();
    if flags.has(Flags::SYN) {
        options.mss = input.pick(&[None, Some(1460), Some(48), Some(1), Some(65_535)]);
        options.window_scale = input.pick(&[None, Some(7), Some(0), Some(14)]);
        options.sack_permitted = how & 0x80 != 0;
    } else if how & 0x80 != 0 {
        for _ in 0..input.u8() % 5 {
            let left = next.wrapping_sub(u32::from(input.u16()));
            let _ = options.sack.try_push((left, left.wrapping_add(u32::from(input.u16()))));
        }
    }
    let urgent = if flags.has(Flags::URG) { input.u16() } else { 0 };
    let t = Tcp { window, urgent, options, ..seeds::plain(seq, ack, flags) };
    let mut frame = segment(tuple.0, tuple.1, &t, size).to_vec();
    let start = seq.wrapping_add(u32::from(flags.has(Flags::SYN)));
    frame.extend_from_slice(pattern(tuple.0.port(), start, size));
    let gso = if size > 1460 { Gso::Tcp { mss: 1460 } } else { Gso::None };
    w.frame_gso(&frame, gso);
}

/// Something happens on a host socket of a connection.
fn tcp_host(w: &mut World, input: &mut Input<'_>) {
    let (which, what) = (input.u8(), input.u8());
    if which > 250 {
        return stale(w, what);
    }
    let Some(id) = w.nth(Kind::Tcp, which) else { return };
    let remote = w.stack.flow(id).and_then(|f| f.remote).map_or(0, |r| r.port());
    let Some(sock) = w.socks.get_mut(&id) else { return };
    let error = ERRORS[usize::from(what >> 4) % ERRORS.len()];
    if sock.connecting {
        sock.connecting = false;
        let connected = what & 3 != 3;
        w.event(id, if connected { HostEvent::Connected } else { HostEvent::ConnectFailed(error) });
        return;
    }
    match what & 7 {
        0..=2 if !sock.over && sock.intake.is_some() => {
            let mut n = SIZES[usize::from(what >> 4 & 7)].max(1) as u32;
            if let Some(Intake::Piece(most)) = sock.intake {
                // Once; the stack asks for the next.
                (n, sock.intake) = (n.min(most), None);
            }
            let given = sock.given;
            if let Some(span) = w.host_buffer(pattern(remote, given, n as usize)) {
                if let Some(sock) = w.socks.get_mut(&id) {
                    sock.given += n;
                }
                w.event(id, HostEvent::Received(span));
            }
        }
        3..=5 => {
            let Some(n) = sock.sending.take() else { return };
            if what == 0x35 {
                sock.over = true;
                w.event(id, HostEvent::SendFailed(error));
                return;
            }
            let n = if what & 0x80 == 0 { n } else { n.div_ceil(2) };
            sock.taken = sock.taken.wrapping_add(n as u32);
            w.event(id, HostEvent::Sent(n));
        }
        6 if !sock.over && sock.intake.is_some() => {
            sock.over = true;
            w.event(id, HostEvent::Eof);
        }
        7 if !sock.over && sock.intake.is_some() && what > 0xc0 => {
            sock.over = true;
            w.event(id, HostEvent::ReceiveFailed(error));
        }
        7 if !sock.over && sock.intake == Some(Intake::On) => {
            sock.intake = None;
            w.event(id, HostEvent::NoBuffer);
        }
        _ => {}
    }
}

/// The socket of a flow had something to say when the flow ended.
fn stale(w: &mut World, what: u8) {
    let Some(id) = w.gone.get(usize::from(what) % w.gone.len().max(1)).copied() else { return };
    if w.stack.flow(id).is_some() {
        // The connection goes on without its socket.
        return;
    }
    let Some(data) = w.host_buffer(b"late") else { return };
    let event = match id.kind() {
        Kind::Tcp => HostEvent::Received(data),
        Kind::Ping => HostEvent::EchoReply { from: addr("198.51.100.2"), seq: 1, data, ttl: 9 },
        _ => HostEvent::Datagrams { from: at(PEERS[0]), data, segment: None, tos: 0 },
    };
    w.event(id, event);
}

/// A seed, mutated.
fn seed(w: &mut World, input: &mut Input<'_>) {
    let (which, sets) = (usize::from(input.u8()), input.u8());
    let mut frame = SEEDS.with(|s| s[which % s.len()].clone());
    for _ in 0..sets % 4 {
        let (at, value) = (usize::from(input.u16()) % frame.len(), input.u8());
        seeds::patch(&mut frame, at, &[value]);
    }
    if sets & 0x10 != 0 {
        frame.truncate(usize::from(input.u16()) % frame.len());
    }
    let gso = if sets & 0x20 != 0 { Gso::Udp { size: u16::from(input.u8()).max(1) } } else { Gso::None };
    w.frame_gso(&frame, gso);
}

/// Something happens on the socket of a mapping.
fn datagram_host(w: &mut World, input: &mut Input<'_>) {
    let kind = input.pick(&[Kind::Udp, Kind::Ping, Kind::Dns]);
    let Some(id) = w.nth(kind, input.u8()) else { return };
    let (what, from) = (input.u8(), at(input.pick(&PEERS)));
    let event = match what & 7 {
        0..=3 => {
            let size = SIZES[usize::from(what >> 4 & 7)].min(HOST_MOST);
            let Some(data) = w.host_buffer(&vec![3; size]) else { return };
            match kind {
                Kind::Ping => HostEvent::EchoReply { from: from.ip(), seq: 1, data, ttl: what },
                _ => {
                    // The kernel hands over at most 64 together, and an empty one alone.
                    let segment = Some(u16::from(input.u8())).filter(|s| *s > 0 && size > 0);
                    let segment = segment.filter(|s| size.div_ceil(usize::from(*s)) <= 64);
                    HostEvent::Datagrams { from, data, segment, tos: what }
                }
            }
        }
        4 => HostEvent::DatagramsFailed { to: from, error: ERRORS[usize::from(what >> 4) % ERRORS.len()] },
        5 | 6 => HostEvent::Icmp(IcmpError {
            offender: (what & 0x80 == 0).then(|| from.ip()),
            icmp_type: what >> 4,
            code: input.u8() % 16,
            info: u32::from(input.u16()),
            to: from,
            echo_seq: 1,
        }),
        _ if what > 0xe0 => HostEvent::ReceiveFailed(HostError::Exhausted),
        _ => return,
    };
    w.event(id, event);
}

/// What one receive can hold.
const HOST_MOST: usize = 65_507;

/// Clients of published ports that lead through the tap.
fn inbound(w: &mut World, input: &mut Input<'_>) {
    let n = input.u8();
    let v6 = n & 1 == 1;
    let (guest, client) = if v6 { ("fd00::100", "2001:db8::9") } else { ("10.0.2.100", "192.0.2.9") };
    let client = (addr(client), 50_000 + u16::from(n >> 4 & 3)).into();
    let source_ip = if n & 8 == 0 { SourceIp::Preserve } else { SourceIp::Gateway };
    match n >> 1 & 3 {
        0 | 1 => {
            if let Some(id) = w.stack.accept_stream(w.now, (addr(guest), 8080).into(), client, source_ip) {
                assert!(w.socks.insert(id, Default::default()).is_none());
                w.tie(id);
            }
        }
        2 => {
            let bytes = vec![9; SIZES[usize::from(input.u8() & 7)]];
            let Some(data) = w.host_buffer(&bytes) else { return };
            let arrival = Arrival {
                door: Door(u32::from(n >> 6)),
                client,
                local: addr(if v6 { "2001:db8::2" } else { "192.0.2.2" }),
                guest: (addr(guest), 80).into(),
                source_ip,
                data,
                segment: None,
                tos: 0,
            };
            w.stack.accept_datagrams(w.now, &arrival);
        }
        _ if n & 0x40 == 0 => w.stack.close_door(w.now, Door(u32::from(n >> 7))),
        _ => w.stack.expect_inbound(w.now, addr(guest)),
    }
    w.after();
}

/// A part of a packet.
fn part(w: &mut World, input: &mut Input<'_>) {
    let (n, place) = (input.u8(), input.u8());
    let (src, dst) = if n & 1 == 0 { ("10.0.2.100", "198.51.100.2") } else { ("fd00::100", "2001:db8::1") };
    let body = vec![n; SIZES[usize::from(n >> 1 & 7)].max(8) & !7];
    let protocol = input.pick(&[17, 17, 6, 1, 58]);
    w.frame(&seeds::fragment(
        addr(src),
        addr(dst),
        protocol,
        (u16::from(n >> 6), u16::from(place) * 8, n & 0x10 == 0),
        &body,
    ));
}
