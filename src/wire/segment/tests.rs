//! What is cut fits its tap, adds up to what was given, and is read by etherparse; what cannot be cut says why.

use super::super::ip::{self, IpOut};
use super::super::{Fragment, Net, Payload, Tcp, Udp, checksum, parse, udp};
use super::*;
use etherparse::{SlicedPacket, TransportSlice};
use proptest::prelude::*;

const A: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const B: [u8; 6] = [2, 0, 0, 0, 0, 1];

const BARE: Caps = Caps { vnet: false, csum: false, tso4: false, tso6: false, uso: false, mtu: 1500 };
const FULL: Caps = Caps { vnet: true, csum: true, tso4: true, tso6: true, uso: true, mtu: 1500 };

fn out(v6: bool, dont_fragment: bool) -> IpOut {
    let (src, dst) = if v6 { ("2001:db8::1", "fd00::64") } else { ("192.0.2.1", "10.0.2.100") };
    let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
    IpOut { src, dst, protocol: 0, ttl: 64, tos: 0, id: 0xfffe, dont_fragment }
}

fn a_tcp(flags: tcp::Flags) -> Tcp {
    Tcp {
        src_port: 443,
        dst_port: 50_000,
        seq: 0xffff_ff00,
        ack: 99,
        flags,
        window: 5000,
        urgent: 0,
        options: tcp::Options::default(),
    }
}

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) ^ (i >> 8) as u8).collect()
}

/// A virtio-net header and the frame behind it.
type Written = ([u8; 12], Vec<u8>);

/// Runs [`cut`] and keeps what comes out.
fn frames(
    head: &[u8],
    payload: &[u8],
    csum: Option<Csum>,
    gso: Gso,
    caps: &Caps,
) -> Result<Vec<Written>, CutError> {
    let mut all = Vec::new();
    let mut scratch = Scratch::new(7);
    let mut each = |v: &[u8], f: &[u8]| all.push((v.try_into().unwrap(), f.to_vec()));
    cut(head, payload, csum, gso, caps, &mut scratch, &mut each)?;
    Ok(all)
}

/// The independent check: etherparse reads the frame and computes the transport checksum its own way.
fn etherparse_agrees(frame: &[u8]) -> bool {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let net = packet.net.unwrap();
    match (packet.transport.unwrap(), net) {
        (TransportSlice::Tcp(t), etherparse::NetSlice::Ipv4(n)) => {
            let header = t.to_header();
            n.header().to_header().calc_header_checksum() == n.header().header_checksum()
                && header.calc_checksum_ipv4_raw(n.header().source(), n.header().destination(), t.payload())
                    == Ok(header.checksum)
        }
        (TransportSlice::Tcp(t), etherparse::NetSlice::Ipv6(n)) => {
            let header = t.to_header();
            header.calc_checksum_ipv6_raw(n.header().source(), n.header().destination(), t.payload())
                == Ok(header.checksum)
        }
        (TransportSlice::Udp(u), etherparse::NetSlice::Ipv4(n)) => {
            let header = u.to_header();
            header.calc_checksum_ipv4_raw(n.header().source(), n.header().destination(), u.payload())
                == Ok(header.checksum)
        }
        (TransportSlice::Udp(u), etherparse::NetSlice::Ipv6(n)) => {
            let header = u.to_header();
            header.calc_checksum_ipv6_raw(n.header().source(), n.header().destination(), u.payload())
                == Ok(header.checksum)
        }
        _ => false,
    }
}

