//! What comes through a published port: true clients, every byte, and endings as they are.

mod common;

use common::{HOST, PATIENCE, SERVER, World, crowd, sh};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringtap::lab::{Guest, Place, Server, addr};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The clients' own addresses, as a server on the host would see them.
const CLIENT: [IpAddr; 2] = [IpAddr::V4(addr::ROUTER_V4), IpAddr::V6(addr::ROUTER_V6)];
const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
const GATEWAY: [&str; 2] = ["10.0.2.2", "fd00::2"];

/// Every test by the relay and through the tap.
macro_rules! on_both_paths {
    ($($name:ident)*) => {
        mod by_the_relay {
            $(#[test] fn $name() { super::$name("relay") })*
        }
        mod through_the_tap {
            $(#[test] fn $name() { super::$name("tap") })*
        }
    };
}

on_both_paths! {
    a_tcp_server_sees_the_client_and_every_byte_arrives
    a_udp_server_sees_the_client_who_is_answered_from_the_address_used
    a_row_of_datagrams_is_not_held_up
    who_could_not_be_answered_and_who_asks_for_it_is_shown_as_the_gateway
    the_guests_own_traffic_from_published_ports_is_left_alone
    a_container_behind_a_bridge_sees_the_client
    endings_go_through_as_what_they_are
    a_server_that_resets_at_once_is_not_dialled_again
    a_proxy_header_comes_first
    counters_and_flows_say_what_came_through_and_removal_ends_it
    another_plane_serves_the_same_ports
}

fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let (stream, from) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (stream, from)
}

/// Servers at tcp/80 and udp/53 of `inside`, published as 8080 and 5353, see a client as it is, and it the address it used.
fn see_the_client(world: &World, inside: Place<'_>) {
    let server = inside.tcp_listener((ANY[0], 80)).unwrap();
    let mut near = world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap();
    let (mut far, seen) = accept(&server);
    assert_eq!(seen, near.local_addr().unwrap());
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
    let server = inside.udp_socket((ANY[0], 53)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let near = world.lab.internet().udp_socket((CLIENT[0], 0)).unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    near.send_to(b"q", (HOST[0], 5353)).unwrap();
    let (_, seen) = server.recv_from(&mut [0; 9]).unwrap();
    assert_eq!(seen, near.local_addr().unwrap());
    server.send_to(b"a", seen).unwrap();
    assert_eq!(near.recv_from(&mut [0; 9]).unwrap().1, SocketAddr::new(HOST[0], 5353));
}

/// Bytes that differ at every place where something could be lost or doubled.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as u8).collect()
}

fn a_tcp_server_sees_the_client_and_every_byte_arrives(via: &str) {
    let world = World::new();
    let guest = world.guest_with(&["--via", via, "-p", "8080:80", "-p", "9000-9009:9000-9009"]);
    for (family, client) in CLIENT.into_iter().enumerate() {
        for (port, inside) in [(8080, 80), (9000, 9000), (9009, 9009)] {
            let server = guest.place().tcp_listener((ANY[family], inside)).unwrap();
            let mut near = world.lab.internet().tcp_connect((HOST[family], port)).unwrap();
            let (mut far, seen) = accept(&server);
            assert_eq!((seen.ip(), seen), (client, near.local_addr().unwrap()));
            near.set_read_timeout(Some(PATIENCE)).unwrap();
            let (up, down) = (pattern(3 << 20, 1), pattern(3 << 20, 2));
            std::thread::scope(|scope| {
                let mut near_out = near.try_clone().unwrap();
                let mut far_out = far.try_clone().unwrap();
                let (up, down) = (&up, &down);
                scope.spawn(move || {
                    near_out.write_all(up).unwrap();
                    near_out.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(move || {
                    far_out.write_all(down).unwrap();
                    far_out.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(move || {
                    let mut got = Vec::new();
                    far.read_to_end(&mut got).unwrap();
                    assert!(got == *up);
                });
                let mut got = Vec::new();
                near.read_to_end(&mut got).unwrap();
                assert!(got == *down);
            });
        }
    }
}

fn a_udp_server_sees_the_client_who_is_answered_from_the_address_used(via: &str) {
    let world = World::new();
    let guest = world.guest_with(&["--via", via, "-p", "5353:53/udp"]);
    let used = [[HOST[0], IpAddr::V4(addr::HOST_OTHER_V4)], [HOST[1], IpAddr::V6(addr::HOST_OTHER_V6)]];
    for (family, client) in CLIENT.into_iter().enumerate() {
        let server = guest.place().udp_socket((ANY[family], 53)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        for at in used[family] {
            let near = world.lab.internet().udp_socket((client, 0)).unwrap();
            near.set_read_timeout(Some(PATIENCE)).unwrap();
            for len in [1, 0, 1400, 9000, 65_507] {
                let question = pattern(len, 3);
                near.send_to(&question, (at, 5353)).unwrap();
                let mut got = vec![0; 65_536];
                let (n, seen) = server.recv_from(&mut got).unwrap();
                assert_eq!((seen, n), (near.local_addr().unwrap(), len));
                assert!(got[..n] == question);
                server.send_to(&got[..n], seen).unwrap();
                let (n, from) = near.recv_from(&mut got).unwrap();
                assert_eq!((from, n), (SocketAddr::new(at, 5353), len));
                assert!(got[..n] == question);
            }
        }
    }
}

fn a_row_of_datagrams_is_not_held_up(via: &str) {
    const COUNT: usize = 4000;
    let world = World::new();
    let guest = world.guest_with(&["--via", via, "-p", "5353:53/udp"]);
    let server = guest.place().udp_socket((ANY[0], 53)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let near = world.lab.internet().udp_socket((CLIENT[0], 0)).unwrap();
    let sender = std::thread::spawn(move || {
        for n in 0..COUNT {
            near.send_to(&[0; 1400], (HOST[0], 5353)).unwrap();
            // More at once than receive buffers are lent, and less than a socket's queue holds.
            if n % 80 == 79 {
                std::thread::sleep(Duration::from_millis(4));
            }
        }
    });
    let (mut got, mut waits, mut last) = (0, 0, Instant::now());
    while server.recv(&mut [0; 1500]).is_ok() {
        got += 1;
        waits += usize::from(last.elapsed() > Duration::from_millis(40));
        last = Instant::now();
    }
    sender.join().unwrap();
    assert!(got > COUNT / 2, "{got} of {COUNT}");
    // A listener that rests whenever its buffers are used up does so some sixty times here.
    assert!(waits < 20, "{waits} waits");
}

fn who_could_not_be_answered_and_who_asks_for_it_is_shown_as_the_gateway(via: &str) {
    let world = World::new();
    let guest = world.guest_with(&[
        "--via",
        via,
        "-p",
        "8080:80",
        "-p",
        "8081:80,source=gateway",
        "-p",
        "5353:53/udp",
    ]);
    for family in [0, 1] {
        let server = guest.place().tcp_listener((ANY[family], 80)).unwrap();
        // Two clients of one port are still two.
        let near = [0, 1].map(|_| world.lab.host().tcp_connect((LOOPBACK[family], 8080)).unwrap());
        let far = [0, 1].map(|_| accept(&server));
        for (_, seen) in &far {
            assert_eq!(seen.ip().to_string(), GATEWAY[family]);
        }
        assert_ne!(far[0].1, far[1].1);
        drop(near);
        let mut near = world.lab.internet().tcp_connect((HOST[family], 8081)).unwrap();
        let (mut far, seen) = accept(&server);
        assert_eq!(seen.ip().to_string(), GATEWAY[family]);
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();
        let server = guest.place().udp_socket((ANY[family], 53)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let near = world.lab.host().udp_socket((LOOPBACK[family], 0)).unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        near.send_to(b"q", (LOOPBACK[family], 5353)).unwrap();
        let (_, seen) = server.recv_from(&mut [0; 9]).unwrap();
        assert_eq!(seen.ip().to_string(), GATEWAY[family]);
        server.send_to(b"a", seen).unwrap();
        assert_eq!(near.recv_from(&mut [0; 9]).unwrap().1, SocketAddr::new(LOOPBACK[family], 5353));
    }
}

fn the_guests_own_traffic_from_published_ports_is_left_alone(via: &str) {
    let world = World::new();
    let guest = world.guest_with(&["--via", via, "-p", "51820:51820/udp", "-p", "30000-30099:30000-30099"]);
    let server = world.lab.internet().udp_socket((SERVER[0], 51820)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let peer = guest.place().udp_socket((ANY[0], 51820)).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = world.lab.internet().udp_socket((CLIENT[0], 0)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"from outside", (HOST[0], 51820)).unwrap();
    let (_, outside) = peer.recv_from(&mut [0; 99]).unwrap();
    // Out to a server, and in from it, while the client of the published port is being answered.
    for _ in 0..3 {
        peer.send_to(b"out", (SERVER[0], 51820)).unwrap();
        let (_, seen) = server.recv_from(&mut [0; 99]).unwrap();
        server.send_to(b"in", seen).unwrap();
        let mut got = [0; 99];
        let (n, from) = peer.recv_from(&mut got).unwrap();
        assert_eq!((&got[..n], from), (&b"in"[..], SocketAddr::new(SERVER[0], 51820)));
        peer.send_to(b"answer", outside).unwrap();
        let (n, from) = client.recv_from(&mut got).unwrap();
        assert_eq!((&got[..n], from), (&b"answer"[..], SocketAddr::new(HOST[0], 51820)));
    }
    let _echo = Server::tcp_echo(world.lab.internet().tcp_listener((SERVER[0], 7007)).unwrap()).unwrap();
    for port in 30_000..30_100 {
        let socket = guest.place().tcp_socket((SERVER[0], 7007)).unwrap();
        socket.bind(&SocketAddr::new(ANY[0], port).into()).unwrap();
        socket.connect_timeout(&SocketAddr::new(SERVER[0], 7007).into(), PATIENCE).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
}

fn a_container_behind_a_bridge_sees_the_client(via: &str) {
    let world = World::new();
    let guest = world.attach(world.bare(""), &["--via", via, "-p", "8080:8080", "-p", "5353:5353/udp"], None);
    let container = guest.behind_bridge(&world.lab, 1500).unwrap();
    // As Docker does it.
    let rules = "nft 'add chain inet nat pre { type nat hook prerouting priority -100; }'
        nft add rule inet nat pre fib daddr type local tcp dport 8080 dnat ip to 172.17.0.2:80
        nft add rule inet nat pre fib daddr type local udp dport 5353 dnat ip to 172.17.0.2:53
        nft 'add chain inet nat out { type nat hook output priority -100; }'
        nft add rule inet nat out fib daddr type local ip daddr != 127.0.0.0/8 tcp dport 8080 dnat ip to 172.17.0.2:80
        nft add rule inet nat out fib daddr type local ip daddr != 127.0.0.0/8 udp dport 5353 dnat ip to 172.17.0.2:53";
    sh(guest.place(), rules).ok();
    see_the_client(&world, container.place());
}

/// What a client sees that connects where nobody listens inside: a reset, and not after a wait.
fn refused(world: &World, at: (IpAddr, u16)) {
    let mut near = world.lab.internet().tcp_connect(at).unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn endings_go_through_as_what_they_are(via: &str) {
    let world = World::new();
    let guest = world.guest_with(&["--via", via, "-p", "8080:80"]);
    for (family, host) in HOST.into_iter().enumerate() {
        refused(&world, (host, 8080));
        let server = guest.place().tcp_listener((ANY[family], 80)).unwrap();
        for by_reset in [false, true] {
            for from_client in [false, true] {
                let near = world.lab.internet().tcp_connect((host, 8080)).unwrap();
                near.set_read_timeout(Some(PATIENCE)).unwrap();
                let (far, _) = accept(&server);
                let (ends, mut sees) = if from_client { (near, far) } else { (far, near) };
                if by_reset {
                    socket2::SockRef::from(&ends).set_linger(Some(Duration::ZERO)).unwrap();
                }
                drop(ends);
                let seen = sees.read(&mut [0]).map_err(|e| e.kind());
                assert_eq!(seen, if by_reset { Err(ErrorKind::ConnectionReset) } else { Ok(0) });
            }
        }
    }
}

/// The reset may be here before we know that the connection stood: it is no refusal, after which another address is tried.
fn a_server_that_resets_at_once_is_not_dialled_again(via: &str) {
    const CLIENTS: usize = 600;
    let world = World::new();
    let guest = world.guest_with(&["--via", via, "-p", "8080:80"]);
    let server = guest.place().tcp_listener((ANY[0], 80)).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let accepted = std::thread::spawn({
        let over = over.clone();
        move || {
            let mut accepted = 0;
            while let Ok((stream, _)) = server.accept()
                && !over.load(Ordering::SeqCst)
            {
                accepted += 1;
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            accepted
        }
    });
    for _ in 0..CLIENTS / 100 {
        let clients: Vec<_> = (0..100).map(|_| world.lab.internet().tcp_connect((HOST[0], 8080))).collect();
        for client in clients {
            // A reset may be quicker than connect(2).
            let Ok(mut client) = client else { continue };
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }
    over.store(true, Ordering::SeqCst);
    // Wakes the server for the last time.
    let _ = guest.place().tcp_connect((LOOPBACK[0], 80));
    let accepted = accepted.join().unwrap();
    assert!(accepted <= CLIENTS, "{accepted} connections for {CLIENTS} clients");
}

fn a_proxy_header_comes_first(via: &str) {
    let world = World::new();
    let guest = world.guest_with(&["--via", via, "-p", "8080:80,proxy=v1", "-p", "8081:80,proxy=v2"]);
    let server = guest.place().tcp_listener((ANY[0], 80)).unwrap();
    for port in [8080, 8081] {
        let mut near = world.lab.internet().tcp_connect((HOST[0], port)).unwrap();
        let own = near.local_addr().unwrap();
        near.write_all(b"hello").unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        accept(&server).0.read_to_end(&mut got).unwrap();
        if port == 8080 {
            let line = format!("PROXY TCP4 {} {} {} 8080\r\nhello", own.ip(), HOST[0], own.port());
            assert_eq!(String::from_utf8(got).unwrap(), line);
        } else {
            let (IpAddr::V4(from), IpAddr::V4(to)) = (own.ip(), HOST[0]) else { panic!("IPv4") };
            let ports = [own.port().to_be_bytes(), port.to_be_bytes()].concat();
            let header = [&[0x21, 0x11, 0, 12][..], &from.octets(), &to.octets(), &ports, b"hello"].concat();
            assert_eq!(got, [&b"\r\n\r\n\0\r\nQUIT\n"[..], &header].concat());
        }
    }
}

/// The answer to a request to the instance's API.
fn api(world: &World, guest: &mut Guest, method: &str, path: &str) -> serde_json::Value {
    let pid = guest.running()[0].pid();
    let socket = world.lab.dir().join(format!("user-run/ringtap/{pid}/api.sock"));
    let script = format!("curl -sS -X {method} --unix-socket {} http://x{path}", socket.display());
    let text = sh(world.lab.host(), &script).ok();
    if text.is_empty() { serde_json::Value::Null } else { serde_json::from_str(&text).unwrap() }
}

fn counters_and_flows_say_what_came_through_and_removal_ends_it(via: &str) {
    let world = World::new();
    let mut guest = world.guest_with(&["--via", via, "-p", "8080:80", "-p", "5353:53/udp"]);
    refused(&world, (HOST[0], 8080));
    let server = guest.place().tcp_listener((ANY[0], 80)).unwrap();
    let mut near = world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut far, seen) = accept(&server);
    near.write_all(&[1; 5000]).unwrap();
    far.read_exact(&mut [0; 5000]).unwrap();
    far.write_all(&[2; 300]).unwrap();
    near.read_exact(&mut [0; 300]).unwrap();
    let udp = guest.place().udp_socket((ANY[0], 53)).unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = world.lab.internet().udp_socket((CLIENT[0], 0)).unwrap();
    client.send_to(&[3; 70], (HOST[0], 5353)).unwrap();
    udp.recv_from(&mut [0; 99]).unwrap();

    let ports = api(&world, &mut guest, "GET", "/ringtap/v1/ports");
    let count = |n: usize, name: &str| ports[n]["counters"][name].as_u64().unwrap();
    let tcp = ["accepted", "open", "refused", "bytesDown", "bytesUp"].map(|name| count(0, name));
    assert_eq!(tcp, [2, 1, 1, 5000, 300], "{ports}");
    assert_eq!(["accepted", "open", "bytesDown"].map(|name| count(1, name)), [1, 1, 70], "{ports}");
    let flows = api(&world, &mut guest, "GET", "/ringtap/v1/flows");
    let path = if via == "tap" { "injected" } else { "relay" };
    let flow = |protocol: &str| {
        let all = flows["flows"].as_array().unwrap().iter();
        let mine: Vec<_> = all.filter(|f| f["path"] == path && f["protocol"] == protocol).collect();
        assert_eq!(mine.len(), 1, "{flows:?}");
        mine[0].clone()
    };
    assert_eq!((&flow("tcp")["remote"], &flow("tcp")["port"]), (&seen.to_string().into(), &1.into()));
    assert_eq!(flow("udp")["port"], 2);

    api(&world, &mut guest, "DELETE", "/ringtap/v1/ports/1?connections=end");
    assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(far.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let gone = world.lab.internet().tcp_connect_within((HOST[0], 8080), PATIENCE);
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

fn another_plane_serves_the_same_ports(via: &str) {
    let world = World::new();
    let mut guest = world.guest_with(&["--via", via, "-p", "8080:80", "-p", "5353:53/udp"]);
    let pid = guest.running()[0].pid();
    let state = world.lab.dir().join(format!("user-run/ringtap/{pid}/plane_pid"));
    let plane = std::fs::read_to_string(&state).unwrap();
    kill(Pid::from_raw(plane.parse().unwrap()), Signal::SIGKILL).unwrap();
    let start = Instant::now();
    while std::fs::read_to_string(&state).unwrap() == plane {
        assert!(start.elapsed() < PATIENCE, "no other plane");
        std::thread::sleep(Duration::from_millis(5));
    }
    see_the_client(&world, guest.place());
}

#[test]
fn a_server_on_the_guests_loopback_alone_sees_the_client() {
    let world = World::new();
    let guest = world.guest_with(&["-p", "8080:80"]);
    for (family, client) in CLIENT.into_iter().enumerate() {
        let server = guest.place().tcp_listener((LOOPBACK[family], 80)).unwrap();
        let mut near = world.lab.internet().tcp_connect((HOST[family], 8080)).unwrap();
        let (mut far, seen) = accept(&server);
        assert_eq!((seen.ip(), seen), (client, near.local_addr().unwrap()));
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn a_client_port_that_comes_by_two_published_ports_keeps_its_address() {
    let world = World::new();
    let guest = world.guest_with(&["-p", "8080:80", "-p", "8081:80"]);
    let server = guest.place().tcp_listener((ANY[0], 80)).unwrap();
    let near = [8080, 8081].map(|port| {
        let socket = world.lab.internet().tcp_socket((CLIENT[0], 5555)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::new(CLIENT[0], 5555).into()).unwrap();
        socket.connect(&SocketAddr::new(HOST[0], port).into()).unwrap();
        socket
    });
    for _ in &near {
        assert_eq!(accept(&server).1, SocketAddr::new(CLIENT[0], 5555));
    }
}

#[test]
fn five_thousand_connections_at_once() {
    let world = World::new();
    let guest = world.guest_with(&["-p", "8080:80"]);
    let listener = guest.place().tcp_listener((ANY[0], 80)).unwrap();
    crowd::at_once(listener, || {
        let near = world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        near
    });
}

#[test]
fn beyond_the_limit_of_descriptors_clients_are_reset_and_it_recovers() {
    let world = World::new();
    let mut command = world.lab.host().command_as_user("sh").unwrap();
    command
        .args(["-c", "ulimit -n 256; exec \"$R\" run -p 8080:80 -- sh -c 'echo ready; exec sleep infinity'"]);
    let mut running =
        world.lab.host().spawn(command.env("R", world.lab.bin("ringtap")).stdout(Stdio::piped())).unwrap();
    running.child().stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let guest = world.lab.guest_below(running, "sleep", PATIENCE).unwrap();
    let _echo = Server::tcp_echo(guest.place().tcp_listener((ANY[0], 80)).unwrap()).unwrap();
    crowd::beyond_the_limit(60..128, || {
        let near = world.lab.internet().tcp_connect((HOST[0], 8080)).ok()?;
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(near)
    });
}
