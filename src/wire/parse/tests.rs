//! Frames of every protocol, cut short, altered and made up: lengths that contradict each other never pass.

use super::super::ip::{self, IpOut};
use super::super::{Csum, field, udp};
use super::*;
use proptest::prelude::*;

const GUEST: Mac = [2, 0, 0, 0, 0, 1];
const ROUTER: Mac = [0x52, 0x55, 10, 0, 2, 2];

fn out(src: &str, dst: &str) -> IpOut {
    IpOut {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        protocol: 0,
        ttl: 64,
        tos: 0xb9,
        id: 0,
        dont_fragment: true,
    }
}

fn families() -> [IpOut; 2] {
    [out("10.0.2.100", "192.0.2.7"), out("fd00::64", "2001:db8::7")]
}

#[test]
fn tcp_comes_back_as_built() {
    for ip in families() {
        let tcp = Tcp {
            src_port: 40_000,
            dst_port: 80,
            seq: 0xdead_beef,
            ack: 7,
            flags: tcp::Flags::SYN.with(tcp::Flags::ACK).with(tcp::Flags::ECE),
            window: 64_240,
            urgent: 3,
            options: tcp::Options {
                mss: Some(1460),
                window_scale: Some(7),
                sack_permitted: true,
                ..tcp::Options::default()
            },
        };
        let payload = b"hello";
        let (head, csum) = tcp::head(GUEST, ROUTER, &ip, &tcp, payload.len());
        let mut bytes = head.to_vec();
        bytes.extend_from_slice(payload);
        let frame = parse(&bytes).unwrap();
        assert_eq!((frame.src_mac, frame.dst_mac), (GUEST, ROUTER));
        let Net::Ip(seen, Payload::Tcp(seen_tcp, range)) = frame.net else { panic!("not TCP: {frame:?}") };
        assert_eq!((seen.src, seen.dst, seen.ttl, seen.tos), (ip.src, ip.dst, 64, 0xb9));
        assert_eq!(seen_tcp, tcp);
        assert_eq!(&bytes[range], payload);
        assert_eq!(csum, Csum { start: seen.payload_at, offset: 16 });
    }
}

/// A plain segment of five bytes.
fn tcp_frame(ip: &IpOut) -> Vec<u8> {
    let tcp = Tcp {
        src_port: 40_000,
        dst_port: 80,
        seq: 1,
        ack: 2,
        flags: tcp::Flags::ACK.with(tcp::Flags::PSH),
        window: 500,
        urgent: 0,
        options: tcp::Options { sack: [(7, 9)].into_iter().collect(), ..tcp::Options::default() },
    };
    let (head, csum) = tcp::head(GUEST, ROUTER, ip, &tcp, 5);
    completed(&head, b"hello", csum)
}

fn udp_frame(ip: &IpOut) -> Vec<u8> {
    let (head, csum) = udp::head(GUEST, ROUTER, ip, &Udp { src_port: 5000, dst_port: 53 }, 6);
    completed(&head, b"query?", csum)
}

fn echo_frame(ip: &IpOut) -> Vec<u8> {
    let v6 = ip.src.is_ipv6();
    let protocol = if v6 { proto::ICMPV6 } else { proto::ICMP };
    let mut head = ip::head(GUEST, ROUTER, &IpOut { protocol, ..*ip }, 12);
    let csum = Csum { start: head.len() as u16, offset: 2 };
    let sum = if v6 { checksum::pseudo(ip.src, ip.dst, protocol, 12).folded() } else { 0 };
    let [s0, s1] = sum.to_be_bytes();
    head.extend([if v6 { 128 } else { 8 }, 0, s0, s1, 0, 1, 0, 2]);
    completed(&head, b"ping", csum)
}

fn completed(head: &[u8], payload: &[u8], csum: Csum) -> Vec<u8> {
    let mut bytes = [head, payload].concat();
    let start = usize::from(csum.start);
    let sum = checksum::checksum(&bytes[start..]);
    field::put16(&mut bytes, start + usize::from(csum.offset), sum);
    bytes
}

/// An IPv6 frame whose payload is `chain` (extension headers, payload), the first named by `next`.
fn v6_frame(next: u8, chain: &[u8]) -> Vec<u8> {
    let ip = IpOut { protocol: next, ..families()[1] };
    let mut bytes = ip::head(GUEST, ROUTER, &ip, chain.len()).to_vec();
    bytes.extend_from_slice(chain);
    bytes
}

