//! Sockets that belong to the guest's namespace, held ready for the connections that will need them.
//!
//! Theory of operation. The factory inside ([`crate::msg::factory`]) makes sockets in batches; here is a pool for each
//! kind. [`Factory::take`] hands one out and asks for more before the pool is empty, so that a connection pays for no
//! round trip. A pool holds nothing until its kind is first used. It then starts at [`DEPTH_MIN`] sockets and deepens up
//! to [`DEPTH_MAX`] whenever it ran dry before the next batch came; [`Factory::trim`], called when traffic has ceased,
//! takes it back, and empties a kind that was not used since. One request a kind is under way at any time, and all pools
//! together hold at most a small share of what the descriptor limit allows.
//!
//! An empty pool answers `None`: whoever wanted a socket waits until [`Factory::on_readable`] tells of its kind, and
//! takes again. If it tells of a refusal, the next `take` asks anew.
//!
//! **The factory is not trusted.** It lives where the guest can reach it, so whatever it sends may come from the guest:
//! every descriptor is checked to be a socket of the right domain, type and protocol, of the guest's network namespace
//! (by `SO_NETNS_COOKIE`, which control has read before the guest had a process) and never of ours, unbound and
//! unconnected; and it is made non-blocking here. Answers must come in the order of the requests, with at least one and at
//! most as many sockets as were asked for. Anything else closes the channel for good, with all sockets that came by it.
//! What no check can rule out: the guest may keep a copy of a socket and read, close or block on it. It could harm the
//! guest's own connections only; but do not rely on `O_NONBLOCK` where the plane must not wait.

use crate::msg::{Channel, FromFactory, MAX_FDS, MsgError, SocketKind, ToFactory};
use crate::ring::sockopt::netns_cookie;
use arrayvec::ArrayVec;
use nix::sys::resource::{Resource, getrlimit};
use socket2::{Domain, Protocol, SockRef, Type};
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Kinds of sockets: family, TCP or UDP, transparent or not.
const KINDS: usize = 8;
/// Sockets a kind in use has at hand at least.
pub const DEPTH_MIN: usize = 4;
/// And at most: the connections of a few milliseconds at twenty thousand a second, the time a batch takes to come.
pub const DEPTH_MAX: usize = 64;
/// Sockets of all kinds together, held or asked for, where descriptors are plenty.
const TOTAL_MAX: usize = 192;
/// Where they are not: one in so many of the limit of open files.
const SHARE: usize = 16;

/// Why a factory's channel was closed, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FactoryError {
    /// The process inside has ended, or has closed the channel.
    #[error(
        "the socket factory inside has gone; published ports go through the tap until this instance is restarted"
    )]
    Gone,
    /// The namespace is the one that we are in ourselves.
    #[error("the socket factory serves the network namespace of the plane itself; it must be in another one")]
    OwnNamespace,
    /// A message that answers no request, or another one than is next.
    #[error("the socket factory sent what nobody asked for; a process inside interferes with it")]
    Unasked,
    /// None or too many.
    #[error(
        "the socket factory sent {got} sockets when asked for {asked}; a process inside interferes with it"
    )]
    Count {
        /// As many as were asked for.
        asked: usize,
        /// As many as came.
        got: usize,
    },
    /// A descriptor failed its check.
    #[error("the socket factory sent a descriptor that is no {what}; a process inside interferes with it")]
    Socket {
        /// What it should have been.
        what: &'static str,
    },
    /// The channel failed.
    #[error("the channel to the socket factory failed: {0}")]
    Channel(MsgError),
    /// A system call failed that does not.
    #[error("cannot read the number of the network namespace: {0}; use Linux 5.14 or later")]
    Cookie(io::Error),
}

/// What has come of a request; whoever waits for that kind tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Sockets have arrived.
    Arrived(SocketKind),
    /// None could be made, or received.
    Refused {
        /// What was asked for.
        kind: SocketKind,
        /// Why.
        errno: i32,
    },
}

/// The pools, and the channel by which they are filled.
#[derive(Debug)]
pub struct Factory {
    channel: Channel,
    guest_cookie: u64,
    own_cookie: u64,
    pools: [Pool; KINDS],
    /// Requests under way, oldest first.
    asked: VecDeque<(SocketKind, usize)>,
    /// Most sockets to hold or have asked for.
    total_max: usize,
    /// A failure that [`Factory::on_readable`] has yet to tell.
    failure: Option<FactoryError>,
    closed: bool,
}

