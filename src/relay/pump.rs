//! One direction of a relayed connection.
//!
//! **Copying.** Pieces are received into buffers and sent in order, one send at a time. With [`HIGH`] bytes on hand the
//! receive is stopped, with [`LOW`] it goes on: that is the back-pressure. **Promotion**: the direction proves bulk
//! ([`super::bulk`]), and what is measured then calls for another gear ([`super::measure`]). The receive is stopped, and only
//! when it has ended and every byte on hand has been sent does the first pipe come in: order is kept because the two never
//! overlap.
//!
//! **Splicing.** Up to two pipes, in the order they were filled. At most one fill and one drain are in flight, never on
//! the same pipe but for a chain that does both, and only the pipe filled first is drained. What a pipe holds is drained
//! before it is filled again. By calls there is one pipe, taken when the source is readable and given back when it is
//! not. **Demotion**: bulk ends, or a chain has waited for a whole [`Pump::tick`]: a pump that rests holds no pipe.
//!
//! **No room.** A drain that finds no room waits for the destination by a poll. A poll returns at once when the peer has
//! ended its own direction (io_uring always asks for `EPOLLRDHUP`, io_uring/poll.c), so a second failure rests for a
//! moment instead.

use super::bulk::Bulk;
use super::measure::Measure;
use super::{Action, Choice, Ended, Fault, Gear, PipeKey, Way};
use crate::buf::{Span, SpanVec};
use crate::flow::Time;
use arrayvec::ArrayVec;
use std::collections::VecDeque;
use std::time::Duration;

/// Bytes on hand at which receiving stops.
pub const HIGH: u64 = 256 << 10;
/// Bytes on hand at which it goes on.
pub const LOW: u64 = 128 << 10;
/// Spans of one send: 512 KiB of full pieces.
const SPANS: usize = 8;
/// Calls in a row before others have their turn.
const CALLS: u32 = 8;
/// A fill of at least this much may have left something behind: ask again without a poll.
const MORE: u32 = 64 << 10;
/// Until the next try after there was no pipe.
const PIPE_AGAIN: Duration = Duration::from_secs(1);

/// The copy receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receive {
    Off,
    On,
    Stopping,
}

/// A pipe on loan.
#[derive(Clone, Debug)]
struct Held {
    key: PipeKey,
    /// May be below zero while the word of a drain has overtaken that of its fill.
    bytes: i64,
    filling: bool,
    draining: bool,
}

impl Held {
    const fn rests(&self) -> bool {
        self.bytes == 0 && !self.filling && !self.draining
    }
}

/// Where the actions go.
pub type Actions = VecDeque<Action>;

/// One direction. See the module's text.
#[derive(Debug)]
pub struct Pump {
    way: Way,
    choice: Choice,
    gear: Gear,
    want: Gear,
    started: bool,
    receive: Receive,
    held: SpanVec,
    held_bytes: u64,
    sending: bool,
    pipes: ArrayVec<Held, 2>,
    /// Pipes to use at most; 1 when a second one was refused.
    most_pipes: usize,
    /// The last drain found no room.
    full: bool,
    /// A poll has already been tried for that.
    polled: bool,
    resting: bool,
    poll_in: bool,
    poll_out: bool,
    /// By calls: the source may have something.
    readable: bool,
    calls: u32,
    /// Nothing was filled since the last tick.
    quiet: bool,
    eof: bool,
    shut: bool,
    closed: bool,
    bulk: Bulk,
    no_pipe_until: Time,
    measure: Box<Measure>,
    /// What the first promotion leads to.
    first: Gear,
    moved: u64,
    promotions: u32,
}

