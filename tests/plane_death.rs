//! The plane is killed and another takes its place: what lives on, what is lost, what is said, and that nothing is left.

mod common;

use common::{PATIENCE, SERVER, World, sh};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringtap::lab::{Guest, Running, Server};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// New connections are to work again within a second; a machine that is busy with other tests gets more.
const BOUND: Duration = Duration::from_secs(10);

/// A guest whose plane can be killed.
struct Victim {
    guest: Guest,
    state: PathBuf,
    said: PathBuf,
}

impl Victim {
    /// `command` ends as `ringtap`, whose standard error goes to a file.
    fn start(world: &World, mut command: Command, guest: impl FnOnce(Running) -> Guest) -> Self {
        let said = world.lab.dir().join("said");
        command.stderr(Stdio::from(File::create(&said).unwrap())).stdout(Stdio::piped());
        let running = world.lab.host().spawn(&mut command).unwrap();
        let state = world.lab.dir().join("user-run/ringtap").join(running.pid().to_string());
        Self { guest: guest(running), state, said }
    }

    fn run(world: &World, options: &[&str]) -> Self {
        let mut command = world.ringtap(true);
        command.arg("run").args(options).args(["--", "sh", "-c", "echo ready; exec sleep infinity"]);
        Self::start(world, command, |mut running| {
            read_exactly(&mut running, "ready\n");
            world.lab.guest_below(running, "sleep", PATIENCE).unwrap()
        })
    }

    fn plane(&self) -> Pid {
        Pid::from_raw(fs::read_to_string(self.state.join("plane_pid")).unwrap().parse().unwrap())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// Kills the plane and waits for its successor.
    fn kill(&self) -> Instant {
        let dead = self.plane();
        kill(dead, Signal::SIGKILL).unwrap();
        let at = Instant::now();
        eventually("another plane", || self.plane() != dead);
        assert!(!PathBuf::from(format!("/proc/{dead}")).exists(), "the dead one has been waited for");
        at
    }
}

fn read_exactly(running: &mut Running, text: &str) {
    let mut bytes = vec![0; text.len()];
    running.child().stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, text.as_bytes());
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < end, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A connection from the guest to the echo server: it answers.
fn echo(guest: &Guest, v6: bool) -> Option<TcpStream> {
    let mut stream = guest
        .place()
        .tcp_connect_within((SERVER[usize::from(v6)], common::ECHO), Duration::from_secs(1))
        .ok()?;
    stream.set_read_timeout(Some(BOUND)).unwrap();
    let mut back = [0; 4];
    stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut back)).ok()?;
    Some(stream)
}

#[test]
fn new_connections_work_and_open_ones_are_reset_again_and_again() {
    let world = World::new();
    let victim = Victim::run(&world, &[]);
    let curl = "curl -sS --max-time 20 http://server.test/peer";
    for round in 1..=3 {
        let mut open = echo(&victim.guest, round == 2).expect("a connection before");
        let at = victim.kill();
        eventually("a new connection", || echo(&victim.guest, false).is_some());
        assert!(at.elapsed() < BOUND, "{:?}", at.elapsed());
        assert!(echo(&victim.guest, true).is_some(), "IPv6");
        // Names are resolved and datagrams pass: the configuration was told again.
        sh(victim.guest.place(), curl).ok();
        // The guest learns of its loss as soon as it speaks.
        open.write_all(b"lost").unwrap();
        assert!(matches!(open.read(&mut [0]), Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset));
        let said = victim.said();
        assert_eq!(said.lines().count(), round, "one line each time: {said}");
        assert!(
            said.lines()
                .all(|l| l.contains("ended (killed by SIGKILL); another one serves the same tap now"))
        );
    }
}

#[test]
fn in_the_middle_of_bulk_both_ways() {
    let world = World::new();
    let server = world.lab.internet();
    let source = Server::tcp_source(server.tcp_listener((SERVER[0], 81)).unwrap(), u64::MAX).unwrap();
    let victim = Victim::run(&world, &[]);
    let connect = |port| victim.guest.place().tcp_connect_within((SERVER[0], port), BOUND).unwrap();
    let (mut down, mut up) = (connect(81), connect(common::ECHO));
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while down.read(&mut bytes).is_ok_and(|n| n > 0) {}
    });
    let writer = std::thread::spawn(move || while up.write_all(&[0; 1 << 16]).is_ok() {});
    assert_eq!(source.peers_when(1).len(), 1);
    std::thread::sleep(Duration::from_millis(50));
    victim.kill();
    eventually("a new connection", || echo(&victim.guest, false).is_some());
    // A kernel that sends learns of it by a reset. One that only receives would wait for ever, as after any silent loss:
    // it is the guest's side that ends here, with the guest.
    writer.join().unwrap();
    drop(victim);
    drop(reader);
}

