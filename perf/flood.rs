//! What a guest that floods does to others: requests through a published port beside it, against those beside a guest that
//! burns as much of the processor without a packet; round trips of another flow of its own; and the plane's memory.

use crate::Bench;
use crate::report::Report;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringtap::bench::cost::resident;
use ringtap::bench::wrk::{Wrk, nginx};
use ringtap::lab::flood::{Flood, Kind};
use ringtap::lab::{Guest, Server, addr};
use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PORT: u16 = 5390;
const ECHO: u16 = 7008;
const PATIENCE: Duration = Duration::from_secs(20);
/// As in tests/faults/flood.rs, MiB: all buffers, and tables.
const MEMORY: f64 = 100.0;

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Syn => "SYNs",
        Kind::Udp => "UDP to a million ports",
        Kind::Fragments => "fragments",
        Kind::Arp => "ARP",
        Kind::Ndp => "NDP",
    }
}

/// Takes each figure once, burning and flooding in turn.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    for kind in Kind::ALL {
        let burning = take(bench, kind, false)?;
        let flooding = take(bench, kind, true)?;
        let name = name(kind);
        report.add("requests beside a guest that burns CPU, thousand/s", "ringtap", burning.requests / 1e3);
        report.add(
            &format!("requests beside a flood of {name}, thousand/s"),
            "ringtap",
            flooding.requests / 1e3,
        );
        report.add(
            &format!("requests beside a flood of {name}, share of that beside burning"),
            "ringtap",
            flooding.requests / burning.requests,
        );
        report.add(
            &format!("frames taken of a flood of {name}, thousand/s"),
            "ringtap",
            flooding.frames / 1e3,
        );
        report.add(
            &format!("round trips of another flow beside a flood of {name}, 1/s"),
            "ringtap",
            flooding.trips,
        );
        report.add(&format!("memory in a flood of {name}, MiB"), "ringtap", flooding.memory);
    }
    Ok(())
}

/// The bars of these figures.
pub fn bars(bench: &Bench, report: &mut Report) {
    let once = 1.0 / f64::from(bench.options.seconds);
    for name in Kind::ALL.map(name) {
        for (row, bound, at_most) in [
            (format!("requests beside a flood of {name}, share of that beside burning"), 0.7, false),
            (format!("round trips of another flow beside a flood of {name}, 1/s"), once, false),
            (format!("memory in a flood of {name}, MiB"), MEMORY, true),
        ] {
            if let Some(seen) = report.median(&row, "ringtap") {
                report.bar(&row, seen, bound, at_most);
            }
        }
    }
}

struct Taken {
    requests: f64,
    frames: f64,
    trips: f64,
    memory: f64,
}

/// With packets, or with all the work for them but that they are not sent.
fn take(bench: &Bench, kind: Kind, sent: bool) -> Result<Taken, Box<dyn Error>> {
    let mut command = bench.lab.host().command_as_user(&bench.ringtap.to_string_lossy())?;
    command.args(["run"]).args(&bench.options.with);
    command.args([
        "-p",
        &format!("127.0.0.1:{PORT}:{PORT}"),
        "--",
        "sh",
        "-c",
        "echo ready; exec sleep infinity",
    ]);
    let mut running = bench.lab.host().spawn(command.stdout(Stdio::piped()))?;
    running.first_byte(PATIENCE)?;
    let mut guest: Guest = bench.lab.guest_below(running, "sleep", PATIENCE)?;
    let _nginx = nginx(&bench.lab, guest.place(), PORT)?;
    let echo = SocketAddr::new(addr::SERVER_V4.into(), ECHO);
    let _echo = Server::tcp_echo(bench.lab.internet().tcp_listener(echo)?)?;
    let mut other: TcpStream = guest.place().tcp_connect(echo)?;
    other.set_read_timeout(Some(Duration::from_secs(1)))?;
    let flood = sent.then(|| Flood::start(guest.place(), "tap0", kind)).transpose()?;
    let (stop, trips) = (AtomicBool::new(false), AtomicU64::new(0));
    let memory = std::thread::scope(|scope| -> Result<_, Box<dyn Error>> {
        if !sent {
            scope.spawn(|| {
                for n in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    std::hint::black_box(kind.frame([2; 6], n).is_ok());
                }
            });
        }
        // Ten questions a second: it is to get on, and to take little.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if other.write_all(&[1]).is_ok() && other.read_exact(&mut [0]).is_ok() {
                    trips.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let watch = scope.spawn(|| {
            let mut most = 0f64;
            while !stop.load(Ordering::Relaxed) {
                most = most.max(resident(&guest.processes()));
                std::thread::sleep(Duration::from_millis(50));
            }
            most
        });
        let url = format!("http://{}:{PORT}/", Ipv4Addr::LOCALHOST);
        let sent = || flood.as_ref().map_or(0, Flood::sent);
        let before = sent();
        let seen = Wrk::run(bench.lab.host(), &url, bench.options.seconds, 16, None).map(|w| w.rate);
        let frames = (sent() - before) as f64;
        stop.store(true, Ordering::Relaxed);
        let memory = watch.join().map_err(|_| "the watch of memory panicked")?;
        Ok((seen?, frames, memory))
    });
    let (requests, frames, memory) = memory?;
    drop(flood);
    // In order: the next one wants the port, which a killed one's ring keeps until thousands of sockets are closed.
    if let Some(ringtap) = guest.running().first_mut() {
        kill(Pid::from_raw(ringtap.pid().cast_signed()), Signal::SIGTERM)?;
        ringtap.child().wait()?;
    }
    let seconds = f64::from(bench.options.seconds);
    Ok(Taken {
        requests,
        frames: frames / seconds,
        trips: trips.load(Ordering::Relaxed) as f64 / seconds,
        memory,
    })
}
