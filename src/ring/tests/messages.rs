//! Datagrams: addresses, control messages, segmentation and coalescing, over the loopback interface.

use super::*;
use nix::sys::socket::{setsockopt, sockopt};
use std::net::{SocketAddr, UdpSocket};

fn pair(bind: &str) -> (UdpSocket, UdpSocket) {
    let (a, b) = (UdpSocket::bind(bind).unwrap(), UdpSocket::bind(bind).unwrap());
    for socket in [&a, &b] {
        socket.set_nonblocking(true).unwrap();
    }
    (a, b)
}

fn datagram<'a>(to: SocketAddr, spans: &'a [Span]) -> Message<'a> {
    Message { to: Some(to), from: None, head: &[], spans, segment: None, ttl: None, tos: None }
}

/// The message of a completion, with its bytes; releases its buffer.
fn message(ring: &mut TestRing, done: Completion<u32>) -> (SocketAddr, Vec<u8>, Option<u16>, u8, Option<u8>) {
    let bytes = take(ring, &done);
    match done.data {
        Data::Message { from, segment, tos, ttl, truncated: false, .. } => {
            (from.unwrap(), bytes, segment, tos, ttl)
        }
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn sender_ttl_and_tos_arrive() {
    let mut ring = ring();
    let (ours, theirs) = pair("127.0.0.1:0");
    setsockopt(&ours, sockopt::Ipv4RecvTtl, &true).unwrap();
    setsockopt(&ours, sockopt::IpRecvTos, &true).unwrap();
    let op = ring.receive_messages(ours.as_fd(), 1);
    let span = fill(&mut ring, b"ping");
    let to = ours.local_addr().unwrap();
    let spans = [span];
    let out = Message { head: b"head ", ttl: Some(33), tos: Some(0xb8), ..datagram(to, &spans) };
    ring.send_message(theirs.as_fd(), &out, 2);
    ring.release(span.buf);
    let (mut sent, mut got) = (None, None);
    while sent.is_none() || got.is_none() {
        let done = next(&mut ring);
        match done.tag {
            2 => sent = Some(done.result),
            _ => {
                assert!(done.more && done.op == op);
                got = Some(message(&mut ring, done));
            }
        }
    }
    assert_eq!(sent, Some(Ok(9)));
    let expected = (theirs.local_addr().unwrap(), b"head ping".to_vec(), None, 0xb8, Some(33));
    assert_eq!(got, Some(expected));
    theirs.send_to(b"", to).unwrap();
    let done = next(&mut ring);
    assert!(!done.more, "the kernel ends the receive with it");
    assert_eq!(message(&mut ring, done).1, b"", "an empty datagram is a datagram");
    assert_all_back(&ring);
}

#[test]
fn ipv6_has_hop_limit_and_traffic_class() {
    let mut ring = ring();
    let (ours, theirs) = pair("[::1]:0");
    setsockopt(&ours, sockopt::Ipv6RecvHopLimit, &true).unwrap();
    setsockopt(&ours, sockopt::Ipv6RecvTClass, &true).unwrap();
    let op = ring.receive_messages(ours.as_fd(), 1);
    let span = fill(&mut ring, b"six");
    let to = ours.local_addr().unwrap();
    ring.send_message(theirs.as_fd(), &Message { ttl: Some(7), tos: Some(0x20), ..datagram(to, &[span]) }, 2);
    ring.release(span.buf);
    loop {
        let done = next(&mut ring);
        if done.tag == 1 {
            let expected = (theirs.local_addr().unwrap(), b"six".to_vec(), None, 0x20, Some(7));
            assert_eq!(message(&mut ring, done), expected);
            break;
        }
        assert_eq!(done.result, Ok(3));
    }
    ring.cancel_fd(ours.as_fd());
    let done = next(&mut ring);
    assert_eq!((done.op, done.result), (op, Err(Errno::ECANCELED)));
    assert_all_back(&ring);
}

#[test]
fn datagrams_of_equal_size_leave_and_arrive_as_one() {
    let mut ring = ring();
    let (ours, theirs) = pair("127.0.0.1:0");
    setsockopt(&ours, sockopt::UdpGroSegment, &true).unwrap();
    ring.receive_messages(ours.as_fd(), 1);
    let id = ring.arena_mut().alloc(Class::Small).unwrap();
    let whole = Span::new(id, 0, 4000);
    for (i, b) in ring.arena_mut().bytes_mut(whole).iter_mut().enumerate() {
        *b = (i / 1000) as u8;
    }
    // 63 segments of 1000 bytes and one of 500: close to the most that one datagram's length can say.
    let mut spans = vec![whole; 15];
    spans.extend([whole.take(3000), whole.skip(3000).take(500)]);
    let to = ours.local_addr().unwrap();
    ring.send_message(theirs.as_fd(), &Message { segment: Some(1000), ..datagram(to, &spans) }, 2);
    ring.release(id);
    let mut total = 0;
    let mut largest = 0;
    while total < 63_500 {
        let done = next(&mut ring);
        if done.tag == 2 {
            assert_eq!(done.result, Ok(63_500));
            continue;
        }
        let (from, bytes, segment, ..) = message(&mut ring, done);
        assert_eq!(from, theirs.local_addr().unwrap());
        assert!(bytes.len() <= 1000 || segment == Some(1000), "{} bytes, {segment:?}", bytes.len());
        assert!(bytes.iter().zip(total..).all(|(b, at)| *b == (at / 1000 % 4) as u8));
        largest = largest.max(bytes.len());
        total += bytes.len();
    }
    assert!(largest > 60_000, "the loopback interface coalesces nothing: {largest} bytes at most");
    ring.cancel_fd(ours.as_fd());
    assert_eq!(next(&mut ring).result, Err(Errno::ECANCELED));
    assert_all_back(&ring);
}

#[test]
fn a_connected_socket_needs_no_address() {
    let mut ring = ring();
    let (ours, theirs) = pair("127.0.0.1:0");
    theirs.connect(ours.local_addr().unwrap()).unwrap();
    let out =
        Message { to: None, from: None, head: b"hello", spans: &[], segment: None, ttl: None, tos: None };
    ring.send_message(theirs.as_fd(), &out, 1);
    assert_eq!(next(&mut ring).result, Ok(5));
    let mut got = [0; 8];
    assert_eq!(ours.recv(&mut got).unwrap(), 5);
    assert_all_back(&ring);
}

#[test]
fn the_address_used_is_told_and_can_be_chosen() {
    for (bind, other, mapped) in [("127.0.0.1:0", "127.0.0.2", false), ("[::]:0", "127.0.0.3", true)] {
        let mut ring = ring();
        let ours = if mapped { UdpSocket::bind(bind) } else { UdpSocket::bind("0.0.0.0:0") }.unwrap();
        ours.set_nonblocking(true).unwrap();
        if mapped {
            setsockopt(&ours, sockopt::Ipv6RecvPacketInfo, &true).unwrap();
        } else {
            setsockopt(&ours, sockopt::Ipv4PacketInfo, &true).unwrap();
        }
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let other: std::net::Ipv4Addr = other.parse().unwrap();
        let port = ours.local_addr().unwrap().port();
        client.send_to(b"hello", (other, port)).unwrap();
        ring.receive_messages(ours.as_fd(), 1);
        let done = next(&mut ring);
        let Data::Message { from: Some(from), to: Some(to), data, .. } = done.data else {
            panic!("{done:?}")
        };
        assert_eq!(to.ip.to_canonical(), other);
        assert_eq!(to.ip.is_ipv6(), mapped);
        assert_ne!(to.interface, 0);
        let spans = [data];
        let out = Message { from: Some(Local { interface: 0, ..to }), ..datagram(from, &spans) };
        ring.send_message(ours.as_fd(), &out, 2);
        ring.release(data.buf);
        assert_eq!(next(&mut ring).result, Ok(5));
        let mut buf = [0; 16];
        let (n, seen) = client.recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..n], seen), (&b"hello"[..], (other, port).into()));
    }
}
