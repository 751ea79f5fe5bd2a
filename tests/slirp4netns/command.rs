//! Command line, descriptors, namespaces.

use crate::common::World;
use crate::{BOTH, Target, shell, slirp4netns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringtap::lab::Running;
use std::io::Read;
use std::process::Stdio;

fn signal(running: &Running, signal: Signal) {
    kill(Pid::from_raw(running.pid().cast_signed()), signal).unwrap();
}

#[test]
fn configure_makes_the_device_and_gives_it_an_address() {
    let world = World::new();
    for as_user in BOTH {
        let target = Target::new(&world, as_user);
        let _running = target.serve(&world, &format!("-c {} tap11", target.pid()));
        assert!(target.net("dev").contains("tap11:"));
        assert!(target.net("fib_trie").contains("|-- 10.0.2.100\n"));
    }
}

#[test]
fn without_configure_the_device_has_no_address() {
    let world = World::new();
    let target = Target::new(&world, true);
    let _running = target.serve(&world, &format!("{} tap11", target.pid()));
    assert!(target.net("dev").contains("tap11:"));
    assert!(!target.net("fib_trie").contains("10.0.2.100"));
}

#[test]
fn nspath_with_userns_path() {
    let world = World::new();
    for as_user in BOTH {
        let target = Target::new(&world, as_user);
        let pid = target.pid();
        let arguments =
            format!("--userns-path=/proc/{pid}/ns/user --netns-type=path /proc/{pid}/ns/net tap11");
        let _running = target.serve(&world, &arguments);
        assert!(target.net("dev").contains("tap11:"));
    }
}

#[test]
fn nspath_from_inside_the_user_namespace() {
    let world = World::new();
    let target = Target::new(&world, false);
    let pid = target.pid();
    let script = format!(
        "exec nsenter --preserve-credentials -U --target={pid} \"$S\" -r 3 --netns-type=path /proc/{pid}/ns/net tap11 \
         3>&1 >/dev/null"
    );
    let mut command = shell(&world, false, &script);
    let mut running = world.lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
    let mut said = String::new();
    running.child().stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "1");
    assert!(target.net("dev").contains("tap11:"));
}

#[test]
fn ready_fd_holds_a_1() {
    let world = World::new();
    for as_user in BOTH {
        let target = Target::new(&world, as_user);
        // `serve` insists on it; here with the descriptor 10, as upstream's script.
        let script = format!("exec \"$S\" -c -r 10 {} tap11 10>&1 >/dev/null", target.pid());
        let mut command = shell(&world, as_user, &format!("exec bash -c '{script}'"));
        let mut running = world.lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
        let mut said = String::new();
        running.child().stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "1");
    }
}

#[test]
fn exit_fd_ends_the_process_when_its_writer_goes() {
    let world = World::new();
    for as_user in BOTH {
        let target = Target::new(&world, as_user);
        let script = format!(
            "rm -f \"$XDG_RUNTIME_DIR/s\"; exec \"$S\" -c -e 4 -r 3 -a \"$XDG_RUNTIME_DIR/s\" {} tap11 4<&0 3>&1 >/dev/null",
            target.pid()
        );
        let mut command = shell(&world, as_user, &script);
        let mut running =
            world.lab.host().spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
        let mut said = String::new();
        running.child().stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "1");
        assert!(running.child().try_wait().unwrap().is_none());
        drop(running.child().stdin.take());
        assert_eq!(running.child().wait().unwrap().code(), Some(0));
        let left = shell(&world, as_user, "test -e \"$XDG_RUNTIME_DIR/s\"").status().unwrap();
        assert!(!left.success(), "the API socket is left behind");
        assert!(!target.net("dev").contains("tap11:"));
    }
}

#[test]
fn it_ends_well_when_told_to_and_when_the_tap_goes() {
    let world = World::new();
    let target = Target::new(&world, true);
    let mut running = target.serve(&world, &format!("-c {} tap11", target.pid()));
    signal(&running, Signal::SIGTERM);
    assert_eq!(running.child().wait().unwrap().code(), Some(0));
    let mut guest = target.guest(&world, "-c");
    crate::common::sh(guest.place(), "ip link delete tap11").ok();
    assert_eq!(guest.running()[1].child().wait().unwrap().code(), Some(0));
}

/// As when the kernel's word of the tap's end has missed the plane (`tap::is_gone`).
#[test]
fn it_ends_with_its_tap_though_the_plane_has_not_noticed() {
    let world = World::new();
    let target = Target::new(&world, true);
    let mut guest = target.guest(&world, "-c");
    let control = guest.running()[1].pid();
    let plane = std::fs::read_to_string(format!("/proc/{control}/task/{control}/children")).unwrap();
    let plane = Pid::from_raw(plane.trim().parse().unwrap());
    kill(plane, Signal::SIGSTOP).unwrap();
    crate::common::sh(guest.place(), "ip link delete tap11").ok();
    assert_eq!(guest.running()[1].child().wait().unwrap().code(), Some(0));
}

#[test]
fn the_api_socket_is_gone_after_every_signal_that_ends_it() {
    let world = World::new();
    for end in [Signal::SIGTERM, Signal::SIGINT] {
        let target = Target::new(&world, true);
        let running = target.serve(&world, &format!("-c -a \"$XDG_RUNTIME_DIR/s\" {} tap11", target.pid()));
        let there = || shell(&world, true, "test -S \"$XDG_RUNTIME_DIR/s\"").status().unwrap().success();
        // It is there before --ready-fd says that it is ready.
        assert!(there());
        signal(&running, end);
        let mut running = running;
        assert_eq!(running.child().wait().unwrap().code(), Some(0), "{end}");
        assert!(!there(), "{end}");
    }
}

