//! Relayed TCP connections: what there is of them, listeners, and the end of everything.
//!
//! Theory of operation. A client that comes to a listener is given a backend ([`super::admit`]); then a [`Pair`] moves the
//! bytes ([`super::drive`]).
//!
//! A connection's sockets and pipes stay until the last operation on them has completed: a part of a chain looks its
//! descriptor up when its turn comes, and must not find a stranger's.

use super::dial::Attempts;
use crate::config::PortId;
use crate::flow::{Bins, FlowId, Kind, Table, Time};
use crate::msg::SocketKind;
use crate::plane::local;
use crate::relay::pump::Actions;
use crate::relay::{Choice, Gear, Pair, PipeKey, Way};
use crate::ring::pipes::{MAX_PIPES, PIPE_BYTES, PipeCounters};
use crate::ring::{Completion, OpId, Pipe, Pipes, Ring};
use nix::errno::Errno;
use slab::Slab;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Until a listener that could not accept is armed again.
pub const REST: Duration = Duration::from_millis(10);
/// Clients shed within a [`REST`], at most: 6,400 a second.
pub const SHED: usize = 64;
/// Between two looks at what no operation reports.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// What an operation of the relays is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpTag {
    /// A client, at this listener.
    Accept(u32),
    /// A backend.
    Connect(FlowId),
    /// Bytes of one direction, or the end of the receive.
    Receive(FlowId, Way),
    /// Bytes sent.
    Send(FlowId, Way),
    /// The wait of a chain; what it waits for follows.
    Wait(FlowId, Way),
    /// A pipe was filled.
    Fill(FlowId, Way, PipeKey),
    /// A pipe was drained.
    Drain(FlowId, Way, PipeKey),
    /// The source is readable.
    PollIn(FlowId, Way),
    /// The destination is writable.
    PollOut(FlowId, Way),
}

/// What has come of asking for a socket.
#[derive(Debug)]
pub enum Take {
    /// Here.
    Now(OwnedFd),
    /// Not yet: [`TcpRelays::sockets_arrived`] when there are some.
    Later,
    /// Never.
    Refused(Errno),
}

/// Where sockets for backends come from: unconnected, unbound, non-blocking.
pub trait Backends {
    /// A socket of this kind.
    fn take(&mut self, kind: SocketKind) -> Take;
}

/// What becomes of the clients of a listener.
pub trait Service {
    /// Where a client may be dialled to. `client` is asked for only where it matters.
    fn attempts(&self, client: SocketAddr) -> Attempts;
    /// Which gears its connections may use.
    fn choice(&self) -> Choice {
        Choice::Auto
    }
    /// Bytes ahead of the stream, given the client and the address that it connected to.
    fn ahead(&self, _client: SocketAddr, _local: SocketAddr) -> Option<Vec<u8>> {
        None
    }
    /// Whether [`Service::attempts`] and [`Service::ahead`] look at the client at all: asking who it is costs a call.
    fn wants_client(&self) -> bool {
        true
    }
}

/// What a port counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Clients accepted.
    pub accepted: u64,
    /// Connected to a backend.
    pub connected: u64,
    /// Reset because no backend took them.
    pub refused: u64,
    /// Reset for want of descriptors.
    pub shed: u64,
    /// The guest was shown the gateway, not the client.
    pub hidden: u64,
    /// Bytes of connections that have ended: to servers, to clients.
    pub bytes: [u64; 2],
    /// Ended by a reset.
    pub resets: u64,
}

pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) port: PortId,
    pub(super) service: Box<dyn Service>,
    pub(super) op: Option<OpId>,
    pub(super) closing: bool,
    /// Its accept is being ended, for there is no room for clients.
    pub(super) turning_away: bool,
}

/// One connection as the driver sees it.
pub(super) struct Link {
    pub(super) pair: Pair,
    pub(super) port: PortId,
    pub(super) client: OwnedFd,
    pub(super) server: Option<OwnedFd>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) opened: Time,
    pub(super) attempts: Attempts,
    pub(super) attempt: usize,
    /// Which attempts their servers have refused, a bit each.
    pub(super) refused: u8,
    pub(super) ahead: Option<Vec<u8>>,
    /// Operations in flight.
    pub(super) ops: u32,
    /// The receive of each direction, and the wait of its chain.
    pub(super) receiving: [Option<OpId>; 2],
    pub(super) waiting: [Option<OpId>; 2],
    /// The source's low-water mark is raised; which of its waits for a mark is the last one.
    pub(super) marked: [bool; 2],
    pub(super) marks: [u32; 2],
    pub(super) open: bool,
    /// The client has got a byte.
    pub(super) answered: bool,
    pub(super) closing: bool,
    /// In the list of those that tick.
    pub(super) ticking: bool,
}

/// How long things took, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// From the client's connection to the server's.
    pub connect: Bins,
    /// From the client's connection to the first byte that it got.
    pub first_byte: Bins,
}

