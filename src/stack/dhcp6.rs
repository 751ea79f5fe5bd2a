//! Stateless DHCPv6 (RFC 8415 section 6.1): information requests get the DNS server and the search list.
//!
//! Addresses come from router advertisements; messages that ask for one are counted and stay unanswered. Limits: messages
//! beyond [`MAX_LEN`] bytes are not read.

use super::Cx;
use super::action::Action;
use super::link::Link;
use super::{dhcp_sieve, search};
use crate::config::Network;
use crate::flow::DropReason;
use crate::wire::udp;
use dhcproto::Name;
use dhcproto::v6::{
    Decodable, Decoder, DhcpOption, DhcpOptions, Encodable, Encoder, Message, MessageType, OptionCode,
};
use std::net::{Ipv6Addr, SocketAddr};

/// Longest message read, in bytes.
pub const MAX_LEN: usize = 1500;
/// All relay agents and servers.
pub const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Our DUID: link-layer type (RFC 8415 section 11.4), Ethernet, the router's MAC.
fn duid() -> Vec<u8> {
    [&[0, 3, 0, 1][..], &Link::mac_v6(Network::router_link_local())[..]].concat()
}

/// A message from the guest at `from`.
pub fn message(cx: &mut Cx<'_>, search: &[String], from: SocketAddr, bytes: &[u8]) {
    let sieved = Some(bytes).filter(|b| b.len() <= MAX_LEN).and_then(dhcp_sieve::v6);
    let read = sieved.and_then(|(b, asks)| Some((Message::decode(&mut Decoder::new(&b)).ok()?, asks)));
    let Some((mut m, asks_for_addresses)) = read else {
        return cx.drop(DropReason::Malformed);
    };
    if m.msg_type() != MessageType::InformationRequest {
        return cx.drop(DropReason::Unsupported);
    }
    let other_server =
        matches!(m.opts().get(OptionCode::ServerId), Some(DhcpOption::ServerId(id)) if *id != duid());
    // An information request names no addresses (RFC 8415 section 16.12).
    if other_server || asks_for_addresses {
        return cx.drop(DropReason::Unsupported);
    }
    let mut o = DhcpOptions::new();
    if let Some(client) = m.opts().get(OptionCode::ClientId) {
        o.insert(client.clone());
    }
    o.insert(DhcpOption::ServerId(duid()));
    if let Some(dns) = cx.net.dns_v6().filter(|_| cx.net.dns) {
        o.insert(DhcpOption::DomainNameServers(vec![dns]));
        let names: Vec<Name> =
            search::bounded(search, 800).filter_map(|s| Name::from_ascii(s).ok()).collect();
        if !names.is_empty() {
            o.insert(DhcpOption::DomainSearchList(names));
        }
    }
    m.set_msg_type(MessageType::Reply).set_opts(o);
    let mut out = Vec::with_capacity(200);
    if m.encode(&mut Encoder::new(&mut out)).is_err() {
        return cx.drop(DropReason::HostRefused);
    }
    let Some(mac) = cx.neighbour(from.ip()) else { return };
    let router = Network::router_link_local();
    let frame = udp::frame(Link::mac_v6(router), mac, SocketAddr::from((router, 547)), from, &out);
    cx.act(Action::EmitBytes(frame));
}
