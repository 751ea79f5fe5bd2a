//! Streams of bulk, at either end, on the ring of the data plane.
//!
//! On tokio-uring a read was an operation awaited by itself, with an entry into the kernel, a wake-up of the runtime and another
//! entry for each; downloads on the direct path stayed below 0.9 of iperf3's (perf/NOTES.md). Here receives arm themselves, and
//! what all streams have to say is taken and submitted by one entry.
//!
//! One thread owns the ring. Connections are made, and told what they are for, elsewhere; then they are handed over
//! ([`Bulk::run`]). All streams send the same memory, and few slots are received into, so that both stay in the processor's
//! cache as the one buffer of iperf3 does.
//!
//! Limits: it looks for new streams every [`GLANCE`].

use super::meter::{self, Meter, Phase};
use super::{CHUNK, GLANCE, Way};
use crate::buf::{ArenaConfig, Class, Span};
use crate::ring::{Completion, Data, Ring, RingConfig};
use nix::errno::Errno;
use slab::Slab;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Slots: few to receive into, and of those for frames, which cost nothing, as many as leave one to send (`ring::provided`).
const ARENA: ArenaConfig = ArenaConfig { tap: 8, host: 4, small: 1, relay: 1, message: 1 };
/// Bytes of one piece of a send; [`CHUNK`] is several.
const PIECE: usize = 64 << 10;

/// What a completion is of; the number of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Give(usize),
    Take(usize),
}

/// One stream.
struct Stream {
    fd: OwnedFd,
    /// Of which load of the server's.
    load: u64,
    /// Operations that are under way.
    ops: u8,
    /// Nothing more is to be armed.
    over: bool,
}

/// The thread, as seen by those who have streams for it.
pub struct Bulk(Sender<(OwnedFd, Way)>);

struct Engine {
    ring: Ring<Op>,
    streams: Slab<Stream>,
    meter: Arc<Meter>,
    payload: Span,
    /// The end of a stream is the end of the load.
    ends_matter: bool,
}

impl Bulk {
    /// Starts the thread. `ends_matter`: a stream that ends is a failure, as it is for a client.
    ///
    /// # Errors
    /// The thread; what the ring meets is told by [`Meter::failure`].
    pub fn start(meter: &Arc<Meter>, ends_matter: bool) -> io::Result<Self> {
        let (sender, streams) = channel();
        let meter = meter.clone();
        std::thread::Builder::new().name("bulk".into()).spawn(move || {
            let ended = Engine::new(meter.clone(), ends_matter).and_then(|mut e| e.run(&streams));
            if let Err(e) = ended {
                meter.fail(e.to_string());
            }
        })?;
        Ok(Self(sender))
    }

    /// Runs a stream. `way` as this end sees it: [`Way::Up`] sends.
    pub fn run(&self, fd: OwnedFd, way: Way) {
        // Gone only when it has said why.
        let _ = self.0.send((fd, way));
    }
}

impl Engine {
    fn new(meter: Arc<Meter>, ends_matter: bool) -> io::Result<Self> {
        let config = RingConfig { arena: ARENA, ops: 1024, ..RingConfig::default() };
        let mut ring = Ring::new(config).map_err(io::Error::other)?;
        let buf = ring.arena_mut().alloc(Class::Tap).ok_or(ErrorKind::OutOfMemory)?;
        let payload = Span::new(buf, 0, PIECE as u32);
        ring.arena_mut().bytes_mut(payload).fill(0x5a);
        Ok(Self { ring, streams: Slab::new(), meter, payload, ends_matter })
    }

