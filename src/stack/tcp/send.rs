//! From the host to the guest: the queue of bytes, what may be sent when, and recovery of what was lost.
//!
//! Theory of operation. Bytes from the host stay in `queue` until the guest has acknowledged them; the queue's first
//! byte has number `head`. [`Sender::next_frame`] cuts the next super-frame: first what is known to be lost, then new
//! bytes as window and congestion window allow. Loss is found by SACK (RFC 6675) or three duplicate acknowledgements
//! and recovered within one round trip; a timeout marks everything unreported as lost and restarts from ten segments.
//! All of recovery is three numbers: before `lost_edge` everything unreported is lost, before `rxt` it has been sent
//! again, and at `recover` recovery is over.
//!
//! Silly windows (RFC 9293 section 3.8.6.2.1): while something is in flight a short frame is held back, for its
//! acknowledgement is coming; with nothing in flight whatever fits is sent at once, so nothing ever waits for a timer
//! but a closed window. There is no Nagle delay: the last queued bytes go out as they are.

use super::rtt::Rtt;
use super::scoreboard::Scoreboard;
use super::seq::Seq;
use super::spans::{Footprint, SpanQueue};
use super::tuning::{AVOIDANCE_SEGMENTS, FRAME_SPANS, INITIAL_CWND, MAX_CWND, PERSIST_MAX, RESTART_SEGMENTS};
use crate::buf::{SMALL_MAX, Span, SpanVec};
use crate::flow::Time;
use crate::stack::{Action, Cx};
use std::time::Duration;

/// Where loss recovery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is known to be lost.
    Open,
    /// Fast recovery.
    Recovery,
    /// After a timeout.
    Loss,
}

/// One frame to send.
#[derive(Debug)]
pub struct Frame {
    /// Number of its first byte.
    pub seq: Seq,
    /// The payload.
    pub spans: SpanVec,
    /// Bytes of it.
    pub len: u32,
    /// It ends with our FIN.
    pub fin: bool,
    /// It holds the last byte there is.
    pub push: bool,
    /// It was sent before.
    pub again: bool,
}

/// The sending half of a connection.
pub struct Sender {
    /// First byte not acknowledged (`SND.UNA`).
    pub una: Seq,
    /// Next new byte (`SND.NXT`); never moves back.
    pub nxt: Seq,
    /// The guest's window in bytes (`SND.WND`).
    pub wnd: u32,
    /// Sequence and acknowledgement number of the segment that set it last.
    pub wl: (Seq, Seq),
    /// Largest window the guest has shown.
    pub max_wnd: u32,
    /// The guest's window scale.
    pub shift: u8,
    /// Payload bytes of one segment.
    pub mss: u32,
    /// The guest reports what it holds.
    pub sack: bool,
    /// Payload bytes of the longest super-frame: a multiple of `mss`.
    max_frame: u32,
    head: Seq,
    queue: SpanQueue,
    fin: bool,
    fin_sent: bool,
    held_back: bool,
    board: Scoreboard,
    phase: Phase,
    rxt: Seq,
    recover: Seq,
    forced: bool,
    dupacks: u32,
    /// Congestion window, bytes.
    pub cwnd: u32,
    ssthresh: u32,
    /// Round-trip times.
    pub rtt: Rtt,
    /// Timeouts since the last progress.
    pub retries: u8,
    probes: u8,
    /// When to send again what is in flight.
    pub retransmit_at: Option<Time>,
    /// When to ask about a closed window.
    pub probe_at: Option<Time>,
}

impl Sender {
    /// A sender whose SYN has number `iss`.
    pub fn new(iss: Seq) -> Self {
        Self {
            una: iss,
            nxt: iss,
            wnd: 0,
            wl: (Seq(0), iss),
            max_wnd: 0,
            shift: 0,
            mss: 536,
            sack: false,
            max_frame: 536,
            head: iss + 1,
            queue: SpanQueue::default(),
            fin: false,
            fin_sent: false,
            held_back: false,
            board: Scoreboard::default(),
            phase: Phase::Open,
            rxt: iss,
            recover: iss,
            forced: false,
            dupacks: 0,
            cwnd: INITIAL_CWND,
            ssthresh: MAX_CWND,
            rtt: Rtt::default(),
            retries: 0,
            probes: 0,
            retransmit_at: None,
            probe_at: None,
        }
    }

