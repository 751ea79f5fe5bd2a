//! Frames and events that nobody would send, in any order: nothing panics, every buffer goes back exactly once.
//!
//! The seeds are real conversations; proptest picks, mutates, truncates and interleaves them with host events for live
//! and dead flows and with time. TCP has its own tests: frames that parse as TCP are left out here.

use super::*;
use crate::stack::{HostError, IcmpError};
use crate::wire::Payload;
use proptest::collection::vec;
use proptest::prelude::*;

/// Frames that reach every engine.
fn seeds() -> Vec<Vec<u8>> {
    let mut dhcp = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    dhcp.resize(28, 0);
    dhcp.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
    dhcp.resize(236, 0);
    dhcp.extend_from_slice(&[
        99, 130, 83, 99, 53, 1, 1, 61, 3, 1, 2, 3, 82, 4, 1, 2, 9, 9, 81, 4, 0, 0, 0, 65,
    ]);
    dhcp.extend_from_slice(&[55, 4, 1, 3, 6, 119, 119, 3, 1, 65, 0, 121, 5, 0, 1, 2, 3, 4, 255]);
    let mut request = dhcp.clone();
    request[242] = 3;
    request.splice(243..243, [50, 4, 10, 0, 2, 15]);
    let mut arp = vec![0xff; 6];
    arp.extend_from_slice(&GUEST);
    arp.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend_from_slice(&GUEST);
    arp.extend_from_slice(&[10, 0, 2, 100, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
    let mut ns = vec![135, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    ns.extend_from_slice(&[1, 1, 2, 0, 0, 0, 0, 0x64]);
    let mut too_big = vec![3, 4, 0, 0, 0, 0, 5, 0];
    too_big.extend_from_slice(&[
        0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 9, 9, 9, 9, 10, 0, 2, 100, 0, 80, 9, 9,
    ]);
    let mut out = vec![
        arp,
        udp_frame("0.0.0.0:68", "255.255.255.255:67", &dhcp),
        udp_frame("0.0.0.0:68", "255.255.255.255:67", &request),
        udp_frame("[fe80::64]:546", "[ff02::1:2]:547", &[11, 1, 2, 3, 0, 1, 0, 2, 9, 9, 0, 6, 0, 2, 0, 23]),
        icmp_frame("fd00::64", "ff02::1:ff00:2", 255, &ns),
        icmp_frame("fe80::64", "ff02::2", 255, &[133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 0x64]),
        icmp_frame("10.0.2.100", "10.0.2.2", 64, &too_big),
        echo_frame("10.0.2.100", "10.0.2.2", 64, (1, 1), b"0123456789"),
        echo_frame("10.0.2.100", "198.51.100.2", 64, (1, 1), b"0123456789"),
        echo_frame("fd00::64", "2001:db8::1", 64, (1, 1), b"0123456789"),
        udp_frame("10.0.2.100:4000", "198.51.100.2:53", b"0123456789"),
        udp_frame("10.0.2.100:4000", "198.51.100.2:9", b"9876543210"),
        udp_frame("10.0.2.100:4000", "10.0.2.3:53", b"query"),
        udp_frame("[fd00::64]:4000", "[fd00::3]:53", b"query"),
        udp_frame("[fd00::64]:4000", "[2001:db8::1]:9", &[7; 300]),
        ip_frame("10.0.2.100", "198.51.100.2", 132, 64, &[1; 40]),
        ip_frame("fd00::64", "2001:db8::1", 60, 64, &[17, 0, 1, 4, 0, 0, 0, 0, 0, 9, 0, 9, 0, 9, 0, 0, 1]),
    ];
    // Parts of packets, two of them complete.
    for (at, len, more) in
        [(0u16, 24usize, true), (24, 24, false), (16, 16, true), (48, 8, false), (0, 48, true)]
    {
        let mut f = ip_frame("10.0.2.100", "198.51.100.2", 17, 64, &vec![5; len]);
        patch(&mut f, 20, &((at / 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
        out.push(f);
        let mut b = vec![17, 0];
        b.extend_from_slice(&(at | u16::from(more)).to_be_bytes());
        b.extend_from_slice(&[0, 0, 0, 1]);
        b.resize(8 + len, 5);
        out.push(ip_frame("fd00::64", "2001:db8::1", 44, 64, &b));
    }
    out
}

#[derive(Clone, Debug)]
enum Step {
    Frame { seed: usize, set: Vec<(usize, u8)>, keep: usize, gso: u16 },
    Noise(Vec<u8>),
    Event { flow: usize, kind: u8, from: usize, len: usize, segment: u16 },
    EndBatch,
    Pass(u64),
    Resolvers(usize),
    HostV6(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0usize..64, vec((0usize..400, any::<u8>()), 0..4), prop_oneof![4 => Just(9999), 1 => 0usize..400],
              prop_oneof![3 => Just(0u16), 1 => 1u16..50])
            .prop_map(|(seed, set, keep, gso)| Step::Frame { seed, set, keep, gso }),
        1 => vec(any::<u8>(), 0..200).prop_map(Step::Noise),
        6 => (0usize..64, 0u8..16, 0usize..6, 0usize..3000, 0u16..800)
            .prop_map(|(flow, kind, from, len, segment)| Step::Event { flow, kind, from, len, segment }),
        2 => Just(Step::EndBatch),
        2 => (0u64..300_000).prop_map(Step::Pass),
        1 => (0usize..4).prop_map(Step::Resolvers),
        1 => any::<bool>().prop_map(Step::HostV6),
    ]
}

const SERVERS: [&str; 3] = ["198.51.100.53:53", "[2001:db8::53]:53", "127.0.0.53:53"];
const REMOTES: [&str; 6] = [
    "198.51.100.2:53",
    "198.51.100.2:9",
    "[2001:db8::1]:9",
    "198.51.100.53:53",
    "[2001:db8::53]:53",
    "127.0.0.1:7",
];

fn event(w: &mut World, kind: u8, remote: SocketAddr, len: usize, segment: u16) -> HostEvent {
    let bytes = vec![3; len];
    match kind {
        0..=4 => {
            let data = w.hold(Class::Host, 0, &bytes);
            HostEvent::Datagrams { from: remote, data, segment: Some(segment).filter(|s| *s > 0), tos: 1 }
        }
        5..=7 => {
            let data = w.hold(Class::Host, 8, &bytes);
            HostEvent::EchoReply { from: remote.ip(), seq: 1, data, ttl: (len % 256) as u8 }
        }
        8 => HostEvent::DatagramsFailed { to: remote, error: HostError::Refused },
        9 => HostEvent::DatagramsFailed { to: remote, error: HostError::TooBig(None) },
        10 => HostEvent::DatagramsFailed { to: remote, error: HostError::Exhausted },
        11 | 12 => HostEvent::Icmp(IcmpError {
            offender: len.is_multiple_of(2).then_some(remote.ip()),
            icmp_type: (len % 13) as u8,
            code: (len % 5) as u8,
            info: 1300,
            to: remote,
            echo_seq: 1,
        }),
        13 => HostEvent::ReceiveFailed(HostError::Exhausted),
        14 => HostEvent::Received(w.hold(Class::Host, 0, &bytes)),
        _ => HostEvent::Eof,
    }
}

fn is_tcp(frame: &[u8]) -> bool {
    parse(frame).is_ok_and(|f| matches!(f.net, Net::Ip(_, Payload::Tcp(..))))
}

fn run(steps: Vec<Step>) {
    let seeds = seeds();
    let mut w = World::with(Network::default(), &SERVERS[..2]);
    let mut flows: Vec<FlowId> = Vec::new();
    for step in steps {
        let mut done = match step {
            Step::Frame { seed, set, keep, gso } => {
                let mut f = seeds[seed % seeds.len()].clone();
                for (at, byte) in set {
                    let at = at % f.len();
                    patch(&mut f, at, &[byte]);
                }
                f.truncate(keep);
                if is_tcp(&f) {
                    continue;
                }
                w.frame_gso(&f, if gso > 0 { Gso::Udp { size: gso } } else { Gso::None })
            }
            Step::Noise(bytes) => w.frame(&bytes),
            Step::Event { flow, kind, from, len, segment } => {
                let Some(flow) = flows.get(flow % flows.len().max(1)).copied() else { continue };
                let event = event(&mut w, kind, at(REMOTES[from]), len, segment);
                w.event(flow, event)
            }
            Step::EndBatch => w.end_batch(),
            Step::Pass(ms) => w.pass(Duration::from_millis(ms)),
            Step::Resolvers(n) => {
                let servers = SERVERS[..n].iter().map(|s| at(s)).collect();
                w.stack.set_resolvers(w.now, Resolvers { servers, ..Resolvers::default() });
                w.drain()
            }
            Step::HostV6(routable) => {
                w.stack.set_host_v6(w.now, routable);
                w.drain()
            }
        };
        // Reassembled packets come back as frames, as from the plane.
        while let Some(at) = done.iter().position(|d| matches!(d, Done::Inject(_))) {
            let Done::Inject(frame) = done.remove(at) else { continue };
            if !is_tcp(&frame) {
                done.extend(w.frame(&frame));
            }
        }
        flows.extend(done.iter().filter_map(|d| match d {
            Done::Open(flow, _) => Some(*flow),
            _ => None,
        }));
    }
    w.end_batch();
    w.pass(Duration::from_secs(600));
    assert_eq!((w.held(), w.stack.flows().count()), (0, 0), "something outlived its time");
    let counters = w.stack.counters();
    assert_eq!(counters.flows_opened, counters.flows_closed);
}

proptest! {
    #[test]
    fn anything_in_any_order(steps in vec(step(), 1..60)) {
        run(steps);
    }

    #[test]
    fn mutated_dhcp_never_panics(
        sets in vec((42usize..330, any::<u8>()), 0..12),
        cut in prop_oneof![3 => Just(9999usize), 1 => 42usize..330],
        which in 1usize..4,
    ) {
        let mut w = World::new();
        let mut frame = seeds()[which].clone();
        for (at, byte) in sets {
            let at = at % frame.len();
            frame[at] = byte;
        }
        frame.truncate(cut.max(60));
        w.frame(&frame);
        w.end_batch();
        w.pass(Duration::from_secs(600));
        prop_assert_eq!(w.held(), 0);
    }
}

#[test]
fn every_seed_cut_anywhere_does_no_harm() {
    for frame in seeds() {
        let mut w = World::new();
        truncated(&mut w, &frame);
    }
}
