//! Published ports: clients that come in here enter the guest as packets on the tap.
//!
//! Theory of operation. Control sends a port's listeners as they are bound; each becomes a [`Entry`] of a table, whose
//! number is the stack's [`Door`]. A listener accepts for as long as it is published: a client's socket becomes the host
//! socket of a flow ([`Shard::accept_stream`]). A datagram socket receives for all its clients; who they are is the
//! stack's to know, and what it sends back leaves by the same socket. An accept that fails for want of descriptors or
//! memory rests and is armed again: nothing but `Unpublish` ends a listener. What each port has seen is counted here, and
//! shown to whoever asks control.

use super::datagrams::singles;
use super::errqueue;
use super::local;
use super::relays::udp::prepare;
use super::shard::Shard;
use super::sockets::HostSocket;
use super::tag::Tag;
use crate::buf::{Class, Span};
use crate::config::{PortId, ProxyProtocol, Published};
use crate::flow::{DropReason, Time};
use crate::msg::query::PAGE;
use crate::msg::{PortCounters, PortPage};
use crate::relay::proxy;
use crate::ring::{Completion, Data, Local, Message, OpId};
use crate::stack::{Arrival, Datagrams, Door, HostError, HostEvent};
use nix::errno::Errno;
use slab::Slab;
use socket2::SockRef;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use tracing::debug;

/// How long a listener rests that could not accept: short for a client that waits, long for a loop.
const REST: Duration = Duration::from_millis(50);

/// A published port or range, and what it has seen.
#[derive(Debug)]
struct Port {
    published: Published,
    counters: PortCounters,
}

/// A listening or bound socket.
#[derive(Debug)]
struct Entry {
    port: PortId,
    /// Number of its port within the range.
    index: u16,
    fd: OwnedFd,
    /// The armed accept or receive.
    op: Option<OpId>,
}

/// A send from a published socket in flight; a reference on each of its buffers is held.
#[derive(Debug)]
struct Leaving {
    door: u32,
    /// The address of ours that the client used; unspecified: the kernel's choice.
    from: IpAddr,
    data: Datagrams,
    retried: bool,
}

/// All ports that lead through the tap.
#[derive(Debug, Default)]
pub struct TapPorts {
    ports: BTreeMap<PortId, Port>,
    entries: Slab<Entry>,
    leaving: Slab<Leaving>,
    /// Entries to arm again, and when; in order of time, for all rest equally long.
    resting: VecDeque<(Time, u32)>,
    /// Entries whose receive ended for want of buffers, which the next sends give back.
    starved: Vec<u32>,
}

impl TapPorts {
    /// The counters of a port, to change; `None` once it is no longer published.
    pub fn counters_of(&mut self, port: PortId) -> Option<&mut PortCounters> {
        self.ports.get_mut(&port).map(|p| &mut p.counters)
    }

    /// What ports have seen, in pages; the page that begins behind `after`. `open` counts the live clients of a port, who
    /// came by these listeners of it.
    pub fn counters(
        &self,
        after: PortId,
        mut open: impl FnMut(PortId, &dyn Fn(Door) -> bool) -> u64,
    ) -> PortPage {
        let mut rest = self.ports.range((Bound::Excluded(after), Bound::Unbounded));
        let ports: Vec<_> = rest
            .by_ref()
            .take(PAGE)
            .map(|(id, port)| {
                let doors = |door: Door| self.port_of(door) == Some(*id);
                PortCounters { open: open(*id, &doors), ..port.counters }
            })
            .collect();
        let next = rest.next().and_then(|_| ports.last().map(|p| p.port));
        PortPage { ports, next }
    }

    /// When a listener has rested long enough.
    pub fn next_deadline(&self) -> Option<Time> {
        self.resting.front().map(|(at, _)| *at)
    }

    /// The port that a listener belongs to.
    pub fn port_of(&self, door: Door) -> Option<PortId> {
        self.entries.get(door.0 as usize).map(|entry| entry.port)
    }

    /// What was published, and the socket, of a listener.
    pub fn door(&self, door: Door) -> Option<(&Published, BorrowedFd<'_>)> {
        self.of(door.0).map(|(port, entry)| (port, entry.fd.as_fd()))
    }

