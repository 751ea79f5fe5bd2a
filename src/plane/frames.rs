//! Frames between tap and stack: the virtio-net header, short copies, checksums, and software segmentation where the
//! tap has no offload.
//!
//! A frame arrives in a 72 KiB slot of the tap's buffer ring. A short one is copied to a small slot right away, so
//! that the large slot returns to the ring whatever becomes of the payload; a long one stays where it is until the
//! host has taken it.

use super::pcap::Pcap;
use super::pcapng::Way;
use super::shard::{End, Shard};
use super::tag::Tag;
use crate::buf::{Class, SMALL_SLOT, Span};
use crate::flow::DropReason;
use crate::ring::{Completion, Data};
use crate::stack::{Emit, FrameMeta};
use crate::wire::checksum::frame_is_sound;
use crate::wire::segment::{self, CutError};
use crate::wire::{Gso, vnet};
use nix::errno::Errno;
use std::os::fd::AsFd;
use tracing::{debug, warn};

impl Shard {
    pub(super) fn arm_tap(&mut self) {
        self.tap_starved = false;
        self.ring.read_frames(self.tap.fd.as_fd(), Tag::TapRead);
    }

    pub(super) fn on_tap_read(&mut self, c: Completion<Tag>) -> Option<End> {
        match c.result {
            Ok(_) => {
                if let Data::Span(span) = c.data {
                    self.on_frame(span);
                }
                if !c.more {
                    self.arm_tap();
                }
            }
            Err(Errno::ENOBUFS) if !c.more => self.tap_starved = true,
            Err(Errno::EBADFD | Errno::ENODEV) => return Some(End::TapGone),
            // The device is down, or the wait was interrupted: the read stays wanted.
            Err(Errno::EINTR | Errno::EAGAIN | Errno::EIO) if !c.more => self.arm_tap(),
            Err(e) => {
                debug!("reading the tap: {e}");
                if !c.more {
                    return Some(End::Ring(e.into()));
                }
            }
        }
        None
    }

    /// Leaves the tap alone while the stack says so ([`crate::stack::Stack::tap_rest`]): what is lent is still filled, and then the
    /// read ends for want of slots.
    pub(super) fn rest_tap(&mut self) {
        if self.tap_rests.is_some_and(|until| until > self.now) {
            return;
        }
        let rested = self.tap_rests.is_some();
        self.tap_rests = self.stack.tap_rest(self.now);
        if rested || self.tap_rests.is_some() {
            self.ring.rest(Class::Tap, self.tap_rests.is_some());
        }
    }

    fn on_frame(&mut self, whole: Span) {
        let (rx, frame) = if self.tap.vnet {
            let frame = whole.skip(vnet::LEN as u32);
            let header = self.ring.arena().bytes(whole.take(vnet::LEN as u32));
            (vnet::decode(header, frame.len as usize), frame)
        } else {
            (Ok(vnet::Rx::PLAIN), whole)
        };
        let Ok(rx) = rx else {
            self.stack.refuse_frame(self.now, DropReason::Malformed);
            return self.ring.release(whole.buf);
        };
        if rx.needs_verifying() && !frame_is_sound(self.ring.arena().bytes(frame)) {
            self.stack.refuse_frame(self.now, DropReason::BadChecksum);
            return self.ring.release(whole.buf);
        }
        let at = self.shrink(frame);
        let bytes = self.ring.arena().bytes(at);
        record(&mut self.pcap, [bytes].into_iter());
        self.stack.handle_frame(self.now, FrameMeta { gso: rx.gso }, bytes, at);
        // Behind it: the first frame of a flow is to be known as the flow's. Nothing is released before actions are
        // carried out.
        if !self.captures.is_empty() {
            let bytes = self.ring.arena().bytes(at);
            self.captures.record(&self.stack, &self.sockets, Way::FromGuest, [bytes].into_iter());
        }
    }

    /// Moves a short run of bytes to a small slot, if one is free.
    pub(super) fn shrink(&mut self, span: Span) -> Span {
        if span.len as usize > SMALL_SLOT {
            return span;
        }
        let arena = self.ring.arena_mut();
        let Some(small) = arena.alloc(Class::Small) else { return span };
        let to = Span::new(small, 0, span.len);
        arena.copy(span, to);
        self.ring.release(span.buf);
        to
    }

    pub(super) fn emit(&mut self, emit: &Emit) {
        if self.pcap.is_some() {
            let arena = self.ring.arena();
            let parts = std::iter::once(&emit.head[..]).chain(emit.spans.iter().map(|s| arena.bytes(*s)));
            record(&mut self.pcap, parts);
        }
        if !self.captures.is_empty() {
            let arena = self.ring.arena();
            let parts = std::iter::once(&emit.head[..]).chain(emit.spans.iter().map(|s| arena.bytes(*s)));
            self.captures.record(&self.stack, &self.sockets, Way::ToGuest, parts);
        }
        let payload_len = emit.payload_len();
        if segment::needs_software(&self.caps, &emit.head, payload_len, emit.csum, emit.gso) {
            return self.emit_in_software(emit);
        }
        let fd = self.tap.fd.as_fd();
        let header = vnet::encode(&emit.head, payload_len, emit.csum, emit.gso);
        let header = if self.tap.vnet { &header[..] } else { &[] };
        self.ring.write_frame(fd, header, &emit.head, &emit.spans, Tag::TapWrite);
    }

