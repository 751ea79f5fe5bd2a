//! `ringtap relay` from end to end, in every gear: bytes, ends, back-pressure, the limit of descriptors.

mod common;

use common::World;
use common::crowd;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use ringtap::lab::serve::{fill_pattern, judge, send_pattern};
use ringtap::lab::{Running, Server};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const GEARS: [&str; 4] = ["auto", "copy", "splice-sqe", "splice-call"];
const LONG: Duration = Duration::from_secs(20);
const BACKEND: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 7000);

struct Relay {
    running: Running,
    at: SocketAddr,
}

/// A relay to [`BACKEND`] in the lab's host; `limit` caps its descriptors.
fn relay(world: &World, gear: &str, limit: Option<u32>) -> Relay {
    let mut command = world.lab.host().command_as_user("sh").unwrap();
    let limit = limit.map_or(String::new(), |n| format!("ulimit -n {n}; "));
    let program = world.lab.bin("ringtap");
    command.arg("-c").arg(format!(
        "{limit}exec {} relay --gear {gear} 127.0.0.1:0 127.0.0.1:{}",
        program.display(),
        BACKEND.1
    ));
    let mut running = world.lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
    let mut line = String::new();
    BufReader::new(running.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    let at = line.trim().strip_suffix("/tcp").unwrap().parse().unwrap();
    Relay { running, at }
}

fn kill(child: &Child, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

fn connect(world: &World, relay: &Relay) -> TcpStream {
    try_connect(world, relay).unwrap()
}

/// `None` if a reset was quicker than connect(2).
fn try_connect(world: &World, relay: &Relay) -> Option<TcpStream> {
    let stream = world.lab.host().tcp_connect(relay.at).ok()?;
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    Some(stream)
}

#[test]
fn bulk_both_ways_at_once_byte_for_byte_and_half_closed() {
    const BYTES: u64 = 48 << 20;
    let world = World::new();
    let _echo = Server::tcp_echo(world.lab.host().tcp_listener(BACKEND).unwrap()).unwrap();
    for gear in GEARS {
        let relay = relay(&world, gear, None);
        let mut stream = connect(&world, &relay);
        let mut to = stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            send_pattern(&mut to, BYTES).unwrap();
            to.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(judge(&mut stream).unwrap(), format!("{BYTES} bytes sound\n"), "{gear}");
        sender.join().unwrap();
    }
}

/// A relay that is told to end leaves its address free: the next one is started at once. What was open is reset, which a
/// cut stream must be.
#[test]
fn an_end_in_order_frees_the_address_and_resets_what_is_open() {
    let world = World::new();
    let _echo = Server::tcp_echo(world.lab.host().tcp_listener(BACKEND).unwrap()).unwrap();
    let program = world.lab.bin("ringtap").display().to_string();
    for protocol in ["tcp", "udp"] {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTERM] {
            let mut command = world.lab.host().command_as_user(&program).unwrap();
            command.args(["relay", &format!("127.0.0.1:7100/{protocol}"), "127.0.0.1:7000"]);
            let mut running = world.lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
            let mut line = String::new();
            BufReader::new(running.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, format!("127.0.0.1:7100/{protocol}\n"), "after a relay that was ended");
            kill(running.child(), signal);
            assert_eq!(running.child().wait().unwrap().code(), Some(128 + signal as i32), "{signal}");
        }
    }
    let mut relay = relay(&world, "auto", None);
    let mut stream = connect(&world, &relay);
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    kill(relay.running.child(), Signal::SIGTERM);
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn messages_go_to_and_fro_with_bulk_between() {
    let world = World::new();
    let _echo = Server::tcp_echo(world.lab.host().tcp_listener(BACKEND).unwrap()).unwrap();
    for gear in GEARS {
        let relay = relay(&world, gear, None);
        let mut stream = connect(&world, &relay);
        let mut offset = 0;
        for size in [1, 5000, 1 << 20, 3, 70_000, 4 << 20, 1, 1] {
            let mut bytes = vec![0; size];
            fill_pattern(offset, &mut bytes);
            offset += size as u64;
            let mut to = stream.try_clone().unwrap();
            let mut back = vec![0; size];
            std::thread::scope(|scope| {
                scope.spawn(|| to.write_all(&bytes).unwrap());
                stream.read_exact(&mut back).unwrap();
            });
            assert!(back == bytes, "{gear}: {size}");
            if size > 1 << 20 {
                // Long enough for a chain that waits to be given up.
                std::thread::sleep(Duration::from_millis(700));
            }
        }
    }
}

/// The error that a read ends with; `None` for a plain end.
fn end_of(stream: &mut TcpStream) -> Option<ErrorKind> {
    let mut bytes = vec![0; 1 << 16];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(e) => return Some(e.kind()),
        }
    }
}

