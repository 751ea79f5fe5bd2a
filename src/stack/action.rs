//! What goes into the stack and what comes out: the whole vocabulary between the sans-IO core and the plane.
//!
//! Theory of operation. The plane feeds frames, host events and time; the stack queues [`Action`]s; the plane carries
//! them out in order. Payload is always a [`Span`]. Ownership: a buffer passed in belongs to the stack until it says
//! [`Action::Release`], exactly once. An action that names spans only lends them: the plane takes references of its
//! own while the kernel works on them, so the stack may release right behind the action.
//!
//! Flow life: `Open` -> (`Connected` | `ConnectFailed`) for TCP; UDP and ping sockets are ready at once. After `Close`
//! the plane sends no further event for that flow.

use super::inbound::Door;
use crate::buf::{BufId, Span, SpanVec};
use crate::flow::FlowId;
use crate::wire::{Csum, Gso, Head};
use arrayvec::ArrayVec;
use std::net::{IpAddr, SocketAddr};

/// One frame, or super-frame, for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emit {
    /// Ethernet, IP and transport headers. The IP header's own checksum is complete; lengths are those of the whole
    /// super-frame.
    pub head: Head,
    /// The payload.
    pub spans: SpanVec,
    /// The checksum left to do; `None` when the packet is complete as it is.
    pub csum: Option<Csum>,
    /// The segmentation left to do.
    pub gso: Gso,
}

impl Emit {
    /// Bytes of payload.
    pub fn payload_len(&self) -> usize {
        self.spans.iter().map(|s| s.len as usize).sum()
    }
}

/// A socket that a flow needs on the host side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Connect to `remote`. Answered by [`HostEvent::Connected`] or [`HostEvent::ConnectFailed`].
    Tcp {
        /// The destination, after translation.
        remote: SocketAddr,
        /// Source address to bind, if the user asked for one.
        bind: Option<IpAddr>,
    },
    /// An unconnected datagram socket of the family of `sample`.
    Udp {
        /// The first destination: decides the family.
        sample: SocketAddr,
        /// Source address to bind.
        bind: Option<IpAddr>,
    },
    /// A ping socket (`SOCK_DGRAM`, `IPPROTO_ICMP` or `IPPROTO_ICMPV6`).
    Ping {
        /// The first destination: decides the family.
        sample: IpAddr,
        /// Source address to bind.
        bind: Option<IpAddr>,
    },
}

/// Datagrams for one destination, as one send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagrams {
    /// The destination, after translation. The port is 0 for ping sockets.
    pub to: SocketAddr,
    /// Bytes the stack made itself and that go first: the eight bytes of an ICMP echo header, otherwise empty.
    pub head: ArrayVec<u8, 8>,
    /// The payload, in order. Never empty of spans: an empty datagram has one empty span.
    pub spans: SpanVec,
    /// Cut the payload into datagrams of this many bytes (`UDP_SEGMENT`), the last may be shorter; at most 64.
    pub segment: Option<u16>,
    /// Time to live or hop limit to send with.
    pub ttl: u8,
    /// Type of service or traffic class byte to send with.
    pub tos: u8,
    /// Set the don't-fragment bit (and let a too-long datagram fail with `EMSGSIZE`), as the guest did.
    pub dont_fragment: bool,
}

/// How a socket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Whatever was sent is delivered (FIN, for TCP).
    Orderly,
    /// The peer sees a reset.
    Reset,
}

