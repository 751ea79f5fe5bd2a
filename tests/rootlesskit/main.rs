//! ringtap called as `rootlesskit` and `rootlessctl`: what upstream's own test scripts assert (hack/integration-*.sh of
//! RootlessKit 3), one test for each assertion and named after it, and what we promise beyond.
//!
//! Docker and Podman on top of it are tests/acceptance.

#[path = "../common/mod.rs"]
mod common;

mod api;
mod docker_proxy;
mod exit_code;
mod net;
mod pdeathsig;
mod port;
mod propagation;
mod state;
mod systemd_socket;

use common::{Outcome, World, outcome};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringtap::lab::Running;
use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// The script, to its end.
fn sh(world: &World, script: &str) -> Outcome {
    outcome(script, world.shell(script))
}

/// A script that runs until it is dropped, and what it says.
struct Started {
    running: Running,
    out: BufReader<ChildStdout>,
}

impl Started {
    fn new(world: &World, script: &str) -> Self {
        let mut running = world.lab.host().spawn(world.shell(script).stdout(Stdio::piped())).unwrap();
        let out = BufReader::new(running.child().stdout.take().unwrap());
        Self { running, out }
    }

    /// The next line.
    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.out.read_line(&mut line).unwrap() > 0, "the script has ended");
        line.truncate(line.trim_end().len());
        line
    }

    /// Everything until it ends, and its exit status.
    fn rest(&mut self) -> (String, Option<i32>) {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        (rest, self.running.child().wait().unwrap().code())
    }
}

impl Drop for Started {
    /// In good order: what is killed holds its ports and its state directory for some time after.
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.running.pid().cast_signed()), Signal::SIGTERM);
        let end = Instant::now() + common::PATIENCE;
        while matches!(self.running.child().try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The network drivers whose names are served.
const DRIVERS: [&str; 3] = ["slirp4netns", "pasta", "gvisor-tap-vsock"];
