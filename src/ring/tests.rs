//! The ring against real sockets and pipes: every test checks at its end that all buffers are back.

use super::*;
use crate::buf::{ArenaConfig, Span};
use nix::poll::PollFlags;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

mod messages;
mod pressure;
mod tap;

type TestRing = Ring<u32>;

fn config() -> RingConfig {
    RingConfig {
        entries: 8,
        cq_entries: 32,
        arena: ArenaConfig { tap: 4, host: 4, small: 16, relay: 4, message: 4 },
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

/// Nothing more completes within a moment.
fn quiet(ring: &mut TestRing) {
    ring.wait(Some(Duration::from_millis(30))).unwrap();
    assert!(ring.completion().is_none());
}

/// All slots are free or lent, nothing is in flight, nobody miscounted.
fn assert_all_back(ring: &TestRing) {
    assert_eq!(ring.inflight(), 0);
    for class in Class::ALL {
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

#[test]
fn a_frame_is_one_write_of_header_and_spans() {
    let mut ring = ring();
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let (a, b) = (fill(&mut ring, b"payload "), fill(&mut ring, b"in parts"));
    let op = ring.write_frame(ours.as_fd(), &[0; 12], b"head", &[a, b.take(0), b], 3);
    ring.release(a.buf);
    ring.release(b.buf);
    let done = next(&mut ring);
    assert_eq!((done.tag, done.op, done.result, done.more), (3, op, Ok(32), false));
    ring.write_bytes(ours.as_fd(), b"whole".to_vec(), 4);
    assert_eq!(next(&mut ring).result, Ok(5));
    let mut got = [0; 64];
    assert_eq!(theirs.recv(&mut got).unwrap(), 32);
    assert_eq!(&got[..12], &[0; 12]);
    assert_eq!(&got[12..32], b"headpayload in parts");
    assert_eq!(theirs.recv(&mut got).unwrap(), 5);
    assert_all_back(&ring);
}

#[test]
fn a_long_head_and_many_spans_spill_and_still_arrive() {
    let mut ring = ring();
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let span = fill(&mut ring, b"0123456789");
    let spans: Vec<Span> = (0..100).map(|i| span.skip(i % 10).take(1)).collect();
    let head = [b'h'; 200];
    ring.write_frame(ours.as_fd(), &[], &head, &spans, 1);
    assert_eq!(ring.arena().references(span.buf), 101);
    ring.release(span.buf);
    assert_eq!(next(&mut ring).result, Ok(300));
    let mut got = [0; 400];
    assert_eq!(theirs.recv(&mut got).unwrap(), 300);
    assert_eq!(&got[195..215], b"hhhhh012345678901234");
    assert_all_back(&ring);
}

/// Frames by either way of reading them: they arrive, a cancellation ends them, buffers come back.
fn frames(frame_reads: FrameReads) {
    let mut ring: TestRing = Ring::new(RingConfig { frame_reads, ..config() }).unwrap();
    assert_eq!(ring.granted().frame_reads, frame_reads, "this kernel has no multishot read");
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let op = ring.read_frames(ours.as_fd(), 9);
    ring.submit().unwrap();
    for i in 0..20u8 {
        theirs.send(&[i; 100]).unwrap();
        theirs.send(&[i; 50]).unwrap();
        for len in [100, 50] {
            let done = next(&mut ring);
            assert_eq!((done.tag, done.op, done.more, done.result), (9, op, true, Ok(len)));
            let bytes = take(&mut ring, &done);
            assert_eq!(bytes, vec![i; len as usize]);
        }
    }
    ring.cancel(op);
    let done = next(&mut ring);
    assert_eq!((done.op, done.result, done.more), (op, Err(Errno::ECANCELED), false));
    quiet(&mut ring);
    // A frame that has been read but not taken yet does not keep a cancelled descriptor going.
    let op = ring.read_frames(ours.as_fd(), 10);
    ring.submit().unwrap();
    theirs.send(b"late").unwrap();
    ring.submit().unwrap();
    ring.cancel_fd(ours.as_fd());
    loop {
        let done = next(&mut ring);
        assert_eq!(done.op, op);
        if done.data.span().is_some() {
            assert_eq!(take(&mut ring, &done), b"late");
        }
        if !done.more {
            break;
        }
    }
    theirs.send(b"too late").unwrap();
    quiet(&mut ring);
    assert_all_back(&ring);
}

#[test]
fn frames_by_multishot_reads() {
    frames(FrameReads::Multishot);
}

#[test]
fn frames_by_single_reads() {
    frames(FrameReads::Single);
}

#[test]
fn single_reads_go_on_after_want_of_slots() {
    let mut ring: TestRing = Ring::new(RingConfig { frame_reads: FrameReads::Single, ..config() }).unwrap();
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ring.read_frames(ours.as_fd(), 1);
    ring.submit().unwrap();
    for i in 0..6u8 {
        theirs.send(&[i]).unwrap();
    }
    let mut held = Vec::new();
    loop {
        let done = next(&mut ring);
        held.extend(done.data.span());
        if !done.more {
            assert_eq!(done.result, Err(Errno::ENOBUFS));
            break;
        }
    }
    assert_eq!((held.len(), ring.buffers_available(Class::Tap)), (4, 0));
    for span in held {
        ring.release(span.buf);
    }
    let op = ring.read_frames(ours.as_fd(), 2);
    for expected in [4, 5] {
        let done = next(&mut ring);
        assert_eq!(take(&mut ring, &done), [expected]);
    }
    ring.cancel(op);
    assert_eq!(next(&mut ring).result, Err(Errno::ECANCELED));
    assert_all_back(&ring);
}

#[test]
fn connects_and_accepts() {
    let mut ring = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let accepts = ring.accept(listener.as_fd(), 1);
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    client.set_nonblocking(true).unwrap();
    ring.connect(client.as_fd(), address, 2);
    let (mut accepted, mut connected) = (None, false);
    while accepted.is_none() || !connected {
        let done = next(&mut ring);
        match (done.tag, done.data) {
            (1, Data::Fd(fd)) => {
                assert!(done.more);
                accepted = Some(std::net::TcpStream::from(fd));
            }
            (2, Data::None) => {
                assert_eq!((done.result, done.more), (Ok(0), false));
                connected = true;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(accepted.unwrap().peer_addr().unwrap(), client.local_addr().unwrap().as_socket().unwrap());
    ring.cancel(accepts);
    assert_eq!(next(&mut ring).result, Err(Errno::ECANCELED));
    drop(listener);
    let late = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    late.set_nonblocking(true).unwrap();
    ring.connect(late.as_fd(), address, 3);
    assert_eq!(next(&mut ring).result, Err(Errno::ECONNREFUSED));
    assert_all_back(&ring);
}

#[test]
fn polls_once_or_many_times() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ring.poll(ours.as_fd(), PollFlags::POLLOUT, false, 1);
    let done = next(&mut ring);
    assert_eq!((done.result, done.more), (Ok(PollFlags::POLLOUT.bits() as u32), false));
    let op = ring.poll(ours.as_fd(), PollFlags::POLLIN, true, 2);
    ring.submit().unwrap();
    for _ in 0..3 {
        theirs.write_all(b"x").unwrap();
        let done = next(&mut ring);
        assert!(done.more && done.result.unwrap() & PollFlags::POLLIN.bits() as u32 != 0);
    }
    ring.cancel(op);
    let done = next(&mut ring);
    assert_eq!((done.result, done.more), (Err(Errno::ECANCELED), false));
    assert_all_back(&ring);
}

#[test]
fn a_shutdown_follows_the_send_queued_before_it() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let span = fill(&mut ring, b"last words");
    ring.send(ours.as_fd(), &[span], 1);
    let op = ring.shutdown(ours.as_fd(), Shutdown::Write, 2);
    ring.release(span.buf);
    let mut ended = [next(&mut ring), next(&mut ring)];
    ended.sort_by_key(|done| done.tag);
    assert_eq!((ended[0].result, ended[1].result, ended[1].op), (Ok(10), Ok(0), op));
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"last words");
    ring.shutdown(std::io::stdin().as_fd(), Shutdown::Write, 3);
    assert_eq!(next(&mut ring).result, Err(Errno::ENOTSOCK));
    assert_all_back(&ring);
}

#[test]
fn waiting_ends_in_time_and_not_before() {
    let mut ring = ring();
    let start = Instant::now();
    ring.wait(Some(Duration::from_millis(40))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(40), "{:?}", start.elapsed());
    assert!(ring.completion().is_none());
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ring.receive(ours.as_fd(), 1);
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        theirs.write_all(b"x").unwrap();
        theirs
    });
    ring.wait(None).unwrap();
    let done = ring.completion().unwrap();
    assert_eq!(take(&mut ring, &done), b"x");
    drop(writer.join().unwrap());
    // With a completion at hand it does not wait at all.
    ring.submit().unwrap();
    ring.wait(None).unwrap();
    assert_eq!(ring.completion().unwrap().result, Ok(0));
    assert_all_back(&ring);
}

#[test]
fn what_was_not_allowed_is_refused_by_the_kernel() {
    let mut ring = ring();
    let nowhere = std::ptr::null();
    let all = [
        opcode::Nop::new().build(),
        opcode::OpenAt::new(io_uring::types::Fd(libc::AT_FDCWD), c"/".as_ptr()).build(),
        opcode::Socket::new(libc::AF_UNIX, libc::SOCK_STREAM, 0).build(),
        opcode::ProvideBuffers::new(std::ptr::null_mut(), 0, 0, 0, 0).build(),
        opcode::MsgRingData::new(io_uring::types::Fd(0), 0, 0, None).build(),
        opcode::Statx::new(io_uring::types::Fd(libc::AT_FDCWD), nowhere, std::ptr::null_mut()).build(),
        // An operation that is allowed, with a flag that is not.
        opcode::PollAdd::new(io_uring::types::Fd(0), 0).build().flags(squeue::Flags::ASYNC),
    ];
    for (n, entry) in all.iter().enumerate() {
        ring.push(&entry.clone().user_data(n as u64)).unwrap();
        ring.submit().unwrap();
        let done = ring.uring.completion().next().unwrap();
        assert_eq!((done.user_data(), done.result()), (n as u64, -libc::EACCES));
    }
    // Nor can the list be changed any more.
    let mut more = [io_uring::register::Restriction::sqe_op(opcode::Nop::CODE)];
    let refused = ring.uring.submitter().register_restrictions(&mut more).unwrap_err();
    assert!(matches!(refused.raw_os_error(), Some(libc::EACCES | libc::EBADFD)), "{refused}");
}