#[derive(Debug)]
struct Pool {
    idle: Vec<OwnedFd>,
    /// Sockets to have at hand.
    depth: usize,
    /// Times that the pool was found empty since the last request.
    missed: usize,
    /// Under way; 0 if no request is.
    asked: usize,
    /// Taken from since the last trim.
    used: bool,
}

const fn index(kind: SocketKind) -> usize {
    kind.v6 as usize | (kind.datagram as usize) << 1 | (kind.transparent as usize) << 2
}

impl Factory {
    /// A pool filled through `channel`, which must have been made in our own network namespace (control's), with sockets
    /// of the namespace that is numbered `netns_cookie`. Nothing is asked for yet.
    ///
    /// # Errors
    /// [`FactoryError::OwnNamespace`], or the kernel is too old.
    pub fn new(channel: Channel, netns_cookie: u64) -> Result<Self, FactoryError> {
        let own_cookie = self::netns_cookie(channel.as_fd()).map_err(FactoryError::Cookie)?;
        if own_cookie == netns_cookie {
            return Err(FactoryError::OwnNamespace);
        }
        // A request must never wait for a factory that does not read.
        channel.set_nonblocking(true).map_err(FactoryError::Channel)?;
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        let share = usize::try_from(limit).unwrap_or(usize::MAX) / SHARE;
        Ok(Self {
            channel,
            guest_cookie: netns_cookie,
            own_cookie,
            pools: std::array::from_fn(|_| Pool {
                idle: Vec::new(),
                depth: DEPTH_MIN,
                missed: 0,
                asked: 0,
                used: false,
            }),
            asked: VecDeque::with_capacity(KINDS),
            total_max: share.clamp(DEPTH_MIN, TOTAL_MAX),
            failure: None,
            closed: false,
        })
    }

    /// What to wait on for [`Factory::on_readable`].
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// A socket of this kind: unbound, unconnected, non-blocking, of the guest's network namespace. `None` if there is none
    /// at hand; more have been asked for then, unless the channel is closed ([`Factory::is_closed`]).
    pub fn take(&mut self, kind: SocketKind) -> Option<OwnedFd> {
        let pool = &mut self.pools[index(kind)];
        pool.used = true;
        let socket = pool.idle.pop();
        if socket.is_none() {
            pool.missed += 1;
        }
        self.ask(kind);
        socket
    }

    /// The channel is closed: nothing will come any more.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Sockets held at the moment, of all kinds.
    pub fn held(&self) -> usize {
        self.pools.iter().map(|p| p.idle.len()).sum()
    }

    /// Gives back what a pause in traffic leaves unused. Call it once when there was none for some seconds.
    pub fn trim(&mut self) {
        for pool in &mut self.pools {
            pool.depth = DEPTH_MIN;
            pool.idle.truncate(if pool.used { DEPTH_MIN } else { 0 });
            pool.idle.shrink_to_fit();
            pool.used = false;
        }
    }

    /// Takes in what has arrived. Call it whenever the channel is readable.
    ///
    /// # Errors
    /// [`FactoryError`]: the channel is closed now, and the pools are empty. Later calls say [`FactoryError::Gone`].
    pub fn on_readable(&mut self) -> Result<ArrayVec<News, KINDS>, FactoryError> {
        let mut news = ArrayVec::new();
        let failure = loop {
            if let Some(failure) = self.failure.take() {
                break failure;
            }
            if self.closed {
                break FactoryError::Gone;
            }
            // As many as may be under way: a factory that sends more has none to answer.
            if news.is_full() {
                return Ok(news);
            }
            match self.receive() {
                Ok(Some(one)) => news.push(one),
                Ok(None) => return Ok(news),
                Err(e) => break e,
            }
        };
        self.close();
        Err(failure)
    }

