//! What can be said about a live connection to a person.

use super::conn::{Conn, State};
use crate::flow::FlowInfo;

impl Conn {
    /// What it is doing.
    pub fn info(&self) -> FlowInfo {
        FlowInfo {
            id: self.id,
            guest: self.key.guest,
            remote: Some(self.key.remote),
            host: self.host.remote,
            state: self.state.name(),
            opened: self.opened,
            counters: self.counters,
            rtt: self.snd.rtt.smoothed(),
            queued_up: self.rcv.queued(),
            queued_down: self.snd.queued(),
            memory: size_of::<Self>() + self.snd.heap() + self.rcv.heap(),
        }
    }
}

impl State {
    /// Its name, as RFC 9293 section 3.3.2 writes them but in small letters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::FinWait1 => "fin-wait-1",
            Self::FinWait2 => "fin-wait-2",
            Self::CloseWait => "close-wait",
            Self::Closing => "closing",
            Self::LastAck => "last-ack",
            Self::TimeWait => "time-wait",
            Self::Closed => "closed",
        }
    }
}