/// A server that hands its connections over.
fn handing_over(world: &World) -> (Server, mpsc::Receiver<TcpStream>) {
    let (tell, told) = mpsc::channel();
    let listener = world.lab.host().tcp_listener(BACKEND).unwrap();
    let server = Server::tcp(listener, move |stream, _| {
        tell.send(stream).unwrap();
        Ok(())
    });
    (server.unwrap(), told)
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn ends_arrive_as_what_they_are_within_a_second() {
    let world = World::new();
    for gear in GEARS {
        let (server, told) = handing_over(&world);
        let relay = relay(&world, gear, None);
        for client_ends in [true, false] {
            for by_reset in [true, false] {
                let client = connect(&world, &relay);
                let backend = told.recv_timeout(LONG).unwrap();
                backend.set_read_timeout(Some(LONG)).unwrap();
                let (mut ends, mut sees) = if client_ends { (client, backend) } else { (backend, client) };
                send_pattern(&mut ends, 100_000).unwrap();
                let mut some = vec![0; 100_000];
                sees.read_exact(&mut some).unwrap();
                let start = Instant::now();
                if by_reset {
                    reset(ends);
                } else {
                    drop(ends);
                }
                let expected = by_reset.then_some(ErrorKind::ConnectionReset);
                assert_eq!(end_of(&mut sees), expected, "{gear}, client ends: {client_ends}");
                assert!(start.elapsed() < Duration::from_secs(1), "{gear}: {:?}", start.elapsed());
            }
        }
        // A side that ended in peace and is reset later: nothing in flight would tell.
        let client = connect(&world, &relay);
        let mut backend = told.recv_timeout(LONG).unwrap();
        backend.set_read_timeout(Some(LONG)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end_of(&mut backend), None);
        reset(client);
        let start = Instant::now();
        let broken = loop {
            if backend.write_all(b"x").is_err() {
                break start.elapsed();
            }
            assert!(start.elapsed() < LONG, "{gear}: the reset never arrives");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(broken < Duration::from_secs(1), "{gear}: {broken:?}");
        drop(server);
    }
}

#[test]
fn a_backend_that_refuses_resets_the_client_at_once() {
    let world = World::new();
    let relay = relay(&world, "auto", None);
    let start = Instant::now();
    assert_eq!(end_of(&mut connect(&world, &relay)), Some(ErrorKind::ConnectionReset));
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_nothing_is_lost() {
    let world = World::new();
    for gear in GEARS {
        let (server, told) = handing_over(&world);
        let relay = relay(&world, gear, None);
        let client = connect(&world, &relay);
        let mut backend = told.recv_timeout(LONG).unwrap();
        // The side without room has ended its own direction: a poll does not wait for it.
        backend.shutdown(Shutdown::Write).unwrap();
        client.set_nonblocking(true).unwrap();
        let (mut sent, mut still) = (0u64, 0);
        let mut bytes = vec![0; 1 << 16];
        while still < 30 {
            fill_pattern(sent, &mut bytes);
            match (&client).write(&bytes) {
                Ok(n) => (sent, still) = (sent + n as u64, 0),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    still += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(e) => panic!("{gear}: {e}"),
            }
            assert!(sent < 64 << 20, "{gear}: there is no back-pressure");
        }
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(judge(&mut backend).unwrap(), format!("{sent} bytes sound\n"), "{gear}");
        drop(server);
    }
}

#[test]
fn beyond_the_limit_of_descriptors_clients_are_reset_and_it_recovers() {
    let world = World::new();
    let _echo = Server::tcp_echo(world.lab.host().tcp_listener(BACKEND).unwrap()).unwrap();
    let mut relay = relay(&world, "auto", Some(256));
    crowd::beyond_the_limit(60..200, || try_connect(&world, &relay));
    assert!(relay.running.child().try_wait().unwrap().is_none());
}

#[test]
fn five_thousand_connections_at_once() {
    let world = World::new();
    let listener = world.lab.host().tcp_listener(BACKEND).unwrap();
    let relay = relay(&world, "auto", None);
    crowd::at_once(listener, || connect(&world, &relay));
}