    fn receive(&mut self) -> Result<Option<News>, FactoryError> {
        let (message, sockets) = match self.channel.try_recv::<FromFactory>() {
            Ok(Some(got)) => got,
            Ok(None) => return Ok(None),
            // Our own limit of open files. Answers are in order, so this was one to the oldest request.
            Err(MsgError::FdsLost) => {
                let (kind, _) = self.asked.pop_front().ok_or(FactoryError::Unasked)?;
                self.pools[index(kind)].asked = 0;
                return Ok(Some(News::Refused { kind, errno: libc::EMFILE }));
            }
            Err(MsgError::Closed) => return Err(FactoryError::Gone),
            Err(e) => return Err(FactoryError::Channel(e)),
        };
        let kind = match message {
            FromFactory::Made(kind) | FromFactory::Refused { kind, .. } => kind,
        };
        let asked = match self.asked.pop_front() {
            Some((of, asked)) if of == kind => asked,
            _ => return Err(FactoryError::Unasked),
        };
        let pool = &mut self.pools[index(kind)];
        pool.asked = 0;
        let got = sockets.len();
        match message {
            FromFactory::Refused { errno, .. } if got == 0 => {
                pool.missed = 0;
                Ok(Some(News::Refused { kind, errno }))
            }
            FromFactory::Made(_) if (1..=asked).contains(&got) => {
                for socket in &sockets {
                    self.check(kind, socket.as_fd())?;
                }
                let pool = &mut self.pools[index(kind)];
                if pool.missed > 0 {
                    pool.depth = (pool.depth * 2).min(DEPTH_MAX);
                    pool.missed = 0;
                }
                pool.idle.extend(sockets);
                Ok(Some(News::Arrived(kind)))
            }
            _ => Err(FactoryError::Count { asked, got }),
        }
    }

    /// Asks for more of a kind, if it is time.
    fn ask(&mut self, kind: SocketKind) {
        let total: usize = self.pools.iter().map(|p| p.idle.len() + p.asked).sum();
        let pool = &mut self.pools[index(kind)];
        let have = pool.idle.len();
        if self.closed || self.failure.is_some() || pool.asked > 0 || have > pool.depth / 2 {
            return;
        }
        // Every kind may have one, or it would wait for others to be used.
        let room = self.total_max.saturating_sub(total).max(usize::from(have == 0));
        let count = (pool.depth + pool.missed).saturating_sub(have).min(room).min(MAX_FDS);
        if count == 0 {
            return;
        }
        let request = ToFactory::Make { kind, count: u16::try_from(count).unwrap_or(u16::MAX) };
        match self.channel.send(&request, &[]) {
            Ok(()) => {
                pool.asked = count;
                self.asked.push_back((kind, count));
            }
            Err(e) => {
                self.failure = Some(match e {
                    MsgError::Closed => FactoryError::Gone,
                    e => FactoryError::Channel(e),
                });
                // Whoever polls the channel learns of it: it is at its end now.
                let _ = SockRef::from(&self.channel).shutdown(Shutdown::Both);
            }
        }
    }

    /// Whether a descriptor is what it should be.
    fn check(&self, kind: SocketKind, fd: BorrowedFd<'_>) -> Result<(), FactoryError> {
        let expect = |good: bool, what| if good { Ok(()) } else { Err(FactoryError::Socket { what }) };
        let domain = if kind.v6 { Domain::IPV6 } else { Domain::IPV4 };
        let (form, protocol) =
            if kind.datagram { (Type::DGRAM, Protocol::UDP) } else { (Type::STREAM, Protocol::TCP) };
        let socket = SockRef::from(&fd);
        expect(socket.domain().is_ok_and(|d| d == domain), "socket of the family asked for")?;
        expect(socket.r#type().is_ok_and(|t| t == form), "socket of the type asked for")?;
        expect(socket.protocol().is_ok_and(|p| p == Some(protocol)), "socket of the protocol asked for")?;
        let cookie = netns_cookie(fd).unwrap_or(self.own_cookie);
        expect(
            cookie == self.guest_cookie && cookie != self.own_cookie,
            "socket of the guest's network namespace",
        )?;
        let peer = socket.peer_addr().err().and_then(|e| e.raw_os_error());
        expect(peer == Some(libc::ENOTCONN), "unconnected socket")?;
        let local = socket.local_addr().ok().and_then(|a| a.as_socket());
        expect(local.is_some_and(|a| a.port() == 0 && a.ip().is_unspecified()), "unbound socket")?;
        expect(socket.set_nonblocking(true).is_ok(), "socket that can be non-blocking")
    }

    fn close(&mut self) {
        self.closed = true;
        self.asked.clear();
        for pool in &mut self.pools {
            (pool.asked, pool.missed) = (0, 0);
            pool.idle.clear();
        }
        let _ = SockRef::from(&self.channel).shutdown(Shutdown::Both);
    }
}
