//! Published ports whose clients are relayed: sockets of the guest's namespace on the far side, nothing on the tap.
//!
//! Theory of operation. Listeners go to the relays of streams ([`TcpRelays`]) or of datagrams ([`UdpRelays`]); sockets to
//! dial with come from the [`Factory`]. Both are made when the first such port is published, so an instance without any
//! pays nothing for them. Where a stream may lead and whom the server sees is [`attempts`]' to say. A datagram
//! client gets a connected socket of its own ([`open`]); two mappings of one client address that lead to one server would
//! be one to the kernel, so the second shows the gateway.
//!
//! When the factory is lost control is told, once, and publishes its ports anew, on the tap.
//!
//! Limits: descriptors. Streams get what listeners leave of the share that the shard was given.

mod look;

use super::factory::{Factory, News};
use super::queries::canonical;
use super::relays::udp::{UdpRelays, UdpTag};
use super::relays::{Attempts, Backends, Service, Take, TcpRelays, TcpTag, attempts};
use super::shard::Shard;
use super::tag::Tag;
use crate::config::{Dial, Network, PortId, ProxyProtocol, Published, SourceIp};
use crate::flow::{FlowId, Time};
use crate::msg::query::PAGE;
use crate::msg::{Channel, FromPlane, PortCounters, PortPage, SocketKind};
use crate::nat;
use crate::relay::proxy;
use crate::relay::udp::{Limits, Path};
use crate::ring::Completion;
use nix::errno::Errno;
use nix::poll::PollFlags;
use socket2::SockRef;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tracing::debug;

/// Fewest streams at once, however many listeners there are: beyond the limit accepting sheds by itself.
const STREAMS_MIN: usize = 16;

/// A published port or range.
struct Port {
    published: Rc<Published>,
    /// Listeners of datagrams.
    sockets: Vec<u32>,
    /// Datagram clients who were shown as the gateway against their wish.
    hidden: u64,
}

/// Which port a datagram listener belongs to.
#[derive(Clone, Copy)]
struct Door {
    port: PortId,
    nth: u16,
}

/// What exists once there is a port.
pub(super) struct Relays {
    tcp: TcpRelays<Tag>,
    udp: UdpRelays<Tag>,
    /// By the listener's number.
    doors: HashMap<u32, Door>,
    /// Mappings that wait for a socket.
    wanted: VecDeque<(FlowId, Path)>,
    /// Who holds which pair of ends.
    pairs: HashMap<(SocketAddr, SocketAddr), FlowId, ahash::RandomState>,
    shown: HashMap<FlowId, (SocketAddr, Option<SocketAddr>), ahash::RandomState>,
    network: Rc<Network>,
}

/// All ports that are relayed.
pub struct RelayPorts {
    ports: BTreeMap<PortId, Port>,
    listeners: usize,
    /// Descriptors for streams and listeners.
    share: usize,
    relays: Option<Box<Relays>>,
    pool: Pool,
    /// Number of the factory's channel.
    channel: u32,
}

/// The factory as the relays see it.
#[derive(Default)]
struct Pool {
    factory: Option<Factory>,
    /// What the factory has just said of a kind: whoever waits for it is not to wait on.
    refused: Option<(SocketKind, i32)>,
}

impl Backends for Pool {
    fn take(&mut self, kind: SocketKind) -> Take {
        let Some(factory) = self.factory.as_mut() else { return Take::Refused(Errno::ENOTCONN) };
        match (factory.take(kind), self.refused) {
            (Some(socket), _) => Take::Now(socket),
            (None, Some((of, errno))) if of == kind => Take::Refused(Errno::from_raw(errno)),
            (None, _) if factory.is_closed() => Take::Refused(Errno::ENOTCONN),
            (None, _) => Take::Later,
        }
    }
}

/// One port of a range.
struct Nth {
    network: Rc<Network>,
    port: Rc<Published>,
    nth: u16,
}

impl Service for Nth {
    fn attempts(&self, client: SocketAddr) -> Attempts {
        attempts(&self.network, &self.port, self.nth, client)
    }

    fn ahead(&self, client: SocketAddr, local: SocketAddr) -> Option<Vec<u8>> {
        let version: ProxyProtocol = self.port.proxy_protocol?;
        Some(proxy::header(version, client, local).to_vec())
    }
}