#[test]
fn tcp_flags_and_numbers_change_as_in_linux() {
    let flags = tcp::Flags::ACK.with(tcp::Flags::PSH).with(tcp::Flags::FIN).with(tcp::Flags::CWR);
    let payload = bytes(2500, 1);
    let (head, csum) = tcp::head(A, B, &out(false, true), &a_tcp(flags), payload.len());
    let cut = frames(&head, &payload, Some(csum), Gso::Tcp { mss: 1000 }, &BARE).unwrap();
    let seen: Vec<_> = cut
        .iter()
        .map(|(_, f)| match parse(f).unwrap().net {
            Net::Ip(_, Payload::Tcp(t, range)) => {
                (t.seq, t.flags, range.len(), u16::from_be_bytes([f[18], f[19]]))
            }
            other => panic!("not TCP: {other:?}"),
        })
        .collect();
    let ack = tcp::Flags::ACK;
    assert_eq!(
        seen,
        [
            (0xffff_ff00, ack.with(tcp::Flags::CWR), 1000, 0xfffe),
            (0x0000_02e8, ack, 1000, 0xffff),
            (0x0000_06d0, ack.with(tcp::Flags::PSH).with(tcp::Flags::FIN), 500, 0x0000),
        ]
    );
}

#[test]
fn a_tap_with_offload_gets_partial_checksums() {
    let payload = bytes(2500, 1);
    let (head, csum) = tcp::head(A, B, &out(true, true), &a_tcp(tcp::Flags::ACK), payload.len());
    let caps = Caps { tso6: false, ..FULL };
    assert!(needs_software(&caps, &head, payload.len(), Some(csum), Gso::Tcp { mss: 1000 }));
    let cut = frames(&head, &payload, Some(csum), Gso::Tcp { mss: 1000 }, &caps).unwrap();
    assert_eq!(cut.len(), 3);
    for (header, frame) in cut {
        let rx = vnet::decode(&header, frame.len()).unwrap();
        assert_eq!(rx, vnet::Rx { csum: vnet::RxCsum::Partial(csum), gso: Gso::None });
        let mut whole = frame.clone();
        Chain::read(&frame).unwrap().complete(&mut whole, csum).unwrap();
        assert!(etherparse_agrees(&whole));
    }
}

#[test]
fn what_a_tap_takes_is_left_alone() {
    let (head4, c4) = tcp::head(A, B, &out(false, true), &a_tcp(tcp::Flags::ACK), 40_000);
    let (head6, c6) = udp::head(A, B, &out(true, true), &Udp { src_port: 1, dst_port: 2 }, 40_000);
    let (tso, uso) = (Gso::Tcp { mss: 1460 }, Gso::Udp { size: 1452 });
    let needs = |caps: &Caps, gso| match gso {
        Gso::Tcp { .. } => needs_software(caps, &head4, 40_000, Some(c4), gso),
        _ => needs_software(caps, &head6, 40_000, Some(c6), gso),
    };
    assert!(!needs(&FULL, tso));
    assert!(!needs(&FULL, uso));
    assert!(needs(&Caps { tso4: false, ..FULL }, tso));
    assert!(!needs(&Caps { tso6: false, ..FULL }, tso));
    assert!(needs(&Caps { uso: false, ..FULL }, uso));
    assert!(needs(&Caps { csum: false, ..FULL }, tso));
    assert!(needs(&Caps { vnet: false, ..FULL }, uso));
    assert!(needs(&FULL, Gso::Tcp { mss: 1461 }), "segments beyond the MTU");
    assert!(needs(&FULL, Gso::Udp { size: 600 }), "more datagrams than the kernel takes");
    assert!(needs(&FULL, Gso::None), "longer than the MTU");
    assert!(!needs_software(&BARE, &head4, 100, None, Gso::None));
    assert!(!needs_software(&FULL, &head4, 1460, Some(c4), Gso::None));
}

#[test]
fn a_packet_that_must_not_be_fragmented_is_reported() {
    let payload = bytes(3000, 3);
    let ports = Udp { src_port: 53, dst_port: 5353 };
    let (head, csum) = udp::head(A, B, &out(false, true), &ports, payload.len());
    let error = frames(&head, &payload, Some(csum), Gso::None, &FULL).unwrap_err();
    assert_eq!(error, CutError::TooBig { len: 3028, mtu: 1500 });
    let error = frames(&head, &payload, Some(csum), Gso::Udp { size: 1473 }, &FULL).unwrap_err();
    assert_eq!(error, CutError::TooBig { len: 1501, mtu: 1500 });
}

