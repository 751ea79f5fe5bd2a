//! integration-systemd-socket.sh: sockets that were passed to us are the command's.

use crate::common::World;
use crate::sh;

/// What the command finds: how many, whether they are for it, and whether they are open.
const CHECK: &str = "echo $LISTEN_FDS; test $LISTEN_PID = $$ && echo mine; for n in 3 4 5; do \
                     test -e /proc/self/fd/$n && readlink /proc/self/fd/$n; done; true";

#[test]
fn sockets_keep_their_numbers_and_listen_pid_is_the_commands() {
    let world = World::new();
    for options in [
        "",
        "--pidns",
        "--net=slirp4netns --disable-host-loopback --port-driver=builtin",
        "--net=none --detach-netns",
    ] {
        for count in 1..=3 {
            let open: String = (3..3 + count).map(|n| format!("{n}<$XDG_RUNTIME_DIR/f{n} ")).collect();
            let script = format!(
                "for n in 3 4 5; do : > $XDG_RUNTIME_DIR/f$n; done; \
                 exec sh -c 'LISTEN_FDS={count} LISTEN_PID=$$ exec rootlesskit {options} sh -c \"$CHECK\"' {open}"
            );
            let mut command = world.shell(&script);
            command.env("CHECK", CHECK);
            let said = crate::outcome(&script, command).ok();
            let mut lines = said.lines();
            assert_eq!(lines.next(), Some(count.to_string().as_str()), "{options}: {said}");
            assert_eq!(lines.next(), Some("mine"), "{options}: {said}");
            let open: Vec<_> = lines.map(|l| l.rsplit('/').next().unwrap()).collect();
            let expected: Vec<_> = (3..3 + count).map(|n| format!("f{n}")).collect();
            assert_eq!(open, expected, "{options}");
        }
    }
}

#[test]
fn a_listen_pid_of_somebody_elses_is_left_alone() {
    let world = World::new();
    let said =
        sh(&world, "LISTEN_FDS=1 LISTEN_PID=1 rootlesskit sh -c 'echo $LISTEN_FDS $LISTEN_PID' 3</dev/null");
    assert_eq!(said.ok(), "1 1\n");
}
