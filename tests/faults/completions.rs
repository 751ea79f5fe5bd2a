//! More completions at once than their queue holds: the plane is stopped while thousands of things happen.

use crate::common::{ECHO, PATIENCE, SERVER, World};
use crate::{Instance, signal};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// The queue holds 512.
const FLOWS: usize = 2000;

/// Every connection gets what its server sends while the plane does not look, and then its end.
#[test]
fn nothing_is_lost_that_completes_beyond_the_queue() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let flows = FLOWS.min(usize::try_from(hard / 3).unwrap());
    let world = World::new();
    let instance = Instance::run(&world, &[]);
    let listener: TcpListener = world.lab.internet().tcp_listener((SERVER[0], ECHO + 1)).unwrap();
    let (guests, servers): (Vec<TcpStream>, Vec<TcpStream>) = (0..flows)
        .map(|_| {
            let guest = instance.guest.place().tcp_connect((SERVER[0], ECHO + 1)).unwrap();
            guest.set_read_timeout(Some(PATIENCE)).unwrap();
            (guest, listener.accept().unwrap().0)
        })
        .unzip();
    signal(instance.plane(), SIGSTOP);
    for (n, mut server) in servers.into_iter().enumerate() {
        server.write_all(&(n as u32).to_le_bytes()).unwrap();
        // With its end there are two completions for each.
    }
    signal(instance.plane(), SIGCONT);
    for (n, mut guest) in guests.into_iter().enumerate() {
        let mut all = Vec::new();
        guest.read_to_end(&mut all).unwrap();
        assert_eq!(all, (n as u32).to_le_bytes(), "{n}");
    }
    assert_eq!(instance.said(), "");
}
