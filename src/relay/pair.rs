//! One relayed connection: two pumps, and the ways it ends.
//!
//! Each direction ends by itself; when both have, the sockets are closed. A broken socket ends the connection at once: the
//! other side is reset, as its peer was.

use super::pump::Actions;
use super::{Action, Choice, Ended, Fault, Gear, Moved, PipeKey, Pump, Way};
use crate::buf::Span;
use crate::flow::Time;

/// A relayed connection.
#[derive(Debug)]
pub struct Pair {
    pumps: [Pump; 2],
    closed: bool,
}

impl Pair {
    /// A connection whose pumps may use these gears; nothing is started. `first` is what a direction that proves bulk
    /// begins with.
    pub fn new(choice: Choice, first: Gear) -> Self {
        Self { pumps: Way::BOTH.map(|way| Pump::new(way, choice, first)), closed: false }
    }

    /// One direction, to look at.
    pub const fn pump(&self, way: Way) -> &Pump {
        &self.pumps[way as usize]
    }

    /// It is over: only [`Pair::dispose`] remains.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// [`Pair::tick`] is wanted.
    pub fn wants_tick(&self) -> bool {
        !self.closed && self.pumps.iter().any(Pump::wants_tick)
    }

    /// One direction has ended and the other has not: the side that has ended should be watched for a reset, which no
    /// operation would report.
    pub fn half_closed(&self) -> Option<Way> {
        let ended = |way| self.pump(way).at_end() && !self.pump(way.back()).at_end();
        Way::BOTH.into_iter().find(|way| !self.closed && ended(*way))
    }

    /// Bytes that go to the server ahead of everything else; before [`Pair::start`].
    pub fn ahead(&mut self, now: Time, span: Span, out: &mut Actions) {
        self.pumps[0].received(now, span, usize::MAX, out);
    }

    /// Both sockets are connected.
    pub fn start(&mut self, now: Time, out: &mut Actions) {
        for pump in &mut self.pumps {
            pump.start(now, out);
        }
    }

    /// See [`Action::Receive`]. `free`: buffers that are left for all who receive.
    pub fn received(&mut self, now: Time, way: Way, span: Span, free: usize, out: &mut Actions) {
        self.pumps[way as usize].received(now, span, free, out);
    }

    /// There are buffers again for a direction whose receive has ended for want of them.
    pub fn plenty(&mut self, now: Time, way: Way, out: &mut Actions) {
        self.pumps[way as usize].plenty(now, out);
    }

    /// See [`Action::Move`].
    pub fn moved(&mut self, now: Time, way: Way, what: Moved, out: &mut Actions) {
        if what == Moved::Broken {
            return self.settle(true, out);
        }
        self.pumps[way as usize].moved_by_hand(now, what, out);
        self.settle(false, out);
    }

    /// See [`Action::Receive`].
    pub fn receive_ended(&mut self, now: Time, way: Way, why: Ended, out: &mut Actions) {
        self.pumps[way as usize].receive_ended(now, why, out);
        self.settle(why == Ended::Broken, out);
    }

    /// See [`Action::Send`].
    pub fn sent(&mut self, now: Time, way: Way, result: Result<u32, Fault>, out: &mut Actions) {
        let broken = result == Err(Fault::Broken);
        if broken {
            return self.settle(true, out);
        }
        self.pumps[way as usize].sent(now, result.unwrap_or(0), out);
        self.settle(false, out);
    }

    /// See [`Action::TakePipe`].
    pub fn lent(&mut self, now: Time, way: Way, pipe: Option<PipeKey>, out: &mut Actions) {
        self.pumps[way as usize].lent(now, pipe, out);
        self.settle(false, out);
    }

    /// See [`Action::Fill`].
    pub fn filled(
        &mut self,
        now: Time,
        way: Way,
        pipe: PipeKey,
        result: Result<u32, Fault>,
        out: &mut Actions,
    ) {
        self.pumps[way as usize].filled(now, pipe, result, out);
        self.settle(result == Err(Fault::Broken), out);
    }

    /// See [`Action::Drain`].
    pub fn drained(
        &mut self,
        now: Time,
        way: Way,
        pipe: PipeKey,
        result: Result<u32, Fault>,
        out: &mut Actions,
    ) {
        self.pumps[way as usize].drained(now, pipe, result, out);
        self.settle(result == Err(Fault::Broken), out);
    }

    /// See [`Action::PollIn`].
    pub fn readable(&mut self, now: Time, way: Way, out: &mut Actions) {
        self.pumps[way as usize].readable(now, out);
        self.settle(false, out);
    }

    /// See [`Action::RaiseMark`].
    pub fn overdue(&mut self, way: Way, out: &mut Actions) {
        self.pumps[way as usize].overdue(out);
    }

    /// See [`Action::PollOut`].
    pub fn writable(&mut self, now: Time, way: Way, out: &mut Actions) {
        self.pumps[way as usize].writable(now, out);
        self.settle(false, out);
    }

    /// See [`Action::Rest`].
    pub fn rested(&mut self, now: Time, way: Way, out: &mut Actions) {
        self.pumps[way as usize].rested(now, out);
        self.settle(false, out);
    }

    /// See [`Pump::tick`].
    pub fn tick(&mut self, now: Time, out: &mut Actions) {
        for pump in &mut self.pumps {
            pump.tick(now, out);
        }
        self.settle(false, out);
    }

    /// A socket is broken, or the connection is no longer wanted: both sides are reset.
    pub fn abort(&mut self, out: &mut Actions) {
        self.settle(true, out);
    }

    /// Nothing is in flight any more: the last pipes go.
    pub fn dispose(&mut self, out: &mut Actions) {
        for pump in &mut self.pumps {
            pump.dispose(out);
        }
    }

    fn settle(&mut self, broken: bool, out: &mut Actions) {
        let finished = self.pumps.iter().all(Pump::finished);
        if !self.closed && (broken || finished) {
            self.closed = true;
            for pump in &mut self.pumps {
                pump.close(out);
            }
            out.push_back(Action::Close { reset: broken });
        }
    }
}
