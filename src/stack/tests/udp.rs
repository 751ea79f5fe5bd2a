//! UDP mappings: joining, translation and filtering, super-frames both ways, errors, time.

use super::*;
use crate::config::{Filtering, Policy};
use crate::stack::udp::{IDLE, IDLE_DNS};
use crate::stack::{HostError, IcmpError};
use crate::wire::Payload;

const G: &str = "10.0.2.100:4000";
const G6: &str = "[fd00::64]:4000";

fn open_net() -> Network {
    Network { policy: Policy { allow_host_loopback: true, ..Policy::default() }, ..Network::default() }
}

/// Payload, source and destination of an emitted datagram.
fn datagram(bytes: &[u8]) -> (Vec<u8>, SocketAddr, SocketAddr) {
    let frame = parse(bytes).unwrap();
    let (src, dst) = ends(&frame);
    let Net::Ip(_, Payload::Udp(udp, range)) = frame.net else { panic!("not UDP") };
    (bytes[range].to_vec(), SocketAddr::new(src, udp.src_port), SocketAddr::new(dst, udp.dst_port))
}

#[test]
fn one_mapping_serves_all_destinations_of_a_port() {
    for (guest, a, b) in
        [(G, "198.51.100.2:9", "203.0.113.7:7777"), (G6, "[2001:db8::1]:9", "[2001:db8:1::1]:7777")]
    {
        let mut w = World::new();
        let done = w.batch(&[udp_frame(guest, a, b"one")]);
        let flow = opened(&done);
        assert!(matches!(done[0], Done::Open(_, Open::Udp { sample, bind: None }) if sample == at(a)));
        assert!(matches!(done[1], Done::Receive(f) if f == flow));
        let (f, d, bytes) = sends(&done)[0];
        assert_eq!((f, d.to, &bytes[..], d.segment, d.ttl), (flow, at(a), &b"one"[..], None, 63));
        assert!(d.head.is_empty());
        let done = w.batch(&[udp_frame(guest, b, b"two")]);
        assert_eq!(done.len(), 1);
        assert_eq!((sends(&done)[0].0, sends(&done)[0].1.to), (flow, at(b)));
        let done = w.datagrams(flow, b, b"answer", None);
        let (bytes, frame) = only(&done);
        assert_eq!(datagram(bytes), (b"answer".to_vec(), at(b), at(guest)));
        assert_eq!(frame.dst_mac, GUEST);
        let info: Vec<_> = w.stack.flows().collect();
        assert_eq!((info.len(), info[0].guest, info[0].remote), (1, at(guest), Some(at(b))));
        assert_eq!((info[0].host, info[0].state, w.stack.flow(flow)), (Some(at(b)), "open", Some(info[0])));
        assert_eq!((info[0].counters.packets_up, info[0].counters.bytes_down), (2, 6));
        assert_eq!(w.held(), 0);
    }
}

#[test]
fn equal_datagrams_of_a_batch_leave_as_one_segmented_send() {
    let mut w = World::new();
    let mut frames: Vec<Vec<u8>> = (0..10u8).map(|i| udp_frame(G, "198.51.100.2:9", &[i; 1000])).collect();
    // A shorter one ends the group; the next begins another.
    frames.push(udp_frame(G, "198.51.100.2:9", &[10; 500]));
    frames.push(udp_frame(G, "198.51.100.2:9", &[11; 500]));
    let done: Vec<Done> = frames.iter().flat_map(|f| w.frame(f)).collect();
    assert_eq!(sends(&done).len(), 1);
    assert_eq!(w.held(), 1);
    let rest = w.end_batch();
    let all = [sends(&done), sends(&rest)].concat();
    assert_eq!(all[0].1.segment, Some(1000));
    let expect: Vec<u8> = (0..10u8).flat_map(|i| [i; 1000]).chain([10; 500]).collect();
    assert_eq!(*all[0].2, expect);
    assert_eq!((all[1].1.segment, all[1].2.len()), (None, 500));
    assert_eq!(w.held(), 0);
}