/// An IPv4 frame with `options` (a multiple of four) and then `payload`.
fn v4_frame(options: &[u8], flags: u16, payload: &[u8]) -> Vec<u8> {
    let ip = IpOut { protocol: proto::UDP, dont_fragment: false, id: 0x1234, ..families()[0] };
    let mut bytes = ip::head(GUEST, ROUTER, &ip, payload.len() + options.len()).to_vec();
    bytes.extend_from_slice(options);
    bytes[ETH_LEN] = 0x45 + (options.len() / 4) as u8;
    field::put16(&mut bytes, ETH_LEN + 6, flags);
    seal(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

fn seal(bytes: &mut [u8]) {
    field::put16(bytes, ETH_LEN + 10, 0);
    let end = (ETH_LEN + usize::from(bytes[ETH_LEN] & 15) * 4).min(bytes.len());
    let sum = checksum::checksum(&bytes[ETH_LEN..end]);
    field::put16(bytes, ETH_LEN + 10, sum);
}

const UDP_BYTES: [u8; 10] = [0x13, 0x88, 0, 53, 0, 10, 0, 0, 1, 2];

fn all_kinds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    // IPv6 knows no datagram without checksum.
    let mut summed = UDP_BYTES;
    let mut sum = checksum::pseudo(families()[1].src, families()[1].dst, proto::UDP, summed.len());
    sum.add(&summed);
    field::put16(&mut summed, 6, sum.finish());
    for ip in families() {
        all.extend([tcp_frame(&ip), udp_frame(&ip), echo_frame(&ip)]);
    }
    all.push(v4_frame(&[1, 1, 1, 0], 0, &UDP_BYTES));
    all.push(v6_frame(proto::HOP_BY_HOP, &[&[proto::UDP, 0, 1, 4, 0, 0, 0, 0][..], &summed].concat()));
    all
}

#[test]
fn every_truncation_is_malformed() {
    for bytes in all_kinds() {
        assert!(parse(&bytes).is_ok(), "{bytes:02x?}");
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len]), Err(ParseError::Malformed), "{len} of {bytes:02x?}");
        }
    }
}

#[test]
fn padding_behind_the_packet_is_no_part_of_it() {
    for bytes in all_kinds() {
        let padded = [&bytes[..], &[0xaa; 30]].concat();
        assert_eq!(parse(&padded), parse(&bytes));
    }
}

#[test]
fn every_value_of_every_length_byte_is_survived() {
    for good in all_kinds() {
        let v6 = good[12] == 0x86;
        let l4 = ETH_LEN + if v6 { 40 } else { 20 };
        let lengths: &[usize] = if v6 { &[14, 18, 19] } else { &[14, 16, 17, 20, 21] };
        // Positions of the transport header's lengths too: UDP length, TCP data offset, options, extension
        // length.
        for at in lengths.iter().copied().chain((l4..l4 + 24).filter(|at| *at < good.len())) {
            for value in 0..=255 {
                let mut bytes = good.clone();
                bytes[at] = value;
                if !v6 {
                    seal(&mut bytes);
                }
                check(&bytes);
            }
        }
    }
}

/// Whatever is accepted points into the frame.
fn check(bytes: &[u8]) {
    let Ok(frame) = parse(bytes) else { return };
    let range = match &frame.net {
        Net::Arp(range) => range.clone(),
        Net::Ip(ip, payload) => {
            let start = usize::from(ip.payload_at);
            let end = start + usize::from(ip.payload_len);
            assert!(end <= bytes.len());
            let range = match payload {
                Payload::Tcp(_, r) | Payload::Udp(_, r) => r,
                Payload::Icmp(r) | Payload::Fragment(r) | Payload::Other(r) => r,
            };
            assert!(start <= range.start && range.end <= end);
            range.clone()
        }
    };
    assert!(range.start <= range.end && range.end <= bytes.len());
    let _ = checksum::verify_transport(bytes, &frame);
}

