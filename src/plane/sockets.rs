//! The host sockets of the flows: made here with every option they need, found by flow, and closed when it is safe.
//!
//! Theory of operation. The stack names flows; this table keeps one socket for each. A socket leaves the table at once
//! when the stack says `Close`, but its descriptor is only closed after the next submission: submission queue entries
//! name descriptors by number, and a number that is closed early could be taken by the next socket before the kernel
//! reads the entry. Operations still in flight hold the file itself.

use super::local;
use crate::config::PortId;
use crate::flow::{FlowId, Time};
use crate::ring::{OpId, sockopt as sockopt_extra};
use crate::stack::{Intake, Open};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Receive buffer asked for on datagram sockets: a burst of 64 KiB super-datagrams must fit while the plane works on
/// something else. The kernel clips it to `net.core.rmem_max`.
const DATAGRAM_RCVBUF: usize = 4 << 20;

/// The operation that waits for what a socket receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// None.
    Nothing,
    /// A multishot receive.
    Bulk(OpId),
    /// A poll, before a piece is taken.
    Piece(OpId),
    /// One that has been cancelled.
    Ending(OpId),
    /// The stream has ended: never again.
    Over,
}

impl Armed {
    /// True of this operation.
    pub fn is(self, op: OpId) -> bool {
        matches!(self, Self::Bulk(o) | Self::Piece(o) | Self::Ending(o) if o == op)
    }
}

/// One flow's socket.
#[derive(Debug)]
pub struct HostSocket {
    /// Whose it is.
    pub flow: FlowId,
    /// The descriptor; `Err` when the host refused to make one, with its reason.
    pub fd: Result<OwnedFd, Errno>,
    /// The published port that it came by, if it is a client's.
    pub port: Option<PortId>,
    /// When it came to be.
    pub since: Time,
    /// The stack has wanted bytes at least once: the flow stood.
    pub stood: bool,
    /// Bytes have been sent on it.
    pub answered: bool,
    /// What is armed for receiving.
    pub armed: Armed,
    /// What the stack wants.
    pub intake: Intake,
    /// The stack asked for a FIN while a send was in flight.
    pub shutdown_after_send: bool,
    /// A send is in flight.
    pub sending: bool,
    /// Don't-fragment is set on the socket.
    pub dont_fragment: bool,
}

impl HostSocket {
    /// A socket for `open`, non-blocking and bound as asked.
    pub fn open(flow: FlowId, open: &Open, now: Time) -> Self {
        let made = make(open).map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
        Self::new(flow, made, None, now)
    }

    /// A socket that stands already: that of a client of a published port. Receiving starts when the stack says so.
    pub fn adopt(flow: FlowId, fd: OwnedFd, port: PortId, now: Time) -> Self {
        let socket = SockRef::from(&fd);
        // As for those made here; a client's connection works without them, too.
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_out_of_band_inline(true);
        let _ = socket.set_keepalive(true);
        Self::new(flow, Ok(fd), Some(port), now)
    }

    /// Nothing armed, nothing in flight.
    fn new(flow: FlowId, fd: Result<OwnedFd, Errno>, port: Option<PortId>, since: Time) -> Self {
        Self {
            flow,
            fd,
            port,
            since,
            stood: false,
            answered: false,
            armed: Armed::Nothing,
            intake: Intake::Off,
            shutdown_after_send: false,
            sending: false,
            dont_fragment: false,
        }
    }

    /// The descriptor to operate on.
    pub fn fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.fd.as_ref().map(AsFd::as_fd).map_err(|e| *e)
    }

    /// Sets or clears don't-fragment for what is sent from now on (`IP_MTU_DISCOVER`).
    pub fn set_dont_fragment(&mut self, v6: bool, on: bool) {
        // The kernel's default is to set the bit and to fragment here what does not fit.
        if let Ok(fd) = &self.fd
            && self.dont_fragment != on
        {
            let _ = sockopt_extra::set_dont_fragment(fd.as_fd(), v6, on);
            self.dont_fragment = on;
        }
    }
}