impl RelayPorts {
    /// No port yet. `share`: descriptors that streams and listeners may take.
    pub fn new(share: usize) -> Self {
        let (ports, pool) = (BTreeMap::new(), Pool::default());
        Self { ports, listeners: 0, share, relays: None, pool, channel: 0 }
    }

    /// When something is to be done.
    pub fn poll_timeout(&self) -> Option<Time> {
        let relays = self.relays.as_ref()?;
        [relays.tcp.poll_timeout(), relays.udp.poll_timeout()].into_iter().flatten().min()
    }

    /// Gives back what a pause in traffic leaves unused.
    pub fn trim(&mut self) {
        if let Some(factory) = &mut self.pool.factory {
            factory.trim();
        }
    }

    fn streams(&self) -> usize {
        (self.share.saturating_sub(self.listeners) / 2).max(STREAMS_MIN)
    }

    /// What ports have seen: the page that begins behind `after`.
    pub fn counters(&self, after: PortId) -> PortPage {
        let Some(relays) = &self.relays else { return PortPage::default() };
        let mut live: HashMap<PortId, (u64, [u64; 2])> = HashMap::new();
        for one in relays.tcp.list() {
            let (open, bytes) = live.entry(one.port).or_default();
            *open += 1;
            *bytes = [bytes[0] + one.bytes[0], bytes[1] + one.bytes[1]];
        }
        for mapping in relays.udp.mappings() {
            if let Some(door) = relays.doors.get(&mapping.path.listener) {
                live.entry(door.port).or_default().0 += 1;
            }
        }
        let mut rest = self.ports.range((Bound::Excluded(after), Bound::Unbounded));
        let ports: Vec<_> = rest
            .by_ref()
            .take(PAGE)
            .map(|(id, port)| {
                let (open, bytes) = live.get(id).copied().unwrap_or_default();
                let counters = PortCounters { open, ..PortCounters::new(*id) };
                if port.published.udp {
                    datagrams(relays, port, counters)
                } else {
                    streams(relays, port, bytes, counters)
                }
            })
            .collect();
        let next = rest.next().and_then(|_| ports.last().map(|p| p.port));
        PortPage { ports, next }
    }
}

fn streams(relays: &Relays, port: &Port, live: [u64; 2], counters: PortCounters) -> PortCounters {
    let seen = relays.tcp.counters(port.published.id);
    let wished = port.published.source_ip == SourceIp::Preserve;
    PortCounters {
        accepted: seen.accepted,
        refused: seen.refused,
        shed: seen.shed,
        shown_as_gateway: if wished { seen.hidden } else { 0 },
        bytes_up: seen.bytes[1] + live[1],
        bytes_down: seen.bytes[0] + live[0],
        ..counters
    }
}

fn datagrams(relays: &Relays, port: &Port, mut counters: PortCounters) -> PortCounters {
    for number in &port.sockets {
        let seen = relays.udp.counters(*number);
        counters.accepted += seen.opened;
        counters.refused += seen.open_failed;
        counters.shed += seen.evicted + seen.dropped_held;
        counters.bytes_up += seen.carried.bytes_up;
        counters.bytes_down += seen.carried.bytes_down;
    }
    PortCounters { shown_as_gateway: port.hidden, ..counters }
}

impl Shard {
    /// A port is published; its listeners follow.
    pub(super) fn publish_on_relay(&mut self, port: Published) {
        let ports = &mut self.relay_ports;
        if ports.relays.is_none() {
            ports.relays = Some(Box::new(Relays {
                tcp: TcpRelays::new(ports.streams(), Tag::RelayedTcp),
                udp: UdpRelays::new(Limits::default(), Tag::RelayedUdp),
                doors: HashMap::new(),
                wanted: VecDeque::new(),
                pairs: HashMap::default(),
                shown: HashMap::default(),
                network: Rc::new(self.stack.network().clone()),
            }));
        }
        let id = port.id;
        ports.ports.insert(id, Port { published: Rc::new(port), sockets: Vec::new(), hidden: 0 });
    }

