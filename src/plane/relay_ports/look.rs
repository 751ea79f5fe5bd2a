//! Relayed flows for people to look at: pages of them, one in detail, and what the relays have measured.

use super::{Door, RelayPorts, Relays};
use crate::config::Dial;
use crate::flow::{FlowId, Time};
use crate::msg::detail::{Role, Showing};
use crate::msg::query::{Path as Way, Protocol, WALK_PAGE};
use crate::msg::stats::PipeStats;
use crate::msg::{FlowDetail, FlowRecord};
use crate::plane::detail::{self, RELAYED};
use crate::plane::queries::{self, canonical, gear, measured, millis};
use crate::plane::relays::Listing;
use crate::plane::tally::RelayStats;
use crate::plane::watch::{Seen, print};
use crate::relay::udp::Info;
use std::net::SocketAddr;
use std::time::Duration;

/// Places of relayed flows in a listing, after all kinds of the stack's.
const STREAMS: u64 = 6;
const DATAGRAMS: u64 = 7;

/// A relayed flow on its way to a page.
pub(in crate::plane) enum Relayed<'a> {
    Stream(Listing<'a>, Time),
    Datagrams(&'a Relays, Info, Time),
}

impl Seen for Relayed<'_> {
    fn print(&self) -> u64 {
        match self {
            Self::Stream(one, _) => print((one.id, one.bytes, one.held, one.gears, one.open, one.shown)),
            Self::Datagrams(_, one, _) => print(one),
        }
    }

    fn record(self) -> FlowRecord {
        match self {
            Self::Stream(one, now) => stream(&one, now),
            Self::Datagrams(relays, one, now) => datagram(relays, &one, now),
        }
    }
}

