//! Launch, seen from outside: statuses, ids, files, ends, signals, terminals, attach and refusals of the built binary.
//!
//! Every test has a lab of its own and runs the binary in the lab's host, as an ordinary user or as root of the lab;
//! what is tested of the network is its configuration only.

mod attach;
mod doctor;
mod ends;
mod files;
mod ids;
mod log;
mod refusals;
mod signals;
mod status;
mod terminal;

use ringtap::lab::Lab;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before a test says that it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lab in which the binary is `ringtap`.
struct Bench {
    lab: Lab,
}

impl Bench {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(more: &[(&Path, &str)]) -> Self {
        // RINGTAP_PROGRAM is for a test program that was moved away from where it was built.
        let built = std::env::var_os("RINGTAP_PROGRAM").unwrap_or(env!("CARGO_BIN_EXE_ringtap").into());
        let mut binds = vec![(Path::new(&built), "ringtap")];
        binds.extend(more);
        Self {
            lab: Lab::with_binds(&binds)
                .expect("a lab; it needs user namespaces and /dev/net/tun of mode 0666"),
        }
    }

    fn ringtap(&self) -> String {
        self.lab.bin("ringtap").display().to_string()
    }

    /// `ringtap ARGS` as an ordinary user.
    fn user(&self, args: &[&str]) -> Command {
        let mut command = self.lab.host().command_as_user(&self.ringtap()).unwrap();
        command.args(args).stdin(Stdio::null());
        command
    }

    /// `ringtap ARGS` as root of the lab.
    fn root(&self, args: &[&str]) -> Command {
        let mut command = self.lab.host().command(&self.ringtap()).unwrap();
        command.args(args).stdin(Stdio::null());
        command
    }

    /// A shell command as an ordinary user, with the path of ringtap in `$R`.
    fn shell(&self, script: &str) -> Command {
        let mut command = self.lab.host().command_as_user("sh").unwrap();
        command.args(["-c", script]).env("R", self.ringtap()).stdin(Stdio::null());
        command
    }

    /// A shell command as root of the lab, with the path of ringtap in `$R`.
    fn root_shell(&self, script: &str) -> Command {
        let mut command = self.lab.host().command("sh").unwrap();
        command.args(["-c", script]).env("R", self.ringtap()).stdin(Stdio::null());
        command
    }
}

/// Status, standard output and standard error of a command.
#[derive(Debug)]
struct Said {
    status: i32,
    out: String,
    err: String,
}

fn run(mut command: Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Said {
        status: status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Polls until `holds`; panics with `what` when patience is at an end.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reads until `text` has come; returns everything read.
fn read_until(from: &mut impl Read, text: &str) -> String {
    let mut seen = String::new();
    let mut chunk = [0; 4096];
    while !seen.contains(text) {
        match from.read(&mut chunk) {
            Ok(n) if n > 0 => seen.push_str(&String::from_utf8_lossy(&chunk[..n])),
            end => panic!("wanted {text:?}, got {seen:?} and then {end:?}"),
        }
    }
    seen
}

/// A word that no other process has in its command line.
fn marker() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // sleep(1) takes it for a number of seconds.
    format!("9{:07}{:03}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Processes that have `marker` in their command line.
fn marked(marker: &str) -> Vec<i32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            String::from_utf8_lossy(&line).contains(marker).then_some(pid)
        })
        .collect()
}
