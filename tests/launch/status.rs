//! The exit status is that of a shell.

use crate::{Bench, run};

#[test]
fn the_status_of_the_command_passes_through() {
    let bench = Bench::new();
    for status in [0, 1, 7, 125, 255] {
        let said = run(bench.user(&["run", "sh", "-c", &format!("exit {status}")]));
        assert_eq!(said.status, status, "{said:?}");
        assert_eq!(said.err, "");
    }
}

#[test]
fn a_signal_is_128_and_its_number() {
    let bench = Bench::new();
    for (signal, number) in [("KILL", 9), ("TERM", 15), ("USR1", 10), ("SEGV", 11)] {
        let said = run(bench.user(&["run", "sh", "-c", &format!("kill -{signal} $$")]));
        assert_eq!(said.status, 128 + number, "{signal}: {said:?}");
    }
}

#[test]
fn what_cannot_be_run_is_126_and_what_is_not_there_127() {
    let bench = Bench::new();
    for (command, status) in
        [("no-such-command", 127), ("/no/such/path", 127), ("/etc/passwd", 126), ("/etc", 126)]
    {
        let said = run(bench.user(&["run", command]));
        assert_eq!(said.status, status, "{said:?}");
        assert!(
            said.err.starts_with(&format!("ringtap: {command}: ")) && said.err.lines().count() == 1,
            "{said:?}"
        );
    }
}

#[test]
fn usage_errors_are_2_and_bad_values_1() {
    let bench = Bench::new();
    assert_eq!(run(bench.user(&["run"])).status, 2);
    assert_eq!(run(bench.user(&["run", "--no-such-option", "true"])).status, 2);
    let said = run(bench.user(&["run", "--cidr", "10.0.2.100/24", "true"]));
    assert_eq!(said.status, 1);
    assert_eq!(
        said.err,
        "ringtap: --cidr: 10.0.2.100/24 is not a network address; did you mean 10.0.2.0/24?\n"
    );
}

#[test]
fn standard_streams_and_other_descriptors_are_the_callers() {
    let bench = Bench::new();
    let said = run(bench.shell("echo in | \"$R\" run sh -c 'cat; echo err >&2; echo five >&5' 5>&1"));
    assert_eq!((said.out.as_str(), said.err.as_str()), ("in\nfive\n", "err\n"));
}

#[test]
fn the_command_inherits_nothing_of_ours() {
    let bench = Bench::new();
    let script = "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status";
    // Whoever runs the tests may have handed down descriptors and dispositions of their own.
    let without = run(bench.shell(script));
    let with = run(bench.user(&["run", "sh", "-c", script]));
    assert_eq!(with.out, without.out);
}

#[test]
fn it_works_inside_itself() {
    let bench = Bench::new();
    let r = bench.ringtap();
    for command in [
        bench.user(&["run", &r, "run", &r, "run", "sh", "-c", "exit 5"]),
        bench.root(&["run", &r, "run", "sh", "-c", "exit 5"]),
    ] {
        let said = run(command);
        assert_eq!((said.status, said.err.as_str()), (5, ""), "{said:?}");
    }
}
