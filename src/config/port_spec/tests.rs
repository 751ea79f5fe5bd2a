//! Specifications of ports: what each form means, what is refused and how, and that text and value are inverse.

use super::*;
use proptest::prelude::*;

fn spec(text: &str) -> PortSpec {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

fn cause(text: &str) -> Cause {
    text.parse::<PortSpec>().expect_err(text).cause
}

#[test]
fn dockers_forms() {
    let plain = PortSpec {
        udp: false,
        families: Families::Any,
        host_ip: None,
        host: HostPorts::From(8080),
        guest_ip: None,
        guest_port: 80,
        count: 1,
        options: PortOptions::default(),
    };
    assert_eq!(spec("8080:80"), plain);
    assert_eq!(spec("8080:80/TCP"), plain);
    assert_eq!(spec("8080:80/udp"), PortSpec { udp: true, ..plain.clone() });
    let picked = PortSpec { host: HostPorts::Free, ..plain.clone() };
    for text in ["80", "0:80", ":80", "::80"] {
        assert_eq!(spec(text), picked, "{text}");
    }
    let v4 = PortSpec { families: Families::V4, host_ip: Some([127, 0, 0, 1].into()), ..plain.clone() };
    assert_eq!(spec("127.0.0.1:8080:80"), v4);
    assert_eq!(spec("127.0.0.1::80"), PortSpec { host: HostPorts::Free, ..v4.clone() });
    assert_eq!(spec("[::ffff:127.0.0.1]:8080:80"), v4);
    let v6 = PortSpec { families: Families::V6, host_ip: Some(Ipv6Addr::LOCALHOST.into()), ..plain.clone() };
    assert_eq!(spec("[::1]:8080:80"), v6);
    let guest_ip = Some([10, 0, 2, 100].into());
    assert_eq!(spec("8080:10.0.2.100:80"), PortSpec { guest_ip, ..plain.clone() });
    assert_eq!(spec("[::1]:8080:10.0.2.100:80"), PortSpec { guest_ip, ..v6.clone() });
    let guest_ip = Some("fd00::100".parse().unwrap());
    assert_eq!(spec("8080:[fd00::100]:80"), PortSpec { guest_ip, ..plain });
}

#[test]
fn ranges_match_or_one_is_chosen() {
    let s = spec("8000-8010:9000-9010");
    assert_eq!((s.host, s.guest_port, s.count), (HostPorts::From(8000), 9000, 11));
    let s = spec("8000-8010:80");
    assert_eq!((s.host, s.guest_port, s.count), (HostPorts::OneOf(8000, 8010), 80, 1));
    let s = spec("9000-9002");
    assert_eq!((s.host, s.count), (HostPorts::Free, 3));
    assert_eq!(spec("1-65535:1-65535").count, 65535);
    assert_eq!(spec("80-80:90-90"), spec("80:90"));
    assert_eq!(cause("8000-8010:80-81"), Cause::Lengths { host: 11, guest: 2 });
    assert_eq!(cause("80:80-81"), Cause::Lengths { host: 1, guest: 2 });
    assert_eq!(cause("8010-8000:80"), Cause::Backwards("8010-8000".into()));
}

#[test]
fn options_follow_and_are_said_once() {
    let s = spec("8080:80/tcp,proxy=v2,via=tap,source=gateway");
    let said = PortOptions {
        via: Some(Via::Tap),
        source_ip: Some(SourceIp::Gateway),
        proxy_protocol: Some(ProxyProtocol::V2),
    };
    assert_eq!(s.options, said);
    assert_eq!(cause("80,proxy=v1,proxy=v1"), Cause::Option("proxy=v1".into()));
    assert_eq!(cause("80,"), Cause::Option("".into()));
    assert_eq!(cause("80/udp,proxy=v1"), Cause::ProxyForUdp);
    let defaults = PortOptions { source_ip: Some(SourceIp::Preserve), ..PortOptions::default() };
    assert_eq!(said.or(defaults).source_ip, Some(SourceIp::Gateway));
    assert_eq!(PortOptions::default().or(defaults).source_ip, Some(SourceIp::Preserve));
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    assert_eq!(cause("80x:80"), Cause::Port("80x".into()));
    assert_eq!(cause("80:0"), Cause::Port("0".into()));
    assert_eq!(cause("0-5:80"), Cause::Port("0".into()));
    assert_eq!(cause("+80:80"), Cause::Port("+80".into()));
    assert_eq!(cause("65536:80"), Cause::Port("65536".into()));
    assert_eq!(cause("80:"), Cause::Port("".into()));
    assert_eq!(cause(""), Cause::Port("".into()));
    assert_eq!(cause("80/sctp"), Cause::Protocol("sctp".into()));
    assert_eq!(cause("localhost:80:80"), Cause::Address("localhost".into()));
    assert_eq!(cause("::1:8080:80"), Cause::Parts);
    assert_eq!(cause("[::1:80:80"), Cause::Parts);
    assert_eq!(cause("[::1]80:80"), Cause::Parts);
    assert_eq!(cause("1:2:3:4:5"), Cause::Parts);
    let text = "::1:8080:80".parse::<PortSpec>().unwrap_err().to_string();
    assert!(text.contains("brackets") && !text.contains('\n'), "{text}");
}

fn any_spec() -> impl Strategy<Value = PortSpec> {
    let ip = || prop::option::of(any::<IpAddr>().prop_map(|ip| ip.to_canonical()));
    let options = (0..3u8, 0..3u8, 0..3u8);
    ((any::<bool>(), ip(), ip()), 1..=65535u16, 1..=65535u16, 0..3u8, 0..200u16, options).prop_map(
        |((udp, host_ip, guest_ip), host, guest_port, form, more, (source, proxy, via))| {
            let more = more.min(65535 - guest_port).min(65535 - host);
            let (host, count) = match form {
                0 => (HostPorts::Free, more + 1),
                1 if more > 0 => (HostPorts::OneOf(host, host + more), 1),
                _ => (HostPorts::From(host), more + 1),
            };
            let families = match host_ip {
                None => Families::Any,
                Some(IpAddr::V4(_)) => Families::V4,
                Some(IpAddr::V6(_)) => Families::V6,
            };
            let options = PortOptions {
                via: [None, Some(Via::Relay), Some(Via::Tap)][usize::from(via)],
                source_ip: [None, Some(SourceIp::Preserve), Some(SourceIp::Gateway)][usize::from(source)],
                proxy_protocol: [None, Some(ProxyProtocol::V1), Some(ProxyProtocol::V2)][usize::from(proxy)]
                    .filter(|_| !udp),
            };
            PortSpec { udp, families, host_ip, host, guest_ip, guest_port, count, options }
        },
    )
}

proptest! {
    #[test]
    fn display_and_parse_are_inverse(spec in any_spec()) {
        prop_assert_eq!(spec.to_string().parse::<PortSpec>(), Ok(spec));
    }

    #[test]
    fn no_text_panics(text in "[-0-9:./,\\[\\]a-z=\u{e4}]{0,40}", any in ".{0,40}") {
        for text in [text, any] {
            if let Ok(spec) = text.parse::<PortSpec>() {
                prop_assert_eq!(spec.to_string().parse::<PortSpec>(), Ok(spec));
            }
        }
    }
}