#[test]
fn what_differs_is_not_joined_and_order_is_kept() {
    let mut w = World::new();
    let mut marked = udp_frame(G, "198.51.100.2:9", b"c");
    patch(&mut marked, 15, &[0x02]);
    let mut fragmentable = udp_frame(G, "198.51.100.2:9", b"d");
    patch(&mut fragmentable, 20, &[0, 0]);
    let frames = [
        udp_frame(G, "198.51.100.2:9", b"a"),
        udp_frame(G, "198.51.100.3:9", b"b"),
        marked,
        fragmentable,
        udp_frame(G, "198.51.100.2:9", b"ee"),
        udp_frame(G, "198.51.100.2:9", b""),
        udp_frame(G, "198.51.100.2:9", b""),
    ];
    let done = w.batch(&frames);
    let sent: Vec<_> = sends(&done);
    let payloads: Vec<&[u8]> = sent.iter().map(|s| &s.2[..]).collect();
    assert_eq!(payloads, [&b"a"[..], b"b", b"c", b"d", b"ee", b"", b""]);
    assert!(sent.iter().all(|s| s.1.segment.is_none()));
    assert_eq!((sent[2].1.tos, sent[1].1.to), (2, at("198.51.100.3:9")));
    assert_eq!((sent[2].1.dont_fragment, sent[3].1.dont_fragment), (true, false));
    assert_eq!(w.held(), 0);
}

#[test]
fn a_group_stays_within_the_kernels_limits() {
    let mut w = World::new();
    let frames: Vec<Vec<u8>> = (0..130).map(|_| udp_frame(G, "198.51.100.2:9", &[1; 100])).collect();
    let done = w.batch(&frames);
    let counts: Vec<usize> = sends(&done).iter().map(|s| s.1.spans.len()).collect();
    assert_eq!(counts, [64, 64, 2]);
    // 1400-byte datagrams: 46 of them are 64,400 bytes.
    let frames: Vec<Vec<u8>> = (0..50).map(|_| udp_frame(G, "198.51.100.2:9", &[1; 1400])).collect();
    let done = w.batch(&frames);
    let counts: Vec<usize> = sends(&done).iter().map(|s| s.1.spans.len()).collect();
    assert_eq!(counts, [46, 4]);
    // What does not fit an ordinary path goes alone.
    let frames: Vec<Vec<u8>> = (0..3).map(|_| udp_frame(G, "198.51.100.2:9", &[1; 9000])).collect();
    assert_eq!(sends(&w.batch(&frames)).len(), 3);
}

#[test]
fn a_super_frame_from_the_guest_is_one_send() {
    for (guest, to) in [(G, "198.51.100.2:9"), (G6, "[2001:db8::1]:9")] {
        let mut w = World::new();
        let body: Vec<u8> = (0..40_500u32).map(|i| (i % 251) as u8).collect();
        let done = w.frame_gso(&udp_frame(guest, to, &body), Gso::Udp { size: 1000 });
        let sent = sends(&done);
        assert_eq!((sent.len(), sent[0].1.segment, sent[0].2), (1, Some(1000), &body));
        assert_eq!(w.held(), 0);
        // More segments than Linux 6.1 takes: cut between datagrams.
        let done = w.frame_gso(&udp_frame(guest, to, &body[..13_000]), Gso::Udp { size: 100 });
        let sent = sends(&done);
        assert_eq!(sent.iter().map(|s| s.2.len()).collect::<Vec<_>>(), [6400, 6400, 200]);
        assert_eq!(sent.iter().flat_map(|s| s.2.clone()).collect::<Vec<_>>(), body[..13_000]);
        // It does not overtake what was held back before it.
        w.frame(&udp_frame(guest, to, b"first"));
        let done = w.frame_gso(&udp_frame(guest, to, &body[..3000]), Gso::Udp { size: 1000 });
        assert_eq!(*sends(&done)[0].2, b"first");
        assert_eq!(w.held(), 0);
    }
}