    /// Listeners of a port.
    pub fn listeners_of(&self, port: PortId) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.entries.iter().filter(move |(_, e)| e.port == port).map(|(_, e)| e.fd.as_fd())
    }

    /// A port of this table.
    pub fn published(&self, port: PortId) -> Option<&Published> {
        self.ports.get(&port).map(|p| &p.published)
    }

    /// What an entry leads to.
    fn of(&self, key: u32) -> Option<(&Published, &Entry)> {
        let entry = self.entries.get(key as usize)?;
        Some((&self.ports.get(&entry.port)?.published, entry))
    }
}

impl Shard {
    /// A port is published; its listeners follow.
    pub(super) fn publish_on_tap(&mut self, port: Published) {
        let net = self.stack.network();
        let own = [Some(net.guest_v4().into()), net.guest_v6().map(IpAddr::V6)];
        let named = port.named().filter(|ip| !ip.is_loopback());
        for guest in named.map_or(own, |ip| [Some(ip), None]).into_iter().flatten() {
            self.stack.expect_inbound(self.now, guest);
        }
        let counters = PortCounters::new(port.id);
        self.tap_ports.ports.insert(port.id, Port { published: port, counters });
    }

    /// Listeners of a published port: arms them. Those of any other close here.
    pub(super) fn listen_on_tap(&mut self, port: PortId, first: u16, fds: Vec<OwnedFd>) {
        if !self.tap_ports.ports.contains_key(&port) {
            return;
        }
        for (fd, index) in fds.into_iter().zip(first..) {
            local::tune_listener(&SockRef::from(&fd));
            let key = self.tap_ports.entries.insert(Entry { port, index, fd, op: None });
            self.arm_entry(u32::try_from(key).expect("fewer listeners than descriptors"));
        }
    }

    /// A port of this table is no longer published.
    pub(super) fn unpublish_on_tap(&mut self, port: PortId, connections: bool) {
        if self.tap_ports.ports.remove(&port).is_none() {
            return;
        }
        let mut gone = Vec::new();
        for (key, entry) in &self.tap_ports.entries {
            if entry.port == port {
                gone.push(key);
            }
        }
        for key in gone {
            let entry = self.tap_ports.entries.remove(key);
            self.ring.cancel_fd(entry.fd.as_fd());
            self.graveyard.push(entry.fd);
            self.stack.close_door(self.now, Door(key as u32));
        }
        if connections {
            for flow in self.sockets.of_port(port) {
                self.stack.handle_host(self.now, flow, HostEvent::ReceiveFailed(HostError::Reset));
            }
        }
    }

    fn arm_entry(&mut self, key: u32) {
        let Some((port, entry)) = self.tap_ports.of(key) else { return };
        let fd = entry.fd.as_fd();
        let op = if port.udp {
            // What control has not set already; without it answers leave from the kernel's choice of address.
            if let Err(e) = prepare(&entry.fd) {
                debug!("options of a published socket: {e}");
            }
            self.ring.receive_messages(fd, Tag::TapPortDatagrams(key))
        } else {
            self.ring.accept(fd, Tag::TapPortAccept(key))
        };
        if let Some(entry) = self.tap_ports.entries.get_mut(key as usize) {
            entry.op = Some(op);
        }
    }

    fn rest_entry(&mut self, key: u32) {
        self.tap_ports.resting.push_back((self.now + REST, key));
    }

    /// Arms the listeners that have rested.
    pub(super) fn wake_tap_ports(&mut self) {
        while let Some(&(at, key)) = self.tap_ports.resting.front()
            && at <= self.now
        {
            self.tap_ports.resting.pop_front();
            // The number may be another listener's by now, which is armed.
            if self.tap_ports.entries.get(key as usize).is_some_and(|e| e.op.is_none()) {
                self.arm_entry(key);
            }
        }
    }

    /// Arms the listeners of datagrams that had no buffers, now that there are some.
    pub(super) fn feed_tap_ports(&mut self) {
        for key in std::mem::take(&mut self.tap_ports.starved) {
            // As above.
            if self.tap_ports.entries.get(key as usize).is_some_and(|e| e.op.is_none()) {
                self.arm_entry(key);
            }
        }
    }

    /// True if datagrams of listeners wait for buffers.
    pub(super) fn tap_ports_starve(&self) -> bool {
        !self.tap_ports.starved.is_empty()
    }

