//! How a connection receives from its host socket: whatever comes, in pieces, or not at all.
//!
//! Theory of operation. Bytes from the host stay in their buffers until the guest has acknowledged them, so a program in the
//! guest that does not read holds buffers. Each connection may hold half of what is free below a mark
//! ([`Pool::send_share`]): a few that stall hold much, and many of them less and less. Where the share is less than one large
//! buffer, or the large buffers are used up, the connection receives *in pieces*: one small buffer at a time, and no more bytes
//! than the guest's window has room for. Such a piece goes on to the guest at once, whose kernel takes it, and the buffer is
//! free again: whoever reads goes on, slower, and whoever does not read holds nothing but what it held before.
//!
//! While the window is closed nothing is received; the guest says when it opens, and as that may be lost it is asked
//! ([`super::send::Sender::hold_back`]).
//!
//! Limits: a piece has at most [`SMALL_MAX`] bytes. What was armed while there was room may fill a large buffer after there is
//! none.

use super::conn::{Conn, State};
use super::pool::Pool;
use super::tuning::LEAST_SHARE;
use crate::buf::SMALL_MAX;
use crate::stack::{Action, Cx, Intake};

impl Conn {
    /// Receives from the host as much as there is room for now.
    pub fn take_in(&mut self, cx: &mut Cx<'_>, pool: &Pool) {
        if self.host.eof {
            return self.snd.hold_back(false);
        }
        let want = if self.state == State::Closed { Intake::Off } else { self.intake(pool) };
        let same = match (want, self.host.intake) {
            (Intake::Piece(_), Intake::Piece(_)) => true,
            (want, now) => want == now,
        };
        if !same || self.host.spent {
            cx.act(Action::Receive(self.id, want));
            self.host.spent = false;
        }
        self.host.intake = want;
    }

    fn intake(&mut self, pool: &Pool) -> Intake {
        let share = pool.send_share(self.counted_sending.memory);
        let in_pieces = share < LEAST_SHARE || self.host.short;
        let room = self.snd.room();
        // As with a whole segment, or half a window where that is less (RFC 9293 section 3.8.6.2.1).
        let enough = self.snd.mss.min(self.snd.max_wnd / 2).max(1);
        // Pieces want small buffers: those who chatter to programs that do not read leave them some.
        let blocked = room < enough && (in_pieces || pool.small_is_short());
        self.snd.hold_back(blocked && self.snd.wnd == 0);
        if blocked {
            return Intake::Off;
        }
        if in_pieces {
            return Intake::Piece(room.min(SMALL_MAX as u32));
        }
        let (bytes, memory, buffers) = (self.snd.queued(), self.snd.footprint().memory, self.snd.buffers());
        let limits = &pool.limits;
        let full = memory >= share || bytes >= limits.send_bytes || buffers >= limits.send_buffers;
        let low = memory <= share / 2 && bytes <= limits.send_bytes / 2 && buffers <= limits.send_buffers / 2;
        let on = if self.host.intake == Intake::On { !full } else { low };
        if on { Intake::On } else { Intake::Off }
    }
}