impl Pump {
    /// A pump that does nothing before [`Pump::start`]. `first` is the gear that an unforced one uses when it proves bulk, before
    /// it has measured any.
    pub fn new(way: Way, choice: Choice, first: Gear) -> Self {
        let want = match choice {
            Choice::Auto => Gear::Copy,
            Choice::Only(gear) => gear,
        };
        Self {
            way,
            choice,
            gear: Gear::Copy,
            want,
            started: false,
            receive: Receive::Off,
            held: SpanVec::new(),
            held_bytes: 0,
            sending: false,
            pipes: ArrayVec::new(),
            most_pipes: 2,
            full: false,
            polled: false,
            resting: false,
            poll_in: false,
            poll_out: false,
            readable: false,
            calls: 0,
            quiet: false,
            eof: false,
            shut: false,
            closed: false,
            bulk: Bulk::default(),
            no_pipe_until: Time::ZERO,
            measure: Box::new(Measure::new()),
            first,
            moved: 0,
            promotions: 0,
        }
    }

    /// The gear it is in.
    pub const fn gear(&self) -> Gear {
        self.gear
    }

    /// The gear that bulk goes in, or would; `None` as long as there was none.
    pub fn best(&self) -> Option<Gear> {
        (self.promotions > 0 || self.bulk.is_proven()).then_some(self.first)
    }

    /// Bytes delivered.
    pub const fn moved(&self) -> u64 {
        self.moved
    }

    /// Times that it left copying.
    pub const fn promotions(&self) -> u32 {
        self.promotions
    }

    /// The source has ended.
    pub const fn at_end(&self) -> bool {
        self.eof
    }

    /// Everything has been delivered, the end included.
    pub const fn finished(&self) -> bool {
        self.shut
    }

    /// A chain may be waiting for its source for long: [`Pump::tick`] is wanted.
    pub fn wants_tick(&self) -> bool {
        self.gear == Gear::SpliceSqe && !self.shut && !self.closed
    }

    /// Both sockets are connected.
    pub fn start(&mut self, now: Time, out: &mut Actions) {
        self.started = true;
        self.advance(now, out);
    }

    /// A piece was received; it belongs to the pump now.
    pub fn received(&mut self, now: Time, span: Span, out: &mut Actions) {
        if self.closed {
            out.push_back(Action::Release(span.buf));
            return;
        }
        self.held.push(span);
        self.held_bytes += u64::from(span.len);
        self.judge(now, u64::from(span.len));
        self.advance(now, out);
    }

    /// The receive has ended.
    pub fn receive_ended(&mut self, now: Time, why: Ended, out: &mut Actions) {
        self.receive = Receive::Off;
        self.eof |= why == Ended::Eof;
        self.advance(now, out);
    }

