//! One direction of a relayed connection.
//!
//! **Copying.** Pieces are received into buffers and sent in order, one send at a time. With [`HIGH`] bytes on hand, or as many
//! pieces as its share of the buffers, the receive is stopped, with half of that it goes on: that is the back-pressure. The
//! share shrinks with what is left ([`share`]), so that many directions that are stalled leave others something.
//!
//! **Want of buffers.** A direction that finds none does without: when both sockets are ready it has bytes moved by hand
//! ([`by_hand`]), and holds nothing between two moves. So whoever is stalled, and however many they are, others go on.
//!
//! **Promotion**: the direction proves bulk
//! ([`super::bulk`]), and what is measured then calls for another gear ([`super::measure`]). The receive is stopped, and only
//! when it has ended and every byte on hand has been sent does the first pipe come in: order is kept because the two never
//! overlap.
//!
//! **Splicing**: [`splice`]. **Demotion**: bulk ends, or a chain has waited for a whole [`Pump::tick`]: a pump that rests
//! holds no pipe.

mod by_hand;
mod splice;

use super::bulk::Bulk;
use super::gather::Gather;
use super::measure::Measure;
use super::{Action, Choice, Ended, Fault, Gear, PipeKey, Way};
use crate::buf::{Span, SpanVec};
use crate::flow::Time;
use arrayvec::ArrayVec;
use splice::Held;
use std::collections::VecDeque;

/// Bytes on hand at which receiving stops.
pub const HIGH: u64 = 256 << 10;
/// Bytes on hand at which it goes on.
pub const LOW: u64 = 128 << 10;
/// Pieces on hand at most, where there are many buffers.
pub const PIECES: usize = 16;
/// Spans of one send: 512 KiB of full pieces.
const SPANS: usize = 8;

/// The copy receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receive {
    Off,
    On,
    Stopping,
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
    /// Pieces it may have on hand.
    share: usize,
    /// There were no buffers to receive into: bytes are moved by hand.
    scarce: bool,
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
    gather: Gather,
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
            share: PIECES,
            scarce: false,
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
            gather: Gather::default(),
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

    /// Bytes that have come and have not been delivered: in buffers or pipes.
    pub fn held(&self) -> u64 {
        let piped: i64 = self.pipes.iter().map(|pipe| pipe.bytes.max(0)).sum();
        self.held_bytes + piped.unsigned_abs()
    }

    /// The pipes it has on loan, and the bytes in each.
    pub fn pipes(&self) -> impl Iterator<Item = (PipeKey, u64)> {
        self.pipes.iter().map(|pipe| (pipe.key, pipe.bytes.max(0).unsigned_abs()))
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

    /// A piece was received; it belongs to the pump now. `free` buffers are left for all.
    pub fn received(&mut self, now: Time, span: Span, free: usize, out: &mut Actions) {
        if self.closed {
            out.push_back(Action::Release(span.buf));
            return;
        }
        self.held.push(span);
        self.share = share(free);
        self.held_bytes += u64::from(span.len);
        self.judge(now, u64::from(span.len));
        self.advance(now, out);
    }

    /// The receive has ended.
    pub fn receive_ended(&mut self, now: Time, why: Ended, out: &mut Actions) {
        self.receive = Receive::Off;
        self.eof |= why == Ended::Eof;
        if why == Ended::Starved {
            self.begin_by_hand();
        }
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
            Receive::On if leaving || self.held_bytes >= HIGH || self.held.len() >= self.share => {
                self.receive = Receive::Stopping;
                out.push_back(Action::StopReceive(self.way));
            }
            // Moving by hand, it waits for one of the sockets.
            Receive::Off if self.poll_in || self.poll_out || self.resting => {}
            Receive::Off if leaving && self.held.is_empty() && !self.sending => self.shift(now, out),
            // What is held goes first.
            Receive::Off if !leaving && self.scarce && (self.sending || !self.held.is_empty()) => {}
            Receive::Off if !leaving && self.scarce => self.by_hand(out),
            Receive::Off if !leaving && self.held_bytes <= LOW && self.held.len() <= self.share / 2 => {
                self.receive = Receive::On;
                out.push_back(Action::Receive(self.way));
            }
            _ => {}
        }
    }

    /// Enters the gear that is wanted; nothing is in flight and nothing on hand.
    fn shift(&mut self, now: Time, out: &mut Actions) {
        if self.gear == Gear::Copy {
            self.promotions += 1;
        }
        self.gear = self.want;
        if self.gear == Gear::Copy && self.gather.lower() {
            out.push_back(Action::LowerMark(self.way));
        }
        (self.full, self.polled, self.readable, self.quiet) = (false, false, self.gear != Gear::Copy, false);
        (self.calls, self.most_pipes) = (0, 2);
        self.bulk.begin(now);
        self.measure.begin(now);
        self.advance(now, out);
    }

    fn finish(&mut self, out: &mut Actions) {
        self.shut = true;
        out.push_back(Action::Shutdown(self.way));
    }
}

/// Pieces that one direction may have on hand when `free` buffers are left for all: a sixteenth of them, and one in any case.
fn share(free: usize) -> usize {
    (free / 16).clamp(1, PIECES)
}

#[cfg(test)]
mod tests;
