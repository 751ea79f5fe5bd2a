//! From the guest to the host: reassembly, the window, and the bytes queued for the host socket.
//!
//! Theory of operation. Payload in order goes to `queue`, payload beyond a gap to `pieces` (sorted, never overlapping);
//! both keep the tap's buffer and account it with the [`Pool`]. The host socket is lent the front of the queue, one
//! send at a time, and what it took is released. The window promises no more than the byte share and the buffer
//! shares allow; what was promised once is never taken back (RFC 9293 section 3.8.6.2.2), though under a shortage of
//! buffers payload is dropped unacknowledged and comes again. Reported pieces are never dropped.
//!
//! Limits: [`TcpLimits`](super::TcpLimits), [`MAX_OUT_OF_ORDER`].

use super::pool::{Held, Pool, Usage};
use super::seq::Seq;
use super::spans::SpanQueue;
use super::tuning::{
    MAX_OUT_OF_ORDER, PACK_ALL_FROM, PACKED_SMALL, PACKED_TAP, SEND_BYTES, SEND_SPANS, WINDOW_STEP,
};
use crate::buf::{SMALL_MAX, Span, SpanVec};
use crate::stack::{Action, Cx};
use arrayvec::ArrayVec;

/// SACK blocks that fit a header without timestamps.
pub const SACK_BLOCKS: usize = 4;

/// Payload beyond a gap.
#[derive(Clone, Copy, Debug)]
struct Piece {
    seq: Seq,
    span: Span,
}

impl Piece {
    fn end(&self) -> Seq {
        self.seq + self.span.len
    }
}

/// What became of a segment's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// In order; more than zero new bytes.
    InOrder,
    /// In order and it filled a gap: acknowledge at once (RFC 5681 section 4.2).
    FilledGap,
    /// Beyond a gap: acknowledge at once.
    OutOfOrder,
    /// Nothing new.
    Duplicate,
    /// No room; to be sent again.
    Dropped,
}

/// The receiving half of a connection.
pub struct Receiver {
    /// Next byte expected (`RCV.NXT`).
    pub nxt: Seq,
    /// Right edge of the window as promised.
    pub adv: Seq,
    /// Last acknowledgement number sent.
    pub acked: Seq,
    /// Our window scale; zero when the guest offered none.
    pub shift: u8,
    /// Payload has come.
    fed: bool,
    /// Where the guest's FIN stands, once one has been seen.
    pub fin: Option<Seq>,
    queue: SpanQueue,
    lent: usize,
    pieces: Vec<Piece>,
    /// Starts of the most recent pieces, newest first, for the order of SACK blocks.
    recent: ArrayVec<Seq, SACK_BLOCKS>,
    /// A duplicate to report (RFC 2883).
    duplicate: Option<(Seq, Seq)>,
    held: Held,
}

impl Receiver {
    /// A receiver whose peer's first byte is `nxt`.
    pub fn new(nxt: Seq) -> Self {
        Self {
            nxt,
            adv: nxt,
            acked: nxt,
            shift: 0,
            fed: false,
            fin: None,
            queue: SpanQueue::default(),
            lent: 0,
            pieces: Vec::new(),
            recent: ArrayVec::new(),
            duplicate: None,
            held: Held::default(),
        }
    }

    /// Bytes in order and not yet taken by the host.
    pub const fn queued(&self) -> usize {
        self.queue.bytes()
    }

    /// True when the guest's FIN has been reached.
    pub fn finished(&self) -> bool {
        self.fin.is_some_and(|fin| self.nxt.after(fin))
    }

    /// Bytes of memory on the heap.
    pub fn heap(&self) -> usize {
        self.queue.heap() + self.pieces.capacity() * size_of::<Piece>()
    }

    /// Right edge as the guest may have understood it: windows are rounded up to a unit of the scale.
    pub fn edge(&self) -> Seq {
        self.adv + ((1 << self.shift) - 1)
    }

    /// Room that could be promised now, in bytes.
    pub fn room(&self, pool: &Pool) -> u32 {
        let pieces: u32 = self.pieces.iter().map(|p| p.span.len).sum();
        let used = u32::try_from(self.queue.bytes()).unwrap_or(u32::MAX).saturating_add(pieces);
        let bytes = pool.limits.receive_bytes.saturating_sub(used);
        let tap = pool.tap_share(&self.held).saturating_sub(self.held.tap).saturating_mul(PACKED_TAP);
        let small = pool.small_share(&self.held).saturating_sub(self.held.small).saturating_mul(PACKED_SMALL);
        // Without tap slots a trickle goes on in small buffers: others may hold all of them for long.
        let trickle = tap.max(small.min(SMALL_MAX as u32));
        let buffers = if self.held.small == 0 { trickle } else { trickle.min(small) };
        bytes.min(buffers)
    }

