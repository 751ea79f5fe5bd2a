//! Messages come back as they were built, by us and by etherparse; cut, altered and arbitrary ones do no harm.

use super::super::{ETH_LEN, Net, Payload, Tcp, Udp, parse, tcp, udp};
use super::*;
use etherparse::{Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, SlicedPacket, TransportSlice, icmpv4};
use proptest::prelude::*;
use std::net::Ipv6Addr;

const ROUTER: Mac = [0x52, 0x55, 10, 0, 2, 2];
const GUEST: Mac = [2, 0, 0, 0, 0, 1];
const V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(10, 0, 2, 100));
const V6: (Ipv6Addr, Ipv6Addr) =
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x64));

fn towards_guest(v6: bool) -> IpOut {
    let (src, dst) = if v6 { (V6.0.into(), V6.1.into()) } else { (V4.0.into(), V4.1.into()) };
    IpOut { src, dst, protocol: 0, ttl: 64, tos: 0, id: 0, dont_fragment: true }
}

/// A packet to the guest, without Ethernet.
fn segment(v6: bool, payload_len: usize) -> Vec<u8> {
    let tcp = Tcp {
        src_port: 443,
        dst_port: 50_000,
        seq: 0x0102_0304,
        ack: 9,
        flags: tcp::Flags::ACK,
        window: 100,
        urgent: 0,
        options: tcp::Options::default(),
    };
    let (head, _) = tcp::head(ROUTER, GUEST, &towards_guest(v6), &tcp, payload_len);
    let mut packet = head[ETH_LEN..].to_vec();
    packet.resize(packet.len() + payload_len, 0x77);
    packet
}

/// An error about `offending` from the other end's address.
fn error_about(v6: bool, what: ErrorHead, offending: &[u8]) -> Vec<u8> {
    let ip = towards_guest(v6);
    error(ROUTER, GUEST, (ip.src, ip.dst), what, offending)
}

fn too_big(v6: bool, mtu: u32) -> ErrorHead {
    let (icmp_type, code) = if v6 { (2, 0) } else { (3, 4) };
    ErrorHead { icmp_type, code, info: mtu }
}

fn message(frame: &[u8]) -> &[u8] {
    let Net::Ip(_, Payload::Icmp(range)) = parse(frame).unwrap().net else { panic!("not ICMP") };
    &frame[range]
}

#[test]
fn echoes_come_back_as_built() {
    for v6 in [false, true] {
        for reply in [false, true] {
            let echo_out = Echo { reply, id: 0x1234, seq: 7 };
            let (head, csum) = echo_head(ROUTER, GUEST, &towards_guest(v6), &echo_out, 5);
            let mut frame = [&head[..], b"hello"].concat();
            let start = usize::from(csum.start);
            assert_eq!((frame.len() - start, csum.offset), (13, 2));
            let sum = checksum::checksum(&frame[start..]);
            field::put16(&mut frame, start + 2, sum);
            assert!(checksum::frame_is_sound(&frame));
            assert_eq!(echo(message(&frame), v6), Some(echo_out));
        }
    }
}

#[test]
fn an_echo_of_ipv4_starts_its_sum_from_zero() {
    let (head, csum) =
        echo_head(ROUTER, GUEST, &towards_guest(false), &Echo { reply: false, id: 1, seq: 2 }, 0);
    assert_eq!(head[usize::from(csum.start)..], [8, 0, 0, 0, 0, 1, 0, 2]);
}

#[test]
fn other_messages_are_no_echoes() {
    assert_eq!(echo(&[8, 1, 0, 0, 0, 1, 0, 2], false), None);
    assert_eq!(echo(&[8, 0, 0, 0, 0, 1, 0, 2], true), None);
    assert_eq!(echo(&[128, 0, 0, 0, 0, 1, 0, 2], false), None);
    for len in 0..8 {
        assert_eq!(echo(&[8, 0, 0, 0, 0, 1, 0, 2][..len], false), None);
    }
}

#[test]
fn etherparse_reads_our_errors() {
    let unreachable = ErrorHead { icmp_type: 3, code: 3, info: 0 };
    let frame = error_about(false, unreachable, &segment(false, 100));
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else { panic!("not ICMP") };
    assert_eq!(
        Icmpv4Slice::from_slice(icmp.slice()).unwrap().icmp_type(),
        Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port)
    );
    assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());

    let frame = error_about(true, too_big(true, 1400), &segment(true, 100));
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("not ICMPv6") };
    let icmp = Icmpv6Slice::from_slice(icmp.slice()).unwrap();
    assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1400 });
    assert!(icmp.is_checksum_valid(V6.0.octets(), V6.1.octets()));
}

