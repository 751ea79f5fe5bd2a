//! Moving without buffers of one's own, for want of them.
//!
//! When the source is readable the driver is asked to move: it looks at what there is without taking it, sends what the
//! destination takes at once, and takes just that from the source. Nothing stays here, so a direction whose destination is
//! stalled holds nothing however long that lasts. A move costs three calls and a wait, about twice what a receive and a send
//! in the ring do; it ends with the want ([`Pump::plenty`]), or when bulk is proven and goes through a pipe.
//!
//! **No room** is waited for by a poll, and by a moment's rest where a poll would not wait (see [`super::splice`]).

use super::{Actions, Pump};
use crate::flow::Time;
use crate::relay::{Action, Moved};

impl Pump {
    /// The receive has found no buffer, so there are bytes at the source.
    pub(super) fn begin_by_hand(&mut self) {
        self.scarce = true;
        (self.readable, self.full, self.polled) = (true, false, false);
    }

    /// There are buffers again. A wait that stands ends by itself first.
    pub fn plenty(&mut self, now: Time, out: &mut Actions) {
        self.scarce = false;
        self.advance(now, out);
    }

    /// Moves, or waits for what is missing.
    pub(super) fn by_hand(&mut self, out: &mut Actions) {
        if self.full && self.polled {
            self.resting = true;
            out.push_back(Action::Rest(self.way));
        } else if self.full {
            self.poll_out = true;
            out.push_back(Action::PollOut(self.way));
        } else if self.readable {
            self.readable = false;
            out.push_back(Action::Move(self.way));
        } else {
            self.poll_in = true;
            out.push_back(Action::PollIn(self.way));
        }
    }

    /// A move has ended. Before the next one the source is asked again, so that others have their turn.
    pub fn moved_by_hand(&mut self, now: Time, what: Moved, out: &mut Actions) {
        match what {
            Moved::Bytes(n) => {
                self.moved += u64::from(n);
                self.polled = false;
                self.judge(now, u64::from(n));
            }
            Moved::Eof => self.eof = true,
            Moved::Full => (self.full, self.readable) = (true, true),
            Moved::Empty | Moved::Broken => {}
        }
        self.advance(now, out);
    }
}
