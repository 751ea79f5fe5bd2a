//! Echo, inside and out; errors and the rules about them.

use super::*;
use crate::stack::{HostError, IcmpError};
use crate::wire::Payload;

const G: &str = "10.0.2.100";
const G6: &str = "fd00::64";

/// The ICMP message of a frame.
fn message(bytes: &[u8]) -> Vec<u8> {
    let Net::Ip(_, Payload::Icmp(range)) = parse(bytes).unwrap().net else { panic!("not ICMP") };
    bytes[range].to_vec()
}

#[test]
fn our_own_addresses_always_answer_echo() {
    // Also without loopback, also with a time to live of one, whatever the length.
    for (guest, ours) in
        [(G, &["10.0.2.2", "10.0.2.3"][..]), (G6, &["fd00::2", "fd00::3", "fe80::2", "fe80::3"][..])]
    {
        for to in ours {
            for len in [0, 1, 56, 1400, 60_000] {
                let mut w = World::new();
                let body = vec![0xa5; len];
                let request = echo_frame(guest, to, 1, (0x1234, 7), &body);
                let done = w.frame(&request);
                let (bytes, frame) = only(&done);
                assert_eq!(ends(&frame), (addr(to), addr(guest)));
                let Net::Ip(ip, _) = &frame.net else { panic!() };
                assert_eq!((ip.ttl, ip.dont_fragment), (255, guest == G6));
                let m = message(bytes);
                assert_eq!(m[0], if guest == G { 0 } else { 129 });
                assert_eq!(m[4..8], [0x12, 0x34, 0, 7]);
                assert_eq!(m[8..], body);
                assert_eq!(w.held(), 0);
            }
        }
    }
}

#[test]
fn echo_goes_through_one_ping_socket_per_identifier() {
    for (guest, to, kinds, header) in [(G, "198.51.100.2", (8, 0), 20), (G6, "2001:db8::1", (128, 129), 40)] {
        let mut w = World::new();
        let done = w.frame(&echo_frame(guest, to, 64, (0x1234, 1), b"ping"));
        let flow = opened(&done);
        assert!(matches!(done[0], Done::Open(_, Open::Ping { sample, .. }) if sample == addr(to)));
        let (f, d, bytes) = sends(&done)[0];
        assert_eq!((f, d.to, d.ttl, &bytes[..]), (flow, SocketAddr::new(addr(to), 0), 63, &b"ping"[..]));
        assert_eq!(d.head[..], [kinds.0, 0, 0, 0, 0x12, 0x34, 0, 1]);
        let done = w.frame(&echo_frame(guest, to, 64, (0x1234, 2), b"ping"));
        assert_eq!((done.len(), sends(&done)[0].0), (1, flow));
        let done = w.echo_reply(flow, to, 2, b"ping");
        let (bytes, frame) = only(&done);
        assert_eq!(ends(&frame), (addr(to), addr(guest)));
        let m = message(bytes);
        assert_eq!((m[0], &m[4..8], &m[8..]), (kinds.1, &[0x12, 0x34, 0, 2][..], &b"ping"[..]));
        // The time to live is what it arrived with, less our hop.
        assert_eq!(bytes[14 + if header == 20 { 8 } else { 7 }], 56);
        // Another identifier, another socket; strangers are not let in.
        assert_ne!(opened(&w.frame(&echo_frame(guest, to, 64, (9, 1), b"x"))), flow);
        let stranger = if guest == G { "198.51.100.9" } else { "2001:db8::9" };
        assert!(w.echo_reply(flow, stranger, 2, b"ping").is_empty());
        assert_eq!(w.dropped(DropReason::Filtered), 1);
        let done = w.pass(Duration::from_secs(61));
        assert_eq!(done.iter().filter(|d| matches!(d, Done::Close(_, _))).count(), 2);
        assert!(w.echo_reply(flow, to, 3, b"late").is_empty());
        assert_eq!(w.held(), 0);
    }
}

#[test]
fn traceroute_by_echo_sees_every_hop() {
    for (guest, to, offender, gateway, expired, header) in [
        (G, "198.51.100.2", "192.0.2.1", "10.0.2.2", 11, 20),
        (G6, "2001:db8::1", "2001:db8:9::1", "fd00::2", 3, 40),
    ] {
        let mut w = World::new();
        let first = echo_frame(guest, to, 1, (77, 1), b"probe");
        let done = w.frame(&first);
        let (bytes, frame) = only(&done);
        assert_eq!((icmp_error(bytes).0, ends(&frame).0), (expired, addr(gateway)));
        assert_eq!(icmp_error(bytes).3, first[14..]);
        let done = w.frame(&echo_frame(guest, to, 2, (77, 2), b"probe"));
        assert_eq!(sends(&done)[0].1.ttl, 1);
        let error = IcmpError {
            offender: Some(addr(offender)),
            icmp_type: expired,
            code: 0,
            info: 0,
            to: SocketAddr::new(addr(to), 0),
            echo_seq: 2,
        };
        let done = w.event(opened(&done), HostEvent::Icmp(error));
        let (bytes, frame) = only(&done);
        assert_eq!(ends(&frame), (addr(offender), addr(guest)));
        let quote = icmp_error(bytes).3;
        assert_eq!(quote[header], if guest == G { 8 } else { 128 });
        assert_eq!(quote[header + 4..header + 8], [0, 77, 0, 2]);
    }
}