#[test]
fn contradictions_are_errors_and_nothing_comes_out() {
    let payload = bytes(3000, 3);
    let (head, csum) = tcp::head(A, B, &out(false, false), &a_tcp(tcp::Flags::ACK), payload.len());
    let tso = Gso::Tcp { mss: 1000 };
    let outside = Csum { start: 34, offset: 200 };
    let mut arp = head.to_vec();
    arp[13] = 6;
    for (head, payload, csum, gso) in [
        (&head[..], &payload[..2999], Some(csum), tso),
        (&head[..], &payload[..], None, tso),
        (&head[..], &payload[..], Some(outside), Gso::None),
        (&head[..], &payload[..], Some(csum), Gso::Udp { size: 1000 }),
        (&head[..], &payload[..], Some(csum), Gso::Tcp { mss: 0 }),
        (&arp[..], &payload[..], Some(csum), Gso::None),
        (&head[..20], &payload[..], Some(csum), tso),
    ] {
        assert_eq!(frames(head, payload, csum, gso, &BARE), Err(CutError::Head));
    }
    let tiny = Caps { mtu: 30, ..BARE };
    assert!(matches!(frames(&head, &payload, Some(csum), tso, &tiny), Err(CutError::TooBig { .. })));
}

#[test]
fn a_udp_checksum_of_zero_is_written_as_ones() {
    for v6 in [false, true] {
        let ports = Udp { src_port: 53, dst_port: 5353 };
        let mut payload = [0u8; 2];
        let (head, csum) = udp::head(A, B, &out(v6, false), &ports, 2);
        // The two bytes of payload that make the sum 0xffff are the complement of the rest.
        let rest = frames(&head, &payload, Some(csum), Gso::None, &BARE).unwrap().remove(0).1;
        let at = head.len() - 2;
        payload.copy_from_slice(&rest[at..at + 2]);
        let frame = frames(&head, &payload, Some(csum), Gso::None, &BARE).unwrap().remove(0).1;
        assert_eq!(frame[at..at + 2], [0xff, 0xff]);
        assert!(checksum::frame_is_sound(&frame));
    }
}

#[test]
fn fragments_of_two_packets_have_different_identifications() {
    let payload = bytes(2000, 3);
    let ports = Udp { src_port: 53, dst_port: 5353 };
    let (head, csum) = udp::head(A, B, &out(true, false), &ports, payload.len());
    let mut scratch = Scratch::new(u32::MAX);
    let mut ids = Vec::new();
    let mut each = |_: &[u8], f: &[u8]| match parse(f).unwrap().net {
        Net::Ip(ip, Payload::Fragment(_)) => ids.push(ip.fragment.unwrap().id),
        other => panic!("not a fragment: {other:?}"),
    };
    for _ in 0..2 {
        cut(&head, &payload, Some(csum), Gso::None, &BARE, &mut scratch, &mut each).unwrap();
    }
    assert_eq!(ids, [u32::MAX, u32::MAX, 0, 0]);
}

#[test]
fn the_longest_datagrams_travel_in_fragments() {
    for (v6, len) in [(false, 65_507), (true, 65_527)] {
        let payload = bytes(len, 5);
        let ports = Udp { src_port: 53, dst_port: 5353 };
        let (head, csum) = udp::head(A, B, &out(v6, false), &ports, len);
        for mtu in [1500, 65_520] {
            let caps = Caps { mtu, ..FULL };
            assert!(needs_software(&caps, &head, len, Some(csum), Gso::None));
            let all = frames(&head, &payload, Some(csum), Gso::None, &caps).unwrap();
            let pieces: Vec<_> = all.into_iter().map(|(_, frame)| frame).collect();
            assert_eq!(reassemble(&pieces, mtu)[8..], payload);
        }
    }
}

