//! What does not work here is said in one line, with cause and remedy, and status 1.

use crate::{Bench, run};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::path::Path;

#[test]
fn a_tun_device_that_is_not_one() {
    let bench = Bench::with(&[(Path::new("/dev/null"), "/dev/net/tun")]);
    let said = run(bench.user(&["run", "true"]));
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.starts_with("ringtap: ") && said.err.contains("TUNSETIFF"), "{said:?}");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
}

#[test]
fn user_namespaces_that_are_used_up() {
    let bench = Bench::new();
    let said = run(bench.root_shell("echo 0 > /proc/sys/user/max_user_namespaces && exec \"$R\" run true"));
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("sysctl -w user.max_user_namespaces"), "{said:?}");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
}

#[test]
fn a_state_directory_that_others_may_write_to() {
    let bench = Bench::new();
    let dir = bench.lab.dir().join("open");
    let script = format!("mkdir -m 777 {0} && exec \"$R\" run --state-dir {0} true", dir.display());
    let said = run(bench.root_shell(&script));
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("is not ours alone"), "{said:?}");
}

#[test]
fn descriptors_that_were_not_passed() {
    let bench = Bench::new();
    let said = run(bench.user(&["run", "--ready-fd", "77", "true"]));
    assert_eq!(said.status, 1);
    assert!(said.err.starts_with("ringtap: --ready-fd: 77: ") && said.err.lines().count() == 1, "{said:?}");
}

#[test]
fn namespaces_that_are_not_there() {
    let bench = Bench::new();
    for args in [&["attach", "4194304"][..], &["attach", "--netns", "/no/such/file"]] {
        let said = run(bench.user(args));
        assert_eq!(said.status, 1, "{said:?}");
        assert!(said.err.starts_with("ringtap: cannot open ") && said.err.lines().count() == 1, "{said:?}");
    }
    let said = run(bench.user(&["attach", "--netns", "/etc/passwd"]));
    assert_eq!(said.status, 1);
    assert!(said.err.contains("cannot enter the network namespace"), "{said:?}");
}

#[test]
fn a_tun_device_that_is_not_there() {
    let bench = Bench::new();
    let script = "mount -t tmpfs none /dev/net && exec \"$R\" run true";
    let mut command = bench.root_shell("exec unshare --mount sh -c \"$S\"");
    command.env("S", script);
    let said = run(command);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.starts_with("ringtap: ") && said.err.contains("modprobe tun"), "{said:?}");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
}

#[test]
fn a_tun_device_that_may_not_be_opened() {
    let bench = Bench::new();
    // With a second id, a device of a mode that leaves it to an owner whom nobody inside is. Without, a file of the machine's
    // root, who is nobody inside either.
    let (device, user) = match bench.lab.ids() < 2 {
        false => (
            "mount -t tmpfs none /dev/net && touch /dev/net/tun && chmod 0600 /dev/net/tun",
            "setpriv --reuid 1 --clear-groups --inh-caps=-all",
        ),
        true => ("mount --bind /etc/shadow /dev/net/tun", ""),
    };
    let script = format!("{device} && exec {user} \"$R\" run --log-level error true");
    let mut command = bench.root_shell("exec unshare --mount sh -c \"$S\"");
    command.env("S", script).env_remove("XDG_RUNTIME_DIR");
    let said = run(command);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.starts_with("ringtap: ") && said.err.contains("chmod 0666"), "{said:?}");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
}

/// Does `what` where io_uring_setup(2) fails with `errno`.
pub fn with_refused_call<T: Send>(errno: i32, what: impl FnOnce() -> T + Send) -> T {
    let arch = std::env::consts::ARCH.try_into().unwrap();
    // 425 on every architecture: it is younger than their common table.
    let rules = [(425, Vec::new())].into_iter().collect();
    let refuse = SeccompAction::Errno(errno.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    // It holds for the thread that asks, and what that starts. no_new_privs comes along, which takes newuidmap's ids.
    let there = || {
        seccompiler::apply_filter(&program).unwrap();
        what()
    };
    std::thread::scope(|scope| scope.spawn(there).join().unwrap())
}

/// What `ringtap run true` says there.
fn refused_rings(errno: i32) -> crate::Said {
    let bench = Bench::new();
    with_refused_call(errno, move || run(bench.user(&["run", "--log-level", "error", "true"])))
}

#[test]
fn io_uring_that_a_profile_forbids_or_hides() {
    for (errno, word) in [
        (libc::EPERM, "io_uring is forbidden"),
        (libc::EACCES, "io_uring is forbidden"),
        (libc::ENOSYS, "io_uring is not there"),
        (libc::ENOMEM, "ulimit -l"),
        (libc::EMFILE, "ulimit -n"),
    ] {
        let said = refused_rings(errno);
        assert_eq!(said.status, 1, "{said:?}");
        assert!(said.err.starts_with("ringtap: ") && said.err.contains(word), "{errno}: {said:?}");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
    }
}

#[test]
fn too_few_descriptors_at_every_stage() {
    let bench = Bench::new();
    let mut refused = 0;
    for limit in 4..40 {
        let script = format!("ulimit -n {limit} && exec \"$R\" run --log-level error true");
        let said = run(bench.shell(&script));
        // Below some limit the loader itself cannot open its libraries, which is 127 and not ours to word.
        if said.status == 0 || said.status == 127 {
            continue;
        }
        refused += 1;
        assert_eq!(said.status, 1, "{limit}: {said:?}");
        assert!(said.err.starts_with("ringtap: ") && said.err.contains("ulimit -n"), "{limit}: {said:?}");
        assert_eq!(said.err.lines().count(), 1, "{limit}: {said:?}");
    }
    assert!(refused > 5, "{refused}");
}