#[test]
fn lengths_that_contradict_each_other() {
    let ip = families()[0];
    let altered = |frame: fn(&IpOut) -> Vec<u8>, at: usize, value: u16| {
        let mut bytes = frame(&ip);
        field::put16(&mut bytes, at, value);
        seal(&mut bytes);
        parse(&bytes).map(|f| f.net)
    };
    // IPv4 total length 34 is that of the whole UDP packet.
    assert!(matches!(altered(udp_frame, 16, 34), Ok(Net::Ip(_, Payload::Udp(_, r))) if r.len() == 6));
    assert_eq!(altered(udp_frame, 16, 35), Err(ParseError::Malformed));
    assert_eq!(altered(udp_frame, 16, 19), Err(ParseError::Malformed));
    assert_eq!(altered(udp_frame, 16, 33), Err(ParseError::Malformed));
    // UDP length: 14 is right, shorter cuts, longer or below eight is malformed.
    assert!(matches!(altered(udp_frame, 38, 10), Ok(Net::Ip(_, Payload::Udp(_, r))) if r.len() == 2));
    assert!(matches!(altered(udp_frame, 38, 8), Ok(Net::Ip(_, Payload::Udp(_, r))) if r.is_empty()));
    for bad in [0, 7, 15, 0xffff] {
        assert_eq!(altered(udp_frame, 38, bad), Err(ParseError::Malformed));
    }
    // TCP data offset: 4 words is too few, 15 reaches beyond the packet.
    assert_eq!(altered(tcp_frame, 46, 0x4018), Err(ParseError::Malformed));
    assert_eq!(altered(tcp_frame, 46, 0xf018), Err(ParseError::Malformed));
}

#[test]
fn a_wrong_header_checksum_is_told_apart() {
    let mut bytes = udp_frame(&families()[0]);
    bytes[24] ^= 1;
    assert_eq!(parse(&bytes), Err(ParseError::BadChecksum));
}

#[test]
fn options_of_ipv4_are_skipped_but_no_source_route() {
    let ok = parse(&v4_frame(&[7, 7, 4, 0, 0, 0, 0, 0], 0, &UDP_BYTES)).unwrap();
    let Net::Ip(ip, Payload::Udp(..)) = ok.net else { panic!("not UDP") };
    assert_eq!((ip.payload_at, ip.payload_len), (42, 10));
    for route in [131, 137] {
        assert_eq!(
            parse(&v4_frame(&[1, route, 7, 4, 1, 1, 1, 1], 0, &UDP_BYTES)),
            Err(ParseError::Unsupported)
        );
    }
    for broken in [[7, 0, 0, 0], [7, 1, 0, 0], [7, 5, 0, 0], [1, 1, 1, 7]] {
        assert_eq!(parse(&v4_frame(&broken, 0, &UDP_BYTES)), Err(ParseError::Malformed));
    }
    assert!(parse(&v4_frame(&[0, 131, 7, 9], 0, &UDP_BYTES)).is_ok(), "behind the end of options");
}

#[test]
fn fragments_of_ipv4() {
    let seen = |flags: u16, len: usize| match parse(&v4_frame(&[], flags, &vec![0; len])) {
        Ok(Frame { net: Net::Ip(ip, Payload::Fragment(range)), .. }) => {
            Ok((ip.fragment.unwrap(), range.len()))
        }
        Ok(other) => panic!("not a fragment: {other:?}"),
        Err(e) => Err(e),
    };
    let part = |offset, more| Fragment { id: 0x1234, offset, more };
    assert_eq!(seen(0x2000, 16), Ok((part(0, true), 16)));
    assert_eq!(seen(0x0002, 5), Ok((part(16, false), 5)));
    assert_eq!(seen(0x3fff, 8), Err(ParseError::Malformed), "reaches beyond 65,535");
    assert_eq!(seen(0x1ffe, 15), Ok((part(65_520, false), 15)));
    assert_eq!(seen(0x2001, 12), Err(ParseError::Malformed), "not a multiple of eight");
    assert_eq!(seen(0x2000, 0), Err(ParseError::Malformed), "empty");
}

