//! Round trips of datagrams, and the sockets of all datagrams.

use super::meter::{self, Phase};
use super::{Kind, Shared};
use nix::errno::Errno;
use socket2::SockRef;
use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as Plain};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio_uring::net::UdpSocket;

/// What the kernel is asked for; it gives what `net.core.rmem_max` allows.
const BUFFER: usize = 4 << 20;
/// An answer that takes longer is lost.
const LOST: Duration = Duration::from_millis(50);
/// Bytes of a datagram that is answered.
const SMALL: usize = 16;

/// A socket with large buffers, at `at`.
pub fn bind(at: SocketAddr) -> io::Result<Plain> {
    let plain = super::serve::patiently(|| Plain::bind(at))?;
    let socket = SockRef::from(&plain);
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    Ok(plain)
}

/// A socket connected to `server`.
pub fn towards(server: SocketAddr) -> io::Result<Plain> {
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let plain = bind(SocketAddr::new(any, 0))?;
    plain.connect(server)?;
    Ok(plain)
}

/// Errors that say nothing of this datagram: a full queue, or what an earlier one met.
pub fn passes(error: Errno) -> bool {
    matches!(error, Errno::ENOBUFS | Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EINTR)
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
