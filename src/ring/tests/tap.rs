//! Frames of a real tap, in a namespace of the test's own: read by both readers, written with a virtio-net header.

use super::*;
use crate::tap::Tap;
use crate::tap::tests::{ensure, in_namespace, say, up};

/// Like `next`, without panicking in a forked child.
fn next_or(ring: &mut TestRing, what: &str) -> Result<Completion<u32>, String> {
    for _ in 0..300 {
        if let Some(done) = ring.completion() {
            return Ok(done);
        }
        ring.wait(Some(Duration::from_millis(10))).map_err(say)?;
    }
    Err(format!("no completion while {what}"))
}

/// Reads what the guest's kernel says by itself when its link comes up (IPv6), and has it take a frame.
fn frames_of_a_tap(frame_reads: FrameReads) -> Result<(), String> {
    let tap = Tap::create("tap0").map_err(say)?;
    let mut ring: TestRing = Ring::new(RingConfig { frame_reads, ..config() }).map_err(say)?;
    let reads = ring.read_frames(tap.as_fd(), 1);
    ring.submit().map_err(say)?;
    up(&tap.name)?;
    for _ in 0..2 {
        let done = next_or(&mut ring, "reading")?;
        ensure(done.more && done.op == reads, "the reads ended")?;
        let span = done.data.span().ok_or_else(|| format!("no frame: {done:?}"))?;
        ensure(ring.arena().bytes(span)[24..26] == [0x86, 0xdd], "no IPv6 frame behind the header")?;
        ring.release(span.buf);
    }
    // A header, an Ethernet header of a type that nobody listens to, and payload.
    let payload = fill(&mut ring, &[0; 64]);
    let ethernet = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    ring.write_frame(tap.as_fd(), &[0; 12], &ethernet, &[payload], 2);
    // Rejected for its header: needs a checksum beyond the end of the frame.
    ring.write_frame(tap.as_fd(), &[1, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], &ethernet, &[payload], 3);
    ring.release(payload.buf);
    let mut written = Vec::new();
    while written.len() < 2 {
        let done = next_or(&mut ring, "writing")?;
        match done.data.span() {
            Some(span) => ring.release(span.buf),
            None => written.push((done.tag, done.result)),
        }
    }
    ensure(written == [(2, Ok(90)), (3, Err(Errno::EINVAL))], &format!("{written:?}"))?;
    ensure(ring.shutdown_all() && ring.buffers_available(Class::Tap) == 4, "something was not given back")
}

#[test]
fn a_tap_is_read_by_multishot_reads() {
    in_namespace(|| frames_of_a_tap(FrameReads::Multishot));
}

#[test]
fn a_tap_is_read_by_single_reads() {
    in_namespace(|| frames_of_a_tap(FrameReads::Single));
}
