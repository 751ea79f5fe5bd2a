//! Many connections whose reader has stopped, each of them with more to say than there is room for: clients of a port whose
//! server does not read, relayed or by the tap, and downloads that the guest's programs do not read. They bring nobody else to a
//! standstill, neither clients of ports nor the guest's own connections and datagrams.

use crate::common::{HOST, PATIENCE, SERVER, World, both_ways};
use crate::{Instance, answers, echo};
use ringtap::lab::Server;
use ringtap::lab::serve::judge;
use std::io::{ErrorKind, Read, Write};
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

/// Requests, bulk, new connections and datagrams pass beside those that are stalled, by the port and by the tap.
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
    let asker = instance.guest.place().udp_socket(([0, 0, 0, 0], 0)).unwrap();
    asker.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut back = [0; 1200];
    for _ in 0..10 {
        asker.send_to(&[5; 1200], (SERVER[0], crate::ECHO)).unwrap();
        assert_eq!(asker.recv(&mut back).unwrap(), 1200, "datagrams");
    }
}

/// Clients of port 80 inside, which nobody reads from, and then the others.
fn beside_clients_of_a_server_that_does_not_read(options: &[&str]) {
    let world = World::new();
    let _echo = Server::udp_echo(world.lab.internet().udp_socket((SERVER[0], crate::ECHO)).unwrap());
    let instance = Instance::run(&world, options);
    let inside = instance.guest.place();
    let _echo_inside = Server::tcp_echo(inside.tcp_listener(([0, 0, 0, 0], 81)).unwrap());
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
        server.read_to_end(&mut all).unwrap();
        assert!(!all.is_empty() && all.iter().all(|b| *b == 7));
    }
    assert_eq!(instance.said(), "");
}

#[test]
fn clients_whose_server_does_not_read_starve_nobody() {
    beside_clients_of_a_server_that_does_not_read(&["-p", "8080:80", "-p", "8081:81"]);
}

#[test]
fn clients_whose_server_does_not_read_starve_nobody_by_the_tap_either() {
    beside_clients_of_a_server_that_does_not_read(&["--via", "tap", "-p", "8080:80", "-p", "8081:81"]);
}

/// Bytes of each download that nobody reads at first.
const DOWNLOAD: u64 = 4 << 20;

#[test]
fn downloads_that_nobody_reads_starve_nobody() {
    let world = World::new();
    let instance = Instance::run(&world, &["-p", "8080:80", "-p", "8081:81"]);
    let inside = instance.guest.place();
    let _echo = Server::udp_echo(world.lab.internet().udp_socket((SERVER[0], crate::ECHO)).unwrap());
    let _echo_inside = Server::tcp_echo(inside.tcp_listener(([0, 0, 0, 0], 81)).unwrap());
    let source = world.lab.internet().tcp_listener((SERVER[0], 9000)).unwrap();
    let _source = Server::tcp_source(source, DOWNLOAD).unwrap();
    let mut held: Vec<TcpStream> =
        (0..STALLED).map(|_| inside.tcp_connect((SERVER[0], 9000)).unwrap()).collect();
    // Until each has filled what it may.
    std::thread::sleep(Duration::from_secs(2));
    let start = Instant::now();
    others_go_on(&world, &instance);
    eprintln!("beside {STALLED} downloads that nobody reads: {:?}", start.elapsed());
    // Read after all they are whole, the first as well as the last, which has got nothing so far.
    for stream in held.iter_mut().take(5) {
        whole(stream);
    }
    for stream in held.iter_mut().rev().take(5) {
        whole(stream);
    }
    assert_eq!(instance.said(), "");
}

fn whole(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(judge(stream).unwrap(), format!("{DOWNLOAD} bytes sound\n"));
}

/// All of them are armed for large buffers when there is no more room in the guest, and then each has something: they take every
/// buffer that there is. Who was open before, and has the room, receives all the same, though it says nothing itself.
#[test]
fn downloads_that_take_every_buffer_at_once_leave_open_connections_theirs() {
    let world = World::new();
    let instance = Instance::run(&world, &[]);
    let inside = instance.guest.place();
    let source = world.lab.internet().tcp_listener((SERVER[0], 9000)).unwrap();
    let connect = || {
        let near = inside.tcp_connect((SERVER[0], 9000)).unwrap();
        near.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (near, source.accept().unwrap().0)
    };
    let (mut near, mut far) = connect();
    inside.sysctl("net/ipv4/tcp_rmem", "4096 4096 4096").unwrap();
    let mut held: Vec<_> = (0..STALLED).map(|_| connect()).collect();
    // More than the guest takes; the rest is short.
    for (_, server) in &mut held {
        server.write_all(&[7; 4096]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    for (_, server) in &mut held {
        server.set_nonblocking(true).unwrap();
        let taken = server.write(&[7; 256 << 10]).unwrap();
        assert!(taken >= 64 << 10, "its own kernel took {taken} bytes, less than a large buffer holds");
    }
    let host = || crate::stats(&instance)["buffers"]["host"].clone();
    crate::eventually("every buffer is held", || host()["held"] == host()["total"]);
    for n in 0..100 {
        far.write_all(&[n; 1000]).unwrap();
        let mut came = [0; 1000];
        near.read_exact(&mut came).unwrap();
        assert_eq!(came, [n; 1000]);
    }
    assert_eq!(instance.said(), "");
}
