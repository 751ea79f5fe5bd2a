//! Splicing: pipes filled from the source and drained into the destination.
//!
//! Up to two pipes, in the order they were filled. At most one fill and one drain are in flight, never on the same pipe
//! but for a chain that does both, and only the pipe filled first is drained. What a pipe holds is drained before it is
//! filled again. By calls there is one pipe, taken when the source is readable and given back when it is not. What a wait
//! for the source waits for is [`gather`](crate::relay::gather)'s to say.
//!
//! **No room.** A drain that finds no room waits for the destination by a poll. A poll returns at once when the peer has
//! ended its own direction (io_uring always asks for `EPOLLRDHUP`, io_uring/poll.c), so a second failure rests for a
//! moment instead.

use super::{Action, Actions, Choice, Fault, Gear, PipeKey, Pump};
use crate::flow::Time;
use crate::relay::gather::Wait;
use std::time::Duration;

/// Calls in a row before others have their turn.
const CALLS: u32 = 8;
/// A fill of at least this much may have left something behind: ask again without a poll.
const MORE: u32 = 64 << 10;
/// Until the next try after there was no pipe.
const PIPE_AGAIN: Duration = Duration::from_secs(1);

/// A pipe on loan.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) key: PipeKey,
    /// May be below zero while the word of a drain has overtaken that of its fill.
    pub(super) bytes: i64,
    pub(super) filling: bool,
    pub(super) draining: bool,
}

impl Held {
    pub(super) const fn rests(&self) -> bool {
        self.bytes == 0 && !self.filling && !self.draining
    }
}

impl Pump {
    /// The answer to [`Action::TakePipe`].
    pub fn lent(&mut self, now: Time, pipe: Option<PipeKey>, out: &mut Actions) {
        match pipe {
            Some(key) => self.pipes.push(Held { key, bytes: 0, filling: false, draining: false }),
            None if self.pipes.is_empty() => {
                self.no_pipe_until = now + PIPE_AGAIN;
                self.want = Gear::Copy;
            }
            None => self.most_pipes = 1,
        }
        self.advance(now, out);
    }

    /// A fill has ended.
    pub fn filled(&mut self, now: Time, key: PipeKey, result: Result<u32, Fault>, out: &mut Actions) {
        let Some(pipe) = self.pipes.iter_mut().find(|p| p.key == key) else { return };
        pipe.filling = false;
        self.gather.reached();
        let by_call = self.gear == Gear::SpliceCall;
        match result {
            Ok(0) => self.eof = true,
            Ok(n) => {
                pipe.bytes += i64::from(n);
                self.quiet = false;
                self.calls += 1;
                self.readable = by_call && n >= MORE && self.calls < CALLS;
                self.weigh(now, n);
            }
            Err(_) => self.readable = false,
        }
        self.advance(now, out);
    }

    /// A drain has ended.
    pub fn drained(&mut self, now: Time, key: PipeKey, result: Result<u32, Fault>, out: &mut Actions) {
        let Some(pipe) = self.pipes.iter_mut().find(|p| p.key == key) else { return };
        pipe.draining = false;
        match result {
            Ok(n) if n > 0 => {
                pipe.bytes -= i64::from(n);
                self.moved += u64::from(n);
                self.full = pipe.bytes > 0;
                self.polled = false;
            }
            // Behind a fill that found nothing there is nothing to drain: no sign of a full destination.
            _ if pipe.bytes > 0 && !self.polled => self.full = true,
            _ if pipe.bytes > 0 => {
                self.resting = true;
                out.push_back(Action::Rest(self.way));
            }
            _ => {}
        }
        self.advance(now, out);
    }

    /// The source is readable.
    pub fn readable(&mut self, now: Time, out: &mut Actions) {
        self.poll_in = false;
        self.gather.reached();
        self.readable = true;
        self.calls = 0;
        self.advance(now, out);
    }

    /// The wait that [`Action::RaiseMark`] spoke of still stands.
    pub const fn is_gathering(&self) -> bool {
        self.gather.is_waiting()
    }

    /// Its deadline has come.
    pub fn overdue(&mut self, out: &mut Actions) {
        if self.gather.missed() {
            out.push_back(Action::LowerMark(self.way));
        }
    }

    /// The destination is writable, or a poll would not wait.
    pub fn writable(&mut self, now: Time, out: &mut Actions) {
        self.poll_out = false;
        self.full = false;
        self.polled = true;
        self.advance(now, out);
    }

    /// Counts a fill.
    fn weigh(&mut self, now: Time, bytes: u32) {
        if self.choice != Choice::Auto || self.want != self.gear {
            return;
        }
        let better = self.measure.moved(now, self.gear, u64::from(bytes));
        if self.bulk.fill(u64::from(bytes)) {
            self.want = Gear::Copy;
        } else {
            self.want = better;
            self.first = better;
        }
    }

    pub(super) fn splice(&mut self, now: Time, out: &mut Actions) {
        if self.pipes.len() == 2 && self.pipes[0].rests() {
            self.pipes.swap(0, 1);
        }
        self.drain(out);
        let rests = self.pipes.iter().all(Held::rests);
        if self.eof || self.want != self.gear {
            if rests && !self.poll_in && !self.poll_out && !self.resting {
                self.give_back(out);
                if self.eof { self.finish(out) } else { self.shift(now, out) }
            }
            return;
        }
        if self.pipes.iter().any(|p| p.filling) {
            return;
        }
        let by_call = self.gear == Gear::SpliceCall;
        if by_call {
            if !rests {
                return;
            }
            if !self.readable {
                self.give_back(out);
                if !self.poll_in {
                    self.poll_in = true;
                    self.wait_for_source(out);
                    out.push_back(Action::PollIn(self.way));
                }
                return;
            }
        }
        let most = if by_call { 1 } else { self.most_pipes };
        match self.pipes.iter().position(Held::rests) {
            Some(at) => {
                if !by_call {
                    self.wait_for_source(out);
                }
                let pipe = &mut self.pipes[at];
                pipe.filling = true;
                out.push_back(match (by_call, at) {
                    (true, _) => Action::CallFill(self.way, pipe.key),
                    (false, 0) => {
                        // Nothing is before it: it may be drained right behind its fill.
                        pipe.draining = true;
                        Action::Through(self.way, pipe.key)
                    }
                    (false, _) => Action::Fill(self.way, pipe.key),
                });
            }
            None if self.pipes.len() < most => out.push_back(Action::TakePipe(self.way)),
            None => {}
        }
    }

    /// A wait for the source begins.
    fn wait_for_source(&mut self, out: &mut Actions) {
        if self.gather.begin() == Wait::Gather {
            out.push_back(Action::RaiseMark(self.way));
        }
    }

    /// Drains the pipe filled first.
    fn drain(&mut self, out: &mut Actions) {
        let Some(pipe) = self.pipes.first_mut() else { return };
        if pipe.bytes <= 0 || pipe.filling || pipe.draining || self.resting {
            return;
        }
        if self.gear == Gear::SpliceCall {
            if !self.full {
                pipe.draining = true;
                out.push_back(Action::CallDrain(self.way, pipe.key));
            } else if !self.poll_out {
                self.poll_out = true;
                out.push_back(Action::PollOut(self.way));
            }
            return;
        }
        pipe.draining = true;
        let wait = std::mem::take(&mut self.full);
        self.polled = wait;
        out.push_back(Action::Drain { way: self.way, pipe: pipe.key, wait });
    }

    pub(super) fn give_back(&mut self, out: &mut Actions) {
        for pipe in self.pipes.drain(..) {
            out.push_back(Action::ReturnPipe(pipe.key, true));
        }
    }
}
