//! How much one guest may have: flows of all kinds together, new ones each second, connections under way, large buffers.

use super::*;
use crate::flow::Limit;
use crate::wire::Tcp;
use crate::wire::tcp::{self, Flags, Options};

fn syn(port: u16) -> Vec<u8> {
    let options = Options::default();
    let tcp = Tcp {
        src_port: port,
        dst_port: 80,
        seq: 1,
        ack: 0,
        flags: Flags::SYN,
        window: 1,
        urgent: 0,
        options,
    };
    let (src, dst) = (addr("10.0.2.100"), addr("198.51.100.2"));
    let ip = IpOut { src, dst, protocol: 6, ttl: 64, tos: 0, id: 0, dont_fragment: true };
    tcp::head(GUEST, [0x52, 0x55, 10, 0, 2, 2], &ip, &tcp, 0).0.to_vec()
}

fn limited(limits: Limits) -> World {
    let mut w = World::new();
    w.stack = Stack::new(Network::default(), Resolvers::default(), limits, [7; 32]);
    w
}

fn times(w: &World, which: Limit) -> u64 {
    w.stack.counters().limited(which)
}

#[test]
fn flows_of_all_kinds_share_one_limit() {
    let mut w = limited(Limits { flows: 4, half_open: 100, ..Limits::default() });
    let mut opened = |f: Vec<u8>| w.batch(&[f]).iter().filter(|d| matches!(d, Done::Open(..))).count();
    assert_eq!(opened(udp_frame("10.0.2.100:1", "198.51.100.2:9", b"x")), 1);
    assert_eq!(opened(echo_frame("10.0.2.100", "198.51.100.2", 64, (1, 1), b"x")), 1);
    assert_eq!(opened(syn(1)) + opened(syn(2)), 2);
    assert_eq!(opened(syn(3)), 0);
    assert_eq!(opened(udp_frame("10.0.2.100:2", "198.51.100.2:9", b"x")), 0);
    assert_eq!(opened(echo_frame("10.0.2.100", "198.51.100.2", 64, (2, 1), b"x")), 0);
    assert_eq!(
        w.stack.accept_stream(w.now, at("10.0.2.100:80"), at("192.0.2.9:1"), Default::default()),
        None
    );
    w.drain();
    assert_eq!((times(&w, Limit::Flows), w.stack.counters().flows_refused), (4, 4));
    // What is open goes on, and makes room when it ends.
    assert_eq!(sends(&w.batch(&[udp_frame("10.0.2.100:1", "198.51.100.2:9", b"x")])).len(), 1);
    w.pass(Duration::from_secs(61));
    let done = w.batch(&[udp_frame("10.0.2.100:2", "198.51.100.2:9", b"x")]);
    assert!(done.iter().any(|d| matches!(d, Done::Open(..))), "{done:?}");
}

#[test]
fn datagrams_leave_room_for_connections() {
    let mut w = limited(Limits { flows: 8, half_open: 100, ..Limits::default() });
    let mut opened = |f: Vec<u8>| w.batch(&[f]).iter().filter(|d| matches!(d, Done::Open(..))).count();
    let datagrams: usize =
        (1..=20).map(|port| opened(udp_frame(&format!("10.0.2.100:{port}"), "198.51.100.2:9", b"x"))).sum();
    assert_eq!(datagrams, 6);
    assert_eq!((1..=3).map(|port| opened(syn(port))).sum::<usize>(), 2);
}

#[test]
fn new_flows_beyond_the_rate_are_lost_and_come_again() {
    let mut w = limited(Limits { flows: 1000, half_open: 1000, new_flows: 10, ..Limits::default() });
    let mut opened = 0;
    for port in 1..=30 {
        let frame = match port % 3 {
            0 => udp_frame(&format!("10.0.2.100:{port}"), "198.51.100.2:9", b"x"),
            1 => echo_frame("10.0.2.100", "198.51.100.2", 64, (port, 1), b"x"),
            _ => syn(port),
        };
        let done = w.batch(&[frame]);
        assert!(frames(&done).is_empty(), "nothing is said about it: {done:?}");
        opened += done.iter().filter(|d| matches!(d, Done::Open(..))).count();
    }
    assert_eq!((opened, times(&w, Limit::NewFlows), w.dropped(DropReason::NoRoom)), (10, 20, 20));
    // Flows that stand are not slowed down.
    for _ in 0..100 {
        assert_eq!(sends(&w.batch(&[udp_frame("10.0.2.100:3", "198.51.100.2:9", b"x")])).len(), 1);
    }
    w.pass(Duration::from_secs(1));
    let done = w.batch(&[syn(29)]);
    assert!(done.iter().any(|d| matches!(d, Done::Open(..))), "{done:?}");
}

#[test]
fn of_connections_under_way_the_oldest_makes_room() {
    let mut w = limited(Limits { flows: 100, half_open: 3, ..Limits::default() });
    let all: Vec<Done> = (1..=5).flat_map(|port| w.batch(&[syn(port)])).collect();
    let closed = all.iter().filter(|d| matches!(d, Done::Close(_, Close::Reset))).count();
    assert_eq!((closed, times(&w, Limit::HalfOpen), w.stack.flows().count()), (2, 2, 3));
}

#[test]
fn parts_of_packets_leave_the_tap_most_of_its_buffers() {
    let mut w = World::new();
    let long = |id: u16, at: u16| {
        let mut f = ip_frame("10.0.2.100", "198.51.100.2", 17, 64, &[5; 8000]);
        patch(&mut f, 18, &id.to_be_bytes());
        patch(&mut f, 20, &((at / 8) | 0x2000).to_be_bytes());
        f
    };
    let mut most = 0;
    for id in 0..60 {
        for at in 0..7 {
            assert!(w.frame(&long(id, at * 8000)).is_empty());
            most = most.max(w.held());
        }
    }
    assert_eq!(most, crate::stack::reassembly::MAX_LARGE);
    assert!(w.dropped(DropReason::Fragment) > 0);
    w.pass(Duration::from_secs(31));
    assert_eq!(w.held(), 0);
}
