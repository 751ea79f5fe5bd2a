//! Many connections: what an idle one costs, and that nothing is left of those that ended, however they did.

use crate::common::{SERVER, World, need, size};
use crate::{descriptors, falls_to, memory_kib, nothing_is_left, room_for};
use nix::sys::socket::{setsockopt, sockopt};
use ringtap::lab::{Guest, Running, Server};
use socket2::SockRef;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PORT: u16 = 9200;
const PATIENCE: Duration = Duration::from_secs(20);

fn talk(from: &mut TcpStream, to: &mut TcpStream, n: usize) {
    let sent = n.to_be_bytes();
    from.write_all(&sent).unwrap();
    let mut got = [0; size_of::<usize>()];
    to.read_exact(&mut got).unwrap();
    assert_eq!(got, sent);
}

#[test]
fn idle_connections_cost_little_and_work_afterwards() {
    let world = World::new();
    let guest = world.guest();
    let count = room_for(2000, 2);
    let listener = world.lab.internet().tcp_listener((SERVER[0], PORT)).unwrap();
    let pair = |n| {
        let mut near = guest.place().tcp_connect((SERVER[0], PORT)).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        talk(&mut near, &mut far, n);
        talk(&mut far, &mut near, n);
        (near, far)
    };
    let first = pair(0);
    let before = memory_kib(&guest);
    let mut idle: Vec<_> = (0..count).map(pair).collect();
    // Buffers that the handshakes passed through go back ten seconds after the last of them.
    let most = before + 2 * count as u64;
    falls_to(&most, PATIENCE, || memory_kib(&guest))
        .unwrap_or_else(|kib| panic!("{count} idle connections: from {before} to {kib} KiB"));
    for (n, (near, far)) in idle.iter_mut().enumerate() {
        talk(far, near, n);
        talk(near, far, n);
    }
    drop(first);
}

/// The ways of [`near`] and [`far`] to end.
const WAYS: u8 = 9;

/// The guest's part of a connection that ends in the given way; what it saw, if that was wrong.
fn near(guest: &Guest, way: u8) -> Result<(), String> {
    let text = |e: io::Error| format!("guest, way {way}: {e}");
    let mut stream =
        guest.place().tcp_connect((SERVER[usize::from(way) % 2], PORT)).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    stream.write_all(&[way]).map_err(text)?;
    let mut all = Vec::new();
    match way {
        // Ends first, by a FIN.
        0 => stream
            .shutdown(Shutdown::Write)
            .and_then(|()| stream.read_to_end(&mut all))
            .map_err(text)
            .map(drop),
        // The server ends first.
        1 => stream.read_to_end(&mut all).map_err(text).map(drop),
        // Resets.
        2 => SockRef::from(&stream).set_linger(Some(Duration::ZERO)).map_err(text),
        // The server resets, in 7 because bytes are left.
        3 | 7 => {
            if way == 7 {
                // It may be too late already.
                let _ = stream.write_all(&[0; 2000]);
            }
            match stream.read_to_end(&mut all) {
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
                other => Err(format!("guest, way {way}: no reset but {other:?}")),
            }
        }
        // Ends its direction and then listens.
        4 => match stream
            .shutdown(Shutdown::Write)
            .and_then(|()| stream.read_to_end(&mut all))
            .map_err(text)?
        {
            1000 => Ok(()),
            n => Err(format!("guest, way {way}: {n} bytes")),
        },
        // Hears the end and then speaks.
        5 => stream.read_to_end(&mut all).and_then(|_| stream.write_all(&[5; 1000])).map_err(text),
        // Goes away with bytes unread, and at once.
        6 => stream.read_exact(&mut [0]).map_err(text),
        _ => Ok(()),
    }
}

/// The server's part.
fn far(mut stream: TcpStream) -> Result<(), String> {
    let text = |e: io::Error| format!("server: {e}");
    stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    let mut way = [0];
    // The guest's reset may overtake its byte.
    if stream.read_exact(&mut way).is_err() {
        return Ok(());
    }
    let mut rest = Vec::new();
    match way[0] {
        0 => stream.read_to_end(&mut rest).map_err(text).map(drop),
        1 => Ok(()),
        3 => SockRef::from(&stream).set_linger(Some(Duration::ZERO)).map_err(text),
        4 => stream.read_to_end(&mut rest).and_then(|_| stream.write_all(&[4; 1000])).map_err(text),
        5 => match stream
            .shutdown(Shutdown::Write)
            .and_then(|()| stream.read_to_end(&mut rest))
            .map_err(text)?
        {
            1000 => Ok(()),
            n => Err(format!("server, way 5: {n} bytes")),
        },
        7 => {
            // Until some of it is there, and is then left unread.
            stream.peek(&mut [0]).map_err(text).map(drop)
        }
        way => {
            if way != 2 {
                let _ = stream.write_all(&[6; 300_000]);
            }
            match stream.read_to_end(&mut rest) {
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
                // The write has taken the error already.
                Ok(0) if way != 2 => Ok(()),
                other => Err(format!("server, way {way}: no reset but {other:?}")),
            }
        }
    }
}