    /// Notes the end of an entry's operation. False for one of an earlier holder of the number.
    fn entry_completed(&mut self, key: u32, op: OpId, more: bool) -> bool {
        let Some(entry) = self.tap_ports.entries.get_mut(key as usize) else { return false };
        let ours = entry.op == Some(op);
        if ours && !more {
            entry.op = None;
        }
        ours
    }

    pub(super) fn on_tap_port_accept(&mut self, key: u32, c: Completion<Tag>) {
        if !self.entry_completed(key, c.op, c.more) {
            return;
        }
        let failed = match (c.result, c.data) {
            (Ok(_), Data::Fd(fd)) => {
                let client = SockRef::from(&fd).peer_addr().ok().and_then(|a| a.as_socket());
                let port = self.tap_ports.of(key).map(|(port, entry)| (port.clone(), entry.index));
                // A client that is gone already has no address any more.
                if let (Some(client), Some((port, index))) = (client, port) {
                    self.accept_stream(fd, &port, index, client);
                }
                false
            }
            (Ok(_), _) => false,
            (Err(e), _) => {
                debug!("accepting for a published port: {e}");
                true
            }
        };
        match (c.more, failed) {
            (true, _) => {}
            (false, false) => self.arm_entry(key),
            (false, true) => self.rest_entry(key),
        }
    }

    /// A client's connection to number `index` of a published range, accepted: dials the guest for it. The client is
    /// reset when there is no room for the flow.
    pub(super) fn accept_stream(&mut self, fd: OwnedFd, port: &Published, index: u16, client: SocketAddr) {
        let guest = port.target(self.stack.network(), index, client.ip());
        // A connection that has ended in this very batch is closed first: its place may be the new one's, and its socket would
        // be dropped there with a receive still in flight, which keeps it open for ever.
        self.carry_out();
        let instead = self.stack.counters().shown_as_gateway;
        let header = port.proxy_protocol.and_then(|version| self.proxy_header(version, &fd, client));
        let flow = self.stack.accept_stream(self.now, guest, client, port.source_ip);
        if let Some(counters) = self.tap_ports.counters_of(port.id) {
            counters.shown_as_gateway += self.stack.counters().shown_as_gateway - instead;
            *(if flow.is_some() { &mut counters.accepted } else { &mut counters.shed }) += 1;
        }
        match flow {
            Some(flow) => {
                self.sockets.insert(HostSocket::adopt(flow, fd, port.id, self.now));
                if let Some(header) = header {
                    self.stack.handle_host(self.now, flow, HostEvent::Received(header));
                }
            }
            None => {
                if let Some(header) = header {
                    self.ring.release(header.buf);
                }
                // Lingering for no time at all makes close(2) send a reset (socket(7)).
                let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
            }
        }
    }

    /// The PROXY header of a client, in a buffer of its own; none where the client is gone or no buffer is free.
    fn proxy_header(&mut self, version: ProxyProtocol, fd: &OwnedFd, client: SocketAddr) -> Option<Span> {
        let local = SockRef::from(fd).local_addr().ok()?.as_socket()?;
        let bytes = proxy::header(version, client, local);
        let arena = self.ring.arena_mut();
        let span = Span::new(arena.alloc(Class::Small)?, 0, bytes.len() as u32);
        arena.bytes_mut(span).copy_from_slice(&bytes);
        Some(span)
    }

    /// Live clients of a port: connections, and datagram flows that came by its sockets.
    pub(super) fn open_clients(&self, port: PortId, doors: &dyn Fn(Door) -> bool) -> u64 {
        (self.sockets.of_port(port).len() + self.stack.clients_of(doors)) as u64
    }

