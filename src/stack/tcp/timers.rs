//! What time does to a connection: retransmission, window probes, delayed acknowledgements, keepalive, and the limits
//! on connecting, on FIN_WAIT_2, on orphans and on draining.
//!
//! Theory of operation. A connection has four deadlines (retransmission, probe, acknowledgement, idleness); the wheel
//! holds one entry for the earliest. An entry that fires too early, because its deadline has moved, is set again. The
//! idle deadline moves with every segment by moving `heard` only.

use super::ack::AckState;
use super::conn::{Conn, Socket, State};
use super::pool::Pool;
use super::tuning::{
    CONNECT_TIMEOUT, DRAIN_STALL, FIN_WAIT_2_IDLE, KEEPALIVE_GRID_BITS, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL,
    KEEPALIVE_PROBES, MAX_DIAL_RETRIES, MAX_ORPHAN_RETRIES, MAX_RETRIES, MAX_SYN_RETRIES, NEIGHBOUR_WAIT,
    ORPHAN_STALL,
};
use crate::flow::Time;
use crate::stack::Cx;
use std::time::Duration;

impl Conn {
    /// The earliest moment at which time matters to this connection.
    pub fn deadline(&self) -> Time {
        let idle = self.idle_deadline();
        [self.snd.retransmit_at, self.snd.probe_at, self.ack.delayed]
            .into_iter()
            .flatten()
            .fold(idle, Time::min)
    }

    fn idle_deadline(&self) -> Time {
        match self.state {
            State::Connecting => self.heard + CONNECT_TIMEOUT,
            State::Closed | State::TimeWait => self.heard + DRAIN_STALL,
            State::FinWait2 => self.ask_at(FIN_WAIT_2_IDLE),
            _ if self.host.socket == Socket::Closed => self.heard + ORPHAN_STALL,
            _ => self.ask_at(KEEPALIVE_IDLE),
        }
    }

    /// When a guest that has been silent is asked (again).
    fn ask_at(&self, idle: Duration) -> Time {
        // Our first sequence number is as good as dice: those who fell silent together are not asked together.
        let spread = (idle.as_nanos() as u64 >> 33) * u64::from(self.iss.0);
        let at = self.heard + idle + KEEPALIVE_INTERVAL * u32::from(self.unanswered);
        Time::from_nanos((at.as_nanos() + spread) | ((1 << KEEPALIVE_GRID_BITS) - 1))
    }

    /// Does what is due.
    pub fn timeout(&mut self, cx: &mut Cx<'_>, pool: &mut Pool) {
        if self.snd.retransmit_at.is_some_and(|at| at <= cx.now) {
            self.retransmit(cx, pool);
        }
        if self.snd.probe_at.is_some_and(|at| at <= cx.now) && self.synchronized() {
            self.snd.probed(cx.now);
            self.probe(cx, pool, MAX_RETRIES);
        }
        if self.ack.delayed.is_some_and(|at| at <= cx.now) {
            // The answer that was to carry it has not come.
            self.ack = AckState { now: true, delayed: None, interactive: false, ..self.ack };
        }
        if self.idle_deadline() <= cx.now {
            self.idle(cx, pool);
        }
    }

    fn retransmit(&mut self, cx: &mut Cx<'_>, pool: &mut Pool) {
        let limit = if self.state == State::SynSent {
            MAX_DIAL_RETRIES
        } else if self.half_open() {
            MAX_SYN_RETRIES
        } else if self.host.socket == Socket::Closed {
            MAX_ORPHAN_RETRIES
        } else {
            MAX_RETRIES
        };
        if self.unsent() {
            if cx.now.since(self.opened) >= NEIGHBOUR_WAIT {
                self.give_up(cx, pool);
            } else {
                self.send_syn(cx, pool);
            }
        } else if self.snd.retries >= limit {
            self.give_up(cx, pool);
        } else if self.half_open() {
            self.snd.retries += 1;
            self.snd.rtt.back_off();
            self.send_syn(cx, pool);
        } else {
            self.snd.timed_out();
            self.send_data(cx, pool);
        }
    }

    /// Asks the guest whether it is there.
    fn probe(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, limit: u8) {
        if self.unanswered >= limit {
            self.give_up(cx, pool);
        } else {
            self.unanswered += 1;
            self.send_probe(cx, pool);
        }
    }

    fn idle(&mut self, cx: &mut Cx<'_>, pool: &mut Pool) {
        match self.state {
            State::Connecting | State::Closed | State::TimeWait => self.give_up(cx, pool),
            // SYN and SYN-ACK have their own end.
            State::SynSent | State::SynReceived => self.give_up(cx, pool),
            _ if self.host.socket == Socket::Closed => self.give_up(cx, pool),
            _ => self.probe(cx, pool, KEEPALIVE_PROBES),
        }
    }

    fn give_up(&mut self, cx: &mut Cx<'_>, pool: &mut Pool) {
        tracing::debug!(flow = ?self.id, state = ?self.state, "gave up");
        self.send_reset(cx, pool);
        self.abort(cx, pool);
    }
}
