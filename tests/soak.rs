//! Mixed traffic for a while, and then nothing is left of it: flows, descriptors and memory are what they were.
//!
//! As a test it takes some twenty seconds; `perf/soak` runs it for an hour (`RINGTAP_SOAK_SECONDS`). Everything goes on side by
//! side: bulk both ways by the tap and by a published port, requests, names, datagrams, connections that end in every way,
//! ports that come and go. Every byte and every answer is checked. In the long form the level to compare with is taken after
//! a first part of the same, for tables grow to what is needed once.

mod common;

use common::{ECHO, HOST, PATIENCE, SERVER, World, both_ways};
use ringtap::bench::cost::pss;
use ringtap::lab::{Guest, Server};
use socket2::SockRef;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLOSED: u16 = 4444;
/// Free buffers go back ten seconds after the last traffic.
const SETTLE: Duration = Duration::from_secs(11);
/// A mapping of a datagram socket that is gone lives for four minutes.
const MAPPINGS: Duration = Duration::from_secs(245);
/// Pages that tables and the allocator keep.
const SLACK_MIB: f64 = 6.0;

/// What is to be flat.
#[derive(Clone, Copy, Debug)]
struct Level {
    flows: usize,
    descriptors: usize,
    mib: f64,
    buffers: u64,
}

struct Stand {
    world: World,
    guest: Guest,
    state: PathBuf,
    /// What was done, by kind.
    done: [AtomicU64; 8],
}

const KINDS: [&str; 8] = [
    "bulk by the tap",
    "bulk by a port",
    "requests by a port",
    "names",
    "datagrams",
    "datagrams by a port",
    "connections",
    "ports",
];

impl Stand {
    fn new() -> Self {
        let world = World::new();
        let mut command = world.ringtap(true);
        command.args(["run", "-p", "8080:80", "-p", "5353:53/udp", "--"]);
        command.args(["sh", "-c", "echo ready; exec sleep infinity"]).stdout(Stdio::piped());
        let mut running = world.lab.host().spawn(&mut command).unwrap();
        running.first_byte(PATIENCE).unwrap();
        let state = world.lab.dir().join("user-run/ringtap").join(running.pid().to_string());
        let guest = world.lab.guest_below(running, "sleep", PATIENCE).unwrap();
        Self { world, guest, state, done: Default::default() }
    }

