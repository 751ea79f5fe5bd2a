//! The buffers of the simulated plane: real bytes, real limits, and a strict account of who owns what.

use ringtap::buf::{BufId, Class, Span};
use std::collections::HashMap;

/// All buffers that the stack owns, with their bytes.
pub struct Arena {
    live: HashMap<BufId, Vec<u8>>,
    free: [Vec<u32>; 3],
    limit: [u32; 3],
    next: [u32; 3],
}

impl Arena {
    /// An arena with this many slots of each class: tap, host, small.
    pub fn new(limit: [u32; 3]) -> Self {
        Self { live: HashMap::new(), free: Default::default(), limit, next: [0; 3] }
    }

    /// A buffer with these bytes, of this class; `None` when the class is used up.
    pub fn fill(&mut self, class: Class, bytes: &[u8]) -> Option<Span> {
        let c = class as usize;
        let index = match self.free[c].pop() {
            Some(index) => index,
            None if self.next[c] < self.limit[c] => {
                self.next[c] += 1;
                self.next[c] - 1
            }
            None => return None,
        };
        let id = BufId::new(class, index);
        let mut slot = bytes.to_vec();
        assert!(slot.len() <= class.capacity());
        slot.resize(class.capacity(), 0xee);
        assert!(self.live.insert(id, slot).is_none());
        Some(Span::new(id, 0, bytes.len() as u32))
    }

    /// The stack is done with a buffer.
    pub fn release(&mut self, id: BufId) {
        assert!(self.live.remove(&id).is_some(), "{id:?} released twice, or never owned");
        self.free[id.class() as usize].push(id.index());
    }

    /// The bytes of a span.
    pub fn bytes(&self, span: Span) -> &[u8] {
        let slot = self.live.get(&span.buf).unwrap_or_else(|| panic!("{:?} used after release", span.buf));
        &slot[span.off as usize..(span.off + span.len) as usize]
    }

    /// The bytes of several spans, joined.
    pub fn gather(&self, spans: &[Span]) -> Vec<u8> {
        spans.iter().flat_map(|s| self.bytes(*s)).copied().collect()
    }

    /// Carries out a copy.
    pub fn copy(&mut self, from: Span, to: Span) {
        assert_eq!(from.len, to.len);
        let bytes = self.bytes(from).to_vec();
        let slot = self.live.get_mut(&to.buf).unwrap_or_else(|| panic!("{:?} used after release", to.buf));
        slot[to.off as usize..(to.off + to.len) as usize].copy_from_slice(&bytes);
    }

    /// Buffers that the stack owns.
    pub fn owned(&self) -> Vec<BufId> {
        self.live.keys().copied().collect()
    }
}
