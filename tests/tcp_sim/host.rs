//! The host's sockets and the peers behind them: they connect or refuse, take part of a send, pause, end, reset.

use crate::rng::Rng;
use ringtap::buf::Span;
use ringtap::stack::{Close, Intake};

/// How a peer behaves.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Bytes it sends.
    pub to_send: u64,
    /// It ends its stream only once the guest has ended its own.
    pub ends_last: bool,
    /// It resets after so many bytes both ways.
    pub resets_at: Option<u64>,
    /// The connect fails.
    pub refuses: bool,
    /// Longest pause before each event, in microseconds.
    pub delay: u64,
    /// It takes at most so many bytes of a send.
    pub takes: u64,
}

impl Peer {
    /// A peer of some kind; half are in no hurry.
    pub fn new(rng: &mut Rng, to_send: u64) -> Self {
        Self {
            to_send,
            ends_last: rng.per_mille(300),
            resets_at: rng.per_mille(80).then(|| rng.range(0, to_send + 10_000)),
            refuses: rng.per_mille(30),
            delay: rng.pick(&[10, 100, 2_000, 50_000]),
            takes: rng.pick(&[1_000, 30_000, 500_000, 1 << 30]),
        }
    }
}

/// A host socket.
pub struct Sock {
    /// Its peer.
    pub peer: Peer,
    /// Which stream the peer reads; it sends the next one.
    pub stream: u64,
    /// Receiving is on.
    pub intake: Intake,
    /// A receive is on its way.
    pub receive_pending: bool,
    /// The outstanding send.
    pub sending: Option<Vec<Span>>,
    /// Bytes taken from the guest and found right.
    pub taken: u64,
    /// Bytes given to the guest.
    pub given: u64,
    /// The end of the peer's stream has been told.
    pub eof_told: bool,
    /// The guest's stream has ended.
    pub shut: bool,
    /// The connection broke.
    pub reset: bool,
    /// The stack closed it.
    pub closed: Option<Close>,
    /// A client of a published port: the guest was dialled.
    pub client: bool,
    /// The stack has wanted bytes: the connection stood.
    pub stood: bool,
}

impl Sock {
    /// A socket not yet connected.
    pub fn new(peer: Peer, stream: u64) -> Self {
        Self {
            peer,
            stream,
            intake: Intake::Off,
            receive_pending: false,
            sending: None,
            taken: 0,
            given: 0,
            eof_told: false,
            shut: false,
            reset: false,
            closed: None,
            client: false,
            stood: false,
        }
    }

    /// True when the peer is about to reset.
    pub fn resets_now(&self) -> bool {
        !self.reset && self.peer.resets_at.is_some_and(|at| self.taken + self.given >= at)
    }

    /// True when there is something to receive, the end included.
    pub fn has_news(&self) -> bool {
        self.given < self.peer.to_send || (!self.eof_told && (!self.peer.ends_last || self.shut))
    }
}