#[test]
fn datagrams_that_come_one_by_one_leave_together() {
    for (guest, remote, other) in
        [(G, "198.51.100.2:9", "198.51.100.2:10"), (G6, "[2001:db8::1]:9", "[2001:db8::1]:10")]
    {
        let mut w = World::new();
        let flow = opened(&w.batch(&[udp_frame(guest, remote, b"x"), udp_frame(guest, other, b"x")]));
        // What is in one batch: sender, length, bytes of each datagram. A change of sender, a longer datagram and one
        // behind a shorter begin a new frame; an empty one and one longer than the MTU go alone; order is kept.
        let body: Vec<u8> = (0..3000u32).map(|i| (i % 251) as u8).collect();
        let lengths = [(remote, 500), (remote, 500), (remote, 40), (remote, 40), (other, 40), (other, 0)];
        let lengths = lengths.into_iter().chain([(other, 700), (other, 700), (other, 2000), (other, 9)]);
        let mut done: Vec<Done> = Vec::new();
        let mut sent: Vec<u8> = Vec::new();
        for (from, len) in lengths {
            done.extend(w.more_datagrams(flow, from, &body[..len], None));
            sent.extend(&body[..len]);
        }
        done.extend(w.end_batch());
        let shapes: Vec<(usize, u16, Gso)> = done
            .iter()
            .map(|d| match d {
                Done::Frame(bytes, gso) => (datagram(bytes).0.len(), datagram(bytes).1.port(), *gso),
                other => panic!("{other:?}"),
            })
            .collect();
        let (of_500, of_700) = (Gso::Udp { size: 500 }, Gso::Udp { size: 700 });
        assert_eq!(
            shapes,
            [
                (1040, 9, of_500),
                (40, 9, Gso::None),
                (40, 10, Gso::None),
                (0, 10, Gso::None),
                (1400, 10, of_700),
                (2000, 10, Gso::None),
                (9, 10, Gso::None),
            ]
        );
        assert_eq!(frames(&done).iter().flat_map(|f| datagram(f).0).collect::<Vec<_>>(), sent);
        assert_eq!(w.held(), 0);
        // No frame holds more than 64 datagrams or 65,535 bytes.
        for (len, counts) in [(100, &[64, 64, 2][..]), (1400, &[46, 46, 38])] {
            let mut done: Vec<Done> = Vec::new();
            for _ in 0..130 {
                done.extend(w.more_datagrams(flow, remote, &body[..len], None));
            }
            done.extend(w.end_batch());
            let seen: Vec<usize> = frames(&done).iter().map(|f| datagram(f).0.len() / len).collect();
            assert_eq!(seen, counts);
        }
        // A super-frame does not overtake what was held back before it, and a mapping that ends lets go of it.
        let mut done = w.more_datagrams(flow, remote, b"first", None);
        done.extend(w.more_datagrams(flow, remote, &body[..1000], Some(100)));
        assert_eq!(datagram(frames(&done)[0]).0, b"first");
        w.more_datagrams(flow, remote, b"last", None);
        assert_eq!(datagram(frames(&w.pass(IDLE))[0]).0, b"last");
        assert_eq!(w.held(), 0);
    }
}

