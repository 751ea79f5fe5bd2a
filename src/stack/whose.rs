//! Which flow a frame on the tap belongs to: for captures, which look at frames after the fact and from outside.
//!
//! Only the ends are read, and only as far as a head goes: payload may be elsewhere, checksums and lengths may be still
//! to be set by the kernel. Fragments but the first, and ICMP errors, belong to nobody here.

use super::Stack;
use super::tcp::Key;
use crate::flow::FlowId;
use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice, icmpv4, icmpv6};
use std::net::{IpAddr, SocketAddr};

/// The two ends of a frame, as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The protocol's number.
    pub protocol: u8,
    /// The guest's end; for echo the port is the identifier.
    pub guest: SocketAddr,
    /// The other end; for echo without a port.
    pub remote: SocketAddr,
}

impl Ends {
    /// Reads the ends of a frame whose head is at the start of `head`.
    pub fn of(head: &[u8], from_guest: bool) -> Option<Self> {
        let packet = LaxSlicedPacket::from_ethernet(head).ok()?;
        let (source, destination): (IpAddr, IpAddr) = match packet.net? {
            LaxNetSlice::Ipv4(ip) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            LaxNetSlice::Ipv6(ip) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            LaxNetSlice::Arp(_) => return None,
        };
        let (protocol, from, to) = match packet.transport? {
            TransportSlice::Tcp(tcp) => (IpNumber::TCP, tcp.source_port(), tcp.destination_port()),
            TransportSlice::Udp(udp) => (IpNumber::UDP, udp.source_port(), udp.destination_port()),
            TransportSlice::Icmpv4(icmp) => {
                let kind = icmp.type_u8();
                let id = echo_id(
                    icmp.slice(),
                    [icmpv4::TYPE_ECHO_REQUEST, icmpv4::TYPE_ECHO_REPLY].contains(&kind),
                )?;
                if from_guest { (IpNumber::ICMP, id, 0) } else { (IpNumber::ICMP, 0, id) }
            }
            TransportSlice::Icmpv6(icmp) => {
                let kind = icmp.type_u8();
                let id = echo_id(
                    icmp.slice(),
                    [icmpv6::TYPE_ECHO_REQUEST, icmpv6::TYPE_ECHO_REPLY].contains(&kind),
                )?;
                if from_guest { (IpNumber::IPV6_ICMP, id, 0) } else { (IpNumber::IPV6_ICMP, 0, id) }
            }
            TransportSlice::Igmp(_) => return None,
        };
        let (source, destination) = (SocketAddr::new(source, from), SocketAddr::new(destination, to));
        let (guest, remote) = if from_guest { (source, destination) } else { (destination, source) };
        Some(Self { protocol: protocol.0, guest, remote })
    }
}

fn echo_id(message: &[u8], is_echo: bool) -> Option<u16> {
    let id = message.get(4..6).filter(|_| is_echo)?;
    Some(u16::from_be_bytes([id[0], id[1]]))
}

impl Stack {
    /// The live flow that a frame with these ends belongs to.
    pub fn flow_between(&self, ends: &Ends) -> Option<FlowId> {
        let Ends { guest, remote, .. } = *ends;
        match IpNumber(ends.protocol) {
            IpNumber::TCP => self.tcp.find(&Key { guest, remote }),
            IpNumber::UDP => self
                .inbound
                .find(guest, remote)
                .or_else(|| self.dns.find(guest, remote))
                .or_else(|| self.udp.mappings().find(guest)),
            _ => self.echo.mappings().find(guest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn frame(
        build: impl FnOnce(etherparse::PacketBuilderStep<etherparse::IpHeaders>, &mut Vec<u8>),
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ip = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64);
        build(ip, &mut bytes);
        bytes
    }

    #[test]
    fn the_guests_end_is_where_the_frame_comes_from_or_goes_to() {
        let bytes =
            frame(|ip, to| ip.tcp(40_000, 443, 1, 1024).write(to, b"payload that is elsewhere").unwrap());
        // The head alone, as frames to the guest are given.
        let head = &bytes[..14 + 20 + 20];
        let out = Ends::of(head, true).unwrap();
        assert_eq!(out.guest, "10.0.2.100:40000".parse().unwrap());
        assert_eq!(out.remote, "192.0.2.1:443".parse().unwrap());
        let back = Ends::of(head, false).unwrap();
        assert_eq!((back.guest, back.remote), (out.remote, out.guest));
        assert_eq!(out.protocol, 6);
    }

    #[test]
    fn an_echo_has_its_identifier_at_the_guests_end_both_ways() {
        let bytes = frame(|ip, to| ip.icmpv4_echo_request(77, 1).write(to, b"").unwrap());
        assert_eq!(Ends::of(&bytes, true).unwrap().guest, "10.0.2.100:77".parse().unwrap());
        let reply = frame(|ip, to| ip.icmpv4_echo_reply(77, 1).write(to, b"").unwrap());
        assert_eq!(Ends::of(&reply, false).unwrap().guest, "192.0.2.1:77".parse().unwrap());
    }

    #[test]
    fn what_belongs_to_no_flow_and_nonsense_have_no_ends() {
        assert_eq!(Ends::of(&[0; 10], true), None);
        assert_eq!(Ends::of(&[0xff; 60], true), None);
        let unreachable = frame(|ip, to| ip.icmpv4_raw(3, 1, [0; 4]).write(to, &[0; 28]).unwrap());
        assert_eq!(Ends::of(&unreachable, false), None);
    }
}
