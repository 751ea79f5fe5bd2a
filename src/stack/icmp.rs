//! What an ICMP or ICMPv6 message from the guest asks of the stack: echo, smaller segments, or no more datagrams.
//!
//! An echo request goes to [`super::echo`]. "Too big" from a narrower link behind the guest lowers the segment size of
//! the connection it quotes, and "port unreachable" ends a client's datagrams to a published port. Other errors change nothing: the guest's own answers (a reset, silence) say as much.

use crate::flow::DropReason;
use crate::wire::{icmp, proto};

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// An echo request with this identifier and sequence number.
    Echo(u16, u16),
    /// A segment of a TCP connection was too long for a link. Its source is the remote end.
    TooBig(icmp::Quoted),
    /// Nobody listened for a datagram. Its source is the remote end.
    PortUnreachable(icmp::Quoted),
}

/// Reads a message; everything else is a reason to drop it.
pub fn read(v6: bool, message: &[u8]) -> Result<Message, DropReason> {
    let Some([icmp_type, ..]) = message.first_chunk::<{ icmp::HEADER_LEN }>() else {
        return Err(DropReason::Malformed);
    };
    if let Some(icmp::Echo { reply: false, id, seq }) = icmp::echo(message, v6) {
        return Ok(Message::Echo(id, seq));
    }
    if !icmp::is_error(v6, *icmp_type) {
        return Err(DropReason::Unsupported);
    }
    match icmp::quoted(message, v6) {
        Some(q) if q.head.is_too_big(v6) && q.protocol == proto::TCP => Ok(Message::TooBig(q)),
        Some(q) if q.head.is_port_unreachable(v6) && q.protocol == proto::UDP => {
            Ok(Message::PortUnreachable(q))
        }
        // The sender of a datagram learns nothing from it: hosts do not retransmit datagrams.
        Some(_) => Err(DropReason::Unsupported),
        None => Err(DropReason::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_big_names_the_connection_from_the_guests_side() {
        let mut m = vec![3, 4, 0, 0, 0, 0, 0x05, 0x14];
        m.extend_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 198, 51, 100, 2, 10, 0, 2, 100]);
        m.extend_from_slice(&[0, 80, 0x30, 0x39]);
        let Ok(Message::TooBig(q)) = read(false, &m) else { panic!("{:?}", read(false, &m)) };
        assert_eq!((q.dst, q.src), ("10.0.2.100:12345".parse().unwrap(), "198.51.100.2:80".parse().unwrap()));
        assert_eq!(q.mtu, Some(1300));
        for cut in 0..m.len() {
            assert_eq!(read(false, &m[..cut]), Err(DropReason::Malformed), "{cut}");
        }
        m[17] = proto::UDP;
        assert_eq!(read(false, &m), Err(DropReason::Unsupported));
    }
}
