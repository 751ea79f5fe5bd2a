//! Datagrams through `ringtap relay`: as they were, from where they should come, for as long as they are wanted.

mod common;

use common::{HOST, SERVER};
use nix::sys::socket::{setsockopt, sockopt};
use ringtap::lab::{Lab, Place, Running, Server};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const PORT: u16 = 5353;
const ECHO: u16 = 7;
const SOON: Duration = Duration::from_secs(10);

fn lab() -> Lab {
    Lab::with_binds(&[(Path::new(env!("CARGO_BIN_EXE_ringtap")), "ringtap")]).unwrap()
}

/// `ringtap relay` in the lab's host, as an ordinary user, listening.
fn relay(lab: &Lab, listen: &str, target: (IpAddr, u16), options: &[&str]) -> Running {
    let mut command = lab.host().command_as_user(&lab.bin("ringtap").to_string_lossy()).unwrap();
    command.arg("relay").args(options).args([format!("{listen}/udp"), SocketAddr::from(target).to_string()]);
    let mut running = lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
    let mut line = String::new();
    BufReader::new(running.child().stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.ends_with("/udp\n"), "it listens: {line:?}");
    running
}

fn echo(lab: &Lab, at: IpAddr) -> Server {
    Server::udp_echo(lab.internet().udp_socket((at, ECHO)).unwrap()).unwrap()
}

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// A socket that takes datagrams from `to` only.
fn client(place: Place<'_>, to: (IpAddr, u16)) -> UdpSocket {
    client_at(place, 0, to)
}

fn client_at(place: Place<'_>, port: u16, to: (IpAddr, u16)) -> UdpSocket {
    let socket = place.udp_socket((any(to.0), port)).unwrap();
    socket.connect(SocketAddr::from(to)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buf = vec![0; 65_536];
    let n = socket.recv(&mut buf).expect("an answer");
    buf.truncate(n);
    buf
}

fn round_trip(socket: &UdpSocket, payload: &[u8]) {
    socket.send(payload).unwrap();
    assert!(receive(socket) == payload, "came back otherwise");
}

/// `len` bytes that differ for each `number`.
fn payload(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (number * 31 + i) as u8).collect()
}

#[test]
fn both_families_either_way_and_empty_and_longest_datagrams() {
    let lab = lab();
    let _echoes = SERVER.map(|s| echo(&lab, s));
    for (i, (host, server)) in HOST.iter().flat_map(|h| SERVER.map(|s| (*h, s))).enumerate() {
        let port = PORT + i as u16;
        let _relay = relay(&lab, &SocketAddr::from((host, port)).to_string(), (server, ECHO), &[]);
        let client = client(lab.internet(), (host, port));
        for len in [5, 0, 1, 0, 0, 1472, 1473, 30_000, 65_507, 0, 3] {
            round_trip(&client, &payload(len, len));
        }
    }
}

#[test]
fn many_clients_each_get_their_own() {
    let lab = lab();
    let server = echo(&lab, SERVER[0]);
    let _relay = relay(&lab, "0.0.0.0:5353", (SERVER[0], ECHO), &[]);
    // Ports of our choice: the lab's sockets may share one (SO_REUSEADDR), and the kernel's choice sometimes does.
    let clients: Vec<UdpSocket> =
        (0..300).map(|i| client_at(lab.internet(), 20_000 + i, (HOST[0], PORT))).collect();
    for round in 0..3 {
        // No more at once than fit a receive buffer of the default size: nobody promises that datagrams beyond arrive.
        for (chunk, group) in clients.chunks(50).enumerate() {
            for (i, client) in group.iter().enumerate() {
                client.send(&payload(50 * chunk + i, 100 + round)).unwrap();
            }
            for (i, client) in group.iter().enumerate() {
                assert!(receive(client) == payload(50 * chunk + i, 100 + round), "client {i}, round {round}");
            }
        }
    }
    let mut peers = server.peers_when(900);
    assert_eq!(peers.len(), 900);
    peers.sort_unstable();
    peers.dedup();
    assert_eq!(peers.len(), 300, "one backend socket for each client");
}

