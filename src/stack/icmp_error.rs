//! ICMP errors to the guest: one vocabulary for both families, quotes, and the rules of who may get one.
//!
//! Theory of operation. A [`Fault`] becomes type, code and info of the guest's family (RFC 792, RFC 1812, RFC 4443).
//! The error quotes either the packet at hand ([`Errors::about`]) or one rebuilt from what a mapping remembers
//! ([`Errors::report`]), with the addresses and ports *the guest* used: its kernel looks its socket up by them.
//! Never about an ICMP error, to or about a group address (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)), nor faster
//! than a bucket allows.

use super::action::Action;
use super::cx::Cx;
use super::link::is_group;
use crate::config::Network;
use crate::flow::{Bucket, DropReason};
use crate::wire::icmp::{Echo, ErrorHead};
use crate::wire::ip::IpOut;
use crate::wire::{Ip, icmp, ip, proto};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Errors that may go out each second.
const PER_SECOND: u32 = 200;
/// As many as come in this time may go out at once, which is a hundred. A traceroute sends 48 probes in a burst.
const AHEAD: Duration = Duration::from_millis(500);

/// What went wrong, whatever the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No route to the network: also what a refused destination looks like.
    Net,
    /// No answer from the host.
    Host,
    /// Nobody speaks this protocol. IPv6: parameter problem, with the offset of the next-header byte.
    Protocol(u32),
    /// Nobody listens on this port.
    Port,
    /// A policy of the host forbids it.
    Prohibited,
    /// Time to live ran out.
    TimeExceeded,
    /// Too long for the path, whose MTU this is.
    TooBig(u16),
    /// As it came from the network, in the guest's family.
    Relayed(ErrorHead),
}

impl Fault {
    /// Type, code and the four bytes after the checksum.
    fn on_wire(self, v6: bool) -> ErrorHead {
        let (icmp_type, code, info) = match (self, v6) {
            (Self::Net, false) => (3, 0, 0),
            (Self::Net, true) => (1, 0, 0),
            (Self::Host, false) => (3, 1, 0),
            (Self::Host, true) => (1, 3, 0),
            (Self::Protocol(_), false) => (3, 2, 0),
            (Self::Protocol(at), true) => (4, 1, at),
            (Self::Port, false) => (3, 3, 0),
            (Self::Port, true) => (1, 4, 0),
            (Self::Prohibited, false) => (3, 13, 0),
            (Self::Prohibited, true) => (1, 1, 0),
            (Self::TimeExceeded, false) => (11, 0, 0),
            (Self::TimeExceeded, true) => (3, 0, 0),
            (Self::TooBig(mtu), false) => (3, 4, u32::from(mtu)),
            (Self::TooBig(mtu), true) => (2, 0, u32::from(mtu)),
            (Self::Relayed(head), _) => return head,
        };
        ErrorHead { icmp_type, code, info }
    }
}

/// The gateway as the guest knows it, in the family of `like`: the source of errors that are our own.
pub fn gateway(net: &Network, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => net.gateway_v4().into(),
        IpAddr::V6(_) => net.gateway_v6().unwrap_or(Network::router_link_local()).into(),
    }
}

/// What a mapping remembers of a packet it carried: enough for the guest's kernel to find the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// A UDP datagram from one end to the other, as the guest sent it.
    Udp(SocketAddr, SocketAddr),
    /// A SYN from one end to the other, with its sequence number.
    Tcp(SocketAddr, SocketAddr, u32),
    /// An echo request.
    Echo {
        /// The guest.
        from: IpAddr,
        /// The destination as the guest dialled it.
        to: IpAddr,
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
    },
}

impl Quote {
    fn ends(&self) -> (IpAddr, IpAddr) {
        match *self {
            Self::Udp(from, to) | Self::Tcp(from, to, _) => (from.ip(), to.ip()),
            Self::Echo { from, to, .. } => (from, to),
        }
    }

