//! Datagrams: at a pace one way, and round trips.
//!
//! A batch is so many operations in flight at once, submitted together. The sender waits by sleeping, which blocks its
//! runtime: nothing else runs there, and the runtime's timers are no finer than a millisecond.

use super::meter::{self, Phase};
use super::{DATAGRAM, Kind, Shared, Way};
use crate::bench::pace::{BATCH, Due, Schedule};
use nix::errno::Errno;
use socket2::SockRef;
use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as Plain};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio_uring::net::UdpSocket;

/// Receives in flight: several cost one entry into the kernel.
pub const READERS: usize = 4;
/// What the kernel is asked for; it gives what `net.core.rmem_max` allows.
const BUFFER: usize = 4 << 20;
/// An answer that takes longer is lost.
const LOST: Duration = Duration::from_millis(50);
/// Bytes of a datagram that is answered.
const SMALL: usize = 16;

/// A socket with large buffers, at `at`.
pub fn bind(at: SocketAddr) -> io::Result<Plain> {
    let plain = Plain::bind(at)?;
    let socket = SockRef::from(&plain);
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    Ok(plain)
}

fn towards(server: SocketAddr) -> io::Result<Plain> {
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let plain = bind(SocketAddr::new(any, 0))?;
    plain.connect(server)?;
    Ok(plain)
}

/// Errors that say nothing of this datagram: a full queue, or what an earlier one met.
fn passes(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOBUFS | Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EINTR)
    )
}

/// Sends at the pace that the meter tells, to whom `to` tells, until the load is over. Blocks the runtime while it sends.
pub async fn send(
    shared: Rc<Shared>,
    socket: Rc<UdpSocket>,
    to: Rc<Cell<Option<SocketAddr>>>,
) -> io::Result<()> {
    let mut datagram = vec![0x5a; DATAGRAM];
    datagram[0] = Kind::Sink.byte();
    let mut lanes = vec![datagram; BATCH];
    loop {
        let pace = shared.meter.pace();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        while pace > 0.0 && shared.meter.pace() == pace && shared.meter.phase() != Phase::Over {
            let Some(to) = to.get() else { break };
            if let Due::Wait(time) = schedule.due(start.elapsed(), pace) {
                std::thread::sleep(time);
                continue;
            }
            let under_way: Vec<_> = lanes
                .drain(..)
                .map(|bytes| {
                    let socket = socket.clone();
                    tokio_uring::spawn(async move { socket.send_to(bytes, to).await })
                })
                .collect();
            let mut sent = 0;
            for one in under_way {
                let (result, bytes) = one.await.map_err(io::Error::other)?;
                lanes.push(bytes);
                match result {
                    Ok(_) => sent += 1,
                    Err(e) if passes(&e) => {}
                    Err(e) => return Err(e),
                }
            }
            schedule.sent(sent as u64);
            meter::count(&shared.meter.datagrams_sent, sent);
        }
        if shared.meter.phase() == Phase::Over {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Datagrams at a pace, up or down.
pub fn one_way(shared: &Rc<Shared>, server: SocketAddr, way: Way) -> io::Result<()> {
    let plain = towards(server)?;
    let socket = Rc::new(UdpSocket::from_std(plain.try_clone()?));
    if way == Way::Up {
        let (shared2, to) = (shared.clone(), Rc::new(Cell::new(Some(server))));
        tokio_uring::spawn(async move {
            let ended = send(shared2.clone(), socket, to).await;
            shared2.note(ended);
        });
        return Ok(());
    }
    // The client speaks first, so that the way back exists, and again until something comes.
    let asking = shared.clone();
    tokio_uring::spawn(async move {
        while asking.meter.phase() != Phase::Over {
            let _ = plain.send(&[Kind::Give.byte()]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    for _ in 0..READERS {
        let (shared, socket) = (shared.clone(), socket.clone());
        tokio_uring::spawn(async move {
            let mut bytes = vec![0; DATAGRAM + 8];
            loop {
                let (received, back) = socket.read(bytes).await;
                bytes = back;
                // Shorter ones answer what we asked.
                if received.is_ok_and(|n| n == DATAGRAM) {
                    meter::count(&shared.meter.datagrams_received, 1);
                }
            }
        });
    }
    Ok(())
}

/// One client of [`round_trips`].
struct Trip {
    socket: Plain,
    sent: Cell<Instant>,
    number: Cell<u64>,
}

impl Trip {
    fn ask(&self) {
        let mut datagram = [Kind::Echo.byte(); SMALL];
        datagram[8..].copy_from_slice(&self.number.get().to_le_bytes());
        self.sent.set(Instant::now());
        // One that does not leave is asked again, as one that is lost.
        let _ = self.socket.send(&datagram);
    }

    fn is_answered_by(&self, datagram: &[u8]) -> bool {
        datagram.len() == SMALL && datagram[8..] == self.number.get().to_le_bytes()
    }
}

/// Round trips. What is lost is asked again, and does not count as a latency.
pub fn round_trips(shared: &Rc<Shared>, server: SocketAddr, clients: u32) -> io::Result<()> {
    let mut trips = Vec::new();
    for _ in 0..clients {
        let socket = towards(server)?;
        let reader = UdpSocket::from_std(socket.try_clone()?);
        let now = Cell::new(Instant::now());
        let trip = Rc::new(Trip { socket, sent: now, number: Cell::new(0) });
        trips.push(trip.clone());
        let shared = shared.clone();
        tokio_uring::spawn(async move {
            trip.ask();
            let mut bytes = vec![0; 64];
            while shared.meter.phase() != Phase::Over {
                let (received, back) = reader.read(bytes).await;
                bytes = back;
                let Ok(n) = received else { continue };
                if !trip.is_answered_by(&bytes[..n]) {
                    continue;
                }
                meter::count(&shared.meter.operations, 1);
                if shared.meter.phase() == Phase::Counts {
                    shared.latency.record(trip.sent.get().elapsed());
                }
                trip.number.set(trip.number.get() + 1);
                trip.ask();
            }
        });
    }
    let shared = shared.clone();
    tokio_uring::spawn(async move {
        while shared.meter.phase() != Phase::Over {
            tokio::time::sleep(LOST / 5).await;
            for trip in trips.iter().filter(|t| t.sent.get().elapsed() > LOST) {
                meter::count(&shared.meter.lost, 1);
                trip.number.set(trip.number.get() + 1);
                trip.ask();
            }
        }
    });
    Ok(())
}
