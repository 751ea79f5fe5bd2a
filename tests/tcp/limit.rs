//! At the limit of descriptors: what is beyond is refused at once, what stands goes on, and the log says so once.

use crate::common::{ECHO, PATIENCE, SERVER, World};
use ringtap::lab::Guest;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The limit that the program runs with; it keeps 512 of them for itself.
const LIMIT: usize = 700;
const FLOWS: usize = LIMIT - 512;
const AT_ONCE: Duration = Duration::from_secs(1);

fn confined(world: &World, log: &Path) -> Guest {
    let mut command = world.lab.host().command_as_user("sh").unwrap();
    let script = format!("ulimit -n {LIMIT}; exec \"$0\" run -- sh -c 'exec sleep infinity'");
    command.args(["-ec", &script]).arg(world.lab.bin("ringtap")).stderr(File::create(log).unwrap());
    let running = world.lab.host().spawn(&mut command).unwrap();
    world.lab.guest_below(running, "sleep", PATIENCE).unwrap()
}

fn echoes(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"well?").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"well?");
}

#[test]
fn flows_beyond_the_limit_are_refused_and_the_rest_go_on() {
    let world = World::new();
    let log = world.lab.dir().join("log");
    let guest = confined(&world, &log);
    let dial = |n: usize| guest.place().tcp_connect_within((SERVER[n % 2], ECHO), Duration::from_secs(5));
    let mut open: Vec<TcpStream> = (0..FLOWS).map(|n| dial(n).unwrap()).collect();
    for n in 0..40 {
        let start = Instant::now();
        let error = dial(n).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(start.elapsed() < AT_ONCE, "refused after {:?}", start.elapsed());
    }
    open.iter_mut().for_each(echoes);
    let text = std::fs::read_to_string(&log).unwrap();
    let said = text.lines().filter(|l| l.contains("warning") && l.contains("refused")).count();
    assert_eq!(said, 1, "{text}");

    open.truncate(FLOWS / 2);
    let end = Instant::now() + Duration::from_secs(5);
    while open.len() < FLOWS {
        match dial(open.len()) {
            Ok(stream) => open.push(stream),
            Err(e) => assert!(Instant::now() < end, "with {} of {FLOWS} open: {e}", open.len()),
        }
    }
    open.iter_mut().for_each(echoes);
}