/// What the stack wants done. Carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write a frame to the tap.
    Emit(Emit),
    /// Write a complete frame that the stack built whole (ARP, NDP, DHCP, ICMP errors), Ethernet first, checksums done.
    EmitBytes(Vec<u8>),
    /// Make a host socket for a new flow.
    Open(FlowId, Open),
    /// Send stream bytes. Answered by exactly one [`HostEvent::Sent`] or [`HostEvent::SendFailed`]; at most one is
    /// outstanding per flow.
    SendStream(FlowId, SpanVec),
    /// Send datagrams. Not answered, except by [`HostEvent::DatagramsFailed`] when the host refuses.
    SendDatagrams(FlowId, Datagrams),
    /// Send datagrams from a published socket that clients share. Not answered, except by
    /// [`super::Stack::published_error`].
    SendPublished {
        /// Whose; for queries and logs.
        flow: FlowId,
        /// Out of which socket.
        door: Door,
        /// From which address: the one that the client used. Unspecified: the kernel's choice.
        from: IpAddr,
        /// What.
        data: Datagrams,
    },
    /// Receive from the flow's host socket in this way from now on. Bytes already on their way still arrive. Sockets start
    /// with [`Intake::Off`].
    Receive(FlowId, Intake),
    /// No more bytes to the host: shut the sending side down (FIN) once the bytes before it are out.
    ShutdownWrite(FlowId),
    /// Done with the host socket. No event for this flow follows.
    Close(FlowId, Close),
    /// Copy payload from one buffer into another (same length; both belong to the stack). Packs short payloads.
    Copy {
        /// Source.
        from: Span,
        /// Destination, within a buffer's capacity.
        to: Span,
    },
    /// A reassembled packet: put the parts together in a fresh buffer and hand it back as a frame. `head` is Ethernet
    /// and IP, with lengths for the whole packet and no fragment header.
    Inject {
        /// Ethernet and IP headers.
        head: Head,
        /// The transport header and payload, in order.
        spans: SpanVec,
    },
    /// The stack no longer needs this buffer.
    Release(BufId),
}

/// How the bytes of a host socket are to be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// Not at all.
    Off,
    /// Whatever comes, into large buffers.
    On,
    /// Once, at most so many bytes (1 to [`crate::buf::SMALL_MAX`]), into a small buffer.
    Piece(u32),
}

/// Why the host side failed. The stack turns it into what the guest should see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// `ECONNREFUSED`.
    Refused,
    /// `ECONNRESET`, `EPIPE`.
    Reset,
    /// `EHOSTUNREACH`.
    HostUnreachable,
    /// `ENETUNREACH`, `EADDRNOTAVAIL`, `EAFNOSUPPORT`.
    NetUnreachable,
    /// `EACCES`, `EPERM`: the host's own policy.
    Prohibited,
    /// `ETIMEDOUT`.
    TimedOut,
    /// `EMSGSIZE`; the path's MTU in bytes of L3 when the host knows it.
    TooBig(Option<u16>),
    /// `EMFILE`, `ENFILE`, `ENOMEM`, `ENOBUFS`: the host is out of something.
    Exhausted,
    /// Anything else: the errno.
    Other(i32),
}

/// An ICMP error that the host received for a datagram of a flow (`IP_RECVERR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Who reported it; `None` when the host itself did.
    pub offender: Option<IpAddr>,
    /// The ICMP type, of the flow's family.
    pub icmp_type: u8,
    /// The ICMP code.
    pub code: u8,
    /// `ee_info`: the MTU for fragmentation-needed and packet-too-big.
    pub info: u32,
    /// Where the failed datagram was sent. The port is 0 for ping sockets.
    pub to: SocketAddr,
    /// Sequence number of the failed echo request, for ping sockets.
    pub echo_seq: u16,
}

/// What happened on the host side of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// The connection stands.
    Connected,
    /// It does not; the flow's socket is gone. The stack still answers with `Close`.
    ConnectFailed(HostError),
    /// Stream bytes arrived. The buffer now belongs to the stack.
    Received(Span),
    /// What was to be received into was used up, and receiving has ended for that.
    NoBuffer,
    /// The peer sends no more.
    Eof,
    /// Receiving failed: the connection is dead.
    ReceiveFailed(HostError),
    /// The outstanding [`Action::SendStream`] took this many bytes (from 1).
    Sent(usize),
    /// The outstanding [`Action::SendStream`] failed: the connection is dead.
    SendFailed(HostError),
    /// Datagrams from one remote. The buffer now belongs to the stack.
    Datagrams {
        /// The sender, before translation back.
        from: SocketAddr,
        /// All payload bytes.
        data: Span,
        /// Each datagram has this many bytes, the last may have fewer (`UDP_GRO`); `None`: one datagram.
        segment: Option<u16>,
        /// Type of service or traffic class byte they arrived with.
        tos: u8,
    },
    /// An echo reply on a ping socket. The buffer now belongs to the stack.
    EchoReply {
        /// The sender.
        from: IpAddr,
        /// Sequence number of the reply.
        seq: u16,
        /// Bytes after the eight-byte ICMP header.
        data: Span,
        /// Time to live it arrived with, where known.
        ttl: u8,
    },
    /// The host refused datagrams for this destination.
    DatagramsFailed {
        /// The destination.
        to: SocketAddr,
        /// Why.
        error: HostError,
    },
    /// An ICMP error came back for a datagram sent earlier.
    Icmp(IcmpError),
}