    /// One request to the API: status and body.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = BufReader::new(UnixStream::connect(self.state.join("api.sock")).unwrap());
        stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.get_mut().write_all(text.as_bytes()).unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        (status, rest.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn level(&self) -> Level {
        let processes = self.guest.processes();
        let open = |pid: &u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        Level {
            flows: self.json("/ringtap/v1/flows")["flows"].as_array().unwrap().len(),
            descriptors: processes.iter().map(open).sum(),
            // Of the plane by root only.
            mib: pss(&processes).unwrap_or(0.0),
            buffers: self.json("/ringtap/v1/counters")["buffersHeld"].as_u64().unwrap(),
        }
    }

    fn count(&self, kind: usize) {
        self.done[kind].fetch_add(1, Ordering::Relaxed);
    }

    fn by_port(&self) -> TcpStream {
        self.world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap()
    }

    /// All kinds of traffic side by side; those that leave something behind for minutes end `early`.
    fn traffic(&self, time: Duration, early: Duration) {
        let end = Instant::now() + time;
        let repeat = |kind: usize, end: Instant, one: &mut dyn FnMut(u64)| {
            let mut n = 0;
            while Instant::now() < end {
                one(n);
                n += 1;
                self.count(kind);
            }
        };
        let guest = || self.guest.place();
        std::thread::scope(|scope| {
            for family in [0, 1] {
                scope.spawn(move || {
                    repeat(0, end, &mut |_| {
                        both_ways(guest().tcp_connect((SERVER[family], ECHO)).unwrap(), 4 << 20);
                    });
                });
            }
            scope.spawn(move || repeat(1, end, &mut |_| both_ways(self.by_port(), 8 << 20)));
            scope.spawn(move || {
                let mut stream = self.by_port();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                repeat(2, end, &mut |n| {
                    let request = vec![n as u8; 1 + (n as usize * 37) % 3000];
                    stream.write_all(&request).unwrap();
                    let mut answer = vec![0; request.len()];
                    stream.read_exact(&mut answer).unwrap();
                    assert!(answer == request);
                });
            });
            scope.spawn(move || {
                let socket = guest().udp_socket(([0, 0, 0, 0], 0)).unwrap();
                repeat(3, end, &mut |n| resolve(&socket, n as u16));
            });
            scope.spawn(move || {
                let kept = guest().udp_socket(([0, 0, 0, 0], 0)).unwrap();
                repeat(4, end, &mut |n| {
                    // A socket of its own now and then, while there is time for its mapping to end.
                    let fresh = (n % 50 == 0 && Instant::now() + early < end)
                        .then(|| guest().udp_socket(([0, 0, 0, 0], 0)).unwrap());
                    exchange(fresh.as_ref().unwrap_or(&kept), (SERVER[0], ECHO).into(), n);
                });
            });
            scope.spawn(move || {
                let kept = self.world.lab.internet().udp_socket(([198, 51, 100, 2], 0)).unwrap();
                repeat(5, end, &mut |n| exchange(&kept, (HOST[0], 5353).into(), n));
            });
            scope.spawn(move || repeat(6, end, &mut |n| churn(&self.guest, n)));
            scope.spawn(move || {
                repeat(7, end, &mut |n| {
                    let port = 20_000 + n % 1000;
                    let spec = format!(r#"{{"proto":"tcp","parentPort":{port},"childPort":80}}"#);
                    let (status, body) = self.ask("POST", "/v1/ports", &spec);
                    assert_eq!(status, 201, "{body}");
                    let id = serde_json::from_str::<serde_json::Value>(&body).unwrap()["id"].clone();
                    let used = self.world.lab.internet().tcp_connect((HOST[0], port as u16)).unwrap();
                    used.set_read_timeout(Some(PATIENCE)).unwrap();
                    (&used).write_all(b"x").unwrap();
                    (&used).read_exact(&mut [0]).unwrap();
                    // Every other one is still in use when its port goes.
                    if n % 2 == 0 {
                        drop(used);
                    }
                    assert_eq!(self.ask("DELETE", &format!("/v1/ports/{id}"), "").0, 200);
                    std::thread::sleep(Duration::from_millis(20));
                });
            });
        });
    }
}

/// A datagram there and back; what is lost on a busy machine is sent again.
fn exchange(socket: &UdpSocket, to: SocketAddr, n: u64) {
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut datagram = vec![0; 8 + (n as usize * 61) % 1400];
    datagram[..8].copy_from_slice(&n.to_le_bytes());
    let mut answer = [0; 2000];
    for _ in 0..40 {
        socket.send_to(&datagram, to).unwrap();
        while let Ok((length, _)) = socket.recv_from(&mut answer) {
            // That of an earlier one may come late.
            if answer[..length] == datagram[..] {
                return;
            }
        }
    }
    panic!("no answer from {to}");
}

/// A question for server.test's address (RFC 1035 section 4).
fn resolve(socket: &UdpSocket, id: u16) {
    let mut question = id.to_be_bytes().to_vec();
    question.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    question.extend_from_slice(b"\x06server\x04test\x00\x00\x01\x00\x01");
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut answer = [0; 600];
    for _ in 0..20 {
        socket.send_to(&question, (Ipv4Addr::new(10, 0, 2, 3), 53)).unwrap();
        while let Ok((length, _)) = socket.recv_from(&mut answer) {
            if answer[..2] == question[..2] {
                assert!(answer[..length].ends_with(&[203, 0, 113, 80]), "{:?}", &answer[..length]);
                return;
            }
        }
    }
    panic!("no answer from the DNS address");
}

/// A connection that ends in one of the ways there are.
fn churn(guest: &Guest, n: u64) {
    let connect = |port| guest.place().tcp_connect_within((SERVER[(n / 5 % 2) as usize], port), PATIENCE);
    match n % 5 {
        0 => {
            let refused = connect(CLOSED).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        1 => drop(connect(ECHO).unwrap()),
        2 => {
            let mut stream = connect(ECHO).unwrap();
            stream.write_all(&[1; 5000]).unwrap();
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        3 => {
            let mut stream = connect(ECHO).unwrap();
            stream.write_all(b"half").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert_eq!(all, b"half");
        }
        _ => {
            let mut stream = connect(80).unwrap();
            stream.write_all(b"GET /bytes/100000 HTTP/1.0\r\n\r\n").unwrap();
            // It leaves in the middle.
            stream.read_exact(&mut [0; 10_000]).unwrap();
        }
    }
}

#[test]
fn nothing_is_left_of_mixed_traffic() {
    let seconds = std::env::var("RINGTAP_SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    let time = Duration::from_secs(seconds);
    let long = seconds >= 300;
    let stand = Stand::new();
    let inside = stand.guest.place();
    let _tcp = Server::tcp_echo(inside.tcp_listener(([0, 0, 0, 0], 80)).unwrap()).unwrap();
    let _udp = Server::udp_echo(inside.udp_socket(([0, 0, 0, 0], 53)).unwrap()).unwrap();
    let internet = stand.world.lab.internet();
    let _echo = Server::udp_echo(internet.udp_socket((SERVER[0], ECHO)).unwrap()).unwrap();
    let settle = || std::thread::sleep(if long { MAPPINGS } else { SETTLE });
    let early = if long { Duration::from_secs(1) } else { Duration::from_secs(86_400) };
    // The watch of resolv.conf begins after a second.
    std::thread::sleep(Duration::from_millis(1500));
    if long {
        stand.traffic(time / 6, early);
        settle();
    } else {
        // A first of each kind, for code and sockets that are there from then on.
        stand.traffic(Duration::from_millis(300), early);
        std::thread::sleep(Duration::from_millis(500));
    }
    let before = stand.level();
    stand.traffic(time, early);
    settle();
    let after = stand.level();
    for (kind, done) in KINDS.iter().zip(&stand.done) {
        eprintln!("{kind}: {}", done.load(Ordering::Relaxed));
        assert!(done.load(Ordering::Relaxed) > 1, "{kind}");
    }
    eprintln!("before {before:?}\nafter  {after:?}");
    assert!(Path::new(&stand.state).exists());
    assert_eq!(after.buffers, 0, "{after:?}");
    assert!(after.descriptors <= before.descriptors + 4, "{before:?} {after:?}");
    // Each part has its own few datagram sockets, whose mappings outlive the short form.
    assert!(after.flows <= before.flows + 4, "{before:?} {after:?}");
    assert!(after.mib <= before.mib + SLACK_MIB, "{before:?} {after:?}");
}
