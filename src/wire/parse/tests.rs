use super::super::ip::IpOut;
use super::*;

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
        assert_eq!(csum, super::super::Csum { start: seen.payload_at, offset: 16 });
    }
}
