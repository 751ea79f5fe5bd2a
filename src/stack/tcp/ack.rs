//! When to acknowledge: often enough that the guest's window grows, rarely enough that a frame is not answered by a
//! frame.
//!
//! Theory of operation. At most one acknowledgement per connection goes out at the end of a batch, and none when data
//! towards the guest has carried it. Two segments' worth of payload, a FIN, or a window that has reopened are
//! acknowledged then. Less is acknowledged then too, unless the connection has proved to be one of question and
//! answer: then the answer most likely carries it, and a timer ([`ACK_DELAY`]) covers the case that none comes. What
//! is out of order, fills a gap or is old is acknowledged at once, one by one: duplicate acknowledgements are how a
//! guest without SACK learns of loss (RFC 5681 section 4.2).

use super::conn::{Conn, State};
use super::pool::Pool;
use super::tuning::ACK_DELAY;
use crate::flow::Time;

/// Acknowledgements a connection owes.
#[derive(Clone, Copy, Debug, Default)]
pub struct AckState {
    /// One is due at the end of the batch, whatever else.
    pub now: bool,
    /// One is due then at the latest.
    pub delayed: Option<Time>,
    /// Answers carry our acknowledgements.
    pub interactive: bool,
    /// When a dataless segment outside the window was last answered.
    pub last_out_of_window: Option<Time>,
}

impl Conn {
    /// Whether an acknowledgement has to go out at the end of this batch; arms the delay where one may wait.
    pub fn ack_due(&mut self, now: Time, pool: &Pool) -> bool {
        if !self.synchronized() {
            return false;
        }
        if self.ack.now {
            return true;
        }
        let owed = self.rcv.nxt.since(self.rcv.acked);
        if owed > 0 {
            if owed >= 2 * self.snd.mss
                || !self.ack.interactive
                || self.ack.delayed.is_some_and(|at| at <= now)
            {
                return true;
            }
            if self.ack.delayed.is_none() {
                self.ack.delayed = Some(now + ACK_DELAY);
            }
        }
        !self.rcv.finished() && self.state != State::TimeWait && self.rcv.window_update_due(pool)
    }

    /// A frame that carries our acknowledgement has been sent.
    pub fn ack_sent(&mut self, with_data: bool) {
        if with_data && self.rcv.nxt != self.rcv.acked {
            self.ack.interactive = true;
        } else if self.ack.delayed.is_some() && !with_data {
            // The wait was in vain.
            self.ack.interactive = false;
        }
        self.ack.now = false;
        self.ack.delayed = None;
    }
}