#[test]
fn refused_and_absent_destinations_of_echo() {
    let mut w = World::new();
    for to in ["127.0.0.1", "0.0.0.0"] {
        let done = w.frame(&echo_frame(G, to, 64, (1, 1), b"x"));
        assert!(done.iter().all(|d| matches!(d, Done::Frame(..))), "{to}");
    }
    let done = w.frame(&echo_frame(G6, "::1", 64, (1, 1), b"x"));
    assert_eq!(icmp_error(only(&done).0).0, 1);
    assert!(w.frame(&echo_frame(G, "10.0.2.77", 64, (1, 1), b"x")).is_empty());
    assert_eq!((w.dropped(DropReason::Policy), w.stack.flows().count()), (4, 0));
    // Ping sockets that the host does not grant: counted, and the next request tries again.
    let flow = opened(&w.frame(&echo_frame(G, "198.51.100.2", 64, (1, 1), b"x")));
    let done = w.event(flow, HostEvent::ConnectFailed(HostError::Prohibited));
    assert!(matches!(done[..], [Done::Close(f, _)] if f == flow));
    assert_ne!(opened(&w.frame(&echo_frame(G, "198.51.100.2", 64, (1, 2), b"x"))), flow);
    assert_eq!(w.held(), 0);
}

#[test]
fn protocols_that_nobody_speaks_are_refused_by_name() {
    let mut w = World::new();
    let frame = ip_frame(G, "198.51.100.2", 132, 64, &[0; 12]);
    let done = w.frame(&frame);
    let (kind, code, _, quote) = icmp_error(only(&done).0);
    assert_eq!((kind, code, &quote[..]), (3, 2, &frame[14..]));
    let done = w.frame(&ip_frame(G6, "2001:db8::1", 132, 64, &[0; 12]));
    let (kind, code, pointer, _) = icmp_error(only(&done).0);
    assert_eq!((kind, code, pointer), (4, 1, 6));
    // Behind destination options, the options' own next-header byte is to blame.
    let done = w.frame(&ip_frame(G6, "2001:db8::1", 60, 64, &[132, 0, 1, 4, 0, 0, 0, 0, 1, 2, 3, 4]));
    let (kind, code, pointer, _) = icmp_error(only(&done).0);
    assert_eq!((kind, code, pointer), (4, 1, 40));
    assert_eq!(w.dropped(DropReason::Unsupported), 3);
}

#[test]
fn no_error_about_errors_groups_or_floods() {
    let mut w = World::new();
    // An error from the guest whose time to live has run out.
    for kind in [3, 4, 5, 11, 12] {
        assert!(
            w.frame(&icmp_frame(G, "198.51.100.2", 1, &[kind, 0, 0, 0, 0, 0, 0, 0])).is_empty(),
            "{kind}"
        );
    }
    for kind in [1, 2, 3, 4] {
        assert!(w.frame(&icmp_frame(G6, "2001:db8::1", 1, &[kind, 0, 0, 0, 0, 0, 0, 0])).is_empty());
    }
    assert!(w.frame(&ip_frame(G, "224.0.0.1", 132, 64, &[0; 12])).is_empty());
    // A flood of refused datagrams: a hundred at once, then two hundred a second.
    let flood = |w: &mut World| {
        (0..500)
            .map(|_| frames(&w.batch(&[udp_frame("10.0.2.100:9", "127.0.0.1:9", b"x")])).len())
            .sum::<usize>()
    };
    assert_eq!(flood(&mut w), 100);
    w.pass(Duration::from_millis(100));
    assert_eq!(flood(&mut w), 20);
    w.pass(Duration::from_secs(100));
    assert_eq!(flood(&mut w), 100);
    assert_eq!(w.held(), 0);
}

#[test]
fn errors_quote_as_much_as_the_family_allows() {
    let mut w = World::new();
    let done = w.batch(&[udp_frame("10.0.2.100:9", "127.0.0.1:9", &[1; 1400])]);
    assert_eq!(only(&done).0.len(), 14 + 576);
    let done = w.batch(&[udp_frame("[fd00::64]:9", "[::1]:9", &[1; 1400])]);
    assert_eq!(only(&done).0.len(), 14 + 1280);
}

#[test]
fn too_big_from_the_network_carries_its_mtu() {
    let mut w = World::new();
    let flow = opened(&w.batch(&[udp_frame("10.0.2.100:9", "198.51.100.2:9", &[1; 1400])]));
    let error = IcmpError {
        offender: Some(addr("192.0.2.1")),
        icmp_type: 3,
        code: 4,
        info: 1280,
        to: at("198.51.100.2:9"),
        echo_seq: 0,
    };
    let done = w.event(flow, HostEvent::Icmp(error));
    let (kind, code, info, _) = icmp_error(only(&done).0);
    assert_eq!((kind, code, info), (3, 4, 1280));
    // Redirects and source quench stay with the host.
    for icmp_type in [4, 5] {
        assert!(w.event(flow, HostEvent::Icmp(IcmpError { icmp_type, ..error })).is_empty());
    }
    assert_eq!(w.dropped(DropReason::Unsupported), 2);
}

#[test]
fn other_messages_are_counted_and_cut_ones_do_no_harm() {
    let mut w = World::new();
    for kind in [0, 13, 15, 17, 3, 11] {
        assert!(w.frame(&icmp_frame(G, "198.51.100.2", 64, &[kind, 0, 0, 0, 0, 0, 0, 0])).is_empty());
    }
    // Errors that quote nothing are malformed.
    assert_eq!((w.dropped(DropReason::Unsupported), w.dropped(DropReason::Malformed)), (4, 2));
    truncated(&mut w, &echo_frame(G, "10.0.2.2", 64, (1, 1), b"hello"));
    truncated(&mut w, &echo_frame(G6, "2001:db8::1", 64, (1, 1), b"hello"));
    // A payload length that promises more than there is (CVE-2020-10756).
    let mut lying = echo_frame(G6, "fd00::2", 64, (1, 1), b"hello");
    patch(&mut lying, 18, &4000u16.to_be_bytes());
    assert!(w.frame(&lying).is_empty());
    assert_eq!(w.held(), 0);
}