#[test]
fn a_plane_that_cannot_live_ends_the_instance() {
    let world = World::new();
    let mut victim = Victim::run(&world, &[]);
    for _ in 0..4 {
        victim.kill();
    }
    kill(victim.plane(), Signal::SIGKILL).unwrap();
    let control = victim.guest.running()[0].child();
    eventually("the end of control", || control.try_wait().unwrap().is_some());
    assert_eq!(control.wait().unwrap().code(), Some(1));
    let said = victim.said();
    let last = said.lines().last().unwrap();
    assert!(last.contains("the data plane ended (killed by SIGKILL, the 5th time in a row)"), "{said}");
    assert!(!victim.state.exists());
    assert!(victim.guest.processes().len() <= 1, "{:?}", victim.guest.processes());
}

#[test]
fn the_capture_goes_on() {
    let world = World::new();
    let capture = world.lab.dir().join("user-run/capture");
    let victim = Victim::run(&world, &["--pcap", &capture.display().to_string()]);
    assert!(echo(&victim.guest, false).is_some());
    victim.kill();
    eventually("a new connection", || echo(&victim.guest, false).is_some());
    let size = || fs::metadata(&capture).unwrap().len();
    let before = size();
    assert!(echo(&victim.guest, false).is_some());
    eventually("the last frames", || size() > before);
    drop(victim);
    let bytes = fs::read(&capture).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 0xa1b2_3c4d);
    let (mut at, mut syns) = (24, 0);
    while at < bytes.len() {
        let frame = &bytes[at + 16..at + 16 + word(at + 8) as usize];
        // IPv4, TCP, SYN alone, to the echo server.
        let syn = frame[12..14] == [8, 0] && frame[23] == 6 && frame[47] == 2 && frame[36..38] == [0, 7];
        syns += usize::from(syn);
        at += 16 + frame.len();
    }
    assert!(syns >= 3, "one before and two after, and nothing torn between them: {syns}");
}

#[test]
fn attached_the_namespace_keeps_its_tap_and_readiness_is_told_once() {
    let world = World::new();
    let bare = world.bare("");
    let pid = bare.pid();
    let notify = world.lab.dir().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    fs::set_permissions(&notify, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let mut command = world.ringtap(true);
    command.args(["attach", &pid.to_string()]).env("NOTIFY_SOCKET", &notify);
    let mut text = [0; 64];
    let mut victim = Victim::start(&world, command, |running| {
        let length = socket.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"READY=1\n");
        world.lab.guest(pid, vec![bare, running]).unwrap()
    });
    let index = sh(victim.guest.place(), "cat /sys/class/net/tap0/ifindex || ip -o link show tap0").ok();
    victim.kill();
    eventually("a new connection", || echo(&victim.guest, false).is_some());
    assert_eq!(
        sh(victim.guest.place(), "cat /sys/class/net/tap0/ifindex || ip -o link show tap0").ok(),
        index
    );
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut text).is_err(), "ready a second time");
    // Ended by a signal it leaves as it would have without the death.
    let control = victim.guest.running()[1].child();
    kill(Pid::from_raw(control.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(control.wait().unwrap().code(), Some(0));
    sh(victim.guest.place(), "ip -o link show tap0").failed();
    assert!(!victim.state.exists());
}

#[test]
fn at_any_moment_of_the_start_the_command_runs_and_nothing_is_left() {
    let world = World::new();
    let base = world.lab.dir().join("user-run/ringtap");
    // Twice the time that a start takes, in steps that meet each of its stages.
    for step in 0..16 {
        let mut command = world.ringtap(true);
        command.args(["run", "--", "curl", "-sS", "--max-time", "20", "--retry", "5", "--retry-all-errors"]);
        command.args(["--retry-delay", "1", &format!("http://{}/peer", SERVER[0])]).stdout(Stdio::null());
        let mut running = world.lab.host().spawn(&mut command).unwrap();
        let file = base.join(running.pid().to_string()).join("plane_pid");
        let mut plane = None;
        let written = || fs::read_to_string(&file).ok().and_then(|pid| pid.parse().ok());
        while plane.is_none() && running.child().try_wait().unwrap().is_none() {
            plane = written();
        }
        std::thread::sleep(Duration::from_micros(750 * step));
        if let Some(pid) = plane {
            // It may have ended in good order by now.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let status = running.child().wait().unwrap();
        assert!(status.success(), "step {step}: {status}");
        assert!(!base.exists() || fs::read_dir(&base).unwrap().count() == 0, "step {step}");
    }
}
