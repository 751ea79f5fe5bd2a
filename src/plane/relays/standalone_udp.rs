//! A relay of datagrams by itself, without namespaces: from an address to an address, for `ringtap relay`.
//!
//! One thread, one ring. Backend sockets are ordinary ones, connected to the target, so the target sees this host as
//! its client.

use super::stop::Stop;
use super::udp::{UdpRelays, UdpTag, prepare};
use crate::flow::Time;
use crate::relay::udp::Limits;
use crate::ring::{Ring, RingConfig, RingError};
use nix::poll::PollFlags;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Completions handled before the actions they caused are carried out, as in a shard.
const BATCH: usize = 64;

/// Why a relay does not run.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The listener, or the ring once it ran.
    #[error("udp relay: {0}")]
    Io(#[from] io::Error),
}

/// A listener whose every datagram tells the address it was sent to.
pub fn listen(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    let fd = OwnedFd::from(socket);
    prepare(&fd)?;
    SockRef::from(&fd).bind(&at.into())?;
    Ok(fd.into())
}

/// What an operation is about.
#[derive(Clone, Copy)]
enum Tag {
    Relay(UdpTag),
    Stop,
}

/// Relays what comes to `listener` to `target` until a signal asks for the end; returns its number.
///
/// # Errors
/// [`RelayError`].
pub fn run(listener: UdpSocket, target: SocketAddr, limits: Limits, stop: &Stop) -> Result<u8, RelayError> {
    let mut ring: Ring<Tag> = Ring::new(RingConfig::default())?;
    let mut relays = UdpRelays::new(limits, Tag::Relay);
    ring.poll(stop.fd(), PollFlags::POLLIN, true, Tag::Stop);
    relays.add(&mut ring, listener.into())?;
    let origin = Instant::now();
    let clock = || Time::from_nanos(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX));
    loop {
        ring.wait(relays.poll_timeout().map(|at| at.since(clock())))?;
        let now = clock();
        for _ in 0..BATCH {
            let Some(c) = ring.completion() else { break };
            match c.tag {
                Tag::Relay(tag) => relays.handle(&mut ring, now, tag, c),
                Tag::Stop => {
                    if let Some(signal) = stop.signal() {
                        return Ok(signal);
                    }
                }
            }
        }
        relays.handle_timeout(now);
        relays.end_batch(&mut ring);
        while let Some((id, _)) = relays.poll_wanted() {
            relays.opened(&mut ring, id, backend(target));
        }
    }
}

fn backend(target: SocketAddr) -> io::Result<OwnedFd> {
    let any = match target {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    Ok(socket.into())
}