    /// Listeners of a published port: serves them. Those of ports that are not in this table are handed back.
    pub(super) fn listen_on_relay(
        &mut self,
        id: PortId,
        first: u16,
        fds: Vec<OwnedFd>,
    ) -> Option<Vec<OwnedFd>> {
        let ports = &mut self.relay_ports;
        let (Some(port), Some(relays)) = (ports.ports.get_mut(&id), &mut ports.relays) else {
            return Some(fds);
        };
        for (fd, nth) in fds.into_iter().zip(first..) {
            let added = if port.published.udp {
                relays.udp.add(&mut self.ring, fd).map(|number| {
                    port.sockets.push(number);
                    relays.doors.insert(number, Door { port: id, nth });
                })
            } else {
                let (network, port) = (Rc::clone(&relays.network), Rc::clone(&port.published));
                relays.tcp.add(&mut self.ring, fd, id, Box::new(Nth { network, port, nth }))
            };
            match added {
                Ok(()) => ports.listeners += 1,
                Err(e) => tracing::warn!("a listener of port {id} cannot be served: {e}"),
            }
        }
        let most = (ports.share.saturating_sub(ports.listeners) / 2).max(STREAMS_MIN);
        relays.tcp.set_most(most);
        None
    }

    /// A port of this table is no longer published.
    pub(super) fn unpublish_on_relay(&mut self, id: PortId, connections: bool) {
        let ports = &mut self.relay_ports;
        let (Some(port), Some(relays)) = (ports.ports.remove(&id), &mut ports.relays) else { return };
        if port.published.udp {
            for number in port.sockets {
                relays.udp.remove(&mut self.ring, number);
                relays.doors.remove(&number);
                ports.listeners = ports.listeners.saturating_sub(1);
            }
        } else {
            relays.tcp.remove(&mut self.ring, self.now, id, connections);
            ports.listeners = ports.listeners.saturating_sub(port.published.count.into());
        }
        let most = ports.streams();
        if let Some(relays) = &mut ports.relays {
            relays.tcp.set_most(most);
        }
    }

    /// Sockets come by this channel from now on.
    pub(super) fn connect_factory(&mut self, netns_cookie: u64, fds: Vec<OwnedFd>) {
        self.drop_factory();
        let Some(fd) = fds.into_iter().next() else { return };
        match Factory::new(Channel::from_fd(fd), netns_cookie) {
            Ok(factory) => {
                self.relay_ports.channel = self.relay_ports.channel.wrapping_add(1);
                self.relay_ports.pool.factory = Some(factory);
                self.arm_factory();
            }
            Err(e) => self.factory_lost(&e.to_string()),
        }
    }

    fn arm_factory(&mut self) {
        if let Some(factory) = &self.relay_ports.pool.factory {
            self.ring.poll(factory.as_fd(), PollFlags::POLLIN, false, Tag::Factory(self.relay_ports.channel));
        }
    }

    fn drop_factory(&mut self) {
        if let Some(factory) = self.relay_ports.pool.factory.take() {
            self.ring.cancel_fd(factory.as_fd());
            // The entry names the descriptor by its number: it must be submitted before that can be another's.
            let _ = self.ring.submit();
        }
    }

    fn factory_lost(&mut self, why: &str) {
        self.drop_factory();
        // Whoever waits for a socket is refused now.
        self.sockets_arrived();
        super::control::answer(&self.channel, &FromPlane::FactoryLost { text: why.to_owned() });
    }

    pub(super) fn on_factory(&mut self, channel: u32, c: &Completion<Tag>) {
        if channel != self.relay_ports.channel || c.result == Err(Errno::ECANCELED) {
            return;
        }
        let Some(factory) = &mut self.relay_ports.pool.factory else { return };
        match factory.on_readable() {
            Ok(news) => {
                for one in news {
                    if let News::Refused { kind, errno } = one {
                        debug!("no socket of {kind:?}: {}", Errno::from_raw(errno));
                        self.relay_ports.pool.refused = Some((kind, errno));
                    }
                    self.sockets_arrived();
                    self.relay_ports.pool.refused = None;
                }
                self.arm_factory();
            }
            Err(e) => self.factory_lost(&e.to_string()),
        }
    }

    /// Sockets have come, or will not come: those who wait try again.
    fn sockets_arrived(&mut self) {
        let ports = &mut self.relay_ports;
        if let Some(relays) = &mut ports.relays {
            relays.tcp.sockets_arrived(&mut self.ring, &mut ports.pool, self.now);
        }
        self.open_wanted();
    }

    pub(super) fn on_relayed_tcp(&mut self, tag: TcpTag, c: Completion<Tag>) {
        let ports = &mut self.relay_ports;
        if let Some(relays) = &mut ports.relays {
            relays.tcp.handle(&mut self.ring, &mut ports.pool, self.now, tag, c);
        }
    }