#[test]
fn extension_headers_are_walked() {
    let plain = |next: u8, chain: &[u8]| parse(&v6_frame(next, chain)).map(|f| f.net);
    let hop = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let routing = |next: u8, left: u8| [next, 0, 0, left, 0, 0, 0, 0];
    let long = |next: u8| [[next, 1, 1, 12], [0; 4], [0; 4], [0; 4]].concat();
    // hop-by-hop, destination options of 16 bytes, spent routing header, UDP.
    let chain =
        [&hop(proto::DESTINATION)[..], &long(proto::ROUTING), &routing(proto::UDP, 0), &UDP_BYTES].concat();
    let Ok(Net::Ip(ip, Payload::Udp(udp, range))) = plain(proto::HOP_BY_HOP, &chain) else {
        panic!("not UDP")
    };
    assert_eq!((ip.protocol, ip.payload_at, udp.dst_port, range.len()), (17, 14 + 40 + 32, 53, 2));
    assert_eq!(ext::next_header_at(&v6_frame(proto::HOP_BY_HOP, &chain)[14..]), Some(40 + 24));

    let spent = [&routing(proto::UDP, 1)[..], &UDP_BYTES].concat();
    assert_eq!(plain(proto::ROUTING, &spent), Err(ParseError::Unsupported));
    let late = [&hop(proto::HOP_BY_HOP)[..], &hop(proto::UDP), &UDP_BYTES].concat();
    assert_eq!(plain(proto::HOP_BY_HOP, &late), Err(ParseError::Malformed));
    assert!(
        matches!(plain(59, &[]), Ok(Net::Ip(ip, Payload::Other(r))) if ip.protocol == 59 && r.is_empty())
    );
    assert!(matches!(plain(132, &[0; 12]), Ok(Net::Ip(_, Payload::Other(r))) if r.len() == 12));
    assert!(matches!(plain(proto::ICMP, &[0; 12]), Ok(Net::Ip(_, Payload::Other(_)))));
    assert_eq!(plain(proto::HOP_BY_HOP, &[]), Err(ParseError::Unsupported), "a jumbogram");
    let beyond = [proto::UDP, 3, 1, 4, 0, 0, 0, 0];
    assert_eq!(plain(proto::DESTINATION, &beyond), Err(ParseError::Malformed));
}

