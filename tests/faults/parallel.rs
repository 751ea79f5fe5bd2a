//! A hundred instances of one user that start and stop side by side.

use crate::common::{World, outcome, sh};
use crate::{eventually, marked, marker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringtap::lab::Running;
use std::fs;
use std::io::Read;
use std::process::Stdio;

const INSTANCES: usize = 100;

fn start(world: &World, marker: &str) -> Running {
    let mut command = world.ringtap(true);
    let script = format!("echo ready; exec sleep {marker}");
    command.args(["run", "-p", "8080", "--", "sh", "-c", &script]);
    world.lab.host().spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap()
}

#[test]
fn a_hundred_start_and_stop_at_once_and_nothing_is_left() {
    let world = World::new();
    let marker = marker();
    let mounts = "cut -d' ' -f3- /proc/self/mountinfo | sort";
    let before = sh(world.lab.host(), mounts).ok();
    let mut all: Vec<Running> = (0..INSTANCES).map(|_| start(&world, &marker)).collect();
    for one in &mut all {
        let mut bytes = [0; 6];
        let read = one.child().stdout.as_mut().unwrap().read_exact(&mut bytes);
        let mut said = String::new();
        if read.is_err() {
            one.child().stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        }
        assert_eq!((&bytes, said.as_str()), (b"ready\n", ""));
    }
    // In every way that an instance ends, in no order.
    for (n, one) in all.iter_mut().enumerate() {
        let how = [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM][n % 4];
        kill(Pid::from_raw(one.pid().cast_signed()), how).unwrap();
    }
    for one in &mut all {
        one.child().wait().unwrap();
    }
    eventually("the end of every process", || marked(&marker).is_empty());
    // Were a namespace of theirs left, there would be no room for one more. The lab's own count where its user is its root.
    let room = if world.lab.users_are_real() { 1 } else { 4 };
    for kind in ["net", "user"] {
        sh(world.lab.host(), &format!("echo {room} > /proc/sys/user/max_{kind}_namespaces")).ok();
    }
    let mut last = String::new();
    eventually("the end of every namespace", || {
        let mut command = world.ringtap(true);
        // The plane of one more needs a user namespace of its own.
        command.args(["run", "--sandbox", "off", "true"]);
        let said = outcome("one more", command);
        let ended = said.status.success();
        let _ = std::mem::replace(&mut last, format!("{said:?}"));
        ended
    });
    // It has swept what the killed ones could not.
    let base = world.lab.dir().join("user-run/ringtap");
    assert!(!base.exists() || fs::read_dir(&base).unwrap().count() == 0, "{last}");
    assert_eq!(sh(world.lab.host(), mounts).ok(), before);
}
