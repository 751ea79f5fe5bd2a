//! Flows as control asks for them: pages in the order of their places, so that nothing is held between two pages.
//!
//! A flow keeps its place (its kind and its slot) for as long as it lives. A page begins at a place without a walk over
//! those before, and what it says of a flow's sockets costs two system calls: a page of flows has taken a debug
//! build 1.2 ms. The plane makes one page at a time and sees to its traffic between them. Of flows that rest while somebody
//! watches, a page says less ([`super::watch`]).

use super::relay_ports::RelayPorts;
use super::sockets::Sockets;
use super::tap_ports::TapPorts;
use super::watch::{Seen, Watch, print};
use crate::config::PortId;
use crate::flow::{FlowId, FlowInfo, Kind, Time};
use crate::msg::query::{Gear, PAGE, Path, Protocol};
use crate::msg::{FlowPage, FlowRecord, PortPage};
use crate::relay;
use crate::ring::sockopt::tcp_info;
use crate::stack::Stack;
use socket2::SockRef;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// Kinds of the stack's flows, in the order of their places.
const KINDS: [Kind; 5] = [Kind::Tcp, Kind::Udp, Kind::Ping, Kind::Dns, Kind::Inbound];

/// Where flows are looked for.
pub struct Tables<'a> {
    pub stack: &'a Stack,
    pub sockets: &'a Sockets,
    pub tap_ports: &'a TapPorts,
    pub relay_ports: &'a RelayPorts,
}

/// A flow of the stack's.
struct OfStack<'a>(&'a Tables<'a>, FlowInfo, Time);

impl Seen for OfStack<'_> {
    fn print(&self) -> u64 {
        print(self.1)
    }

    fn record(self) -> FlowRecord {
        let Tables { stack, sockets, tap_ports, .. } = self.0;
        of_stack(stack, sockets, tap_ports, &self.1, self.2)
    }
}

/// One of either.
enum Either<S, R> {
    Stack(S),
    Relay(R),
}

impl<S: Seen, R: Seen> Seen for Either<S, R> {
    fn print(&self) -> u64 {
        match self {
            Self::Stack(flow) => flow.print(),
            Self::Relay(flow) => flow.print(),
        }
    }

    fn record(self) -> FlowRecord {
        match self {
            Self::Stack(flow) => flow.record(),
            Self::Relay(flow) => flow.record(),
        }
    }
}

/// The page that begins at place `from`; see [`Watch::page`] for `since`.
pub fn flows(tables: &Tables<'_>, watch: &mut Watch, now: Time, from: u64, since: Option<u64>) -> FlowPage {
    let stacks = KINDS.into_iter().filter(|kind| *kind as u64 >= from >> 32).flat_map(|kind| {
        let index = if kind as u64 == from >> 32 { from & 0xffff_ffff } else { 0 };
        tables.stack.flows_from(kind, usize::try_from(index).unwrap_or(usize::MAX))
    });
    let stacks = stacks.map(|f| (place(f.id), Either::Stack(OfStack(tables, f, now))));
    let relays = tables.relay_ports.flows(now, from).map(|(place, flow)| (place, Either::Relay(flow)));
    watch.page(now, since, stacks.chain(relays))
}

/// A flow of the stack's, with what is known of its socket.
pub(super) fn of_stack(
    stack: &Stack,
    sockets: &Sockets,
    tap_ports: &TapPorts,
    f: &FlowInfo,
    now: Time,
) -> FlowRecord {
    if let Some(door) = stack.door_of(f.id) {
        let local = tap_ports.door(door).and_then(|(_, fd)| local(fd));
        return FlowRecord { local, ..record(f, now, tap_ports.port_of(door)) };
    }
    let Some(socket) = sockets.get(f.id) else { return record(f, now, None) };
    let mut record = record(f, now, socket.port);
    let Ok(fd) = socket.fd() else { return record };
    record.local = local(fd);
    if f.id.kind() == Kind::Tcp {
        (record.host_rtt_us, record.host_retransmits) = measured(fd);
        if socket.port.is_some() {
            record.host = peer(fd);
        }
    }
    record
}

/// A socket's own end.
pub(super) fn local(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    SockRef::from(&fd).local_addr().ok()?.as_socket().map(canonical)
}

/// A socket's other end.
pub(super) fn peer(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    SockRef::from(&fd).peer_addr().ok()?.as_socket().map(canonical)
}

/// An IPv4 end of a socket of both families, as people write it.
pub(super) fn canonical(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}

/// Round-trip time and segments sent again, as the kernel knows them. Nothing was measured where the time is zero.
pub(super) fn measured(fd: BorrowedFd<'_>) -> (Option<u64>, u64) {
    let Some(info) = tcp_info(fd) else { return (None, 0) };
    ((info.rtt_us > 0).then_some(info.rtt_us.into()), info.retransmits.into())
}

pub(super) const fn gear(gear: relay::Gear) -> Gear {
    match gear {
        relay::Gear::Copy => Gear::Copy,
        relay::Gear::SpliceSqe => Gear::SpliceSqe,
        relay::Gear::SpliceCall => Gear::SpliceCall,
    }
}

/// Both tables' ports as one page.
pub fn merge(a: PortPage, b: PortPage) -> PortPage {
    let mut more = a.next.is_some() || b.next.is_some();
    let mut ports = [a.ports, b.ports].concat();
    ports.sort_unstable_by_key(|p| p.port);
    more |= ports.len() > PAGE;
    ports.truncate(PAGE);
    let next = ports.last().map(|p| p.port).filter(|_| more);
    PortPage { ports, next }
}

/// Kind, then slot: no more than 35 bits, which JSON's numbers keep.
fn place(id: FlowId) -> u64 {
    ((id.kind() as u64) << 32) | id.index() as u64
}

fn record(f: &FlowInfo, now: Time, port: Option<PortId>) -> FlowRecord {
    let c = &f.counters;
    FlowRecord {
        id: format!("{:?}", f.id).to_lowercase(),
        place: place(f.id),
        protocol: match f.id.kind() {
            Kind::Tcp | Kind::Relay => Protocol::Tcp,
            Kind::Udp | Kind::Inbound => Protocol::Udp,
            Kind::Ping => Protocol::Icmp,
            Kind::Dns => Protocol::Dns,
        },
        path: if port.is_some() { Path::Injected } else { Path::Tap },
        gears: None,
        port,
        guest: f.guest,
        remote: f.remote,
        host: f.host.map(canonical),
        local: None,
        state: f.state.to_owned(),
        age_ms: millis(now.since(f.opened)),
        bytes_up: c.bytes_up,
        bytes_down: c.bytes_down,
        packets_up: c.packets_up,
        packets_down: c.packets_down,
        retransmits: c.retransmits,
        host_retransmits: 0,
        rtt_us: f.rtt.map(|t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX)),
        host_rtt_us: None,
        buffered_up: f.queued_up as u64,
        buffered_down: f.queued_down as u64,
    }
}

pub(super) fn millis(t: std::time::Duration) -> u64 {
    u64::try_from(t.as_millis()).unwrap_or(u64::MAX)
}
