//! Signals that are sent to ringtap reach the command, once.

use crate::{Bench, read_until};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

/// A command that says the name of every signal it gets, and ends at USR2. In perl, which loses none: a shell that
/// waits for a child or reads with a deadline does at times.
const PARROT: &str = "$| = 1; $SIG{$_} = sub { print \"$_[0]\\n\" } for qw(HUP INT QUIT TERM USR1 ALRM WINCH); \
                      $SIG{USR2} = sub { print \"end\\n\"; exit 4 }; \
                      print \"up\\n\"; select undef, undef, undef, 0.05 while 1";

fn parrot(bench: &Bench, options: &[&str]) -> (Child, Pid) {
    let mut command = bench.user(&[&["run"], options, &["perl", "-e", PARROT]].concat());
    let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "up\n");
    let pid = Pid::from_raw(child.id().cast_signed());
    (child, pid)
}

fn end(mut child: Child, pid: Pid) -> String {
    kill(pid, Signal::SIGUSR2).unwrap();
    let mut rest = String::new();
    child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(4));
    rest
}

const ALL: [(Signal, &str); 7] = [
    (Signal::SIGHUP, "HUP\n"),
    (Signal::SIGINT, "INT\n"),
    (Signal::SIGQUIT, "QUIT\n"),
    (Signal::SIGTERM, "TERM\n"),
    (Signal::SIGUSR1, "USR1\n"),
    (Signal::SIGALRM, "ALRM\n"),
    (Signal::SIGWINCH, "WINCH\n"),
];

#[test]
fn one_sent_to_ringtap_alone_is_passed_on_once() {
    let bench = Bench::new();
    for options in [&[][..], &["--no-pidns"]] {
        let (mut child, pid) = parrot(&bench, options);
        for (signal, name) in ALL {
            kill(pid, signal).unwrap();
            assert_eq!(read_until(child.stdout.as_mut().unwrap(), name), name);
        }
        assert_eq!(end(child, pid), "end\n");
    }
}

#[test]
fn one_sent_to_the_process_group_arrives_once() {
    let bench = Bench::new();
    let (mut child, pid) = parrot(&bench, &[]);
    for (signal, name) in ALL {
        killpg(pid, signal).unwrap();
        assert_eq!(read_until(child.stdout.as_mut().unwrap(), name), name);
    }
    assert_eq!(end(child, pid), "end\n");
}

#[test]
fn a_command_in_a_group_of_its_own_still_gets_them() {
    let bench = Bench::new();
    let mut command = bench.user(&["run", "setsid", "perl", "-e", PARROT]);
    let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
    read_until(child.stdout.as_mut().unwrap(), "up\n");
    let pid = Pid::from_raw(child.id().cast_signed());
    killpg(pid, Signal::SIGTERM).unwrap();
    assert_eq!(read_until(child.stdout.as_mut().unwrap(), "TERM\n"), "TERM\n");
    assert_eq!(end(child, pid), "end\n");
}

#[test]
fn an_untrapped_signal_ends_the_command_and_its_status_says_so() {
    let bench = Bench::new();
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let mut command = bench.user(&["run", "sh", "-c", "echo up; exec sleep 1000"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        read_until(child.stdout.as_mut().unwrap(), "up\n");
        // The shell has said so before it became sleep, which changes nothing for a signal.
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(status));
    }
}
