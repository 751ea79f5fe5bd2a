//! Asking the silent: what many resets at once say about the connections from which none came.
//!
//! Theory of operation. A program with ten thousand connections is killed: its kernel resets most of them within
//! milliseconds, the tap's queue in the guest overflows, and a reset is never sent again. What got lost looks idle from
//! here, and each is a descriptor. So many resets within a second ([`MASS_RESETS`]) begin a round: every connection that
//! has been silent since is sent one segment that whoever still knows it answers with an acknowledgement, and whoever
//! does not with a reset. A round goes through the table by slot number, a few slots at a time ([`SWEEP_STEP`]), so the
//! answers find room in the queue; resets that come meanwhile begin another round afterwards.
//!
//! Limits: rounds keep a distance ([`SWEEP_DISTANCE`]). Fewer resets begin none: their queue has not overflowed, or
//! other traffic has filled it, and then keepalive finds what is left.

use super::Engine;
use super::conn::{Conn, Socket, State};
use super::tuning::{MASS_RESETS, SWEEP_AFTER, SWEEP_DISTANCE, SWEEP_PACE, SWEEP_STEP};
use crate::flow::Time;
use crate::stack::Cx;
use std::time::Duration;

/// Resets counted, and where a round stands.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Resets of the second that began at `since`.
    resets: u32,
    since: Time,
    /// When the next step is due.
    at: Option<Time>,
    /// When this round began, and the next slot to look at.
    round: Option<(Time, usize)>,
    /// Another round is wanted after this one.
    again: bool,
    /// No round before.
    rests_until: Time,
}

impl Sweep {
    /// The guest has reset a connection.
    pub fn reset(&mut self, now: Time) {
        if now.since(self.since) >= Duration::from_secs(1) {
            (self.since, self.resets) = (now, 0);
        }
        self.resets += 1;
        if self.resets == MASS_RESETS {
            match self.at {
                None => self.at = Some((now + SWEEP_AFTER).max(self.rests_until)),
                Some(_) => self.again |= self.round.is_some(),
            }
        }
    }

    /// When [`Engine::sweep`] has something to do.
    pub const fn next_deadline(&self) -> Option<Time> {
        self.at
    }
}

impl Conn {
    /// Nothing has been heard of it since then, and nothing else will find out whether it lives.
    fn is_silent_since(&self, then: Time) -> bool {
        self.heard < then
            && self.synchronized()
            && self.state != State::TimeWait
            && self.host.socket == Socket::Open
            && self.snd.retransmit_at.is_none()
    }
}

impl Engine {
    /// Takes the next step of a round, if one is due.
    pub(super) fn sweep(&mut self, cx: &mut Cx<'_>) {
        if self.sweep.at.is_none_or(|at| at > cx.now) {
            return;
        }
        let (began, from) = self.sweep.round.unwrap_or((cx.now, 0));
        let to = from + SWEEP_STEP;
        for index in from..to.min(self.table.slots()) {
            let conn = self.table.name_at(index).and_then(|id| self.table.get_mut(id));
            if let Some(conn) = conn.filter(|conn| conn.is_silent_since(began)) {
                conn.send_probe(cx, &self.pool);
            }
        }
        let sweep = &mut self.sweep;
        if to < self.table.slots() {
            (sweep.round, sweep.at) = (Some((began, to)), Some(cx.now + SWEEP_PACE));
        } else {
            sweep.rests_until = cx.now + SWEEP_DISTANCE;
            sweep.at = std::mem::take(&mut sweep.again).then_some(sweep.rests_until);
            sweep.round = None;
        }
    }
}
