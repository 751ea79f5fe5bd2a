//! --enable-sandbox and --enable-seccomp.

use crate::common::{World, sh};
use crate::{BOTH, Target, shell};
use ringtap::lab::{Running, descendants};
use std::path::Path;

const NET_BIND_SERVICE: u64 = 1 << 10;

fn status(pid: u32, key: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(&format!("{key}:"))).unwrap();
    line.trim().to_owned()
}

/// This process is in upstream's sandbox, and the plane in its own, which is narrower.
fn is_sandboxed(running: &Running) {
    let control = std::iter::once((running.pid(), NET_BIND_SERVICE));
    for (pid, kept) in control.chain(descendants(running.pid()).into_iter().map(|plane| (plane, 0))) {
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(u64::from_str_radix(&status(pid, set), 16).unwrap(), kept, "{set}");
        }
        assert_eq!(status(pid, "NoNewPrivs"), "1");
        let root = format!("/proc/{pid}/root");
        let there = |name: &str| Path::new(&root).join(name).exists();
        assert_eq!((there("etc"), there("run")), (kept != 0, kept != 0));
        for hidden in ["home", "root", "var", "usr", "tmp", "dev"] {
            assert!(!there(hidden), "{hidden}");
        }
    }
}

#[test]
fn sandbox_capabilities_and_root_directory() {
    let world = World::new();
    for as_user in BOTH {
        let target = Target::new(&world, as_user);
        let running = target.serve(&world, &format!("--enable-sandbox {} tap11", target.pid()));
        is_sandboxed(&running);
        assert!(!target.net("fib_trie").contains("10.0.2.100"));
    }
}

#[test]
fn sandbox_with_a_namespace_named_by_path() {
    let world = World::new();
    for as_user in BOTH {
        let target = Target::new(&world, as_user);
        let pid = target.pid();
        let arguments = format!(
            "--enable-sandbox --enable-seccomp --userns-path=/proc/{pid}/ns/user --netns-type=path /proc/{pid}/ns/net tap11"
        );
        let running = target.serve(&world, &arguments);
        is_sandboxed(&running);
        assert_eq!(status(running.pid(), "Seccomp"), "2");
    }
}

#[test]
fn sandbox_no_unmount_of_what_is_shared() {
    let world = World::new();
    let target = Target::new(&world, false);
    // A mount below /run of a mount namespace whose mounts are shared, with slirp4netns in that namespace.
    let script = format!(
        "exec unshare -m --propagation shared sh -ec '
        mount -t tmpfs tmpfs /run
        mkdir /run/ringtap-test-$$; mount -t tmpfs tmpfs /run/ringtap-test-$$; touch /run/ringtap-test-$$/here
        \"$S\" --ready-fd 3 --enable-sandbox {} tap11 3>/run/ringtap-test-$$/ready >/dev/null & p=$!
        while [ ! -s /run/ringtap-test-$$/ready ]; do kill -0 $p; sleep 0.05; done
        kill $p; wait $p; test -e /run/ringtap-test-$$/here'",
        target.pid()
    );
    let outcome = crate::common::outcome("no-unmount", shell(&world, false, &script));
    outcome.ok();
}

#[test]
fn seccomp_with_a_user_namespace_named_by_path() {
    let world = World::new();
    for as_user in BOTH {
        let target = Target::new(&world, as_user);
        let pid = target.pid();
        let arguments = format!("-c --enable-seccomp --userns-path=/proc/{pid}/ns/user {pid} tap11");
        let running = target.serve(&world, &arguments);
        for pid in std::iter::once(running.pid()).chain(descendants(running.pid())) {
            assert_eq!(status(pid, "Seccomp"), "2");
        }
        let guest = world.lab.guest(pid, vec![target.holder, running]).unwrap();
        sh(guest.place(), "ping -c 1 -W 10 10.0.2.2").ok();
    }
}

#[test]
fn a_plane_that_dies_is_replaced_behind_the_sandbox() {
    let world = World::new();
    let target = Target::new(&world, true);
    let running =
        target.serve(&world, &format!("-c --enable-sandbox --enable-seccomp {} tap11", target.pid()));
    let first = descendants(running.pid());
    for plane in &first {
        let pid = nix::unistd::Pid::from_raw(plane.cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    let control = running.pid();
    let guest = world.lab.guest(target.pid(), vec![target.holder, running]).unwrap();
    sh(guest.place(), "ping -c 1 -W 20 10.0.2.2").ok();
    assert!(descendants(control).iter().any(|p| !first.contains(p)));
}