#[test]
fn received_batches_become_super_frames() {
    for (guest, remote, headers) in [(G, "198.51.100.2:9", 28), (G6, "[2001:db8::1]:9", 48)] {
        let mut w = World::new();
        let flow = opened(&w.batch(&[udp_frame(guest, remote, b"x")]));
        let body: Vec<u8> = (0..60_000u32).map(|i| (i % 251) as u8).collect();
        // 100 datagrams of 600 bytes: 64 in the first frame.
        let done = w.datagrams(flow, remote, &body, Some(600));
        let parts: Vec<(usize, Gso)> = done
            .iter()
            .map(|d| match d {
                Done::Frame(bytes, gso) => (bytes.len() - 14 - headers, *gso),
                other => panic!("{other:?}"),
            })
            .collect();
        let gso = Gso::Udp { size: 600 };
        assert_eq!(parts, [(38_400, gso), (21_600, gso)]);
        let all: Vec<u8> = frames(&done).iter().flat_map(|f| datagram(f).0).collect();
        assert_eq!(all, body);
        // 45 of 1452 fill a frame to its last bytes: 65,340.
        let done = w.datagrams(flow, remote, &body[..1452 * 41 + 7], Some(1452));
        assert_eq!(done.len(), 1);
        // Longer than the MTU: one by one, for the emitter to fragment.
        let done = w.datagrams(flow, remote, &body[..20_000], Some(8000));
        let sizes: Vec<(usize, Gso)> = done
            .iter()
            .map(|d| match d {
                Done::Frame(bytes, gso) => (datagram(bytes).0.len(), *gso),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sizes, [(8000, Gso::None), (8000, Gso::None), (4000, Gso::None)]);
        // Empty ones arrive, too.
        let done = w.datagrams(flow, remote, b"", None);
        assert_eq!(datagram(only(&done).0).0, b"");
        assert_eq!(w.held(), 0);
    }
}

#[test]
fn the_longest_datagram_passes_both_ways() {
    for (guest, remote, longest) in
        [(G, "198.51.100.2:9", 65_507), (G6, "[2001:db8::1]:9", 65_507), (G6, "[2001:db8::1]:9", 65_527)]
    {
        let mut w = World::new();
        let body = vec![7; longest];
        let done = w.batch(&[udp_frame(guest, remote, &body)]);
        let flow = opened(&done);
        assert_eq!(sends(&done)[0].2.len(), longest);
        let done = w.datagrams(flow, remote, &body, None);
        assert_eq!(datagram(only(&done).0).0, body);
        // Fragmentation needs an identification and no DF.
        let (bytes, frame) = only(&done);
        let Net::Ip(ip, _) = frame.net else { panic!() };
        assert!(guest == G6 || (!ip.dont_fragment && bytes[18..20] != [0, 0]));
        // Nothing longer exists; if it did, it would be dropped.
        assert!(w.datagrams(flow, remote, &vec![7; 65_528], None).is_empty());
        assert_eq!((w.held(), w.dropped(DropReason::Malformed)), (0, 1));
    }
}

#[test]
fn only_those_spoken_to_may_answer_unless_told_otherwise() {
    let mut w = World::new();
    let flow = opened(&w.batch(&[udp_frame(G, "198.51.100.2:9", b"x")]));
    // Address-dependent: another port of the same address is fine.
    assert_eq!(w.datagrams(flow, "198.51.100.2:10", b"y", None).len(), 1);
    assert!(w.datagrams(flow, "198.51.100.3:9", b"y", None).is_empty());
    assert_eq!(w.dropped(DropReason::Filtered), 1);
    let net = Network { filtering: Filtering::EndpointIndependent, ..Network::default() };
    let mut w = World::with(net, &[]);
    let flow = opened(&w.batch(&[udp_frame(G, "198.51.100.2:9", b"x")]));
    let done = w.datagrams(flow, "203.0.113.9:53", b"y", None);
    assert_eq!(datagram(only(&done).0).1, at("203.0.113.9:53"));
    let done = w.datagrams(flow, "127.0.0.1:53", b"y", None);
    assert_eq!(datagram(only(&done).0).1, at("10.0.2.2:53"));
    assert_eq!(w.held(), 0);
}

#[test]
fn two_addresses_for_the_loopback_answer_as_they_were_dialled() {
    let mut w = World::with(open_net(), &[]);
    let done = w.batch(&[udp_frame(G6, "[fd00::2]:53", b"x"), udp_frame(G6, "[fe80::2]:80", b"y")]);
    let flow = opened(&done);
    assert_eq!(sends(&done)[0].1.to, at("[::1]:53"));
    let done = w.datagrams(flow, "[::1]:53", b"a", None);
    assert_eq!(datagram(only(&done).0).1, at("[fd00::2]:53"));
    let done = w.datagrams(flow, "[::1]:80", b"b", None);
    assert_eq!(datagram(only(&done).0).1, at("[fe80::2]:80"));
}

#[test]
fn forbidden_destinations_are_refused_in_every_spelling() {
    let mut w = World::new();
    for to in ["127.0.0.1:9", "127.1.2.3:9", "0.0.0.0:9", "0.9.9.9:9", "10.0.2.2:9", "10.0.2.3:9"] {
        let done = w.batch(&[udp_frame(G, to, b"x")]);
        assert!(done.iter().all(|d| matches!(d, Done::Frame(..))), "{to}: {done:?}");
        for f in frames(&done) {
            let (kind, code, ..) = icmp_error(f);
            assert_eq!((kind, code), (3, 0), "{to}");
        }
    }
    for to in [
        "[::1]:9",
        "[::ffff:127.0.0.1]:9",
        "[::ffff:8.8.8.8]:9",
        "[::127.0.0.1]:9",
        "[fd00::2]:9",
        "[fe80::9]:9",
    ] {
        let done = w.batch(&[udp_frame(G6, to, b"x")]);
        let (bytes, frame) = only(&done);
        let (kind, code, _, quote) = icmp_error(bytes);
        assert_eq!((kind, code), (1, 0), "{to}");
        assert_eq!(ends(&frame).0, addr("fd00::2"));
        assert_eq!(quote, udp_frame(G6, to, b"x")[14..], "{to}");
    }
    // Empty places on the link stay silent.
    for (from, to) in [(G, "10.0.2.77:9"), (G6, "[fd00::77]:9")] {
        assert!(w.batch(&[udp_frame(from, to, b"x")]).is_empty());
    }
    assert_eq!(w.stack.flows().count(), 0);
    assert_eq!((w.dropped(DropReason::Policy), w.held()), (14, 0));
}

#[test]
fn groups_are_counted_and_dropped() {
    let mut w = World::new();
    for (from, to) in
        [(G, "224.0.0.251:5353"), (G, "255.255.255.255:9"), (G, "10.0.2.255:137"), (G6, "[ff02::fb]:5353")]
    {
        assert!(w.batch(&[udp_frame(from, to, b"x")]).is_empty());
    }
    assert_eq!((w.dropped(DropReason::Multicast), w.held()), (4, 0));
}

#[test]
fn time_to_live_runs_out_here_or_further_on() {
    for (guest, to, gateway, expired) in
        [(G, "198.51.100.2:33434", "10.0.2.2", (11, 0)), (G6, "[2001:db8::1]:33434", "fd00::2", (3, 0))]
    {
        let mut w = World::new();
        let mut frame = udp_frame(guest, to, b"probe");
        let at_ttl = if guest == G { 22 } else { 21 };
        patch(&mut frame, at_ttl, &[1]);
        let done = w.batch(&[frame.clone()]);
        let (bytes, f) = only(&done);
        let (kind, code, _, quote) = icmp_error(bytes);
        assert_eq!(((kind, code), ends(&f)), (expired, (addr(gateway), at(guest).ip())));
        assert_eq!(quote, frame[14..]);
        assert_eq!(w.dropped(DropReason::TtlExceeded), 1);
        patch(&mut frame, at_ttl, &[2]);
        let done = w.batch(&[frame]);
        assert_eq!(sends(&done)[0].1.ttl, 1);
        // A router further on reports: the guest sees that router and its own packet.
        let flow = opened(&done);
        let offender = if guest == G { "192.0.2.1" } else { "2001:db8:9::1" };
        let error = IcmpError {
            offender: Some(addr(offender)),
            icmp_type: expired.0,
            code: expired.1,
            info: 0,
            to: at(to),
            echo_seq: 0,
        };
        let done = w.event(flow, HostEvent::Icmp(error));
        let (bytes, f) = only(&done);
        assert_eq!(ends(&f), (addr(offender), at(guest).ip()));
        let (kind, code, _, quote) = icmp_error(bytes);
        assert_eq!((kind, code), expired);
        let header = if guest == G { 20 } else { 40 };
        assert_eq!(
            quote[header..header + 4],
            [at(guest).port().to_be_bytes(), at(to).port().to_be_bytes()].concat()
        );
        assert_eq!(w.held(), 0);
    }
}

#[test]
fn errors_of_the_loopback_come_from_the_gateway_that_was_dialled() {
    let mut w = World::with(open_net(), &[]);
    let flow = opened(&w.batch(&[udp_frame(G, "10.0.2.2:9", b"x")]));
    let error = IcmpError {
        offender: Some(addr("127.0.0.1")),
        icmp_type: 3,
        code: 3,
        info: 0,
        to: at("127.0.0.1:9"),
        echo_seq: 0,
    };
    for event in [
        HostEvent::Icmp(error),
        HostEvent::Icmp(IcmpError { offender: None, ..error }),
        HostEvent::DatagramsFailed { to: at("127.0.0.1:9"), error: HostError::Refused },
    ] {
        let done = w.event(flow, event);
        let (bytes, frame) = only(&done);
        assert_eq!(ends(&frame), (addr("10.0.2.2"), addr("10.0.2.100")));
        let (kind, code, _, quote) = icmp_error(bytes);
        assert_eq!((kind, code, &quote[16..20]), (3, 3, &[10, 0, 2, 2][..]));
    }
}

#[test]
fn refusals_of_the_host_become_what_the_guest_understands() {
    let cases = [
        (HostError::Refused, Some((3, 3, 0)), Some((1, 4, 0))),
        (HostError::HostUnreachable, Some((3, 1, 0)), Some((1, 3, 0))),
        (HostError::NetUnreachable, Some((3, 0, 0)), Some((1, 0, 0))),
        (HostError::Prohibited, Some((3, 13, 0)), Some((1, 1, 0))),
        (HostError::TooBig(Some(1400)), Some((3, 4, 1400)), Some((2, 0, 1400))),
        (HostError::TooBig(None), Some((3, 4, 1280)), Some((2, 0, 1280))),
        (HostError::Exhausted, None, None),
        (HostError::Other(5), None, None),
    ];
    for (guest, to) in [(G, "198.51.100.2:9"), (G6, "[2001:db8::1]:9")] {
        let mut w = World::new();
        let flow = opened(&w.batch(&[udp_frame(guest, to, b"x")]));
        for (error, v4, v6) in cases {
            let done = w.event(flow, HostEvent::DatagramsFailed { to: at(to), error });
            let seen = frames(&done).first().map(|f| {
                let (kind, code, info, _) = icmp_error(f);
                (kind, code, info)
            });
            assert_eq!(seen, if guest == G { v4 } else { v6 }, "{error:?}");
        }
        assert_eq!((w.dropped(DropReason::NoRoom), w.dropped(DropReason::HostRefused)), (1, 1));
        // A destination that this mapping has never sent to brings nothing.
        let done =
            w.event(flow, HostEvent::DatagramsFailed { to: at("9.9.9.9:9"), error: HostError::Refused });
        assert!(done.is_empty());
    }
}

#[test]
fn a_mapping_ends_when_it_is_idle_and_sooner_after_dns() {
    let mut w = World::new();
    let flow = opened(&w.batch(&[udp_frame(G, "198.51.100.2:9", b"x")]));
    // A one-way sender stays alive.
    for _ in 0..5 {
        assert!(w.pass(IDLE - Duration::from_secs(1)).is_empty());
        assert!(
            !w.batch(&[udp_frame(G, "198.51.100.2:9", b"x")]).iter().any(|d| matches!(d, Done::Open(..)))
        );
    }
    assert!(w.pass(IDLE - Duration::from_secs(1)).is_empty());
    let done = w.pass(Duration::from_secs(2));
    assert!(matches!(done[..], [Done::Close(f, _)] if f == flow), "{done:?}");
    assert_eq!(w.stack.counters().flows_closed, 1);
    // What comes too late finds nothing, and its buffer goes back.
    assert!(w.datagrams(flow, "198.51.100.2:9", b"late", None).is_empty());
    assert_eq!(w.held(), 0);
    let flow = opened(&w.batch(&[udp_frame(G, "198.51.100.2:53", b"q")]));
    w.datagrams(flow, "198.51.100.2:53", b"a", None);
    assert!(w.pass(IDLE_DNS - Duration::from_secs(1)).is_empty());
    assert!(matches!(w.pass(Duration::from_secs(2))[..], [Done::Close(_, _)]));
    // Unanswered, or also used for something else, it lives on.
    let flow =
        opened(&w.batch(&[udp_frame(G, "198.51.100.2:53", b"q"), udp_frame(G, "198.51.100.2:54", b"q")]));
    w.datagrams(flow, "198.51.100.2:53", b"a", None);
    assert!(w.pass(IDLE_DNS * 2).is_empty());
}

#[test]
fn mappings_are_bounded_and_a_dead_socket_ends_its_mapping() {
    let mut w = World::new();
    for port in 1..=70u16 {
        w.batch(&[udp_frame(&format!("10.0.2.100:{port}"), "198.51.100.2:9", b"x")]);
    }
    assert_eq!((w.stack.flows().count(), w.dropped(DropReason::NoRoom)), (48, 22));
    let flow = w.stack.flows().next().unwrap().id;
    // The socket dies between a frame and the end of its batch.
    w.frame(&udp_frame("10.0.2.100:1", "198.51.100.2:9", b"x"));
    let done = w.event(flow, HostEvent::ConnectFailed(HostError::Exhausted));
    assert!(matches!(done.last(), Some(Done::Close(f, _)) if *f == flow));
    assert!(w.end_batch().is_empty());
    assert_eq!((w.stack.flows().count(), w.held()), (47, 0));
}

#[test]
fn outgoing_sockets_are_bound_as_asked_except_to_the_loopback() {
    let mut net = open_net();
    net.outbound.v4 = Some("192.0.2.9".parse().unwrap());
    let mut w = World::with(net, &[]);
    let bind = |done: &[Done]| match done[0] {
        Done::Open(_, Open::Udp { bind, .. }) => bind,
        ref other => panic!("{other:?}"),
    };
    assert_eq!(bind(&w.batch(&[udp_frame(G, "198.51.100.2:9", b"x")])), Some(addr("192.0.2.9")));
    assert_eq!(bind(&w.batch(&[udp_frame("10.0.2.100:5", "10.0.2.2:9", b"x")])), None);
}

#[test]
fn datagrams_cut_anywhere_do_no_harm() {
    let mut w = World::new();
    truncated(&mut w, &udp_frame(G, "198.51.100.2:9", b"hello"));
    truncated(&mut w, &udp_frame(G6, "[2001:db8::1]:9", b"hello"));
}
