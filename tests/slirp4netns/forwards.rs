//! Forwards of the host's ports, and taps that somebody else made.

use crate::api::Api;
use crate::common::{HOST, SERVER, World, sh};
use crate::{BOTH, Target, shell};
use ringtap::lab::Server;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::Duration;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn a_tcp_client_is_seen_as_itself_and_loopback_as_the_gateway() {
    for as_user in BOTH {
        let world = World::new();
        let api = Api::new(&world, as_user, "--disable-host-loopback");
        let listener = api.guest.place().tcp_listener((Ipv4Addr::UNSPECIFIED, 80)).unwrap();
        let server = Server::tcp_echo(listener).unwrap();
        let id = api.forward(&json!({ "proto": "tcp", "host_port": 8080, "guest_port": 80 }));
        let mut bytes = [0; 5];
        let mut client = world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap();
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        let mut local = world.lab.host().tcp_connect((LOOPBACK, 8080)).unwrap();
        local.write_all(b"hello").unwrap();
        local.read_exact(&mut bytes).unwrap();
        let peers: Vec<IpAddr> = server.peers_when(2).iter().map(|p| p.ip()).collect();
        assert_eq!(peers, [client.local_addr().unwrap().ip(), "10.0.2.2".parse().unwrap()]);
        // A connection outlives its forward; new ones are refused.
        api.ask(&json!({ "execute": "remove_hostfwd", "arguments": { "id": id } }));
        local.write_all(b"again").unwrap();
        local.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"again");
        world.lab.host().tcp_connect((LOOPBACK, 8080)).unwrap_err();
    }
}

#[test]
fn udp_over_the_hosts_loopback_is_answered_with_loopback_disabled() {
    let world = World::new();
    let api = Api::new(&world, true, "--disable-host-loopback");
    let inside = api.guest.place().udp_socket((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
    let _echo = Server::udp_echo(inside).unwrap();
    api.forward(&json!({ "proto": "udp", "host_addr": "127.0.0.1", "host_port": 5353, "guest_port": 53 }));
    let client = world.lab.host().udp_socket((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.send_to(b"hello", (LOOPBACK, 5353)).unwrap();
    let mut bytes = [0; 64];
    let (n, from) = client.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..n], from.port()), (&b"hello"[..], 5353));
}

#[test]
fn a_port_that_is_taken_is_refused_with_the_reason_beside_upstreams_words() {
    let world = World::new();
    let _taken = world.lab.host().tcp_listener((Ipv4Addr::UNSPECIFIED, 8080)).unwrap();
    let api = Api::new(&world, true, "");
    let arguments = json!({ "proto": "tcp", "host_port": 8080, "guest_port": 80 });
    let answer = api.ask(&json!({ "execute": "add_hostfwd", "arguments": arguments }));
    assert_eq!(answer["error"]["desc"], "bad request: add_hostfwd: slirp_add_hostfwd failed");
    assert!(answer["error"]["cause"].as_str().unwrap().contains("address already in use"), "{answer}");
}

#[test]
fn a_persistent_tap_is_attached_to_with_offloads() {
    let world = World::new();
    let target = Target::new(&world, true);
    let make = format!(
        "exec nsenter -t {} -U -n --preserve-credentials sh -ec 'ip tuntap add tap0 mode tap; ip link set tap0 up'",
        target.pid()
    );
    assert!(shell(&world, true, &make).status().unwrap().success());
    let running = target.serve(&world, &format!("--mtu 65520 {} tap0", target.pid()));
    let pid = target.pid();
    let guest = world.lab.guest(pid, vec![target.holder, running]).unwrap();
    let script = "
        ip addr add 10.0.2.100/24 dev tap0; ip link set tap0 mtu 65520; ip route add default via 10.0.2.2
        cat /sys/class/net/tap0/tun_flags 2>/dev/null || true
    ";
    sh(guest.place(), script).ok();
    guest.place().tcp_connect((SERVER[0], 80)).unwrap();
}

#[test]
fn tapfd_is_a_descriptor_of_an_open_tap() {
    let world = World::new();
    let tap = world.lab.host().tap("tap5").unwrap();
    let script = "exec \"$S\" -r 3 --netns-type=tapfd 9 9<&0 3>&1 >/dev/null </dev/null";
    let mut command = shell(&world, true, script);
    let mut running = world.lab.host().spawn(command.stdin(Stdio::from(tap)).stdout(Stdio::piped())).unwrap();
    let mut said = String::new();
    running.child().stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "1");
    let script = "ip addr add 10.0.2.100/24 dev tap5; ip link set tap5 up; ping -c 1 -W 10 10.0.2.2";
    sh(world.lab.host(), script).ok();
}

#[test]
fn a_port_that_nobody_serves_inside_resets_its_client() {
    let world = World::new();
    let api = Api::new(&world, true, "");
    api.forward(&json!({ "proto": "tcp", "host_port": 8080, "guest_port": 80 }));
    let mut client = world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let said = client.read(&mut [0]).unwrap_err();
    assert_eq!(said.kind(), std::io::ErrorKind::ConnectionReset, "{said}");
}

#[test]
fn a_burst_of_clients_is_let_in() {
    // Upstream's backlog is 1, and what saves it is that it accepts at once.
    const BURST: usize = 200;
    let world = World::new();
    let api = Api::new(&world, true, "");
    let listener = api.guest.place().tcp_listener((Ipv4Addr::UNSPECIFIED, 80)).unwrap();
    api.forward(&json!({ "proto": "tcp", "host_port": 8080, "guest_port": 80 }));
    let mut clients: Vec<_> =
        (0..BURST).map(|_| world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap()).collect();
    let server = Server::tcp_echo(listener).unwrap();
    for client in &mut clients {
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    assert_eq!(server.peers_when(BURST).len(), BURST);
}
