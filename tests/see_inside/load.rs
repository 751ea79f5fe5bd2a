//! Asking costs the plane a bounded part of its time, whoever asks and however often.

use crate::common::World;
use crate::pid;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// `RATE` and `BURST` of control::api::pace.
const RATE: f64 = 64.0;
const BURST: f64 = 64.0;

#[test]
fn clients_that_never_stop_asking_are_answered_so_many_times_a_second_and_others_still_are() {
    let world = World::new();
    let mut guest = world.guest();
    let socket = world.lab.dir().join(format!("user-run/ringtap/{}/api.sock", pid(&mut guest)));
    let answered = AtomicU64::new(0);
    let start = Instant::now();
    let end = start + Duration::from_secs(2);
    let ask = |stream: &mut UnixStream, path: &str| {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    };
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut stream = UnixStream::connect(&socket).unwrap();
                while Instant::now() < end {
                    ask(&mut stream, "/ringtap/v1/flows");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Twenty before it in the queue: a fraction of a second, and no more.
        std::thread::sleep(Duration::from_millis(700));
        let mut stream = UnixStream::connect(&socket).unwrap();
        let asked = Instant::now();
        ask(&mut stream, "/ringtap/v1/stats");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        // What the plane is not asked for does not wait.
        ask(&mut stream, "/ringtap/v1/instance");
    });
    let most = BURST + RATE * start.elapsed().as_secs_f64() + 1.0;
    let answered = answered.load(Ordering::Relaxed) as f64;
    assert!(answered <= most, "{answered} answers, {most} at most");
    assert!(answered > BURST, "{answered}");
}

#[test]
fn captures_begin_no_oftener_than_questions_are_asked() {
    let world = World::new();
    let mut guest = world.guest();
    let socket = world.lab.dir().join(format!("user-run/ringtap/{}/api.sock", pid(&mut guest)));
    let (start, mut begun) = (Instant::now(), 0.0);
    while start.elapsed() < Duration::from_secs(2) {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let request = "POST /ringtap/v1/capture HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 101");
        begun += 1.0;
    }
    let most = BURST + RATE * start.elapsed().as_secs_f64() + 1.0;
    assert!(begun > BURST && begun <= most, "{begun} captures, {most} at most");
}
