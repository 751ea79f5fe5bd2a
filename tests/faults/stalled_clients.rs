//! Many clients of a relayed port whose server does not read: they bring nobody else to a standstill, neither clients of the relay
//! nor the guest's own connections.

use crate::common::{HOST, PATIENCE, SERVER, World, both_ways};
use crate::{Instance, answers, echo};
use ringtap::lab::Server;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// More than there are buffers.
const STALLED: usize = 400;

/// Pieces that take a whole buffer each, until nobody takes any more.
fn stuff(stream: &mut TcpStream) {
    stream.set_nonblocking(true).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut idle = 0;
    while idle < 3 {
        match stream.write(&[7; 5000]) {
            Ok(n) => idle = if n > 0 { 0 } else { idle + 1 },
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                idle += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Requests, bulk and new connections pass beside those that are stalled, by the port and by the tap.
fn others_go_on(world: &World, instance: &Instance) {
    let near = || {
        let client = world.lab.internet().tcp_connect((HOST[0], 8081)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    };
    let client = near();
    for n in 0..100 {
        assert!(answers(&client), "request {n} through the port");
    }
    assert!(echo(&instance.guest).is_some(), "through the tap");
    both_ways(near(), 16 << 20);
    both_ways(instance.guest.place().tcp_connect((SERVER[0], crate::ECHO)).unwrap(), 16 << 20);
}

#[test]
fn whose_server_does_not_read_starve_nobody() {
    let world = World::new();
    let instance = Instance::run(&world, &["-p", "8080:80", "-p", "8081:81"]);
    let inside = instance.guest.place();
    let _echo = Server::tcp_echo(inside.tcp_listener(([0, 0, 0, 0], 81)).unwrap());
    let listener: TcpListener = inside.tcp_listener(([0, 0, 0, 0], 80)).unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
    let mut held = Vec::new();
    for _ in 0..STALLED {
        let mut client = world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap();
        let server = listener.accept().unwrap().0;
        stuff(&mut client);
        held.push((client, server));
    }
    let start = Instant::now();
    others_go_on(&world, &instance);
    eprintln!("beside {STALLED} stalled clients: {:?}", start.elapsed());
    // What they had said is still there, every byte of it.
    for (client, mut server) in held.drain(..).take(20) {
        client.set_nonblocking(false).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut server, &mut all).unwrap();
        assert!(!all.is_empty() && all.iter().all(|b| *b == 7));
    }
    assert_eq!(instance.said(), "");
}