    /// The window field to send now; moves the promised edge. `scaled` is false on SYN segments.
    pub fn advertise(&mut self, pool: &Pool, scaled: bool) -> u16 {
        let shift = if scaled { self.shift } else { 0 };
        let most = u32::from(u16::MAX) << shift;
        let room = (self.room(pool).min(most) >> shift) << shift;
        self.acked = self.nxt;
        // With no room the edge stays, even where the rounding has let the guest step over it: otherwise each such step
        // would earn the next one.
        if room > 0 && (self.nxt + room).after(self.adv) {
            self.adv = self.nxt + room;
            return (room >> shift) as u16;
        }
        let left = self.adv.since(self.nxt).min(most);
        (left.div_ceil(1 << shift)).min(u32::from(u16::MAX)) as u16
    }

    /// True when the window has reopened far enough that the guest should hear of it though it sends nothing: it may
    /// be waiting, for less than two super-frames are left to it.
    pub fn window_update_due(&self, pool: &Pool) -> bool {
        let most = u32::from(u16::MAX) << self.shift;
        let gain = (self.nxt + self.room(pool).min(most)).since(self.adv);
        let left = self.adv.since(self.nxt);
        let reachable = self.room(pool).saturating_add(self.queue.bytes() as u32);
        let step = WINDOW_STEP.min(reachable / 2).min(most / 2).max(1);
        // Before the first byte the window of the handshake will do: most connections never need more.
        self.fed && left < 2 * WINDOW_STEP && gain >= step
    }

    /// Notes that `len` old bytes came again.
    pub fn note_duplicate(&mut self, seq: Seq, len: u32) {
        if len > 0 && seq.before(self.nxt) {
            self.duplicate = Some((seq, (seq + len).min(self.nxt)));
        }
    }

    /// Notes where the guest's stream ends. Ignored beyond the window, and where it contradicts what is here already.
    pub fn note_fin(&mut self, at: Seq) {
        let conflict = self.pieces.last().is_some_and(|p| p.end().after(at));
        if self.fin.is_none() && !at.before(self.nxt) && !at.after(self.edge()) && !conflict {
            self.fin = Some(at);
        }
    }

    /// Steps over the guest's FIN if everything before it is here; true when that happens.
    pub fn reach_fin(&mut self) -> bool {
        let reached = self.fin == Some(self.nxt);
        if reached {
            self.nxt += 1;
        }
        reached
    }

    /// Takes a segment's payload, already within the window's left edge or beyond; its buffer is kept or released.
    pub fn take(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, seq: Seq, payload: Span) -> Accepted {
        let (mut seq, mut span) = (seq, payload);
        let end = seq + span.len;
        // RFC 2883: the first duplicated run is reported.
        if seq.before(self.nxt) {
            self.duplicate = Some((seq, end.min(self.nxt)));
            span = span.skip(self.nxt.since(seq));
            seq = self.nxt;
        }
        span = span.take(self.edge().since(seq));
        if let Some(fin) = self.fin {
            span = span.take(fin.since(seq));
        }
        if span.is_empty() {
            cx.act(Action::Release(payload.buf));
            // Nothing left of something: either old, or beyond the window.
            return if end.after(self.nxt) { Accepted::Dropped } else { Accepted::Duplicate };
        }
        if seq == self.nxt { self.in_order(cx, pool, span) } else { self.beyond(cx, pool, seq, span) }
    }

    fn in_order(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, span: Span) -> Accepted {
        if !self.append(cx, pool, span, false) {
            return Accepted::Dropped;
        }
        if self.pieces.is_empty() { Accepted::InOrder } else { self.join(cx, pool) }
    }

    /// Queues bytes at `nxt`. `held` says that the buffer is already accounted.
    fn append(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, span: Span, held: bool) -> bool {
        let usage = if self.queue.is_empty() { Usage::Next } else { Usage::Queued };
        let short = span.len as usize <= SMALL_MAX || self.held.tap >= PACK_ALL_FROM;
        if short && self.queue.can_pack(span) {
            self.queue.pack(cx, span);
            if held {
                pool.release(&mut self.held, cx, span.buf);
            } else {
                cx.act(Action::Release(span.buf));
            }
        } else if held {
            self.queue.push(span);
        } else if pool.admits(&self.held, span.buf.class(), usage) {
            pool.keep(&mut self.held, span.buf);
            self.queue.push(span);
        } else {
            cx.act(Action::Release(span.buf));
            return false;
        }
        self.nxt += span.len;
        self.fed = true;
        true
    }

    /// Moves pieces that have become contiguous into the queue.
    fn join(&mut self, cx: &mut Cx<'_>, pool: &mut Pool) -> Accepted {
        let mut taken = 0;
        while let Some(piece) = self.pieces.get(taken).copied() {
            if piece.seq.after(self.nxt) {
                break;
            }
            taken += 1;
            let span = piece.span.skip(self.nxt.since(piece.seq));
            if span.is_empty() {
                pool.release(&mut self.held, cx, span.buf);
            } else {
                self.append(cx, pool, span, true);
            }
        }
        self.pieces.drain(..taken);
        if self.pieces.is_empty() {
            self.pieces = Vec::new();
            self.recent.clear();
        }
        Accepted::FilledGap
    }