#[test]
fn answers_leave_from_the_address_used() {
    let lab = lab();
    let _echo = echo(&lab, SERVER[0]);
    // The second is a dual-stack socket.
    let _v4 = relay(&lab, "0.0.0.0:5353", (SERVER[0], ECHO), &[]);
    let _both = relay(&lab, "[::]:5354", (SERVER[0], ECHO), &[]);
    let others = ["198.51.100.77", "2001:db8:51::77"].map(|a| a.parse::<IpAddr>().unwrap());
    for (ip, ports) in
        [(HOST[0], &[PORT, 5354][..]), (others[0], &[PORT, 5354]), (HOST[1], &[5354]), (others[1], &[5354])]
    {
        for port in ports {
            let client = client(lab.internet(), (ip, *port));
            round_trip(&client, format!("{ip} {port}").as_bytes());
            round_trip(&client, b"again");
        }
    }
    // One socket of the client to both addresses: two conversations.
    let socket = lab.internet().udp_socket((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    for to in [HOST[0], others[0], HOST[0]] {
        socket.send_to(b"hello", (to, PORT)).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(from, (to, PORT).into());
    }
}

#[test]
fn a_flow_that_only_sends_keeps_its_mapping_and_a_pause_ends_it() {
    let lab = lab();
    let sink = lab.internet().udp_socket((SERVER[0], ECHO)).unwrap();
    sink.set_read_timeout(Some(SOON)).unwrap();
    let _relay =
        relay(&lab, "0.0.0.0:5353", (SERVER[0], ECHO), &["--udp-idle", "1", "--udp-unanswered", "1"]);
    let source = || {
        let (_, from) = sink.recv_from(&mut [0; 8]).expect("it arrives");
        from
    };
    // A machine that is busy elsewhere may make a pause of its own: then the flow is begun anew.
    let kept = (0..10).any(|_| {
        let client = client(lab.internet(), (HOST[0], PORT));
        let start = Instant::now();
        let (mut last, mut longest) = (start, Duration::ZERO);
        let mut sources = Vec::new();
        while start.elapsed() < Duration::from_millis(2500) {
            client.send(b"one way").unwrap();
            sources.push(source());
            longest = longest.max(last.elapsed());
            last = Instant::now();
            std::thread::sleep(Duration::from_millis(50));
        }
        sources.dedup();
        if longest < Duration::from_millis(700) {
            assert_eq!(sources.len(), 1, "the mapping ended while its client sent");
        }
        let before = sources.last().copied();
        std::thread::sleep(Duration::from_millis(2500));
        client.send(b"later").unwrap();
        assert_ne!(Some(source()), before, "a mapping without traffic ends");
        sources.len() == 1
    });
    assert!(kept);
}

/// Bursts of datagrams of alternating sizes, sent one by one and as segmented sends; each must come back as it was.
fn bursts(client: &UdpSocket, size: usize) {
    for burst in 0..60 {
        let mut sent = Vec::new();
        if burst % 2 == 0 {
            setsockopt(client, sockopt::UdpGsoSegment, &(size as i32)).unwrap();
            // 20 of `size` and a shorter one.
            let whole = payload(burst, 20 * size + size / 3);
            client.send(&whole).unwrap();
            setsockopt(client, sockopt::UdpGsoSegment, &0).unwrap();
            sent.extend(whole.chunks(size).map(<[u8]>::to_vec));
        } else {
            for i in 0..30 {
                let len = [size, size, size, size, size / 2, size, 0, size / 3, size / 3][(i + burst) % 9];
                sent.push(payload(burst + i, len));
                client.send(sent.last().unwrap()).unwrap();
            }
        }
        for (i, expected) in sent.iter().enumerate() {
            let got = receive(client);
            assert!(
                got == *expected,
                "burst {burst}, datagram {i}: {} bytes, not {}",
                got.len(),
                expected.len()
            );
        }
    }
}

#[test]
fn bursts_arrive_datagram_by_datagram_in_order() {
    let lab = lab();
    let _echo = echo(&lab, SERVER[0]);
    let _relay = relay(&lab, "0.0.0.0:5353", (SERVER[0], ECHO), &[]);
    for place in [lab.internet(), lab.host()] {
        bursts(&client(place, (HOST[0], PORT)), 1200);
    }
}

#[test]
fn a_path_that_is_too_narrow_for_segments_takes_fragments() {
    let lab = lab();
    for (place, link) in [(lab.host(), "eth0"), (lab.internet(), "host0")] {
        common::sh(place, &format!("ip link set {link} mtu 1280")).ok();
    }
    let _echo = echo(&lab, SERVER[0]);
    let _relay = relay(&lab, "0.0.0.0:5353", (SERVER[0], ECHO), &[]);
    bursts(&client(lab.host(), (Ipv4Addr::LOCALHOST.into(), PORT)), 1400);
}

#[test]
fn a_dead_backend_and_clients_that_leave_harm_nobody_else() {
    let lab = lab();
    let _relay = relay(&lab, "0.0.0.0:5353", (SERVER[0], ECHO), &[]);
    let early = client(lab.internet(), (HOST[0], PORT));
    early.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    for _ in 0..5 {
        early.send(b"nobody there").unwrap();
        assert!(early.recv(&mut [0; 16]).is_err());
    }
    let _echo = echo(&lab, SERVER[0]);
    let late = client(lab.internet(), (HOST[0], PORT));
    round_trip(&late, b"late");
    early.set_read_timeout(Some(SOON)).unwrap();
    // The refusal of before may still be pending on its backend socket: one datagram pays for it at most.
    early.send(b"early").unwrap();
    early.send(b"early").unwrap();
    assert_eq!(receive(&early), b"early");
    for i in 0..200 {
        // Its answer meets a closed port, which the relay's listener is told by ICMP.
        client(lab.internet(), (HOST[0], PORT)).send(b"gone").unwrap();
        round_trip(&late, &payload(i, 64));
    }
}
