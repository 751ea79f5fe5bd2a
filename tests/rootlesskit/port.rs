//! integration-port.sh: who can reach a published port, and whom the server sees.

use crate::Started;
use crate::common::{World, need, sh};

/// Whether a client in the host gets an answer at `url`.
fn answers(world: &World, url: &str) -> bool {
    let script = format!("curl -gsS -o /dev/null -m 20 'http://{url}/'");
    sh(world.lab.host(), &script).status.success()
}

/// A web server inside on port 80 of both families, with `options`. Published ports are there when it starts.
fn serve(world: &World, options: &str) -> Started {
    need("busybox");
    need("curl");
    let script = format!(
        "exec rootlesskit --pidns --disable-host-loopback {options} \
         sh -c 'busybox httpd -p \"[::]:80\" -h /etc; echo up; exec sleep 99' 2>/dev/null"
    );
    let mut started = Started::new(world, &script);
    assert_eq!(started.line(), "up");
    started
}

#[test]
fn a_protocol_without_a_number_is_both_families_and_one_with_is_strict() {
    let world = World::new();
    for (spec, v4, v6) in [
        (":8080:80/tcp", true, true),
        ("0.0.0.0:8080:80/tcp", true, true),
        ("[::]:8080:80/tcp", true, true),
        (":8080:80/tcp4", true, false),
        (":8080:80/tcp6", false, true),
        ("127.0.0.1:8080:80/tcp", true, false),
        ("[::1]:8080:80/tcp", false, true),
    ] {
        let _inside = serve(&world, &format!("--net=slirp4netns --port-driver=builtin -p {spec}"));
        assert_eq!(answers(&world, "127.0.0.1:8080"), v4, "{spec}");
        assert_eq!(answers(&world, "[::1]:8080"), v6, "{spec}");
    }
}

#[test]
fn clients_of_either_family_reach_servers_of_either() {
    let world = World::new();
    let _inside = serve(
        &world,
        "--net=slirp4netns --port-driver=builtin -p [::1]:8080:[::1]:80/tcp -p [::1]:8081:127.0.0.1:80/tcp \
         -p 127.0.0.1:8082:[::1]:80/tcp -p :8083:80/tcp4 -p :8083:80/tcp6",
    );
    for url in ["[::1]:8080", "[::1]:8081", "127.0.0.1:8082", "127.0.0.1:8083", "[::1]:8083"] {
        assert!(answers(&world, url), "{url}");
    }
    assert!(!answers(&world, "127.0.0.1:8080") && !answers(&world, "[::1]:8082"));
}

#[test]
fn every_network_and_port_driver_publishes() {
    let world = World::new();
    for options in [
        "--net=slirp4netns --port-driver=slirp4netns",
        "--net=gvisor-tap-vsock --port-driver=gvisor-tap-vsock",
        "--net=gvisor-tap-vsock --port-driver=builtin",
        "--net=pasta --port-driver=pesto",
        "--net=none --port-driver=builtin",
    ] {
        let _inside = serve(&world, &format!("{options} -p 127.0.0.1:8080:80/tcp"));
        assert!(answers(&world, "127.0.0.1:8080"), "{options}");
    }
}

#[test]
fn ports_lead_into_a_detached_network() {
    need("busybox");
    need("curl");
    let world = World::new();
    let script = "exec rootlesskit --pidns --net=slirp4netns --detach-netns --disable-host-loopback --port-driver=builtin \
                  -p 127.0.0.1:8080:80/tcp sh -c 'nsenter --net=$ROOTLESSKIT_STATE_DIR/netns busybox httpd -p 80 -h /etc; \
                  echo up; exec sleep 99'";
    let mut started = Started::new(&world, script);
    assert_eq!(started.line(), "up");
    assert!(answers(&world, "127.0.0.1:8080"));
    assert!(!answers(&world, "127.0.0.1:80"));
}

/// What a server inside sees of a client at another machine, by `options`.
fn seen(options: &str, udp: bool) -> String {
    need("socat");
    let world = World::new();
    let (kind, spec) = if udp { ("UDP4-RECVFROM", "8080:80/udp") } else { ("TCP4-LISTEN", "8080:80/tcp") };
    let script = format!(
        "exec rootlesskit --pidns --disable-host-loopback {options} -p 0.0.0.0:{spec} \
         socat {kind}:80,fork SYSTEM:'read x; echo $SOCAT_PEERADDR'"
    );
    let _started = Started::new(&world, &script);
    let client = if udp { "UDP4" } else { "TCP4" };
    // The server has begun to listen at some time after the port was published.
    let script = format!(
        "for i in $(seq 200); do said=$(echo | socat -t 1 - {client}:198.51.100.1:8080 2>/dev/null) || true; \
         [ -n \"$said\" ] && echo $said && exit; sleep 0.05; done; exit 1"
    );
    sh(world.lab.internet(), &script).ok().trim().to_owned()
}

