//! Links, addresses and routes of a lab, by rtnetlink.
//!
//! One [`Links`] speaks to one network namespace, through a netlink socket born there; the caller stays outside. Each
//! call is one request and its acknowledgement. Devices are named by name here and found by index in the kernel.

use super::LabError;
use crate::netns::world::{NetNs, World};
use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A router.
    Gateway(IpAddr),
    /// Dropped without a word.
    Nowhere,
    /// Answered with an ICMP host (v6: no route) unreachable.
    Unreachable,
    /// Answered with an ICMP administratively prohibited.
    Prohibited,
}

/// The network configuration of one namespace.
#[derive(Debug)]
pub struct Links(OwnedFd);

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

impl Links {
    /// Opens a netlink socket in `net`.
    pub fn open(world: &World, net: &NetNs) -> Result<Self, LabError> {
        let socket = world
            .socket(net, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)
            .map_err(|e| LabError::new("opening a netlink socket", e))?;
        Ok(Self(socket))
    }

    fn request(&self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<u8>, LabError> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let fail = |e: io::Error| LabError::new(what, e);
        send(self.0.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(|e| fail(e.into()))?;
        let mut reply = vec![0; 32 << 10];
        let n = recv(self.0.as_raw_fd(), &mut reply, MsgFlags::empty()).map_err(|e| fail(e.into()))?;
        reply.truncate(n);
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
            .map_err(|e| fail(io::Error::other(e.to_string())))?;
        match answer.payload {
            NetlinkPayload::Error(e) if e.code.is_some() => Err(fail(e.to_io())),
            _ => Ok(reply),
        }
    }

    fn acknowledged(&self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<(), LabError> {
        self.request(what, message, flags | NLM_F_ACK).map(drop)
    }

    /// The index of a device.
    pub fn index(&self, name: &str) -> Result<u32, LabError> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let what = format!("looking for device {name}");
        let reply = self.request(&what, RouteNetlinkMessage::GetLink(link), 0)?;
        let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
            .map_err(|e| LabError::new(&what, io::Error::other(e.to_string())))?;
        match reply.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link.header.index),
            _ => Err(LabError::new(&what, io::ErrorKind::InvalidData.into())),
        }
    }

    /// A pair of virtual Ethernet devices, each a name and an index: `near` here, `peer` in `peer_net`.
    ///
    /// The indices must differ: the kernel takes a device whose peer has its own index for a link of its own, and tells of
    /// its carrier once a second only (`linkwatch_urgent_event`, net/core/link_watch.c), so that IPv6 comes up late.
    pub fn add_veth(&self, near: (&str, u32), peer: (&str, u32), peer_net: &NetNs) -> Result<(), LabError> {
        let ((name, index), (peer, peer_index)) = (near, peer);
        let mut far = LinkMessage::default();
        far.header.index = peer_index;
        far.attributes.push(LinkAttribute::IfName(peer.to_owned()));
        far.attributes.push(LinkAttribute::NetNsFd(peer_net.as_raw_fd()));
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
        ]));
        let what = format!("adding veth {name}");
        self.acknowledged(&what, RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Brings a device up, or down.
    pub fn set_up(&self, name: &str, up: bool) -> Result<(), LabError> {
        let mut link = LinkMessage::default();
        link.header.index = self.index(name)?;
        link.header.change_mask = LinkFlags::Up;
        link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        self.acknowledged(&format!("bringing {name} up or down"), RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Sets the MTU of a device, in bytes of L3.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), LabError> {
        let mut link = LinkMessage::default();
        link.header.index = self.index(name)?;
        link.attributes.push(LinkAttribute::Mtu(mtu));
        self.acknowledged(&format!("setting the MTU of {name}"), RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Adds an address; an IPv6 one can be used at once (no duplicate address detection).
    pub fn add_address(&self, name: &str, address: IpNet) -> Result<(), LabError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = self.index(name)?;
        if address.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes.push(AddressAttribute::Local(address.addr()));
        message.attributes.push(AddressAttribute::Address(address.addr()));
        let what = format!("adding address {address} to {name}");
        self.acknowledged(&what, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    fn route(dest: IpNet, via: Via) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(dest.addr());
        message.header.destination_prefix_length = dest.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = match via {
            Via::Gateway(_) => RouteType::Unicast,
            Via::Nowhere => RouteType::BlackHole,
            Via::Unreachable => RouteType::Unreachable,
            Via::Prohibited => RouteType::Prohibit,
        };
        if dest.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(RouteAddress::from(dest.addr())));
        }
        if let Via::Gateway(gateway) = via {
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
        }
        message
    }

    /// Adds a route.
    pub fn add_route(&self, dest: IpNet, via: Via) -> Result<(), LabError> {
        let message = RouteNetlinkMessage::NewRoute(Self::route(dest, via));
        self.acknowledged(&format!("adding a route to {dest}"), message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes a route away.
    pub fn delete_route(&self, dest: IpNet, via: Via) -> Result<(), LabError> {
        let message = RouteNetlinkMessage::DelRoute(Self::route(dest, via));
        self.acknowledged(&format!("deleting the route to {dest}"), message, 0)
    }
}
