//! The host's network changes under an instance at work.

use crate::common::{SERVER, World, sh};
use crate::{Instance, answers, echo, eventually};
use std::time::Duration;

fn peer(instance: &Instance) -> String {
    let script = format!("curl -sS --max-time 5 http://{}/peer", SERVER[0]);
    let said = sh(instance.guest.place(), &script);
    if said.status.success() { said.stdout.trim().to_owned() } else { String::new() }
}

#[test]
fn an_interface_that_goes_down_and_up_is_a_pause() {
    let world = World::new();
    let instance = Instance::run(&world, &[]);
    let open = echo(&instance.guest).unwrap();
    // With the interface its routes go: they are set again by whoever manages the host.
    sh(world.lab.host(), "ip link set eth0 down").ok();
    let refused = instance.guest.place().tcp_connect_within((SERVER[0], 80), Duration::from_secs(5));
    let kind = refused.unwrap_err().raw_os_error();
    assert!(
        matches!(kind, Some(libc::ENETUNREACH | libc::EHOSTUNREACH)),
        "what the host says reaches the guest: {kind:?}"
    );
    let up =
        "ip link set eth0 up; ip route add default via 198.51.100.2; ip -6 addr show dev eth0 >/dev/null";
    sh(world.lab.host(), up).ok();
    eventually("a new connection", || echo(&instance.guest).is_some());
    assert!(answers(&open), "and the open one goes on");
    assert_eq!(instance.said(), "");
}

#[test]
fn new_connections_have_the_hosts_new_address() {
    let world = World::new();
    let instance = Instance::run(&world, &["-p", "8080:80"]);
    assert_eq!(peer(&instance), "198.51.100.1");
    let udp = instance.guest.place().udp_socket(([0, 0, 0, 0], 0)).unwrap();
    udp.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let server = world.lab.internet().udp_socket((SERVER[0], 7)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    // What is sent may be lost: it is sent until it comes.
    let sees = || {
        let mut from = String::new();
        eventually("a datagram", || {
            udp.send_to(b"x", (SERVER[0], 7)).unwrap();
            server.recv_from(&mut [0; 9]).is_ok_and(|(_, peer)| {
                from = peer.ip().to_string();
                true
            })
        });
        from
    };
    assert_eq!(sees(), "198.51.100.1");
    let change = "ip addr add 198.51.100.9/24 dev eth0; ip addr del 198.51.100.1/24 dev eth0
                  ip addr show dev eth0 | grep -q 198.51.100.9/24 || ip addr add 198.51.100.9/24 dev eth0
                  ip route replace default via 198.51.100.2";
    sh(world.lab.host(), change).ok();
    eventually("the new address", || peer(&instance) == "198.51.100.9");
    // The mapping of a socket that lives on is not bound to the old one.
    assert_eq!(sees(), "198.51.100.9");
    // A port published on every address is there, too.
    let listener = instance.guest.place().tcp_listener(([0, 0, 0, 0], 80)).unwrap();
    let _client = world.lab.internet().tcp_connect(([198, 51, 100, 9], 8080)).unwrap();
    listener.accept().unwrap();
    assert_eq!(instance.said(), "");
}
