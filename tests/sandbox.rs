//! The plane at work, looked at from outside: what it has given up, whoever started it and however.

mod common;

use common::{World, outcome, sh};
use ringtap::lab::{Guest, Running};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The plane of the instance whose control process is `control`; the identity's runtime directory is `run`.
fn plane(world: &World, run: &str, control: u32) -> u32 {
    let file = world.lab.dir().join(run).join("ringtap").join(control.to_string()).join("plane_pid");
    fs::read_to_string(file).unwrap().parse().unwrap()
}

fn field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// Everything that is claimed of a plane that works.
fn is_locked_in(_: &World, pid: u32, control: u32) {
    for (name, value) in [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("Threads", "1"),
    ] {
        assert_eq!(field(pid, name), value, "{name}");
    }
    // By whoever runs the tests, for the plane is not to be looked into by its own user.
    let look = |what: String| look(&what);
    assert_eq!(look(format!("ls -A /proc/{pid}/root/")), "", "its root is empty");
    let mounts = look(format!("cat /proc/{pid}/mountinfo"));
    assert!(mounts.lines().count() == 1 && mounts.contains(" / / ro,"), "{mounts}");
    let namespace = |pid: u32, kind| look(format!("readlink /proc/{pid}/ns/{kind}"));
    for kind in ["user", "mnt"] {
        assert_ne!(namespace(pid, kind), namespace(control, kind), "{kind}");
    }
    assert_eq!(namespace(pid, "net"), namespace(control, "net"), "flows go out from the host's network");
    assert_eq!(look(format!("cat /proc/{pid}/uid_map /proc/{pid}/gid_map")), "", "no id is mapped");
    let limits = look(format!("cat /proc/{pid}/limits"));
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
    // Non-dumpable: its directory belongs to root, not to its user.
    let fds = look(format!("ls -l /proc/{pid}/fd | sed -n 's/.* [3-9][0-9]* -> //p'"));
    for fd in fds.lines() {
        let known = ["/dev/null", "/dev/net/tun", "anon_inode:[io_uring]"].contains(&fd)
            || fd.starts_with("socket:")
            || fd.starts_with("pipe:");
        assert!(known, "the plane holds {fd}");
    }
}

/// What a shell of the test runner's says.
fn look(what: &str) -> String {
    let mut command = std::process::Command::new("sh");
    command.args(["-ec", what]);
    outcome(what, command).ok()
}

fn works(guest: &Guest) {
    sh(guest.place(), "curl -sS --max-time 20 http://server.test/peer; ping -c 1 -W 5 10.0.2.2").ok();
}

