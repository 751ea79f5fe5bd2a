//! Published ports as an instance's user sees them: `-p`, `ringtap port`, and the API on `api.sock`.
//!
//! What goes through a port is tested elsewhere; here the listeners exist or not, and the API says so.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod command;
mod ranges;
mod rootlesskit;
mod start;

use common::{Outcome, World, outcome};
use ringtap::lab::Running;
use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before a test says that it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `ringtap run`, found by its state directory.
struct Instance {
    running: Running,
    dir: PathBuf,
    /// What it said on standard error before COMMAND ran.
    said: String,
}

/// `ringtap run OPTIONS`, with COMMAND running.
fn start(world: &World, options: &[&str]) -> Instance {
    let mut command = world.ringtap(true);
    command.arg("run").args(options).args(["--", "sh", "-c", "echo ready; exec sleep infinity"]);
    let mut running = world.lab.host().spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
    let mut line = String::new();
    BufReader::new(running.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut stderr = running.child().stderr.take().unwrap();
    if line != "ready\n" {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        panic!("ended before its command ran: {text}");
    }
    let said = waiting(&stderr);
    // It must not fill the pipe.
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    let dir = base(world).join(running.pid().to_string());
    Instance { running, dir, said }
}

/// What can be read without waiting.
fn waiting(from: &std::process::ChildStderr) -> String {
    use std::os::fd::AsFd;
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let mut fds = [nix::poll::PollFd::new(from.as_fd(), nix::poll::PollFlags::POLLIN)];
        if nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO) != Ok(1) {
            break;
        }
        match nix::unistd::read(from, &mut chunk) {
            Ok(n) if n > 0 => text.extend_from_slice(&chunk[..n]),
            _ => break,
        }
    }
    String::from_utf8(text).unwrap()
}

/// Where the lab's user has the state directories of its instances.
fn base(world: &World) -> PathBuf {
    world.lab.dir().join("user-run/ringtap")
}

impl Instance {
    fn socket(&self) -> PathBuf {
        self.dir.join("api.sock")
    }

    /// A connection of its own.
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// One request on a connection of its own: status and body.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        Talk::new(self.connect()).ask(method, path, body)
    }

    fn ask_json(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, text) = self.ask(method, path, body);
        (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
    }
}

/// A kept connection.
struct Talk {
    stream: BufReader<UnixStream>,
}

impl Talk {
    fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.send(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"));
        self.answer()
    }

    fn answer(&mut self) -> (u16, String) {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {line:?}"));
        let mut length = 0;
        loop {
            let mut header = String::new();
            self.stream.read_line(&mut header).unwrap();
            match header.trim_end().split_once(": ") {
                Some(("Content-Length", n)) => length = n.parse().unwrap(),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }
}

/// True if something listens there on the lab's host.
fn listens(world: &World, ip: impl Into<IpAddr>, port: u16) -> bool {
    let connected = world.lab.host().tcp_connect_within((ip.into(), port), Duration::from_secs(5));
    // Nobody listens inside: the reset that follows may be quicker than connect(2).
    connected.map_or_else(|e| e.kind() == ErrorKind::ConnectionReset, |_| true)
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// `ringtap ARGS` as the lab's user, to its end.
fn ringtap(world: &World, args: &[&str]) -> Outcome {
    let mut command = world.ringtap(true);
    command.args(args);
    outcome(&format!("ringtap {}", args.join(" ")), command)
}

/// `sh -ec SCRIPT` in the lab's host as its user, with the path of ringtap in `$R`.
fn shell(world: &World, script: &str) -> Outcome {
    let mut command: Command = world.lab.host().command_as_user("sh").unwrap();
    command.args(["-ec", script]).env("R", world.lab.bin("ringtap"));
    outcome(script, command)
}

/// Polls until `holds`.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
