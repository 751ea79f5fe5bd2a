//! What queries see: flows of every kind, with both sides of the translation.

use super::*;
use crate::wire::{Tcp, tcp};

const G: &str = "10.0.2.100";

fn syn(from: &str, to: &str) -> Vec<u8> {
    let (from, to) = (at(from), at(to));
    let ip = IpOut { src: from.ip(), dst: to.ip(), protocol: 0, ttl: 64, tos: 0, id: 0, dont_fragment: true };
    let tcp = Tcp {
        src_port: from.port(),
        dst_port: to.port(),
        seq: 1,
        ack: 0,
        flags: tcp::Flags::SYN,
        window: 65_535,
        urgent: 0,
        options: tcp::Options::default(),
    };
    tcp::head(GUEST, [0x52, 0x55, 10, 0, 2, 2], &ip, &tcp, 0).0.to_vec()
}

#[test]
fn every_kind_of_flow_is_listed_with_both_its_remotes() {
    let resolver = "192.0.2.53:53";
    let mut net = Network::default();
    net.policy.allow_host_loopback = true;
    let mut w = World::with(net, &[resolver]);
    let began = w.now;
    w.batch(&[
        syn("10.0.2.100:40000", "10.0.2.2:80"),
        udp_frame("10.0.2.100:5000", "10.0.2.2:9", b"udp"),
        echo_frame(G, "198.51.100.2", 64, (77, 1), b"ping"),
        udp_frame("10.0.2.100:6000", "10.0.2.3:53", b"query"),
    ]);
    w.pass(Duration::from_millis(10));
    let seen: Vec<_> =
        w.stack.flows().map(|f| (f.id.kind(), f.guest, f.remote, f.host, f.state, f.opened)).collect();
    let line = |kind, guest: &str, remote: &str, host: &str, state| {
        (kind, at(guest), Some(at(remote)), Some(at(host)), state, began)
    };
    assert_eq!(
        seen,
        [
            line(Kind::Tcp, "10.0.2.100:40000", "10.0.2.2:80", "127.0.0.1:80", "connecting"),
            line(Kind::Udp, "10.0.2.100:5000", "10.0.2.2:9", "127.0.0.1:9", "open"),
            line(Kind::Ping, "10.0.2.100:77", "198.51.100.2:0", "198.51.100.2:0", "open"),
            line(Kind::Dns, "10.0.2.100:6000", "10.0.2.3:53", resolver, "open"),
        ]
    );
    for f in w.stack.flows() {
        assert_eq!(w.stack.flow(f.id), Some(f));
        assert!((500..4096).contains(&f.memory) || f.id.kind() != Kind::Tcp, "{f:?}");
    }
}