#[test]
fn traffic_and_its_errors_write_nothing() {
    // Podman keeps what is said in a file that nobody ever sees.
    let world = World::new();
    let target = Target::new(&world, true);
    let script = format!(
        "exec \"$S\" -c -6 --disable-host-loopback --ready-fd 3 {} tap11 3>&1 >\"$XDG_RUNTIME_DIR/said\" 2>&1",
        target.pid()
    );
    let mut command = shell(&world, true, &script);
    let mut running = world.lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
    let mut said = String::new();
    running.child().stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "1");
    let length = || {
        let said = shell(&world, true, "cat \"$XDG_RUNTIME_DIR/said\"").output().unwrap().stdout;
        String::from_utf8(said).unwrap()
    };
    let before = length();
    let (pid, holder) = (target.pid(), target.holder);
    let guest = world.lab.guest(pid, vec![holder, running]).unwrap();
    let script = "
        curl -sS -o /dev/null -m 20 http://203.0.113.80/bytes/100000
        for to in 203.0.113.80:81 203.0.113.67:80 127.0.0.2:80 10.0.2.2:9 10.0.2.3:80 224.0.0.1:80; do
            curl -s -o /dev/null -m 2 http://$to/ || true
        done
        ping -c 1 -W 2 203.0.113.67 >/dev/null || true
        echo junk | timeout 2 socat -u - UDP4:203.0.113.80:9 || true
        echo junk | timeout 2 socat -u - UDP4:10.0.2.3:53 || true";
    for program in ["curl", "socat"] {
        crate::common::need(program);
    }
    crate::common::sh(guest.place(), script).ok();
    assert_eq!(length(), before);
}

#[test]
fn cidr_errors() {
    let world = World::new();
    let pid = std::process::id();
    for (cidr, words) in [
        ("24", "invalid CIDR"),
        ("foo", "invalid CIDR"),
        ("10.0.2.0", "invalid CIDR"),
        ("10.0.2.100/24", "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24"),
        ("10.0.2.100/26", "prefix length needs to be 1-25"),
    ] {
        let outcome = slirp4netns(&world, true, &format!("-c --cidr {cidr} {pid} tap11"));
        assert_eq!(outcome.status.code(), Some(1));
        assert!(outcome.stderr.starts_with(words), "{outcome:?}");
        assert!(outcome.stdout.starts_with("Usage: slirp4netns"), "{outcome:?}");
    }
}

#[test]
fn cidr_moves_the_guest() {
    let world = World::new();
    let target = Target::new(&world, true);
    let _running = target.serve(&world, &format!("-c {} --cidr 10.0.135.128/25 tap11", target.pid()));
    assert!(target.net("fib_trie").contains("|-- 10.0.135.228\n"));
}

#[test]
fn macaddress_shows_on_the_tap() {
    let world = World::new();
    for as_user in BOTH {
        let guest = Target::new(&world, as_user).guest(&world, "-c --macaddress 0e:d4:18:d9:38:fb");
        let said = crate::common::sh(guest.place(), "ip link show tap11").ok();
        assert!(said.contains("0e:d4:18:d9:38:fb"), "{said}");
    }
}

#[test]
fn help_and_version_go_to_standard_output_alone() {
    let world = World::new();
    for option in ["--help", "-h", "--version", "-v"] {
        let outcome = slirp4netns(&world, true, option);
        assert_eq!((outcome.status.code(), outcome.stderr.as_str()), (Some(0), ""));
        let first = if option.contains('h') { "Usage: slirp4netns" } else { "slirp4netns version 1." };
        assert!(outcome.stdout.starts_with(first), "{outcome:?}");
    }
    let version = slirp4netns(&world, true, "--version").ok();
    assert!(version.lines().any(|l| l == "SLIRP_CONFIG_VERSION_MAX: 6"));
}

#[test]
fn bess_is_refused_with_the_reason() {
    let world = World::new();
    let outcome = slirp4netns(&world, true, "--target-type=bess /tmp/no-such-socket");
    assert_eq!(outcome.status.code(), Some(1));
    assert!(outcome.stderr.contains("bess is not supported"), "{outcome:?}");
}

#[test]
fn install_makes_the_link_that_callers_start() {
    let world = World::new();
    let script = "
        r=$(dirname \"$S\")/ringtap; p=$XDG_RUNTIME_DIR/prefix
        $r install --prefix $p --personas slirp4netns; $r install --prefix $p --personas slirp4netns
        $p/bin/slirp4netns --version
        rm $p/bin/slirp4netns; echo other > $p/bin/slirp4netns
        ! $r install --prefix $p --personas slirp4netns || exit 1
        grep -q other $p/bin/slirp4netns
        $r install --force --prefix $p --personas slirp4netns; test -L $p/bin/slirp4netns
    ";
    let outcome = crate::common::outcome("install", shell(&world, true, &format!("set -e; {script}")));
    assert!(outcome.stderr.contains("is another program"), "{outcome:?}");
    assert!(outcome.ok().contains("slirp4netns version 1."));
}