    /// IP header and the eight bytes after it.
    fn packet(&self) -> Vec<u8> {
        let (from, to) = self.ends();
        let v6 = from.is_ipv6();
        let (protocol, body) = match *self {
            Self::Udp(from, to) => {
                let ([a, b], [c, d]) = (from.port().to_be_bytes(), to.port().to_be_bytes());
                (proto::UDP, [a, b, c, d, 0, 8, 0, 0])
            }
            Self::Tcp(from, to, seq) => {
                let ([a, b], [c, d]) = (from.port().to_be_bytes(), to.port().to_be_bytes());
                let [s, t, u, v] = seq.to_be_bytes();
                (proto::TCP, [a, b, c, d, s, t, u, v])
            }
            Self::Echo { id, seq, .. } => (icmp::protocol(v6), Echo { reply: false, id, seq }.header(v6)),
        };
        let ip = IpOut { src: from, dst: to, protocol, ttl: 1, tos: 0, id: 0, dont_fragment: true };
        ip::packet(&ip, &body)
    }
}

/// Sends ICMP errors, at a bounded rate.
#[derive(Debug)]
pub struct Errors(Bucket);

impl Default for Errors {
    fn default() -> Self {
        Self(Bucket::new(PER_SECOND, AHEAD))
    }
}

impl Errors {
    /// An error about the packet at hand. `packet` starts with its IP header.
    pub fn about(&mut self, cx: &mut Cx<'_>, ip: &Ip, packet: &[u8], fault: Fault) {
        let v6 = ip.src.is_ipv6();
        let about_error = ip.protocol == icmp::protocol(v6)
            && packet
                .get(usize::from(ip.payload_at - ip.header_at))
                .is_none_or(|icmp_type| icmp::is_error(v6, *icmp_type));
        if about_error || ip.fragment.is_some_and(|f| f.offset != 0) {
            return;
        }
        let source = gateway(cx.net, ip.src);
        self.send(cx, source, (ip.src, ip.dst), packet, fault);
    }

    /// An error about a packet carried earlier. `offender` is who reported it: `None` and loopback mean the gateway.
    pub fn report(&mut self, cx: &mut Cx<'_>, offender: Option<IpAddr>, quote: &Quote, fault: Fault) {
        let ends = quote.ends();
        let source = match offender.map(|a| cx.nat.guest_sees(a)) {
            Some(a) if a.is_ipv6() == ends.0.is_ipv6() && !a.is_multicast() => a,
            _ => gateway(cx.net, ends.0),
        };
        self.send(cx, source, ends, &quote.packet(), fault);
    }

    fn send(&mut self, cx: &mut Cx<'_>, source: IpAddr, ends: (IpAddr, IpAddr), packet: &[u8], fault: Fault) {
        let (to, about) = ends;
        let nobody = |a: IpAddr| a.is_unspecified() || is_group(cx.net, a);
        if nobody(to) || nobody(about) || !self.0.pass(cx.now) {
            return;
        }
        let v6 = to.is_ipv6();
        if let Some(mac) = cx.neighbour(to) {
            let own = cx.link.router_mac(v6);
            let frame = icmp::error(own, mac, (source, to), fault.on_wire(v6), packet);
            cx.act(Action::EmitBytes(frame));
        }
    }
}

/// What the guest is told when the host refused a datagram; `None` for what is only counted.
pub fn fault_of(error: super::HostError) -> Result<Fault, DropReason> {
    use super::HostError as E;
    match error {
        E::Refused => Ok(Fault::Port),
        E::HostUnreachable => Ok(Fault::Host),
        E::NetUnreachable => Ok(Fault::Net),
        E::Prohibited => Ok(Fault::Prohibited),
        // Where the host does not know the path's MTU, the smallest that IPv6 allows passes nearly everywhere.
        E::TooBig(mtu) => Ok(Fault::TooBig(mtu.unwrap_or(crate::config::network::MTU_MIN_V6))),
        E::Exhausted => Err(DropReason::NoRoom),
        E::Reset | E::TimedOut | E::Other(_) => Err(DropReason::HostRefused),
    }
}

/// What the guest is told of an error that came from the network: unreachables, too big, time exceeded and parameter
/// problems are passed on, anything else is not.
pub fn relayed(v6: bool, e: &super::IcmpError) -> Option<Fault> {
    let carries_info = if v6 { matches!(e.icmp_type, 2 | 4) } else { e.icmp_type == 3 && e.code == 4 };
    let known = if v6 { matches!(e.icmp_type, 1..=4) } else { matches!(e.icmp_type, 3 | 11 | 12) };
    let info = if carries_info { e.info } else { 0 };
    known.then_some(Fault::Relayed(ErrorHead { icmp_type: e.icmp_type, code: e.code, info }))
}