    /// Sets the segment size; `headers` is the length of IP and TCP header. The longest super-frame follows: 65,535
    /// bytes of L3 in whole segments.
    pub fn set_mss(&mut self, mss: u32, headers: u32) {
        self.mss = mss.max(1);
        let most = u32::from(u16::MAX) - headers;
        self.max_frame = (most / self.mss * self.mss).max(self.mss.min(most));
    }

    /// True when the byte of this number is on its way to the guest.
    pub const fn in_flight(&self, seq: Seq) -> bool {
        !seq.before(self.una) && seq.before(self.nxt)
    }

    /// Bytes held for the guest.
    pub const fn queued(&self) -> usize {
        self.queue.bytes()
    }

    /// What those buffers take.
    pub const fn footprint(&self) -> Footprint {
        self.queue.footprint()
    }

    /// Bytes that the guest would take at once, behind all that is queued.
    pub fn room(&self) -> u32 {
        self.wnd.min(self.cwnd).saturating_sub(self.end().since(self.una))
    }

    /// Says that the host has more, or may have, which waits for the guest's window.
    pub fn hold_back(&mut self, waits: bool) {
        self.held_back = waits;
    }

    /// Buffers held for the guest.
    pub fn buffers(&self) -> usize {
        self.queue.buffers()
    }

    /// Bytes of memory on the heap.
    pub fn heap(&self) -> usize {
        self.queue.heap()
    }

    /// Bytes from the host; the buffer is kept until acknowledged.
    pub fn push(&mut self, cx: &mut Cx<'_>, span: Span) {
        if span.len as usize <= SMALL_MAX && self.queue.can_pack(span) {
            self.queue.pack(cx, span);
            cx.act(Action::Release(span.buf));
        } else {
            self.queue.push(span);
        }
    }

    /// The host sends no more: FIN behind the last byte.
    pub fn finish(&mut self) {
        self.fin = true;
    }

    /// True once our FIN has been acknowledged.
    pub fn fin_acked(&self) -> bool {
        self.fin_sent && self.una == self.nxt
    }

    /// True while something waits that has never been sent.
    pub fn unsent(&self) -> bool {
        self.end().after(self.nxt) || (self.fin && !self.fin_sent)
    }

    /// Number behind the last queued byte: our FIN's.
    fn end(&self) -> Seq {
        self.head + self.queue.bytes() as u32
    }

    /// Everything unreported before this is lost.
    fn lost_edge(&self) -> Seq {
        match self.phase {
            Phase::Open => self.una,
            Phase::Loss => self.recover,
            Phase::Recovery => {
                let first = self.una + self.mss;
                if self.sack { self.board.lost_edge(self.mss).map_or(first, |e| e.max(first)) } else { first }
            }
        }
    }

    /// Bytes believed to be on their way (RFC 6675, `pipe`).
    fn pipe(&self) -> u32 {
        let flight = self.nxt.since(self.una) - self.board.sacked(self.una, self.nxt);
        if self.phase == Phase::Open {
            return flight;
        }
        let (from, to) = (self.rxt.max(self.una), self.lost_edge().min(self.nxt));
        let lost = to.since(from) - self.board.sacked(from, to);
        let left = flight.saturating_sub(lost);
        if self.sack { left } else { left.saturating_sub(self.dupacks * self.mss) }
    }

    /// The next frame to send now, if any.
    pub fn next_frame(&mut self, now: Time) -> Option<Frame> {
        self.lost_frame().or_else(|| self.new_frame(now))
    }