    /// A send has taken this many bytes.
    pub fn sent(&mut self, now: Time, bytes: u32, out: &mut Actions) {
        self.sending = false;
        if self.closed {
            return;
        }
        self.moved += u64::from(bytes);
        let mut rest = bytes;
        let mut done = 0;
        for span in &mut self.held {
            let part = span.len.min(rest);
            *span = span.skip(part);
            rest -= part;
            if !span.is_empty() {
                break;
            }
            out.push_back(Action::Release(span.buf));
            done += 1;
        }
        self.held.drain(..done);
        self.held_bytes -= u64::from(bytes - rest);
        if bytes == 0 {
            self.resting = true;
            out.push_back(Action::Rest(self.way));
        }
        self.advance(now, out);
    }

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
        self.readable = true;
        self.calls = 0;
        self.advance(now, out);
    }

    /// The destination is writable, or a poll would not wait.
    pub fn writable(&mut self, now: Time, out: &mut Actions) {
        self.poll_out = false;
        self.full = false;
        self.polled = true;
        self.advance(now, out);
    }

    /// The rest is over.
    pub fn rested(&mut self, now: Time, out: &mut Actions) {
        self.resting = false;
        self.full = false;
        self.advance(now, out);
    }

    /// Some tenths of a second have passed: a chain that only waits gives its pipe back.
    pub fn tick(&mut self, now: Time, out: &mut Actions) {
        if self.gear == Gear::SpliceSqe && !self.closed && !self.eof && self.choice == Choice::Auto {
            if self.quiet && self.want != Gear::Copy && self.pipes.iter().all(|p| p.bytes == 0) {
                self.want = Gear::Copy;
                self.bulk.ends();
                out.push_back(Action::Hurry(self.way));
            }
            self.quiet = true;
            self.advance(now, out);
        }
    }

    /// The connection is over: nothing more is started, and no buffer is kept. Pipes stay until [`Pump::dispose`].
    pub fn close(&mut self, out: &mut Actions) {
        self.closed = true;
        for span in self.held.drain(..) {
            out.push_back(Action::Release(span.buf));
        }
        self.held_bytes = 0;
    }

    /// Nothing is in flight any more: pipes go, with whatever they hold.
    pub fn dispose(&mut self, out: &mut Actions) {
        for pipe in self.pipes.drain(..) {
            // What a cancelled fill has left is not known.
            let empty = pipe.rests();
            out.push_back(Action::ReturnPipe(pipe.key, empty));
        }
    }

    /// Counts a copied piece.
    fn judge(&mut self, now: Time, bytes: u64) {
        // Without a pipe there is nothing to choose.
        if self.choice != Choice::Auto || self.want != Gear::Copy || now < self.no_pipe_until {
            return;
        }
        if self.bulk.piece(now, bytes) {
            self.measure.begin(now);
            self.want = self.first;
        } else if self.bulk.is_proven() {
            self.want = self.measure.moved(now, Gear::Copy, bytes);
            self.first = self.want;
        }
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

    /// Starts whatever may be started.
    fn advance(&mut self, now: Time, out: &mut Actions) {
        if !self.started || self.closed || self.shut {
            return;
        }
        match self.gear {
            Gear::Copy => self.copy(now, out),
            Gear::SpliceSqe | Gear::SpliceCall => self.splice(now, out),
        }
    }

    fn copy(&mut self, now: Time, out: &mut Actions) {
        if !self.sending && !self.resting && !self.held.is_empty() {
            self.sending = true;
            out.push_back(Action::Send(self.way, self.held.iter().take(SPANS).copied().collect()));
        }
        if self.eof {
            if self.held.is_empty() {
                self.finish(out);
            }
            return;
        }
        let leaving = self.want != Gear::Copy;
        match self.receive {
            Receive::On if leaving || self.held_bytes >= HIGH => {
                self.receive = Receive::Stopping;
                out.push_back(Action::StopReceive(self.way));
            }
            Receive::Off if leaving && self.held.is_empty() && !self.sending => self.shift(now, out),
            Receive::Off if !leaving && self.held_bytes <= LOW => {
                self.receive = Receive::On;
                out.push_back(Action::Receive(self.way));
            }
            _ => {}
        }
    }

    fn splice(&mut self, now: Time, out: &mut Actions) {
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
                    out.push_back(Action::PollIn(self.way));
                }
                return;
            }
        }
        let most = if by_call { 1 } else { self.most_pipes };
        match self.pipes.iter().position(Held::rests) {
            Some(at) => {
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

    /// Enters the gear that is wanted; nothing is in flight and nothing on hand.
    fn shift(&mut self, now: Time, out: &mut Actions) {
        if self.gear == Gear::Copy {
            self.promotions += 1;
        }
        self.gear = self.want;
        (self.full, self.polled, self.readable, self.quiet) = (false, false, self.gear != Gear::Copy, false);
        (self.calls, self.most_pipes) = (0, 2);
        self.bulk.begin(now);
        self.measure.begin(now);
        self.advance(now, out);
    }

    fn give_back(&mut self, out: &mut Actions) {
        for pipe in self.pipes.drain(..) {
            out.push_back(Action::ReturnPipe(pipe.key, true));
        }
    }

    fn finish(&mut self, out: &mut Actions) {
        self.shut = true;
        out.push_back(Action::Shutdown(self.way));
    }
}

#[cfg(test)]
mod tests;