    pub(super) fn on_tap_port_datagrams(&mut self, key: u32, c: Completion<Tag>) {
        if !self.entry_completed(key, c.op, c.more) {
            return self.discard(c.data);
        }
        let failed = match c.result {
            Ok(_) => {
                if let Data::Message { from: Some(client), to, data, segment, tos, truncated: false, .. } =
                    c.data
                    && let Some((port, entry)) = self.tap_ports.of(key)
                {
                    let guest = port.target(self.stack.network(), entry.index, client.ip());
                    let (id, source_ip) = (port.id, port.source_ip);
                    let data = self.shrink_payload(data);
                    let local = to.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |to| to.ip);
                    let door = Door(key);
                    let arrival = Arrival { door, client, local, guest, source_ip, data, segment, tos };
                    let (opened, instead) = self.inbound_counts();
                    let took = self.stack.accept_datagrams(self.now, &arrival);
                    let (opened_now, instead_now) = self.inbound_counts();
                    if let Some(counters) = self.tap_ports.counters_of(id) {
                        counters.accepted += opened_now - opened;
                        counters.shown_as_gateway += instead_now - instead;
                        *(if took { &mut counters.bytes_down } else { &mut counters.shed }) +=
                            if took { u64::from(data.len) } else { 1 };
                    }
                } else {
                    self.stack.count_drop(DropReason::Malformed);
                    self.discard(c.data);
                }
                false
            }
            Err(Errno::ENOBUFS) => {
                if !c.more {
                    self.tap_ports.starved.push(key);
                }
                return;
            }
            Err(Errno::ENOMEM) => true,
            Err(_) => {
                self.drain_door(key);
                false
            }
        };
        match (c.more, failed) {
            (true, _) => {}
            (false, false) => self.arm_entry(key),
            (false, true) => self.rest_entry(key),
        }
    }

    /// Flows opened, and clients shown as the gateway against their wish, so far.
    fn inbound_counts(&self) -> (u64, u64) {
        (self.stack.counters().flows_opened, self.stack.counters().shown_as_gateway)
    }

    /// Reads the error queue of a published socket and tells the stack.
    fn drain_door(&mut self, key: u32) {
        let Some((port, entry)) = self.tap_ports.of(key) else { return };
        let (stack, now, index) = (&mut self.stack, self.now, entry.index);
        errqueue::drain(entry.fd.as_fd(), false, |error| {
            let guest = port.target(stack.network(), index, error.to.ip());
            stack.published_error(now, guest, &error);
        });
    }

    /// Sends answers out of a published socket.
    pub(super) fn send_published(&mut self, door: Door, from: IpAddr, data: Datagrams) {
        for span in &data.spans {
            self.ring.arena_mut().retain(span.buf);
        }
        if let Some(counters) = self.tap_ports.port_of(door).and_then(|port| self.tap_ports.counters_of(port))
        {
            counters.bytes_up += data.spans.iter().map(|span| u64::from(span.len)).sum::<u64>();
        }
        self.submit_published(Leaving { door: door.0, from, data, retried: false });
    }

    fn submit_published(&mut self, leaving: Leaving) {
        let door = leaving.door as usize;
        if !self.tap_ports.entries.contains(door) {
            return self.drop_leaving(&leaving);
        }
        let key = self.tap_ports.leaving.insert(leaving);
        let (leaving, entry) = (&self.tap_ports.leaving[key], &self.tap_ports.entries[door]);
        let data = &leaving.data;
        let message = Message {
            to: Some(data.to),
            from: Some(Local { ip: leaving.from, interface: 0 }).filter(|from| !from.ip.is_unspecified()),
            head: &data.head,
            spans: &data.spans,
            segment: data.segment,
            ttl: Some(data.ttl),
            tos: (data.tos != 0).then_some(data.tos),
        };
        self.ring.send_message(entry.fd.as_fd(), &message, Tag::TapPortSent(key as u32));
    }

    fn drop_leaving(&mut self, leaving: &Leaving) {
        for span in &leaving.data.spans {
            self.ring.release(span.buf);
        }
    }

    pub(super) fn on_tap_port_sent(&mut self, key: u32, c: &Completion<Tag>) {
        let Some(leaving) = self.tap_ports.leaving.try_remove(key as usize) else { return };
        let error = match c.result {
            Ok(_) | Err(Errno::ECANCELED) => return self.drop_leaving(&leaving),
            Err(e) => e,
        };
        self.drain_door(leaving.door);
        if leaving.data.segment.is_some() && matches!(error, Errno::EMSGSIZE | Errno::EIO | Errno::EINVAL) {
            for data in singles(&leaving.data) {
                for span in &data.spans {
                    self.ring.arena_mut().retain(span.buf);
                }
                self.submit_published(Leaving {
                    door: leaving.door,
                    from: leaving.from,
                    data,
                    retried: false,
                });
            }
            return self.drop_leaving(&leaving);
        }
        if !leaving.retried && error != Errno::EMSGSIZE {
            // Most likely an ICMP error of an earlier datagram, to whatever client: this one is still unsent.
            return self.submit_published(Leaving { retried: true, ..leaving });
        }
        self.stack.count_drop(DropReason::HostRefused);
        self.drop_leaving(&leaving);
    }
}
