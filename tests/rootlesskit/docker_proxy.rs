//! ringtap called as `docker-proxy` and `rootlesskit-docker-proxy`: Docker's flags and descriptors. A second address of the
//! namespace stands for a container; real ones are in tests/acceptance.

use crate::Started;
use crate::common::{World, need, sh};

/// An instance with a server at 172.17.0.2:80 that says whom it sees, and then `script`, whose lines are read.
fn inside(world: &World, options: &str, script: &str) -> Started {
    need("socat");
    let whole = format!(
        "exec rootlesskit --net=slirp4netns --disable-host-loopback {options} \
         --pidns sh -c 'ip addr add 172.17.0.2/32 dev lo; \
         socat TCP4-LISTEN:80,bind=172.17.0.2,fork,reuseaddr SYSTEM:\"read x; echo \\$SOCAT_PEERADDR\" & \
         socat UDP4-RECVFROM:80,bind=172.17.0.2,fork SYSTEM:\"read x; echo \\$SOCAT_PEERADDR\" & \
         until ss -tulnH | grep -q 172.17.0.2:80; do sleep 0.02; done; \
         args=\"-host-port 8080 -container-ip 172.17.0.2 -container-port 80\"; {script}' 2>&1"
    );
    Started::new(world, &whole)
}

/// Whom the server says that it sees when asked from another machine.
fn seen(world: &World, protocol: &str) -> String {
    let script = format!("echo | socat -t 1 - {protocol}:198.51.100.1:8080,shut-none; true");
    sh(world.lab.internet(), &script).stdout.trim().to_owned()
}

#[test]
fn a_port_is_published_straight_to_the_container_and_removed_at_the_end() {
    let world = World::new();
    for driver in ["builtin", "slirp4netns"] {
        for protocol in ["tcp", "udp"] {
            let at = if driver == "builtin" { "127.0.0.1" } else { "10.0.2.100" };
            let script = format!(
                "rootlesskit-docker-proxy -proto {protocol} -host-ip 0.0.0.0 $args 3>$XDG_RUNTIME_DIR/said & proxy=$!; \
                 until grep -qs . $XDG_RUNTIME_DIR/said; do sleep 0.02; done; cat $XDG_RUNTIME_DIR/said; \
                 rootlessctl list-ports --json; \
                 echo | socat -t 1 - {protocol}4:{at}:8080; \
                 until [ -e $XDG_RUNTIME_DIR/end ]; do sleep 0.02; done; kill -INT $proxy; wait $proxy; echo ended $?; \
                 rootlessctl list-ports --json; echo end; sleep 99"
            );
            let mut started = inside(&world, &format!("--port-driver={driver}"), &script);
            assert_eq!(started.line(), "0", "{driver} {protocol}");
            let listed = started.line();
            assert!(listed.contains("\"parentPort\":8080"), "{listed}");
            // From inside the listener relays, and the server sees the namespace itself.
            assert_eq!(started.line(), "172.17.0.2", "{driver} {protocol}");
            assert_eq!(seen(&world, &format!("{protocol}4")), "198.51.100.2", "{driver} {protocol}");
            crate::sh(&world, "touch $XDG_RUNTIME_DIR/end").ok();
            assert_eq!(started.line(), "ended 0");
            assert_eq!(started.line(), "end");
            drop(started);
            crate::sh(&world, "rm -f $XDG_RUNTIME_DIR/end $XDG_RUNTIME_DIR/said").ok();
        }
    }
}

#[test]
fn a_port_that_docker_has_published_itself_is_led_to_the_container() {
    let world = World::new();
    for listener in ["", "-use-listen-fd"] {
        // Docker 28 and later bind in the namespace, call the API, and pass the socket on.
        let script = format!(
            "rootlessctl add-ports 0.0.0.0:8080:127.0.0.1:8080/tcp4; \
             if [ -n \"{listener}\" ]; then perl -e \"\\$^F = 9; use IO::Socket::INET; use POSIX; \\$s = IO::Socket::INET->new(Listen => 5, \
             LocalAddr => q(127.0.0.1), LocalPort => 8080) or die; POSIX::dup2(fileno(\\$s), 4); exec @ARGV\" \
             docker-proxy -proto tcp -host-ip 127.0.0.1 $args {listener} 3>$XDG_RUNTIME_DIR/said & \
             else docker-proxy -proto tcp -host-ip 127.0.0.1 $args 3>$XDG_RUNTIME_DIR/said & fi; \
             until grep -qs . $XDG_RUNTIME_DIR/said; do sleep 0.02; done; cat $XDG_RUNTIME_DIR/said; \
             echo | socat -t 1 - TCP4:127.0.0.1:8080; rootlessctl list-ports --json; sleep 99"
        );
        let mut started = inside(&world, "--port-driver=builtin", &script);
        assert_eq!((started.line().as_str(), started.line().as_str()), ("1", "0"));
        assert_eq!(started.line(), "172.17.0.2", "{listener}");
        assert!(started.line().contains("\"childPort\":8080,\"childIP\":\"127.0.0.1\""));
        assert_eq!(seen(&world, "TCP4"), "198.51.100.2", "{listener}");
        drop(started);
        crate::sh(&world, "rm -f $XDG_RUNTIME_DIR/said").ok();
    }
}