#[test]
fn locked_in_by_default_and_after_it_was_replaced() {
    let world = World::new();
    let mut guest = world.guest();
    let control = guest.running()[0].pid();
    let first = plane(&world, "user-run", control);
    works(&guest);
    is_locked_in(&world, first, control);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(first.cast_signed()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    // The successor is told of when it is forked, and locked in some moments later.
    while plane(&world, "user-run", control) == first
        || field(plane(&world, "user-run", control), "Seccomp") != "2"
    {
        assert!(Instant::now() < end, "no successor");
        std::thread::sleep(Duration::from_millis(5));
    }
    works(&guest);
    is_locked_in(&world, plane(&world, "user-run", control), control);
}

/// `ringtap run OPTIONS` of the lab's root.
fn roots(world: &World, options: &[&str]) -> Running {
    let mut command = world.ringtap(false);
    command.arg("run").args(options).args(["--", "sh", "-c", "echo ready; exec sleep infinity"]);
    let mut running = world.lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
    let mut bytes = [0; 6];
    running.child().stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
    running
}

#[test]
fn as_root_and_when_the_whole_is_required() {
    let world = World::new();
    let running = roots(&world, &["--sandbox", "require"]);
    let control = running.pid();
    let pid = plane(&world, "run", control);
    is_locked_in(&world, pid, control);
    let guest = world.lab.guest_below(running, "sleep", common::PATIENCE).unwrap();
    works(&guest);
}

#[test]
fn attached_to_a_process() {
    let world = World::new();
    let mut guest = world.attach(world.bare(""), &["--sandbox", "require"], None);
    works(&guest);
    // Control is what the shell of the helper has become.
    let control = guest.running()[1].pid();
    is_locked_in(&world, plane(&world, "user-run", control), control);
}

#[test]
fn off_is_off_and_the_ring_is_restricted_all_the_same() {
    let world = World::new();
    let mut guest = world.guest_with(&["--sandbox", "off"]);
    let pid = plane(&world, "user-run", guest.running()[0].pid());
    assert_eq!((field(pid, "Seccomp"), field(pid, "NoNewPrivs")), ("0".to_owned(), "0".to_owned()));
    assert_ne!(look(&format!("ls -A /proc/{pid}/root/")), "");
    works(&guest);
}

/// A place where no user namespace is to be had any more, and a namespace that was made before, for a second.
fn without_user_namespaces(world: &World, mode: &str) -> common::Outcome {
    let mut command = world.lab.host().command("unshare").unwrap();
    let script = "
        unshare --user --map-root-user --net sleep 2 & pid=$!
        until [ \"$(readlink /proc/$pid/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do sleep 0.02; done
        sleep 0.2
        echo 0 > /proc/sys/user/max_user_namespaces
        exec \"$R\" attach --sandbox \"$1\" \"$pid\"";
    command.args(["--user", "--map-root-user", "sh", "-ec", script, "sh", mode]);
    outcome(mode, {
        command.env("R", world.lab.bin("ringtap"));
        command
    })
}

#[test]
fn what_the_kernel_lacks_is_said_once_or_ends_the_start() {
    let world = World::new();
    let on = without_user_namespaces(&world, "on");
    assert!(on.status.success(), "{on:#?}");
    let lines: Vec<_> = on.stderr.lines().collect();
    assert!(
        matches!(lines[..], [line] if line.contains("sandbox is not whole: no user and mount namespace of its own (unshare: ENOSPC")),
        "{on:#?}"
    );
    let required = without_user_namespaces(&world, "require");
    assert_eq!(required.status.code(), Some(1), "{required:#?}");
    assert!(required.stderr.contains("the sandbox is not whole") && required.stderr.lines().count() == 1);
    let off = without_user_namespaces(&world, "off");
    assert!(off.status.success() && off.stderr.is_empty(), "{off:#?}");
}

#[test]
fn the_way_to_the_program_is_still_there_outside() {
    // The plane's mounts are its own: what it unmounts stays where it is for everybody else.
    let world = World::new();
    let before = sh(world.lab.host(), "cat /proc/self/mountinfo | cut -d' ' -f5 | sort").ok();
    let guest = world.guest();
    works(&guest);
    assert_eq!(sh(world.lab.host(), "cat /proc/self/mountinfo | cut -d' ' -f5 | sort").ok(), before);
    assert!(Path::new("/proc/self").exists());
}

/// Descriptors of a plane, by what they are, and how many of each.
fn held(pid: u32) -> std::collections::BTreeMap<String, usize> {
    let mut held = std::collections::BTreeMap::new();
    // Its directory is root's.
    for line in look(&format!("ls -l /proc/{pid}/fd | sed -n 's/.* [0-9][0-9]* -> //p'")).lines() {
        let kind =
            line.split_once(":[").map_or(line, |(kind, rest)| if kind == "anon_inode" { rest } else { kind });
        *held.entry(kind.trim_end_matches(']').to_owned()).or_default() += 1;
    }
    held
}

#[test]
fn it_holds_what_it_needs_and_nothing_of_the_callers() {
    let world = World::new();
    if !nix::unistd::geteuid().is_root() {
        // Nobody else may look.
        return;
    }
    // Descriptors that the caller has open; control keeps them for COMMAND.
    let script =
        "exec \"$R\" \"$@\" 7</etc/passwd 8</ 9>/dev/full -- sh -c 'echo ready; exec sleep infinity'";
    let capture = world.lab.dir().join("user-run/capture").display().to_string();
    for (options, sockets, files) in [
        (&["run"][..], 1, 0),
        (&["run", "--pcap", &capture], 1, 1),
        // With ports: two listeners, what is kept for shedding, and the factory's channel and its sockets once it has come.
        (&["run", "-p", "8080:80", "-p", "53:53/udp"], 4, 0),
    ] {
        let mut command = world.lab.host().command_as_user("sh").unwrap();
        command.args(["-c", script, "sh"]).args(options).env("R", world.lab.bin("ringtap"));
        if options.contains(&"53:53/udp") {
            world.lab.host().sysctl("net/ipv4/ip_unprivileged_port_start", "53").unwrap();
        }
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut running =
            world.lab.host().spawn(command.stdin(null).stdout(Stdio::piped()).stderr(Stdio::null())).unwrap();
        running.first_byte(common::PATIENCE).unwrap();
        let plane = plane(&world, "user-run", running.pid());
        // What belongs to ports comes a moment after COMMAND has started.
        let mut now = held(plane);
        let end = Instant::now() + Duration::from_secs(20);
        while now.get("socket").is_none_or(|n| *n < sockets) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            now = held(plane);
        }
        let held = now;
        let count = |what: &str| held.get(what).copied().unwrap_or(0);
        assert_eq!((count("io_uring"), count("/dev/net/tun")), (1, 1), "{held:?}");
        assert_eq!(count(&capture), files, "{held:?}");
        let found = count("socket");
        assert!(if sockets == 1 { found == 1 } else { found >= sockets && found < sockets + 64 }, "{held:?}");
        // Standard streams, and nothing else.
        let rest: usize = held.iter().filter(|(k, _)| k.as_str() == "/dev/null").map(|(_, n)| n).sum();
        assert!(rest <= 3 && held.values().sum::<usize>() == 2 + files + found + rest, "{held:?}");
    }
}

#[test]
fn the_plane_alone_is_not_to_be_looked_into_and_leaves_no_core() {
    let world = World::new();
    let mut command = world.lab.host().command_as_user("sh").unwrap();
    let script = "ulimit -c 1000; exec \"$R\" run -- sh -c 'echo ready; ulimit -c; exec sleep infinity'";
    command.args(["-c", script]).env("R", world.lab.bin("ringtap")).stdout(Stdio::piped());
    let mut running = world.lab.host().spawn(&mut command).unwrap();
    let mut text = [0; 11];
    running.child().stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ready\n1000\n", "COMMAND's limit is the caller's");
    let control = running.pid();
    let plane = plane(&world, "user-run", control);
    let owner =
        |pid: u32| std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}/fd")).unwrap());
    // Files in /proc of a process that is not dumpable belong to root (proc(5)).
    let user = owner(control);
    assert_ne!(owner(plane), user);
    for pid in ringtap::lab::descendants(control).into_iter().filter(|p| *p != plane) {
        // Of the child inside the ids are its own, which are the user's and his sub-ids.
        assert!(owner(pid) == user || owner(pid) >= 0x4000_0000, "{pid}: {}", owner(pid));
    }
    let core = |pid: u32| {
        let limits = look(&format!("cat /proc/{pid}/limits"));
        let line = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap().to_owned();
        line.split_whitespace().nth(4).unwrap().to_owned()
    };
    assert_eq!((core(plane).as_str(), core(control) != "0"), ("0", true));
}

