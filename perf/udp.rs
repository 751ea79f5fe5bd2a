//! UDP throughput with 1400-byte datagrams, the sender paced at 1.2 times what arrives.
//!
//! The pace is found as [`ringtap::bench::pace`] tells. The sender is our own thread on a socket of the place, sending batches
//! by sendmmsg(2) on a schedule; the receiver counts what it gets.

use crate::Bench;
use crate::report::Report;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use ringtap::bench::pace::{BATCH, Due, Schedule, Search};
use ringtap::lab::{Place, addr};
use std::error::Error;
use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SIZE: usize = 1400;
const TRIAL: Duration = Duration::from_millis(400);
const PORT: u16 = 7001;

/// Takes each figure once, contenders in turn.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    for contender in bench.contenders() {
        let (guest, inner) = bench.guest(&contender, 1500)?;
        let place = inner.as_ref().unwrap_or(&guest).place();
        for (way, to_guest) in [("to server", false), ("to guest", true)] {
            let (from, to) = pair(place, bench.lab.internet(), to_guest)?;
            let seen = settle(&from, &to, Duration::from_secs(bench.options.seconds.into()))?;
            let row = format!("UDP {SIZE} B {way}");
            report.add(
                &format!("{row}, Gbit/s received"),
                contender.name(),
                seen.received * SIZE as f64 * 8.0 / 1e9,
            );
            report.add(
                &format!("{row}, % lost"),
                contender.name(),
                100.0 * (1.0 - seen.received / seen.sent),
            );
        }
    }
    Ok(())
}

/// Datagrams a second.
#[derive(Clone, Copy)]
pub struct Seen {
    /// Sent.
    pub sent: f64,
    /// Received.
    pub received: f64,
}

/// Sender and receiver, connected.
fn pair(
    client: Place<'_>,
    server: Place<'_>,
    to_guest: bool,
) -> Result<(UdpSocket, UdpSocket), Box<dyn Error>> {
    let at = SocketAddr::from((addr::SERVER_V4, PORT));
    let at_server = server.udp_socket(at)?;
    let at_client = client.udp_socket((IpAddr::from(Ipv4Addr::UNSPECIFIED), 0))?;
    at_client.connect(at)?;
    // The client speaks first, so that the way back exists.
    at_server.set_read_timeout(Some(Duration::from_secs(5)))?;
    at_client.send(b"hello")?;
    let (_, mapped) = at_server.recv_from(&mut [0; SIZE])?;
    at_server.connect(mapped)?;
    Ok(if to_guest { (at_server, at_client) } else { (at_client, at_server) })
}

/// What arrives at the pace that this module's text tells of.
pub fn settle(from: &UdpSocket, to: &UdpSocket, length: Duration) -> Result<Seen, Box<dyn Error>> {
    let mut search = Search::default();
    loop {
        let seen = trial(from, to, search.pace(), TRIAL)?;
        if search.seen(seen.sent, seen.received) {
            return trial(from, to, search.pace(), length);
        }
    }
}

fn trial(from: &UdpSocket, to: &UdpSocket, pace: f64, length: Duration) -> Result<Seen, Box<dyn Error>> {
    to.set_read_timeout(Some(Duration::from_millis(50)))?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(to, &over));
        let start = Instant::now();
        let sent = send(from, pace, length);
        let took = start.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        let received = receiver.join().map_err(|_| "the receiver panicked")?;
        Ok(Seen { sent: sent? as f64 / took, received: received as f64 / took })
    })
}

/// Sends at `pace` for `length`.
fn send(socket: &UdpSocket, pace: f64, length: Duration) -> Result<u64, Box<dyn Error>> {
    let payload = [0x5a; SIZE];
    let iov = [IoSlice::new(&payload)];
    let slices = [iov; BATCH];
    let nobody: [Option<SockaddrStorage>; BATCH] = [None; BATCH];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let (mut schedule, start) = (Schedule::default(), Instant::now());
    loop {
        let now = start.elapsed();
        if now >= length {
            return Ok(schedule.total());
        }
        if let Due::Wait(time) = schedule.due(now, pace) {
            std::thread::sleep(time);
            continue;
        }
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, nobody, [], MsgFlags::empty()) {
            Ok(results) => schedule.sent(results.count() as u64),
            // A full queue, or an error that an earlier datagram met.
            Err(nix::Error::ENOBUFS | nix::Error::EAGAIN | nix::Error::ECONNREFUSED | nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Counts datagrams until `over` and then until none has come for a while.
fn receive(socket: &UdpSocket, over: &AtomicBool) -> u64 {
    let mut datagram = [0; SIZE + 8];
    let mut received = 0;
    loop {
        match socket.recv(&mut datagram) {
            Ok(n) => received += u64::from(n == SIZE),
            Err(e) if e.kind() == ErrorKind::WouldBlock && over.load(Ordering::Relaxed) => return received,
            Err(_) => {}
        }
    }
}
