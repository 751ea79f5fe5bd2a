//! A TCP relay by itself: sockets of the host on both sides, no tap, no stack. Its end resets the connections that are left:
//! a stream cut short must not look like a whole one.

use super::dial::{Attempt, Attempts};
use super::stop::Stop;
use super::tcp::{Backends, Service, Take, TcpRelays, TcpTag};
use crate::buf::ArenaConfig;
use crate::config::PortId;
use crate::flow::Time;
use crate::msg::SocketKind;
use crate::plane::local;
use crate::relay::Choice;
use crate::ring::{Ring, RingConfig, RingError};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

/// Descriptors that are no connection's: the ring, streams, pipes, the reserve, one listener.
const RESERVED: usize = 80;
/// Completions handled before timers are looked at.
const BATCH: usize = 64;

/// Why a relay does not run.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The ring or the listener failed.
    #[error(
        "the relay failed: {0}; raise the limits of open files (ulimit -n) and locked memory (ulimit -l)"
    )]
    Io(#[from] io::Error),
}

/// Sockets made here, when they are needed.
struct Local {
    target: SocketAddr,
}

impl Backends for Local {
    fn take(&mut self, kind: SocketKind) -> Take {
        let domain = if kind.v6 { Domain::IPV6 } else { Domain::IPV4 };
        let made = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP));
        match made {
            Ok(socket) => {
                // Without them a relay still works.
                let _ = socket.set_tcp_nodelay(true);
                let _ = socket.set_keepalive(true);
                local::tune(&SockRef::from(&socket), self.target.ip());
                Take::Now(socket.into())
            }
            Err(e) => Take::Refused(e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
        }
    }
}

/// One fixed target.
struct Fixed {
    target: SocketAddr,
    choice: Choice,
}

impl Service for Fixed {
    fn attempts(&self, _client: SocketAddr) -> Attempts {
        Attempts::from_iter([Attempt::plain(self.target)])
    }

    fn choice(&self) -> Choice {
        self.choice
    }

    fn wants_client(&self) -> bool {
        false
    }
}

/// What an operation is about.
#[derive(Clone, Copy)]
enum Tag {
    Relay(TcpTag),
    Stop,
}

/// Relays from `listener` to `target` until a signal asks for the end; returns its number.
///
/// # Errors
/// [`RelayError`].
pub fn run(listener: TcpListener, target: SocketAddr, choice: Choice, stop: &Stop) -> Result<u8, RelayError> {
    let most = connections();
    let arena = ArenaConfig { tap: 1, host: 1, small: 8192, relay: 1024, message: 1 };
    let ops = most.saturating_mul(10).clamp(1024, 1 << 20);
    let config = RingConfig { entries: 256, cq_entries: 2048, arena, ops, ..RingConfig::default() };
    let mut ring: Ring<Tag> = Ring::new(config)?;
    let mut relays = TcpRelays::new(most, Tag::Relay);
    let service = Box::new(Fixed { target, choice });
    ring.poll(stop.fd(), PollFlags::POLLIN, true, Tag::Stop);
    relays.add(&mut ring, listener.into(), PortId(1), service)?;
    let mut backends = Local { target };
    let origin = Instant::now();
    let clock = || Time::from_nanos(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX));
    loop {
        let now = clock();
        ring.wait(relays.poll_timeout().map(|at| at.since(now)))?;
        let now = clock();
        for _ in 0..BATCH {
            let Some(c) = ring.completion() else { break };
            match c.tag {
                Tag::Relay(tag) => relays.handle(&mut ring, &mut backends, now, tag, c),
                Tag::Stop => {
                    if let Some(signal) = stop.signal() {
                        relays.reset_at_close();
                        return Ok(signal);
                    }
                }
            }
        }
        relays.handle_timeout(&mut ring, now);
    }
}

/// Raises the limit of descriptors as far as it goes; how many connections fit, two sockets each.
fn connections() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let (now, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((soft, soft));
    (usize::try_from(now).unwrap_or(usize::MAX).saturating_sub(RESERVED) / 2).max(1)
}