    fn lost_frame(&mut self) -> Option<Frame> {
        if self.phase == Phase::Open {
            return None;
        }
        self.rxt = self.rxt.max(self.una);
        let (from, to) = self.board.hole(self.rxt, self.lost_edge().min(self.nxt))?;
        let pipe = self.pipe();
        let mut len = to.since(from).min(self.max_frame);
        let window = (self.una + self.wnd).since(from);
        if self.forced {
            len = len.min(window.max(self.mss));
            if self.phase == Phase::Loss {
                len = len.min(self.cwnd.max(self.mss));
            }
        } else {
            let room = self.cwnd.saturating_sub(pipe);
            if room < self.mss && pipe > 0 {
                return None;
            }
            len = len.min(room.max(self.mss)).min(window);
        }
        if len == 0 {
            return None;
        }
        self.forced = false;
        self.rtt.ambiguous();
        let mut frame = self.cut(from, len, true);
        // What goes out beyond the window may be taken in part, and the end not with it.
        frame.fin &= frame.len == 0 || frame.len < window;
        self.rxt = from + frame.len + u32::from(frame.fin);
        Some(frame)
    }

    fn new_frame(&mut self, now: Time) -> Option<Frame> {
        let unsent = self.end().since(self.nxt);
        let fin = self.fin && !self.fin_sent;
        if unsent == 0 && !fin {
            return None;
        }
        let flight = self.nxt.since(self.una);
        let window = (self.una + self.wnd).since(self.nxt);
        let limit = window.min(self.cwnd.saturating_sub(self.pipe()));
        if limit == 0 {
            return None;
        }
        let mut len = unsent.min(limit).min(self.max_frame);
        if len < unsent {
            if len >= self.mss {
                len -= len % self.mss;
            }
            // A quarter of what the path takes at once: enough to keep it busy, and few frames.
            let enough = self.max_frame.min(self.mss.max(self.cwnd.min(self.max_wnd) / 4));
            if flight > 0 && len < enough.min(self.max_wnd / 2).max(1) {
                return None;
            }
        }
        let mut frame = self.cut(self.nxt, len, false);
        if frame.fin && frame.len + 1 > window {
            frame.fin = false;
        }
        self.nxt = frame.seq + frame.len + u32::from(frame.fin);
        self.fin_sent |= frame.fin;
        self.rtt.sent(self.nxt, now);
        Some(frame)
    }

    /// Cuts `len` sequence numbers from `from` on out of the queue.
    fn cut(&self, from: Seq, len: u32, again: bool) -> Frame {
        let data = len.min(self.end().since(from));
        let skip = from.since(self.head) as usize;
        let (mut spans, mut got) = self.queue.slice(skip, data as usize, FRAME_SPANS);
        if got < data as usize && got > self.mss as usize {
            // Ran out of spans: whole segments only, so that the next frame starts on a boundary.
            (spans, got) = self.queue.slice(skip, got - got % self.mss as usize, FRAME_SPANS);
        }
        let last = from + got as u32 == self.end();
        let fin = last && if again { len > data } else { self.fin };
        Frame { seq: from, spans, len: got as u32, fin, push: last && got > 0, again }
    }

    /// An acceptable acknowledgement. `pure` says that the segment carried nothing else and left the window as it was.
    pub fn acknowledged(&mut self, cx: &mut Cx<'_>, ack: Seq, blocks: &[(u32, u32)], pure: bool) {
        let mut news = false;
        if self.sack {
            for (left, right) in blocks.iter().map(|(l, r)| (Seq(*l), Seq(*r))) {
                let sent = !right.after(self.nxt) && left.before(right);
                if sent && !left.before(self.una.max(ack)) {
                    news |= self.board.insert(left, right);
                }
            }
        }
        if ack.after(self.una) {
            self.progress(cx, ack);
        } else if ack == self.una && self.nxt != self.una && pure {
            self.dupacks += 1;
        }
        if self.phase == Phase::Open
            && self.nxt != self.una
            && (self.dupacks >= 3 || (news && self.board.lost_edge(self.mss).is_some()))
        {
            self.ssthresh = (self.pipe() / 2).max(2 * self.mss);
            self.cwnd = self.ssthresh;
            self.phase = Phase::Recovery;
            (self.recover, self.rxt, self.forced) = (self.nxt, self.una, true);
        }
    }

