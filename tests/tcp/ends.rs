//! How connections end: each direction by itself, both at once, by a reset, by the death of a program; and that the other
//! side learns of it soon.

use crate::common::{SERVER, World, need};
use crate::{descriptors, falls_to};
use ringtap::lab::Server;
use ringtap::lab::serve::{judge, send_pattern};
use socket2::SockRef;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PORT: u16 = 9100;
/// The other side knows within this time.
const SOON: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

fn abort(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Writes until that fails.
fn write_on(stream: &mut TcpStream) -> ErrorKind {
    loop {
        if let Err(e) = stream.write_all(&[7; 10_000]) {
            return e.kind();
        }
    }
}

#[test]
fn the_server_goes_on_after_the_guest_has_ended() {
    let world = World::new();
    let guest = world.guest();
    for server in SERVER {
        let listener = world.lab.internet().tcp_listener((server, PORT)).unwrap();
        let (told, heard) = channel();
        let _server = Server::tcp(listener, move |mut stream, _| {
            let mut all = String::new();
            stream.read_to_string(&mut all)?;
            let _ = told.send((all, Instant::now()));
            // Half closed and quiet is not over.
            std::thread::sleep(Duration::from_secs(1));
            send_pattern(&mut stream, 8 << 20)
        });
        let mut stream = guest.place().tcp_connect((server, PORT)).unwrap();
        stream.write_all(b"the question").unwrap();
        let ended = Instant::now();
        stream.shutdown(Shutdown::Write).unwrap();
        let (question, at) = heard.recv_timeout(PATIENCE).unwrap();
        assert_eq!(question, "the question");
        assert!(at - ended < SOON, "the end took {:?}", at - ended);
        assert_eq!(judge(&mut stream).unwrap(), format!("{} bytes sound\n", 8 << 20), "{server}");
    }
}

#[test]
fn both_end_at_once() {
    let world = World::new();
    let guest = world.guest();
    let listener = world.lab.internet().tcp_listener((SERVER[0], PORT)).unwrap();
    let before = descriptors(&guest);
    for _ in 0..20 {
        let mut near = guest.place().tcp_connect((SERVER[0], PORT)).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let far = std::thread::spawn(move || {
            far.shutdown(Shutdown::Write).unwrap();
            far.read(&mut [0]).unwrap()
        });
        near.shutdown(Shutdown::Write).unwrap();
        assert_eq!((near.read(&mut [0]).unwrap(), far.join().unwrap()), (0, 0));
    }
    falls_to(&before, PATIENCE, || descriptors(&guest)).unwrap();
}

#[test]
fn a_reset_by_the_server_reaches_a_guest_that_writes() {
    let world = World::new();
    let guest = world.guest();
    for server in SERVER {
        let listener = world.lab.internet().tcp_listener((server, PORT)).unwrap();
        let mut near = guest.place().tcp_connect((server, PORT)).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let writer = std::thread::spawn(move || (write_on(&mut near), Instant::now()));
        far.read_exact(&mut vec![0; 1 << 20]).unwrap();
        let reset = Instant::now();
        abort(far);
        let (kind, at) = writer.join().unwrap();
        assert_eq!(kind, ErrorKind::ConnectionReset, "{server}");
        assert!(at - reset < SOON, "the reset took {:?}", at - reset);
    }
}

#[test]
fn a_reset_by_the_server_reaches_a_guest_that_waits() {
    let world = World::new();
    let guest = world.guest();
    for server in SERVER {
        let listener = world.lab.internet().tcp_listener((server, PORT)).unwrap();
        let mut near = guest.place().tcp_connect((server, PORT)).unwrap();
        near.set_read_timeout(Some(SOON)).unwrap();
        abort(listener.accept().unwrap().0);
        assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "{server}");
    }
}

#[test]
fn a_reset_by_the_guest_reaches_a_server_that_writes_and_one_that_waits() {
    let world = World::new();
    let guest = world.guest();
    for server in SERVER {
        let listener = world.lab.internet().tcp_listener((server, PORT)).unwrap();
        let mut near = guest.place().tcp_connect((server, PORT)).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let writer = std::thread::spawn(move || (write_on(&mut far), Instant::now()));
        near.read_exact(&mut vec![0; 1 << 20]).unwrap();
        let reset = Instant::now();
        abort(near);
        let (kind, at) = writer.join().unwrap();
        assert_eq!(kind, ErrorKind::ConnectionReset, "{server}");
        assert!(at - reset < SOON, "the reset took {:?}", at - reset);

        let near = guest.place().tcp_connect((server, PORT)).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(SOON)).unwrap();
        abort(near);
        assert_eq!(far.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "{server}");
    }
}

/// A server that reads and writes at once, as a program of the guest wants it, and says when the stream is over.
fn tireless(world: &World) -> (Server, Receiver<()>, Receiver<io::Result<()>>) {
    let listener = world.lab.internet().tcp_listener((SERVER[0], PORT)).unwrap();
    let (busy, at_work) = channel();
    let (told, over) = channel();
    let server = Server::tcp(listener, move |mut stream, _| {
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let mut moved = 0;
        let mut bytes = vec![0; 64 << 10];
        if &head == b"GET " {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")?;
        }
        let result = loop {
            let step = match &head {
                b"GET " => stream.write_all(&bytes).map(|()| bytes.len()),
                _ => stream.read(&mut bytes),
            };
            match step {
                Ok(0) => break Ok(()),
                Ok(n) if moved < 1 << 20 && moved + n >= 1 << 20 => {
                    moved += n;
                    let _ = busy.send(());
                }
                Ok(n) => moved += n,
                Err(e) => break Err(e),
            }
        };
        let _ = told.send(result);
        Ok(())
    });
    (server.unwrap(), at_work, over)
}

#[test]
fn a_killed_program_leaves_nothing_behind() {
    need("curl");
    let world = World::new();
    let guest = world.guest();
    let (_server, at_work, over) = tireless(&world);
    let before = descriptors(&guest);
    let url = format!("http://{}:{PORT}/", SERVER[0]);
    for args in [&["-sS", "-T", "-", "-H", "Expect:"][..], &["-sS", "-o", "/dev/null"]] {
        let mut curl = guest.place().command("curl").unwrap();
        curl.args(args).arg(&url).stdin(File::open("/dev/zero").unwrap()).stderr(Stdio::null());
        let running = guest.place().spawn(&mut curl).unwrap();
        at_work.recv_timeout(PATIENCE).unwrap();
        // Killed, with data under way.
        drop(running);
        let end = over.recv_timeout(PATIENCE).expect("the server was not told of the end");
        if args.contains(&"-T") {
            assert!(end.is_ok() || is_reset(&end), "{end:?}");
        } else {
            assert!(is_reset(&end), "{end:?}");
        }
    }
    falls_to(&before, PATIENCE, || descriptors(&guest)).unwrap();
}

fn is_reset(end: &io::Result<()>) -> bool {
    end.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
}
