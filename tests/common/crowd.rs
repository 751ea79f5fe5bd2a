//! Many connections through one port: all at once, and more than there are descriptors for.

use super::PATIENCE;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ringtap::lab::serve::fill_pattern;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Bytes that each connection carries there and back.
const EACH: usize = 20_000;

/// 5,000 connections that `connect` makes to `listener`, or as many as the limit of descriptors leaves: what each carries comes
/// to the other side and back, byte for byte, and no other's.
pub fn at_once(listener: TcpListener, connect: impl Fn() -> TcpStream) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    // Both ends are this process's; the limit is that of whoever is between them, too.
    let count = usize::try_from(hard / 3).unwrap().min(5000);
    let server = std::thread::spawn(move || -> Vec<TcpStream> {
        (0..count).map(|_| listener.accept().unwrap().0).collect()
    });
    let clients: Vec<_> = (0..count).map(|_| connect()).collect();
    let servers = server.join().unwrap();
    let mut bytes = vec![0; EACH];
    fill_pattern(0, &mut bytes);
    for (n, mut client) in clients.iter().enumerate() {
        client.write_all(&(n as u32).to_le_bytes()).unwrap();
        client.write_all(&bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    let mut seen = vec![false; count];
    for mut stream in servers {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let number = u32::from_le_bytes(all[..4].try_into().unwrap()) as usize;
        assert!(all[4..] == bytes[..] && !std::mem::replace(&mut seen[number], true));
        stream.write_all(&all).unwrap();
    }
    for (n, mut client) in clients.into_iter().enumerate() {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert!(all[..4] == (n as u32).to_le_bytes() && all[4..] == bytes[..]);
    }
    assert!(seen.iter().all(|s| *s));
}

/// 300 clients of an echo behind a port whose descriptors are for fewer: as many as `good` are served, the others reset, and
/// the port works again when they have left. `connect` gives nothing where a reset was quicker than connect(2).
pub fn beyond_the_limit(good: Range<usize>, connect: impl Fn() -> Option<TcpStream>) {
    let talks = |client: &mut TcpStream| client.write_all(b"x").and_then(|()| client.read_exact(&mut [0]));
    let mut clients: Vec<_> = (0..300).filter_map(|_| connect()).collect();
    let mut served = 0;
    for client in &mut clients {
        match talks(client) {
            Ok(()) => served += 1,
            Err(e) => {
                let reset = matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
                assert!(reset, "a client that is shed is reset: {e}");
            }
        }
    }
    assert!(good.contains(&served), "{served}");
    drop(clients);
    let end = Instant::now() + PATIENCE;
    while connect().is_none_or(|mut client| talks(&mut client).is_err()) {
        assert!(Instant::now() < end, "it does not recover");
        std::thread::sleep(Duration::from_millis(10));
    }
}
