//! The state directory and the environment, as other programs count on them.

use crate::common::World;
use crate::sh;

#[test]
fn the_state_directory_has_its_files_in_their_modes_and_is_gone_at_the_end() {
    let world = World::new();
    let script = "rootlesskit --state-dir=$XDG_RUNTIME_DIR/rk --net=slirp4netns --disable-host-loopback --detach-netns \
                  --port-driver=builtin sh -ec 'cd $ROOTLESSKIT_STATE_DIR; stat -c \"%a %n\" *; \
                  test $(cat child_pid) = $PPID || readlink /proc/self; test -S api.sock; cat resolv.conf'
                  ! test -e $XDG_RUNTIME_DIR/rk";
    let said = sh(&world, script).ok();
    for line in ["600 lock", "444 child_pid", "600 api.sock", "644 hosts", "644 resolv.conf", "444 netns"] {
        assert!(said.lines().any(|l| l == line), "{line:?} in {said}");
    }
    assert!(said.ends_with("nameserver 10.0.2.3\n"), "{said}");
}

#[test]
fn the_command_is_told_where_it_is_and_everything_else_passes_untouched() {
    let world = World::new();
    let script = "id -u; id -g; export NOTIFY_SOCKET=@x; \
                  exec rootlesskit --state-dir=$XDG_RUNTIME_DIR/rk sh -c 'echo $ROOTLESSKIT_PARENT_EUID; \
                  echo $ROOTLESSKIT_PARENT_EGID; echo $ROOTLESSKIT_STATE_DIR; echo $NOTIFY_SOCKET; id -u'";
    let said = sh(&world, script).ok();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((lines[0], lines[1]), (lines[2], lines[3]));
    assert!(lines[4].ends_with("/rk") && lines[4].starts_with('/'), "{said}");
    assert_eq!(&lines[5..], ["@x", "0"]);
}

#[test]
fn a_directory_with_other_files_keeps_them() {
    let world = World::new();
    let script = "mkdir -m 0775 $XDG_RUNTIME_DIR/rk; touch $XDG_RUNTIME_DIR/rk/mine $XDG_RUNTIME_DIR/rk/.bp.sock; \
                  rootlesskit --state-dir=$XDG_RUNTIME_DIR/rk sh -c 'stat -c %a $ROOTLESSKIT_STATE_DIR'; \
                  ls -A $XDG_RUNTIME_DIR/rk";
    assert_eq!(sh(&world, script).ok(), "755\nmine\n");
}

#[test]
fn namespaces_are_new_where_they_were_asked_for_and_shared_where_not() {
    let world = World::new();
    let of = |options: &str| {
        let script = format!(
            "for n in user mnt net pid uts ipc cgroup; do readlink /proc/self/ns/$n; done; \
             rootlesskit {options} sh -c 'for n in user mnt net pid uts ipc cgroup; do readlink /proc/self/ns/$n; done'"
        );
        let said = sh(&world, &script).ok();
        let lines: Vec<_> = said.lines().collect();
        (0..7).map(|n| lines[n] != lines[n + 7]).collect::<Vec<_>>()
    };
    assert_eq!(of(""), [true, true, false, false, false, false, false]);
    assert_eq!(of("--net=none --pidns"), [true, true, true, true, false, false, false]);
    assert_eq!(of("--utsns --ipcns --cgroupns"), [true, true, false, false, true, true, true]);
    assert_eq!(of("--net=none --detach-netns"), [true, true, false, false, false, false, false]);
}

#[test]
fn copied_up_directories_are_writable_symlinks() {
    let world = World::new();
    let script = "rootlesskit --net=slirp4netns --disable-host-loopback --copy-up=/etc --copy-up=/run sh -ec '\
                  stat -f -c %T /etc /run; readlink /etc/passwd; rm -f /run/docker /run/xtables.lock; mkdir /run/docker; \
                  stat -c %F /etc/resolv.conf; ls $ROOTLESSKIT_STATE_DIR/child_pid'";
    let said = sh(&world, script).ok();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(&lines[..2], ["tmpfs", "tmpfs"]);
    assert!(lines[2].starts_with(".ro") && lines[2].ends_with("/passwd"), "{said}");
    assert_eq!(lines[3], "regular file");
}

#[test]
fn a_control_group_that_cannot_be_made_is_a_warning() {
    let world = World::new();
    let said = sh(&world, "rootlesskit --pidns --cgroupns --evacuate-cgroup2=evac echo ran");
    assert!(said.stderr.contains("control group") || said.stderr.contains("evac"), "{said:?}");
    assert_eq!(said.ok(), "ran\n");
}

#[test]
fn only_files_or_only_getsubids_are_asked_when_told_so() {
    let world = World::new();
    if !world.lab.users_are_real() {
        return;
    }
    let ids = |source: &str| {
        let script = format!(
            "printf '#!/bin/sh\\necho 0: $2 1100000000 777\\n' > $HOME/getsubids; chmod 755 $HOME/getsubids; \
             GETSUBIDS=$HOME/getsubids exec rootlesskit --subid-source={source} cat /proc/self/uid_map"
        );
        let said = sh(&world, &script);
        said.stdout.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let map = ids("static");
    assert_eq!((map.len(), map[5].as_str()), (6, "65536"), "{map:?}");
    // Those that the program names are not ours in the files, so newuidmap refuses them.
    assert_eq!(ids("dynamic").len(), 3);
}
