//! Nothing is left, however it ends.

use crate::{Bench, eventually, marked, marker, read_until, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Stdio;

/// A command with a child in the background and one in a session of its own, all marked.
fn family(marker: &str) -> String {
    format!("setsid sleep {marker} & sleep {marker} & echo up; exec sleep {marker}")
}

fn leaves_nothing(args: &[&str], end: impl Fn(Pid)) {
    let bench = Bench::new();
    let marker = marker();
    let state = bench.lab.dir().join("user-run/ringtap");
    let mut command = bench.user(&[args, &["sh", "-c", &family(&marker)]].concat());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "up\n");
    eventually("all of the family", || marked(&marker).len() >= 5);
    end(Pid::from_raw(child.id().cast_signed()));
    child.wait().unwrap();
    eventually("the end of every process", || marked(&marker).is_empty());
    // What a killed instance leaves in its state directory, the next one sweeps.
    assert_eq!(run(bench.user(&["run", "true"])).status, 0);
    assert!(!state.exists() || std::fs::read_dir(&state).unwrap().count() == 0, "{state:?}");
}

#[test]
fn after_sigkill_of_control() {
    leaves_nothing(&["run"], |pid| kill(pid, Signal::SIGKILL).unwrap());
}

#[test]
fn after_sigkill_of_control_without_a_pid_namespace() {
    leaves_nothing(&["run", "--no-pidns"], |pid| kill(pid, Signal::SIGKILL).unwrap());
}

#[test]
fn after_sigterm() {
    leaves_nothing(&["run"], |pid| kill(pid, Signal::SIGTERM).unwrap());
}

#[test]
fn after_sigterm_without_a_pid_namespace() {
    leaves_nothing(&["run", "--no-pidns"], |pid| kill(pid, Signal::SIGTERM).unwrap());
}

#[test]
fn background_children_end_with_the_command() {
    let bench = Bench::new();
    for option in [&["run"][..], &["run", "--no-pidns"]] {
        let marker = marker();
        let script =
            format!("setsid sleep {marker} >/dev/null 2>&1 & (sleep {marker} >/dev/null 2>&1 &) ; exit 3");
        let said = run(bench.user(&[option, &["sh", "-c", &script]].concat()));
        assert_eq!(said.status, 3, "{said:?}");
        eventually("the end of every process", || marked(&marker).is_empty());
    }
}

#[test]
fn the_state_directory_says_who_is_who_and_a_stale_one_is_swept() {
    let bench = Bench::new();
    let base = bench.lab.dir().join("user-run/ringtap");
    let script = "\"$R\" run true; mkdir -p -m 700 \"$XDG_RUNTIME_DIR/ringtap/4000000\"; \
                  touch \"$XDG_RUNTIME_DIR/ringtap/4000000/lock\"; ";
    let script = format!("{script} exec \"$R\" run sh -c 'echo up; read line'");
    let mut command = bench.shell(&script);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "up\n");
    assert!(!base.join("4000000").exists());
    let own = base.join(child.id().to_string());
    for name in ["child_pid", "plane_pid"] {
        let pid: u32 = std::fs::read_to_string(own.join(name)).unwrap().parse().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains(&format!("PPid:\t{}\n", child.id())), "{name}");
    }
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(!base.exists());
}

#[test]
fn a_plane_that_dies_again_and_again_takes_everything_with_it() {
    let bench = Bench::new();
    let marker = marker();
    let base = bench.lab.dir().join("user-run/ringtap");
    let mut command = bench.user(&["run", "sh", "-c", &family(&marker)]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "up\n");
    let file = base.join(child.id().to_string()).join("plane_pid");
    let mut killed = 0;
    eventually("the end of control", || {
        // Each of them once: a number that has been read is that of a live plane, or of one that was killed here.
        let plane = std::fs::read_to_string(&file).ok().and_then(|pid| pid.parse().ok()).unwrap_or(killed);
        if plane != killed {
            killed = plane;
            kill(Pid::from_raw(plane), Signal::SIGKILL).unwrap();
        }
        child.try_wait().unwrap().is_some()
    });
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    let last = err.lines().last().unwrap_or_default();
    assert!(last.starts_with("ringtap: the data plane ended (killed by SIGKILL"), "{err}");
    assert_eq!(err.lines().count(), 5, "{err}");
    eventually("the end of every process", || marked(&marker).is_empty());
}

#[test]
fn after_sigkill_of_control_at_any_moment_of_the_start() {
    let bench = Bench::new();
    let marker = marker();
    let state = bench.lab.dir().join("user-run/ringtap");
    for args in [&["run"][..], &["run", "--no-pidns"]] {
        // A start takes some 10 ms; steps of 300 us hit every stage of it on one machine or another.
        for step in 0..50 {
            let mut command = bench.user(&[args, &["sleep", &marker]].concat());
            let mut child = command.spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_micros(300 * step));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        eventually("the end of every process", || marked(&marker).is_empty());
        assert_eq!(run(bench.user(&["run", "true"])).status, 0);
        assert!(!state.exists(), "{state:?}");
    }
}
