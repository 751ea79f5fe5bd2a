//! Socket addresses and control messages, as the kernel lays them out, to and from plain values.
//!
//! Written byte by byte (netinet/in.h, `struct cmsghdr` of the kernel's socket.h, which is a `size_t` and two `int`s),
//! so that nothing here needs unsafe code and a short or odd message from the kernel gives `None`, not a panic.
//! IPv6 scope ids and flow labels survive both ways.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Bytes of `struct sockaddr_in6`, the longest address we exchange.
pub(super) const NAME_LEN: usize = 28;
/// Bytes kept for control messages. On receiving at most UDP_GRO with TTL and TOS of both families at 24 bytes each,
/// IP_PKTINFO at 32 and IPV6_PKTINFO at 40: 192. On sending at most UDP_SEGMENT, TTL, TOS and one of the two: 112. The
/// 16 to spare let payload start on a multiple of 64 (`complete::PAYLOAD_AT`).
pub(super) const CONTROL_LEN: usize = 208;
const HEADER: usize = size_of::<usize>() + 8;
const ALIGN: usize = size_of::<usize>();

/// An address of this host as one datagram has it: sent to there, or to be sent from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    /// The address, in the form of the socket's family: what a dual-stack socket got over IPv4 is v4-mapped, and so is
    /// what it sends that way.
    pub ip: IpAddr,
    /// Interface index. Received: where the datagram came in. To send: the interface to leave by, which a link-local
    /// address needs; 0 lets the routing table choose.
    pub interface: u32,
}

/// Writes `addr` as a sockaddr and returns its length.
pub(super) fn encode_name(addr: &SocketAddr, out: &mut [u8; NAME_LEN]) -> u32 {
    *out = [0; NAME_LEN];
    out[2..4].copy_from_slice(&addr.port().to_be_bytes());
    match addr {
        SocketAddr::V4(v4) => {
            out[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            out[4..8].copy_from_slice(&v4.ip().octets());
            16
        }
        SocketAddr::V6(v6) => {
            out[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            out[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
            out[8..24].copy_from_slice(&v6.ip().octets());
            out[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            NAME_LEN as u32
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Reads a sockaddr; `None` for families other than IP and for short ones.
pub(super) fn decode_name(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(array(bytes, 0)?));
    let port = u16::from_be_bytes(array(bytes, 2)?);
    match family {
        libc::AF_INET => Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(array::<4>(bytes, 4)?), port))),
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(array::<16>(bytes, 8)?);
            let flow = u32::from_ne_bytes(array(bytes, 4)?);
            let scope = u32::from_ne_bytes(array(bytes, 24)?);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)))
        }
        _ => None,
    }
}

/// Control messages being written.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; CONTROL_LEN],
    len: usize,
}

impl Control {
    pub(super) const EMPTY: Self = Self { bytes: [0; CONTROL_LEN], len: 0 };

