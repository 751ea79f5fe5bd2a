//! The few rtnetlink requests that configure a link, and those that lead packets by their mark, answered one at a time.
//!
//! Every request asks for an acknowledgement and waits for it, so that an error belongs to its cause. The socket works
//! on the network namespace that the thread was in when it was opened.
//!
//! Routes name the congestion control of the connections that take them: [`LINK_CONGESTION`], and why, is in the
//! configuration.

use crate::config::LINK_CONGESTION;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// `RT_TABLE_UNSPEC`: the number of the table is in an attribute, for it may be beyond 255.
const TABLE_IN_ATTRIBUTE: u8 = 0;

/// The main routing table (`RT_TABLE_MAIN`).
const TABLE_MAIN: u8 = 254;

/// What the kernel gives to its own routes to IPv6 prefixes (`IP6_RT_PRIO_ADDRCONF`, include/uapi/linux/ipv6_route.h).
const PREFIX_PRIORITY_V6: u32 = 256;

/// A connection to the kernel's routing tables.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens it in the current network namespace.
    ///
    /// # Errors
    /// Those of socket(2) and connect(2).
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sets how many frames may wait in a link to be read or sent (`IFLA_TXQLEN`).
    ///
    /// # Errors
    /// What the kernel answers: `ENOMEM` where a tap's queue finds no memory.
    pub fn set_queue(&mut self, index: u32, frames: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::TxQueueLen(frames));
        self.request(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Takes a link up, after setting its MTU if one is given.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn link_up(&mut self, index: u32, mtu: Option<u16>) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.extend(mtu.map(|m| LinkAttribute::Mtu(u32::from(m))));
        self.request(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Gives a link another hardware address. Done before it goes up, for its IPv6 addresses are made of it.
    ///
    /// # Errors
    /// What the kernel answers: `EADDRNOTAVAIL` for a group's address or none.
    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::Address(mac.to_vec()));
        self.request(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Adds an address with its prefix; an IPv6 address is usable at once (no duplicate address detection). An
    /// address that is there already is no error.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix;
        message.header.scope = AddressScope::Universe;
        message.attributes.push(AddressAttribute::Local(address));
        message.attributes.push(AddressAttribute::Address(address));
        match address {
            IpAddr::V4(v4) => {
                message.header.family = AddressFamily::Inet;
                let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                let broadcast = Ipv4Addr::from(u32::from(v4) | host_bits);
                message.attributes.push(AddressAttribute::Broadcast(broadcast));
            }
            IpAddr::V6(_) => {
                message.header.family = AddressFamily::Inet6;
                message.header.flags = AddressHeaderFlags::Nodad;
            }
        }
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Adds the default route through `gateway`. It is marked as configured by hand (`proto static`), so that a host
    /// that turns forwarding on keeps it, unlike one learnt from a router advertisement.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_default_route(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.table = TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.header.address_family = family(gateway);
        message.attributes.push(RouteAttribute::Gateway(route_address(gateway)));
        message.attributes.push(RouteAttribute::Oif(index));
        message.attributes.push(congestion());
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Names the congestion control of the route to `subnet`, which the kernel itself has added for `address`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn tune_subnet_route(
        &mut self,
        index: u32,
        address: IpAddr,
        subnet: IpAddr,
        prefix: u8,
    ) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.table = TABLE_MAIN;
        message.header.protocol = RouteProtocol::Kernel;
        message.header.kind = RouteType::Unicast;
        message.header.address_family = family(address);
        message.header.destination_prefix_length = prefix;
        message.attributes.push(RouteAttribute::Destination(route_address(subnet)));
        message.attributes.push(RouteAttribute::Oif(index));
        match address {
            IpAddr::V4(_) => {
                message.header.scope = RouteScope::Link;
                message.attributes.push(RouteAttribute::PrefSource(route_address(address)));
            }
            IpAddr::V6(_) => message.attributes.push(RouteAttribute::Priority(PREFIX_PRIORITY_V6)),
        }
        message.attributes.push(congestion());
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_REPLACE)
    }

    /// Makes every address local in `table`: what is routed by it is delivered here. IPv4 answers that have no source
    /// yet get the loopback's, as where the destination really is an address of the loopback. Repeatable.
    ///
    /// # Errors
    /// What the kernel answers: `EAFNOSUPPORT` without the family.
    pub fn add_local_default(&mut self, family: AddressFamily, lo: u32, table: u32) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = TABLE_IN_ATTRIBUTE;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Host;
        message.header.kind = RouteType::Local;
        message.attributes.push(RouteAttribute::Table(table));
        message.attributes.push(RouteAttribute::Oif(lo));
        if family == AddressFamily::Inet {
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(Ipv4Addr::LOCALHOST)));
        }
        message.attributes.push(congestion());
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Adds a rule. One that is there already is no error.
    ///
    /// # Errors
    /// What the kernel answers: `EAFNOSUPPORT` or `EOPNOTSUPP` without policy routing for the family.
    pub fn add_rule(&mut self, rule: MarkRule) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewRule(rule.message());
        match self.request(message, NLM_F_CREATE | NLM_F_EXCL) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Takes a rule of [`Netlink::add_rule`] away. None there is no error.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn delete_rule(&mut self, rule: MarkRule) -> io::Result<()> {
        match self.request(RouteNetlinkMessage::DelRule(rule.message()), 0) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut packet = NetlinkMessage::from(message);
        packet.header.sequence_number = self.sequence;
        packet.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            if let NetlinkPayload::Error(error) = answer.payload {
                return if error.code.is_none() { Ok(()) } else { Err(error.to_io()) };
            }
        }
    }
}

const fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

const fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}

/// `RTAX_CC_ALGO`, `congctl` of ip-route(8).
fn congestion() -> RouteAttribute {
    RouteAttribute::Metrics(vec![RouteMetric::CcAlgo(LINK_CONGESTION.to_owned())])
}

/// Leads packets of a mark to a table (ip-rule(8), `fwmark`).
#[derive(Clone, Copy, Debug)]
pub struct MarkRule {
    /// Of these packets.
    pub family: AddressFamily,
    /// The whole mark.
    pub mark: u32,
    /// Routing table.
    pub table: u32,
    /// Lower ones are asked first.
    pub priority: u32,
}

impl MarkRule {
    fn message(self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family;
        message.header.table = TABLE_IN_ATTRIBUTE;
        message.header.action = RuleAction::ToTable;
        message.attributes.push(RuleAttribute::FwMark(self.mark));
        message.attributes.push(RuleAttribute::FwMask(u32::MAX));
        message.attributes.push(RuleAttribute::Table(self.table));
        message.attributes.push(RuleAttribute::Priority(self.priority));
        message
    }
}
