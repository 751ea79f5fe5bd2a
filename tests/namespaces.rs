//! More than one command on a tap: bridges inside, namespaces that exist already, foreign taps, captures, self-configured
//! guests.

mod common;

use common::{HOST, IPERF3, SERVER, World, need, outcome, sh};
use ringtap::lab::Server;
use ringtap::lab::addr;
use ringtap::lab::serve::{judge, send_pattern};
use std::net::Shutdown;

/// What Docker does inside: a bridge, a network namespace behind it, forwarding, masquerading. $c runs in the container.
const BRIDGE: &str = "
    ip link add br0 type bridge; ip addr add 172.17.0.1/16 dev br0
    ip -6 addr add fd17::1/64 dev br0 nodad; ip link set br0 up
    unshare --net sleep 1000 & pid=$!
    while [ \"$(readlink /proc/$pid/ns/net)\" = \"$(readlink /proc/self/ns/net)\" ]; do sleep 0.01; done
    ip link add v0 type veth peer name eth0 netns $pid; ip link set v0 master br0; ip link set v0 up
    c=\"nsenter --target $pid --net\"
    $c ip link set lo up; $c ip link set eth0 up
    $c ip addr add 172.17.0.2/16 dev eth0; $c ip route add default via 172.17.0.1
    $c ip -6 addr add fd17::2/64 dev eth0 nodad; $c ip -6 route add default via fd17::1
    echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
    nft add table inet nat; nft 'add chain inet nat post { type nat hook postrouting priority 100; }'
    nft add rule inet nat post oifname tap0 masquerade
";

#[test]
fn a_bridge_inside_has_tcp_udp_ping_and_dns() {
    for program in ["nft", "curl", "dig", "ping", "iperf3"] {
        need(program);
    }
    let world = World::new();
    let _iperf3 = world.iperf3_server(SERVER[0]);
    let script = format!(
        "{IPERF3} {BRIDGE}
        $c curl -sS -m 20 http://203.0.113.80/peer
        $c curl -sS -m 20 'http://[2001:db8:203::80]/peer'
        $c dig @10.0.2.3 +short +time=5 server.test A
        $c ping -q -c 2 -i 0.2 -W 5 203.0.113.80 | grep -o '0% packet loss'
        $c ping -q -c 2 -i 0.2 -W 5 2001:db8:203::80 | grep -o '0% packet loss'
        for how in '' -R '-u -b 20M -l 1400' '-u -b 20M -l 1400 -R'; do
            iperf -c 203.0.113.80 -t 1 $how >&2; done
        $c curl -sS -m 50 http://203.0.113.80/bytes/30000000 | cksum
        kill $pid"
    );
    let out = world.run(&[], &script).ok();
    let sum = sh(world.lab.host(), "curl -sS http://203.0.113.80/bytes/30000000 | cksum").ok();
    let expected = format!("{}\n{}\n{}\n0% packet loss\n0% packet loss\n{sum}", HOST[0], HOST[1], SERVER[0]);
    assert_eq!(out, expected);
}

#[test]
fn ipv6_goes_on_after_forwarding_is_turned_on() {
    need("curl");
    let world = World::new();
    let script = "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; sleep 2
                  curl -sS -m 20 'http://[2001:db8:203::80]/peer'; ip -6 route show default";
    let out = world.run(&[], script).ok();
    assert!(out.starts_with(&format!("{}\ndefault via ", HOST[1])), "{out}");
}

#[test]
fn a_namespace_that_exists_gets_a_network() {
    need("curl");
    let world = World::new();
    let guest = world.attach(world.bare(""), &[], None);
    for server in ["203.0.113.80", "[2001:db8:203::80]"] {
        let out = sh(guest.place(), &format!("curl -sS -m 20 http://{server}/peer")).ok();
        assert!(HOST.iter().any(|h| out == format!("{h}\n")), "{out}");
    }
    let out = sh(guest.place(), "ip -o link show tap0; ip -o addr show tap0").ok();
    // The queue is longer than the kernel's: room for the resets of a program with many connections.
    for part in ["mtu 1500", "qlen 2048", "10.0.2.100/24", "fd00::100/64"] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

#[test]
fn addresses_mtu_and_name_are_as_asked() {
    need("curl");
    let world = World::new();
    let options = ["--cidr", "10.7.8.0/24", "--cidr6", "fd77::/64", "--mtu", "9000", "--ifname", "uplink"];
    let script = "ip -o link show uplink; ip -o addr show uplink; cat /etc/resolv.conf
                  curl -4sS -m 20 http://server.test/peer; curl -6sS -m 20 http://server.test/peer";
    let out = world.run(&options, script).ok();
    for part in ["mtu 9000", "10.7.8.100/24", "fd77::100/64", "nameserver 10.7.8.3"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(out.ends_with(&format!("{}\n{}\n", HOST[0], HOST[1])), "{out}");
    let out = world
        .run(&["--no-ipv6"], "ip -6 -o addr show tap0 scope global; curl -sS -m 20 http://203.0.113.80/peer");
    assert_eq!(out.ok(), format!("{}\n", HOST[0]));
}

const LEASE: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip addr add $ip/$mask dev $interface; ip route add default via $router
echo lease $ip $router $dns
";

#[test]
fn a_dhcp_client_configures_itself() {
    for program in ["busybox", "curl"] {
        need(program);
    }
    let world = World::new();
    let lease = world.lab.dir().join("lease.sh");
    std::fs::write(&lease, LEASE).unwrap();
    std::fs::set_permissions(&lease, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let guest = world.attach(world.bare(""), &["--no-configure"], None);
    let script = format!(
        "ip link set tap0 up; busybox udhcpc -i tap0 -n -q -f -t 5 -s {} 2>/dev/null
         curl -sS -m 20 http://203.0.113.80/peer",
        lease.display()
    );
    let out = sh(guest.place(), &script).ok();
    let words: Vec<_> = out.split_whitespace().collect();
    let [_, ip, router, dns, peer] = words[..] else { panic!("{out}") };
    let last: u8 = ip.strip_prefix("10.0.2.").unwrap().parse().unwrap();
    assert!((15..=30).contains(&last), "{out}");
    assert_eq!((router, dns, peer), ("10.0.2.2", "10.0.2.3", "198.51.100.1"));
}

#[test]
fn router_advertisements_configure_a_guest() {
    need("curl");
    let world = World::new();
    let guest = world.attach(world.bare(""), &["--no-configure"], None);
    let script = "
        echo 0 > /proc/sys/net/ipv6/conf/tap0/accept_dad; echo 1 > /proc/sys/net/ipv6/conf/tap0/accept_ra
        ip link set tap0 up
        for i in $(seq 100); do ip -6 route show default | grep -q via && break; sleep 0.1; done
        ip -6 -o addr show tap0 scope global; ip -6 route show default
        curl -sS -m 20 'http://[2001:db8:203::80]/peer'";
    let out = sh(guest.place(), script).ok();
    assert!(out.contains("inet6 fd00:") && out.contains("default via fe80::2"), "{out}");
    assert!(out.ends_with(&format!("{}\n", HOST[1])), "{out}");
}

#[test]
fn a_plain_tap_made_by_another_works() {
    let world = World::new();
    let guest =
        world.attach(world.bare("ip tuntap add name tap7 mode tap"), &["--mtu", "1500"], Some("tap7"));
    let count = 8 << 20;
    for server in SERVER {
        let listener = world.lab.internet().tcp_listener((server, 9001)).unwrap();
        let _source = Server::tcp_source(listener, count).unwrap();
        let mut down = guest.place().tcp_connect((server, 9001)).unwrap();
        assert_eq!(judge(&mut down).unwrap(), format!("{count} bytes sound\n"));
        let _sink = Server::tcp_sink(world.lab.internet().tcp_listener((server, 9002)).unwrap()).unwrap();
        let mut up = guest.place().tcp_connect((server, 9002)).unwrap();
        send_pattern(&mut up, count).unwrap();
        up.shutdown(Shutdown::Write).unwrap();
        assert_eq!(std::io::read_to_string(up).unwrap(), format!("{count} bytes sound\n"));
    }
}

#[test]
fn a_capture_can_be_read() {
    for program in ["tcpdump", "curl"] {
        need(program);
    }
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let file = dir.path().join("tap.pcap");
    let file = file.to_str().unwrap();
    let script = "curl -sS -m 20 -o /dev/null http://203.0.113.80/bytes/1000000";
    world.run(&["--pcap", file], script).ok();
    // As root it would want to become another user.
    let mut tcpdump = world.lab.host().command_as_user("tcpdump").unwrap();
    tcpdump.args(["-n", "-r", file]);
    let out = outcome("tcpdump -r", tcpdump).ok();
    let handshake = ["> 203.0.113.80.80: Flags [S]", "> 10.0.2.100.", "Flags [S.]", "GET /bytes/1000000"];
    for part in handshake {
        assert!(out.contains(part), "{part}: {}", &out[..out.len().min(2000)]);
    }
}

#[test]
fn two_guests_at_once_keep_apart() {
    let world = World::new();
    let (one, two) = (world.guest(), world.guest());
    let server =
        Server::tcp_echo(world.lab.internet().tcp_listener((addr::SERVER_V4, 6000)).unwrap()).unwrap();
    let a = one.place().tcp_connect((addr::SERVER_V4, 6000)).unwrap();
    let b = two.place().tcp_connect((addr::SERVER_V4, 6000)).unwrap();
    drop(one);
    // The other's connection goes on.
    let mut b = b;
    std::io::Write::write_all(&mut b, b"x").unwrap();
    std::io::Read::read_exact(&mut b, &mut [0]).unwrap();
    drop(a);
    assert_eq!(server.peers_when(2).len(), 2);
}
