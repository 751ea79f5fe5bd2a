//! What a Linux guest really sends. The frames were read from a tap of kernel 6.18 (CSUM, TSO4, TSO6, USO4,
//! USO6), virtio-net header first; of super-frames only the headers are kept, their payload is what the test
//! says.
//!
//! The same run answered how the kernel takes ours: a TCP super-frame with `gso_size` 1000 whose checksum
//! field held the pseudo-header sum over the whole length was delivered to a socket, and forwarded through a
//! veth without offload left as six segments with right checksums, counting IPv4 identifications, and PSH on
//! the last.

use super::ip::IpOut;
use super::vnet::{Rx, RxCsum};
use super::*;

const UDP4: &str = "010000000000220006000000\
    52550a0002020200000000010800\
    45000021e5fe400040113c680a0002640a000202\
    13880035000d188468656c6c6f";
const USO4: &str = "01052a00e803220006000000\
    52550a0002020200000000010800\
    450009e0e5ff0000401172a80a0002640a000202\
    1388003509cc2243";
const USO6: &str = "01053e00e803360006000000\
    52550a00020202000000000186dd\
    6004677d09cc1140fd000000000000000000000000000064fd000000000000000000000000000002\
    1388003509cc0445";
const SYN4: &str = "010000000000220010000000\
    52550a0002020200000000010800\
    4500003cfa154000400628410a0002640a000202\
    9c400050ce04073e00000000a002faf018940000020405b40402080ad1b95673000000000103030a";
const SYN6: &str = "010000000000360010000000\
    52550a00020202000000000186dd\
    60027ad000280640fd000000000000000000000000000064fd000000000000000000000000000002\
    9c40005033aa4add00000000a002fd20fa950000020405a00402080ab3dd6b79000000000103030a";
const TSO4: &str = "01013600b405220010000000\
    52550a0002020200000000010800\
    45001cacb1c44000400654220a0002640a000202\
    9c400050f479b115000003e95018003f35040000";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|d| (d[0] << 4) | d[1]).collect()
}

/// The virtio-net header's meaning and the frame, `payload_len` zeroes behind its headers.
fn read(capture: &str, payload_len: usize) -> (Vec<u8>, Rx, Vec<u8>) {
    let mut header = hex(capture);
    let mut frame = header.split_off(vnet::LEN);
    frame.resize(frame.len() + payload_len, 0);
    let rx = vnet::decode(&header, frame.len()).unwrap();
    (header, rx, frame)
}

fn ip_of(frame: &Frame, id: u16, dont_fragment: bool) -> IpOut {
    let Net::Ip(ip, _) = &frame.net else { panic!("not IP: {frame:?}") };
    let Ip { src, dst, protocol, ttl, tos, .. } = *ip;
    IpOut { src, dst, protocol, ttl, tos, id, dont_fragment }
}

/// Header bytes without what we never set: the IPv6 flow label.
fn without_label(head: &[u8]) -> Vec<u8> {
    let mut head = head.to_vec();
    if head[12] == 0x86 {
        head[15..18].fill(0);
    }
    head
}

#[test]
fn a_datagram_is_read() {
    let (_, rx, frame) = read(UDP4, 0);
    assert_eq!(rx, Rx { csum: RxCsum::Partial(Csum { start: 34, offset: 6 }), gso: Gso::None });
    let Net::Ip(ip, Payload::Udp(udp, range)) = parse(&frame).unwrap().net else { panic!("not UDP") };
    assert_eq!((ip.src, ip.dst), ("10.0.2.100".parse().unwrap(), "10.0.2.2".parse().unwrap()));
    assert_eq!((udp, &frame[range]), (Udp { src_port: 5000, dst_port: 53 }, &b"hello"[..]));
    assert!(ip.dont_fragment);
    assert!(!checksum::frame_is_sound(&frame), "partial checksums are no checksums");
}

#[test]
fn connection_attempts_are_read() {
    for (capture, mss) in [(SYN4, 1460), (SYN6, 1440)] {
        let (_, _, frame) = read(capture, 0);
        let Net::Ip(_, Payload::Tcp(tcp, range)) = parse(&frame).unwrap().net else { panic!("not TCP") };
        assert_eq!((tcp.src_port, tcp.dst_port, tcp.flags), (40_000, 80, tcp::Flags::SYN));
        assert_eq!((tcp.options.mss, tcp.options.window_scale), (Some(mss), Some(10)));
        assert!(tcp.options.sack_permitted && tcp.options.sack.is_empty() && range.is_empty());
    }
}

#[test]
fn super_datagrams_are_read_and_built_as_linux_builds_them() {
    for (capture, id) in [(USO4, 0xe5ff), (USO6, 0)] {
        let (header, rx, bytes) = read(capture, 2500);
        assert_eq!(rx.gso, Gso::Udp { size: 1000 });
        let frame = parse_gso(&bytes, rx.gso).unwrap();
        let Net::Ip(_, Payload::Udp(ports, range)) = &frame.net else { panic!("not UDP") };
        assert_eq!(range.len(), 2500);
        let (head, csum) = udp::head(frame.src_mac, frame.dst_mac, &ip_of(&frame, id, false), ports, 2500);
        assert_eq!(head[..], without_label(&bytes[..range.start]));
        assert_eq!(rx.csum, RxCsum::Partial(csum));
        assert_eq!(vnet::encode(&head, 2500, Some(csum), rx.gso)[..], header);
    }
}

#[test]
fn tcp_super_frames_are_read_and_built_as_linux_builds_them() {
    let (header, rx, bytes) = read(TSO4, 7300);
    assert_eq!(rx.gso, Gso::Tcp { mss: 1460 });
    let frame = parse(&bytes).unwrap();
    let Net::Ip(_, Payload::Tcp(tcp, range)) = &frame.net else { panic!("not TCP") };
    assert_eq!(range.len(), 7300);
    let (head, csum) = tcp::head(frame.src_mac, frame.dst_mac, &ip_of(&frame, 0xb1c4, true), tcp, 7300);
    assert_eq!(head[..], bytes[..range.start]);
    assert_eq!(rx.csum, RxCsum::Partial(csum));
    assert_eq!(vnet::encode(&head, 7300, Some(csum), rx.gso)[..], header);
}