#[test]
fn nothing_is_left_of_connections_that_ended_in_every_way() {
    const WORKERS: usize = 16;
    let world = World::new();
    let guest = world.guest();
    let count = usize::try_from(size(2000, 10_000)).unwrap();
    let wrong = Arc::new(Mutex::new(Vec::new()));
    let _servers = SERVER.map(|at| {
        let listener = world.lab.internet().tcp_listener((at, PORT)).unwrap();
        let wrong = wrong.clone();
        Server::tcp(listener, move |stream, _| {
            far(stream).map_err(|text| {
                wrong.lock().unwrap().push(text);
                ErrorKind::Other.into()
            })
        })
        .unwrap()
    });
    let before = descriptors(&guest);
    let (guest, told) = (&guest, &wrong);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || {
                for n in (worker..count).step_by(WORKERS) {
                    let way = u8::try_from(n % usize::from(WAYS)).unwrap();
                    if let Err(text) = near(guest, way) {
                        told.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    let ended = Instant::now();
    nothing_is_left(&world, guest, before, PATIENCE);
    eprintln!("{count} connections: nothing left {:?} after the last", ended.elapsed());
    let wrong = wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{} of {count}: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
}

/// A program of the guest that holds so many connections to [`SERVER`] and does nothing else.
fn holder(guest: &Guest, count: usize) -> Running {
    need("bash");
    let mut shell = guest.place().command("bash").unwrap();
    let script = "for ((i = 0; i < $1; i++)); do exec {fd}<>/dev/tcp/$2/$3; done; echo; exec sleep infinity";
    shell.args(["-ec", script, "holder"]).args([
        &count.to_string(),
        &SERVER[0].to_string(),
        &PORT.to_string(),
    ]);
    let mut running = guest.place().spawn(shell.stdout(Stdio::piped())).unwrap();
    let out = running.child().stdout.as_mut().unwrap();
    assert_eq!(out.read(&mut [0]).unwrap(), 1, "it could not connect");
    running
}

#[test]
fn nothing_is_left_of_a_program_that_is_killed_with_all_its_connections() {
    let world = World::new();
    let guest = world.guest();
    let count = room_for(size(2000, 10_000), 1);
    let listener = world.lab.internet().tcp_listener((SERVER[0], PORT)).unwrap();
    let before = descriptors(&guest);
    // Their kernel forgets some without a word, as one does that is stopped and started again.
    let (lost, lost_far): (Vec<_>, Vec<_>) = (0..100)
        .map(|n| {
            let mut near = guest.place().tcp_connect((SERVER[0], PORT)).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            talk(&mut near, &mut far, n);
            (near, far)
        })
        .unzip();
    for near in lost {
        setsockopt(&near, sockopt::TcpRepair, &1).unwrap();
    }
    let accepting = std::thread::spawn(move || {
        let mut all: Vec<_> = (0..count).map(|_| listener.accept().unwrap().0).collect();
        // Half end by a FIN, half by a reset, for bytes are left unread.
        all.iter_mut().step_by(2).for_each(|stream| stream.write_all(&[0; 10]).unwrap());
        all
    });
    let program = holder(&guest, count);
    let mut all = accepting.join().unwrap();
    falls_to(&0, PATIENCE, || crate::flows_and_buffers(&world, &guest).1).unwrap();
    // Of the forgotten ones some have ended: the program got their ports again, and its SYN found them out.
    let open = descriptors(&guest);
    assert!(open >= count, "{open} descriptors with {count} connections");
    // SIGKILL.
    let killed = Instant::now();
    drop(program);
    let told = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        match stream.read(&mut [0]) {
            Ok(0) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("not told of the end but {other:?}"),
        }
    };
    // The other side hears of it by each, and goes as well.
    for mut stream in all.drain(..).chain(lost_far) {
        told(&mut stream);
    }
    nothing_is_left(&world, &guest, before, PATIENCE);
    eprintln!("{count} connections of a killed program: nothing left after {:?}", killed.elapsed());
}