    pub(super) fn on_relayed_udp(&mut self, tag: UdpTag, c: Completion<Tag>) {
        if let Some(relays) = &mut self.relay_ports.relays {
            relays.udp.handle(&mut self.ring, self.now, tag, c);
        }
    }

    /// The completions there are have been handled.
    pub(super) fn relay_end_batch(&mut self) {
        let Some(relays) = &mut self.relay_ports.relays else { return };
        relays.tcp.handle_timeout(&mut self.ring, self.now);
        relays.udp.handle_timeout(self.now);
        relays.udp.end_batch(&mut self.ring);
        while let Some(one) = relays.udp.poll_wanted() {
            relays.wanted.push_back(one);
        }
        self.open_wanted();
    }

    /// Gives sockets to the datagram mappings that have none.
    fn open_wanted(&mut self) {
        let RelayPorts { ports, relays: Some(relays), pool, .. } = &mut self.relay_ports else { return };
        for _ in 0..relays.wanted.len() {
            let Some((id, path)) = relays.wanted.pop_front() else { return };
            let door = relays.doors.get(&path.listener).copied();
            let port = door.and_then(|door| ports.get_mut(&door.port));
            // Its port or itself has ended meanwhile.
            let (Some(door), Some(port), true) = (door, port, relays.udp.is_alive(id)) else { continue };
            let ends = ends(relays, &port.published, door.nth, path.client);
            let transparent = port.published.dial == Dial::Transparent;
            let kind = SocketKind { v6: ends.to.is_ipv6(), datagram: true, transparent };
            let socket = match pool.take(kind) {
                Take::Later => {
                    relays.wanted.push_back((id, path));
                    continue;
                }
                Take::Refused(errno) => Err(errno.into()),
                Take::Now(fd) => open(fd, &ends),
            };
            if socket.is_ok() {
                port.hidden += u64::from(ends.instead);
                if ends.client_shown
                    && let Some(from) = ends.from
                {
                    relays.pairs.insert((from, ends.to), id);
                }
                relays.shown.insert(id, (ends.to, ends.from));
            }
            relays.udp.opened(&mut self.ring, id, socket);
        }
        // Pairs of mappings that have ended go when they are as many as those that live.
        if relays.shown.len() > 64 && relays.shown.len() > 2 * relays.udp.mappings().count() {
            let Relays { pairs, shown, udp, .. } = &mut **relays;
            pairs.retain(|_, id| udp.is_alive(*id));
            shown.retain(|id, _| udp.is_alive(*id));
        }
    }
}

/// The ends of a datagram mapping inside.
struct Ends {
    to: SocketAddr,
    /// `None`: the kernel's choice.
    from: Option<SocketAddr>,
    client_shown: bool,
    /// The gateway in a client's place who was to be shown.
    instead: bool,
}

fn ends(relays: &Relays, port: &Published, nth: u16, client: SocketAddr) -> Ends {
    let client = canonical(client);
    let to = port.target(&relays.network, nth, client.ip());
    if port.dial != Dial::Transparent {
        return Ends { to, from: None, client_shown: false, instead: false };
    }
    let taken = relays.pairs.get(&(client, to)).is_some_and(|id| relays.udp.is_alive(*id));
    match nat::shown(&relays.network, client.ip(), to.ip(), port.source_ip) {
        nat::Shown::Client(_) if !taken => {
            Ends { to, from: Some(client), client_shown: true, instead: false }
        }
        shown => {
            let gateway: Option<IpAddr> = match to {
                SocketAddr::V4(_) => Some(relays.network.gateway_v4().into()),
                SocketAddr::V6(_) => relays.network.gateway_v6().map(IpAddr::V6),
            };
            let instead = !matches!(shown, nat::Shown::Gateway(_));
            Ends { to, from: gateway.map(|ip| SocketAddr::new(ip, 0)), client_shown: false, instead }
        }
    }
}

/// Binds and connects a datagram socket.
fn open(fd: OwnedFd, ends: &Ends) -> io::Result<OwnedFd> {
    let socket = SockRef::from(&fd);
    if !ends.client_shown {
        // With it the kernel may choose a port that another such socket has.
        socket.set_reuse_address(false)?;
    }
    if let Some(from) = ends.from {
        socket.bind(&from.into())?;
    }
    socket.connect(&ends.to.into())?;
    Ok(fd)
}
