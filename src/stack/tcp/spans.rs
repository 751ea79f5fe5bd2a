//! A queue of stream bytes that lie in buffers: what both directions of a connection hold.
//!
//! Theory of operation. The queue owns each buffer it keeps and holds exactly one span of it, so a buffer is released
//! when the last byte of its span is consumed. Short payloads are packed: when they fit behind the last span, in the
//! same buffer, an [`Action::Copy`] puts them there and their own buffer goes back at once. Consuming trims the front.
//!
//! Limits: none of its own; the owners bound bytes and buffers. An empty queue keeps room for eight spans at most.

use crate::buf::{BufId, Class, Span, SpanVec};
use crate::stack::{Action, Cx};
use std::collections::VecDeque;
use std::ops::{AddAssign, SubAssign};

/// Spans that an empty queue may keep room for: an idle connection stays small.
const IDLE_CAPACITY: usize = 8;

/// What some buffers take, filled or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of memory.
    pub memory: usize,
    /// How many of them are small ones.
    pub small: u32,
}

impl Footprint {
    const fn of(buf: BufId) -> Self {
        Self { memory: buf.class().capacity(), small: matches!(buf.class(), Class::Small) as u32 }
    }
}

impl AddAssign for Footprint {
    fn add_assign(&mut self, more: Self) {
        self.memory += more.memory;
        self.small += more.small;
    }
}

impl SubAssign for Footprint {
    fn sub_assign(&mut self, less: Self) {
        self.memory = self.memory.saturating_sub(less.memory);
        self.small = self.small.saturating_sub(less.small);
    }
}

/// Bytes in buffers, first in, first out.
#[derive(Default)]
pub struct SpanQueue {
    spans: VecDeque<Span>,
    bytes: usize,
    footprint: Footprint,
}

impl SpanQueue {
    /// Bytes held.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What its buffers take.
    pub const fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// Buffers held.
    pub fn buffers(&self) -> usize {
        self.spans.len()
    }

    /// True when no byte is held.
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// True when `span` could be copied behind the last byte of the last buffer.
    pub fn can_pack(&self, span: Span) -> bool {
        self.spans.back().is_some_and(|last| {
            let end = u64::from(last.off) + u64::from(last.len) + u64::from(span.len);
            last.buf != span.buf && end <= last.buf.class().capacity() as u64
        })
    }

    /// Appends `span` (not empty) and keeps its buffer.
    pub fn push(&mut self, span: Span) {
        debug_assert!(span.len > 0);
        self.bytes += span.len as usize;
        self.footprint += Footprint::of(span.buf);
        self.spans.push_back(span);
    }

    /// Copies `span` behind the last byte of the last buffer, which [`Self::can_pack`] allowed. The caller releases
    /// the span's own buffer.
    pub fn pack(&mut self, cx: &mut Cx<'_>, span: Span) {
        if let Some(last) = self.spans.back_mut() {
            let to = Span::new(last.buf, last.off + last.len, span.len);
            last.len += span.len;
            self.bytes += span.len as usize;
            cx.act(Action::Copy { from: span, to });
        }
    }

    /// Forgets the first `n` bytes (all, if it holds fewer); buffers that are used up go to `release`.
    pub fn consume(&mut self, n: usize, mut release: impl FnMut(BufId)) {
        let mut left = n.min(self.bytes);
        self.bytes -= left;
        while left > 0 {
            let Some(front) = self.spans.front_mut() else { break };
            if left < front.len as usize {
                *front = front.skip(left as u32);
                break;
            }
            left -= front.len as usize;
            self.footprint -= Footprint::of(front.buf);
            release(front.buf);
            self.spans.pop_front();
        }
        if self.bytes == 0 && self.spans.capacity() > 2 * IDLE_CAPACITY {
            self.spans.shrink_to(IDLE_CAPACITY);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self, release: impl FnMut(BufId)) {
        self.consume(self.bytes, release);
    }

    /// The spans of at most `len` bytes from byte `skip` on, in at most `max_spans` pieces. Says how many bytes that
    /// came to.
    pub fn slice(&self, skip: usize, len: usize, max_spans: usize) -> (SpanVec, usize) {
        let (mut skip, mut got) = (skip, 0);
        let mut out = SpanVec::new();
        for span in &self.spans {
            if got == len || out.len() == max_spans {
                break;
            }
            let size = span.len as usize;
            if skip >= size {
                skip -= size;
                continue;
            }
            let piece = span.skip(skip as u32).take(u32::try_from(len - got).unwrap_or(u32::MAX));
            skip = 0;
            got += piece.len as usize;
            out.push(piece);
        }
        (out, got)
    }

    /// Bytes of memory the queue itself takes on the heap.
    pub fn heap(&self) -> usize {
        self.spans.capacity() * size_of::<Span>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{HOST_SLOT, SMALL_SLOT};

    fn buf(i: u32) -> BufId {
        BufId::new(Class::Host, i)
    }

    #[test]
    fn slices_cross_buffers_and_consumption_releases_each_once() {
        let mut q = SpanQueue::default();
        for i in 0..3 {
            q.push(Span::new(buf(i), 10, 100));
        }
        let (spans, n) = q.slice(50, 120, 8);
        assert_eq!(n, 120);
        assert_eq!(spans.as_slice(), [Span::new(buf(0), 60, 50), Span::new(buf(1), 10, 70)]);
        assert_eq!(q.slice(0, 1000, 2).1, 200);
        let mut gone = Vec::new();
        q.consume(150, |b| gone.push(b));
        assert_eq!((gone.as_slice(), q.bytes()), ([buf(0)].as_slice(), 150));
        q.consume(1000, |b| gone.push(b));
        assert_eq!(gone, [buf(0), buf(1), buf(2)]);
        assert!(q.is_empty());
    }

    #[test]
    fn memory_is_counted_by_buffer_however_little_is_in_it() {
        let mut q = SpanQueue::default();
        q.push(Span::new(buf(0), 0, 1));
        q.push(Span::new(BufId::new(Class::Small, 0), 0, 1));
        assert_eq!(q.footprint(), Footprint { memory: HOST_SLOT + SMALL_SLOT, small: 1 });
        q.consume(1, |_| ());
        assert_eq!(q.footprint(), Footprint { memory: SMALL_SLOT, small: 1 });
        q.clear(|_| ());
        assert_eq!(q.footprint(), Footprint::default());
    }

    #[test]
    fn an_empty_queue_gives_its_memory_back() {
        let mut q = SpanQueue::default();
        for i in 0..1000 {
            q.push(Span::new(buf(i), 0, 1));
        }
        q.clear(|_| ());
        assert!(q.heap() <= 2 * IDLE_CAPACITY * size_of::<Span>());
    }

    #[test]
    fn packing_stops_at_the_end_of_the_buffer() {
        let mut q = SpanQueue::default();
        let small = BufId::new(Class::Small, 0);
        assert!(!q.can_pack(Span::new(buf(1), 0, 1)));
        q.push(Span::new(small, 66, 4000));
        assert!(q.can_pack(Span::new(buf(1), 0, SMALL_SLOT as u32 - 4066)));
        assert!(!q.can_pack(Span::new(buf(1), 0, SMALL_SLOT as u32 - 4065)));
    }
}
