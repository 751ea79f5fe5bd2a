//! SIGSTOP of one process while the others go on, and its end while it is stopped.

use crate::common::{ECHO, HOST, PATIENCE, SERVER, World, sh};
use crate::{Instance, answers, echo, eventually, signal};
use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};
use ringtap::lab::Server;
use ringtap::lab::serve::{judge, send_pattern};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Frames that the tap's queue holds are fewer.
const FLOOD: usize = 5000;

fn dropped(instance: &Instance) -> u64 {
    let text = sh(instance.guest.place(), "ip -s -s link show tap0 | sed -n '/TX:/{n;p;q}'").ok();
    text.split_whitespace().nth(3).unwrap().parse().unwrap()
}

/// With the plane stopped the tap's queue fills, and what does not fit is lost, as on any link. Streams make up for it.
#[test]
fn a_stopped_plane_costs_what_its_queue_cannot_hold_and_streams_lose_nothing() {
    const BYTES: u64 = 64 << 20;
    let world = World::new();
    let instance = Instance::run(&world, &[]);
    let mut stream = instance.guest.place().tcp_connect((SERVER[0], ECHO)).unwrap();
    let mut to = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        send_pattern(&mut to, BYTES).unwrap();
        to.shutdown(Shutdown::Write).unwrap();
    });
    let reader = std::thread::spawn(move || judge(&mut stream).unwrap());
    let datagrams = instance.guest.place().udp_socket(([0, 0, 0, 0], 0)).unwrap();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(30));
        let before = dropped(&instance);
        signal(instance.plane(), SIGSTOP);
        for _ in 0..FLOOD {
            // A full queue may show as an error.
            let _ = datagrams.send_to(&[0; 100], (SERVER[0], 9));
        }
        assert!(dropped(&instance) > before, "the queue was full");
        signal(instance.plane(), SIGCONT);
    }
    sender.join().unwrap();
    assert_eq!(reader.join().unwrap(), format!("{BYTES} bytes sound\n"));
    assert!(echo(&instance.guest).is_some());
    assert_eq!(instance.said(), "");
}

/// The end of a connection and the beginning of another are found in one batch when the plane goes on: the place of the one is the
/// other's, and its socket must have been closed by then.
#[test]
fn who_is_reset_while_the_next_client_comes_hears_of_it() {
    let world = World::new();
    let instance = Instance::run(&world, &["--via", "tap", "-p", "8080:80"]);
    let listener = instance.guest.place().tcp_listener(([0, 0, 0, 0], 80)).unwrap();
    let connect = || {
        let client = world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client
    };
    let carries = |mut client: &TcpStream, mut server: &TcpStream| {
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
    };
    let plane = instance.plane();
    let mut client = connect();
    for n in 0..10 {
        let server = listener.accept().unwrap().0;
        carries(&client, &server);
        signal(plane, SIGSTOP);
        socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        drop(server);
        let next = connect();
        signal(plane, SIGCONT);
        let ended = client.read(&mut [0]).map_err(|e| e.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "client {n}");
        client = next;
    }
    assert_eq!((instance.plane(), instance.said()), (plane, String::new()));
}

#[test]
fn a_stopped_control_holds_up_no_traffic() {
    let world = World::new();
    let instance = Instance::run(&world, &["-p", "8080:80"]);
    let _server = Server::tcp_echo(instance.guest.place().tcp_listener(([0, 0, 0, 0], 80)).unwrap());
    let open = echo(&instance.guest).unwrap();
    let ask = || {
        let client = world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(answers(&client));
    };
    // COMMAND may run before control has told the plane what the namespace can do, which is when ports begin to be served.
    ask();
    signal(instance.control, SIGSTOP);
    assert!(answers(&open) && echo(&instance.guest).is_some());
    // More clients than sockets are kept ahead: plane and factory get along without control.
    (0..100).for_each(|_| ask());
    sh(instance.guest.place(), "curl -sS --max-time 20 http://server.test/peer").ok();
    signal(instance.control, SIGCONT);
    let sock = instance.state.join("api.sock");
    let ask = format!("curl -sS --max-time 20 --unix-socket {} http://x/v1/info", sock.display());
    sh(world.lab.host(), &ask).ok();
    assert_eq!(instance.said(), "");
}

/// The child makes the sockets that clients are led to: without it they wait, and nobody else does.
#[test]
fn clients_wait_for_a_stopped_child_and_are_served_when_it_goes_on() {
    const CLIENTS: usize = 300;
    let world = World::new();
    let instance = Instance::run(&world, &["-p", "8080:80"]);
    let _server = Server::tcp_echo(instance.guest.place().tcp_listener(([0, 0, 0, 0], 80)).unwrap());
    signal(instance.child(), SIGSTOP);
    let clients: Vec<TcpStream> =
        (0..CLIENTS).map(|_| world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap()).collect();
    assert!(echo(&instance.guest).is_some(), "the guest's own connections");
    signal(instance.child(), SIGCONT);
    for client in &clients {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(answers(client));
    }
    assert_eq!(instance.said(), "");
}

#[test]
fn whoever_is_stopped_ends_with_control() {
    let world = World::new();
    for end in [SIGKILL, SIGTERM] {
        for stop_child in [true, false] {
            // SIGTERM is for COMMAND, and reaches it by the child.
            if end == SIGTERM && stop_child {
                continue;
            }
            // With a capture the plane is asked to end, and given some time to finish it.
            let capture = world.lab.dir().join("user-run/capture").display().to_string();
            for options in [&[][..], &["--pcap", &capture]] {
                let mut instance = Instance::run(&world, options);
                let stopped = if stop_child { instance.child() } else { instance.plane() };
                signal(stopped, SIGSTOP);
                signal(instance.control, end);
                let status = instance.running().child().wait().unwrap();
                // What it leaves when it is killed is for the next start.
                assert!(
                    end == SIGKILL || (status.code() == Some(143) && !instance.state.exists()),
                    "{status}"
                );
                eventually("the end of the stopped process", || {
                    !std::path::Path::new(&format!("/proc/{stopped}")).exists()
                });
            }
        }
    }
}
