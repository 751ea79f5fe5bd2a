//! The reactor: a message there and back, and moving bulk by copying and by splicing.

use criterion::{BenchmarkId, Criterion, Throughput};
use nix::poll::PollFlags;
use ringtap::buf::{ArenaConfig, Span};
use ringtap::ring::{Completion, Data, Link, Pipe, Pipes, Ring, RingConfig};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

/// Long beyond what any operation takes.
const PATIENCE: Duration = Duration::from_secs(5);

fn ring() -> Ring<u32> {
    let arena = ArenaConfig { tap: 8, host: 64, small: 64, relay: 0, message: 64 };
    Ring::new(RingConfig { arena, ..RingConfig::default() }).expect("a ring; io_uring must be allowed here")
}

/// A connection over loopback, both ends non-blocking for the ring, and large buffers.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback is there");
    let near = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    let (far, _) = listener.accept().expect("it was dialled");
    for end in [&near, &far] {
        end.set_nodelay(true).expect("TCP");
        let socket = socket2::SockRef::from(end);
        socket.set_send_buffer_size(4 << 20).expect("it takes any size");
        socket.set_recv_buffer_size(4 << 20).expect("it takes any size");
    }
    (near, far)
}

/// The next completion, however long it takes.
fn next(ring: &mut Ring<u32>) -> Completion<u32> {
    loop {
        if let Some(done) = ring.completion() {
            return done;
        }
        ring.wait(Some(PATIENCE)).expect("the ring works");
    }
}

/// What arrived, of a multishot receive.
fn received(ring: &mut Ring<u32>) -> Span {
    loop {
        match next(ring).data {
            Data::Span(span) => return span,
            _ => continue,
        }
    }
}

/// A small message out of one socket, into another and back, both ends on one ring: two sends, two receives.
pub fn round_trip(c: &mut Criterion) {
    let mut ring = ring();
    let (a, b) = pair();
    for end in [&a, &b] {
        end.set_nonblocking(true).expect("a socket");
        ring.receive(end.as_fd(), 0);
    }
    // The first span, to have something to send.
    (&a).write_all(&[7; 64]).expect("there is room");
    let mut span = received(&mut ring);
    c.bench_function("ring round trip, 64 B", |bench| {
        bench.iter(|| {
            for end in [&b, &a] {
                ring.send(end.as_fd(), &[span], 1);
                let next = received(&mut ring);
                ring.release(span.buf);
                span = next;
            }
        });
    });
    ring.release(span.buf);
}

/// From one connection to another, by size: received into memory and sent, spliced by the ring's entries, spliced by calls.
pub fn bulk(c: &mut Criterion) {
    let mut group = c.benchmark_group("splice versus copy");
    for size in [1usize << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10] {
        group.throughput(Throughput::Bytes(size as u64));
        let bytes = vec![0x5a; size];
        let ((mut source, from), (to, mut sink)) = (pair(), pair());
        from.set_nonblocking(true).expect("a socket");
        to.set_nonblocking(true).expect("a socket");
        let mut drained = vec![0; size];
        // What both do besides: the kernel's copies at either end.
        let mut around = |between: &mut dyn FnMut(usize)| {
            source.write_all(&bytes).expect("there is room");
            between(size);
            sink.read_exact(&mut drained).expect("it was moved");
        };
        let mut copying = ring();
        copying.receive(from.as_fd(), 0);
        group.bench_function(BenchmarkId::new("copy", size), |b| {
            b.iter(|| {
                around(&mut |size| {
                    let mut moved = 0;
                    while moved < size {
                        let span = received(&mut copying);
                        moved += span.len as usize;
                        copying.send(to.as_fd(), &[span], 1);
                        copying.release(span.buf);
                    }
                    copying.submit().expect("the ring works");
                });
            });
        });
        copying.cancel_fd(from.as_fd());
        copying.shutdown_all();
        let mut splicing = ring();
        let mut pipes = Pipes::new(1, ringtap::ring::pipes::PIPE_BYTES);
        let pipe = pipes.take().expect("one pipe");
        group.bench_function(BenchmarkId::new("splice entries", size), |b| {
            b.iter(|| around(&mut |size| entries(&mut splicing, &pipe, (&from, &to), size)));
        });
        group.bench_function(BenchmarkId::new("splice calls", size), |b| {
            b.iter(|| {
                around(&mut |size| {
                    let mut left = size as u32;
                    while left > 0 {
                        // Loopback delivers before the write returns.
                        let n = pipe.fill(from.as_fd(), left).expect("it has arrived");
                        let mut inside = n;
                        while inside > 0 {
                            inside -= pipe.drain(to.as_fd(), inside).expect("there is room");
                        }
                        left -= n;
                    }
                });
            });
        });
        pipes.put_back(pipe, true);
        assert!(splicing.shutdown_all());
    }
    group.finish();
}

/// Moves `size` bytes by chains of two: into the pipe, and out of it.
fn entries(ring: &mut Ring<u32>, pipe: &Pipe, (from, to): (&TcpStream, &TcpStream), size: usize) {
    let (mut left, mut inside) = (size as u32, 0u32);
    while left > 0 || inside > 0 {
        if inside == 0 {
            let fill = Link::Splice { from: from.as_fd(), to: pipe.write_end(), len: left };
            ring.chain(&[(Link::Poll(from.as_fd(), PollFlags::POLLIN), 0), (fill, 1)]);
            inside = finish(ring);
            left -= inside;
        }
        let drain = Link::Splice { from: pipe.read_end(), to: to.as_fd(), len: inside };
        ring.chain(&[(Link::Poll(to.as_fd(), PollFlags::POLLOUT), 0), (drain, 1)]);
        inside -= finish(ring);
    }
}

/// How much the second part of a chain moved.
fn finish(ring: &mut Ring<u32>) -> u32 {
    loop {
        let done = next(ring);
        if done.tag == 1 {
            return done.result.unwrap_or(0);
        }
    }
}
