//! Datagrams one way, and the server of all datagrams, on the ring of the data plane.
//!
//! On tokio-uring each datagram was an operation awaited by itself, and its direct figure stayed below 0.9 of iperf3's: the
//! generator was what was measured (perf/NOTES.md). Here a batch is queued and submitted by one entry into the kernel, and
//! receives arm themselves. One thread owns the ring; between batches it waits in it, to the tens of microseconds that a
//! pace needs.

use super::meter::{self, Meter, Phase};
use super::udp::{bind, towards};
use super::{DATAGRAM, GLANCE, Kind, Way};
use crate::bench::pace::{BATCH, Due, Schedule};
use crate::buf::{ArenaConfig, Class, Span};
use crate::ring::{Completion, Data, Message, Ring, RingConfig, RingError};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a client that receives speaks, so that the way back exists.
const ASK: Duration = Duration::from_millis(20);
/// Slots: none for frames, some for what arrives, and one for what is sent.
const ARENA: ArenaConfig = ArenaConfig { tap: 1, host: 64, small: 16, relay: 0, message: 64 };

/// What a completion is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// Arrived.
    Receive,
    /// One of a batch.
    Send,
    /// Sent back.
    Answer,
}

/// One socket and its ring.
struct Datagrams {
    ring: Ring<Op>,
    socket: UdpSocket,
    meter: Arc<Meter>,
    /// What is sent, over and over.
    payload: Span,
    /// Of a batch, not yet complete.
    under_way: usize,
    /// Whom a batch is for; none: nobody asked yet.
    to: Option<SocketAddr>,
    /// The socket knows its peer by itself.
    connected: bool,
}

/// Starts the thread of `socket`: `to` is whom datagrams go to from the beginning, `asks` whether it says so to the other end.
fn start(meter: &Arc<Meter>, socket: UdpSocket, to: Option<SocketAddr>, asks: bool) -> io::Result<()> {
    let meter = meter.clone();
    let connected = to.is_some() || asks;
    std::thread::Builder::new().name("datagrams".into()).spawn(move || {
        let ended = Datagrams::new(meter.clone(), socket, to, connected).and_then(|mut d| d.run(asks));
        if let Err(e) = ended {
            meter.fail(e.to_string());
        }
    })?;
    Ok(())
}

/// A client of datagrams one way.
pub fn one_way(meter: &Arc<Meter>, server: SocketAddr, way: Way) -> io::Result<()> {
    let up = way == Way::Up;
    start(meter, towards(server)?, up.then_some(server), !up)
}

/// The server at `at`: counts, answers, and sends to who asked last once it is told a pace.
pub fn serve(meter: &Arc<Meter>, at: SocketAddr) -> io::Result<()> {
    start(meter, bind(at)?, None, false)
}

impl Datagrams {
    fn new(
        meter: Arc<Meter>,
        socket: UdpSocket,
        to: Option<SocketAddr>,
        connected: bool,
    ) -> io::Result<Self> {
        let config = RingConfig { arena: ARENA, ops: 1024, ..RingConfig::default() };
        let mut ring = Ring::new(config).map_err(|e: RingError| io::Error::other(e))?;
        let buf = ring.arena_mut().alloc(Class::Small).ok_or(io::ErrorKind::OutOfMemory)?;
        let payload = Span::new(buf, 0, DATAGRAM as u32);
        let bytes = ring.arena_mut().bytes_mut(payload);
        bytes.fill(0x5a);
        bytes[0] = Kind::Sink.byte();
        Ok(Self { ring, socket, meter, payload, under_way: 0, to, connected })
    }

    fn run(&mut self, asks: bool) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        self.arm();
        let (mut pace, mut schedule, mut began) = (0.0, Schedule::default(), Instant::now());
        let mut asked: Option<Instant> = None;
        while self.meter.phase() != Phase::Over {
            if asks && asked.is_none_or(|at| at.elapsed() > ASK) {
                asked = Some(Instant::now());
                // Lost, or refused for one before: it is asked again.
                let _ = self.socket.send(&[Kind::Give.byte()]);
            }
            if self.meter.pace() != pace {
                (pace, schedule, began) = (self.meter.pace(), Schedule::default(), Instant::now());
            }
            let wait = match self.to {
                Some(to) if pace > 0.0 && self.under_way == 0 => match schedule.due(began.elapsed(), pace) {
                    Due::Wait(time) => time,
                    Due::Batch => {
                        self.batch(to);
                        GLANCE
                    }
                },
                _ => GLANCE,
            };
            self.ring.wait(Some(wait))?;
            while let Some(done) = self.ring.completion() {
                self.complete(done, &mut schedule)?;
            }
        }
        Ok(())
    }

    fn arm(&mut self) {
        match self.connected {
            true => self.ring.receive(self.socket.as_fd(), Op::Receive),
            false => self.ring.receive_messages(self.socket.as_fd(), Op::Receive),
        };
    }

    fn batch(&mut self, to: SocketAddr) {
        for _ in 0..BATCH {
            self.send(to, self.payload, Op::Send);
        }
        self.under_way = BATCH;
    }

    fn send(&mut self, to: SocketAddr, what: Span, op: Op) {
        let to = (!self.connected).then_some(to);
        let spans = [what];
        let message =
            Message { to, from: None, head: &[], spans: &spans, segment: None, ttl: None, tos: None };
        self.ring.send_message(self.socket.as_fd(), &message, op);
    }

    fn complete(&mut self, done: Completion<Op>, schedule: &mut Schedule) -> io::Result<()> {
        if done.tag == Op::Send {
            self.under_way -= 1;
            match done.result {
                Ok(_) => {
                    schedule.sent(1);
                    meter::count(&self.meter.datagrams_sent, 1);
                }
                Err(e) if super::udp::passes(e) => {}
                Err(e) => return Err(e.into()),
            }
        }
        match done.data {
            // Of a client, all that is as long as it should be.
            Data::Span(span) => {
                if span.len as usize == DATAGRAM {
                    meter::count(&self.meter.datagrams_received, 1);
                }
                self.ring.release(span.buf);
            }
            Data::Message { from: Some(from), data, .. } => self.arrived(from, data),
            Data::Message { data, .. } => self.ring.release(data.buf),
            Data::None | Data::Fd(_) => {}
        }
        // Without buffers, or by an error that an earlier datagram met: it goes on.
        if done.tag == Op::Receive && !done.more {
            self.arm();
        }
        Ok(())
    }

    /// A datagram at the server.
    fn arrived(&mut self, from: SocketAddr, data: Span) {
        match self.ring.arena().bytes(data).first().copied().and_then(Kind::of) {
            Some(Kind::Sink) if data.len as usize == DATAGRAM => {
                meter::count(&self.meter.datagrams_received, 1);
            }
            Some(Kind::Echo) => self.send(from, data, Op::Answer),
            Some(Kind::Give) => self.to = Some(from),
            _ => {}
        }
        // An answer has a reference of its own.
        self.ring.release(data.buf);
    }
}