#[test]
fn a_datagram_socket_may_be_passed_and_nobody_need_listen_for_the_report() {
    let world = World::new();
    // Docker 28 and later pass sockets of either kind; descriptor 3 is closed here.
    let script = "rootlessctl add-ports 0.0.0.0:8080:127.0.0.1:8080/udp4; \
         perl -e \"\\$^F = 9; use IO::Socket::INET; use POSIX; \\$s = IO::Socket::INET->new(Proto => q(udp), \
         LocalAddr => q(127.0.0.1), LocalPort => 8080) or die; POSIX::dup2(fileno(\\$s), 4); POSIX::close(3); exec @ARGV\" \
         docker-proxy -proto udp -host-ip 127.0.0.1 $args -use-listen-fd & proxy=$!; \
         until echo | socat -t 1 - UDP4:127.0.0.1:8080 2>/dev/null | grep .; do sleep 0.05; done; \
         until [ -e $XDG_RUNTIME_DIR/end ]; do sleep 0.02; done; kill -INT $proxy; wait $proxy; echo ended $?; sleep 99";
    let mut started = inside(&world, "--port-driver=builtin", script);
    assert_eq!((started.line().as_str(), started.line().as_str()), ("1", "172.17.0.2"));
    assert_eq!(seen(&world, "UDP4"), "198.51.100.2");
    crate::sh(&world, "touch $XDG_RUNTIME_DIR/end").ok();
    assert_eq!(started.line(), "ended 0");
}

#[test]
fn a_protocol_that_is_not_relayed_is_reported_with_the_reason() {
    let world = World::new();
    let script = "for name in docker-proxy rootlesskit-docker-proxy; do \
                  $name -proto sctp -host-ip 0.0.0.0 $args 3>$XDG_RUNTIME_DIR/said; echo status $?; cat $XDG_RUNTIME_DIR/said; echo; \
                  done 2>/dev/null";
    let (said, _) = inside(&world, "--port-driver=builtin", script).rest();
    assert_eq!(said.matches("status 1\n1\nsctp is not relayed").count(), 2, "{said}");
}

#[test]
fn a_port_that_is_taken_is_reported_with_the_reason() {
    let world = World::new();
    let _taken = world.lab.host().tcp_listener("0.0.0.0:8080".parse::<std::net::SocketAddr>().unwrap());
    let script = "rootlesskit-docker-proxy -proto tcp -host-ip 0.0.0.0 $args 3>$XDG_RUNTIME_DIR/said; echo status $?; \
                  cat $XDG_RUNTIME_DIR/said";
    let (said, _) = inside(&world, "--port-driver=builtin", script).rest();
    assert!(said.contains("status 1\n1\nerror while calling PortManager.AddPort(): "), "{said}");
    assert!(said.contains("bind: address already in use"), "{said}");
}

#[test]
fn outside_of_an_instance_it_is_a_relay() {
    let world = World::new();
    let script = "unset ROOTLESSKIT_STATE_DIR; docker-proxy -proto tcp -host-ip 127.0.0.1 $args 3>$XDG_RUNTIME_DIR/said & \
                  until grep -qs . $XDG_RUNTIME_DIR/said; do sleep 0.02; done; cat $XDG_RUNTIME_DIR/said; \
                  for i in 1 2; do echo | socat -t 1 - TCP4:127.0.0.1:8080; done; rootlesskit-docker-proxy -proto tcp \
                  -host-ip 127.0.0.1 $args; echo $?";
    let (said, _) = inside(&world, "", script).rest();
    assert_eq!(said, "0\n172.17.0.2\n172.17.0.2\ndocker-proxy: $ROOTLESSKIT_STATE_DIR needs to be set\n1\n");
}
