//! Relayed TCP connections for people to look at: what a listing says of each, and the descriptors of a single one.

use super::tcp::{TcpRelays, Times};
use crate::config::PortId;
use crate::flow::{FlowId, Time};
use crate::msg::detail::PipeDetail;
use crate::relay::{Gear, Way};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// One live connection, for listings.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    /// Its name.
    pub id: FlowId,
    /// Its port.
    pub port: PortId,
    /// Who connected; `None` where nobody asked.
    pub client: Option<SocketAddr>,
    /// The backend.
    pub backend: SocketAddr,
    /// Whom the backend sees, where that is not the socket's own choice; port 0 is any.
    pub shown: Option<SocketAddr>,
    /// When it was accepted.
    pub opened: Time,
    /// Bytes delivered, to the server and to the client.
    pub bytes: [u64; 2],
    /// Bytes that have come and are not delivered, likewise.
    pub held: [u64; 2],
    /// Gears, likewise.
    pub gears: [Gear; 2],
    /// Connected to the backend.
    pub open: bool,
    /// Its sockets.
    pub ends: Ends<'a>,
}

/// The sockets of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// The client's.
    pub client: BorrowedFd<'a>,
    /// The backend's, once there is one.
    pub server: Option<BorrowedFd<'a>>,
}

impl<T: Copy> TcpRelays<T> {
    /// All live connections.
    pub fn list(&self) -> impl Iterator<Item = Listing<'_>> {
        self.list_from(0)
    }

    /// Those in slots from `index` on ([`FlowId::index`]), in the order of these.
    pub fn list_from(&self, index: usize) -> impl Iterator<Item = Listing<'_>> {
        self.links.iter_from(index).map(|(id, link)| {
            let attempt = &link.attempts[link.attempt.min(link.attempts.len() - 1)];
            Listing {
                id,
                port: link.port,
                client: link.peer,
                backend: attempt.to,
                shown: attempt.from,
                opened: link.opened,
                bytes: Way::BOTH.map(|way| link.pair.pump(way).moved()),
                held: Way::BOTH.map(|way| link.pair.pump(way).held()),
                gears: Way::BOTH.map(|way| link.pair.pump(way).gear()),
                open: link.open,
                ends: Ends { client: link.client.as_fd(), server: link.server.as_ref().map(AsFd::as_fd) },
            }
        })
    }

    /// One of them, if it is alive.
    pub fn listing(&self, id: FlowId) -> Option<Listing<'_>> {
        self.links.get(id)?;
        self.list_from(id.index()).next().filter(|one| one.id == id)
    }

    /// Whether the backend of a connection was dialled as the client.
    pub fn shows_client(&self, id: FlowId) -> bool {
        self.links.get(id).is_some_and(|link| link.attempts.get(link.attempt).is_some_and(|a| a.client_shown))
    }

    /// The pipes that a connection has on loan.
    pub fn pipes_of(&self, id: FlowId) -> Vec<PipeDetail> {
        let Some(link) = self.links.get(id) else { return Vec::new() };
        let ways = Way::BOTH.into_iter().flat_map(|way| link.pair.pump(way).pipes().map(move |p| (way, p)));
        let lent = |key: crate::relay::PipeKey| self.lent.get(key.0.into());
        ways.filter_map(|(way, (key, bytes))| {
            let pipe = lent(key)?;
            Some(PipeDetail {
                to_server: way == Way::ToServer,
                read: pipe.read_end().as_raw_fd(),
                write: pipe.write_end().as_raw_fd(),
                inode: crate::plane::detail::inode(pipe.read_end()),
                size: pipe.size(),
                bytes,
            })
        })
        .collect()
    }

    /// Live connections.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// The pool of pipes.
    pub const fn pipes(&self) -> &crate::ring::Pipes {
        &self.pipes
    }

    /// How long things took.
    pub const fn times(&self) -> &Times {
        &self.times
    }

    /// Descriptors of the listeners of a port.
    pub fn listeners_of(&self, port: PortId) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().filter(move |(_, l)| l.port == port).map(|(_, l)| l.fd.as_fd())
    }
}
