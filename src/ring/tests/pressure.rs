//! Full queues, no buffers, cancellations, stale completions, and rings that go away in the middle.

use super::*;
use std::os::fd::OwnedFd;

fn pipes() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_CLOEXEC).unwrap()
}

#[test]
fn want_of_slots_is_told_and_cured() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ring.receive(ours.as_fd(), 1);
    ring.submit().unwrap();
    let mut held = Vec::new();
    let last = loop {
        theirs.write_all(b"x").unwrap();
        let done = next(&mut ring);
        held.extend(done.data.span());
        if !done.more {
            break done;
        }
    };
    assert_eq!((last.result, held.len()), (Err(Errno::ENOBUFS), 4));
    assert_eq!((ring.buffers_available(Class::Host), ring.counters().starved), (0, 1));
    for span in held {
        ring.release(span.buf);
    }
    assert_eq!(ring.buffers_available(Class::Host), 4);
    ring.receive(ours.as_fd(), 2);
    let done = next(&mut ring);
    assert_eq!((done.tag, take(&mut ring, &done)), (2, b"x".to_vec()));
    ring.cancel_fd(ours.as_fd());
    assert_eq!(next(&mut ring).result, Err(Errno::ECANCELED));
    assert_all_back(&ring);
}

#[test]
fn a_class_that_rests_lends_nothing_more_until_it_goes_on() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ring.receive(ours.as_fd(), 1);
    ring.submit().unwrap();
    ring.rest(Class::Host, true);
    // What is lent is filled, though each is given back at once.
    for n in 0..5 {
        theirs.write_all(b"x").unwrap();
        let done = next(&mut ring);
        if n < 4 {
            take(&mut ring, &done);
        } else {
            assert_eq!((done.result, done.more), (Err(Errno::ENOBUFS), false));
        }
    }
    ring.rest(Class::Host, false);
    ring.receive(ours.as_fd(), 2);
    let done = next(&mut ring);
    assert_eq!((done.tag, take(&mut ring, &done)), (2, b"x".to_vec()));
    ring.cancel_fd(ours.as_fd());
    assert_eq!(next(&mut ring).result, Err(Errno::ECANCELED));
    assert_all_back(&ring);
}

#[test]
fn some_slots_stay_for_the_caller() {
    let arena = ArenaConfig { tap: 8, host: 64, small: 1, relay: 0, message: 64 };
    let mut ring: TestRing = Ring::new(RingConfig { arena, ..config() }).unwrap();
    assert_eq!((ring.buffers_total(Class::Tap), ring.buffers_total(Class::Host)), (7, 32));
    let id = ring.arena_mut().alloc(Class::Host).unwrap();
    ring.release(id);
    assert_all_back(&ring);
}

#[test]
fn cancelling_gives_back_what_was_lent() {
    let mut ring = ring();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let span = fill(&mut ring, &[7; 4000]);
    let spans = vec![span; 1000];
    // Four megabytes fit no socket buffer: the first send is cut short, the second one waits.
    ring.send(ours.as_fd(), &spans, 1);
    let first = next(&mut ring);
    assert!(first.result.unwrap() < 4_000_000);
    let op = ring.send(ours.as_fd(), &spans, 2);
    quiet(&mut ring);
    assert_eq!(ring.arena().references(span.buf), 1001);
    ring.release(span.buf);
    ring.cancel(op);
    let done = next(&mut ring);
    assert_eq!((done.op, done.more), (op, false));
    assert_eq!(done.result, Err(Errno::ECANCELED));
    ring.cancel(op);
    quiet(&mut ring);
    assert_all_back(&ring);
}

#[test]
fn a_cancelled_descriptor_loses_all_its_operations() {
    let mut ring = ring();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let (other, _kept) = UnixStream::pair().unwrap();
    ring.receive(ours.as_fd(), 1);
    ring.poll(ours.as_fd(), PollFlags::POLLIN, true, 2);
    let stays = ring.receive(other.as_fd(), 3);
    ring.submit().unwrap();
    ring.cancel_fd(ours.as_fd());
    let mut tags = [next(&mut ring), next(&mut ring)].map(|done| {
        assert_eq!((done.result, done.more), (Err(Errno::ECANCELED), false));
        done.tag
    });
    tags.sort_unstable();
    assert_eq!((tags, ring.inflight()), ([1, 2], 1));
    ring.cancel(stays);
    assert_eq!(next(&mut ring).tag, 3);
    assert_all_back(&ring);
}