fn make(open: &Open) -> io::Result<OwnedFd> {
    let (dest, kind, protocol, bind) = match *open {
        Open::Tcp { remote, bind } => (remote.ip(), Type::STREAM, Protocol::TCP, bind),
        Open::Udp { sample, bind } => (sample.ip(), Type::DGRAM, Protocol::UDP, bind),
        Open::Ping { sample, bind } => {
            (sample, Type::DGRAM, if sample.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 }, bind)
        }
    };
    let domain = if dest.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))?;
    match open {
        Open::Tcp { .. } => {
            // The guest's own stack decides when to send; urgent data stays in line and is bounded by the stream.
            socket.set_tcp_nodelay(true)?;
            socket.set_out_of_band_inline(true)?;
            local::tune(&SockRef::from(&socket), dest);
            // A peer that vanished is found out at the host's own pace (`net.ipv4.tcp_keepalive_time`).
            socket.set_keepalive(true)?;
        }
        Open::Udp { .. } => {
            let _ = socket.set_recv_buffer_size(DATAGRAM_RCVBUF);
            datagram_options(&socket, dest)?;
            // Without it (an old kernel) datagrams arrive one by one.
            let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
        }
        Open::Ping { .. } => datagram_options(&socket, dest)?,
    }
    if let Some(source) = bind {
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    Ok(socket.into())
}

/// Errors are queued with their origin, and the type of service travels with each datagram.
fn datagram_options(socket: &Socket, dest: IpAddr) -> io::Result<()> {
    if dest.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
        let _ = socket.set_recv_tos_v4(true);
    } else {
        socket.set_only_v6(true).or_else(|e| if dest.is_ipv6() { Ok(()) } else { Err(e) })?;
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
        let _ = socket.set_recv_tclass_v6(true);
    }
    Ok(())
}

/// All sockets, by flow.
#[derive(Debug, Default)]
pub struct Sockets {
    by_kind: [Vec<Option<Box<HostSocket>>>; 5],
}

impl Sockets {
    /// Keeps `socket` under its flow. The one that had its place must have been removed.
    pub fn insert(&mut self, socket: HostSocket) -> &mut HostSocket {
        let table = &mut self.by_kind[socket.flow.kind() as usize];
        let index = socket.flow.index();
        if index >= table.len() {
            table.resize_with(index + 1, || None);
        }
        debug_assert!(table[index].is_none(), "a socket would be dropped with operations in flight");
        table[index].insert(Box::new(socket))
    }

    /// The socket of `flow`, unless it has been closed.
    pub fn get(&self, flow: FlowId) -> Option<&HostSocket> {
        self.by_kind[flow.kind() as usize].get(flow.index())?.as_deref().filter(|s| s.flow == flow)
    }

    /// The socket of `flow`, to use.
    pub fn get_mut(&mut self, flow: FlowId) -> Option<&mut HostSocket> {
        self.by_kind[flow.kind() as usize].get_mut(flow.index())?.as_deref_mut().filter(|s| s.flow == flow)
    }

    /// The flows of clients who came by this published port. For its end, never for the hot path.
    pub fn of_port(&self, port: PortId) -> Vec<FlowId> {
        let all = self.by_kind.iter().flatten().flatten();
        all.filter(|socket| socket.port == Some(port)).map(|socket| socket.flow).collect()
    }

    /// Takes the socket out.
    pub fn remove(&mut self, flow: FlowId) -> Option<Box<HostSocket>> {
        self.get_mut(flow)?;
        self.by_kind[flow.kind() as usize][flow.index()].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Kind, Table};

    #[test]
    fn connections_find_out_by_themselves_that_their_peer_is_gone() {
        let flow = Table::new(Kind::Tcp).insert(());
        let made =
            HostSocket::open(flow, &Open::Tcp { remote: ([127, 0, 0, 1], 9).into(), bind: None }, Time::ZERO);
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        for socket in [made, HostSocket::adopt(flow, client.into(), PortId(1), Time::ZERO)] {
            let fd = socket.fd().unwrap();
            let socket = socket2::SockRef::from(&fd);
            assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        }
    }
}