#[test]
fn errors_quote_as_much_as_they_may() {
    for (v6, max) in [(false, MAX_ERROR_V4), (true, MAX_ERROR_V6)] {
        let headers = if v6 { 40 } else { 20 } + HEADER_LEN;
        for len in [0, 1, 500, 1400, 60_000] {
            let offending = segment(v6, len);
            let frame = error_about(v6, too_big(v6, 1400), &offending);
            assert_eq!(frame.len() - ETH_LEN, (headers + offending.len()).min(max));
            assert!(checksum::frame_is_sound(&frame));
            assert!(offending.starts_with(&message(&frame)[HEADER_LEN..]));
        }
    }
}

#[test]
fn too_big_names_mtu_connection_and_sequence_number() {
    for v6 in [false, true] {
        let frame = error_about(v6, too_big(v6, 1300), &segment(v6, 100));
        let ip = towards_guest(v6);
        assert_eq!(
            quoted(message(&frame), v6),
            Some(Quoted {
                head: too_big(v6, 1300),
                mtu: Some(1300),
                protocol: proto::TCP,
                src: SocketAddr::new(ip.src, 443),
                dst: SocketAddr::new(ip.dst, 50_000),
                seq: Some(0x0102_0304),
            })
        );
    }
}

#[test]
fn an_mtu_may_be_missing_or_absurd() {
    let mtu =
        |v6, info| quoted(message(&error_about(v6, too_big(v6, info), &segment(v6, 8))), v6).unwrap().mtu;
    assert_eq!(mtu(false, 0), None);
    assert_eq!(mtu(false, 0xffff_0514), Some(0x0514), "the upper half is unused (RFC 1191)");
    assert_eq!(mtu(true, 0x0001_0000), Some(u16::MAX));
}

#[test]
fn datagrams_and_others_are_quoted_too() {
    let ip = towards_guest(true);
    let (head, _) = udp::head(ROUTER, GUEST, &ip, &Udp { src_port: 53, dst_port: 4000 }, 0);
    let unreachable = ErrorHead { icmp_type: 1, code: 4, info: 0 };
    let frame = error_about(true, unreachable, &head[ETH_LEN..]);
    let seen = quoted(message(&frame), true).unwrap();
    assert_eq!(
        (seen.protocol, seen.src.port(), seen.dst.port(), seen.mtu, seen.seq),
        (17, 53, 4000, None, None)
    );

    let (head, _) = echo_head(ROUTER, GUEST, &ip, &Echo { reply: true, id: 1, seq: 2 }, 0);
    let frame = error_about(true, unreachable, &head[ETH_LEN..]);
    let seen = quoted(message(&frame), true).unwrap();
    assert_eq!((seen.protocol, seen.src, seen.dst.port()), (58, SocketAddr::new(ip.src, 0), 0));
}

#[test]
fn a_quote_cut_short_names_nothing() {
    for v6 in [false, true] {
        let frame = error_about(v6, too_big(v6, 1300), &segment(v6, 0));
        let whole = message(&frame);
        let ports = HEADER_LEN + if v6 { 40 } else { 20 } + 4;
        for len in 0..whole.len() {
            assert_eq!(quoted(&whole[..len], v6).is_some(), len >= ports, "{len} bytes, v6 {v6}");
        }
        assert_eq!(quoted(whole, !v6), None, "the other family");
    }
}

#[test]
fn later_parts_of_a_packet_name_nothing() {
    let mut offending = segment(false, 8);
    field::put16(&mut offending, 6, 0x0003);
    assert_eq!(quoted(message(&error_about(false, too_big(false, 1300), &offending)), false), None);
    field::put16(&mut offending, 6, 0x2000);
    assert!(quoted(message(&error_about(false, too_big(false, 1300), &offending)), false).is_some());

    let mut offending = segment(true, 8);
    offending.splice(40..40, [proto::TCP, 0, 0, 0x11, 0, 0, 0, 1]);
    offending[6] = proto::FRAGMENT;
    assert_eq!(quoted(message(&error_about(true, too_big(true, 1300), &offending)), true), None);
}

#[test]
fn echoes_and_advertisements_are_no_errors() {
    assert!([3, 4, 5, 11, 12].into_iter().all(|t| is_error(false, t)));
    assert!([0, 8, 9, 10, 13].into_iter().all(|t| !is_error(false, t)));
    assert!((0..=127).all(|t| is_error(true, t)) && (128..=255).all(|t| !is_error(true, t)));
    assert_eq!(quoted(&[8; 60], false), None);
}

proptest! {
    #[test]
    fn arbitrary_messages_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120), v6: bool) {
        let _ = (quoted(&bytes, v6), echo(&bytes, v6));
    }

    #[test]
    fn altered_quotes_are_survived(v6: bool, at in 0usize..80, value: u8) {
        let frame = error_about(v6, too_big(v6, 1300), &segment(v6, 40));
        let mut bytes = message(&frame).to_vec();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        if let Some(seen) = quoted(&bytes, v6) {
            prop_assert_eq!(seen.src.is_ipv6(), v6);
        }
    }
}
