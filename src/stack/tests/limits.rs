//! How much one guest may have: flows of all kinds together, new ones each second, connections under way, large buffers.

use super::*;
use crate::flow::Limit;
use crate::wire::tcp::{self, Flags, Options};
use crate::wire::{Payload, Tcp};

fn syn(port: u16) -> Vec<u8> {
    segment(port, Flags::SYN, 1, 0)
}

fn segment(port: u16, flags: Flags, seq: u32, ack: u32) -> Vec<u8> {
    let options = Options::default();
    let tcp = Tcp { src_port: port, dst_port: 80, seq, ack, flags, window: 1, urgent: 0, options };
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
fn who_is_never_answered_dials_at_a_bounded_rate() {
    let mut w = limited(Limits { half_open: 200, ..Limits::default() });
    let opened = |w: &mut World, f: Vec<u8>| w.batch(&[f]).iter().any(|d| matches!(d, Done::Open(..)));
    assert_eq!((1..=200).filter(|port| opened(&mut w, syn(*port))).count(), 100);
    assert_eq!((times(&w, Limit::Unanswered), w.dropped(DropReason::NoRoom)), (100, 100));
    // That they were refused is no answer.
    let flows: Vec<_> = w.stack.flows().map(|f| f.id).collect();
    for flow in flows {
        w.event(flow, HostEvent::ConnectFailed(super::super::HostError::Refused));
    }
    assert_eq!((201..=300).filter(|port| opened(&mut w, syn(*port))).count(), 0);
    w.pass(Duration::from_secs(1));
    assert_eq!((301..=400).filter(|port| opened(&mut w, syn(*port))).count(), 25);
}

#[test]
fn who_is_answered_opens_as_many_as_it_likes() {
    // More of each kind than may be without an answer; nothing of it takes any time.
    let many = 1..=3000u16;
    let mut w = World::new();
    let resolvers = Resolvers { servers: vec![at("198.51.100.53:53")], ..Resolvers::default() };
    w.stack = Stack::new(Network::default(), resolvers, Limits::default(), [7; 32]);
    w.frame(&echo_frame("10.0.2.100", "10.0.2.2", 64, (1, 1), b"x"));
    for port in many.clone() {
        let flow = opened(&w.batch(&[syn(port)]));
        let mut done = w.event(flow, HostEvent::Connected);
        done.extend(w.end_batch());
        let Net::Ip(_, Payload::Tcp(answer, _)) = only(&done).1.net else { panic!("{done:?}") };
        w.batch(&[segment(port, Flags::ACK, 2, answer.seq.wrapping_add(1))]);
    }
    for id in many.clone() {
        let flow = opened(&w.batch(&[echo_frame("10.0.2.100", "198.51.100.2", 64, (id, 1), b"x")]));
        w.echo_reply(flow, "198.51.100.2", 1, b"x");
    }
    for port in many {
        let question = udp_frame(&format!("10.0.2.100:{port}"), "10.0.2.3:53", &[0; 17]);
        let flow = opened(&w.batch(&[question]));
        w.datagrams(flow, "198.51.100.53:53", &[0; 17], None);
    }
    assert_eq!(times(&w, Limit::Unanswered), 0);
}

#[test]
fn destinations_without_an_answer_are_few_and_one_answer_frees_them() {
    let mut w = limited(Limits { half_open: 200, ..Limits::default() });
    let to = |n: u16| udp_frame("10.0.2.100:7", &format!("198.51.100.2:{n}"), b"x");
    let sent = |w: &mut World, n| sends(&w.batch(&[to(n)])).len();
    let first = w.batch(&[to(1)]);
    let flow = opened(&first);
    assert_eq!((2..=200).map(|n| sent(&mut w, n)).sum::<usize>(), 99);
    assert_eq!(times(&w, Limit::Unanswered), 100);
    // Those that were tried are still spoken to.
    assert_eq!((1..=100).map(|n| sent(&mut w, n)).sum::<usize>(), 100);
    w.datagrams(flow, "198.51.100.2:50", b"y", None);
    assert_eq!((201..=400).map(|n| sent(&mut w, n)).sum::<usize>(), 200);
    // Each mapping that is answered gives back what it took, so there is no end to them.
    for port in 1000..2000 {
        let open = w.batch(&[udp_frame(&format!("10.0.2.100:{port}"), "198.51.100.2:50", b"x")]);
        w.datagrams(opened(&open), "198.51.100.2:50", b"y", None);
    }
}

#[test]
fn the_tap_rests_from_frames_that_lead_to_nothing_and_from_no_others() {
    let mut w = World::new();
    let useful = udp_frame("10.0.2.100:7", "198.51.100.2:9", b"x");
    for _ in 0..3000 {
        w.frame(&useful);
    }
    assert_eq!(w.stack.tap_rest(w.now), None);
    for _ in 0..2400 {
        w.frame(&[0; 10]);
    }
    let until = w.stack.tap_rest(w.now);
    assert_eq!(
        (until.map(|at| at - w.now), times(&w, Limit::Fruitless)),
        (Some(Duration::from_millis(10)), 1)
    );
    w.pass(Duration::from_millis(10));
    assert_eq!((w.stack.tap_rest(w.now), times(&w, Limit::Fruitless)), (None, 1));
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