/// All relayed TCP connections. `T` is the ring's tag.
pub struct TcpRelays<T: Copy> {
    pub(super) tag: fn(TcpTag) -> T,
    pub(super) listeners: Slab<Listener>,
    pub(super) counters: Vec<(PortId, PortCounters)>,
    pub(super) links: Table<Link>,
    pub(super) pipes: Pipes,
    pub(super) lent: Slab<Pipe>,
    pub(super) actions: Actions,
    /// Destinations without room, and when to try again; in order of time.
    pub(super) resting: VecDeque<(Time, FlowId, Way)>,
    /// Waits for a mark, by number, and their deadlines; in order of time.
    pub(super) gathering: VecDeque<(Time, FlowId, Way, u32)>,
    /// Directions that do without buffers for want of them.
    pub(super) starved: VecDeque<(FlowId, Way)>,
    /// Where bytes are looked at that are moved by hand.
    pub(super) scratch: Vec<u8>,
    /// Clients that wait for a socket.
    pub(super) waiting: VecDeque<FlowId>,
    /// Listeners that could not accept, and when to arm them again.
    pub(super) shedding: VecDeque<(Time, u32)>,
    /// When the count of clients shed began, and the count.
    pub(super) shed_since: Time,
    pub(super) shed_since_then: usize,
    pub(super) ticking: Vec<FlowId>,
    pub(super) tick_at: Option<Time>,
    /// What a direction that proves bulk begins with: the gear that has served others best.
    pub(super) first: Gear,
    pub(super) reserve: Option<Socket>,
    pub(super) most: usize,
    pub(super) times: Times,
}

/// A socket, for the sandbox has no file to open.
pub(super) fn reserve() -> Option<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).ok()
}

impl<T: Copy> TcpRelays<T> {
    /// No listener yet; at most `most` connections.
    pub fn new(most: usize, tag: fn(TcpTag) -> T) -> Self {
        Self {
            tag,
            listeners: Slab::new(),
            counters: Vec::new(),
            links: Table::new(Kind::Relay),
            pipes: Pipes::new(MAX_PIPES, PIPE_BYTES),
            lent: Slab::new(),
            actions: Actions::new(),
            resting: VecDeque::new(),
            gathering: VecDeque::new(),
            starved: VecDeque::new(),
            scratch: Vec::new(),
            waiting: VecDeque::new(),
            shedding: VecDeque::new(),
            shed_since: Time::ZERO,
            shed_since_then: 0,
            ticking: Vec::new(),
            tick_at: None,
            first: Gear::SpliceCall,
            reserve: reserve(),
            most,
            times: Times::default(),
        }
    }

    /// From now on at most `most` connections.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Serves a listening socket of `port`.
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn add(
        &mut self,
        ring: &mut Ring<T>,
        fd: OwnedFd,
        port: PortId,
        service: Box<dyn Service>,
    ) -> io::Result<()> {
        let socket = SockRef::from(&fd);
        socket.set_nonblocking(true)?;
        // Inherited by what is accepted. Without them a relay still works.
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_keepalive(true);
        local::tune_listener(&socket);
        let number = self.listeners.insert(Listener {
            fd,
            port,
            service,
            op: None,
            closing: false,
            turning_away: false,
        }) as u32;
        if !self.counters.iter().any(|(id, _)| *id == port) {
            self.counters.push((port, PortCounters::default()));
        }
        self.arm(ring, number);
        Ok(())
    }

    /// Closes the listeners of `port` and, if `connections`, resets its connections.
    pub fn remove(&mut self, ring: &mut Ring<T>, now: Time, port: PortId, connections: bool) {
        let ours: Vec<_> = self.listeners.iter().filter(|(_, l)| l.port == port).map(|(n, _)| n).collect();
        for number in ours {
            self.listeners[number].closing = true;
            match self.listeners[number].op {
                Some(op) => ring.cancel(op),
                None => drop(self.listeners.remove(number)),
            }
        }
        if connections {
            let ours: Vec<_> = self.links.iter().filter(|(_, l)| l.port == port).map(|(id, _)| id).collect();
            for id in ours {
                if let Some(link) = self.links.get_mut(id) {
                    link.pair.abort(&mut self.actions);
                    self.perform(ring, now, id);
                }
            }
        }
    }

    /// For an end in a hurry: whatever is dropped from now on is reset.
    pub fn reset_at_close(&self) {
        for (_, link) in self.links.iter() {
            for fd in [Some(&link.client), link.server.as_ref()].into_iter().flatten() {
                let _ = SockRef::from(fd).set_linger(Some(Duration::ZERO));
            }
        }
    }

    /// What a port counted, ended connections included.
    pub fn counters(&self, port: PortId) -> PortCounters {
        self.counters.iter().find(|(id, _)| *id == port).map(|(_, c)| *c).unwrap_or_default()
    }

    /// What the pool of pipes counted.
    pub const fn pipe_counters(&self) -> PipeCounters {
        self.pipes.counters()
    }

    pub(super) fn count(&mut self, port: PortId, count: impl FnOnce(&mut PortCounters)) {
        if let Some((_, counters)) = self.counters.iter_mut().find(|(id, _)| *id == port) {
            count(counters);
        }
    }

    /// A completion of ours.
    pub fn handle<B: Backends>(
        &mut self,
        ring: &mut Ring<T>,
        backends: &mut B,
        now: Time,
        tag: TcpTag,
        c: Completion<T>,
    ) {
        match tag {
            TcpTag::Accept(number) => self.on_accepted(ring, backends, now, number, c),
            TcpTag::Connect(id) => self.on_connected(ring, backends, now, id, c.result),
            _ => self.on_moved(ring, now, tag, c),
        }
    }

    /// When [`TcpRelays::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Time> {
        let shedding = self.shedding.front().map(|(at, _)| *at);
        let resting = self.resting.front().map(|(at, ..)| *at);
        let gathering = self.gathering.front().map(|(at, ..)| *at);
        shedding.into_iter().chain(resting).chain(gathering).chain(self.tick_at).min()
    }
}