    fn emit_in_software(&mut self, emit: &Emit) {
        self.gathered.clear();
        for span in &emit.spans {
            self.gathered.extend_from_slice(self.ring.arena().bytes(*span));
        }
        let (ring, fd, vnet_used) = (&mut self.ring, self.tap.fd.as_fd(), self.tap.vnet);
        let mut write = |header: &[u8], frame: &[u8]| {
            let mut bytes = Vec::with_capacity(header.len() + frame.len());
            if vnet_used {
                bytes.extend_from_slice(header);
            }
            bytes.extend_from_slice(frame);
            ring.write_bytes(fd, bytes, Tag::TapWrite);
        };
        let cut = segment::cut(
            &emit.head,
            &self.gathered,
            emit.csum,
            emit.gso,
            &self.caps,
            &mut self.scratch,
            &mut write,
        );
        if let Err(e) = cut {
            debug!("segmenting in software: {e}");
            self.stack.count_drop(why(&e));
        }
    }

    pub(super) fn emit_bytes(&mut self, frame: Vec<u8>) {
        record(&mut self.pcap, [&frame[..]].into_iter());
        self.captures.record(&self.stack, &self.sockets, Way::ToGuest, [&frame[..]].into_iter());
        let fd = self.tap.fd.as_fd();
        if self.tap.vnet {
            // All zeroes: nothing left to do.
            let mut bytes = Vec::with_capacity(vnet::LEN + frame.len());
            bytes.resize(vnet::LEN, 0);
            bytes.extend_from_slice(&frame);
            self.ring.write_bytes(fd, bytes, Tag::TapWrite);
        } else {
            self.ring.write_bytes(fd, frame, Tag::TapWrite);
        }
    }

    pub(super) fn on_tap_written(&mut self, c: &Completion<Tag>) {
        // EIO: the device is down; the frame is lost as it would be on any link. Anything else is worth a line.
        if let Err(e) = c.result
            && e != Errno::EIO
        {
            debug!("writing to the tap: {e}");
        }
    }

    /// Puts the parts of a reassembled packet together and hands it back as a frame.
    pub(super) fn inject(&mut self, head: &[u8], spans: &[Span]) {
        let len = head.len() + spans.iter().map(|s| s.len as usize).sum::<usize>();
        let arena = self.ring.arena_mut();
        let class = if len <= SMALL_SLOT { Class::Small } else { Class::Tap };
        let Some(buf) = arena.alloc(class) else {
            return self.stack.count_drop(DropReason::NoRoom);
        };
        let whole = Span::new(buf, 0, len as u32);
        arena.bytes_mut(whole.take(head.len() as u32)).copy_from_slice(head);
        let mut rest = whole.skip(head.len() as u32);
        for span in spans {
            arena.copy(*span, rest.take(span.len));
            rest = rest.skip(span.len);
        }
        if !frame_is_sound(arena.bytes(whole)) {
            self.stack.count_drop(DropReason::BadChecksum);
            return self.ring.release(buf);
        }
        let bytes = self.ring.arena().bytes(whole);
        self.stack.handle_whole(self.now, FrameMeta { gso: Gso::None }, bytes, whole);
    }

    pub(super) fn flush_pcap(&mut self) {
        if let Some(pcap) = &mut self.pcap
            && let Err(e) = pcap.flush()
        {
            warn!("the capture ends here: {e}");
            self.pcap = None;
        }
    }
}

/// As what a frame counts that cannot be cut.
fn why(e: &CutError) -> DropReason {
    match e {
        CutError::TooBig { .. } => DropReason::TooLong,
        CutError::Head => DropReason::Malformed,
    }
}

/// Records a frame in the capture, if there is one; the first error ends it.
fn record<'a>(pcap: &mut Option<Pcap>, parts: impl Iterator<Item = &'a [u8]> + Clone) {
    if let Some(open) = pcap
        && let Err(e) = open.frame(parts)
    {
        warn!("the capture ends here: {e}");
        *pcap = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::{Limits, Stack};

    /// The stack emits none such: its segments follow the MTU, and what else it emits may be fragmented. So no traffic of a
    /// guest's makes one.
    #[test]
    fn a_frame_that_may_not_be_cut_and_has_to_be_is_counted_as_too_long() {
        let (from, to) = ("10.0.2.2:9".parse().unwrap(), "10.0.2.100:9".parse().unwrap());
        let caps =
            segment::Caps { vnet: false, csum: false, tso4: false, tso6: false, uso: false, mtu: 1500 };
        let mut stack = Stack::new(Default::default(), Default::default(), Limits::default(), [7; 32]);
        for (len, dropped) in [(1472, 0), (1473, 1), (3000, 2)] {
            let frame = crate::wire::udp::frame([2; 6], [4; 6], from, to, &vec![0; len]);
            let (head, payload) = frame.split_at(42);
            let scratch = &mut segment::Scratch::default();
            let cut = segment::cut(head, payload, None, Gso::None, &caps, scratch, &mut |_, _| {});
            if let Err(e) = cut {
                stack.count_drop(why(&e));
            }
            assert_eq!(stack.counters().dropped(DropReason::TooLong), dropped);
        }
        assert_eq!(why(&CutError::Head), DropReason::Malformed);
    }
}
