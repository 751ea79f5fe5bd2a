//! ICMP and ICMPv6 from the guest: echo to ourselves is answered here, echo elsewhere goes to [`super::echo`], and "too
//! big" from a narrower link behind the guest lowers the segment size of the connection it quotes.

use super::Cx;
use super::action::{Action, Emit};
use super::echo::Request;
use crate::buf::{Span, SpanVec};
use crate::flow::DropReason;
use crate::wire::ip::IpOut;
use crate::wire::{Gso, Ip, ip, proto};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// An echo request.
    Echo {
        /// Identifier.
        id: u16,
        /// Sequence number.
        seq: u16,
        /// Checksum as it came.
        checksum: u16,
    },
    /// Segments of this TCP connection must be at most `mtu` bytes of L3.
    TooBig {
        /// The guest's end.
        guest: SocketAddr,
        /// The other end, as dialled.
        remote: SocketAddr,
        /// Bytes of L3.
        mtu: u16,
    },
}

/// Reads a message; everything else is a reason to drop it.
pub fn read(v6: bool, m: &[u8]) -> Result<Message, DropReason> {
    let head: [u8; 8] = m.get(..8).and_then(|h| h.try_into().ok()).ok_or(DropReason::Malformed)?;
    let u16_at = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    match (v6, head[0], head[1]) {
        (false, 8, 0) | (true, 128, 0) => {
            Ok(Message::Echo { id: u16_at(4), seq: u16_at(6), checksum: u16_at(2) })
        }
        (false, 3, 4) => quoted(&m[8..], u16_at(6)),
        (true, 2, 0) => {
            let mtu = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            quoted(&m[8..], u16::try_from(mtu).unwrap_or(u16::MAX))
        }
        _ => Err(DropReason::Unsupported),
    }
}

/// The TCP connection of a quoted packet, which went to the guest: its source is the remote end.
fn quoted(packet: &[u8], mtu: u16) -> Result<Message, DropReason> {
    let first = *packet.first().ok_or(DropReason::Malformed)?;
    let (protocol, src, dst, at): (u8, IpAddr, IpAddr, usize) = if first >> 4 == 4 {
        let h: &[u8; 20] = packet.get(..20).and_then(|h| h.try_into().ok()).ok_or(DropReason::Malformed)?;
        let addr = |at: usize| Ipv4Addr::new(h[at], h[at + 1], h[at + 2], h[at + 3]).into();
        (h[9], addr(12), addr(16), usize::from(first & 15) * 4)
    } else {
        let h: &[u8; 40] = packet.get(..40).and_then(|h| h.try_into().ok()).ok_or(DropReason::Malformed)?;
        let addr = |at: usize| {
            let mut a = [0; 16];
            a.copy_from_slice(&h[at..at + 16]);
            Ipv6Addr::from(a).into()
        };
        (h[6], addr(8), addr(24), 40)
    };
    let ports = packet.get(at..at + 4).ok_or(DropReason::Malformed)?;
    if protocol != proto::TCP {
        // The sender of a datagram learns nothing from it: hosts do not retransmit datagrams.
        return Err(DropReason::Unsupported);
    }
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Ok(Message::TooBig { guest: SocketAddr::new(dst, port(2)), remote: SocketAddr::new(src, port(0)), mtu })
}

/// Answers an echo request to one of our own addresses. The payload is lent, not copied; the checksum changes by the
/// type alone, so it follows from the request's (RFC 1624).
pub fn answer(cx: &mut Cx<'_>, next_id: &mut u16, request: &Ip, r: &Request, checksum: u16) {
    let Some(mac) = cx.neighbour(r.guest) else { return };
    let v6 = r.guest.is_ipv6();
    let out = IpOut {
        src: r.dialled,
        dst: r.guest,
        protocol: request.protocol,
        ttl: 255,
        tos: request.tos,
        id: *next_id,
        dont_fragment: false,
    };
    *next_id = next_id.checked_add(1).unwrap_or(1);
    let (old, new): (u16, u16) = if v6 { (0x8000, 0x8100) } else { (0x0800, 0) };
    let mut head = ip::head(cx.link.router_mac(v6), mac, &out, 8 + r.payload.len as usize);
    let ([s0, s1], [i0, i1], [q0, q1]) =
        (adjust(checksum, old, new).to_be_bytes(), r.id.to_be_bytes(), r.seq.to_be_bytes());
    head.extend([new.to_be_bytes()[0], 0, s0, s1, i0, i1, q0, q1]);
    let mut spans = SpanVec::new();
    if !r.payload.is_empty() {
        spans.push(r.payload);
    }
    cx.act(Action::Emit(Emit { head, spans, csum: None, gso: Gso::None }));
}

/// The checksum after one 16-bit word has changed from `old` to `new` (RFC 1624, equation 3).
fn adjust(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The request as the echo engine wants it. `payload` is the ICMP message's span.
pub fn request(ip: &Ip, to: IpAddr, (id, seq): (u16, u16), ttl: u8, message: Span) -> Request {
    Request {
        guest: ip.src,
        dialled: ip.dst,
        to,
        id,
        seq,
        payload: message.skip(8),
        ttl,
        tos: ip.tos,
        dont_fragment: ip.dont_fragment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjusting_agrees_with_summing_again() {
        let sum = |words: &[u16]| {
            let mut s: u32 = words.iter().map(|w| u32::from(*w)).sum();
            while s >> 16 != 0 {
                s = (s & 0xffff) + (s >> 16);
            }
            !(s as u16)
        };
        for rest in [0u16, 1, 0xf7ff, 0xf800, 0xffff, 0x1234] {
            assert_eq!(adjust(sum(&[0x0800, rest, 7]), 0x0800, 0), sum(&[0, rest, 7]), "{rest:04x}");
            assert_eq!(adjust(sum(&[0x8000, rest, 7]), 0x8000, 0x8100), sum(&[0x8100, rest, 7]));
        }
    }

    #[test]
    fn too_big_names_the_connection_from_the_guests_side() {
        let mut m = vec![3, 4, 0, 0, 0, 0, 0x05, 0x14];
        m.extend_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 198, 51, 100, 2, 10, 0, 2, 100]);
        m.extend_from_slice(&[0, 80, 0x30, 0x39]);
        assert_eq!(
            read(false, &m),
            Ok(Message::TooBig {
                guest: "10.0.2.100:12345".parse().unwrap(),
                remote: "198.51.100.2:80".parse().unwrap(),
                mtu: 1300,
            })
        );
        for cut in 0..m.len() {
            assert_eq!(read(false, &m[..cut]), Err(DropReason::Malformed), "{cut}");
        }
    }
}
