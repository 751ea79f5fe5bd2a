//! At a terminal: ^C arrives once, jobs stop and go on, the window has its size.
//!
//! The terminal is a pseudo terminal; setsid(1) with `--ctty` makes it the controlling one of what runs in it. Commands that
//! are interrupted or stopped are written in perl, for shells lose a signal at times (dash blocks all of them around
//! vfork(2), bash's `read` with a deadline forgets one that comes just then), with or without ringtap.

use crate::{Bench, PATIENCE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A program at a terminal.
struct Session {
    child: Child,
    screen: File,
    seen: String,
}

impl Session {
    /// Starts `setsid --ctty ARGS` in the lab's host, as its user.
    fn start(bench: &Bench, args: &[&str]) -> Self {
        let size = Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let mut command = bench.lab.host().command_as_user("setsid").unwrap();
        command.arg("--ctty").args(args).env("R", bench.ringtap()).env("PS1", "$ ").env("TERM", "dumb");
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
        Self { child, screen: File::from(pty.master), seen: String::new() }
    }

    fn type_in(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for `text`; what came up to and with it is taken off the screen and returned.
    fn expect(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(start.elapsed() < PATIENCE, "wanted {text:?}, the screen shows {:?}", self.seen);
            let mut fds = [PollFd::new(self.screen.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(100u16)) == Ok(1) {
                let mut chunk = [0; 4096];
                match self.screen.read(&mut chunk) {
                    Ok(n) => self.seen.push_str(&String::from_utf8_lossy(&chunk[..n])),
                    Err(e) => panic!("wanted {text:?}, the screen shows {:?}, then {e}", self.seen),
                }
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn one_interrupt_arrives_once() {
    let bench = Bench::new();
    let script = "$| = 1; $SIG{INT} = sub { print \"got-int\\n\" }; $SIG{QUIT} = sub { print \"got-end\\n\"; exit 6 }; \
                  print \"ready\\n\"; select undef, undef, undef, 0.05 while 1";
    let mut session = Session::start(&bench, &[&bench.ringtap(), "run", "perl", "-e", script]);
    session.expect("ready\r\n");
    for _ in 0..3 {
        session.type_in("\x03");
        session.expect("got-int\r\n");
    }
    session.type_in("\x1c");
    let rest = session.expect("got-end\r\n");
    assert!(!rest.contains("got-int"), "{rest:?}");
    assert_eq!(session.child.wait().unwrap().code(), Some(6));
}

#[test]
fn an_untrapped_interrupt_is_130() {
    let bench = Bench::new();
    let mut session = Session::start(
        &bench,
        &[&bench.ringtap(), "run", "perl", "-e", "$| = 1; print qq(ready\\n); sleep 1000"],
    );
    session.expect("ready\r\n");
    session.type_in("\x03");
    assert_eq!(session.child.wait().unwrap().code(), Some(130));
}

#[test]
fn the_window_has_its_size_and_changes_are_told() {
    let bench = Bench::new();
    let script = "$| = 1; $SIG{WINCH} = sub { system qw(stty size) }; system q(tty; stty size); \
                  select undef, undef, undef, 0.05 while 1";
    let mut session = Session::start(&bench, &[&bench.ringtap(), "run", "perl", "-e", script]);
    let tty = session.expect("\r\n").trim().to_owned();
    session.expect("33 99\r\n");
    let resized = Command::new("stty").args(["-F", &tty, "rows", "44", "cols", "111"]).status().unwrap();
    assert!(resized.success());
    session.expect("44 111\r\n");
}

#[test]
fn a_shell_inside_has_job_control_and_gives_the_terminal_back() {
    let bench = Bench::new();
    // The outer shell is no interactive one: nobody but ringtap can repair the terminal for its `read`.
    let script = "\"$R\" run bash --norc --noprofile -i; echo status $?; read line; echo \"read $line\"";
    let mut session = Session::start(&bench, &["sh", "-c", script]);
    session.expect("$ ");
    session.type_in("sleep 1000\n");
    session.expect("sleep 1000\r\n");
    std::thread::sleep(std::time::Duration::from_millis(200));
    session.type_in("\x1a");
    session.expect("Stopped");
    session.type_in("kill -9 %1; sleep 0.3; echo ended-$((40+2))\n");
    let seen = session.expect("ended-42");
    assert!(!seen.contains("no job control"), "{seen:?}");
    session.type_in("exit 9\n");
    session.expect("status 9\r\n");
    session.type_in("hello\n");
    session.expect("read hello\r\n");
}

#[test]
fn ringtap_is_a_job_like_any_other() {
    let bench = Bench::new();
    let mut session = Session::start(&bench, &["bash", "--norc", "--noprofile", "-i"]);
    session.expect("$ ");
    // The sums keep what the command says apart from what was typed.
    let script = "$| = 1; $SIG{INT} = sub { print qq(inside-).(40+2).qq(\\n) }; \
                  $SIG{CONT} = sub { print qq(on-).(40+2).qq(\\n) }; print qq(up-).(40+2).qq(\\n); \
                  select undef, undef, undef, 0.05 while 1";
    session.type_in(&format!("\"$R\" run perl -e '{script}'\n"));
    session.expect("up-42\r\n");
    session.type_in("\x1a");
    session.expect("Stopped");
    session.expect("$ ");
    session.type_in("fg\n");
    // Only now has bash given the terminal away.
    session.expect("on-42\r\n");
    session.type_in("\x03");
    session.expect("inside-42\r\n");
    session.type_in("\x1a");
    session.expect("Stopped");
    session.expect("$ ");
    session.type_in("bg\n");
    session.expect("on-42\r\n");
    session.type_in("kill %1; wait %1; echo status-$?.\n");
    session.expect("status-143.");
}

#[test]
fn attach_stops_and_goes_on_like_any_other_job() {
    let bench = Bench::new();
    let mut session = Session::start(&bench, &["bash", "--norc", "--noprofile", "-i"]);
    session.expect("$ ");
    session.type_in("unshare -rn sleep 1000 & sleep 0.3; echo target-$((40+2))\n");
    session.expect("target-42\r\n");
    session.expect("$ ");
    session.type_in("\"$R\" attach --ready-fd 3 $! 3>&1\n");
    session.expect("\n1");
    session.type_in("\x1a");
    session.expect("Stopped");
    session.expect("$ ");
    session.type_in("bg; kill %2; wait %2; echo status-$?.; kill %1\n");
    session.expect("status-0.");
}