/// Puts fragments together again; checks that they tile the packet and fit the MTU.
fn reassemble(pieces: &[Vec<u8>], mtu: u16) -> Vec<u8> {
    let mut whole = Vec::new();
    let mut first = None;
    for (i, piece) in pieces.iter().enumerate() {
        assert!(piece.len() - ETH_LEN <= usize::from(mtu));
        let Net::Ip(ip, Payload::Fragment(range)) = parse(piece).unwrap().net else {
            panic!("not a fragment")
        };
        let Fragment { id, offset, more } = ip.fragment.unwrap();
        assert_eq!(*first.get_or_insert((id, ip.protocol)), (id, ip.protocol));
        assert_eq!(usize::from(offset), whole.len());
        assert_eq!(more, i + 1 < pieces.len());
        whole.extend_from_slice(&piece[range]);
    }
    whole
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tcp_segments_add_up(len in 0usize..20_000, mss in 1u16..3000, v6: bool, seed: u8, sack in 0usize..5) {
        let payload = bytes(len.min(usize::from(mss) * 40), seed);
        let mut tcp = a_tcp(tcp::Flags::ACK.with(tcp::Flags::PSH));
        tcp.options.sack = (0..sack as u32).map(|i| (i * 10, i * 10 + 5)).take(4).collect();
        let (head, csum) = tcp::head(A, B, &out(v6, true), &tcp, payload.len());
        let caps = Caps { mtu: 9000, ..BARE };
        let mut seen = Vec::new();
        for (header, frame) in frames(&head, &payload, Some(csum), Gso::Tcp { mss }, &caps).unwrap() {
            prop_assert_eq!(vnet::decode(&header, frame.len()), Ok(vnet::Rx::PLAIN));
            prop_assert!(etherparse_agrees(&frame));
            prop_assert!(checksum::frame_is_sound(&frame));
            let Net::Ip(_, Payload::Tcp(t, range)) = parse(&frame).unwrap().net else { panic!("not TCP") };
            prop_assert_eq!(t.seq, tcp.seq.wrapping_add(seen.len() as u32));
            prop_assert_eq!(&t.options, &tcp.options);
            prop_assert!(range.len() <= usize::from(mss));
            seen.extend_from_slice(&frame[range]);
        }
        prop_assert_eq!(seen, payload);
    }

    #[test]
    fn datagrams_add_up(len in 0usize..20_000, size in 1u16..1473, v6: bool, seed: u8) {
        let payload = bytes(len.min(usize::from(size) * 64), seed);
        let ports = Udp { src_port: 53, dst_port: 5353 };
        let (head, csum) = udp::head(A, B, &out(v6, false), &ports, payload.len());
        let caps = Caps { mtu: 9000, ..BARE };
        let mut seen = Vec::new();
        for (_, frame) in frames(&head, &payload, Some(csum), Gso::Udp { size }, &caps).unwrap() {
            prop_assert!(etherparse_agrees(&frame));
            prop_assert!(checksum::frame_is_sound(&frame));
            let Net::Ip(_, Payload::Udp(u, range)) = parse(&frame).unwrap().net else { panic!("not UDP") };
            prop_assert_eq!(u, ports);
            seen.extend_from_slice(&frame[range]);
        }
        prop_assert_eq!(seen, payload);
    }

    #[test]
    fn fragments_add_up(len in 0usize..65_400, mtu in 1280u16..9000, v6: bool, seed: u8, full: bool) {
        let payload = bytes(len, seed);
        let ports = Udp { src_port: 53, dst_port: 5353 };
        let (head, csum) = udp::head(A, B, &out(v6, false), &ports, payload.len());
        let caps = Caps { mtu, ..if full { FULL } else { BARE } };
        let all = frames(&head, &payload, Some(csum), Gso::None, &caps).unwrap();
        if head.len() - ETH_LEN + len <= usize::from(mtu) {
            prop_assert_eq!(all.len(), 1);
        } else {
            let pieces: Vec<_> = all.into_iter().map(|(_, frame)| frame).collect();
            let segment = reassemble(&pieces, mtu);
            prop_assert_eq!(&segment[8..], &payload[..]);
            // The whole packet, put together, is sound: the checksum was completed before the cut.
            let ip = IpOut { protocol: proto::UDP, ..out(v6, false) };
            let mut whole = ip::head(A, B, &ip, segment.len()).to_vec();
            whole.extend_from_slice(&segment);
            prop_assert!(etherparse_agrees(&whole));
        }
    }
}
