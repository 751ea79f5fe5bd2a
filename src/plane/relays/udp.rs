//! Published datagram ports: bound sockets on one side, one connected socket per client on the other.
//!
//! Theory of operation. This drives [`crate::relay::udp`]: completions become its events, its actions become operations
//! of the ring, and whoever owns the loop makes the backend sockets that it wants ([`UdpRelays::poll_wanted`],
//! [`UdpRelays::opened`]), for only that one knows where they come from and whom the guest is to see. The ring is the
//! caller's, and so is the tag of its operations: [`UdpTag`] is wrapped into it.
//!
//! ```text
//!   each round: wait -> handle(completion).. -> handle_timeout -> end_batch -> poll_wanted/opened..
//! ```
//!
//! *Answers* leave from the address that the client used (`IP_PKTINFO`): on a host with several addresses a client drops
//! what comes from another. The interface is named for link-local addresses only, so that routes may differ each way.
//!
//! *Errors.* An ICMP error of one client fails the next operation on the listener, whoever that is for: the error queue
//! is drained and the operation tried once more. A client's *port unreachable* ends its mapping, so that the guest's
//! next datagram meets a closed port in its own kernel and its server learns of it. An error of a backend (refused, most
//! often) costs the datagram that caused it, as it does on the network; it is not ours to send ICMP from here.
//!
//! Limits: a send into a full socket buffer is dropped, as a network does, and counted. Order within one direction is
//! kept because sockets are non-blocking and sends are carried out as they are submitted.

use super::super::errqueue;
use crate::buf::{Class, Span, join};
use crate::flow::{FlowId, Time};
use crate::relay::udp::{Action, Counters, Info, Limits, Path, Relay, Send, Way};
use crate::ring::{Completion, Data, Local, Message, OpId, Ring};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{setsockopt, sockopt};
use slab::Slab;
use socket2::SockRef;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Buffers asked for on listeners: a burst of 64 KiB super-datagrams of many clients must fit while the plane works on
/// something else. The kernel clips it to `net.core.rmem_max` and `wmem_max`.
const LISTENER_BUFFER: usize = 4 << 20;
/// The same for the socket of one client.
const BACKEND_BUFFER: usize = 1 << 20;
/// Free buffers from which receives that starved are armed again.
const ENOUGH_BUFFERS: usize = 8;

/// The operations of the relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpTag {
    /// Datagrams of clients at this listener.
    Listener(u32),
    /// Datagrams of the guest for this mapping.
    Backend(FlowId),
    /// A send: its slot.
    Sent(u32),
}

struct Listener {
    fd: OwnedFd,
    receiving: Option<OpId>,
}

struct Backend {
    id: FlowId,
    fd: OwnedFd,
    receiving: Option<OpId>,
}

struct Pending {
    send: Send,
    /// It failed once because of somebody else's error, and was sent again.
    retried: bool,
}

/// All published datagram ports of a shard.
pub struct UdpRelays<T: Copy> {
    relay: Relay,
    listeners: Slab<Listener>,
    backends: Vec<Option<Backend>>,
    outbox: Slab<Pending>,
    wanted: VecDeque<(FlowId, Path)>,
    starved: Vec<UdpTag>,
    /// Closed after the next submission: entries name descriptors by number.
    graveyard: Vec<OwnedFd>,
    tag: fn(UdpTag) -> T,
}

impl<T: Copy> UdpRelays<T> {
    /// No port yet. `tag` makes the ring's tag of ours.
    pub fn new(limits: Limits, tag: fn(UdpTag) -> T) -> Self {
        Self {
            relay: Relay::new(limits),
            listeners: Slab::new(),
            backends: Vec::new(),
            outbox: Slab::new(),
            wanted: VecDeque::new(),
            starved: Vec::new(),
            graveyard: Vec::new(),
            tag,
        }
    }

