//! integration-pdeathsig.sh and integration-restart.sh: the program is killed.

use crate::common::World;
use crate::{Started, sh};
use std::time::{Duration, Instant};

/// Polls for at most 20 s.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_killed_parent_takes_its_only_child_and_the_command_with_it() {
    let world = World::new();
    for way in ["--reaper=false", "--pidns --reaper=true"] {
        let script =
            format!("exec rootlesskit {way} sh -c 'echo up; sleep 2; touch $XDG_RUNTIME_DIR/marker'");
        let mut started = Started::new(&world, &script);
        started.line();
        let children = sh(&world, &format!("pgrep -P {}", started.running.pid())).ok();
        assert_eq!(children.lines().count(), 1, "{children:?}");
        let command = sh(&world, &format!("pgrep -P {}", children.trim())).ok();
        assert!(sh(&world, &format!("kill -KILL {}", started.running.pid())).status.success());
        for pid in [children.trim(), command.trim()] {
            eventually(pid, || !std::path::Path::new("/proc").join(pid).exists());
        }
        assert!(!sh(&world, "test -e $XDG_RUNTIME_DIR/marker").status.success());
    }
}

#[test]
fn after_a_kill_the_same_state_directory_serves_again() {
    let world = World::new();
    let start = "exec rootlesskit --state-dir=$XDG_RUNTIME_DIR/rk --net=slirp4netns --disable-host-loopback \
                 --port-driver=builtin";
    let mut first = Started::new(&world, &format!("{start} sh -c 'echo up; exec sleep 99'"));
    first.line();
    let second = sh(&world, &format!("{start} true"));
    assert_eq!(second.status.code(), Some(1));
    assert!(second.stderr.contains("another RootlessKit is running with the same state directory?"));
    assert!(sh(&world, &format!("kill -KILL {}", first.running.pid())).status.success());
    drop(first);
    assert!(sh(&world, "test -e $XDG_RUNTIME_DIR/rk/api.sock").status.success());
    // What is inside holds the lock for as long as it takes to die.
    let mut said = None;
    eventually("the lock", || {
        let again = sh(&world, &format!("{start} rootlessctl list-ports"));
        let done = again.status.success();
        said = Some(again);
        done
    });
    assert!(said.unwrap().stdout.starts_with("ID    PROTO"));
    assert!(!sh(&world, "test -e $XDG_RUNTIME_DIR/rk").status.success());
}

#[test]
fn without_a_pid_namespace_what_the_command_leaves_behind_lives_on() {
    let world = World::new();
    let survivors = |way: &str| {
        let script = format!("rootlesskit {way} sh -c 'sleep 77 >/dev/null 2>&1 & echo $!'");
        sh(&world, &script).ok();
        let user = "pgrep -U $(id -u) -fx 'sleep 77'";
        let found = sh(&world, user).stdout;
        sh(&world, "pkill -U $(id -u) -fx 'sleep 77'");
        found.lines().count()
    };
    assert_eq!(survivors(""), 1);
    assert_eq!(survivors("--pidns"), 0);
}
