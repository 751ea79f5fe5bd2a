//! Bad days, from end to end: what runs out, stops, is killed or changes under the program at work. Each ends in a clear line, in
//! recovery or in a clean exit.
//!
//! Elsewhere: a plane that is killed (`tests/plane_death.rs`), control or plane killed at any moment of the start
//! (`tests/launch/ends.rs`, `tests/plane_death.rs`), too few descriptors (`tests/launch/refusals.rs`, `tests/tcp/limit.rs`,
//! `tests/published.rs`), stuck clients of the API (`tests/ports_api/clients.rs`), a lying socket factory
//! (`tests/source_address/hostile.rs`), buffers and completions beyond their queue within a ring (`src/ring/tests/pressure.rs`).

#[path = "../common/mod.rs"]
mod common;

mod clock;
mod completions;
mod descriptors;
mod flood;
mod killed;
mod link;
mod memory;
mod parallel;
mod pipes;
mod resolver;
mod stalled_clients;
mod stopped;

use common::{ECHO, PATIENCE, SERVER, World};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringtap::lab::{Guest, Running};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A guest whose instance can be harmed and listened to.
struct Instance {
    guest: Guest,
    control: Pid,
    state: PathBuf,
    said: PathBuf,
}

impl Instance {
    /// `ringtap run OPTIONS` as an ordinary user.
    fn run(world: &World, options: &[&str]) -> Self {
        let mut command = world.ringtap(true);
        command.arg("run").args(options).args(["--", "sh", "-c", "echo ready; exec sleep infinity"]);
        Self::start(world, command, "user-run")
    }

    /// `command` becomes `ringtap run ..` by exec, with `sh -c "echo ready; exec sleep infinity"` inside.
    fn start(world: &World, mut command: Command, run: &str) -> Self {
        let said = world.lab.dir().join("said");
        command.stderr(Stdio::from(File::create(&said).unwrap())).stdout(Stdio::piped());
        let mut running = world.lab.host().spawn(&mut command).unwrap();
        let state = world.lab.dir().join(run).join("ringtap").join(running.pid().to_string());
        let control = Pid::from_raw(running.pid().cast_signed());
        let mut bytes = [0; 6];
        let read = running.child().stdout.as_mut().unwrap().read_exact(&mut bytes);
        assert!(read.is_ok() && &bytes == b"ready\n", "{}", fs::read_to_string(&said).unwrap());
        let guest = world.lab.guest_below(running, "sleep", PATIENCE).unwrap();
        Self { guest, control, state, said }
    }

    fn pid_of(&self, file: &str) -> Pid {
        Pid::from_raw(fs::read_to_string(self.state.join(file)).unwrap().parse().unwrap())
    }

    fn plane(&self) -> Pid {
        self.pid_of("plane_pid")
    }

    fn child(&self) -> Pid {
        self.pid_of("child_pid")
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// The process that was started.
    fn running(&mut self) -> &mut Running {
        &mut self.guest.running()[0]
    }
}

/// Sends a signal; the process must be there.
fn signal(pid: Pid, signal: Signal) {
    kill(pid, signal).unwrap();
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A new connection of the guest to the echo server: it answers.
fn echo(guest: &Guest) -> Option<TcpStream> {
    let stream = guest.place().tcp_connect_within((SERVER[0], ECHO), Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    answers(&stream).then_some(stream)
}

/// A connection that ends at an echo is alive.
fn answers(mut stream: &TcpStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut back)).is_ok() && &back == b"ping"
}

/// What the instance's data plane counts, as the API has it.
fn stats(instance: &Instance) -> serde_json::Value {
    let mut api = UnixStream::connect(instance.state.join("api.sock")).unwrap();
    api.set_read_timeout(Some(PATIENCE)).unwrap();
    api.write_all(b"GET /ringtap/v1/stats HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    api.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Processes that have `marker` in their command line.
fn marked(marker: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap();
    pids.filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(marker).then_some(pid)
    })
    .collect()
}

/// A word that no other process has in its command line; sleep(1) takes it for a number of seconds.
fn marker() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("8{:07}{:03}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
