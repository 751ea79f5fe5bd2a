//! TCP from end to end under loss and abuse: real kernels at both ends of the program under test, every byte checked.
//!
//! What the unit tests and the simulator show of the engine, these show of the whole: rings, sockets, descriptors,
//! processes. Sizes are for a debug build on two cores; those of the project's bars (ten thousand connections, a gibibyte)
//! come with `RINGTAP_TEST_FULL=1 cargo test --release --test tcp -- --test-threads=1`, and take some minutes.

#[path = "../common/mod.rs"]
mod common;

mod crowd;
mod ends;
mod faulty;
mod limit;
mod messages;
mod stalled;

use common::{World, full};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ringtap::lab::Guest;
use ringtap::lab::serve::{judge, send_pattern};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Sends the pattern to an echo server while reading it back.
fn both_ways(stream: &mut TcpStream, count: u64) {
    let mut to = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        send_pattern(&mut to, count).unwrap();
        to.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(judge(stream).unwrap(), format!("{count} bytes sound\n"));
    sender.join().unwrap();
}

/// The processes of the program under test.
fn processes(guest: &Guest) -> Vec<u32> {
    let ours =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "ringtap\n");
    let found: Vec<u32> = guest.processes().into_iter().filter(ours).collect();
    assert!(found.len() >= 2, "control and plane are not both there: {found:?}");
    found
}

/// Open descriptors of all these processes, but for control's watch of resolv.conf, which begins after a second.
fn descriptors(guest: &Guest) -> usize {
    let watch = |fd: &std::fs::DirEntry| {
        std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:inotify")
    };
    let count = |pid| {
        let path = format!("/proc/{pid}/fd");
        match std::fs::read_dir(&path) {
            Ok(all) => all.flatten().filter(|fd| !watch(fd)).count(),
            // The plane lets only root look at what it has open; how much that is, is the size (Linux 6.2).
            Err(_) => usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap(),
        }
    };
    processes(guest).into_iter().map(count).sum()
}

/// Memory of all these processes in KiB, pages that they share by their share, without those of files: the program's code
/// belongs to the instances of other tests as well, which come and go.
fn memory_kib(guest: &Guest) -> u64 {
    let pss = |pid| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let kib = |name| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        kib("Pss_Anon:") + kib("Pss_Shmem:")
    };
    processes(guest).into_iter().map(pss).sum()
}

/// Waits until `value` is at most `most`; the last value if it never was.
fn falls_to<T: PartialOrd>(most: &T, patience: Duration, value: impl Fn() -> T) -> Result<(), T> {
    let end = Instant::now() + patience;
    loop {
        let now = value();
        if now <= *most {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(now);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What `ringtap run` counts, asked on its `api.sock`: flows that are open, and buffers in use.
fn flows_and_buffers(world: &World, guest: &Guest) -> (u64, u64) {
    let dir = world.lab.dir().join("user-run/ringtap").join(guest.processes()[0].to_string());
    let mut stream = UnixStream::connect(dir.join("api.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
        .write_all(b"GET /ringtap/v1/counters HTTP/1.1\r\nHost: ringtap\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let said: serde_json::Value = serde_json::from_str(body).unwrap();
    let number = |name: &str| said[name].as_u64().unwrap();
    (number("flowsOpened") - number("flowsClosed"), number("buffersHeld"))
}

/// Waits until nothing is left of the connections: descriptors as many as before, no flow, no buffer.
fn nothing_is_left(world: &World, guest: &Guest, before: usize, patience: Duration) {
    falls_to(&before, patience, || descriptors(guest))
        .unwrap_or_else(|left| panic!("{left} descriptors are open after {patience:?}, {before} were"));
    falls_to(&(0, 0), patience, || flows_and_buffers(world, guest))
        .unwrap_or_else(|(flows, buffers)| panic!("{flows} flows and {buffers} buffers are left"));
}

/// Of `wanted` connections with so many ends in this process, as many as its descriptor limit allows beside another test;
/// at full size there is none.
fn room_for(wanted: u64, ends: u64) -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let tests = if full() { 1 } else { 2 };
    let allowed = hard.saturating_sub(1024) / (tests * ends);
    assert!(allowed >= 500, "these tests need a descriptor limit (ulimit -Hn) of 3100 at least, not {hard}");
    usize::try_from(wanted.min(allowed)).unwrap()
}
