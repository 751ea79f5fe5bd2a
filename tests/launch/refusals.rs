//! What does not work here is said in one line, with cause and remedy, and status 1.

use crate::{Bench, run};
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