#[test]
fn a_completion_of_another_generation_is_dropped_and_counted() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let old = ring.poll(ours.as_fd(), PollFlags::POLLOUT, false, 1);
    assert_eq!(next(&mut ring).op, old);
    let new = ring.receive(ours.as_fd(), 2);
    assert_ne!(old, new);
    ring.submit().unwrap();
    assert!(ring.complete(old.user_data(Kind::Plain), 1, 0).is_none());
    assert_eq!((ring.counters().stale, ring.inflight()), (1, 1));
    // The operation that has the slot now is none the wiser.
    theirs.write_all(b"y").unwrap();
    let done = next(&mut ring);
    assert_eq!((done.tag, take(&mut ring, &done)), (2, b"y".to_vec()));
    // A descriptor that nobody waits for is closed.
    let (end, other) = pipes();
    let raw = std::os::fd::IntoRawFd::into_raw_fd(end);
    assert!(ring.complete(old.user_data(Kind::Accept), raw, 0).is_none());
    assert_eq!(nix::unistd::write(&other, b"z"), Err(Errno::EPIPE), "the reading end is closed");
}

#[test]
fn ten_thousand_operations_pass_through_eight_entries() {
    let mut ring: TestRing = Ring::new(RingConfig { ops: 1024, ..config() }).unwrap();
    let (reader, writer) = pipes();
    let (mut sent, mut done) = (0u32, 0u32);
    let mut sink = [0; 4096];
    let span = fill(&mut ring, b"payload.");
    while done < 10_000 {
        while sent < 10_000 && sent - done < 200 {
            ring.write_frame(writer.as_fd(), &[], b"head", &[span], sent);
            sent += 1;
        }
        ring.wait(Some(Duration::from_secs(1))).unwrap();
        while let Some(completion) = ring.completion() {
            assert_eq!((completion.result, completion.tag), (Ok(12), done), "in order, too");
            done += 1;
        }
        while nix::unistd::read(&reader, &mut sink).is_ok_and(|n| n > 0) {}
    }
    assert!(ring.counters().queue_full > 0 && ring.counters().submitted >= 10_000);
    assert_eq!(ring.slots.pool_len().max(200), 200, "blocks are reused");
    ring.release(span.buf);
    assert_all_back(&ring);
}

#[test]
fn completions_beyond_the_queue_are_not_lost() {
    let mut ring: TestRing = Ring::new(RingConfig { ops: 512, ..config() }).unwrap();
    let (_reader, writer) = pipes();
    for tag in 0..300 {
        ring.write_bytes(writer.as_fd(), vec![1], tag);
    }
    for _ in 0..3 {
        ring.submit().unwrap();
    }
    for tag in 0..300 {
        let done = next(&mut ring);
        assert_eq!((done.tag, done.result), (tag, Ok(1)));
    }
    assert_all_back(&ring);
}

#[test]
fn refusals_are_completions_too() {
    let mut ring: TestRing = Ring::new(RingConfig { ops: 1, ..config() }).unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let span = fill(&mut ring, b"x");
    let op = ring.receive(ours.as_fd(), 1);
    ring.send(ours.as_fd(), &[span], 2);
    let done = next(&mut ring);
    assert_eq!((done.tag, done.result, done.more), (2, Err(Errno::ENOMEM), false));
    ring.release(span.buf);
    ring.send(ours.as_fd(), &[span], 3);
    assert_eq!(next(&mut ring).result, Err(Errno::EFAULT), "the buffer is no longer owned");
    ring.cancel(done.op);
    ring.cancel(op);
    assert_eq!(next(&mut ring).tag, 1);
    assert_eq!(ring.counters().refused, 2);
    assert_all_back(&ring);
}

