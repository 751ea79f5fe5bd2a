//! integration-exit-code.sh and integration-run-without-reap.sh; what is said of an end.

use crate::common::World;
use crate::{Started, sh};

/// How the scripts vary `--pidns` and `--reaper`.
const WAYS: [&str; 4] = ["", "--pidns --reaper=auto", "--pidns --reaper=true", "--pidns --reaper=false"];

#[test]
fn exit_codes_0_and_42_pass_through_whatever_reaps() {
    let world = World::new();
    for way in WAYS {
        for code in [0, 42] {
            let said = sh(&world, &format!("exec rootlesskit {way} sh -c 'exit {code}'"));
            assert_eq!(said.status.code(), Some(code), "{way}: {said:?}");
        }
    }
}

#[test]
fn a_failure_is_told_twice_in_rootlesskits_words() {
    let world = World::new();
    let said = sh(&world, "exec rootlesskit sh -c 'exit 7'");
    assert_eq!(
        said.stderr,
        "[rootlesskit:child ] error: command [sh -c exit 7] exited: exit status 7\n\
         [rootlesskit:parent] error: child exited: exit status 7\n"
    );
}

#[test]
fn sigusr1_to_child_pid_kills_the_command_and_is_255() {
    let world = World::new();
    for way in WAYS {
        let script = format!(
            "exec rootlesskit {way} --state-dir=$XDG_RUNTIME_DIR/rk sh -c 'cat $ROOTLESSKIT_STATE_DIR/child_pid; echo; \
             exec sleep 99' 2>&1"
        );
        let mut started = Started::new(&world, &script);
        let pid = started.line();
        assert!(sh(&world, &format!("kill -USR1 {pid}")).status.success());
        let (said, code) = started.rest();
        assert_eq!(code, Some(255), "{way}: {said}");
        assert!(said.contains("exited: signal: user defined signal 1\n"), "{way}: {said}");
        assert!(said.contains("[rootlesskit:parent] error: child exited: exit status 255\n"), "{said}");
    }
}

#[test]
fn a_signal_to_rootlesskit_reaches_the_command() {
    let world = World::new();
    let mut started = Started::new(&world, "exec rootlesskit sh -c 'echo up; exec sleep 99' 2>&1");
    started.line();
    assert!(sh(&world, &format!("kill -TERM {}", started.running.pid())).status.success());
    let (said, code) = started.rest();
    assert!(code == Some(255) && said.contains("signal: terminated"), "{said}");
}

#[test]
fn a_command_that_is_not_there_is_1_and_not_127() {
    let world = World::new();
    for network in ["", "--net=slirp4netns --disable-host-loopback --detach-netns"] {
        let said = sh(&world, &format!("exec rootlesskit {network} no-such-command-7"));
        assert_eq!(said.status.code(), Some(1));
        let first = said.stderr.lines().next().unwrap_or_default();
        assert!(first.starts_with("[rootlesskit:child ] error: no-such-command-7: "), "{said:?}");
    }
}

#[test]
fn usage_errors_are_1_with_the_prefix() {
    let world = World::new();
    for (arguments, error) in [
        ("", "no command specified"),
        ("--net=foo true", "unknown network mode: foo"),
        ("--foo true", "flag provided but not defined: -foo"),
    ] {
        let said = sh(&world, &format!("exec rootlesskit {arguments}"));
        assert_eq!(said.status.code(), Some(1));
        assert_eq!(said.stderr, format!("[rootlesskit:parent] error: {error}\n"));
    }
}

#[test]
fn without_reaping_the_terminal_is_kept_and_the_code_is_42() {
    let world = World::new();
    let said = sh(
        &world,
        "script -qec \"rootlesskit --reaper=false bash -ic 'echo at \\$(tty); exit 42'\" /dev/null",
    );
    assert_eq!(said.status.code(), Some(42), "{said:?}");
    assert!(said.stdout.contains("at /dev/pts/"), "{said:?}");
    assert!(!said.stdout.contains("cannot set terminal process group"), "{said:?}");
}

#[test]
fn the_help_lists_what_callers_look_for_and_says_nothing_on_standard_error() {
    let world = World::new();
    let said = sh(
        &world,
        "rootlesskit --help | grep -qw -- --detach-netns && rootlesskit --version && rootlessctl --version",
    );
    assert_eq!(said.stderr, "");
    assert_eq!(said.ok(), "rootlesskit version 3.1.0\nrootlessctl version 3.1.0\n");
}