    fn beyond(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, seq: Seq, span: Span) -> Accepted {
        let (mut seq, mut span) = (seq, span);
        let at = self.pieces.partition_point(|p| p.seq.before(seq));
        // What a piece before it holds already.
        if at > 0 {
            let have = self.pieces[at - 1].end();
            if have.after(seq) {
                self.duplicate = Some((seq, have.min(seq + span.len)));
                span = span.skip(have.since(seq));
                seq = have;
            }
        }
        // Pieces it covers whole have served; the first it covers in part cuts it short.
        let covered = self.pieces[at..].iter().take_while(|p| !p.end().after(seq + span.len)).count();
        let next = self.pieces.get(at + covered).map(|p| p.seq);
        if let Some(next) = next {
            span = span.take(next.since(seq));
        }
        if covered == 0 && self.extend(cx, at, seq, span) {
            return Accepted::OutOfOrder;
        }
        let admitted =
            self.pieces.len() < MAX_OUT_OF_ORDER && pool.admits(&self.held, span.buf.class(), Usage::Beyond);
        if span.is_empty() || !admitted {
            cx.act(Action::Release(span.buf));
            return if span.is_empty() { Accepted::Duplicate } else { Accepted::Dropped };
        }
        for piece in self.pieces.drain(at..at + covered) {
            pool.release(&mut self.held, cx, piece.span.buf);
        }
        pool.keep(&mut self.held, span.buf);
        self.pieces.insert(at, Piece { seq, span });
        self.report_first(seq);
        Accepted::OutOfOrder
    }

    /// Packs a short piece behind the one it follows, if that one's buffer has room: a guest without offload loses one
    /// small segment and sends hundreds behind it.
    fn extend(&mut self, cx: &mut Cx<'_>, at: usize, seq: Seq, span: Span) -> bool {
        let Some(last) = at.checked_sub(1).and_then(|i| self.pieces.get_mut(i)) else { return false };
        let end = last.span.off + last.span.len;
        let room = (last.span.buf.class().capacity() as u32).saturating_sub(end);
        if span.is_empty() || last.end() != seq || span.len as usize > SMALL_MAX || span.len > room {
            return false;
        }
        cx.act(Action::Copy { from: span, to: Span::new(last.span.buf, end, span.len) });
        cx.act(Action::Release(span.buf));
        last.span.len += span.len;
        self.report_first(seq);
        true
    }

    fn report_first(&mut self, seq: Seq) {
        self.recent.retain(|s| *s != seq);
        if self.recent.is_full() {
            self.recent.pop();
        }
        self.recent.insert(0, seq);
    }

    /// The SACK blocks to report: a duplicate first (RFC 2883), then the run with the latest piece, then earlier ones
    /// (RFC 2018 section 4).
    pub fn sack_blocks(&mut self) -> ArrayVec<(u32, u32), SACK_BLOCKS> {
        let mut blocks = ArrayVec::new();
        if let Some((l, r)) = self.duplicate.take() {
            blocks.push((l.0, r.0));
        }
        for i in 0..self.recent.len() {
            let Some(run) = self.run_of(self.recent[i]) else { continue };
            if !blocks.contains(&run) && blocks.try_push(run).is_err() {
                break;
            }
        }
        blocks
    }

    /// The contiguous run that holds the piece at `seq`.
    fn run_of(&self, seq: Seq) -> Option<(u32, u32)> {
        let at = self.pieces.partition_point(|p| !p.end().after(seq));
        let piece = self.pieces.get(at).filter(|p| !p.seq.after(seq))?;
        let (mut left, mut right) = (piece.seq, piece.end());
        for p in self.pieces[..at].iter().rev() {
            if p.end() != left {
                break;
            }
            left = p.seq;
        }
        for p in &self.pieces[at + 1..] {
            if p.seq != right {
                break;
            }
            right = p.end();
        }
        Some((left.0, right.0))
    }

    /// The next send for the host, unless one is outstanding or nothing is queued.
    pub fn next_send(&mut self) -> Option<SpanVec> {
        if self.lent > 0 || self.queue.is_empty() {
            return None;
        }
        let (spans, n) = self.queue.slice(0, SEND_BYTES, SEND_SPANS);
        self.lent = n;
        Some(spans)
    }

    /// The host took `n` bytes of the outstanding send.
    pub fn sent(&mut self, cx: &mut Cx<'_>, pool: &mut Pool, n: usize) {
        let n = n.min(self.lent);
        self.lent = 0;
        let held = &mut self.held;
        self.queue.consume(n, |buf| pool.release(held, cx, buf));
    }

    /// Gives every buffer back.
    pub fn clear(&mut self, cx: &mut Cx<'_>, pool: &mut Pool) {
        self.lent = 0;
        let held = &mut self.held;
        self.queue.clear(|buf| pool.release(held, cx, buf));
        for piece in std::mem::take(&mut self.pieces) {
            pool.release(&mut self.held, cx, piece.span.buf);
        }
        self.recent.clear();
    }
}