#[test]
fn trimming_spares_what_has_arrived() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ring.receive(ours.as_fd(), 1);
    ring.submit().unwrap();
    theirs.write_all(b"first").unwrap();
    let done = next(&mut ring);
    theirs.write_all(b"second").unwrap();
    ring.submit().unwrap();
    assert_eq!(ring.trim(), 0, "a completion is pending");
    let second = next(&mut ring);
    assert!(ring.trim() > 0);
    assert_eq!(take(&mut ring, &done), b"first");
    assert_eq!(take(&mut ring, &second), b"second");
    theirs.write_all(b"third").unwrap();
    let third = next(&mut ring);
    assert_eq!(take(&mut ring, &third), b"third", "trimmed slots still work");
    drop(theirs);
    assert_eq!(next(&mut ring).result, Ok(0));
    assert_all_back(&ring);
}

#[test]
fn a_ring_that_goes_away_ends_what_is_in_flight() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (frames, _sender) = UnixDatagram::pair().unwrap();
    for frame_reads in [FrameReads::Multishot, FrameReads::Single] {
        let mut ring: TestRing = Ring::new(RingConfig { frame_reads, ..config() }).unwrap();
        ring.receive(ours.as_fd(), 1);
        ring.read_frames(frames.as_fd(), 2);
        ring.poll(ours.as_fd(), PollFlags::POLLIN, true, 3);
        ring.submit().unwrap();
        let span = fill(&mut ring, &[1; 4000]);
        ring.send(ours.as_fd(), &vec![span; 1000], 4);
        ring.release(span.buf);
        (&theirs).write_all(b"unread").unwrap();
        assert!(ring.shutdown_all());
        assert_all_back(&ring);
        drop(ring);
        theirs.set_nonblocking(true).unwrap();
        let mut sink = [0; 65536];
        while (&theirs).read(&mut sink).is_ok_and(|n| n > 0) {}
    }
    // And without being asked to, with everything still in the queue.
    let mut ring = ring();
    ring.receive(ours.as_fd(), 1);
    ring.write_bytes(ours.as_fd(), vec![0; 100], 2);
    drop(ring);
}

#[test]
fn fewer_slots_are_lent_while_frames_are_long() {
    let arena = ArenaConfig { tap: 256, host: 4, small: 16, relay: 4, message: 4 };
    let mut ring: TestRing = Ring::new(RingConfig { arena, ..config() }).unwrap();
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    ring.read_frames(ours.as_fd(), 1);
    let mut carry = |len: usize| {
        for _ in 0..100 {
            theirs.send(&vec![7; len]).unwrap();
            let done = next(&mut ring);
            assert_eq!(done.result, Ok(len as u32));
            ring.release(done.data.span().unwrap().buf);
        }
        ring.submit().unwrap();
        ring.lending.of(Class::Tap).unwrap().lent()
    };
    assert_eq!((carry(100), carry(64 << 10), carry(1400)), (64, 16, 64));
    assert_eq!(ring.buffers_total(Class::Tap), 64);
    ring.cancel_fd(ours.as_fd());
    assert_eq!(next(&mut ring).result, Err(Errno::ECANCELED));
    assert_all_back(&ring);
}

#[test]
fn entries_completions_calls_and_full_queues_are_counted() {
    let mut ring = ring();
    let (reader, writer) = pipes();
    // The queue has eight places: the ninth and the seventeenth find it full.
    for n in 0..20 {
        ring.write_bytes(writer.as_fd(), b"x".to_vec(), n);
    }
    assert_eq!((ring.counters().queue_full, ring.counters().submitted, ring.inflight()), (2, 16, 20));
    ring.submit().unwrap();
    let c = ring.counters();
    assert_eq!((c.enters, c.submitted, c.queue_full), (3, 20, 2));
    for n in 0..20 {
        assert_eq!(next(&mut ring).tag, n);
    }
    assert_eq!((ring.counters().completed, ring.inflight()), (20, 0));
    drop(reader);
    assert_all_back(&ring);
}
