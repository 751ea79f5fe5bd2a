//! What a completion is about: the tag that each operation carries through the ring.

use super::relays::TcpTag;
use super::relays::udp::UdpTag;
use crate::flow::FlowId;

/// The operations of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Frames from the tap.
    TapRead,
    /// A frame to the tap.
    TapWrite,
    /// The channel to control has something to say.
    Control,
    /// A flow's host socket is connecting.
    Connect(FlowId),
    /// Stream bytes or the end of them.
    Receive(FlowId),
    /// A stream that is received in pieces has something.
    Piece(FlowId),
    /// Stream bytes going out.
    Send(FlowId),
    /// Datagrams or echo replies.
    ReceiveMessages(FlowId),
    /// Datagrams going out: slot of the table of pending sends.
    SendMessage(u32),
    /// The sending side being shut down.
    Shutdown,
    /// A client of a published port that leads through the tap: number of the listener.
    TapPortAccept(u32),
    /// Datagrams on a published socket: its number.
    TapPortDatagrams(u32),
    /// Datagrams going out of a published socket: slot of the table of those.
    TapPortSent(u32),
    /// A relayed connection, or its listener.
    RelayedTcp(TcpTag),
    /// Relayed datagrams.
    RelayedUdp(UdpTag),
    /// A capture's stream has room again: number of the capture.
    CaptureRoom(u32),
    /// Whoever reads a capture has had enough: its number.
    CaptureEnd(u32),
    /// The channel to the socket factory has something to say; which channel.
    Factory(u32),
}
