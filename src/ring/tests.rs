//! The ring against real sockets and pipes: every test checks at its end that all buffers are back.

use super::*;
use crate::buf::{ArenaConfig, Span};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

type TestRing = Ring<u32>;

fn config() -> RingConfig {
    RingConfig {
        entries: 8,
        cq_entries: 32,
        arena: ArenaConfig { tap: 4, host: 4, small: 16 },
        ops: 64,
        ..RingConfig::default()
    }
}

fn ring() -> TestRing {
    Ring::new(config()).unwrap()
}

/// The next completion, waiting for it for five seconds at most.
fn next(ring: &mut TestRing) -> Completion<u32> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(done) = ring.completion() {
            return done;
        }
        assert!(Instant::now() < deadline, "no completion; in flight: {}", ring.inflight());
        ring.wait(Some(Duration::from_millis(100))).unwrap();
    }
}

/// All slots are free or lent, nothing is in flight, nobody miscounted.
fn assert_all_back(ring: &TestRing) {
    assert_eq!(ring.inflight(), 0);
    for class in [Class::Tap, Class::Host, Class::Small] {
        assert_eq!(ring.buffers_available(class), ring.buffers_total(class), "{class:?}");
    }
    assert_eq!((ring.arena().counters().stray, ring.counters().stale), (0, 0));
}

fn fill(ring: &mut TestRing, bytes: &[u8]) -> Span {
    let id = ring.arena_mut().alloc(Class::Small).unwrap();
    let span = Span::new(id, 10, bytes.len() as u32);
    ring.arena_mut().bytes_mut(span).copy_from_slice(bytes);
    span
}

/// Takes the bytes of a completion and releases its buffer.
fn take(ring: &mut TestRing, done: &Completion<u32>) -> Vec<u8> {
    let span = done.data.span().unwrap_or_else(|| panic!("no data: {done:?}"));
    assert_eq!(ring.arena().references(span.buf), 1);
    let bytes = ring.arena().bytes(span).to_vec();
    ring.release(span.buf);
    bytes
}

#[test]
fn says_what_was_granted_in_one_line() {
    let ring = ring();
    let line = ring.granted().to_string();
    assert!(line.starts_with("io_uring 8/32, deferred task work"), "{line}");
    assert!(!line.contains('\n'));
    assert_all_back(&ring);
}

#[test]
fn receives_a_stream_until_its_end() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let op = ring.receive(ours.as_fd(), 7);
    ring.submit().unwrap();
    for text in [&b"one"[..], b"two"] {
        theirs.write_all(text).unwrap();
        let done = next(&mut ring);
        assert_eq!((done.tag, done.op, done.more), (7, op, true));
        assert_eq!(done.result, Ok(3));
        assert_eq!(take(&mut ring, &done), text);
    }
    drop(theirs);
    let done = next(&mut ring);
    assert_eq!((done.result, done.more, done.data.span()), (Ok(0), false, None));
    assert_all_back(&ring);
}

#[test]
fn sends_gathered_spans_and_holds_them_until_sent() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let spans: Vec<Span> = (0..12).map(|i| fill(&mut ring, &[b'a' + i; 3])).collect();
    ring.send(ours.as_fd(), &spans, 1);
    for span in &spans {
        assert_eq!(ring.arena().references(span.buf), 2);
        ring.release(span.buf);
        assert_eq!(ring.arena().references(span.buf), 1);
    }
    assert_eq!(next(&mut ring).result, Ok(36));
    let mut got = [0; 36];
    theirs.read_exact(&mut got).unwrap();
    assert_eq!(&got[..6], b"aaabbb");
    assert_eq!(&got[33..], b"lll");
    assert_all_back(&ring);
}
