//! Joining datagrams: those of equal size leave as one segmented send, and fall apart again where that is refused.
//!
//! A send costs the host several times what a datagram does, so datagrams that come in one batch and go the same way
//! are held until its end and leave as one `UDP_SEGMENT` send (DESIGN.md, section 4). The kernel cuts such a send into
//! pieces of one size, the last of which may be shorter: so a shorter datagram may end a run, and anything else (a
//! longer or an empty datagram, a full run) has to wait for the next. Order is kept. What `UDP_GRO` handed over in one
//! piece is several datagrams already, and joins as such.

use super::{Span, SpanVec};

/// Datagrams of one segmented send (`UDP_MAX_SEGMENTS` of Linux 6.1).
pub const MAX_SEGMENTS: usize = 64;
/// Payload bytes of one send: what an IPv4 datagram can hold.
pub const MAX_TOTAL: usize = 65_507;
/// Datagrams longer than this go alone: the kernel refuses to segment what does not fit the path's MTU, and 1500 is what
/// nearly every path has at most.
pub const MAX_SIZE: usize = 1472;

/// Datagrams of one size, the last maybe shorter, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    size: u32,
    total: usize,
    count: usize,
    /// A shorter datagram has ended the run, or the first goes alone.
    ended: bool,
    spans: SpanVec,
}

impl Run {
    /// A run of one datagram, or of those of `segment` bytes each that `payload` holds, within the limits of one send
    /// ([`pieces`] sees to that).
    pub fn new(payload: Span, segment: Option<u16>) -> Self {
        let size = segment.map_or(payload.len, u32::from).min(payload.len);
        Self {
            size,
            total: payload.len as usize,
            count: if size == 0 { 1 } else { payload.len.div_ceil(size) as usize },
            ended: size == 0 || size as usize > MAX_SIZE || !payload.len.is_multiple_of(size),
            spans: SpanVec::from_slice(&[payload]),
        }
    }

    /// Takes in what fits; gives it back if it does not.
    pub fn join(&mut self, payload: Span, segment: Option<u16>) -> Result<(), Span> {
        let size = segment.map_or(payload.len, u32::from).min(payload.len);
        // Several of another size would be cut up wrongly; one that is shorter ends the run.
        let alike = size == self.size || payload.len == size && size < self.size;
        let count = if size == 0 { 1 } else { payload.len.div_ceil(size) as usize };
        let fits = !self.ended
            && size > 0
            && alike
            && self.count + count <= MAX_SEGMENTS
            && self.total + payload.len as usize <= MAX_TOTAL;
        if !fits {
            return Err(payload);
        }
        self.ended = !payload.len.is_multiple_of(self.size);
        self.total += payload.len as usize;
        self.count += count;
        if self.spans.len() == self.spans.inline_size() {
            // It will be a long run: one allocation instead of four.
            self.spans.reserve(MAX_SEGMENTS);
        }
        self.spans.push(payload);
        Ok(())
    }

    /// What to cut the send by; `None` for a single datagram.
    pub fn segment(&self) -> Option<u16> {
        // Sizes of a run of two or more came as u16 or are at most MAX_SIZE.
        if self.count > 1 { u16::try_from(self.size).ok() } else { None }
    }

    /// Datagrams in it, from 1.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Payload bytes in all.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The payload, in order. An empty datagram has one empty span.
    pub fn spans(&self) -> &SpanVec {
        &self.spans
    }

    /// The payload, to keep.
    pub fn into_spans(self) -> SpanVec {
        self.spans
    }
}

/// Cuts a super-datagram, `size` bytes a datagram, into parts that one send each can take.
pub fn pieces(payload: Span, size: u16) -> impl Iterator<Item = Span> {
    let size = size.max(1);
    let step =
        u32::try_from((MAX_TOTAL / usize::from(size)).clamp(1, MAX_SEGMENTS)).unwrap_or(1) * u32::from(size);
    let mut rest = payload;
    std::iter::from_fn(move || {
        let part = rest.take(step);
        rest = rest.skip(step);
        (!part.is_empty()).then_some(part)
    })
}

/// Cuts the payload of a segmented send into its datagrams.
pub fn singles(spans: &[Span], segment: u16) -> Vec<SpanVec> {
    let size = u32::from(segment.max(1));
    let mut out = Vec::new();
    let mut current = SpanVec::new();
    let mut room = size;
    for span in spans {
        let mut rest = *span;
        while !rest.is_empty() {
            let part = rest.take(room);
            current.push(part);
            rest = rest.skip(part.len);
            room -= part.len;
            if room == 0 {
                out.push(std::mem::take(&mut current));
                room = size;
            }
        }
    }
    if !current.is_empty() {
        out.push(current);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{BufId, Class};
    use proptest::prelude::*;

    fn span(index: u32, len: u32) -> Span {
        Span::new(BufId::new(Class::Host, index), 256, len)
    }

    proptest! {
        #[test]
        fn what_is_joined_falls_apart_as_it_was(lens in prop::collection::vec((0u32..1600, 1u32..5), 1..80)) {
            let mut runs: Vec<Run> = Vec::new();
            let mut wanted = Vec::new();
            for (i, (len, n)) in lens.into_iter().enumerate() {
                // `n` datagrams of `len` bytes, as UDP_GRO would hand them over.
                let (payload, segment) = (span(i as u32, len * n), (n > 1 && len > 0).then_some(len as u16));
                wanted.extend((0..if len == 0 { 1 } else { n }).map(|k| (i as u32, 256 + k * len, len)));
                let alone = match runs.last_mut() {
                    Some(run) => run.join(payload, segment).err(),
                    None => Some(payload),
                };
                runs.extend(alone.map(|p| Run::new(p, segment)));
            }
            let mut got = Vec::new();
            for run in &runs {
                prop_assert!(run.count() <= MAX_SEGMENTS && run.total() <= MAX_TOTAL);
                match run.segment() {
                    Some(size) => {
                        let parts = singles(run.spans(), size);
                        prop_assert_eq!(parts.len(), run.count());
                        for part in parts {
                            prop_assert_eq!(part.len(), 1, "no datagram is made of two");
                            got.push((part[0].buf.index(), part[0].off, part[0].len));
                        }
                    }
                    None => got.extend(run.spans().iter().map(|s| (s.buf.index(), s.off, s.len))),
                }
            }
            prop_assert_eq!(got, wanted);
        }

        #[test]
        fn pieces_are_whole_datagrams(len in 0u32..65_536, size in 1u16..2000) {
            let parts: Vec<Span> = pieces(span(0, len), size).collect();
            prop_assert_eq!(parts.iter().map(|p| p.len).sum::<u32>(), len);
            for (i, part) in parts.iter().enumerate() {
                let run = Run::new(*part, Some(size));
                prop_assert!(run.count() <= MAX_SEGMENTS && run.total() <= MAX_TOTAL);
                prop_assert!(i + 1 == parts.len() || part.len % u32::from(size) == 0);
            }
        }
    }
}
