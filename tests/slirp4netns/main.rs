//! ringtap called as `slirp4netns`: what upstream's own test scripts assert (tests/*.sh of slirp4netns 1.3), one test for
//! each assertion and named after it, and what upstream gets wrong.
//!
//! Where a script starts slirp4netns as whoever runs it, the tests here do so as an ordinary user and as root.

#[path = "../common/mod.rs"]
mod common;

mod api;
mod command;
mod forwards;
mod network;
mod rootlesskit;
mod sandbox;

use common::{Outcome, World, outcome};
use ringtap::lab::{Guest, Running};
use std::io::Read;
use std::process::{Command, Stdio};

/// Ordinary user, root.
const BOTH: [bool; 2] = [true, false];

/// A namespace that slirp4netns is to serve.
struct Target {
    holder: Running,
    as_user: bool,
}

impl Target {
    fn new(world: &World, as_user: bool) -> Self {
        let mut command = shell(world, as_user, "exec unshare -rmn sh -c 'echo up; exec sleep infinity'");
        let mut holder = world.lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
        let mut up = [0; 3];
        holder.child().stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
        Self { holder, as_user }
    }

    fn pid(&self) -> u32 {
        self.holder.pid()
    }

    fn net(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/net/{file}", self.pid())).unwrap()
    }

    /// slirp4netns with these arguments, once it has said that it is ready: exactly one byte, then the end.
    fn serve(&self, world: &World, arguments: &str) -> Running {
        let script = format!("exec \"$S\" --ready-fd 3 {arguments} 3>&1 >/dev/null");
        let mut command = shell(world, self.as_user, &script);
        let mut running = world.lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
        let mut said = String::new();
        running.child().stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "1", "slirp4netns {arguments}");
        running
    }

    /// As [`Self::serve`] with the pid and `tap11`; the guest that comes of it.
    fn guest(self, world: &World, options: &str) -> Guest {
        let running = self.serve(world, &format!("{options} {} tap11", self.pid()));
        let pid = self.pid();
        world.lab.guest(pid, vec![self.holder, running]).unwrap()
    }
}

/// A shell in the lab's host; `$S` is slirp4netns, `$XDG_RUNTIME_DIR` a directory of whoever runs it.
fn shell(world: &World, as_user: bool, script: &str) -> Command {
    let host = world.lab.host();
    // Where each command of the user has a user namespace of its own, one of them could not see the next one's.
    let as_user = as_user && world.lab.users_are_real();
    let mut command = if as_user { host.command_as_user("sh") } else { host.command("sh") }.unwrap();
    command.args(["-c", script]).env("S", world.lab.bin("slirp4netns")).stdin(Stdio::null());
    command
}

/// `slirp4netns ARGUMENTS`, to its end.
fn slirp4netns(world: &World, as_user: bool, arguments: &str) -> Outcome {
    outcome(arguments, shell(world, as_user, &format!("exec \"$S\" {arguments}")))
}