    fn progress(&mut self, cx: &mut Cx<'_>, ack: Seq) {
        let n = ack.since(self.una);
        let was_full = self.nxt.since(self.una) >= self.cwnd / 2;
        let data = ack.min(self.end()).since(self.head);
        self.queue.consume(data as usize, |buf| cx.act(Action::Release(buf)));
        self.head += data;
        self.una = ack;
        self.board.advance(ack);
        self.rtt.acked(ack, cx.now);
        (self.retries, self.dupacks) = (0, 0);
        if self.phase != Phase::Open && !ack.before(self.recover) {
            if self.phase == Phase::Recovery {
                self.cwnd = self.ssthresh;
            }
            (self.phase, self.forced) = (Phase::Open, false);
        } else if self.phase == Phase::Recovery {
            // A partial acknowledgement without SACK names the next hole (RFC 6582).
            self.forced |= !self.sack;
        } else if was_full || self.phase == Phase::Loss {
            self.grow(n);
        }
        self.retransmit_at = if self.nxt == self.una { None } else { Some(cx.now + self.rtt.rto()) };
    }

    fn grow(&mut self, acked: u32) {
        let by = if self.cwnd < self.ssthresh {
            acked
        } else {
            let step = u64::from(self.mss * AVOIDANCE_SEGMENTS) * u64::from(acked);
            (step / u64::from(self.cwnd.max(1))).clamp(1, u64::from(acked)) as u32
        };
        self.cwnd = self.cwnd.saturating_add(by).min(MAX_CWND);
    }

    /// The retransmission timeout struck: all that is unreported counts as lost, and the first of it goes out
    /// whatever the window says.
    pub fn timed_out(&mut self) {
        self.retries = self.retries.saturating_add(1);
        self.rtt.back_off();
        if self.phase != Phase::Loss {
            self.ssthresh = (self.pipe() / 2).max(2 * self.mss);
        }
        if self.retries > 1 {
            // The guest may have dropped what it reported (RFC 2018 section 8).
            self.board.clear();
        }
        self.cwnd = self.cwnd.min(RESTART_SEGMENTS * self.mss);
        self.phase = Phase::Loss;
        (self.recover, self.rxt, self.dupacks, self.forced) = (self.nxt, self.una, 0, true);
        self.retransmit_at = None;
    }

    /// The segment size has shrunk: what is in flight did not get through and goes out again at once.
    pub fn resend(&mut self) {
        if self.nxt != self.una {
            self.phase = Phase::Loss;
            (self.recover, self.rxt, self.dupacks, self.forced) = (self.nxt, self.una, 0, true);
        }
    }

    /// The guest's window is open: the next closed one is asked about soon again.
    pub fn window_open(&mut self) {
        (self.probes, self.probe_at) = (0, None);
    }

    /// The guest has no room, not even for what is in flight where it has taken a window back. It is there, however, and
    /// what goes out again meanwhile is no sign of its death (RFC 9293 section 3.8.6.1).
    pub fn window_closed(&mut self) {
        self.retries = 0;
    }

    /// Sets the timer that fits what is in flight or held back; call it after sending.
    pub fn arm(&mut self, now: Time) {
        if self.nxt != self.una {
            self.probe_at = None;
            if self.retransmit_at.is_none() {
                self.retransmit_at = Some(now + self.rtt.rto());
            }
        } else {
            self.retransmit_at = None;
            if !self.unsent() && !self.held_back {
                self.probe_at = None;
            } else if self.probe_at.is_none() {
                self.probe_at = Some(now + self.probe_interval());
            }
        }
    }

    /// A window probe goes out: the next one later.
    pub fn probed(&mut self, now: Time) {
        self.probes = (self.probes + 1).min(16);
        self.probe_at = Some(now + self.probe_interval());
    }

    fn probe_interval(&self) -> Duration {
        self.rtt.rto().saturating_mul(1 << self.probes).min(PERSIST_MAX)
    }

    /// Gives every buffer back.
    pub fn clear(&mut self, cx: &mut Cx<'_>) {
        let n = self.queue.bytes() as u32;
        self.queue.clear(|buf| cx.act(Action::Release(buf)));
        self.head += n;
        self.board.clear();
        (self.retransmit_at, self.probe_at) = (None, None);
    }
}