    /// Control messages for a datagram: how to cut it up, where it comes from, and time to live and type of service of
    /// the family of `to`.
    pub(super) fn outgoing(
        to: Option<IpAddr>,
        from: Option<Local>,
        segment: Option<u16>,
        ttl: Option<u8>,
        tos: Option<u8>,
    ) -> Self {
        let mut control = Self::EMPTY;
        if let Some(segment) = segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        if let Some(from) = from {
            control.push_local(from);
        }
        let Some(to) = to else { return control };
        let (level, ttl_type, tos_type) = match to {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL, libc::IP_TOS),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, libc::IPV6_TCLASS),
        };
        if let Some(ttl) = ttl {
            control.push(level, ttl_type, &i32::from(ttl).to_ne_bytes());
        }
        if let Some(tos) = tos {
            control.push(level, tos_type, &i32::from(tos).to_ne_bytes());
        }
        control
    }

    /// `struct in_pktinfo` is the index, the address to send from and one that only receiving fills in; `struct
    /// in6_pktinfo` is the address and the index (ip(7), RFC 3542 section 6).
    fn push_local(&mut self, from: Local) {
        match from.ip {
            IpAddr::V4(ip) => {
                let mut info = [0; 12];
                info[..4].copy_from_slice(&from.interface.to_ne_bytes());
                info[4..8].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(ip) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&ip.octets());
                info[16..].copy_from_slice(&from.interface.to_ne_bytes());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let at = self.len;
        let end = at + (HEADER + data.len()).next_multiple_of(ALIGN);
        let Some(room) = self.bytes.get_mut(at..end) else { return };
        room.fill(0);
        room[..ALIGN].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        room[ALIGN..ALIGN + 4].copy_from_slice(&level.to_ne_bytes());
        room[ALIGN + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        room[HEADER..HEADER + data.len()].copy_from_slice(data);
        self.len = end;
    }

    /// Forgets what was written.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// The messages written so far.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What the control messages of a received datagram say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) segment: Option<u16>,
    pub(super) tos: u8,
    pub(super) ttl: Option<u8>,
    pub(super) local: Option<Local>,
}

/// The second field of `struct in_pktinfo`: our address for the datagram, also where it was broadcast or multicast.
fn local_v4(data: &[u8]) -> Option<Local> {
    let ip = IpAddr::from(array::<4>(data, 4)?);
    Some(Local { ip, interface: u32::from_ne_bytes(array(data, 0)?) })
}

fn local_v6(data: &[u8]) -> Option<Local> {
    let ip = IpAddr::from(array::<16>(data, 0)?);
    Some(Local { ip, interface: u32::from_ne_bytes(array(data, 16)?) })
}

/// Reads the control messages of a received datagram; unknown ones are skipped, a malformed one ends the reading.
pub(super) fn decode_control(mut bytes: &[u8]) -> Incoming {
    let mut found = Incoming::default();
    while let (Some(len), Some(level), Some(kind)) =
        (array(bytes, 0), array(bytes, ALIGN), array(bytes, ALIGN + 4))
    {
        let len = usize::from_ne_bytes(len);
        let Some(data) = bytes.get(HEADER..len) else { break };
        // An int, except IP_TOS, which is one byte (net/ipv4/ip_sockglue.c, ip_cmsg_recv_tos).
        let number = match (array(data, 0), data.first()) {
            (Some(int), _) => i32::from_ne_bytes(int),
            (None, Some(byte)) => i32::from(*byte),
            (None, None) => 0,
        };
        match (i32::from_ne_bytes(level), i32::from_ne_bytes(kind)) {
            (libc::SOL_UDP, libc::UDP_GRO) => found.segment = u16::try_from(number).ok().filter(|s| *s > 0),
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                found.tos = number as u8;
            }
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                found.ttl = u8::try_from(number).ok();
            }
            // A dual-stack socket with both options gets both for an IPv4 datagram: the one of its own family counts.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => found.local = found.local.or_else(|| local_v4(data)),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => found.local = local_v6(data).or(found.local),
            _ => {}
        }
        bytes = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or(&[]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_survive_the_round_trip(
            v4 in any::<u32>(), v6 in any::<u128>(), port in any::<u16>(), flow in any::<u32>(), scope in any::<u32>(),
        ) {
            let mut out = [0xff; NAME_LEN];
            let a = SocketAddr::V4(SocketAddrV4::new(v4.into(), port));
            let n = encode_name(&a, &mut out) as usize;
            prop_assert_eq!(decode_name(&out[..n]), Some(a));
            let b = SocketAddr::V6(SocketAddrV6::new(v6.into(), port, flow, scope));
            let n = encode_name(&b, &mut out) as usize;
            prop_assert_eq!(decode_name(&out[..n]), Some(b));
            prop_assert_eq!(decode_name(&out[..n - 1]), None);
        }

        #[test]
        fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_name(&bytes);
            let _ = decode_control(&bytes);
        }
    }

    #[test]
    fn control_messages_are_read_as_written() {
        let out = Control::outgoing(Some([10, 0, 2, 2].into()), None, Some(1400), Some(63), Some(0xb8));
        assert_eq!(out.as_slice().len(), 72);
        assert_eq!(decode_control(out.as_slice()).ttl, Some(63));
        assert_eq!(decode_control(out.as_slice()).tos, 0xb8);
        let six = Control::outgoing(Some(IpAddr::V6(Ipv6Addr::LOCALHOST)), None, None, Some(1), Some(2));
        assert_eq!(decode_control(six.as_slice()), Incoming { tos: 2, ttl: Some(1), ..Incoming::default() });
        assert!(
            Control::outgoing(None, None, None, Some(1), Some(2)).as_slice().is_empty(),
            "no family, no field"
        );
    }

    #[test]
    fn local_addresses_are_read_as_written() {
        for (ip, len) in [("198.51.100.77", 32), ("2001:db8::77", 40), ("::ffff:198.51.100.77", 40)] {
            let local = Local { ip: ip.parse().unwrap(), interface: 0x0102_0304 };
            let out = Control::outgoing(None, Some(local), None, None, None);
            assert_eq!(out.as_slice().len(), len);
            assert_eq!(decode_control(out.as_slice()).local, Some(local));
            for short in HEADER..len - 4 {
                let mut bytes = out.as_slice()[..short].to_vec();
                bytes[..ALIGN].copy_from_slice(&short.to_ne_bytes());
                let _ = decode_control(&bytes);
            }
        }
    }

    #[test]
    fn everything_at_once_fits() {
        let local = |ip: &str| Local { ip: ip.parse().unwrap(), interface: 3 };
        let mut control = Control::outgoing(None, Some(local("192.0.2.1")), Some(1400), None, None);
        control.push_local(local("::ffff:192.0.2.1"));
        for level in [libc::IPPROTO_IP, libc::IPPROTO_IPV6] {
            control.push(level, -1, &[0; 4]);
            control.push(level, -2, &[0; 4]);
        }
        assert_eq!(control.as_slice().len(), 192, "nothing was left out");
        const { assert!(192 <= CONTROL_LEN) };
        assert_eq!(decode_control(control.as_slice()).local, Some(local("::ffff:192.0.2.1")));
    }

    #[test]
    fn too_many_control_messages_are_left_out() {
        let mut control = Control::EMPTY;
        for _ in 0..20 {
            control.push(1, 2, &[0; 4]);
        }
        assert_eq!(control.as_slice().len(), CONTROL_LEN / 24 * 24);
    }
}
