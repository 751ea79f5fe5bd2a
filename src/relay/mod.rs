//! The sans-IO relay: what happens to the bytes of a relayed connection, and when.
//!
//! Theory of operation. A [`Pair`] is one relayed connection: two sockets, and a [`Pump`] for each [`Way`]. The driver
//! (`plane::relays`) tells it what happened ([`Pair::received`], [`Pair::sent`], [`Pair::filled`], ..) and carries out
//! the [`Action`]s that come of it. Nothing here sees a descriptor, a clock or a byte: time is an argument, payload a
//! [`Span`](crate::buf::Span) or a number of bytes in a pipe.
//!
//! A pump is in one of three [`Gear`]s. It starts by copying, is promoted when it proves bulk, and demoted when it stops
//! ([`pump`] has the rules). Ends are carried as they are: the end of one direction becomes a shutdown of the other
//! side's, after the last byte; an error becomes a reset of the other side. Datagrams have mappings instead: [`udp`].

#![forbid(unsafe_code)]

pub mod bulk;
pub mod gather;
pub mod measure;
pub mod pair;
pub mod proxy;
pub mod pump;
pub mod udp;

pub use pair::Pair;
pub use pump::Pump;

use crate::buf::{BufId, SpanVec};

/// How bytes get across.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gear {
    /// Received into a buffer and sent from it. Best for messages.
    Copy,
    /// Through a pipe by chains of submission queue entries, which kernel threads carry out.
    SpliceSqe,
    /// Through a pipe by splice(2), called by the loop.
    SpliceCall,
}

impl Gear {
    /// Its name, as options and listings have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::SpliceSqe => "splice-sqe",
            Self::SpliceCall => "splice-call",
        }
    }
}

/// Which gears a pump may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Whatever serves best.
    #[default]
    Auto,
    /// This one from the first byte on. Where it wants a pipe and there is none, copying all the same.
    Only(Gear),
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Way {
    /// From the client to the server.
    ToServer = 0,
    /// From the server to the client.
    ToClient = 1,
}

impl Way {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::ToServer, Self::ToClient];

    /// The other one.
    #[must_use]
    pub const fn back(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

/// Names a pipe that the driver has lent to a pump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PipeKey(pub u16);

/// Why a move achieved nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not now: nothing there, or no room.
    Again,
    /// The socket is broken: the peer has reset it, or cannot be reached any more.
    Broken,
}

/// What came of a receive that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The stream's end.
    Eof,
    /// It was stopped, or ended for a reason of its own.
    Stopped,
    /// There was no buffer to receive into: [`Pair::plenty`] when there are some again.
    Starved,
    /// The socket is broken.
    Broken,
}

/// What came of a move by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes, one at least.
    Bytes(u32),
    /// The source's end.
    Eof,
    /// There was nothing at the source.
    Empty,
    /// There was no room at the destination.
    Full,
    /// One of the sockets is broken.
    Broken,
}

/// What the driver is asked to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Receive from the source until told otherwise: [`Pair::received`] for each piece, [`Pair::receive_ended`] at last.
    Receive(Way),
    /// End that receive. Pieces may still come before it ends.
    StopReceive(Way),
    /// Send to the destination; answered by [`Pair::sent`]. The spans stay the pump's.
    Send(Way, SpanVec),
    /// This buffer is no longer needed.
    Release(BufId),
    /// Lend a pipe; answered at once by [`Pair::lent`].
    TakePipe(Way),
    /// A pipe is no longer needed; nothing is in flight on it. Not `empty`: it must be closed.
    ReturnPipe(PipeKey, bool),
    /// Wait for the source, fill this pipe, drain it: one chain. Answered by [`Pair::filled`] and [`Pair::drained`].
    Through(Way, PipeKey),
    /// Wait for the source, fill this pipe: one chain. Answered by [`Pair::filled`].
    Fill(Way, PipeKey),
    /// Drain this pipe, if `wait` after waiting for the destination. Answered by [`Pair::drained`].
    Drain {
        /// Whose.
        way: Way,
        /// Which.
        pipe: PipeKey,
        /// Wait for the destination first.
        wait: bool,
    },
    /// Cut short the wait of a chain that waits for its source: the chain goes on at once.
    Hurry(Way),
    /// The wait for the source that follows is for [`gather::MARK`] bytes, and for [`gather::WAIT`] at most: then
    /// [`Pair::overdue`], if the pump still is gathering.
    RaiseMark(Way),
    /// A wait for the source, one that stands included, is for the first byte.
    LowerMark(Way),
    /// Wait until the source is readable; answered by [`Pair::readable`].
    PollIn(Way),
    /// Wait until the destination is writable; answered by [`Pair::writable`].
    PollOut(Way),
    /// Fill this pipe now, by a call; answered at once by [`Pair::filled`].
    CallFill(Way, PipeKey),
    /// Drain this pipe now, by a call; answered at once by [`Pair::drained`].
    CallDrain(Way, PipeKey),
    /// Move what there is and has room, at most a buffer's worth, so that nothing stays here: a byte leaves the source when the
    /// destination has it. Answered at once by [`Pair::moved`].
    Move(Way),
    /// Wait a millisecond: the destination has no room, and a poll does not wait for any. Answered by [`Pair::rested`].
    Rest(Way),
    /// Everything of this way has been delivered, the end too: shut down the destination's receiving side.
    Shutdown(Way),
    /// All is done, or lost. Close both sockets, by resets if so; [`Pair::dispose`] when nothing is in flight any more.
    Close {
        /// By resets.
        reset: bool,
    },
}
