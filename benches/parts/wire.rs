//! Frames in and super-frames out.

use criterion::{BenchmarkId, Criterion, Throughput};
use ringtap::wire::ip::IpOut;
use ringtap::wire::segment::{Caps, Scratch, cut};
use ringtap::wire::tcp::{self, Flags, Options};
use ringtap::wire::{Gso, Mac, Tcp, parse_gso, udp, vnet};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const GUEST_MAC: Mac = [0x02, 0, 0, 0, 0, 0x64];
pub const OUR_MAC: Mac = [0x52, 0x55, 10, 0, 2, 2];
/// Payload of the largest super-frame whose packet fits 65,535 bytes with room for options.
const SUPER: usize = 65_160;

/// A header as data segments have it.
pub fn segment(seq: u32, ack: u32) -> Tcp {
    Tcp {
        src_port: 40_000,
        dst_port: 443,
        seq,
        ack,
        flags: Flags::ACK,
        window: 65_535,
        urgent: 0,
        options: Options::default(),
    }
}

pub fn ip(src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> IpOut {
    IpOut { src: src.into(), dst: dst.into(), protocol: 6, ttl: 64, tos: 0, id: 1, dont_fragment: true }
}

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// A whole TCP frame.
fn frame(ip: &IpOut, payload: usize) -> Vec<u8> {
    let (head, _) = tcp::head(GUEST_MAC, OUR_MAC, ip, &segment(1, 1), payload);
    [&head[..], &vec![0x5a; payload][..]].concat()
}

/// What reading a frame's headers costs; the payload's length should not matter.
pub fn parse(c: &mut Criterion) {
    let v6 = ip(Ipv6Addr::LOCALHOST, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
    let tso = Gso::Tcp { mss: 1460 };
    let frames = [
        ("tcp4 ack", frame(&ip(GUEST, REMOTE), 0), Gso::None),
        ("tcp4 64k", frame(&ip(GUEST, REMOTE), SUPER), tso),
        ("tcp6 1400", frame(&v6, 1400), Gso::None),
        (
            "udp4 1400",
            udp::frame(GUEST_MAC, OUR_MAC, (GUEST, 5000).into(), (REMOTE, 53).into(), &[7; 1400]),
            Gso::None,
        ),
    ];
    let mut group = c.benchmark_group("frame parse");
    for (name, bytes, gso) in &frames {
        group.bench_function(*name, |b| b.iter(|| parse_gso(black_box(bytes), *gso)));
    }
    group.finish();
}

/// What the headers of a super-frame cost, and cutting it up where a tap takes no offload.
pub fn emit(c: &mut Criterion) {
    let (ip, tcp, gso) = (ip(REMOTE, GUEST), segment(1, 1), Gso::Tcp { mss: 1460 });
    let mut group = c.benchmark_group("super-frame emit");
    group.bench_function("head and vnet", |b| {
        b.iter(|| {
            let (head, csum) = tcp::head(OUR_MAC, GUEST_MAC, black_box(&ip), black_box(&tcp), SUPER);
            let vnet = vnet::encode(&head, SUPER, Some(csum), gso);
            (head, vnet)
        });
    });
    let payload = vec![0x5a; SUPER];
    let caps = Caps { vnet: false, csum: false, tso4: false, tso6: false, uso: false, mtu: 1500 };
    let (head, csum) = tcp::head(OUR_MAC, GUEST_MAC, &ip, &tcp, SUPER);
    group.throughput(Throughput::Bytes(SUPER as u64));
    group.bench_function(BenchmarkId::new("cut in software", SUPER), |b| {
        let mut scratch = Scratch::default();
        b.iter(|| {
            let mut bytes = 0;
            let mut each = |_: &[u8], frame: &[u8]| bytes += frame.len();
            cut(&head, black_box(&payload), Some(csum), gso, &caps, &mut scratch, &mut each)
                .expect("the frame is of this module");
            bytes
        });
    });
    group.finish();
}
