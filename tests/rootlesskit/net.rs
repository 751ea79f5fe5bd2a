//! integration-net.sh and integration-ipv6.sh, with every network that is served, detached and not.

use crate::common::{HOST, World, need};
use crate::{DRIVERS, sh};

#[test]
fn names_resolve_and_the_host_answers_whatever_the_driver() {
    need("busybox");
    let world = World::new();
    for driver in DRIVERS {
        for (detached, enter) in [("", ""), ("--detach-netns", "nsenter --net=$ROOTLESSKIT_STATE_DIR/netns ")]
        {
            let script = format!(
                "exec rootlesskit --net={driver} {detached} --copy-up=/etc --copy-up=/run --disable-host-loopback \
                 sh -c '{enter}busybox nslookup server.test 10.0.2.3; {enter}ip addr show tap0; {enter}ip route'"
            );
            let said = sh(&world, &script);
            assert_eq!(said.stderr, "", "{driver} {detached}");
            let said = said.ok();
            assert!(said.contains("203.0.113.80"), "{driver} {detached}: {said}");
            assert!(said.contains("mtu 65520") && said.contains("10.0.2.100/24"), "{said}");
            assert!(said.contains("default via 10.0.2.2 dev tap0"), "{said}");
        }
    }
}

#[test]
fn a_detached_network_leaves_the_command_in_the_hosts() {
    let world = World::new();
    let script = "cat /etc/resolv.conf; exec rootlesskit --net=slirp4netns --detach-netns --disable-host-loopback --copy-up=/etc \
                  --copy-up=/run sh -c 'cat /etc/resolv.conf; ip -br addr show eth0; \
                  nsenter --net=$ROOTLESSKIT_STATE_DIR/netns cat /proc/net/dev; \
                  nsenter --net=$ROOTLESSKIT_STATE_DIR/netns sysctl -w net.ipv4.ip_forward=1'";
    let said = sh(&world, script).ok();
    let (of_host, inside) = said.split_once('\n').unwrap();
    assert!(inside.starts_with(of_host), "{said}");
    assert!(inside.contains("198.51.100.1/24") && inside.contains("tap0:"), "{said}");
    assert!(inside.ends_with("net.ipv4.ip_forward = 1\n"), "{said}");
}

#[test]
fn ipv6_reaches_an_address_of_the_host_at_once() {
    need("curl");
    let world = World::new();
    let _server = ringtap::lab::Server::http(world.lab.host().tcp_listener((HOST[1], 8080)).unwrap(), None);
    let script = "exec rootlesskit --net=slirp4netns --ipv6 --disable-host-loopback curl -gsS -o /dev/null -w answered \
                  -m 20 'http://[2001:db8:51::1]:8080/'";
    assert_eq!(sh(&world, script).ok(), "answered");
}

#[test]
fn the_hosts_loopback_is_shut_when_told_so_and_open_otherwise() {
    need("curl");
    let world = World::new();
    let listener = world.lab.host().tcp_listener("127.0.0.1:9099".parse::<std::net::SocketAddr>().unwrap());
    let _server = ringtap::lab::Server::http(listener.unwrap(), None);
    let ask = |options: &str| {
        let script = format!(
            "exec rootlesskit --net=slirp4netns {options} curl -sS -o /dev/null -w answered -m 20 http://10.0.2.2:9099/"
        );
        sh(&world, &script)
    };
    let open = ask("");
    assert!(open.stderr.contains("127.0.0.1 can be reached at 10.0.2.2"), "{open:?}");
    assert_eq!(open.ok(), "answered");
    ask("--disable-host-loopback").failed();
}

#[test]
fn none_is_a_loopback_and_nothing_else() {
    let world = World::new();
    let said = sh(&world, "rootlesskit --net=none sh -c 'ip -br link; ip route; ls /sys/class/net'").ok();
    assert!(said.starts_with("lo ") && said.ends_with("\nlo\n") && said.lines().count() == 2, "{said}");
}

#[test]
fn programs_of_others_are_refused_by_name() {
    let world = World::new();
    for net in ["vpnkit", "lxc-user-nic"] {
        let said = sh(&world, &format!("rootlesskit --net={net} true"));
        assert_eq!(said.status.code(), Some(1));
        let begins = format!("[rootlesskit:parent] error: network mode {net} is not served by ringtap; ");
        assert!(said.stderr.starts_with(&begins), "{said:?}");
    }
}