/// A file that is all that is left of a network namespace, of the lab's root.
#[test]
fn attached_to_a_namespace_that_is_a_file() {
    let world = World::new();
    let file = world.lab.dir().join("run/netns");
    fs::write(&file, "").unwrap();
    let file = file.display().to_string();
    sh(world.lab.host(), &format!("unshare --net={file} true")).ok();
    let mut command = world.lab.host().command("sh").unwrap();
    let script = "exec \"$R\" attach --ready-fd 3 --sandbox require --netns \"$1\" 3>&1 >/dev/null";
    command.args(["-ec", script, "sh", &file]).env("R", world.lab.bin("ringtap")).stdout(Stdio::piped());
    let mut running = world.lab.host().spawn(&mut command).unwrap();
    running.first_byte(common::PATIENCE).unwrap();
    is_locked_in(&world, plane(&world, "run", running.pid()), running.pid());
    let inside = |what: &str| sh(world.lab.host(), &format!("nsenter --net={file} {what}"));
    inside("curl -sS --max-time 20 http://server.test/peer --resolve server.test:80:203.0.113.80").ok();
    // Told to end, it leaves the file and takes its tap.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(running.pid().cast_signed()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(running.child().wait().unwrap().code(), Some(0));
    inside("ip link show tap0").failed();
    inside("ip link show lo").ok();
}

/// A user does not get at root's.
#[test]
fn the_namespace_of_another_user_is_not_entered() {
    let world = World::new();
    let mut roots = world.lab.host().command("unshare").unwrap();
    roots.args(["--net", "sh", "-c", "echo ready; exec sleep infinity"]).stdout(Stdio::piped());
    let mut roots = world.lab.host().spawn(&mut roots).unwrap();
    roots.first_byte(common::PATIENCE).unwrap();
    let mut command = world.ringtap(true);
    command.args(["attach", "--netns", &format!("/proc/{}/ns/net", roots.pid())]);
    let said = outcome("not ours", command);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let lines: Vec<_> = said.stderr.lines().collect();
    assert!(
        matches!(lines[..], [line] if line.contains("that is yours") || line.contains("as the user who made it")),
        "{said:?}"
    );
}

/// As rootlesskit, with the network where COMMAND is and with one that is detached from it; by root and by a user.
#[test]
fn called_as_rootlesskit_detached_or_not() {
    let world = World::new();
    for as_user in [true, false] {
        for detached in [&[][..], &["--detach-netns"]] {
            let program = world.lab.bin("rootlesskit").display().to_string();
            let host = world.lab.host();
            let command = if as_user { host.command_as_user(&program) } else { host.command(&program) };
            let mut command = command.unwrap();
            command.args(["--net=slirp4netns", "--disable-host-loopback"]).args(detached);
            command.args(["sh", "-c", "echo ready; exec sleep infinity"]).stdout(Stdio::piped());
            let mut running = world.lab.host().spawn(&mut command).unwrap();
            running.first_byte(common::PATIENCE).unwrap();
            let control = running.pid();
            // The one process below control that no other has made, and that is no guest's.
            let net = |pid: u32| look(&format!("readlink /proc/{pid}/ns/net"));
            let mine = |pid: &u32| field(*pid, "Seccomp") == "2" && net(*pid) == net(control);
            let planes: Vec<_> = ringtap::lab::descendants(control).into_iter().filter(mine).collect();
            assert_eq!(planes.len(), 1, "{planes:?}");
            is_locked_in(&world, planes[0], control);
        }
    }
}
