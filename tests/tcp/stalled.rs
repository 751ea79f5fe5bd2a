//! A thousand connections whose server never reads, written to byte by byte: they must not slow another one, and lose
//! nothing of what they carry.

use crate::common::{PATIENCE, SERVER, World};
use crate::room_for;
use ringtap::lab::serve::{fill_pattern, judge};
use ringtap::lab::{Guest, Server};
use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const STALLED: u16 = 9400;
const BUSY: u16 = 9401;
const BULK: usize = 64 << 20;
/// More than the sockets behind the program hold.
const FILL: usize = 12 << 10;
const SINGLE_BYTES: usize = 100;

/// A writer of the pattern that takes no for an answer.
struct Writer {
    stream: TcpStream,
    written: usize,
}

impl Writer {
    fn write(&mut self, count: usize) {
        let mut bytes = vec![0; count];
        fill_pattern(self.written as u64, &mut bytes);
        match self.stream.write(&bytes) {
            Ok(n) => self.written += n,
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
}

/// The time of one transfer each way.
fn transfer(guest: &Guest) -> Duration {
    let start = Instant::now();
    let mut stream = guest.place().tcp_connect((SERVER[0], BUSY)).unwrap();
    let mut bytes = vec![0; 256 << 10];
    for _ in 0..BULK / bytes.len() {
        stream.write_all(&bytes).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut got = 0;
    loop {
        match stream.read(&mut bytes).unwrap() {
            0 => break,
            n => got += n,
        }
    }
    assert_eq!(got, BULK);
    start.elapsed()
}

#[test]
fn one_byte_writers_to_a_server_that_never_reads_slow_nobody() {
    let world = World::new();
    let guest = world.guest();
    let count = room_for(1000, 2);
    let busy = world.lab.internet().tcp_listener((SERVER[0], BUSY)).unwrap();
    let _busy = Server::tcp(busy, |mut stream, _| {
        let mut bytes = vec![0; 256 << 10];
        while stream.read(&mut bytes)? > 0 {}
        (0..BULK / bytes.len()).try_for_each(|_| stream.write_all(&bytes))
    });
    let alone = (0..3).map(|_| transfer(&guest)).min().unwrap();

    // Small buffers in both sockets of the path behind the program, for the stalled ones only.
    let listener = world.lab.internet().tcp_listener((SERVER[0], STALLED)).unwrap();
    SockRef::from(&listener).set_recv_buffer_size(2304).unwrap();
    world.lab.host().sysctl("net/ipv4/tcp_wmem", "4096 4096 4096").unwrap();
    let (mut writers, readers): (Vec<_>, Vec<_>) = (0..count)
        .map(|_| {
            let stream = guest.place().tcp_connect((SERVER[0], STALLED)).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_nonblocking(true).unwrap();
            (Writer { stream, written: 0 }, listener.accept().unwrap().0)
        })
        .unzip();
    writers.iter_mut().for_each(|w| w.write(FILL));
    for _ in 0..SINGLE_BYTES {
        writers.iter_mut().for_each(|w| w.write(1));
    }
    world.lab.host().sysctl("net/ipv4/tcp_wmem", "4096 16384 4194304").unwrap();

    for (w, reader) in writers.iter().zip(&readers) {
        let there = reader.peek(&mut [0; 2 * FILL]).unwrap();
        assert!(there < w.written, "not stalled: all {there} bytes have arrived");
    }

    let done = AtomicBool::new(false);
    let crowded = std::thread::scope(|scope| {
        scope.spawn(|| {
            // A failure below must not leave this going for ever.
            let end = Instant::now() + PATIENCE;
            while !done.load(Ordering::Relaxed) && Instant::now() < end {
                for w in &mut writers {
                    w.write(1);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        // The machine may be busy with other things for a while.
        let mut best = Duration::MAX;
        for _ in 0..8 {
            best = best.min(transfer(&guest));
            if best <= 2 * alone {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        best
    });
    assert!(crowded <= 2 * alone, "{alone:?} alone, {crowded:?} beside {count} stalled connections");

    std::thread::scope(|scope| {
        for (w, mut reader) in writers.iter().zip(readers).take(10) {
            w.stream.shutdown(Shutdown::Write).unwrap();
            scope.spawn(move || {
                reader.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                assert_eq!(judge(&mut reader).unwrap(), format!("{} bytes sound\n", w.written));
            });
        }
    });
}