    fn run(&mut self, new: &Receiver<(OwnedFd, Way)>) -> io::Result<()> {
        while self.meter.phase() != Phase::Over {
            if self.streams.is_empty() {
                // Nothing to wait for but a stream.
                match new.recv_timeout(10 * GLANCE) {
                    Ok((fd, way)) => self.begin(fd, way),
                    Err(_) => continue,
                }
            }
            while let Ok((fd, way)) = new.try_recv() {
                self.begin(fd, way);
            }
            self.ring.wait(Some(GLANCE))?;
            while let Some(done) = self.ring.completion() {
                self.complete(done)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, fd: OwnedFd, way: Way) {
        let stream = Stream { fd, load: self.meter.load(), ops: 0, over: false };
        let key = self.streams.insert(stream);
        if way != Way::Down {
            self.arm(Op::Give(key));
        }
        if way != Way::Up {
            self.arm(Op::Take(key));
        }
    }

    fn arm(&mut self, op: Op) {
        let (Op::Give(key) | Op::Take(key)) = op;
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.ops += 1;
        match op {
            Op::Give(_) => self.ring.send(stream.fd.as_fd(), &[self.payload; CHUNK / PIECE], op),
            Op::Take(_) => self.ring.receive(stream.fd.as_fd(), op),
        };
    }

    fn complete(&mut self, done: Completion<Op>) -> io::Result<()> {
        let (Op::Give(key) | Op::Take(key)) = done.tag;
        if let Data::Span(span) = done.data {
            // Left over in some buffer is what an earlier load sent.
            if self.streams.get(key).is_some_and(|s| s.load == self.meter.load()) {
                meter::count(&self.meter.received, span.len as usize);
            }
            self.ring.release(span.buf);
        }
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        match (done.tag, done.result) {
            (Op::Give(_), Ok(n)) => meter::count(&self.meter.sent, n as usize),
            (Op::Take(_), Ok(0)) => stream.over = true,
            // Without a slot for a moment.
            (Op::Take(_), Ok(_) | Err(Errno::ENOBUFS)) => {}
            (_, Err(_)) => stream.over = true,
        }
        if done.more {
            return Ok(());
        }
        stream.ops -= 1;
        if !stream.over {
            self.arm(done.tag);
        } else if self.ends_matter {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the other end closed the connection"));
        } else if stream.ops == 0 {
            self.streams.remove(key);
        } else {
            // The other direction hears of it.
            let _ = socket2::SockRef::from(&stream.fd).shutdown(Shutdown::Both);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    fn eventually(holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(GLANCE);
        }
    }

    #[test]
    fn what_one_end_gives_the_other_takes_both_ways_at_once() {
        let meters = [Arc::new(Meter::default()), Arc::new(Meter::default())];
        let ends = meters.each_ref().map(|m| Bulk::start(m, false).unwrap());
        for way in [Way::Up, Way::Down, Way::Both] {
            let (near, far) = UnixStream::pair().unwrap();
            let other = [(Way::Up, Way::Down), (Way::Down, Way::Up), (Way::Both, Way::Both)];
            let (_, back) = other.into_iter().find(|(w, _)| *w == way).unwrap();
            ends[0].run(near.into(), way);
            ends[1].run(far.into(), back);
        }
        let read = |m: &Meter| {
            let get = |c: &std::sync::atomic::AtomicU64| c.load(std::sync::atomic::Ordering::Relaxed);
            (get(&m.sent), get(&m.received))
        };
        eventually(|| meters.iter().all(|m| read(m).0 > 32 << 20 && read(m).1 > 32 << 20));
        for meter in &meters {
            meter.stop();
        }
        assert!(meters.iter().all(|m| m.failure().is_none()));
        let ([a, b], slack) = (meters.each_ref().map(|m| read(m)), 64 << 20);
        assert!(a.0.abs_diff(b.1) < slack && b.0.abs_diff(a.1) < slack, "{a:?} {b:?}");
    }

    #[test]
    fn a_stream_that_ends_is_a_failure_of_a_client_only() {
        for ends_matter in [true, false] {
            let meter = Arc::new(Meter::default());
            let bulk = Bulk::start(&meter, ends_matter).unwrap();
            let (near, far) = UnixStream::pair().unwrap();
            bulk.run(near.into(), Way::Both);
            drop(far);
            if ends_matter {
                eventually(|| meter.failure().is_some_and(|why| why.contains("closed")));
            } else {
                // It serves the next one.
                let (near, mut far) = UnixStream::pair().unwrap();
                bulk.run(near.into(), Way::Up);
                std::io::Read::read_exact(&mut far, &mut [0; 100]).unwrap();
                assert!(meter.failure().is_none());
            }
            meter.stop();
        }
    }
}