    /// Serves a bound datagram socket from now on; sets what [`prepare`] has not. Returns its number, which is that of
    /// [`Path::listener`] and is used again only after [`Self::remove`]. Fails if it is no IP socket.
    pub fn add(&mut self, ring: &mut Ring<T>, fd: OwnedFd) -> io::Result<u32> {
        prepare(&fd)?;
        let entry = self.listeners.vacant_entry();
        let number = u32::try_from(entry.key()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let receiving = Some(ring.receive_messages(fd.as_fd(), (self.tag)(UdpTag::Listener(number))));
        entry.insert(Listener { fd, receiving });
        Ok(number)
    }

    /// Stops serving a listener: its mappings end. Returns what was counted.
    pub fn remove(&mut self, ring: &mut Ring<T>, number: u32) -> Counters {
        let counters = self.relay.remove_listener(number);
        if let Some(listener) = self.listeners.try_remove(number as usize) {
            ring.cancel_fd(listener.fd.as_fd());
            self.graveyard.push(listener.fd);
        }
        self.perform(ring);
        counters
    }

    /// What was counted for a listener.
    pub fn counters(&self, number: u32) -> Counters {
        self.relay.counters(number)
    }

    /// The live mappings.
    pub fn mappings(&self) -> impl Iterator<Item = Info> {
        self.relay.mappings()
    }

    /// The sockets of a mapping: the listener's, and the one inside once it is there.
    pub fn ends(&self, mapping: &Info) -> (Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>) {
        let listener = self.listeners.get(mapping.path.listener as usize).map(|l| l.fd.as_fd());
        let backend = self.backends.get(mapping.id.index()).and_then(Option::as_ref);
        (listener, backend.filter(|b| b.id == mapping.id).map(|b| b.fd.as_fd()))
    }

    /// Whether a mapping lives.
    pub fn is_alive(&self, id: FlowId) -> bool {
        self.relay.path(id).is_some()
    }

    /// A backend socket to be made for a client: answer with [`Self::opened`], at once or later.
    pub fn poll_wanted(&mut self) -> Option<(FlowId, Path)> {
        loop {
            let (id, path) = self.wanted.pop_front()?;
            if self.relay.path(id).is_some() {
                return Some((id, path));
            }
        }
    }

    /// The socket for a mapping, bound and connected, or why there is none. One whose mapping has ended is closed.
    pub fn opened(&mut self, ring: &mut Ring<T>, id: FlowId, socket: io::Result<OwnedFd>) {
        let index = id.index();
        match socket.and_then(|fd| backend_options(&fd).map(|()| fd)) {
            Ok(_) if self.relay.path(id).is_none() => return,
            Ok(fd) => {
                if index >= self.backends.len() {
                    self.backends.resize_with(index + 1, || None);
                }
                let receiving = Some(ring.receive_messages(fd.as_fd(), (self.tag)(UdpTag::Backend(id))));
                self.backends[index] = Some(Backend { id, fd, receiving });
                self.relay.opened(id);
            }
            Err(e) => {
                tracing::debug!("no backend socket for {:?}: {e}", self.relay.path(id));
                self.relay.open_failed(id);
            }
        }
        self.perform(ring);
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.relay.poll_timeout()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.relay.handle_timeout(now);
    }

    /// The completions there are have been handled: carries out what they caused.
    pub fn end_batch(&mut self, ring: &mut Ring<T>) {
        // What is in here was submitted by the wait that began this batch.
        self.graveyard.clear();
        self.relay.end_batch();
        self.perform(ring);
        if !self.starved.is_empty() && ring.buffers_available(Class::Message) >= ENOUGH_BUFFERS {
            for tag in std::mem::take(&mut self.starved) {
                self.arm(ring, tag);
            }
        }
    }

    fn backend(&mut self, id: FlowId) -> Option<&mut Backend> {
        self.backends.get_mut(id.index())?.as_mut().filter(|b| b.id == id)
    }

    fn receiver(&mut self, tag: UdpTag) -> Option<(BorrowedFd<'_>, &mut Option<OpId>)> {
        match tag {
            UdpTag::Listener(n) => {
                self.listeners.get_mut(n as usize).map(|l| (l.fd.as_fd(), &mut l.receiving))
            }
            UdpTag::Backend(id) => self.backend(id).map(|b| (b.fd.as_fd(), &mut b.receiving)),
            UdpTag::Sent(_) => None,
        }
    }

    fn arm(&mut self, ring: &mut Ring<T>, tag: UdpTag) {
        let wrapped = (self.tag)(tag);
        if let Some((fd, receiving)) = self.receiver(tag) {
            *receiving = Some(ring.receive_messages(fd, wrapped));
        }
    }

    /// Something has happened to an operation of ours.
    pub fn handle(&mut self, ring: &mut Ring<T>, now: Time, tag: UdpTag, c: Completion<T>) {
        if let UdpTag::Sent(key) = tag {
            return self.on_sent(ring, key, c.result);
        }
        if self.receiver(tag).is_none_or(|(_, receiving)| *receiving != Some(c.op)) {
            return discard(ring, &c.data);
        }
        match (c.result, c.data) {
            (Ok(_), Data::Message { from: Some(from), to, data, segment, truncated: false, .. }) => match tag
            {
                UdpTag::Listener(listener) => {
                    let path = Path { listener, client: from, local: to.and_then(source) };
                    self.relay.from_client(now, path, data, segment);
                }
                UdpTag::Backend(id) => self.relay.from_backend(now, id, data, segment),
                UdpTag::Sent(_) => {}
            },
            (Ok(_), data) => discard(ring, &data),
            (Err(Errno::ENOBUFS), _) if !c.more => return self.starved.push(tag),
            // Somebody's ICMP error: the socket lives on.
            (Err(_), _) => self.drain(tag),
        }
        if !c.more {
            self.arm(ring, tag);
        }
    }

    /// Reads a listener's error queue.
    fn drain(&mut self, tag: UdpTag) {
        let UdpTag::Listener(number) = tag else { return };
        let Some(listener) = self.listeners.get(number as usize) else { return };
        let relay = &mut self.relay;
        errqueue::drain(listener.fd.as_fd(), false, |error| {
            // Port unreachable: RFC 792, RFC 4443 section 3.1. Of a dual-stack socket's IPv4 clients too.
            if matches!((error.icmp_type, error.code), (3, 3) | (1, 4)) {
                relay.client_gone(number, error.to);
            }
        });
    }

    fn perform(&mut self, ring: &mut Ring<T>) {
        while let Some(action) = self.relay.poll_action() {
            match action {
                Action::Open(id, path) => self.wanted.push_back((id, path)),
                Action::Send(send) => self.send(ring, send, false),
                Action::Close(id) => {
                    if self.backend(id).is_some()
                        && let Some(backend) = self.backends[id.index()].take()
                    {
                        ring.cancel_fd(backend.fd.as_fd());
                        self.graveyard.push(backend.fd);
                    }
                }
                Action::Retain(buf) => ring.arena_mut().retain(buf),
                Action::Release(buf) => ring.release(buf),
            }
        }
    }

    /// Sends, and keeps what is sent until its completion says what became of it.
    fn send(&mut self, ring: &mut Ring<T>, send: Send, retried: bool) {
        for span in &send.spans {
            ring.arena_mut().retain(span.buf);
        }
        let entry = self.outbox.vacant_entry();
        let key = entry.key() as u32;
        let Pending { send, .. } = entry.insert(Pending { send, retried });
        let path = send.path;
        let (fd, to, from) = match send.way {
            Way::ToClient => {
                let from = path.local.map(|(ip, interface)| Local { ip, interface });
                (self.listeners.get(path.listener as usize).map(|l| l.fd.as_fd()), Some(path.client), from)
            }
            Way::ToBackend => {
                let backend = self.backends.get(send.mapping.index()).and_then(Option::as_ref);
                (backend.filter(|b| b.id == send.mapping).map(|b| b.fd.as_fd()), None, None)
            }
        };
        let Some(fd) = fd else { return self.on_sent(ring, key, Err(Errno::EBADF)) };
        let segment = send.segment;
        let message = Message { to, from, head: &[], spans: &send.spans, segment, ttl: None, tos: None };
        ring.send_message(fd, &message, (self.tag)(UdpTag::Sent(key)));
    }

    fn on_sent(&mut self, ring: &mut Ring<T>, key: u32, result: Result<u32, Errno>) {
        let Some(Pending { send, retried }) = self.outbox.try_remove(key as usize) else { return };
        let kept: smallvec::SmallVec<[Span; 8]> = send.spans.iter().copied().collect();
        let (mapping, way) = (send.mapping, send.way);
        match result {
            Ok(_) if send.segment.is_none() => {}
            Ok(_) => self.relay.passed(mapping, way),
            Err(Errno::EMSGSIZE | Errno::EIO | Errno::EINVAL) if send.segment.is_some() => {
                for spans in join::singles(&send.spans, send.segment.unwrap_or(u16::MAX)) {
                    self.send(ring, Send { spans, segment: None, ..send.clone() }, false);
                }
                self.relay.cannot_segment(mapping, way);
            }
            Err(
                Errno::EBADF
                | Errno::EAGAIN
                | Errno::EMSGSIZE
                | Errno::ECANCELED
                | Errno::ENOMEM
                | Errno::ENOBUFS,
            ) => {
                self.give_up(&send);
            }
            Err(_) if retried => self.give_up(&send),
            Err(_) => {
                // Most likely the ICMP error of an earlier datagram, maybe another client's: this one is still unsent.
                if way == Way::ToClient {
                    self.drain(UdpTag::Listener(send.path.listener));
                }
                self.send(ring, send, true);
            }
        }
        for span in kept {
            ring.release(span.buf);
        }
    }

    fn give_up(&mut self, send: &Send) {
        self.relay.send_failed(&send.path);
        if send.segment.is_some() {
            self.relay.passed(send.mapping, send.way);
        }
    }
}

fn discard<T: Copy>(ring: &mut Ring<T>, data: &Data) {
    if let Some(span) = data.span() {
        ring.release(span.buf);
    }
}

/// The address to answer from: what the client used, unless it was a group's. Naming the interface would force answers
/// onto the way in, so that is done only where the address means nothing without.
fn source(local: Local) -> Option<(IpAddr, u32)> {
    let unusable = local.ip.is_unspecified() || local.ip.is_multicast();
    let link_local = matches!(local.ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    (!unusable).then_some((local.ip, if link_local { local.interface } else { 0 }))
}

/// Sets what a listener needs: `IP_PKTINFO`, `IP_RECVERR`, `UDP_GRO`, large buffers, non-blocking. To be done before
/// bind(2) by whoever binds: of a datagram that came in before, the kernel no longer says which address it was sent to, so
/// it would get a mapping of its own. Fails if it is no IP socket.
pub fn prepare(fd: &OwnedFd) -> io::Result<()> {
    let socket = SockRef::from(fd);
    common_options(fd, LISTENER_BUFFER)?;
    match socket.local_addr()?.as_socket() {
        Some(SocketAddr::V4(_)) => {
            setsockopt(fd, sockopt::Ipv4PacketInfo, &true)?;
            setsockopt(fd, sockopt::Ipv4RecvErr, &true)?;
        }
        Some(SocketAddr::V6(_)) => {
            setsockopt(fd, sockopt::Ipv6RecvPacketInfo, &true)?;
            setsockopt(fd, sockopt::Ipv6RecvErr, &true)?;
            // For IPv4 clients, where it is a dual-stack socket.
            let _ = setsockopt(fd, sockopt::Ipv4RecvErr, &true);
        }
        None => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(())
}

fn backend_options(fd: &OwnedFd) -> io::Result<()> {
    common_options(fd, BACKEND_BUFFER)
}

fn common_options(fd: &OwnedFd, buffer: usize) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    let socket = SockRef::from(fd);
    let _ = socket.set_recv_buffer_size(buffer);
    let _ = socket.set_send_buffer_size(buffer);
    // Without it (an old kernel) datagrams arrive one by one.
    let _ = setsockopt(fd, sockopt::UdpGroSegment, &true);
    Ok(())
}