impl RelayPorts {
    /// Live flows from place `from` on, with their places.
    pub fn flows(&self, now: Time, from: u64) -> impl Iterator<Item = (u64, Relayed<'_>)> {
        let first = move |kind: u64| match from >> 32 {
            k if k < kind => 0,
            k if k == kind => usize::try_from(from & 0xffff_ffff).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let relays = self.relays.iter();
        let streams = relays.clone().flat_map(move |relays| {
            let all = relays.tcp.list_from(first(STREAMS));
            all.map(move |one| (STREAMS << 32 | one.id.index() as u64, Relayed::Stream(one, now)))
        });
        let datagrams = relays.flat_map(move |relays| {
            // In the order of their places, which is not that of the table; as many as a page looks at, and the one behind.
            let mappings = relays.udp.mappings().filter(|m| m.id.index() >= first(DATAGRAMS));
            let mut all: Vec<_> = mappings.collect();
            all.sort_unstable_by_key(|m| m.id.index());
            all.truncate(WALK_PAGE + 1);
            all.into_iter().map(move |one| {
                (DATAGRAMS << 32 | one.id.index() as u64, Relayed::Datagrams(relays, one, now))
            })
        });
        streams.chain(datagrams)
    }

    /// A relayed connection, if it is alive.
    pub fn stream_detail(&self, id: FlowId, now: Time) -> Option<FlowDetail> {
        let relays = self.relays.as_ref()?;
        let one = relays.tcp.listing(id)?;
        let flow = stream(&one, now);
        let mut sockets = detail::listening(relays.tcp.listeners_of(one.port), flow.local);
        sockets.push(detail::socket(Role::Client, one.ends.client));
        sockets.extend(one.ends.server.map(|fd| detail::socket(Role::Guest, fd)));
        let port = self.ports.get(&one.port).map(|port| &port.published);
        let showing = port.and_then(|port| match port.dial {
            Dial::Plain => Some(Showing::Plain),
            _ => detail::showing(&relays.network, port, &flow, Some(relays.tcp.shows_client(id))),
        });
        Some(FlowDetail { flow, sockets, pipes: relays.tcp.pipes_of(id), showing, tap: None })
    }

    /// A relayed datagram client, if it is alive.
    pub fn datagram_detail(&self, id: FlowId, now: Time) -> Option<FlowDetail> {
        let relays = self.relays.as_ref()?;
        let one = relays.udp.mappings().find(|m| m.id == id)?;
        let flow = datagram(relays, &one, now);
        let (listener, backend) = relays.udp.ends(&one);
        let mut sockets: Vec<_> = listener.map(|fd| detail::socket(Role::Listener, fd)).into_iter().collect();
        sockets.extend(backend.map(|fd| detail::socket(Role::Guest, fd)));
        let port = relays.doors.get(&one.path.listener).and_then(|door| self.ports.get(&door.port));
        let port = port.map(|port| &port.published);
        let as_client = flow.remote == flow.host;
        let showing = port.and_then(|port| match port.dial {
            Dial::Transparent => detail::showing(&relays.network, port, &flow, Some(as_client)),
            _ => Some(Showing::Plain),
        });
        Some(FlowDetail { flow, sockets, pipes: Vec::new(), showing, tap: None })
    }

    /// What the relays have measured.
    pub fn stats(&self) -> RelayStats {
        let Some(relays) = &self.relays else { return RelayStats::default() };
        let (pipes, times) = (relays.tcp.pipes(), relays.tcp.times());
        let counted = pipes.counters();
        RelayStats {
            tcp: relays.tcp.len() as u64,
            udp: relays.udp.mappings().count() as u64,
            pipes: PipeStats {
                most: pipes.most() as u64,
                lent: pipes.lent() as u64,
                idle: pipes.idle() as u64,
                made: counted.made,
                refused: counted.refused,
                spoiled: counted.spoiled,
            },
            connect: times.connect.snapshot(),
            first_byte: times.first_byte.snapshot(),
        }
    }
}

fn stream(one: &Listing<'_>, now: Time) -> FlowRecord {
    let (host_rtt_us, host_retransmits) = measured(one.ends.client);
    let (rtt_us, retransmits) = one.ends.server.filter(|_| one.open).map_or((None, 0), measured);
    // Where the socket's own choice is shown, or any port of an address, the socket knows which.
    let shown = one.ends.server.filter(|_| one.open).and_then(queries::local).or(one.shown);
    FlowRecord {
        port: Some(one.port),
        guest: one.backend,
        remote: shown,
        host: one.client.map(canonical),
        local: queries::local(one.ends.client),
        state: if one.open { "open" } else { "connecting" }.to_owned(),
        gears: Some(one.gears.map(gear)),
        bytes_up: one.bytes[1],
        bytes_down: one.bytes[0],
        buffered_up: one.held[1],
        buffered_down: one.held[0],
        retransmits,
        host_retransmits,
        rtt_us,
        host_rtt_us,
        place: STREAMS << 32 | one.id.index() as u64,
        ..blank(format!("{:?}", one.id), Protocol::Tcp, now.since(one.opened), one.backend)
    }
}

fn datagram(relays: &Relays, one: &Info, now: Time) -> FlowRecord {
    let ends = relays.shown.get(&one.id);
    let (listener, backend) = relays.udp.ends(one);
    let guest = ends.map_or(one.path.client, |(guest, _)| *guest);
    let local = listener.and_then(queries::local).map(|own| match one.path.local {
        Some((ip, _)) => canonical(SocketAddr::new(ip, own.port())),
        None => own,
    });
    let port = relays.doors.get(&one.path.listener).map(|Door { port, .. }| *port);
    FlowRecord {
        port,
        remote: backend.and_then(queries::local).or(ends.and_then(|(_, shown)| *shown)),
        host: Some(canonical(one.path.client)),
        local,
        state: "open".to_owned(),
        bytes_up: one.carried.bytes_up,
        bytes_down: one.carried.bytes_down,
        packets_up: one.carried.packets_up,
        packets_down: one.carried.packets_down,
        place: DATAGRAMS << 32 | one.id.index() as u64,
        ..blank(format!("{RELAYED}{:?}", one.id), Protocol::Udp, now.since(one.opened), guest)
    }
}

fn blank(id: String, protocol: Protocol, age: Duration, guest: SocketAddr) -> FlowRecord {
    FlowRecord {
        id: id.to_lowercase(),
        place: 0,
        protocol,
        path: Way::Relay,
        gears: None,
        port: None,
        guest,
        remote: None,
        host: None,
        local: None,
        state: String::new(),
        age_ms: millis(age),
        bytes_up: 0,
        bytes_down: 0,
        packets_up: 0,
        packets_down: 0,
        retransmits: 0,
        host_retransmits: 0,
        rtt_us: None,
        host_rtt_us: None,
        buffered_up: 0,
        buffered_down: 0,
    }
}