#[test]
fn servers_see_their_clients_by_tcp_and_udp() {
    for options in ["--net=slirp4netns --port-driver=builtin", "--net=slirp4netns --port-driver=slirp4netns"]
    {
        for udp in [false, true] {
            assert_eq!(seen(options, udp), "198.51.100.2", "{options} udp: {udp}");
        }
    }
    // Without a route there is no answer to a datagram from elsewhere.
    for (udp, whom) in [(false, "198.51.100.2"), (true, "10.0.2.100")] {
        assert_eq!(seen("--net=none --port-driver=builtin", udp), whom, "udp: {udp}");
    }
    let hidden = "--net=slirp4netns --port-driver=builtin --source-ip-transparent=false";
    assert_eq!(seen(hidden, false), "10.0.2.2");
}

#[test]
fn a_port_that_is_taken_or_privileged_ends_the_start() {
    let world = World::new();
    let _taken = world.lab.host().tcp_listener("127.0.0.1:8080".parse::<std::net::SocketAddr>().unwrap());
    let start = "exec rootlesskit --net=none --port-driver=builtin";
    let said = crate::sh(&world, &format!("{start} -p 127.0.0.1:8080:80/tcp echo ran"));
    assert!(said.stdout.is_empty() && said.status.code() == Some(1), "{said:?}");
    assert!(said.stderr.contains("bind: address already in use"), "{said:?}");
    if !world.lab.users_are_real() {
        // Root of the lab may bind any port.
        return;
    }
    let said = crate::sh(&world, &format!("{start} -p 127.0.0.1:81:80/tcp echo ran")).failed();
    assert!(said.contains("net.ipv4.ip_unprivileged_port_start=81"), "{said}");
}

#[test]
fn implicit_publishes_what_listens_for_as_long_as_it_does() {
    need("busybox");
    need("curl");
    let world = World::new();
    let script = "exec rootlesskit --pidns --net=pasta --port-driver=implicit --disable-host-loopback sh -c '\
                  busybox httpd -f -p 8080 -h /etc & busybox httpd -f -p 127.0.0.1:8081 -h /etc & first=$!; \
                  echo up; while ! [ -e $XDG_RUNTIME_DIR/enough ]; do sleep 0.05; done; kill $first; wait $first; \
                  exec sleep 99' 2>/dev/null";
    let mut started = Started::new(&world, script);
    assert_eq!(started.line(), "up");
    let becomes = |url: &str, expected: bool| {
        let end = std::time::Instant::now() + crate::common::PATIENCE;
        while answers(&world, url) != expected {
            assert!(std::time::Instant::now() < end, "{url} is not {expected}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    becomes("127.0.0.1:8080", true);
    becomes("127.0.0.1:8081", true);
    assert!(answers(&world, "198.51.100.1:8080") && !answers(&world, "198.51.100.1:8081"));
    crate::sh(&world, "touch $XDG_RUNTIME_DIR/enough").ok();
    becomes("127.0.0.1:8081", false);
    assert!(answers(&world, "127.0.0.1:8080"));
}

#[test]
fn a_port_of_one_address_answers_there_and_nowhere_else() {
    let world = World::new();
    let _inside = serve(
        &world,
        "--net=slirp4netns --port-driver=builtin -p 127.0.0.1:8080:80/tcp -p 198.51.100.1:8081:127.0.0.1:80/tcp -p 0.0.0.0:8082:80/tcp4",
    );
    for (url, expected) in [
        ("127.0.0.1:8080", true),
        ("198.51.100.1:8080", false),
        ("198.51.100.1:8081", true),
        ("127.0.0.1:8081", false),
        ("127.0.0.1:8082", true),
        ("198.51.100.1:8082", true),
    ] {
        assert_eq!(answers(&world, url), expected, "{url}");
    }
}

#[test]
fn ports_of_each_protocol_echo_for_as_long_as_they_are_published() {
    need("socat");
    let world = World::new();
    let script = "exec rootlesskit --pidns --state-dir=$XDG_RUNTIME_DIR/rk --net=slirp4netns --disable-host-loopback \
                  --port-driver=builtin sh -c 'socat TCP4-LISTEN:7,fork EXEC:cat & socat UDP4-LISTEN:7,fork EXEC:cat & \
                  until [ $(ss -tulnH \"sport = :7\" | wc -l) = 2 ]; do sleep 0.02; done; echo up; exec sleep 99'";
    let mut started = Started::new(&world, script);
    assert_eq!(started.line(), "up");
    let ctl = "rootlessctl --socket $XDG_RUNTIME_DIR/rk/api.sock";
    // From the loopback, and from the address of the link to itself (a datagram's answer went astray there, RootlessKit #592).
    for (id, (proto, host)) in
        [("tcp", "127.0.0.1"), ("tcp4", "198.51.100.1"), ("udp", "127.0.0.1"), ("udp4", "198.51.100.1")]
            .into_iter()
            .enumerate()
    {
        let kind = if proto.starts_with("tcp") { "TCP4" } else { "UDP4" };
        let echo = format!("echo hello | socat -t 2 - {kind}:{host}:8080");
        let added = crate::sh(&world, &format!("{ctl} add-ports {host}:8080:127.0.0.1:7/{proto}")).ok();
        assert_eq!(added.trim(), (id + 1).to_string(), "{proto}");
        assert_eq!(sh(world.lab.host(), &echo).ok(), "hello\n", "{proto}");
        crate::sh(&world, &format!("{ctl} remove-ports {}", id + 1)).ok();
        assert_eq!(sh(world.lab.host(), &format!("{echo} 2>/dev/null || true")).stdout, "", "{proto}");
    }
}