#[test]
fn extension_headers_are_bounded_in_depth() {
    let nested = |depth: usize| {
        let mut chain = Vec::new();
        for i in 0..depth {
            let next = if i + 1 == depth { proto::UDP } else { proto::DESTINATION };
            chain.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        chain.extend(UDP_BYTES);
        parse(&v6_frame(proto::DESTINATION, &chain)).map(|f| matches!(f.net, Net::Ip(_, Payload::Udp(..))))
    };
    assert_eq!(nested(ext::MAX_DEPTH), Ok(true));
    assert_eq!(nested(ext::MAX_DEPTH + 1), Err(ParseError::Unsupported));
}

#[test]
fn fragments_of_ipv6() {
    let seen = |place: u16, payload: &[u8]| {
        let [p0, p1] = place.to_be_bytes();
        let chain = [&[proto::UDP, 0, p0, p1, 1, 2, 3, 4][..], payload].concat();
        parse(&v6_frame(proto::FRAGMENT, &chain)).map(|f| f.net)
    };
    // Offset 0 and nothing to follow: a whole packet (RFC 6946).
    let Ok(Net::Ip(ip, Payload::Udp(..))) = seen(0, &UDP_BYTES) else { panic!("not atomic") };
    assert_eq!((ip.fragment, ip.payload_at), (None, 14 + 48));
    let Ok(Net::Ip(ip, Payload::Fragment(range))) = seen(16 | 1, &[0; 24]) else { panic!("not a fragment") };
    assert_eq!(ip.fragment, Some(Fragment { id: 0x0102_0304, offset: 16, more: true }));
    assert_eq!((ip.protocol, range), (proto::UDP, 62..86));
    assert_eq!(seen(1, &[0; 9]), Err(ParseError::Malformed));
    assert_eq!(seen(8, &[]), Err(ParseError::Malformed));
    assert_eq!(seen(0xfff8, &[0; 8]), Err(ParseError::Malformed));
}

#[test]
fn arp_has_fixed_types_and_lengths() {
    let mut bytes = [&ROUTER[..], &GUEST, &[8, 6], &[0, 1, 8, 0, 6, 4, 0, 1], &[0; 20]].concat();
    assert_eq!(parse(&bytes).unwrap().net, Net::Arp(14..42));
    assert_eq!(parse(&bytes[..41]), Err(ParseError::Malformed));
    for at in [14, 15, 16, 17, 18, 19] {
        bytes[at] ^= 0x40;
        assert_eq!(parse(&bytes), Err(ParseError::Unsupported));
        bytes[at] ^= 0x40;
    }
}

#[test]
fn other_frames_are_unsupported() {
    for ether_type in [[0x81, 0], [0x88, 0xa8], [0x88, 0xf8], [0, 46]] {
        let bytes = [&ROUTER[..], &GUEST, &ether_type, &[0; 46]].concat();
        assert_eq!(parse(&bytes), Err(ParseError::Unsupported));
    }
}

#[test]
fn a_uso_frame_may_state_either_length() {
    for ip in families() {
        let mut bytes = udp_frame(&ip);
        let at = bytes.len() - 6 - 4;
        let whole = parse(&bytes);
        assert_eq!(parse_gso(&bytes, Gso::Udp { size: 4 }), whole);
        field::put16(&mut bytes, at, 8 + 4);
        assert_eq!(parse_gso(&bytes, Gso::Udp { size: 4 }), whole);
        assert_ne!(parse(&bytes), whole, "without segmentation the field counts");
    }
}

#[test]
fn a_datagram_without_checksum_is_legal_in_ipv4_only() {
    assert!(checksum::frame_is_sound(&v4_frame(&[], 0, &UDP_BYTES)));
    assert!(!checksum::frame_is_sound(&v6_frame(proto::UDP, &UDP_BYTES)));
}

#[test]
fn transport_checksums_are_verified() {
    for bytes in all_kinds() {
        let frame = parse(&bytes).unwrap();
        assert!(checksum::verify_transport(&bytes, &frame), "{frame:?}");
        let mut wrong = bytes.clone();
        *wrong.last_mut().unwrap() ^= 1;
        // One of the frames is UDP over IPv4 without a checksum, which is legal.
        let unchecked = matches!(&frame.net, Net::Ip(ip, _) if ip.src.is_ipv4()) && bytes.ends_with(&[1, 2]);
        assert_eq!(checksum::frame_is_sound(&wrong), unchecked, "{frame:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes);
    }

    #[test]
    fn arbitrary_packets_behind_sound_ethernet_are_survived(
        mut bytes in proptest::collection::vec(any::<u8>(), 14..200),
        v6: bool,
        next in prop_oneof![Just(0u8), Just(6), Just(17), Just(43), Just(44), Just(58), Just(60), any::<u8>()],
    ) {
        let (ether, version): ([u8; 2], u8) = if v6 { ([0x86, 0xdd], 0x60) } else { ([8, 0], 0x45) };
        bytes[12..14].copy_from_slice(&ether);
        let len = bytes.len() - 14;
        if let Some(ip) = bytes.get_mut(14..).filter(|ip| ip.len() >= 40) {
            ip[0] = version;
            if v6 {
                field::put16(ip, 4, (len - 40) as u16);
                ip[6] = next;
            } else {
                field::put16(ip, 2, len as u16);
                ip[9] = next;
            }
        }
        if !v6 && bytes.len() >= 34 {
            seal(&mut bytes);
        }
        check(&bytes);
        check_walk(&bytes);
    }

    #[test]
    fn datagrams_come_back(len in 0usize..65_000, v6: bool, src_port: u16, dst_port: u16) {
        let ip = families()[usize::from(v6)];
        let ports = Udp { src_port, dst_port };
        let (head, csum) = udp::head(GUEST, ROUTER, &ip, &ports, len);
        let bytes = completed(&head, &vec![0x5a; len], csum);
        let frame = parse(&bytes).unwrap();
        prop_assert!(checksum::verify_transport(&bytes, &frame));
        let Net::Ip(seen, Payload::Udp(udp, range)) = frame.net else { panic!("not UDP") };
        prop_assert_eq!((seen.src, seen.dst, udp, range.len()), (ip.src, ip.dst, ports, len));
    }
}

/// The position of the protocol's name is inside the packet and names the protocol that was found.
fn check_walk(bytes: &[u8]) {
    if let (Some(at), Ok(frame)) = (ext::next_header_at(&bytes[ETH_LEN..]), parse(bytes)) {
        let Net::Ip(ip, _) = frame.net else { return };
        assert_eq!(bytes[ETH_LEN + at], ip.protocol);
    }
}
