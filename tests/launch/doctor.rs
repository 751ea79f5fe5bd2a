//! `ringtap doctor`, where a condition can be made in a namespace: what it says is the code of that condition and no other.

use crate::refusals::with_refused_call;
use crate::{Bench, Said, run};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// What keeps ringtap from starting, or takes something: (name, code, remedy).
fn wrong(said: &Said) -> Vec<(String, String, String)> {
    let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    assert_eq!(report["ok"], said.status == 0, "{said:?}");
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().unwrap();
    let bad = checks.iter().filter(|c| c["status"] == "fail" || c["status"] == "warn");
    bad.map(|c| (text(c, "name"), text(c, "code"), text(c, "remedy"))).collect()
}

/// The codes that `command`, a `doctor --json`, has and the same on a whole host has not.
fn codes(command: Command, usual: &[String]) -> (i32, Vec<String>) {
    let said = run(command);
    let mut codes: Vec<String> = wrong(&said)
        .into_iter()
        .map(|(name, code, remedy)| {
            assert!(!remedy.is_empty(), "{name} has no remedy: {said:?}");
            code
        })
        .filter(|code| !usual.contains(code))
        .collect();
    codes.dedup();
    (said.status, codes)
}

/// What this machine lacks anyway, which is nothing that keeps ringtap from starting.
fn usual(command: Command) -> Vec<String> {
    let said = run(command);
    assert_eq!(said.status, 0, "{said:?}");
    wrong(&said).into_iter().map(|(_, code, _)| code).collect()
}

const DOCTOR: &str = "exec \"$R\" doctor --json";

/// As root of the lab, behind `script` in a mount namespace of its own.
fn behind(bench: &Bench, script: &str) -> Command {
    let mut command = bench.root_shell("exec unshare --mount sh -c \"$S\"");
    command.env("S", format!("{script} && {DOCTOR}"));
    command
}

#[test]
fn a_host_on_which_it_works() {
    let bench = Bench::new();
    let said = run(bench.user(&["doctor"]));
    assert_eq!(said.status, 0, "{said:?}");
    assert!(said.out.contains("\nringtap works here"), "{said:?}");
    for name in [
        "kernel",
        "io_uring",
        "operations",
        "memlock",
        "tun",
        "namespaces",
        "tap",
        "sub-ids",
        "descriptors",
        "pipes",
    ] {
        assert!(said.out.lines().any(|l| l[6..].starts_with(name)), "{name}: {said:?}");
    }
    // Nothing is left of it.
    let left =
        run(bench.shell("ls \"${XDG_RUNTIME_DIR:-/tmp/ringtap-$(id -u)}/ringtap\" 2>/dev/null | wc -l"));
    assert_eq!(left.out.trim(), "0", "{left:?}");
}

#[test]
fn the_device_node() {
    let bench = Bench::new();
    let usual = usual(behind(&bench, "true"));
    let missing = behind(&bench, "mount -t tmpfs none /dev/net");
    assert_eq!(codes(missing, &usual), (1, vec!["tun-missing".to_owned()]));
    // As in `a_tun_device_that_may_not_be_opened`.
    let mut denied = if bench.lab.ids() < 2 {
        behind(&bench, "mount --bind /etc/shadow /dev/net/tun")
    } else {
        let mut command = bench.root_shell("exec unshare --mount sh -c \"$S\"");
        let device = "mount -t tmpfs none /dev/net && touch /dev/net/tun && chmod 0600 /dev/net/tun";
        let user = "setpriv --reuid 1 --clear-groups --inh-caps=-all";
        command.env("S", format!("{device} && exec {user} \"$R\" doctor --json"));
        command
    };
    denied.env_remove("XDG_RUNTIME_DIR");
    let (status, codes) = codes(denied, &usual);
    assert_eq!(status, 1);
    assert!(
        codes.contains(&"tun-denied".to_owned()) && !codes.contains(&"tun-missing".to_owned()),
        "{codes:?}"
    );
}

#[test]
fn user_namespaces_that_are_off() {
    let bench = Bench::new();
    let usual = usual(behind(&bench, "true"));
    let off = behind(&bench, "echo 0 > /proc/sys/user/max_user_namespaces");
    assert_eq!(codes(off, &usual), (1, vec!["userns-off".to_owned()]));
}

#[test]
fn io_uring_that_is_refused_for_one_reason_or_another() {
    let bench = Bench::new();
    let usual = usual(bench.user(&["doctor", "--json"]));
    drop(bench);
    // no_new_privs comes along with a filter, and what is lost by it is no matter here.
    let refused = |errno, make: fn(&Bench) -> Command| {
        let (status, codes) = with_refused_call(errno, move || codes(make(&Bench::new()), &[]));
        assert_eq!(status, 1, "{codes:?}");
        codes
            .into_iter()
            .filter(|c| c.starts_with("io-uring") || c.contains("memlock") || c.contains("kernel"))
            .collect::<Vec<_>>()
    };
    let plain: fn(&Bench) -> Command = |bench| bench.user(&["doctor", "--json"]);
    assert_eq!(refused(libc::EPERM, plain), ["io-uring-blocked"]);
    assert_eq!(refused(libc::ENOSYS, plain), ["io-uring-missing"]);
    assert_eq!(refused(libc::EINVAL, plain), ["kernel-too-old"]);
    assert_eq!(refused(libc::ENOMEM, plain), ["memlock-too-low"]);
    // The switch of the whole machine, as a process would find it.
    let switched: fn(&Bench) -> Command = |bench| {
        let level = bench.lab.dir().join("level").display().to_string();
        let switch = format!("echo 2 > {level} && mount --bind {level} /proc/sys/kernel/io_uring_disabled");
        behind(bench, &switch)
    };
    if Path::new("/proc/sys/kernel/io_uring_disabled").exists() {
        assert_eq!(refused(libc::EPERM, switched), ["io-uring-disabled"]);
    }
    assert!(!usual.iter().any(|c| c.starts_with("io-uring")), "{usual:?}");
}

#[test]
fn locked_memory_that_does_not_suffice() {
    let bench = Bench::new();
    let usual = usual(bench.user(&["doctor", "--json"]));
    let (status, codes) = codes(bench.shell(&format!("ulimit -l 0 && {DOCTOR}")), &usual);
    // Kernels before 6.14 charge rings to the control group alone.
    match status {
        1 => assert_eq!(codes, ["memlock-too-low"]),
        _ => assert!(codes.is_empty(), "{codes:?}"),
    }
}

#[test]
fn sub_ids_that_are_missing() {
    let bench = Bench::new();
    if bench.lab.ids() < 2 {
        // The lab's user has none to be taken away.
        assert!(wrong(&run(bench.user(&["doctor", "--json"]))).iter().any(|(name, ..)| name == "sub-ids"));
        return;
    }
    let usual = usual(bench.user(&["doctor", "--json"]));
    let user = format!("setpriv --reuid {} --clear-groups --inh-caps=-all", ringtap::lab::USER.1);
    let none = format!("mount --bind /dev/null /etc/subuid && exec {user} \"$R\" doctor --json");
    let mut command = bench.root_shell("exec unshare --mount sh -c \"$S\"");
    command.env("S", none).env_remove("XDG_RUNTIME_DIR");
    let (status, codes) = codes(command, &usual);
    assert_eq!((status, &codes[..]), (0, &["no-sub-ids".to_owned()][..]));
    // A warning keeps nobody from starting, unless he wants to know.
    let strict = run(bench.user(&["doctor", "--strict"]));
    assert_eq!(strict.status, i32::from(!usual.is_empty()), "{strict:?}");
}
