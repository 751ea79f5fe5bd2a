//! TCP from end to end under loss and abuse: real kernels at both ends of the program under test, every byte checked.
//!
//! What the unit tests and the simulator show of the engine, these show of the whole: rings, sockets, descriptors,
//! processes. Sizes are for a debug build on two cores.

#[path = "../common/mod.rs"]
mod common;

mod crowd;
mod ends;
mod faulty;
mod limit;
mod messages;
mod stalled;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ringtap::lab::Guest;
use ringtap::lab::serve::{judge, send_pattern};
use std::net::{Shutdown, TcpStream};
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

/// Memory of all these processes, shared pages by their share, in KiB.
fn memory_kib(guest: &Guest) -> u64 {
    let pss = |pid| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
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

/// Of `wanted` connections with both ends in this process, as many as its descriptor limit allows beside other tests.
fn room_for(wanted: usize) -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let allowed = usize::try_from(hard).unwrap_or(usize::MAX).saturating_sub(1024) / 4;
    assert!(allowed >= 500, "these tests need a descriptor limit (ulimit -Hn) of 3100 at least, not {hard}");
    wanted.min(allowed)
}
