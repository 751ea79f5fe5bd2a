//! SIGKILL of every process at every stage of the start. Control and plane have tests of their own (`tests/launch/ends.rs`,
//! `tests/plane_death.rs`); these are about what is inside, and about whoever is started first, second and third.
//!
//! Stages have no names outside, so they are met by what is seen of them: as soon as the n-th process is there, and then in
//! steps that are shorter than any stage.

use crate::common::{World, outcome};
use crate::{eventually, marked, marker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringtap::lab::descendants;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Steps for each process, and how far apart.
const STEPS: u32 = 14;
const STEP: Duration = Duration::from_micros(900);

/// One start, of whose processes the `nth` is killed `after` it was seen. What it said, and its status.
fn start_and_kill(world: &World, verb: &[&str], nth: usize, after: Duration) -> (Option<i32>, String) {
    let mut command = world.ringtap(true);
    command.args(verb).stderr(Stdio::piped()).stdout(Stdio::null()).stdin(Stdio::null());
    let mut running = world.lab.host().spawn(&mut command).unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    let mut victim = None;
    while victim.is_none() && running.child().try_wait().unwrap().is_none() && Instant::now() < end {
        victim = descendants(running.pid()).get(nth).copied();
    }
    std::thread::sleep(after);
    if let Some(victim) = victim {
        let _ = kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL);
    }
    // Whatever lives on is told to end; what ended by itself does not hear it.
    std::thread::sleep(Duration::from_millis(30));
    if running.child().try_wait().unwrap().is_none() {
        let _ = kill(Pid::from_raw(running.pid().cast_signed()), Signal::SIGTERM);
    }
    let end = Instant::now() + crate::common::PATIENCE;
    while running.child().try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "it hangs after process {nth} was killed {after:?} after it came");
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = running.child().wait().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(running.child().stderr.as_mut().unwrap(), &mut said).unwrap();
    (status.code(), said)
}

/// Few lines, each of them ours and none of them a panic.
fn is_clear(said: &str) {
    assert!(said.lines().count() <= 3 && !said.contains("panicked"), "{said}");
    assert!(said.lines().all(|l| l.starts_with("ringtap: ") || l.contains("WARN")), "{said}");
}

fn nothing_is_left(world: &World, marker: &str) {
    eventually("the end of every process", || marked(marker).is_empty());
    outcome("true", {
        let mut command = world.ringtap(true);
        command.args(["run", "true"]);
        command
    })
    .ok();
    let base = world.lab.dir().join("user-run/ringtap");
    assert!(!base.exists() || fs::read_dir(&base).unwrap().count() == 0, "{base:?}");
}

#[test]
fn whichever_process_of_run_is_killed_the_end_is_clear_and_nothing_is_left() {
    let world = World::new();
    let marker = marker();
    for nth in 0..4 {
        for step in 0..STEPS {
            let (status, said) =
                start_and_kill(&world, &["run", "-p", "8080:80", "--", "sleep", &marker], nth, STEP * step);
            // 1: it says why. 137 and 143: COMMAND was killed, by us or by the SIGTERM that follows.
            assert!(matches!(status, Some(1 | 137 | 143)), "{nth} {step}: {status:?} {said}");
            assert!(status != Some(1) || !said.is_empty(), "{nth} {step}: not a word");
            is_clear(&said);
        }
    }
    nothing_is_left(&world, &marker);
}

#[test]
fn whichever_process_of_attach_is_killed_the_end_is_clear_and_nothing_is_left() {
    let world = World::new();
    let bare = world.bare("");
    let pid = bare.pid().to_string();
    for nth in 0..3 {
        for step in 0..STEPS {
            // The tap of the last one may be on its way out.
            let (status, said) = start_and_kill(
                &world,
                &["attach", "--ifname", &format!("t{nth}x{step}"), "-p", "8080:80", &pid],
                nth,
                STEP * step,
            );
            assert!(matches!(status, Some(0 | 1)), "{nth} {step}: {status:?} {said}");
            assert!(status != Some(1) || !said.is_empty(), "{nth} {step}: not a word");
            is_clear(&said);
        }
    }
    nothing_is_left(&world, "attach --ifname t");
    eventually("the end of the taps", || {
        !fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap().contains(" t")
    });
}
